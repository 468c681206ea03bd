"""``rnnfused train``: train a model on a text."""

import argparse

from ..data import default_text, read_text
from ..settings import TrainSettings
from ..train import train
from .options import Formatter, Subparsers, add_threads, file_name, folder_name

_SETTINGS = (
    ("hidden_size", int, "features of the hidden state"),
    ("num_layers", int, "stacked recurrent layers"),
    ("num_steps", int, "symbols that the gradient flows back through"),
    ("batch_size", int, "parallel streams of text"),
    ("passes", int, "passes over the training text"),
    ("lr", float, "highest learning rate, after warm-up; then decays along a cosine"),
    ("weight_decay", float, "weight decay of AdamW"),
    ("clip", float, "highest global norm of the gradients"),
    ("dropout", float, "probability of zeroing a feature of a layer's output"),
    ("validation_fraction", float, "share of the text, at its end, held out for validation"),
    ("seed", int, "random seed of parameters, dropout and sample"),
    ("device", str, "device to train on"),
)


def add(commands: Subparsers) -> None:
    """Make the subparser."""
    command = commands.add_parser(
        "train", help="train a model on a text", formatter_class=Formatter
    )
    command.set_defaults(run=run)
    command.add_argument(
        "file",
        type=file_name,
        nargs="?",
        metavar="FILE",
        help="UTF-8 text; default: Python's own help texts",
    )
    command.add_argument(
        "--out",
        type=folder_name,
        required=True,
        metavar="DIR",
        help="folder for model, metrics and plot",
    )
    command.add_argument(
        "--letters-only",
        action="store_true",
        help="convert text and prefix to lower case and all but a-z to single spaces",
    )
    for name, kind, text in _SETTINGS:
        command.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            default=getattr(TrainSettings, name),
            metavar={int: "N", float: "X", str: "NAME"}[kind],
            help=text,
        )
    command.add_argument(
        "--prefix", metavar="TEXT", help="start of the sample; default: the text's first word"
    )
    add_threads(command)


def run(arguments: argparse.Namespace) -> None:
    """Train, and leave the results in ``--out``."""
    values = {name: getattr(arguments, name) for name, _, _ in _SETTINGS}
    settings = TrainSettings(**values, letters_only=arguments.letters_only)
    text = default_text() if arguments.file is None else read_text(arguments.file)
    train(
        text,
        arguments.out,
        settings,
        prefix=arguments.prefix,
        source=arguments.file or "pydoc_data.topics",
    )
