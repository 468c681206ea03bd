"""The arguments and results of the ops, by name. csrc/torch/register.cpp holds the schemas, in the same order."""

from typing import NamedTuple

from torch import Tensor


class LayerArgs(NamedTuple):
    """The arguments of the op ``layer``, or their gradients."""

    input: Tensor | None = None
    weight_ih: Tensor | None = None
    weight_hh: Tensor | None = None
    bias_ih: Tensor | None = None
    bias_hh: Tensor | None = None
    h_0: Tensor | None = None
    batch_sizes: Tensor | None = None
    lengths: Tensor | None = None
    time_dim: int | None = None
    nonlinearity: int | None = None
    reverse: bool | None = None
    state_grad_clip: float | None = None


class LayerBackwardArgs(NamedTuple):
    """The arguments of the op ``layer_backward``. Those from ``output`` to ``lengths`` are saved by the forward call."""

    grad_output: Tensor | None
    grad_h_n: Tensor | None
    output: Tensor
    input: Tensor | None
    weight_ih: Tensor | None
    weight_hh: Tensor
    h_0: Tensor | None
    batch_sizes: Tensor | None
    lengths: Tensor | None
    time_dim: int
    nonlinearity: int
    reverse: bool
    state_grad_clip: float | None
    needs_input: bool = False
    needs_weight_ih: bool = False
    needs_weight_hh: bool = False
    needs_bias: bool = False
    needs_h_0: bool = False


class LayerGrads(NamedTuple):
    """The results of the op ``layer_backward``, or whether each is needed."""

    input: Tensor | bool | None
    weight_ih: Tensor | bool | None
    weight_hh: Tensor | bool | None
    bias: Tensor | bool | None
    h_0: Tensor | bool | None


class BothDirectionsArgs(NamedTuple):
    """The arguments of the op ``both_directions``, or their gradients."""

    input: Tensor | None = None
    weight_ih: Tensor | None = None
    weight_hh: Tensor | None = None
    bias_ih: Tensor | None = None
    bias_hh: Tensor | None = None
    weight_ih_reverse: Tensor | None = None
    weight_hh_reverse: Tensor | None = None
    bias_ih_reverse: Tensor | None = None
    bias_hh_reverse: Tensor | None = None
    h_0: Tensor | None = None
    batch_sizes: Tensor | None = None
    lengths: Tensor | None = None
    time_dim: int | None = None
    nonlinearity: int | None = None
    state_grad_clip: float | None = None


class BothDirectionsBackwardArgs(NamedTuple):
    """The arguments of the op ``both_directions_backward``. Those from ``output`` to ``lengths`` are saved."""

    grad_output: Tensor | None
    grad_h_n: Tensor | None
    output: Tensor
    input: Tensor
    weight_ih: Tensor
    weight_hh: Tensor
    weight_ih_reverse: Tensor
    weight_hh_reverse: Tensor
    h_0: Tensor | None
    batch_sizes: Tensor | None
    lengths: Tensor | None
    time_dim: int
    nonlinearity: int
    state_grad_clip: float | None
    needs_input: bool
    needs_weight_ih: bool
    needs_weight_hh: bool
    needs_bias: bool
    needs_h_0: bool


class RecurrenceBackwardArgs(NamedTuple):
    """The arguments of the op ``recurrence_backward``, or their gradients."""

    grad_output: Tensor | None = None
    grad_h_n: Tensor | None = None
    output: Tensor | None = None
    weight_hh: Tensor | None = None
    batch_sizes: Tensor | None = None
    lengths: Tensor | None = None
    nonlinearity: int | None = None
    reverse: bool | None = None
    state_grad_clip: float | None = None
    needs_h_0: bool | None = None


class CrossEntropyArgs(NamedTuple):
    """The arguments of the op ``linear_cross_entropy``, or their gradients."""

    hidden: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    target: Tensor | None = None
    row_scales: Tensor | None = None
    reduction: int | None = None
    ignore_index: int | None = None
    label_smoothing: float | None = None
    needs_hidden: bool | None = None
    needs_weight: bool | None = None
    needs_bias: bool | None = None
