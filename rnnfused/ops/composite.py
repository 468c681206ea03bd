"""The ops on every device that lacks kernels of its own (mps, xpu, a private backend), made of torch's operations.

The loop goes step by step (:mod:`rnnfused.ops.stepwise`); the input projection and the products of a layer's
gradients are calls of their own. CUDA uses the same code around its own loops (:mod:`rnnfused.cuda`).
"""

import torch
from torch import Tensor

from . import packing, stepwise
from .autograd import layer_gradients, sum_given
from .both_directions import split, split_backward
from .matmul import project_input
from .named_arguments import (
    BothDirectionsArgs,
    BothDirectionsBackwardArgs,
    LayerArgs,
    LayerBackwardArgs,
    RecurrenceBackwardArgs,
)
from .registry import impl
from .sequence import Extents, Layout, can_reshape


def layer_by(loop):
    """The op ``rnnfused::layer`` from a loop over (T, B, H) or packed rows.

    Args:
        loop: ``(projections, weight_hh, h_0, batch_sizes, nonlinearity, reverse) -> (output, h_n)``.
    """

    def layer(*arguments):
        args = LayerArgs(*arguments)
        projections = args.input
        if args.weight_ih is not None:
            bias = sum_given(args.bias_ih, args.bias_hh)
            projections = project_input(args.input, args.weight_ih, bias).contiguous()
        extents = Extents(args.batch_sizes, args.lengths)
        layout = Layout.of(projections.dim() - 1, extents, args.time_dim)
        projections = layout.time_major(projections)
        h_0 = layout.time_major_state(args.h_0)
        options = (args.nonlinearity, args.reverse)
        if args.lengths is None:
            output, h_n = loop(projections, args.weight_hh, h_0, args.batch_sizes, *options)
        else:
            output, h_n = packing.forward(
                loop, projections, args.weight_hh, h_0, args.lengths, *options
            )
        return (
            _in_place(output, layout.restore(output)),
            _in_place(h_n, layout.restore_state(h_n)),
        )

    return layer


def _in_place(tensor: Tensor, view: Tensor) -> Tensor:
    """The new tensor, shaped as its view: autograd forbids to detach a view, or to change one, in place."""
    if view is tensor or not can_reshape(tensor):
        return view
    return tensor.as_strided_(view.shape, view.stride())


def recurrence_backward_by(loop):
    """The op ``rnnfused::recurrence_backward`` from a loop over (T, B, H) or packed rows.

    Args:
        loop: ``(grad_output, grad_h_n, output, weight_hh, batch_sizes, nonlinearity, reverse, state_grad_clip,
            needs_h_0) -> (grad_projections, grad_h_0)``.
    """

    def recurrence_backward(*arguments):
        args = RecurrenceBackwardArgs(*arguments)
        options = (args.nonlinearity, args.reverse, args.state_grad_clip, args.needs_h_0)
        tensors = (args.grad_output, args.grad_h_n, args.output, args.weight_hh)
        if args.lengths is None:
            return loop(*tensors, args.batch_sizes, *options)
        return packing.backward(loop, *tensors, args.lengths, *options)

    return recurrence_backward


def layer_backward_by(loop):
    """The op ``rnnfused::layer_backward`` from a loop as in :func:`recurrence_backward_by`."""
    recurrence_backward = recurrence_backward_by(loop)

    def layer_backward(*arguments):
        args = LayerBackwardArgs(*arguments)
        grads = layer_gradients(recurrence_backward, args)

        def contiguous(grad):
            return args.output.new_empty(0) if grad is None else grad.contiguous()

        follows_output = args.weight_ih is None and grads.input is not None  # the loop's own d
        return (
            grads.input if follows_output else contiguous(grads.input),
            *map(contiguous, grads[1:]),
        )

    return layer_backward


def both_directions(*arguments):
    """The op ``rnnfused::both_directions`` as two calls of ``layer``."""
    first, second = (
        torch.ops.rnnfused.layer(*args) for args in split(BothDirectionsArgs(*arguments))
    )
    return torch.cat([first[0], second[0]], -1), torch.cat([first[1], second[1]])


def both_directions_backward(*arguments):
    """The op ``rnnfused::both_directions_backward`` as two calls of ``layer_backward``."""
    first, second = split_backward(BothDirectionsBackwardArgs(*arguments))
    backward = torch.ops.rnnfused.layer_backward
    return (*backward(*first), *backward(*second))


_EVERY_DEVICE = "CompositeExplicitAutograd"
impl("rnnfused::layer", _EVERY_DEVICE, layer_by(stepwise.forward))
impl("rnnfused::layer_backward", _EVERY_DEVICE, layer_backward_by(stepwise.backward))
impl("rnnfused::both_directions", _EVERY_DEVICE, both_directions)
impl("rnnfused::both_directions_backward", _EVERY_DEVICE, both_directions_backward)
impl("rnnfused::recurrence_backward", _EVERY_DEVICE, recurrence_backward_by(stepwise.backward))
