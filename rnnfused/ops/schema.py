"""The arguments of the ops, by name; csrc/torch/register.cpp has their schemas."""

from typing import NamedTuple

from torch import Tensor

NONLINEARITIES = {"tanh": 0, "relu": 1}


class RecurrenceArgs(NamedTuple):
    """The arguments of the op ``recurrence``, or the gradients of them."""

    projections: Tensor | None = None
    weight_hh: Tensor | None = None
    h_0: Tensor | None = None
    batch_sizes: Tensor | None = None
    lengths: Tensor | None = None
    time_dim: int | None = None
    nonlinearity: int | None = None
    reverse: bool | None = None
    state_grad_clip: float | None = None


class LayerArgs(NamedTuple):
    """The arguments of the op ``layer``, or the gradients of them."""

    input: Tensor | None = None
    weight_ih: Tensor | None = None
    bias_ih: Tensor | None = None
    bias_hh: Tensor | None = None
    weight_hh: Tensor | None = None
    h_0: Tensor | None = None
    batch_sizes: Tensor | None = None
    lengths: Tensor | None = None
    time_dim: int | None = None
    nonlinearity: int | None = None
    reverse: bool | None = None
    state_grad_clip: float | None = None
