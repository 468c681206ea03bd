"""``rnnfused bench``: time a layer of one's own sizes against torch.nn.RNN."""

import argparse
import dataclasses
import json
import sys

import torch

from rnnfused.bench.processes import compare, describe
from rnnfused.bench.shape import DTYPES, WAYS, Shape
from rnnfused.info import report

from ..messages import for_stream, show
from ..progress import progress_bar
from ..settings import check_device
from .options import Formatter, Subparsers, add_device, add_threads

_HELP = {
    "num_steps": "time steps, T",
    "batch_size": "rows, B",
    "input_size": "size of the input, I; with --ids, number of tokens",
    "hidden_size": "hidden units, H",
    "num_layers": "layers",
}


def add(commands: Subparsers) -> None:
    """Make the subparser."""
    command = commands.add_parser(
        "bench",
        help="time a layer against torch.nn.RNN",
        description="Time a layer of your sizes against torch.nn.RNN. Both take turns in one "
        "process, and several processes show the spread. The machine should be quiet.",
        formatter_class=Formatter,
    )
    command.set_defaults(run=run)
    defaults = Shape()
    for name, text in _HELP.items():
        command.add_argument(
            f"--{name.replace('_', '-')}",
            type=int,
            default=getattr(defaults, name),
            metavar="N",
            help=text,
        )
    command.add_argument("--bidirectional", action="store_true", help="two directions")
    command.add_argument(
        "--nonlinearity", choices=("tanh", "relu"), default="tanh", help="the function of a step"
    )
    command.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="dtype of parameters and input"
    )
    command.add_argument(
        "--ids",
        action="store_true",
        help="give rnnfused token ids, and torch.nn.RNN the equal one-hot rows",
    )
    command.add_argument(
        "--processes", type=int, default=5, metavar="N", help="processes, one after another"
    )
    command.add_argument(
        "--seconds", type=float, default=1, metavar="S", help="seconds per process and direction"
    )
    add_device(command)
    add_threads(command)
    command.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> None:
    """Measure, with a progress bar on a terminal, and print the table."""
    fields = {field.name for field in dataclasses.fields(Shape)}
    shape = Shape(**{name: value for name, value in vars(arguments).items() if name in fields})
    check_device(arguments.device)
    threads = torch.get_num_threads()
    with progress_bar("measuring", len(WAYS) * arguments.processes, "", None) as advance:
        found = compare(shape, threads, arguments.processes, arguments.seconds, advance)
    machine = report()
    if arguments.json:
        values = {
            "shape": dataclasses.asdict(shape),
            "threads": threads,
            **{name: machine[name] for name in ("rnnfused", "torch", "processor")},
            "instruction_set": machine["instruction_set"],
            "seconds_per_call": {
                way: {"rnnfused": figures.ours, "torch.nn.RNN": figures.theirs}
                for way, figures in found.items()
            },
        }
        show(json.dumps(values))
        return
    show(
        for_stream(
            f"{shape}\n{machine['processor']}, {machine['instruction_set']}, "
            f"{threads} thread{'s' * (threads > 1)}, torch {machine['torch']}\n\n"
            f"{describe(shape, found)}\n\n"
            f"Medians of {arguments.processes} process{'es' * (arguments.processes > 1)}; "
            "in brackets the least and the largest.",
            sys.stdout,
        )
    )
