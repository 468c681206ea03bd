"""The derivatives of the recurrence, to any order and in either mode, from two fused loops.

Forward:  ``h_t = f(p_t + h_{t-1} W^T)``.
Backward, through time (Werbos 1990), with ``g`` the gradient at the outputs and ``g_n`` at the last state::

    d_t = (g_t + d_{t+1} W) * f'(h_t)         d_{T-1} also receives g_n
    dp = d,   dh_0 = d_0 W,   dW = sum_t d_t^T h_{t-1}

Tangents. With a dot for what moves along, the chain rule of the forward loop is::

    h'_t = (u_t + h'_{t-1} W^T) * f'(h_t),    u_t = p'_t + h_{t-1} W'^T

which is the backward loop run the other way through time with W transposed: :func:`_linearized`.

Backward of backward. The backward loop is linear in ``g`` and ``d``. Let ``u_t`` be the gradient that arrives
at ``d_t``, ``c`` the one at ``dh_0``, and ``a_t = g_t + d_{t+1} W``, so that ``d_t = a_t f'(h_t)``. The
total gradient at ``d_t`` is its own plus what comes through ``a_{t-1}``::

    s_t = u_t + q_{t-1} W^T,    q_t = s_t * f'(h_t),    q_{-1} = c

the same linear loop. Then::

    dg = q,   dg_n = q_{T-1},   dW = sum_t d_t^T q_{t-1},   dh_t = s_t * a_t * f''  with f' = 1 - h^2: -2 h_t

(for relu f'' is zero). Tangents of backward. ``d_t`` moves with ``g``, ``W`` and, through f', with ``h``::

    d'_t = (g'_t + d_{t+1} W' + d'_{t+1} W) * f'(h_t) + e_t,    e_t = a_t f'' h'_t

With ``x_t = d'_t - e_t`` it is the backward loop again: ``x_t = (g'_t + d_{t+1} W' + e_{t+1} W + x_{t+1} W) f'(h_t)``.
So :class:`Backpropagation` is closed under differentiation, forward and backward.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from . import library
from .matmul import project, project_input, sum_by_head, sum_of_products, times
from .modes import entry, is_differentiated, is_recorded
from .registry import register_autograd
from .schema import NONLINEARITIES, LayerArgs, RecurrenceArgs
from .sequence import (
    Extents,
    Layout,
    add_to_last,
    previous,
    take_last,
    with_contiguous_features,
)
from .tokens import is_ids

TANH = NONLINEARITIES["tanh"]


class _Loop(NamedTuple):
    """A forward loop that has run, its output as (T, B, H) or flat, its state as (B, H)."""

    weight_hh: Tensor
    h_0: Tensor | None
    extents: Extents
    output: Tensor
    nonlinearity: int
    reverse: bool
    state_grad_clip: float | None


def _save(ctx, *tensors):
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)
    ctx.set_materialize_grads(False)


def _sum(*terms):
    """Of those that are there; None if there are none."""
    terms = [term for term in terms if term is not None]
    return sum(terms[1:], terms[0]) if terms else None


def _weight_gradient(d, h, h_0, weight_hh, extents, reverse):
    """``sum_t d_t^T h_{t-1}``: one product over all steps, and a small one for h_0."""
    if extents.is_padded():
        # h_{t-1} is a slice: nothing is copied.
        now, before, first = (d[:-1], h[1:], d[-1]) if reverse else (d[1:], h[:-1], d[0])
        gradient = sum_by_head(now, before, weight_hh)
        return gradient if h_0 is None else gradient + sum_by_head(first, h_0, weight_hh)
    return sum_by_head(d, previous(h, h_0, extents, reverse), weight_hh)


def _linearized(u, c, output, weight_hh, extents, nonlinearity, reverse):
    """``q_t = (u_t + q_{t-1} W^T) * f'(h_t)`` with ``q_{-1} = c``, in the direction of the forward loop."""
    q, _ = backpropagation(
        u, None if c is None else times(c, weight_hh.mT), output, weight_hh.mT,
        *extents, nonlinearity, not reverse, None, False,
    )  # fmt: skip
    return q


def _tangents(loop, u, weight_tangent, h_0_tangent):
    """Those of a loop's output and last state; u is what moves p."""
    weight_hh, h_0, extents, output, nonlinearity, reverse, state_grad_clip = loop
    if state_grad_clip is not None:
        raise RuntimeError(
            "state_grad_clip clips gradients that flow backward: forward-mode derivatives have none"
        )
    if weight_tangent is not None:
        u = _sum(u, times(previous(output, h_0, extents, reverse), weight_tangent.mT))
    if u is None and h_0_tangent is None:
        return None, None
    q = _linearized(u, h_0_tangent, output, weight_hh, extents, nonlinearity, reverse)
    return q, take_last(q, h_0_tangent, extents, reverse)


def _through_time(loop, grad_output, grad_h_n, needs_weight, needs_h_0, backpropagate):
    """``(d, grad_weight_hh, grad_h_0)`` of a loop; None for a gradient that is not needed."""
    weight_hh, h_0, extents, output, nonlinearity, reverse, state_grad_clip = loop
    # The graph of this gradient is recorded only for a second derivative.
    d, grad_h_0 = backpropagate(
        grad_output, grad_h_n, output, weight_hh, *extents,
        nonlinearity, reverse, state_grad_clip, needs_h_0,
    )  # fmt: skip
    grad_weight = None
    if needs_weight:
        grad_weight = _weight_gradient(d, output, h_0, weight_hh, extents, reverse)
    return d, grad_weight, grad_h_0 if needs_h_0 else None


class Recurrence(torch.autograd.Function):
    """The op ``recurrence``."""

    generate_vmap_rule = True
    forward = staticmethod(library.recurrence)

    @staticmethod
    def setup_context(ctx, inputs, output):
        args = RecurrenceArgs(*inputs)
        ctx.options = args[5:]
        _save(ctx, args.weight_hh, args.h_0, args.batch_sizes, args.lengths, output[0])

    @staticmethod
    def jvp(ctx, projections_tangent, weight_tangent, h_0_tangent, *_):
        layout, loop = _recurrence_loop(*ctx.saved_tensors, *ctx.options)
        q, last = _tangents(
            loop, layout.time_major(projections_tangent), weight_tangent, h_0_tangent
        )
        return layout.restore(q), last

    @staticmethod
    def backward(ctx, grad_output, grad_h_n):
        if grad_output is None and grad_h_n is None:
            return RecurrenceArgs()
        needs = ctx.needs_input_grad[:3]
        weight_hh, h_0, batch_sizes, lengths, output = ctx.saved_tensors
        arguments = (
            grad_output, grad_h_n, output, weight_hh, h_0, batch_sizes, lengths, *ctx.options,
            *needs[1:],
        )  # fmt: skip
        if is_recorded() and not is_differentiated():
            gradients = torch.ops.rnnfused.recurrence_gradients(*arguments)
        else:
            gradients = recurrence_gradients(backpropagation, *arguments)
        return RecurrenceArgs(
            *(
                gradient if needed else None
                for gradient, needed in zip(gradients, needs, strict=True)
            )
        )


def _recurrence_loop(weight_hh, h_0, batch_sizes, lengths, output, time_dim, *options):
    """``(layout, loop)`` of a recurrence that has run."""
    extents = Extents(batch_sizes, lengths)
    layout = Layout.of(output.dim() - 1, extents, time_dim)
    return layout, _Loop(weight_hh, h_0, extents, layout.time_major(output), *options)


def recurrence_gradients(
    backpropagate, grad_output, grad_h_n, output, weight_hh, h_0, batch_sizes, lengths, time_dim,
    nonlinearity, reverse, state_grad_clip, needs_weight_hh, needs_h_0,
):  # fmt: skip
    """``(grad_projections, grad_weight_hh, grad_h_0)``; ``backpropagate`` as for :func:`layer_gradients`."""
    layout, loop = _recurrence_loop(
        weight_hh, h_0, batch_sizes, lengths, output, time_dim, nonlinearity, reverse,
        state_grad_clip,
    )  # fmt: skip
    d, grad_weight_hh, grad_h_0 = _through_time(
        loop, layout.time_major(grad_output), grad_h_n, needs_weight_hh, needs_h_0, backpropagate
    )
    return layout.restore(d), grad_weight_hh, grad_h_0


class Layer(torch.autograd.Function):
    """The op ``layer``: the recurrence with its input projection ``p = x W_ih^T + b``.

    x may be token ids, for one-hot rows; b is the sum of the biases that are given.
    """

    generate_vmap_rule = True
    forward = staticmethod(library.layer)

    @staticmethod
    def setup_context(ctx, inputs, output):
        args = LayerArgs(*inputs)
        ctx.options = args[8:]
        _save(
            ctx, args.input, args.weight_ih, args.weight_hh, args.h_0, args.batch_sizes,
            args.lengths, output[0],
        )  # fmt: skip

    @staticmethod
    def jvp(ctx, input_tangent, weight_ih_tangent, bias_ih, bias_hh, weight_hh, h_0, *_):
        layout, input, weight_ih, loop = _layer_loop(*ctx.saved_tensors, *ctx.options)
        u = None
        if weight_ih_tangent is not None:
            u = project_input(input, weight_ih_tangent)
        if input_tangent is not None:
            u = _sum(u, project(layout.time_major(input_tangent), weight_ih))
        bias = _sum(bias_ih, bias_hh)
        if bias is not None:
            u = bias.expand_as(loop.output) if u is None else u + bias
        q, last = _tangents(loop, u, weight_hh, layout.loop_state(h_0))
        return layout.restore(q), layout.layer_state(last)

    @staticmethod
    def backward(ctx, grad_output, grad_h_n):
        if grad_output is None and grad_h_n is None:
            return LayerArgs()
        needs = LayerArgs(*ctx.needs_input_grad[: len(LayerArgs._fields)])
        wanted = (
            needs.input, needs.weight_ih, needs.bias_ih or needs.bias_hh, needs.weight_hh, needs.h_0,
        )  # fmt: skip
        input, weight_ih, weight_hh, h_0, batch_sizes, lengths, output = ctx.saved_tensors
        backward = _differentiable_layer_backward if is_differentiated() else library.layer_backward
        gradients = backward(
            with_contiguous_features(grad_output), with_contiguous_features(grad_h_n), output, input,
            weight_ih, weight_hh, h_0, batch_sizes, lengths, *ctx.options, *wanted,
        )  # fmt: skip
        grad_input, grad_weight_ih, grad_bias, grad_weight_hh, grad_h_0 = (
            gradient if needed else None for gradient, needed in zip(gradients, wanted, strict=True)
        )
        # Equal, but of its own memory: either may be changed in place.
        grad_bias_hh = grad_bias.clone() if needs.bias_ih and needs.bias_hh else grad_bias
        return LayerArgs(
            grad_input,
            grad_weight_ih,
            grad_bias if needs.bias_ih else None,
            grad_bias_hh if needs.bias_hh else None,
            grad_weight_hh,
            grad_h_0,
        )


def _layer_loop(
    input, weight_ih, weight_hh, h_0, batch_sizes, lengths, output, time_dim, *options
):  # fmt: skip
    """``(layout, input, weight_ih, loop)`` of a layer that has run, its input as (T, B, ..) or flat."""
    extents = Extents(batch_sizes, lengths)
    layout = Layout.of(output.dim() - 1, extents, time_dim)
    loop = _Loop(
        weight_hh, layout.loop_state(h_0), extents, layout.time_major(output), *options
    )  # fmt: skip
    return layout, layout.time_major(input), weight_ih, loop


def layer_gradients(
    backpropagate, grad_output, grad_h_n, output, input, weight_ih, weight_hh, h_0, batch_sizes,
    lengths, time_dim, nonlinearity, reverse, state_grad_clip, needs_input, needs_weight_ih,
    needs_bias, needs_weight_hh, needs_h_0,
):  # fmt: skip
    """The op ``layer_backward`` as products beside a backward loop; None where a gradient is not needed.

    ``backpropagate`` is called as the op ``recurrence_backward``.
    """
    layout, input, weight_ih, loop = _layer_loop(
        input, weight_ih, weight_hh, h_0, batch_sizes, lengths, output, time_dim, nonlinearity,
        reverse, state_grad_clip,
    )  # fmt: skip
    d, grad_weight_hh, grad_h_0 = _through_time(
        loop, layout.time_major(grad_output), layout.loop_state(grad_h_n), needs_weight_hh,
        needs_h_0, backpropagate,
    )  # fmt: skip
    grad_weight_ih = None
    if needs_weight_ih and not is_ids(input):
        grad_weight_ih = sum_of_products(d, input)
    elif needs_weight_ih:  # the sum of one-hot rows
        table = d.new_zeros(weight_ih.t().shape)
        grad_weight_ih = table.index_add(0, input.flatten(), d.flatten(0, -2)).t()
    return (
        layout.restore(project(d, weight_ih.t())) if needs_input else None,
        grad_weight_ih,
        d.flatten(0, -2).sum(0) if needs_bias else None,
        grad_weight_hh,
        layout.layer_state(grad_h_0) if needs_h_0 else None,
    )


def _differentiable_layer_backward(*arguments):
    """The op ``layer_backward``, with a graph of its own for the next derivative."""
    return layer_gradients(backpropagation, *arguments)


class Backpropagation(torch.autograd.Function):
    """The op ``recurrence_backward``: ``(g, g_n, output, weight_hh, ..) -> (d, dh_0)``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(grad_output, grad_h_n, *others):
        return library.recurrence_backward(
            with_contiguous_features(grad_output), with_contiguous_features(grad_h_n), *others
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.nonlinearity, ctx.reverse, ctx.state_grad_clip, ctx.needs_grad_h_0 = inputs
        _save(ctx, *tensors, output[0])

    @staticmethod
    def jvp(ctx, grad_output, grad_h_n, output_tangent, weight_tangent, *_):
        _check_not_clipped(ctx)
        _, _, output, weight_hh, *extents, d = ctx.saved_tensors
        extents = Extents(*extents)
        after = previous(d, None, extents, not ctx.reverse)  # d_{t+1}
        e = None
        if output_tangent is not None and ctx.nonlinearity == TANH:
            e = -2 * output * _before_f(ctx, after) * output_tangent
            e_after = previous(e, None, extents, not ctx.reverse)
            grad_output = _sum(grad_output, times(e_after, weight_hh))
        if weight_tangent is not None:
            grad_output = _sum(grad_output, times(after, weight_tangent))
        if grad_output is None and grad_h_n is None:
            return e, None
        x, grad_h_0 = backpropagation(
            grad_output, grad_h_n, output, weight_hh, *extents,
            ctx.nonlinearity, ctx.reverse, None, ctx.needs_grad_h_0,
        )  # fmt: skip
        if ctx.needs_grad_h_0:
            last = not ctx.reverse
            through_e = None if e is None else times(take_last(e, None, extents, last), weight_hh)
            through_weight = None
            if weight_tangent is not None:
                through_weight = times(take_last(d, None, extents, last), weight_tangent)
            grad_h_0 = _sum(grad_h_0, through_e, through_weight)
        return _sum(x, e), grad_h_0

    @staticmethod
    def backward(ctx, u, c):
        _check_not_clipped(ctx)
        _, _, output, weight_hh, *extents, d = ctx.saved_tensors
        extents = Extents(*extents)
        needs_grad_output, needs_grad_h_n, needs_output, needs_weight = ctx.needs_input_grad[:4]
        if not ctx.needs_grad_h_0:
            c = None
        grads = [None] * 10
        if u is None and c is None:
            return tuple(grads)
        q = _linearized(u, c, output, weight_hh, extents, ctx.nonlinearity, ctx.reverse)
        if needs_grad_output:
            grads[0] = q
        if needs_grad_h_n:
            grads[1] = take_last(q, c, extents, ctx.reverse)
        if needs_output and ctx.nonlinearity == TANH:
            a = _before_f(ctx, previous(d, None, extents, not ctx.reverse))
            s = _sum(times(previous(q, c, extents, ctx.reverse), weight_hh.mT), u)
            grads[2] = -2 * output * a * s
        if needs_weight:
            grads[3] = _weight_gradient(d, q, c, weight_hh, extents, ctx.reverse)
        return tuple(grads)


def _before_f(ctx, after):
    """``a_t = g_t + d_{t+1} W`` of a backward loop, with g_n at a row's last step."""
    grad_output, grad_h_n, _, weight_hh, *extents, _ = ctx.saved_tensors
    a = _sum(times(after, weight_hh), grad_output)
    if grad_h_n is None:
        return a
    return add_to_last(a, grad_h_n, Extents(*extents), ctx.reverse)


def _check_not_clipped(ctx):
    if ctx.state_grad_clip is not None:
        raise RuntimeError(
            "state_grad_clip makes a gradient that is not a function's: it has no derivative; "
            "leave it out where second derivatives are taken"
        )


def _register(function, op):
    # For calls that are recorded as ops.
    register_autograd(op, function.backward, setup_context=function.setup_context)
    return op


_ops = torch.ops.rnnfused
recurrence = entry(Recurrence, _register(Recurrence, _ops.recurrence.default))
backpropagation = entry(
    Backpropagation, _register(Backpropagation, _ops.recurrence_backward.default)
)
# Its one caller asks itself whether calls are recorded.
layer, recorded_layer = entry(Layer), _register(Layer, _ops.layer.default)
