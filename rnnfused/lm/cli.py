"""The command ``rnnfused``: train a character language model, and sample from it."""

import argparse
import os
import sys
from typing import Any, NoReturn

import torch

import rnnfused

from .checkpoint import load_checkpoint
from .data import default_text, letters_only, read_text
from .generate import generate
from .messages import STDOUT, for_stream, one_line, show
from .timemachine import URL, fetch_timemachine
from .train import TrainSettings, check_device, train

# torch crashes on much larger numbers.
_MAX_THREADS = 1024

# The libraries of the extra rnnfused[lm].
_EXTRA = ("matplotlib", "numpy", "safetensors", "tqdm")

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


class _UsageError(ValueError):
    """The command line is wrong."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # One line, where argparse would print the whole usage.
        raise _UsageError(f"{message} (see {self.prog} --help)")

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse's own version ignores failed writes of a help text, its only output here.
        show(message, end="")


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        # argparse would add "(default: None)" and "(default: False)".
        has_default = action.default is not None and action.default is not False
        return super()._get_help_string(action) if has_default else action.help


def main(argv: list[str] | None = None) -> int:
    """Run the command with ``argv`` (None: the process's own) and return its exit code.

    Exit codes: 0 for success; 2 for a usage error or an external failure, reported in one line on
    stderr; 130 for an interrupt; 141 (128 + SIGPIPE) if the reader of the output is gone, which
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
    except KeyboardInterrupt:
        print("rnnfused: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        return _fail(f"{error.name} is not installed; run: pip install 'rnnfused[lm]'")
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


def _fail(reason: object) -> int:
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
    arguments = _parser().parse_args(argv)
    if arguments.threads is not None:
        if not 1 <= arguments.threads <= _MAX_THREADS:
            raise _UsageError(f"--threads must lie in 1 .. {_MAX_THREADS}, got {arguments.threads}")
        torch.set_num_threads(arguments.threads)
    arguments.run(arguments)


def _file(name: str) -> str:
    return _named("file", name)


def _folder(name: str) -> str:
    return _named("folder", name)


def _named(kind: str, name: str) -> str:
    # pathlib takes an empty name for the current folder.
    if not name or "\0" in name:
        raise argparse.ArgumentTypeError(
            f"must name a {kind}, without NUL characters, got {name!r}"
        )
    return name


def _parser() -> argparse.ArgumentParser:
    # Not taken from a docstring, which python -OO removes.
    description = "train a character language model, and sample from it."
    parser = _Parser(prog="rnnfused", description=description)
    parser.add_argument("--version", action="version", version=f"rnnfused {rnnfused.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser(
        "train", help="train a model on a text", formatter_class=_Formatter
    )
    command.set_defaults(run=_train)
    command.add_argument(
        "file",
        type=_file,
        nargs="?",
        metavar="FILE",
        help="UTF-8 text; default: Python's own help texts",
    )
    command.add_argument(
        "--out",
        type=_folder,
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
    _add_threads(command)

    command = commands.add_parser(
        "sample", help="continue a text with a trained model", formatter_class=_Formatter
    )
    command.set_defaults(run=_sample)
    command.add_argument(
        "folder", type=_folder, metavar="DIR", help="folder of a training run, its --out"
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
    _add_threads(command)

    command = commands.add_parser(
        "fetch-timemachine",
        help="download the textbook's The Time Machine and print its path",
        formatter_class=_Formatter,
    )
    command.set_defaults(run=_fetch_timemachine, threads=None)
    command.add_argument("--url", default=URL, help="address to download it from")
    command.add_argument(
        "--timeout", type=float, default=30.0, metavar="S", help="time limit in seconds"
    )
    return parser


def _add_threads(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="CPU threads; default: torch's choice; on a busy machine 1 is by far the fastest",
    )


def _train(arguments: argparse.Namespace) -> None:
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


def _sample(arguments: argparse.Namespace) -> None:
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


def _fetch_timemachine(arguments: argparse.Namespace) -> None:
    path = fetch_timemachine(url=arguments.url, timeout=arguments.timeout)
    show(for_stream(str(path), sys.stdout))
