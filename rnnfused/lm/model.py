"""The language model: recurrent layers over symbol ids and a linear output layer."""

import dataclasses
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rnnfused import RNN, TokenRNN
from rnnfused.functional import linear_cross_entropy

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


def check_model(model: object) -> None:
    """Raises TypeError unless ``model`` is a ``CharLM``, or a wrapper with its attributes."""
    if not isinstance(getattr(model, "config", None), CharLMConfig):
        raise TypeError(f"model must be a CharLM, got {type(model).__name__}")


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


def check_embedding(embedding_size: object, tied: object, hidden_size: int) -> None:
    """Validate an embedding's size, or None, and whether the output weights are tied to it.

    Raises:
        TypeError: a value has the wrong type.
        ValueError: ``embedding_size`` is out of range, or not ``hidden_size`` although tied.
    """
    if embedding_size is not None:
        check_count("embedding_size", embedding_size)
    if not isinstance(tied, bool):
        raise TypeError(f"tied must be a bool, got {tied!r}")
    if tied and embedding_size not in (None, hidden_size):
        raise ValueError(
            f"embedding_size must equal hidden_size={hidden_size} if the output weights are tied "
            f"to the embedding, got {embedding_size}"
        )


# Fields that configurations of checkpoints of format 1 and 2 lack.
_LATER_FIELDS = {"embedding_size", "tied"}


@dataclass(frozen=True)
class CharLMConfig:
    """The shape of a ``CharLM``: everything needed to build one again.

    Attributes:
        vocab_size: number of symbols, 1 to 2 ** 31 - 1.
        hidden_size: features of the hidden state, 1 to 2 ** 31 - 1.
        num_layers: stacked recurrent layers, 1 to 1000.
        nonlinearity: ``"tanh"`` or ``"relu"``.
        dropout: probability of zeroing a feature of a layer's output in training, in [0, 1).
        embedding_size: features of a symbol's embedding, 1 to 2 ** 31 - 1. None: no embedding; ids
            are looked up in the first layer's input weights.
        tied: whether the output layer has no weight of its own. It uses the embedding's, which
            then has ``hidden_size`` features, or without embedding the first layer's input weight.
            Press and Wolf, *Using the Output Embedding to Improve Language Models*, 2017.

    Raises:
        TypeError, ValueError: an attribute has the wrong type or is out of range.
    """

    vocab_size: int
    hidden_size: int = 500
    num_layers: int = 1
    nonlinearity: str = "tanh"
    dropout: float = 0.0
    embedding_size: int | None = None
    tied: bool = False

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "num_layers"):
            check_count(name, getattr(self, name))
        if self.nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity must be 'tanh' or 'relu', got {self.nonlinearity!r}")
        check_dropout(self.dropout)
        check_embedding(self.embedding_size, self.tied, self.hidden_size)

    def to_json(self) -> dict[str, Any]:
        """A value for ``json.dump``."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: object) -> "CharLMConfig":
        """The configuration that ``to_json`` described, in this version or an earlier one.

        Raises:
            ValueError: ``values`` is not a dict, lacks a field, or has an unknown one.
            TypeError, ValueError: a field has a wrong value.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or not names - _LATER_FIELDS <= set(values) <= names:
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
        size, layers = config.hidden_size, config.num_layers
        options: dict[str, Any] = {
            "nonlinearity": config.nonlinearity,
            "batch_first": True,
            # This one acts between layers, so a single layer cannot have it.
            "dropout": config.dropout if layers > 1 else 0.0,
            "device": device,
            "dtype": dtype,
        }
        self.rnn: RNN
        if config.embedding_size is None:
            self.embedding = None
            self.rnn = TokenRNN(config.vocab_size, size, layers, **options)
        else:
            features = config.embedding_size
            self.embedding = nn.Embedding(config.vocab_size, features, device=device, dtype=dtype)
            self.rnn = RNN(features, size, layers, **options)
        self.dropout = nn.Dropout(config.dropout)
        self.head: nn.Linear | _Bias
        if config.tied:
            self.head = _Bias(config.vocab_size, device=device, dtype=dtype)
            if self.embedding is not None:
                # Logits of an output weight from N(0, 1), an embedding's own, would be far too large.
                nn.init.uniform_(self.embedding.weight, -(size**-0.5), size**-0.5)
        else:
            self.head = nn.Linear(size, config.vocab_size, device=device, dtype=dtype)

    @property
    def output_weight(self) -> Tensor:
        """The output layer's weight of shape ``(vocab_size, hidden_size)``, tied or its own."""
        if isinstance(self.head, nn.Linear):
            return self.head.weight
        if self.embedding is not None:
            return self.embedding.weight
        return cast(Tensor, self.rnn.weight_ih_l0).t()

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self.head.bias.device

    def hidden(self, ids: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The last layer's states at every position, before the output layer.

        Args:
            ids, state: as for ``forward``.

        Returns:
            ``(hidden, state)`` of shapes ``(B, T, hidden_size)`` and
            ``(num_layers, B, hidden_size)``; dropout has acted on ``hidden``.

        Raises:
            IndexError, ValueError: as ``forward``.
        """
        if self.embedding is None:
            output, state = self.rnn(ids, state)
        else:
            # An embedding takes two dtypes only.
            embedded = self.dropout(F.embedding(ids.long(), self.embedding.weight))
            output, state = self.rnn(embedded, state)
        return self.dropout(output), state

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
        hidden, state = self.hidden(ids, state)
        return F.linear(hidden, self.output_weight, self.head.bias), state

    def loss(
        self,
        ids: Tensor,
        targets: Tensor,
        state: Tensor | None = None,
        reduction: str = "mean",
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the targets, in nats.

        Args:
            ids: ``(B, T)``, as for ``forward``.
            targets: ``(B, T)``, any integer dtype: the symbol after each of ``ids``.
            state: as for ``forward``.
            reduction: ``"mean"`` or ``"sum"`` for a 0-dim loss, ``"none"`` for one of shape
                ``(B * T,)``.

        Returns:
            ``(loss, state)``; the state is not detached.

        Raises:
            IndexError, ValueError: as ``forward``, or for another ``reduction``.
        """
        hidden, state = self.hidden(ids, state)
        loss = linear_cross_entropy(
            hidden, self.output_weight, self.head.bias, targets, reduction=reduction
        )
        return loss.flatten() if reduction == "none" else loss, state


class _Bias(nn.Module):
    """The output layer's own part where its weight is tied: a bias, zeros at first."""

    def __init__(
        self, size: int, device: str | torch.device | None, dtype: torch.dtype | None
    ) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(size, device=device, dtype=dtype))
