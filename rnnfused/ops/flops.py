"""The floating-point operations of the ops, for :class:`torch.utils.flop_counter.FlopCounterMode`.

As for torch's own operators, those of matrix products alone: two a multiply-add. Rows are counted in full,
whatever their lengths.
"""

import logging
from math import prod

import torch

from .registry import once

_log = logging.getLogger("torch.utils.flop_counter")
_log.disabled = True  # it warns of a missing triton, of which nobody here asked
from torch.utils.flop_counter import register_flop_formula  # noqa: E402 (now that it is quiet)

_log.disabled = False
register_flop_formula = once(register_flop_formula)


def _states(shape):
    """Rows of all steps."""
    return prod(shape[:-1])


def _loop(rows, weight_hh):
    return 2 * rows * prod(weight_hh)  # of heads, their blocks alone


@register_flop_formula(torch.ops.rnnfused.recurrence)
def _(projections, weight_hh, *_, **__):
    return _loop(_states(projections), weight_hh)


def _loop_backward(output, weight_hh, state, needs_h_0):
    """Without the product of the first step, whose result is the gradient of h_0, unless that is needed."""
    rows = _states(output)
    if not needs_h_0:
        # The number of a packed batch's rows is known from a state alone.
        rows -= output[1] if len(output) == 3 else _states(state) if state else 0
    return _loop(rows, weight_hh)


@register_flop_formula(torch.ops.rnnfused.recurrence_backward)
def _(grad_output, grad_h_n, output, weight_hh, *options, **__):
    return _loop_backward(output, weight_hh, grad_h_n, options[-1])


@register_flop_formula(torch.ops.rnnfused.layer)
def _(input, weight_ih, bias_ih, bias_hh, weight_hh, *_, out_shape, **__):
    rows = _states(out_shape[0])
    is_ids = len(input) < len(out_shape[0])
    return _loop(rows, weight_hh) + (0 if is_ids else 2 * rows * prod(weight_ih))


@register_flop_formula(torch.ops.rnnfused.layer_backward)
def _(grad_output, grad_h_n, output, input, weight_ih, weight_hh, *options, **__):
    h_0, _, _, time_dim, *_ = options
    needs_input, needs_weight_ih, _, needs_weight_hh, needs_h_0 = options[-5:]
    rows = _states(output)
    is_ids = len(input) < len(output)
    projection = 0 if is_ids else 2 * rows * prod(weight_ih)
    if time_dim == 1:
        output = (output[1], output[0], output[2])
    loop = _loop_backward(output, weight_hh, h_0 or grad_h_n, needs_h_0)
    weight = _loop(rows, weight_hh) if needs_weight_hh else 0
    return loop + weight + (needs_input + needs_weight_ih) * projection


@register_flop_formula(torch.ops.rnnfused.project)
def _(input, weight, *_, **__):
    return 2 * prod(input) * weight[0]


@register_flop_formula(torch.ops.rnnfused.sum_of_products)
def _(left, right, **__):
    return 2 * prod(left) * right[-1]
