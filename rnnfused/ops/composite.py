"""The ops on every device that lacks kernels of its own (mps, xpu, a private backend), made of torch's operations.

The loop goes step by step (:mod:`rnnfused.ops.stepwise`); the input projection and the products of a layer's
gradients are calls of their own. CUDA uses the same code around its own loops (:mod:`rnnfused.cuda`).
"""

import torch

from . import packing, stepwise
from .autograd import layer_gradients
from .matmul import project_input
from .registry import impl
from .sequence import Extents, Layout, with_contiguous_features
from .tokens import is_ids


def recurrence_by(loop):
    """The op ``rnnfused::recurrence`` from a loop over (T, B, H) or packed rows.

    Args:
        loop: ``(projections, weight_hh, h_0, batch_sizes, nonlinearity, reverse) -> (output, h_n)``.
    """

    def recurrence(
        projections, weight_hh, h_0, batch_sizes, lengths, time_dim, nonlinearity, reverse,
        state_grad_clip,
    ):  # fmt: skip
        layout = Layout.of(projections.dim() - 1, Extents(batch_sizes, lengths), time_dim)
        projections, options = layout.time_major(projections), (nonlinearity, reverse)
        if lengths is None:
            output, h_n = loop(projections, weight_hh, h_0, batch_sizes, *options)
        else:
            output, h_n = packing.forward(loop, projections, weight_hh, h_0, lengths, *options)
        return layout.restore(output), h_n

    return recurrence


def recurrence_backward_by(loop):
    """The op ``rnnfused::recurrence_backward`` from a loop over (T, B, H) or packed rows.

    Args:
        loop: ``(grad_output, grad_h_n, output, weight_hh, batch_sizes, nonlinearity, reverse, state_grad_clip,
            needs_grad_h_0) -> (grad_projections, grad_h_0)``.
    """

    def recurrence_backward(
        grad_output, grad_h_n, output, weight_hh, batch_sizes, lengths, *options
    ):
        if lengths is None:
            return loop(grad_output, grad_h_n, output, weight_hh, batch_sizes, *options)
        return packing.backward(loop, grad_output, grad_h_n, output, weight_hh, lengths, *options)

    return recurrence_backward


def layer(
    input, weight_ih, bias_ih, bias_hh, weight_hh, h_0, batch_sizes, lengths, time_dim,
    nonlinearity, reverse, state_grad_clip,
):  # fmt: skip
    """As the op ``rnnfused::layer``."""
    bias = bias_ih if bias_hh is None else bias_hh if bias_ih is None else bias_ih + bias_hh
    projections = project_input(input, weight_ih, bias)
    layout = Layout.of(projections.dim() - 1, Extents(batch_sizes, lengths), time_dim)
    output, h_n = torch.ops.rnnfused.recurrence(
        layout.time_major(projections.contiguous()), weight_hh,
        with_contiguous_features(layout.loop_state(h_0)), batch_sizes, lengths, 0, nonlinearity,
        reverse, state_grad_clip,
    )  # fmt: skip
    return layout.restore(output), layout.layer_state(h_n)


def layer_backward(grad_output, grad_h_n, output, input, *others):
    """As the op ``rnnfused::layer_backward``."""
    gradients = layer_gradients(
        torch.ops.rnnfused.recurrence_backward, grad_output, grad_h_n, output, input, *others
    )
    grad_input, grad_weight_ih, *rest = (output.new_empty(0) if x is None else x for x in gradients)
    if not is_ids(input):  # a gradient by token is stored transposed
        grad_weight_ih = grad_weight_ih.contiguous()
    return grad_input.contiguous(), grad_weight_ih, *(x.contiguous() for x in rest)


impl("rnnfused::recurrence", "CompositeExplicitAutograd", recurrence_by(stepwise.forward))
impl(
    "rnnfused::recurrence_backward",
    "CompositeExplicitAutograd",
    recurrence_backward_by(stepwise.backward),
)
impl("rnnfused::layer", "CompositeExplicitAutograd", layer)
impl("rnnfused::layer_backward", "CompositeExplicitAutograd", layer_backward)
