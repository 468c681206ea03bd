"""The settings of a training run, and their checks."""

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import InitVar, dataclass
from typing import Any

import torch

from .model import check_count, check_dropout, check_embedding
from .vocabulary import LEVELS

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("cosine", "constant")
INITIALISATIONS = ("uniform", "orthogonal")
PRECISIONS = ("float32", "bfloat16")

SAMPLERS = ("streams", "random", "uniform")

# Settings that have an effect only beside some values of another one.
NEEDS: dict[str, tuple[str, tuple[object, ...]]] = {
    "betas": ("optimizer", ("adam", "adamw")),
    "weight_decay": ("optimizer", ("adamw",)),
    "warmup": ("schedule", ("cosine",)),
    "final_lr": ("schedule", ("cosine",)),
    "reset_probability": ("sampler", ("streams",)),
    "epochs": ("minutes", (None,)),
}

# A resumed run may have others of these: no step depends on them.
FREE = ("save_minutes", "save_steps", "patience")


@dataclass(frozen=True)
class TrainSettings:
    """The settings of ``train``; docs/language-model.md says how the defaults were chosen.

    Every count is at least 1 and at most 2 ** 31 - 1; ``num_layers`` is at most 1000. "A step" is
    an update of the weights, from one window of text.

    Attributes:
        level: ``"char"`` or ``"word"``: what a symbol is.
        letters_only: whether ``letters_only`` prepares the text and the prefix, in training and in
            the command ``rnnfused sample``.
        min_count: symbols that are rarer in the training text are unknown.
        validation_fraction: share of the text held out at its end, between 0 and 1; not beside a
            validation text.
        hidden_size: features of the hidden state.
        num_layers: stacked recurrent layers.
        nonlinearity: ``"tanh"`` or ``"relu"``.
        embedding_size: features of a symbol's embedding; None looks ids up in the input weights.
        tied: whether the output layer uses the input's weights; see ``CharLMConfig``.
        dropout: probability of zeroing a feature of a layer's output, in [0, 1).
        recurrent_init: ``"uniform"``, torch's own, or ``"orthogonal"`` hidden-to-hidden weights:
            Saxe, McClelland and Ganguli, *Exact solutions to the nonlinear dynamics of learning in
            deep linear neural networks*, 2014.
        num_steps: symbols that the gradient flows back through.
        batch_size: parallel streams, over all processes.
        sampler: ``"streams"``: contiguous windows with carried state; ``"random"``: windows in
            random order from a random offset, each from a state of zeros; ``"uniform"``: the same
            with windows at any place of the text, independent of each other. See ``RandomWindows``.
        reset_probability: probability, per stream and window, of a state of zeros in place of the
            carried one, in [0, 1); of ``"streams"`` alone. The model then learns cold starts.
        epochs: passes over the training text; not beside ``minutes``.
        minutes: length of the run, above 0, evaluation included. The learning rate follows the
            clock, so the result does not repeat to the bit.
        optimizer: ``"sgd"``, ``"adam"`` or ``"adamw"``.
        lr: the highest learning rate, above 0 and at most 1; for ``"sgd"`` at most 1000.
        betas: decay rates of Adam's two averages, each in [0, 1); of ``"adam"`` and ``"adamw"``.
        weight_decay: of ``"adamw"`` alone, at least 0.
        schedule: ``"cosine"``: warm-up, then half a cosine; ``"constant"``: always ``lr``.
        warmup: share of the run over which the rate rises, in [0, 1); of the cosine alone.
        final_lr: share of ``lr`` at the end of the cosine, in [0, 1]; of the cosine alone.
        clip: the highest global 2-norm of the gradients, above 0.
        average: decay per step of the averaged weights, in [0, 1); 0: no average. The averaged
            model is then the one that is evaluated and kept.
        precision: ``"float32"``, or ``"bfloat16"`` for the products of training (autocast).
        eval_steps: steps between evaluations; None: at the end of each epoch.
        patience: evaluations without a new best one that end the run; None: never.
        save_minutes: the most minutes between two saves, above 0.
        save_steps: steps between two saves; None: ``save_minutes`` alone counts.
        seed: fixes parameters, dropout, resets, windows and the sample; 0 to 2 ** 63 - 1.
        device: training device, as for ``torch.device``.
        passes: another name of ``epochs``, for arguments only.

    Raises:
        TypeError: an attribute has the wrong type.
        ValueError: an attribute is out of range, or differs from its default but has no effect
            beside another one.
    """

    level: str = "char"
    letters_only: bool = False
    min_count: int = 1
    validation_fraction: float = 0.1
    hidden_size: int = 500
    num_layers: int = 1
    nonlinearity: str = "tanh"
    embedding_size: int | None = None
    tied: bool = False
    dropout: float = 0.0
    recurrent_init: str = "orthogonal"
    num_steps: int = 64
    batch_size: int = 16
    sampler: str = "streams"
    reset_probability: float = 0.002
    epochs: int = 8
    minutes: float | None = None
    optimizer: str = "adamw"
    lr: float = 3e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    schedule: str = "cosine"
    warmup: float = 0.05
    final_lr: float = 0.01
    clip: float = 1.0
    average: float = 0.999
    precision: str = "float32"
    eval_steps: int | None = None
    patience: int | None = None
    save_minutes: float = 5.0
    save_steps: int | None = None
    seed: int = 0
    device: str = "cpu"
    passes: InitVar[int | None] = None

    def __post_init__(self, passes: int | None) -> None:
        if passes is not None:
            check_count("passes", passes)
            if self.epochs not in (passes, _default("epochs")):
                raise ValueError(
                    f"epochs and passes are one setting; got epochs={self.epochs!r} and passes={passes}"
                )
            object.__setattr__(self, "epochs", passes)
        for name in ("hidden_size", "num_layers", "num_steps", "batch_size", "epochs", "min_count"):
            check_count(name, getattr(self, name))
        for name in ("eval_steps", "patience", "save_steps"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        check_dropout(self.dropout)
        check_embedding(self.embedding_size, self.tied, self.hidden_size)
        self._check_words()
        self._check_numbers()
        # A list, as of JSON, is a tuple here.
        object.__setattr__(self, "betas", _checked_betas(self.betas))
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise TypeError(f"seed must be an int, got {self.seed!r}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must lie in 0 .. 2 ** 63 - 1, got {self.seed}")
        if not isinstance(self.letters_only, bool):
            raise TypeError(f"letters_only must be a bool, got {self.letters_only!r}")
        if not isinstance(self.device, str):
            raise TypeError(f"device must be a str, got {self.device!r}")
        check_device(self.device)
        self.check_effect(name for name in NEEDS if getattr(self, name) != _default(name))

    def check_effect(self, names: Iterable[str]) -> None:
        """Validate that these settings have an effect beside the others.

        Raises:
            ValueError: one has none; the message names it, and the setting that it would need.
        """
        for name in names:
            other, values = NEEDS.get(name, (name, (getattr(self, name),)))
            if getattr(self, other) in values:
                continue
            needed = " or ".join(f"{other}={value!r}" for value in values if value is not None)
            raise ValueError(
                f"{name} must not be given with {other}={getattr(self, other)!r}, where it has no "
                + (f"effect: it needs {needed}" if needed else "effect")
            )

    def _check_words(self) -> None:
        for name, words in (
            ("level", LEVELS),
            ("nonlinearity", ("tanh", "relu")),
            ("recurrent_init", INITIALISATIONS),
            ("sampler", SAMPLERS),
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
        ):
            value = getattr(self, name)
            if value not in words:
                raise ValueError(f"{name} must be one of {', '.join(words)}, got {value!r}")

    def _check_numbers(self) -> None:
        for name in ("lr", "weight_decay", "clip", "validation_fraction", "save_minutes"):
            _check_number(name, getattr(self, name))
        most = 1000 if self.optimizer == "sgd" else 1
        if not 0 < self.lr <= most:
            raise ValueError(f"lr must be above 0 and at most {most}, got {self.lr}")
        for name in ("clip", "save_minutes"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and above 0, got {getattr(self, name)}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be finite and at least 0, got {self.weight_decay}")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction must lie between 0 and 1, got {self.validation_fraction}"
            )
        if self.minutes is not None:
            _check_number("minutes", self.minutes)
            if not 0 < self.minutes < math.inf:
                raise ValueError(f"minutes must be finite and above 0, got {self.minutes}")
        for name in ("reset_probability", "warmup", "average"):
            _check_number(name, getattr(self, name))
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        _check_number("final_lr", self.final_lr)
        if not 0 <= self.final_lr <= 1:
            raise ValueError(f"final_lr must lie in [0, 1], got {self.final_lr}")

    def to_json(self) -> dict[str, Any]:
        """A value for ``json.dump``."""
        return dataclasses.asdict(self) | {"betas": list(self.betas)}

    @classmethod
    def from_json(cls, values: object) -> "TrainSettings":
        """The settings that ``to_json`` described; other entries of the dict are ignored.

        Settings without effect, which runs of earlier versions may have, become their defaults.

        Raises:
            ValueError: ``values`` is not a dict or lacks a field.
            TypeError, ValueError: a field has a wrong value.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(values, dict) or not set(names) <= set(values):
            raise ValueError(f"settings must have the fields {names}")
        given = {name: values[name] for name in names}
        for name, (other, needed) in NEEDS.items():
            if given[other] not in needed:
                given[name] = _default(name)
        return cls(**given)

    def check_resumes(self, earlier: "TrainSettings") -> None:
        """Validate that a run with these settings can go on from a run with ``earlier`` ones.

        Those of ``FREE`` may differ. With a constant rate the run's length may differ too.

        Raises:
            ValueError: another setting differs; the message names it.
        """
        free = FREE + (("epochs", "minutes") if self.schedule == "constant" else ())
        # Those that depend on another one come last: the other is the cause.
        names = sorted((field.name for field in dataclasses.fields(self)), key=NEEDS.__contains__)
        for name in names:
            old, new = getattr(earlier, name), getattr(self, name)
            if name not in free and old != new:
                raise ValueError(
                    f"{name} must be {old!r}, as in the run that is resumed, got {new!r}"
                )


def _default(name: str) -> object:
    return TrainSettings.__dataclass_fields__[name].default


def _check_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a float, got {value!r}")


def _checked_betas(value: object) -> tuple[float, float]:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise TypeError(f"betas must be two floats, got {value!r}")
    for one in value:
        _check_number("betas", one)
        if not 0 <= one < 1:
            raise ValueError(f"betas must lie in [0, 1), got {one}")
    return value[0], value[1]


def check_device(device: str) -> torch.device:
    """The device of that name, if it works on this machine.

    Raises:
        ValueError: the device is unknown, missing, or cannot compute.
    """
    try:
        # Some devices, like "meta", allocate but hold no values: read one back.
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, TypeError, ImportError) as error:
        devices = _devices()
        message = f"device must be one that works here, {' or '.join(devices)}, got {device!r}"
        # Of other devices torch says which ones exist in any build of it.
        if device.partition(":")[0] in {name.partition(":")[0] for name in devices}:
            # torch goes on with pages of advice to its developers.
            reason = str(error).strip().partition("\n")[0].partition(". ")[0]
            message += f": {reason}"
        raise ValueError(message) from None
    return torch.device(device)


def _devices() -> list[str]:
    """The names of this machine's devices."""
    kind = torch.accelerator.current_accelerator(check_available=True)
    if kind is None:
        return ["cpu"]
    return ["cpu", *(f"{kind.type}:{index}" for index in range(torch.accelerator.device_count()))]
