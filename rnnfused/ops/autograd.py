"""The derivatives of the recurrence, to any order and in either mode, from two fused loops.

docs/gradients.md derives them. In its names, with a prime for a tangent (f' alone is the derivative of f)::

    forward                h_t = f(p_t + h_{t-1} W^T)
    backward               d_t = (g_t + d_{t+1} W) * f'(h_t)                        d_{T-1} also receives g_n
                           dp = d,  dh_0 = d_0 W,  dW = sum_t d_t^T h_{t-1}
    tangents of forward    h'_t = (u_t + h'_{t-1} W^T) * f'(h_t)                    u_t = p'_t + h_{t-1} W'^T
    backward of backward   q_t = s_t * f'(h_t),  s_t = u_t + q_{t-1} W^T            q_{-1} = c
                           dg = q,  dg_n = q_{T-1},  dW = sum_t d_t^T q_{t-1},  dh_t = s_t * a_t * f''
    tangents of backward   x_t = (g'_t + d_{t+1} W' + e_{t+1} W + x_{t+1} W) * f'(h_t)
                           d'_t = x_t + e_t,  e_t = a_t * f'' * h'_t

In the last two, u and c are the gradients at d and dh_0, and ``a_t = g_t + d_{t+1} W``. f'' is -2 h_t for tanh, 0 for
relu. Every loop after the first is the backward loop: with another g, or with W transposed and the other way through
time (:func:`_linearized`). So :class:`RecurrenceBackward` is closed under differentiation, in both modes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import library, matmul
from .matmul import project, project_input, sum_by_head, sum_of_products, times
from .modes import entry, is_differentiated
from .named_arguments import (
    LayerArgs,
    LayerBackwardArgs,
    LayerGrads,
    RecurrenceBackwardArgs,
)
from .nonlinearity import TANH
from .registry import register_autograd
from .sequence import Extents, Layout, add_to_last, previous, take_last, without_step
from .tokens import is_ids


class _Loop(NamedTuple):
    """A forward loop that has run: its output as (T, B, H) or flat, its state as (1, B, H)."""

    weight_hh: Tensor
    h_0: Tensor | None
    extents: Extents
    output: Tensor
    nonlinearity: int
    reverse: bool
    state_grad_clip: float | None


def save(ctx, *tensors: Tensor | None):
    """Saves the tensors for derivatives in either mode; gradients that are missing stay None."""
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)
    ctx.set_materialize_grads(False)


def needs_of(ctx, args):
    """Which arguments need a gradient, by name."""
    return args(*ctx.needs_input_grad[: len(args._fields)])


def sum_given(*terms: Tensor | None) -> Any:
    """The sum of the terms that are not None; None without any."""
    given = [term for term in terms if term is not None]
    return sum(given[1:], given[0]) if given else None


def _weight_gradient(d, h, h_0, weight_hh, extents, reverse):
    """``sum_t d_t^T h_{t-1}``: one product over all steps, and a small one for h_0."""
    if extents.is_padded():
        # h_{t-1} is a slice: nothing is copied.
        now, before, first = (d[:-1], h[1:], d[-1:]) if reverse else (d[1:], h[:-1], d[:1])
        gradient = sum_by_head(now, before, weight_hh)
        return gradient if h_0 is None else gradient + sum_by_head(first, h_0, weight_hh)
    return sum_by_head(d, previous(h, h_0, extents, reverse), weight_hh)


def _linearized(u, c, output, weight_hh, extents, nonlinearity, reverse):
    """``q_t = (u_t + q_{t-1} W^T) * f'(h_t)`` with ``q_{-1} = c``, in the direction of the forward loop."""
    first = None if c is None else times(c, weight_hh.mT)
    q, _ = recurrence_backward(
        *RecurrenceBackwardArgs(
            u, first, output, weight_hh.mT, *extents, nonlinearity, not reverse, None, False
        )
    )
    return q


def _tangents(loop, u, weight_tangent, h_0_tangent):
    """The tangents of a loop's output and last state, where u is the tangent of p."""
    weight_hh, h_0, extents, output, nonlinearity, reverse, state_grad_clip = loop
    if state_grad_clip is not None:
        raise RuntimeError(
            "state_grad_clip clips gradients that flow backward: forward-mode derivatives have none"
        )
    if weight_tangent is not None:
        u = sum_given(u, times(previous(output, h_0, extents, reverse), weight_tangent.mT))
    if u is None and h_0_tangent is None:
        return None, None
    q = _linearized(u, h_0_tangent, output, weight_hh, extents, nonlinearity, reverse)
    return q, take_last(q, h_0_tangent, extents, reverse)


class Layer(torch.autograd.Function):
    """The op ``layer``: the recurrence with its input projection ``p = x W_ih^T + b``.

    x may be token ids, for one-hot rows; b is the sum of the given biases. Without W_ih, x is p.
    """

    generate_vmap_rule = True
    forward = staticmethod(library.layer)

    @staticmethod
    def setup_context(ctx, inputs, output):
        args = LayerArgs(*inputs)
        ctx.options = (args.time_dim, args.nonlinearity, args.reverse, args.state_grad_clip)
        input = None if args.weight_ih is None else args.input  # projections are not saved
        weights, extents = (args.weight_ih, args.weight_hh), (args.batch_sizes, args.lengths)
        save(ctx, output[0], input, *weights, args.h_0, *extents)  # as in LayerBackwardArgs

    @staticmethod
    def jvp(ctx, *tangents):
        dot = LayerArgs(*tangents)
        saved = LayerBackwardArgs(None, None, *ctx.saved_tensors, *ctx.options)
        layout, loop = _loop_of(saved)
        u = None
        if dot.weight_ih is not None:
            u = project_input(layout.time_major(saved.input), dot.weight_ih)
        if dot.input is not None:
            moved = layout.time_major(dot.input)
            u = sum_given(u, moved if saved.weight_ih is None else project(moved, saved.weight_ih))
        bias = sum_given(dot.bias_ih, dot.bias_hh)
        if bias is not None:
            u = bias.expand_as(loop.output) if u is None else u + bias
        q, last = _tangents(loop, u, dot.weight_hh, layout.time_major_state(dot.h_0))
        return layout.restore(q), layout.restore_state(last)

    @staticmethod
    def backward(ctx, grad_output, grad_h_n):
        return Layer.backward_of(ctx, ctx.saved_tensors, grad_output, grad_h_n)

    @staticmethod
    def backward_of(ctx, saved, grad_output, grad_h_n):
        if grad_output is None and grad_h_n is None:
            return LayerArgs()
        needs = needs_of(ctx, LayerArgs)
        needs_bias = needs.bias_ih or needs.bias_hh
        output, hidden_size = saved[0], saved[0].size(-1)
        is_apart = is_differentiated() or (
            matmul.HAS_ACCELERATE and matmul.suits_accelerate(output, output.numel() * hidden_size)
        )
        backward = differentiable_layer_backward if is_apart else library.layer_backward
        grads = LayerGrads(
            *backward(
                grad_output,
                grad_h_n,
                *saved,
                *ctx.options,
                needs.input,
                needs.weight_ih,
                needs.weight_hh,
                needs_bias,
                needs.h_0,
            )
        )
        return LayerArgs(
            grads.input if needs.input else None,
            *weight_gradients(grads, *needs[1:5]),
            grads.h_0 if needs.h_0 else None,
        )


class LayerWithoutStep(Layer):
    """:class:`Layer` with states (B, H) in place of (1, B, H), for CPU calls that nothing records or transforms."""

    @staticmethod
    def forward(input, weight_ih, weight_hh, bias_ih, bias_hh, h_0, *others):
        h_0 = None if h_0 is None else h_0.unsqueeze(0)
        output, h_n = library.layer(input, weight_ih, weight_hh, bias_ih, bias_hh, h_0, *others)
        return output, h_n.squeeze_(0)

    @staticmethod
    def backward(ctx, grad_output, grad_h_n):
        *others, h_0, batch_sizes, lengths = ctx.saved_tensors
        h_0 = None if h_0 is None else h_0.unsqueeze(0)
        grad_h_n = None if grad_h_n is None else grad_h_n.unsqueeze(0)
        saved = (*others, h_0, batch_sizes, lengths)
        grads = Layer.backward_of(ctx, saved, grad_output, grad_h_n)
        return grads if grads.h_0 is None else grads._replace(h_0=without_step(grads.h_0))


def weight_gradients(grads, needs_weight_ih, needs_weight_hh, needs_bias_ih, needs_bias_hh):
    """The gradients of W_ih, W_hh, b_ih and b_hh from a layer's; None where one is not needed."""
    # Equal, but of its own memory: either may be changed in place.
    bias_hh = grads.bias.clone() if needs_bias_ih and needs_bias_hh else grads.bias
    return (
        grads.weight_ih if needs_weight_ih else None,
        grads.weight_hh if needs_weight_hh else None,
        grads.bias if needs_bias_ih else None,
        bias_hh if needs_bias_hh else None,
    )


def _loop_of(args: LayerBackwardArgs) -> tuple[Layout, _Loop]:
    """The layout of a layer that has run, and its loop."""
    extents = Extents(args.batch_sizes, args.lengths)
    layout = Layout.of(args.output.dim() - 1, extents, args.time_dim)
    h_0, output = layout.time_major_state(args.h_0), layout.time_major(args.output)
    options = (args.nonlinearity, args.reverse, args.state_grad_clip)
    return layout, _Loop(args.weight_hh, h_0, extents, output, *options)


def layer_gradients(backpropagate, args: LayerBackwardArgs) -> LayerGrads:
    """The op ``layer_backward`` as products beside a backward loop; None where a gradient is not needed.

    Args:
        backpropagate: the op ``recurrence_backward``, or a function like it.
    """
    layout, loop = _loop_of(args)
    d, grad_h_0 = backpropagate(
        *RecurrenceBackwardArgs(
            layout.time_major(args.grad_output),
            layout.time_major_state(args.grad_h_n),
            loop.output,
            loop.weight_hh,
            *loop.extents,
            loop.nonlinearity,
            loop.reverse,
            loop.state_grad_clip,
            args.needs_h_0,
        )
    )
    grad_input = grad_weight_ih = grad_weight_hh = grad_bias = None
    if args.needs_input:
        grad_input = d if args.weight_ih is None else project(d, args.weight_ih.t())
    if args.needs_weight_ih and is_ids(args.input):  # the sum of one-hot rows
        table = d.new_zeros(args.weight_ih.t().shape)
        ids = layout.time_major(args.input).flatten()
        grad_weight_ih = table.index_add(0, ids, d.flatten(0, -2)).t().contiguous()
    elif args.needs_weight_ih:
        grad_weight_ih = sum_of_products(d, layout.time_major(args.input))
    if args.needs_weight_hh:
        grad_weight_hh = _weight_gradient(
            d, loop.output, loop.h_0, loop.weight_hh, loop.extents, loop.reverse
        )
    if args.needs_bias:
        grad_bias = d.flatten(0, -2).sum(0)
    return LayerGrads(
        layout.restore(grad_input),
        grad_weight_ih,
        grad_weight_hh,
        grad_bias,
        layout.restore_state(grad_h_0) if args.needs_h_0 else None,
    )


def differentiable_layer_backward(*arguments):
    """The op ``layer_backward`` with its products apart, and with a graph of its own where one is recorded."""
    return layer_gradients(recurrence_backward, LayerBackwardArgs(*arguments))


class RecurrenceBackward(torch.autograd.Function):
    """The op ``recurrence_backward``: ``(g, g_n, output, weight_hh, ..) -> (d, dh_0)``."""

    generate_vmap_rule = True
    forward = staticmethod(library.recurrence_backward)

    @staticmethod
    def setup_context(ctx, inputs, output):
        tensors, ctx.options = inputs[:6], inputs[6:]
        save(ctx, *tensors, output[0])

    @staticmethod
    def jvp(ctx, *tangents):
        args, d = _loop_backward_of(ctx)
        dot = RecurrenceBackwardArgs(*tangents)
        extents, reverse = Extents(args.batch_sizes, args.lengths), args.reverse
        after = previous(d, None, extents, not reverse)  # d_{t+1}
        e, grad_output = None, dot.grad_output
        if dot.output is not None and args.nonlinearity == TANH:
            e = -2 * args.output * _before_f(args, after, extents, reverse) * dot.output
            e_after = previous(e, None, extents, not reverse)
            grad_output = sum_given(grad_output, times(e_after, args.weight_hh))
        if dot.weight_hh is not None:
            grad_output = sum_given(grad_output, times(after, dot.weight_hh))
        if grad_output is None and dot.grad_h_n is None:
            return e, None
        x, grad_h_0 = recurrence_backward(
            *RecurrenceBackwardArgs(
                grad_output,
                dot.grad_h_n,
                args.output,
                args.weight_hh,
                *extents,
                args.nonlinearity,
                reverse,
                None,
                args.needs_h_0,
            )
        )
        if args.needs_h_0:
            through_e = through_weight = None
            if e is not None:
                through_e = times(take_last(e, None, extents, not reverse), args.weight_hh)
            if dot.weight_hh is not None:
                first_d = take_last(d, None, extents, not reverse)
                through_weight = times(first_d, dot.weight_hh)
            grad_h_0 = sum_given(grad_h_0, through_e, through_weight)
        return sum_given(x, e), grad_h_0

    @staticmethod
    def backward(ctx, u, c):
        args, d = _loop_backward_of(ctx)
        extents, reverse = Extents(args.batch_sizes, args.lengths), args.reverse
        needs = needs_of(ctx, RecurrenceBackwardArgs)
        if not args.needs_h_0:
            c = None
        if u is None and c is None:
            return RecurrenceBackwardArgs()
        weight_hh = args.weight_hh
        q = _linearized(u, c, args.output, weight_hh, extents, args.nonlinearity, reverse)
        grad_h_n = grad_of_output = grad_weight = None
        if needs.grad_h_n:
            grad_h_n = take_last(q, c, extents, reverse)
        if needs.output and args.nonlinearity == TANH:
            after = previous(d, None, extents, not reverse)
            s = sum_given(times(previous(q, c, extents, reverse), weight_hh.mT), u)
            grad_of_output = -2 * args.output * _before_f(args, after, extents, reverse) * s
        if needs.weight_hh:
            grad_weight = _weight_gradient(d, q, c, weight_hh, extents, reverse)
        return RecurrenceBackwardArgs(
            q if needs.grad_output else None, grad_h_n, grad_of_output, grad_weight
        )


def _loop_backward_of(ctx) -> tuple[RecurrenceBackwardArgs, Tensor]:
    """The arguments of a backward loop that has run, and its d."""
    *tensors, d = ctx.saved_tensors
    args = RecurrenceBackwardArgs(*tensors, *ctx.options)
    if args.state_grad_clip is not None:
        raise RuntimeError(
            "state_grad_clip makes a gradient that is not a function's: it has no derivative; "
            "leave it out where second derivatives are taken"
        )
    return args, d


def _before_f(args, after, extents, reverse):
    """``a_t = g_t + d_{t+1} W`` of a backward loop, with g_n at a row's last step."""
    a = sum_given(times(after, args.weight_hh), args.grad_output)
    return a if args.grad_h_n is None else add_to_last(a, args.grad_h_n, extents, reverse)


def register(function, op):
    """Gives the op the derivative of an autograd Function, for calls that are recorded as ops; returns the op."""
    register_autograd(op, function.backward, setup_context=function.setup_context)
    return op


_ops = torch.ops.rnnfused
recurrence_backward = entry(
    RecurrenceBackward, register(RecurrenceBackward, _ops.recurrence_backward.default)
)
# The one caller of ``layer`` asks itself whether calls are recorded.
layer: Callable[..., tuple[Tensor, Tensor]] = entry(Layer)
layer_without_step: Callable[..., tuple[Tensor, Tensor]] = entry(LayerWithoutStep)
recorded_layer: Callable[..., tuple[Tensor, Tensor]] = register(Layer, _ops.layer.default)
