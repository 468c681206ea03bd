"""``rnnfused sample``: continue a text with a trained model."""

import argparse
import sys

from ..checkpoint import load_checkpoint
from ..data import letters_only
from ..generate import generate
from ..messages import for_stream, show
from ..settings import check_device
from .options import Formatter, Subparsers, add_threads, folder_name


def add(commands: Subparsers) -> None:
    """Make the subparser."""
    command = commands.add_parser(
        "sample", help="continue a text with a trained model", formatter_class=Formatter
    )
    command.set_defaults(run=run)
    command.add_argument(
        "folder", type=folder_name, metavar="DIR", help="folder of a training run, its --out"
    )
    command.add_argument(
        "--prefix",
        required=True,
        metavar="TEXT",
        help="text to continue; prepared like the training text if that used --letters-only",
    )
    command.add_argument(
        "--num-chars", type=int, default=500, metavar="N", help="number of characters to add"
    )
    command.add_argument(
        "--temperature",
        type=float,
        default=0.5,
        metavar="X",
        help="0: always the most likely character; 1: as learnt",
    )
    command.add_argument(
        "--seed", type=int, metavar="N", help="random seed, makes the sample repeatable"
    )
    command.add_argument("--device", default="cpu", metavar="NAME", help="device to run on")
    add_threads(command)


def run(arguments: argparse.Namespace) -> None:
    """Load the model and print its sample."""
    checkpoint = load_checkpoint(arguments.folder, check_device(arguments.device))
    settings = checkpoint.record.get("settings")
    prefix = arguments.prefix
    if isinstance(settings, dict) and settings.get("letters_only") is True:
        prefix = letters_only(prefix)
    text = generate(
        checkpoint.model,
        checkpoint.vocab,
        prefix,
        arguments.num_chars,
        temperature=arguments.temperature,
        seed=arguments.seed,
    )
    show(for_stream(text, sys.stdout))
