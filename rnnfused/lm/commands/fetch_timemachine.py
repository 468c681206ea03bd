"""``rnnfused fetch-timemachine``: download the textbook's text."""

import argparse
import sys

from ..messages import for_stream, show
from ..timemachine import URL, fetch_timemachine
from .options import Formatter, Subparsers


def add(commands: Subparsers) -> None:
    """Make the subparser."""
    command = commands.add_parser(
        "fetch-timemachine",
        help="download a text to train on",
        description="Download The Time Machine by H. G. Wells, as in Dive into Deep Learning; print "
        "the file's path.",
        formatter_class=Formatter,
    )
    command.set_defaults(run=run)
    command.add_argument("--url", default=URL, help="address to download it from")
    command.add_argument(
        "--timeout", type=float, default=30.0, metavar="S", help="time limit in seconds"
    )


def run(arguments: argparse.Namespace) -> None:
    """Download the text, unless it is cached, and print its path."""
    path = fetch_timemachine(url=arguments.url, timeout=arguments.timeout)
    show(for_stream(str(path), sys.stdout))
