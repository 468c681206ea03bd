"""A recurrent network with an input and a head: called step by step, or as the weights that the op runs."""

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import DTYPES
from ..ops.matmul import sum_dtype
from ..ops.modes import hides_values, is_any_autocast_active, is_transformed
from ..rnn import RNN
from ..special_inputs import has_hooks
from ..token_rnn import TokenRNN
from ..wording import quantity
from .fused import Layer, Weights
from .steps import Step

Head = nn.Module | tuple[Tensor, Tensor | None]


class Model:
    """The recurrent network, its input and its head, called step by step."""

    def __init__(self, rnn: nn.RNNBase, head: Head, embedding: nn.Module | Tensor | None):
        self._rnn, self._embedding = rnn, embedding
        self._weight = cast(Tensor, rnn.weight_hh_l0)
        self.device = self._weight.device
        self._sum_dtype = sum_dtype(self._weight.dtype)
        self._head, head_size = self._check_head(head)
        self.vocab_size = self._check_input(head_size)

    def _check_head(self, head: Head) -> tuple[Callable[[Tensor], Tensor], int | None]:
        if isinstance(head, nn.Linear) and type(head) is nn.Linear and not has_hooks(head):
            head = (head.weight, head.bias)
        if isinstance(head, nn.Module):
            return head, None
        if not (isinstance(head, tuple) and len(head) == 2 and isinstance(head[0], Tensor)):
            raise TypeError(
                f"head must be a module or a pair of weight and bias, got {type(head).__name__}"
            )
        weight, bias = head
        hidden_size = self._rnn.hidden_size
        if weight.dim() != 2 or weight.size(1) != hidden_size or weight.size(0) == 0:
            raise ValueError(
                f"head must have a weight (V, {hidden_size}), hidden_size, got {tuple(weight.shape)}"
            )
        for name, tensor in {"weight": weight, "bias": bias}.items():
            if tensor is None:
                continue
            if tensor.device != self.device or tensor.dtype != self._weight.dtype:
                raise ValueError(
                    f"head must have a {name} {self._weight.dtype} on {self.device} like the rnn's "
                    f"weights, got {tensor.dtype} on {tensor.device}"
                )
        if bias is not None and bias.shape != weight.shape[:1]:
            raise ValueError(f"head must have a bias ({weight.size(0)},), got {tuple(bias.shape)}")
        # Rounded to 16 bits, many logits would be equal.
        weight, bias = (
            weight.to(self._sum_dtype),
            None if bias is None else bias.to(self._sum_dtype),
        )
        return lambda hidden: F.linear(hidden.to(self._sum_dtype), weight, bias), weight.size(0)

    def _check_input(self, head_size: int | None) -> int:
        """V, the size of the vocabulary."""
        rnn, embedding = self._rnn, self._embedding
        if isinstance(embedding, nn.Embedding):
            size, features = embedding.weight.shape
        elif isinstance(embedding, Tensor):
            if embedding.dim() != 2:
                raise ValueError(f"embedding must be (V, I), got {tuple(embedding.shape)}")
            size, features = embedding.shape
        elif isinstance(embedding, nn.Module):
            if head_size is None:
                raise TypeError("embedding must be an nn.Embedding where head is not an nn.Linear")
            size, features = head_size, rnn.input_size
        elif embedding is None:
            size, features = rnn.input_size, rnn.input_size
        else:
            raise TypeError(
                f"embedding must be a module or a Tensor, got {type(embedding).__name__}"
            )
        if isinstance(rnn, TokenRNN) and embedding is not None:
            raise ValueError("embedding must be None for a TokenRNN, which takes ids")
        if features != rnn.input_size:
            raise ValueError(
                f"embedding must have the rnn's {quantity(rnn.input_size, 'feature')}, got {features}"
            )
        if head_size is not None and head_size != size:
            raise ValueError(
                f"head must have a logit for each id that the rnn takes, {size}, got {head_size}"
            )
        return size

    def zeros(self, batch_size: int) -> Tensor:
        """The states before a first step."""
        return self._weight.new_zeros(self._rnn.num_layers, batch_size, self._rnn.hidden_size)

    def _input(self, ids: Tensor) -> Tensor:
        if isinstance(self._embedding, Tensor):
            return F.embedding(ids, self._embedding)
        if self._embedding is not None:
            return cast(Tensor, self._embedding(ids))
        if isinstance(self._rnn, TokenRNN):
            return ids
        return F.one_hot(ids, self._rnn.input_size).to(self._weight.dtype)

    def _run(self, ids: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Outputs (T, B, H), or (B, T, H) with batch_first, and states."""
        ids = ids if self._rnn.batch_first else ids.t()
        return cast(tuple[Tensor, Tensor], self._rnn(self._input(ids), state))

    def read(self, ids: Tensor, state: Tensor | None) -> Tensor:
        """The states after ids (B, T)."""
        return self._run(ids, state)[1]

    def step_without(self, exclude: list[int]) -> Step:
        """The step of :func:`generate_by_steps`, with -inf as the logits of the ids in ``exclude``."""

        def step(ids: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
            output, state = self._run(ids, state)
            logits = self._head(output[:, -1] if self._rnn.batch_first else output[-1])
            self._check_logits(logits, ids.size(0))
            logits = logits.to(sum_dtype(logits.dtype))
            if exclude:
                logits = logits.clone()  # the head may keep them
                logits[:, exclude] = -torch.inf
            return logits, state

        return step

    def _check_logits(self, logits: Tensor, batch_size: int) -> None:
        if not isinstance(logits, Tensor):
            raise TypeError(f"head must return logits as a Tensor, got {type(logits).__name__}")
        if logits.shape != (batch_size, self.vocab_size):
            raise ValueError(
                f"head must return logits ({batch_size}, {self.vocab_size}), one for each id that "
                f"the rnn takes, got {tuple(logits.shape)}"
            )


def _is_plain(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Whether the op can read this tensor as it is."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and not tensor.is_nested
        and tensor.dtype == dtype
        and not hides_values(tensor)
    )


def weights_of(
    rnn: nn.RNNBase, head: Head, embedding: nn.Module | Tensor | None, ids: Tensor
) -> Weights | None:
    """What the op needs of the model; None where only calls of the modules give their results."""
    if type(rnn) not in (nn.RNN, RNN, TokenRNN) or getattr(rnn, "heads", 1) > 1:
        return None
    if isinstance(head, nn.Module):
        if type(head) is not nn.Linear or has_hooks(head):
            return None
        head = (head.weight, head.bias)
    if isinstance(embedding, nn.Module):
        if type(embedding) is not nn.Embedding or has_hooks(embedding) or embedding.max_norm:
            return None
        embedding = embedding.weight
    if has_hooks(rnn) or is_any_autocast_active() or is_transformed() or hides_values(ids):
        return None
    layers = []
    for index in range(rnn.num_layers):
        names = [f"{name}_l{index}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        layers.append(Layer(*(getattr(rnn, name, None) for name in names)))  # type: ignore[arg-type]
    nonlinearity = "tanh" if rnn.mode == "RNN_TANH" else "relu"
    weights = Weights(layers, nonlinearity, embedding, *head)
    return weights if is_fusable(weights) else None


def is_fusable(weights: Weights) -> bool:
    """Whether the op can run these weights."""
    dtype = weights.layers[0].weight_hh.dtype
    tensors = [tensor for layer in weights.layers for tensor in layer]
    tensors += [weights.embedding, weights.head_weight, weights.head_bias]
    return dtype in DTYPES and all(x is None or _is_plain(x, dtype) for x in tensors)
