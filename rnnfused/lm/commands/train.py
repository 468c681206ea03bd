"""``rnnfused train``: train a model on a text."""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from ..checkpoint import load_run
from ..corpus import Text
from ..data import default_text
from ..settings import (
    INITIALISATIONS,
    OPTIMIZERS,
    PRECISIONS,
    SAMPLERS,
    SCHEDULES,
    TrainSettings,
)
from ..train import train
from ..vocabulary import LEVELS
from .options import Formatter, Subparsers, add_threads, file_name, folder_name

# In place of a file's name in the record of a run on the default text.
_DEFAULT_TEXT = "pydoc_data.topics"


class _Option(NamedTuple):
    """An option that is an attribute of ``TrainSettings``.

    Attributes:
        setting: the attribute; it gives the option its name, unless ``names`` has others.
        kind: int or float, or the words to choose from, or bool for a switch; str for the rest.
        help: what it sets.
    """

    setting: str
    kind: Any
    help: str
    names: tuple[str, ...] = ()
    metavar: str | None = None


_TEXT = (
    _Option("level", LEVELS, "what a symbol of the text is: a character or a word"),
    _Option(
        "letters_only",
        bool,
        "convert text and prefix to lower case, and each run of other characters than a-z to a "
        "space",
    ),
    _Option(
        "min_count", int, "symbols that occur less often in the training text count as unknown"
    ),
)
_VALIDATION = (
    _Option(
        "validation_fraction", float, "without --valid: share of FILE, at its end, to validate on"
    ),
)
_MODEL = (
    _Option("hidden_size", int, "features of the hidden state"),
    _Option("num_layers", int, "stacked recurrent layers"),
    _Option("nonlinearity", ("tanh", "relu"), "function that gives the hidden state"),
    _Option(
        "embedding_size",
        int,
        "features of a symbol's embedding; without it, symbols are looked up in the input weights",
    ),
    _Option("tied", bool, "let the output layer use the weights of the input"),
    _Option("dropout", float, "probability of zeroing a feature of a layer's output"),
    _Option("recurrent_init", INITIALISATIONS, "initial hidden-to-hidden weights"),
)
_TRAINING = (
    _Option("num_steps", int, "symbols of a training step that the gradient flows back through"),
    _Option("batch_size", int, "parallel stretches of text in a step, over all processes"),
    _Option(
        "sampler",
        SAMPLERS,
        "streams: consecutive windows, the state carried; random: adjacent windows in random order; "
        "uniform: windows at any place",
    ),
    _Option(
        "reset_probability",
        float,
        "of --sampler streams: probability, per stream and window, of a new state of zeros",
    ),
    _Option("optimizer", OPTIMIZERS, "how weights are updated"),
    _Option("lr", float, "highest learning rate"),
    _Option("betas", float, "decay rates of the two averages of adam and adamw"),
    _Option("weight_decay", float, "weight decay of adamw"),
    _Option("schedule", SCHEDULES, "cosine: warm-up and decay; constant: the same rate always"),
    _Option("warmup", float, "of the cosine: share of the run over which the rate rises"),
    _Option("final_lr", float, "of the cosine: share of --lr at the end"),
    _Option("clip", float, "highest global norm of the gradients; larger ones are scaled down"),
    _Option(
        "average", float, "decay of averaged weights, which are then evaluated and kept; 0: none"
    ),
    _Option("precision", PRECISIONS, "of products; bfloat16 is faster where the processor has it"),
    _Option("seed", int, "random seed of parameters, dropout, order and sample"),
    _Option("device", str, "device to train on, such as cuda", metavar="NAME"),
)
_LENGTH = (
    _Option("epochs", int, "passes over the training text", ("--epochs", "--passes")),
    _Option(
        "minutes",
        float,
        "length of the run in minutes; the learning rate then follows the clock, so that no run "
        "repeats another to the bit",
    ),
)
_SAVING = (
    _Option("save_minutes", float, "save at least every X minutes", ("--save-every",)),
    _Option("save_steps", int, "also save every N steps"),
    _Option("eval_steps", int, "evaluate every N steps; default: at the end of each epoch"),
    _Option("patience", int, "end the run after N evaluations without a new best one"),
)
_SETTINGS = (*_TEXT, *_VALIDATION, *_MODEL, *_TRAINING, *_LENGTH, *_SAVING)


def add(commands: Subparsers) -> None:
    """Make the subparser."""
    command = commands.add_parser(
        "train",
        help="train a model on a text",
        description="Train a model on a text; show its progress, and a sample at the end.",
        formatter_class=Formatter,
    )
    command.set_defaults(run=run)
    text = command.add_argument_group("text")
    text.add_argument(
        "file",
        type=file_name,
        nargs="?",
        metavar="FILE",
        help="UTF-8 text to train on, - for standard input; default: Python's own help texts",
    )
    validation = text.add_mutually_exclusive_group()
    validation.add_argument(
        "--valid", type=file_name, metavar="FILE", help="UTF-8 text to validate on"
    )
    _add(validation, _VALIDATION)
    text.add_argument(
        "--test",
        type=file_name,
        metavar="FILE",
        help="UTF-8 text to test the best model on, at the end",
    )
    _add(text, _TEXT)
    _add(command.add_argument_group("model"), _MODEL)
    training = command.add_argument_group("training")
    _add(training.add_mutually_exclusive_group(), _LENGTH)
    _add(training, _TRAINING)
    add_threads(training)
    results = command.add_argument_group("results")
    results.add_argument(
        "--out",
        type=folder_name,
        required=True,
        metavar="DIR",
        help="folder for model, metrics and plots; made if missing; a finished run in it is "
        "replaced",
    )
    earlier = results.add_mutually_exclusive_group()
    earlier.add_argument(
        "--resume",
        action="store_true",
        help="go on from the run in DIR, with its text and its settings",
    )
    earlier.add_argument(
        "--overwrite", action="store_true", help="replace an unfinished run in DIR, too"
    )
    _add(results, _SAVING)
    results.add_argument(
        "--tensorboard",
        action="store_true",
        help="write curves into DIR/tensorboard; needs pip install 'rnnfused[tensorboard]'",
    )
    results.add_argument(
        "--profile-gradients",
        action="store_true",
        help="plot the norm of the gradient by its distance from the loss, into DIR/gradients.png",
    )
    results.add_argument(
        "--prefix",
        metavar="TEXT",
        help="start of the sample, prepared like the text; at word level, unknown words are read as "
        "<unk>; default: the text's first word",
    )


def _add(group: Any, options: tuple[_Option, ...]) -> None:
    for option in options:
        default = getattr(TrainSettings, option.setting)
        names = option.names or (f"--{option.setting.replace('_', '-')}",)
        # Not a default of argparse: a resumed run takes its own in place of what was not given.
        keywords: dict[str, Any] = {"dest": option.setting, "default": argparse.SUPPRESS}
        text = option.help
        if option.kind is bool:
            group.add_argument(*names, action="store_true", help=text, **keywords)
            continue
        if default is not None:
            shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
            text = f"{text} (default: {shown})"
        if isinstance(option.kind, tuple):
            keywords["choices"] = option.kind
        else:
            keywords["type"] = option.kind
            keywords["metavar"] = option.metavar or {int: "N", float: "X"}[option.kind]
        if isinstance(default, tuple):
            keywords["nargs"] = len(default)
        group.add_argument(*names, help=text, **keywords)


def run(arguments: argparse.Namespace) -> None:
    """Train, and leave the results in ``--out``."""
    given = {
        option.setting: getattr(arguments, option.setting)
        for option in _SETTINGS
        if hasattr(arguments, option.setting)
    }
    names = {"source": arguments.file, "valid": arguments.valid, "test": arguments.test}
    settings = TrainSettings()
    if arguments.resume:
        record = load_run(arguments.out)[0].record["settings"]
        settings = TrainSettings.from_json(record)
        names = {key: name or record.get(key) for key, name in names.items()}
        if names["source"] == "-" and arguments.file is None:
            raise ValueError(
                "FILE must be - again: the run that is resumed read its text from standard input"
            )
    if "epochs" in given:
        given.setdefault("minutes", None)
    settings = TrainSettings.from_json(settings.to_json() | given)
    # Those too that were given their default.
    settings.check_effect(given)
    source = names["source"] or _DEFAULT_TEXT
    train(
        default_text() if source == _DEFAULT_TEXT else Path(source),
        arguments.out,
        settings,
        valid=_path(names["valid"]),
        test=_path(names["test"]),
        prefix=arguments.prefix,
        source=source,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
        tensorboard=arguments.tensorboard,
        profile_gradients=arguments.profile_gradients,
    )


def _path(name: str | None) -> Text | None:
    return None if name is None else Path(name)
