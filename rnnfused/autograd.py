"""The gradient of the recurrence, to any order, from two fused loops.

Forward:  ``h_t = f(p_t + h_{t-1} W^T)``.
Backward, through time (Werbos 1990), with ``g`` the gradient at the outputs and ``g_n`` at the last state::

    d_t = (g_t + d_{t+1} W) * f'(h_t)         d_{T-1} also receives g_n
    dp = d,   dh_0 = d_0 W,   dW = sum_t d_t^T h_{t-1}

Backward of backward. The loop above is linear in ``g`` and ``d``. Let ``u_t`` be the gradient that arrives
at ``d_t``, ``c`` the one at ``dh_0``, and ``a_t = g_t + d_{t+1} W``, so that ``d_t = a_t f'(h_t)``. The
total gradient at ``d_t`` is its own plus what comes through ``a_{t-1}``::

    s_t = u_t + q_{t-1} W^T,    q_t = s_t * f'(h_t),    q_{-1} = c

which is the backward loop again, run the other way through time with W transposed. Then::

    dg = q,   dg_n = q_{T-1},   dW = sum_t d_t^T q_{t-1},   dh_t = s_t * a_t * f''  with f' = 1 - h^2: -2 h_t

(for relu f'' is zero), so :class:`Backpropagation` is closed under differentiation.
"""

import torch

from . import op
from .custom_function import run
from .products import project, sum_of_products
from .steps import add_to_last, previous, take_last, with_contiguous_features


def _weight_gradient(d, h, h_0, batch_sizes, reverse):
    """``sum_t d_t^T h_{t-1}``: one product over all steps, and a small one for h_0."""
    if batch_sizes is None:
        # h_{t-1} is a slice: nothing is copied.
        now, before, first = (d[:-1], h[1:], d[-1]) if reverse else (d[1:], h[:-1], d[0])
        gradient = sum_of_products(now, before)
        return gradient if h_0 is None else gradient + first.t() @ h_0
    return sum_of_products(d, previous(h, h_0, batch_sizes, reverse))


def _through_time(ctx, grad_output, grad_h_n, needs_weight, needs_h_0):
    """``(d, grad_weight_hh, grad_h_0)`` of a loop that saved weight_hh, h_0, batch_sizes and output last."""
    weight_hh, h_0, batch_sizes, output = ctx.saved_tensors[-4:]
    if h_0 is not None and h_0.dim() == 3:
        h_0 = h_0.squeeze(0)
    if grad_output is None and grad_h_n is None:
        return None, None, None
    # The graph of this gradient is recorded only for a second derivative.
    d, grad_h_0 = run(
        Backpropagation, grad_output, grad_h_n, output, weight_hh, batch_sizes,
        ctx.nonlinearity, ctx.reverse, needs_h_0,
    )  # fmt: skip
    grad_weight = None
    if needs_weight:
        grad_weight = _weight_gradient(d, output, h_0, batch_sizes, ctx.reverse)
    return d, grad_weight, grad_h_0 if needs_h_0 else None


class Recurrence(torch.autograd.Function):
    """``(projections, weight_hh, h_0, batch_sizes, nonlinearity, reverse) -> (output, h_n)``."""

    @staticmethod
    def forward(projections, weight_hh, h_0, batch_sizes, nonlinearity, reverse):
        return op.forward(projections, weight_hh, h_0, batch_sizes, nonlinearity, reverse)

    @staticmethod
    def setup_context(ctx, inputs, outputs):
        _, weight_hh, h_0, batch_sizes, ctx.nonlinearity, ctx.reverse = inputs
        ctx.save_for_backward(weight_hh, h_0, batch_sizes, outputs[0])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, grad_output, grad_h_n):
        needs_projections, needs_weight, needs_h_0 = ctx.needs_input_grad[:3]
        d, *others = _through_time(ctx, grad_output, grad_h_n, needs_weight, needs_h_0)
        return (d if needs_projections else None, *others, None, None, None)


class Layer(torch.autograd.Function):
    """The recurrence with its input projection ``p = x W_ih^T + b``; x may be token ids, for one-hot rows.

    ``(x, weight_ih, bias_ih, bias_hh, weight_hh, h_0, batch_sizes, nonlinearity, reverse) -> (output, h_n)``;
    b is the sum of the biases that are there, and the states are (1, B, H), as a layer's of several.
    """

    @staticmethod
    def forward(*arguments):
        return op.layer_forward(*arguments)

    @staticmethod
    def setup_context(ctx, inputs, outputs):
        input, weight_ih, _, _, weight_hh, h_0, batch_sizes, ctx.nonlinearity, ctx.reverse = inputs
        ctx.save_for_backward(input, weight_ih, weight_hh, h_0, batch_sizes, outputs[0])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, grad_output, grad_h_n):
        if grad_output is None and grad_h_n is None:
            return (None,) * 9
        needs_input, needs_weight_ih, needs_bias_ih, needs_bias_hh, *needs = ctx.needs_input_grad[
            :6
        ]
        needs_bias = needs_bias_ih or needs_bias_hh
        needs = (needs_input, needs_weight_ih, needs_bias, *needs)
        if torch.is_grad_enabled():
            gradients = _differentiable_layer_backward(ctx, grad_output, grad_h_n, *needs)
        else:
            input, weight_ih, weight_hh, h_0, batch_sizes, output = ctx.saved_tensors
            gradients = op.layer_backward(
                with_contiguous_features(grad_output), with_contiguous_features(grad_h_n), output,
                input, weight_ih, weight_hh, h_0, batch_sizes, ctx.nonlinearity, ctx.reverse, *needs,
            )  # fmt: skip
        grad_input, grad_weight_ih, grad_bias, grad_weight_hh, grad_h_0 = (
            gradient if needed else None for gradient, needed in zip(gradients, needs, strict=True)
        )
        return (
            grad_input, grad_weight_ih, grad_bias if needs_bias_ih else None,
            grad_bias if needs_bias_hh else None, grad_weight_hh, grad_h_0, None, None, None,
        )  # fmt: skip


def _differentiable_layer_backward(
    ctx, grad_output, grad_h_n, needs_input, needs_weight_ih, needs_bias, needs_weight_hh, needs_h_0
):
    """As the op ``layer_backward``, with a graph of its own for the next derivative."""
    grad_h_n = None if grad_h_n is None else grad_h_n.squeeze(0)
    d, grad_weight_hh, grad_h_0 = _through_time(
        ctx, grad_output, grad_h_n, needs_weight_hh, needs_h_0
    )
    input, weight_ih = ctx.saved_tensors[:2]
    grad_weight_ih = None
    if needs_weight_ih and input.is_floating_point():
        grad_weight_ih = sum_of_products(d, input)
    elif needs_weight_ih:  # token ids: the sum of one-hot rows
        table = d.new_zeros(weight_ih.t().shape)
        grad_weight_ih = table.index_add(0, input.flatten(), d.flatten(0, -2)).t()
    return (
        project(d, weight_ih.t()) if needs_input else None,
        grad_weight_ih,
        d.flatten(0, -2).sum(0) if needs_bias else None,
        grad_weight_hh,
        grad_h_0.unsqueeze(0) if needs_h_0 else None,
    )


class Backpropagation(torch.autograd.Function):
    """``(g, g_n, output, weight_hh, batch_sizes, nonlinearity, reverse, needs_grad_h_0) -> (d, dh_0)``."""

    @staticmethod
    def forward(
        grad_output, grad_h_n, output, weight_hh, batch_sizes, nonlinearity, reverse, needs_grad_h_0
    ):
        return op.backward(
            with_contiguous_features(grad_output), with_contiguous_features(grad_h_n), output,
            weight_hh, batch_sizes, nonlinearity, reverse, needs_grad_h_0,
        )  # fmt: skip

    @staticmethod
    def setup_context(ctx, inputs, outputs):
        grad_output, grad_h_n, output, weight_hh, batch_sizes = inputs[:5]
        ctx.nonlinearity, ctx.reverse, ctx.needs_grad_h_0 = inputs[5:]
        ctx.save_for_backward(grad_output, grad_h_n, output, weight_hh, batch_sizes, outputs[0])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, u, c):
        grad_output, grad_h_n, output, weight_hh, batch_sizes, d = ctx.saved_tensors
        needs_grad_output, needs_grad_h_n, needs_output, needs_weight = ctx.needs_input_grad[:4]
        if not ctx.needs_grad_h_0:
            c = None
        grads = [None] * 8
        if u is None and c is None:
            return tuple(grads)
        q, _ = Backpropagation.apply(
            u, None if c is None else c @ weight_hh.t(), output, weight_hh.t(), batch_sizes,
            ctx.nonlinearity, not ctx.reverse, False,
        )  # fmt: skip
        if needs_grad_output:
            grads[0] = q
        if needs_grad_h_n:
            grads[1] = take_last(q, batch_sizes, ctx.reverse)
        if needs_output and ctx.nonlinearity == "tanh":
            a = previous(d, None, batch_sizes, not ctx.reverse) @ weight_hh
            if grad_output is not None:
                a = a + grad_output
            if grad_h_n is not None:
                a = add_to_last(a, grad_h_n, batch_sizes, ctx.reverse)
            s = previous(q, c, batch_sizes, ctx.reverse) @ weight_hh.t()
            if u is not None:
                s = s + u
            grads[2] = -2 * output * a * s
        if needs_weight:
            grads[3] = _weight_gradient(d, q, c, batch_sizes, ctx.reverse)
        return tuple(grads)
