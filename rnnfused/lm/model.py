"""The character language model: a recurrent layer over symbol ids and a linear head."""

import dataclasses
from dataclasses import dataclass

from torch import Tensor, nn

from rnnfused import TokenRNN

from .counts import check_count
from .messages import shown


@dataclass(frozen=True)
class CharLMConfig:
    """The shape of a ``CharLM``; all that is needed to build one again.

    Attributes:
        vocab_size: number of symbols, 1 to 2 ** 31 - 1.
        hidden_size: features of the hidden state, 1 to 2 ** 31 - 1.
        num_layers: stacked recurrent layers, 1 to 1000.
        nonlinearity: ``"tanh"`` or ``"relu"``.
        dropout: probability of zeroing a feature of a layer's output in training, in [0, 1).

    Raises:
        TypeError, ValueError: an attribute is of the wrong type or out of its range.
    """

    vocab_size: int
    hidden_size: int = 256
    num_layers: int = 2
    nonlinearity: str = "tanh"
    dropout: float = 0.0

    def __post_init__(self):
        for name in ("vocab_size", "hidden_size", "num_layers"):
            check_count(name, getattr(self, name))
        if self.nonlinearity not in ("tanh", "relu"):
            raise ValueError(
                f"nonlinearity must be 'tanh' or 'relu', got {shown(self.nonlinearity)}"
            )
        if isinstance(self.dropout, bool) or not isinstance(self.dropout, (int, float)):
            raise TypeError(f"dropout must be a float, got {shown(self.dropout)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")

    def to_json(self) -> dict:
        """A value for ``json.dump``."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict) -> "CharLMConfig":
        """The configuration that ``to_json`` described.

        Raises:
            ValueError: ``values`` is not a dict, lacks a field, or has one too many.
            TypeError, ValueError: a field has a wrong value.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or set(values) != names:
            got = sorted(values) if isinstance(values, dict) else type(values).__name__
            raise ValueError(f"config must have the fields {sorted(names)}, got {shown(got)}")
        return cls(**values)


class CharLM(nn.Module):
    """Predicts the next symbol from those before it.

    Args:
        config: the model's shape.
        device, dtype: where and in which floating dtype the parameters live.
    """

    def __init__(self, config: CharLMConfig, device=None, dtype=None):
        super().__init__()
        self.config = config
        self.rnn = TokenRNN(
            config.vocab_size,
            config.hidden_size,
            config.num_layers,
            nonlinearity=config.nonlinearity,
            batch_first=True,
            # Between layers only; a single layer has no between.
            dropout=config.dropout if config.num_layers > 1 else 0.0,
            device=device,
            dtype=dtype,
        )
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, device=device, dtype=dtype)

    def forward(self, ids: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits of the symbol that follows each one.

        Args:
            ids: ``(B, T)``, any integer dtype, each in ``0 .. vocab_size - 1``.
            state: ``(num_layers, B, hidden_size)`` as an earlier call returned it; None for zeros.

        Returns:
            ``(logits, state)`` of shapes ``(B, T, vocab_size)`` and
            ``(num_layers, B, hidden_size)``. The state is not detached.

        Raises:
            IndexError, ValueError: as ``TokenRNN``, for ids outside the vocabulary or wrong shapes.
        """
        output, state = self.rnn(ids, state)
        return self.head(self.dropout(output)), state
