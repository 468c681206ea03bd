"""The op ``both_directions``: a layer that also runs from the last step to the first, in one call.

On the CPU both directions run at the same time where rows are few. Recorded and transformed calls, and other devices,
run the op ``layer`` twice instead, which has the same results.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from . import library
from .autograd import (
    differentiable_layer_backward,
    needs_of,
    register,
    save,
    sum_given,
    weight_gradients,
)
from .modes import entry, is_differentiated
from .named_arguments import (
    BothDirectionsArgs,
    BothDirectionsBackwardArgs,
    LayerArgs,
    LayerBackwardArgs,
    LayerGrads,
)


def halves(tensor: Tensor | None, dim: int) -> tuple[Tensor | None, Tensor | None]:
    """The first and the second direction's half of the tensor along ``dim``."""
    if tensor is None:
        return None, None
    size = tensor.size(dim) // 2
    return tensor.narrow(dim, 0, size), tensor.narrow(dim, size, size)


def split(args: BothDirectionsArgs) -> tuple[LayerArgs, LayerArgs]:
    """The arguments of the op ``layer`` for each direction."""
    others = (args.batch_sizes, args.lengths, args.time_dim, args.nonlinearity)
    first, second = halves(args.h_0, 0)
    return (
        LayerArgs(args.input, *args[1:5], first, *others, False, args.state_grad_clip),
        LayerArgs(args.input, *args[5:9], second, *others, True, args.state_grad_clip),
    )


def split_backward(
    args: BothDirectionsBackwardArgs,
) -> tuple[LayerBackwardArgs, LayerBackwardArgs]:
    """The arguments of the op ``layer_backward`` for each direction."""
    weights = (args[4:6], args[6:8])
    parts = zip(
        halves(args.grad_output, -1),
        halves(args.grad_h_n, 0),
        halves(args.output, -1),
        weights,
        halves(args.h_0, 0),
        strict=True,
    )
    first, second = (
        LayerBackwardArgs(
            grad_output,
            grad_h_n,
            output,
            args.input,
            *weights,
            h_0,
            args.batch_sizes,
            args.lengths,
            args.time_dim,
            args.nonlinearity,
            reverse == 1,
            args.state_grad_clip,
            *args[-5:],
        )
        for reverse, (grad_output, grad_h_n, output, weights, h_0) in enumerate(parts)
    )
    return first, second


class BothDirections(torch.autograd.Function):
    """A layer in both directions: its output is (.., 2 H), its states are (2, ..)."""

    forward = staticmethod(library.both_directions)

    @staticmethod
    def setup_context(ctx, inputs, output):
        args = BothDirectionsArgs(*inputs)
        ctx.options = (args.time_dim, args.nonlinearity, args.state_grad_clip)
        weights = (args.weight_ih, args.weight_hh, args.weight_ih_reverse, args.weight_hh_reverse)
        save(ctx, output[0], args.input, *weights, args.h_0, args.batch_sizes, args.lengths)

    @staticmethod
    def backward(ctx, grad_output, grad_h_n):
        if grad_output is None and grad_h_n is None:
            return BothDirectionsArgs()
        needs = needs_of(ctx, BothDirectionsArgs)
        wanted = LayerGrads(
            needs.input,
            needs.weight_ih or needs.weight_ih_reverse,
            needs.weight_hh or needs.weight_hh_reverse,
            needs.bias_ih or needs.bias_hh or needs.bias_ih_reverse or needs.bias_hh_reverse,
            needs.h_0,
        )
        args = BothDirectionsBackwardArgs(
            grad_output, grad_h_n, *ctx.saved_tensors, *ctx.options, *wanted
        )
        backward = _differentiable_backward if is_differentiated() else _backward
        first, second = backward(args)
        return BothDirectionsArgs(
            sum_given(first.input, second.input) if needs.input else None,
            *weight_gradients(first, *needs[1:5]),
            *weight_gradients(second, *needs[5:9]),
            torch.cat([first.h_0, second.h_0]) if needs.h_0 else None,
        )


def _backward(args):
    """The gradients of each direction by the op ``both_directions_backward``; the first has all of the input's."""
    grads = library.both_directions_backward(*args)
    first, second = LayerGrads(*grads[:5]), LayerGrads(*grads[5:])
    if args.needs_input:
        first.input.add_(second.input)
    return first, second._replace(input=None)


def _differentiable_backward(args):
    """The gradients of each direction, with a graph of their own for the next derivative."""
    first, second = split_backward(args)
    return differentiable_layer_backward(*first), differentiable_layer_backward(*second)


register(BothDirections, torch.ops.rnnfused.both_directions.default)
# Its one caller asks itself whether calls are recorded.
both_directions: Callable[..., tuple[Tensor, Tensor]] = entry(BothDirections)
