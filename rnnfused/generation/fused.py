"""Generation by the fused op: one call for many symbols, on the CPU."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops import NONLINEARITIES, generate, pack_generator
from ..ops.matmul import sum_dtype
from .choice import Choice

# Multiply-adds of a first chunk: 10 ms or less on any processor.
_FIRST_WORK = 10_000_000


class Layer(NamedTuple):
    """A layer's weights (H, I) and (H, H), and its biases (H,) or None."""

    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor | None
    bias_hh: Tensor | None


class Weights(NamedTuple):
    """What the op runs: layers, from the lowest, and a head; all dense, on the CPU and of one dtype.

    Attributes:
        layers: their weights.
        nonlinearity: ``"tanh"`` or ``"relu"``.
        embedding: (V, I), or None where the lowest layer takes one-hot rows.
        head_weight: (V, H).
        head_bias: (V,), or None.
    """

    layers: list[Layer]
    nonlinearity: str
    embedding: Tensor | None
    head_weight: Tensor
    head_bias: Tensor | None

    def pack(self, exclude: list[int]) -> Tensor:
        """The op's packed weights, in which the head never yields the ids in ``exclude``."""
        lowest, others = self.layers[0], self.layers[1:]
        weight_hh = lowest.weight_hh
        sums = sum_dtype(weight_hh.dtype)
        bias = _bias(lowest)
        if self.embedding is not None:
            table = F.linear(self.embedding.to(sums), lowest.weight_ih.to(sums), bias)
        elif bias is not None:
            table = lowest.weight_ih.t() + bias
        else:
            table = lowest.weight_ih.t().to(sums)
        biases = weight_hh.new_zeros((len(others), weight_hh.size(0)), dtype=sums)
        for row, layer in zip(biases, others, strict=True):
            if (bias := _bias(layer)) is not None:
                row.copy_(bias)
        head_bias = None if self.head_bias is None else self.head_bias.to(sums)
        if exclude:
            vocab_size = self.head_weight.size(0)
            head_bias = table.new_zeros(vocab_size) if head_bias is None else head_bias.clone()
            head_bias[exclude] = -torch.inf
        packed: Tensor = pack_generator(
            table.contiguous(),
            torch.stack([layer.weight_hh for layer in self.layers]),
            torch.stack([layer.weight_ih for layer in others])
            if others
            else weight_hh.new_empty((0, *weight_hh.shape)),
            biases,
            self.head_weight,
            None if head_bias is None else head_bias.contiguous(),
        )
        return packed


def _bias(layer: Layer) -> Tensor | None:
    """The sum of a layer's biases in the dtype of sums."""
    given = [
        bias.to(sum_dtype(bias.dtype))
        for bias in (layer.bias_ih, layer.bias_hh)
        if bias is not None
    ]
    return sum(given[1:], given[0]) if given else None


class Fused:
    """Continues prefixes by the op.

    Args:
        weights: of the model.
        ids: (B,), int64, the last symbols of the prefixes.
        state: (num_layers, B, H), the states before them.
        streams: (B,), int64, the random numbers of each row.
        first_step: number of the first symbol in its stream.
        choice: how to choose.
        exclude: ids that are never chosen.

    Attributes:
        state: the states after all symbols but the last.
        first_chunk: how many symbols surely take little time.
    """

    def __init__(
        self,
        weights: Weights,
        ids: Tensor,
        state: Tensor,
        streams: Tensor,
        first_step: int,
        choice: Choice,
        exclude: list[int],
    ):
        self._packed = weights.pack(exclude)
        self._ids, self.state, self._streams = ids, state.contiguous(), streams
        self._next_step, self._choice = first_step, choice
        self._vocab_size, hidden_size = weights.head_weight.shape
        self._nonlinearity = NONLINEARITIES[weights.nonlinearity]
        layers = 2 * len(weights.layers) - 1
        work = (layers * hidden_size + self._vocab_size) * hidden_size * max(1, ids.size(0))
        self.first_chunk = max(1, _FIRST_WORK // work)

    def advance(self, num_symbols: int) -> Tensor:
        """The next symbols, (B, num_symbols); -1 from a symbol on whose logits allow no choice."""
        symbols: Tensor
        symbols, self.state = generate(
            self._packed,
            self.state,
            self._ids,
            self._streams,
            self._vocab_size,
            self._nonlinearity,
            num_symbols,
            self._next_step,
            *self._choice,
        )
        self._ids = symbols[:, -1].contiguous()
        self._next_step += num_symbols
        return symbols
