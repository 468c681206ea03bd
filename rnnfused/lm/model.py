"""The character language model: a recurrent layer over symbol ids and a linear head."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rnnfused import TokenRNN
from rnnfused.ops.nonlinearity import check_nonlinearity

# Beyond 32 bits, torch reports overflows of its own instead of "out of memory".
MAX_COUNT = 2**31 - 1
# Layers are built one by one: a mistyped number would fill the memory slowly.
MAX_LAYERS = 1000


def check_count(name: str, value: object) -> None:
    """Validate a count: an int from 1 to a bound.

    The bound is ``MAX_LAYERS`` for ``"num_layers"`` and ``MAX_COUNT`` for any other name.

    Raises:
        TypeError: ``value`` is not an int.
        ValueError: ``value`` is out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value!r}")
    most = MAX_LAYERS if name == "num_layers" else MAX_COUNT
    if value > most:
        raise ValueError(f"{name} must be at most {most}, got {value!r}")


def check_dropout(value: object) -> None:
    """Validate a dropout probability: a float in [0, 1).

    Raises:
        TypeError: ``value`` is not a float or an int.
        ValueError: ``value`` is out of range.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"dropout must be a float, got {value!r}")
    if not 0 <= value < 1:
        raise ValueError(f"dropout must lie in [0, 1), got {value}")


@dataclass(frozen=True)
class CharLMConfig:
    """The shape of a ``CharLM``: everything needed to build one again.

    Attributes:
        vocab_size: number of symbols, 1 to 2 ** 31 - 1.
        hidden_size: features of the hidden state, 1 to 2 ** 31 - 1.
        num_layers: stacked recurrent layers, 1 to 1000.
        nonlinearity: ``"tanh"`` or ``"relu"``.
        dropout: probability of zeroing a feature of a layer's output in training, in [0, 1).

    Raises:
        TypeError, ValueError: an attribute has the wrong type or is out of range.
    """

    vocab_size: int
    hidden_size: int = 256
    num_layers: int = 2
    nonlinearity: str = "tanh"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "num_layers"):
            check_count(name, getattr(self, name))
        check_nonlinearity(self.nonlinearity)
        check_dropout(self.dropout)

    def to_json(self) -> dict[str, Any]:
        """A value for ``json.dump``."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: object) -> "CharLMConfig":
        """The configuration that ``to_json`` described.

        Raises:
            ValueError: ``values`` is not a dict, lacks a field, or has an unknown one.
            TypeError, ValueError: a field has a wrong value.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or set(values) != names:
            got = sorted(values) if isinstance(values, dict) else type(values).__name__
            raise ValueError(f"config must have the fields {sorted(names)}, got {got!r}")
        return cls(**values)


class CharLM(nn.Module):
    """Predicts each next symbol of a text from the symbols before it.

    Args:
        config: the model's shape.
        device, dtype: of the parameters; the dtype is a floating one.
    """

    def __init__(
        self,
        config: CharLMConfig,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.config = config
        self.rnn = TokenRNN(
            config.vocab_size,
            config.hidden_size,
            config.num_layers,
            nonlinearity=config.nonlinearity,
            batch_first=True,
            # This one acts between layers, so a single layer cannot have it.
            dropout=config.dropout if config.num_layers > 1 else 0.0,
            device=device,
            dtype=dtype,
        )
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, device=device, dtype=dtype)

    def forward(self, ids: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits of the next symbol at every position.

        Args:
            ids: ``(B, T)``, any integer dtype, each in ``0 .. vocab_size - 1``.
            state: ``(num_layers, B, hidden_size)`` from an earlier call; None for zeros.

        Returns:
            ``(logits, state)`` of shapes ``(B, T, vocab_size)`` and
            ``(num_layers, B, hidden_size)``. The state is not detached.

        Raises:
            IndexError, ValueError: as ``TokenRNN``, for ids outside the vocabulary or wrong shapes.
        """
        output, state = self.rnn(ids, state)
        return self.head(self.dropout(output)), state
