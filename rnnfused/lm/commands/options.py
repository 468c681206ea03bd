"""Options that several commands have, the form of their help, and their names in messages."""

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..checkpoint import CheckpointError

# torch crashes on much larger numbers.
_MAX_THREADS = 1024

# A quoted text, or a word with what follows an argument's name in a message.
_WORD = re.compile(
    r"""(?<!\w)(?:'[^']*'|"[^"]*")|(?<![\w-])(?P<word>[a-z_]+)(?![\w-])(?P<rest>=True| must|='(?P<value>[^'\s]+)'|=| file(?= '))?"""
)

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
    command.add_argument(
        "--device", default="cpu", metavar="NAME", help="device to run on, such as cuda"
    )


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


@contextmanager
def naming_options(command: argparse.ArgumentParser) -> Iterator[None]:
    """Let the errors of the block name the options of ``command``, not the arguments of Python.

    Errors of checkpoints stay: they name fields of a file.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        if len(error.args) == 1 and isinstance(error.args[0], str):
            error.args = (name_options(error.args[0], command),)
        raise


def name_options(message: str, command: argparse.ArgumentParser) -> str:
    """``message`` with an option's name in place of each argument of Python.

    An argument is a name with an underscore, such as ``num_steps``, or a word in one of the forms
    ``lr must ..``, ``lr=0.1``, ``resume=True`` and ``valid file 'a.txt'``. Quoted text stays. Values
    follow their option as on a command line: ``--lr 0.1``, ``--schedule constant``.
    """
    names = {"text": "FILE"} if any(action.dest == "file" for action in command._actions) else {}
    for action in command._actions:
        names[action.dest] = [*action.option_strings, str(action.metavar)][0]

    def named(match: re.Match[str]) -> str:
        word, rest = match["word"] or "", match["rest"] or ""
        if word not in names or not (rest or "_" in word):
            return str(match[0])
        is_clear = rest == "=True" or (names[word], rest) == ("FILE", " file")
        if rest.startswith("=") and names[word].startswith("-"):
            return names[word] + ("" if is_clear else f" {match['value'] or ''}")
        return names[word] + ("" if is_clear else rest)

    return _WORD.sub(named, message)
