"""``rnnfused sample``: continue a text with a trained model."""

import argparse
import sys
from collections.abc import Callable

import torch

from ..checkpoint import load_checkpoint
from ..data import letters_only
from ..generate import generate
from ..messages import for_stream, show
from ..settings import check_device
from .options import Formatter, Subparsers, UsageError, add_device, add_run_folder, add_threads

# Texts that share each read of the weights; they are printed when all of them are complete.
_TOGETHER = 16


def add(commands: Subparsers) -> None:
    """Make the subparser."""
    command = commands.add_parser(
        "sample",
        help="continue a text with a trained model",
        description="Continue a text, the prefix, with a trained model.",
        formatter_class=Formatter,
    )
    command.set_defaults(run=run)
    add_run_folder(command)
    command.add_argument(
        "--prefix",
        required=True,
        metavar="TEXT",
        help="text to continue; prepared like the training text if that used --letters-only; at "
        "word level, unknown words are read as <unk>",
    )
    command.add_argument(
        "--num-chars",
        type=int,
        default=500,
        metavar="N",
        help="number of characters to add, or of words at word level",
    )
    how = command.add_mutually_exclusive_group()
    how.add_argument(
        "--greedy",
        action="store_true",
        help="always take the most likely character or word, as --temperature 0",
    )
    how.add_argument(
        "--temperature",
        type=float,
        default=0.5,
        metavar="X",
        help="1: as learnt; below 1 favours likely characters or words; 0: always the most likely",
    )
    command.add_argument("--top-k", type=int, metavar="K", help="draw among the K most likely only")
    command.add_argument(
        "--top-p",
        type=float,
        metavar="P",
        help="draw among the fewest most likely only whose probabilities sum to P",
    )
    command.add_argument(
        "--num-samples",
        type=int,
        default=1,
        metavar="K",
        help="number of texts; more than one have headings",
    )
    command.add_argument(
        "--seed", type=int, metavar="N", help="random seed; without it, each call gives other texts"
    )
    add_device(command)
    add_threads(command)


def run(arguments: argparse.Namespace) -> None:
    """Load the model and print its text as it comes.

    Raises:
        UsageError: options exclude each other, or ``--num-samples`` is below 1.
    """
    drawing = {"--top-k": arguments.top_k, "--top-p": arguments.top_p, "--seed": arguments.seed}
    for name, value in drawing.items():
        if value is not None and (arguments.greedy or arguments.temperature == 0):
            greedy = "--greedy" if arguments.greedy else "--temperature 0"
            raise UsageError(f"{name} must not be given with {greedy}, which does not draw")
    if arguments.num_samples < 1:
        raise UsageError(f"--num-samples must be at least 1, got {arguments.num_samples}")
    checkpoint = load_checkpoint(arguments.folder, check_device(arguments.device))
    settings = checkpoint.record.get("settings")
    prefix = arguments.prefix
    if isinstance(settings, dict) and settings.get("letters_only") is True:
        prefix = letters_only(prefix)
    # Without a seed, all samples share one that is drawn now.
    seed = torch.seed() % 2**63 if arguments.seed is None else arguments.seed

    def texts(first: int, count: int, callback: Callable[[list[str]], object] | None) -> list[str]:
        return generate(
            checkpoint.model,
            checkpoint.vocab,
            prefix,
            arguments.num_chars,
            temperature=arguments.temperature,
            greedy=arguments.greedy,
            top_k=arguments.top_k,
            top_p=arguments.top_p,
            seed=seed,
            num_samples=count,
            first_sample=first,
            callback=callback,
        )

    if arguments.num_samples == 1:
        texts(0, 1, lambda pieces: show(for_stream(pieces[0], sys.stdout), end=""))
        show("")
        return
    for first in range(0, arguments.num_samples, _TOGETHER):
        count = min(_TOGETHER, arguments.num_samples - first)
        for number, text in enumerate(texts(first, count, None), first + 1):
            show(f"--- sample {number} ---\n{for_stream(text, sys.stdout)}")
