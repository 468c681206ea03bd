"""What a training run can be told, with the defaults."""

import dataclasses
import math
from dataclasses import dataclass

import torch

from .counts import check_count
from .messages import shorten, shown

_COUNTS = ("hidden_size", "num_layers", "num_steps", "batch_size", "passes")


@dataclass(frozen=True)
class TrainSettings:
    """The settings of ``train``.

    The defaults are tuned on ``default_text()``. The counts are at least 1 and at most
    2 ** 31 - 1, of layers at most 1000.

    Attributes:
        hidden_size: features of the hidden state.
        num_layers: stacked recurrent layers.
        num_steps: symbols that the gradient goes back over.
        batch_size: parallel streams.
        passes: times that the training text is read.
        lr: the highest learning rate, above 0 and at most 1; it rises over the first twentieth of
            the updates and then falls along a cosine to a fiftieth.
        weight_decay: AdamW's, at least 0.
        clip: the highest global 2-norm of the gradients, above 0.
        dropout: probability of zeroing a feature of a layer's output, in [0, 1).
        validation_fraction: share of the text held out at its end, between 0 and 1.
        seed: fixes parameters, dropout and the sample; between 0 and 2 ** 63 - 1.
        device: where to train, as for ``torch.device``.
        letters_only: whether text and prefix are prepared by ``letters_only`` first, in training
            and whenever the command ``rnnfused sample`` continues a prefix.

    Raises:
        TypeError, ValueError: an attribute is of the wrong type or out of its range.
    """

    hidden_size: int = 256
    num_layers: int = 2
    num_steps: int = 64
    batch_size: int = 16
    passes: int = 8
    lr: float = 2e-3
    weight_decay: float = 0.01
    clip: float = 1.0
    dropout: float = 0.0
    validation_fraction: float = 0.1
    seed: int = 0
    device: str = "cpu"
    letters_only: bool = False

    def __post_init__(self):
        for name in _COUNTS:
            check_count(name, getattr(self, name))
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise TypeError(f"seed must be an int, got {shown(self.seed)}")
        for name in ("lr", "weight_decay", "clip", "dropout", "validation_fraction"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{name} must be a float, got {shown(value)}")
        if not 0 < self.lr <= 1:
            raise ValueError(f"lr must be above 0 and at most 1, got {self.lr}")
        if not 0 < self.clip < math.inf:
            raise ValueError(f"clip must be finite and above 0, got {self.clip}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be finite and at least 0, got {self.weight_decay}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction must lie between 0 and 1, got {self.validation_fraction}"
            )
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must lie in 0 .. 2 ** 63 - 1, got {shown(self.seed)}")
        if not isinstance(self.device, str):
            raise TypeError(f"device must be a str, got {shown(self.device)}")
        if not isinstance(self.letters_only, bool):
            raise TypeError(f"letters_only must be a bool, got {shown(self.letters_only)}")
        check_device(self.device)

    def to_json(self) -> dict:
        """A value for ``json.dump``."""
        return dataclasses.asdict(self)


def check_device(device: str) -> torch.device:
    """The device of that name, if it is one and works here.

    Raises:
        ValueError: there is no such device.
    """
    try:
        # Computing and reading back: some names, like "meta", allocate but hold no values.
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"device {shown(device)} cannot be used here: {shorten(reason, 250)}"
        ) from None
    return torch.device(device)
