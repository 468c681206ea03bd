"""Options that several commands have, and the form of their help."""

import argparse
from typing import Any

import torch

# torch crashes on much larger numbers.
_MAX_THREADS = 1024

# What ``add_subparsers`` returns; argparse has no public name for it.
Subparsers = Any


class UsageError(ValueError):
    """The command line is wrong."""


class Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Help that shows each default, except None and False."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        has_default = action.default is not None and action.default is not False
        return super()._get_help_string(action) if has_default else action.help


def file_name(name: str) -> str:
    """The type of an argument that names a file."""
    return _named("file", name)


def folder_name(name: str) -> str:
    """The type of an argument that names a folder."""
    return _named("folder", name)


def _named(kind: str, name: str) -> str:
    # pathlib takes an empty name for the current folder.
    if not name or "\0" in name:
        raise argparse.ArgumentTypeError(
            f"must name a {kind}, without NUL characters, got {name!r}"
        )
    return name


def add_run_folder(command: argparse.ArgumentParser) -> None:
    """Give ``command`` the argument ``DIR``, a folder with a trained model."""
    command.add_argument(
        "folder", type=folder_name, metavar="DIR", help="folder of a training run, its --out"
    )


def add_device(command: argparse.ArgumentParser) -> None:
    """Give ``command`` the option ``--device``, the CPU by default."""
    command.add_argument("--device", default="cpu", metavar="NAME", help="device to run on")


def add_threads(command: argparse.ArgumentParser) -> None:
    """Give ``command`` the option ``--threads``; ``set_threads`` applies it."""
    command.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="CPU threads; default: torch's choice; on a busy machine 1 is by far the fastest",
    )


def set_threads(arguments: argparse.Namespace) -> None:
    """Apply ``--threads``, where the command has that option and it was given.

    Raises:
        UsageError: the number is out of range.
    """
    threads = getattr(arguments, "threads", None)
    if threads is not None:
        if not 1 <= threads <= _MAX_THREADS:
            raise UsageError(f"--threads must lie in 1 .. {_MAX_THREADS}, got {threads}")
        torch.set_num_threads(threads)
