"""``rnnfused info``: versions, instruction set, devices and build, for a bug report."""

import argparse
import json
import sys

from rnnfused.info import describe, report

from ..messages import for_stream, show
from .options import Formatter, Subparsers


def add(commands: Subparsers) -> None:
    """Make the subparser."""
    command = commands.add_parser(
        "info",
        help="print what to paste in a bug report",
        description="Print versions, instruction set, devices and build, for a bug report.",
        formatter_class=Formatter,
    )
    command.set_defaults(run=run)
    command.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> None:
    """Print the report."""
    values = report()
    show(json.dumps(values) if arguments.json else for_stream(describe(values), sys.stdout))
