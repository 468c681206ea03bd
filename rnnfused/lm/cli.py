"""The command ``rnnfused``: train a language model, and use it."""

import argparse
import os
import sys
from typing import Any, NoReturn

import torch

import rnnfused
from rnnfused.bench.processes import ProcessError

from .commands import bench, fetch_timemachine, info, sample, train
from .commands import eval as evaluate
from .commands.options import UsageError, naming_options, set_threads
from .distributed import LostWorkerError, is_first_process
from .interrupt import Interrupted
from .messages import STDOUT, one_line, show

# Libraries, and the extras that install them.
_EXTRAS = {
    "matplotlib": "lm",
    "numpy": "lm",
    "safetensors": "lm",
    "tqdm": "lm",
    "tensorboard": "tensorboard",
}

# Not docstrings, which python -OO removes.
_DESCRIPTION = """\
Train a recurrent language model on a text, by characters or by words; then
evaluate it on other texts and sample from it."""
_EPILOG = """\
first steps:
  rnnfused train my.txt --out runs/mine
  rnnfused sample runs/mine --prefix "The "

rnnfused COMMAND --help lists the options of a command."""

# In the order of the help text.
_COMMANDS = (train, evaluate, sample, info, bench, fetch_timemachine)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # One line, where argparse would print the whole usage.
        raise UsageError(f"{message} (see {self.prog} --help)")

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse's own version ignores failed writes of a help text, its only output here.
        show(message, end="")


def main(argv: list[str] | None = None) -> int:
    """Run the command with ``argv`` (None: the process's own) and return its exit code.

    Exit codes: 0 for success; 2 for a usage error or an external failure, reported in one line on
    stderr; 130 for an interrupt, 143 for SIGTERM during training; 141 (128 + SIGPIPE) if the reader of the output is gone, which
    ends any command, even training. ``--help`` and ``--version`` raise ``SystemExit(0)``, as
    argparse does. A stream that is closed at the start (``>&-``) counts as ``/dev/null``. On a
    terminal, control characters are printed as backslash escapes; files and pipes get them raw.
    """
    for name in ("stdout", "stderr"):
        # A closed stream is None, and print(file=None) would mix errors into the output.
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
    # A terminal that lacks a character of the text must not stop the program.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        # The inner call reports errors; on a broken stderr the report fails as well.
        return _guarded(argv)
    except BrokenPipeError:
        return 141
    except OSError:
        # stderr cannot be written either.
        return 2
    finally:
        _drop_unwritable()


def _guarded(argv: list[str] | None) -> int:
    """Run the command; turn expected errors into one line on stderr and an exit code."""
    try:
        _run(argv)
        return 0
    except Interrupted as error:
        if is_first_process():
            print("rnnfused: interrupted:", one_line(error), file=sys.stderr)
        return 128 + error.signal
    except KeyboardInterrupt:
        if is_first_process():
            print("rnnfused: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in _EXTRAS:
            raise
        extra = f"rnnfused[{_EXTRAS[library]}]"
        return _fail(f"{error.name} is not installed; run: pip install {extra!r}")
    except LostWorkerError as error:
        return _fail(error, everywhere=True)
    except ProcessError as error:
        return _fail(error)
    except OSError as error:
        # Drops the number of "[Errno 2] No such file or directory: 'x'".
        plain = error.strerror or error
        if error.filename == STDOUT:
            return _fail(f"stdout cannot be written to: {plain}")
        if error.filename is not None:
            return _fail(f"{plain}: {error.filename!r}")
        return _fail(plain)
    except NotImplementedError as error:
        return _fail(error)
    except RuntimeError as error:
        if "RNNFUSED_CPU_CAPABILITY" in str(error):
            return _fail(str(error).partition("\n")[0])
        # torch has an exception class for a full GPU memory, but none for main memory.
        known = "allocate" in str(error) or "Storage size calculation overflowed" in str(error)
        if not known and not isinstance(error, torch.OutOfMemoryError):
            raise
        return _fail(f"out of memory: {error}")
    except (ValueError, FloatingPointError, MemoryError) as error:
        return _fail(str(error) or "out of memory")


def _fail(reason: object, everywhere: bool = False) -> int:
    # Processes that torchrun started fail alike; one of them says why.
    if everywhere or is_first_process():
        print("rnnfused: error:", one_line(reason), file=sys.stderr)
    return 2


def _drop_unwritable() -> None:
    """Redirect unwritable streams to ``/dev/null``, or Python's own flush at exit fails."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)


def _run(argv: list[str] | None) -> None:
    parser = _Parser(
        prog="rnnfused",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rnnfused {rnnfused.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for module in _COMMANDS:
        module.add(commands)
    arguments = parser.parse_args(argv)
    set_threads(arguments)
    with naming_options(commands.choices[arguments.command]):
        arguments.run(arguments)
