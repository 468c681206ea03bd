"""``rnnfused eval``: perplexity and bits per character of a trained model on a text."""

import argparse
import json
import math
from pathlib import Path

from ..checkpoint import load_checkpoint
from ..evaluate import evaluate_text
from ..messages import show, warn
from ..settings import check_device
from ..vocabulary import counted
from .options import Formatter, Subparsers, add_device, add_run_folder, add_threads, file_name


def add(commands: Subparsers) -> None:
    """Make the subparser."""
    command = commands.add_parser(
        "eval",
        help="print the perplexity of a trained model on a text",
        description="Print perplexity and bits per character of a trained model on a text.",
        formatter_class=Formatter,
    )
    command.set_defaults(run=run)
    add_run_folder(command)
    command.add_argument(
        "file",
        type=file_name,
        metavar="FILE",
        help="UTF-8 text of any size, - for standard input; prepared like the training text if "
        "that used --letters-only",
    )
    command.add_argument(
        "--json", action="store_true", help="print one JSON object in place of a sentence"
    )
    command.add_argument(
        "--num-streams",
        type=int,
        metavar="N",
        help="parallel streams that read the text; default: as many as have 32,768 symbols each, "
        "1 to 16",
    )
    add_device(command)
    add_threads(command)


def run(arguments: argparse.Namespace) -> None:
    """Evaluate the model and print the result; a stuck stream is a warning on stderr."""
    checkpoint = load_checkpoint(arguments.folder, check_device(arguments.device))
    settings = checkpoint.record.get("settings")
    result = evaluate_text(
        checkpoint.model,
        checkpoint.vocab,
        Path(arguments.file),
        letters_only=isinstance(settings, dict) and settings.get("letters_only") is True,
        num_streams=arguments.num_streams,
    )
    if not math.isfinite(result.nats):
        raise ValueError("the model's loss is not finite; its parameters are broken")
    if warning := result.warning():
        warn(warning)
    level = checkpoint.vocab.level
    if arguments.json:
        show(json.dumps({"level": level, **result.to_json()}, allow_nan=False))
        return
    stuck = f", {len(result.stuck_streams)} of them stuck" if result.stuck_streams else ""
    show(
        f"perplexity {result.perplexity:.4f}, {result.bits_per_character:.4f} bits per character, "
        f"over {counted(result.symbols, level)} ({result.unknown_symbols:,} unknown); "
        f"streams: {result.streams}{stuck}"
    )
