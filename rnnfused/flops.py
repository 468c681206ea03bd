"""The floating-point operations of the ops, for :class:`torch.utils.flop_counter.FlopCounterMode`.

As for torch's own operators, those of matrix products alone: two a multiply-add. Rows are counted in full,
whatever their lengths.
"""

import logging
from math import prod

import torch

_log = logging.getLogger("torch.utils.flop_counter")
_log.disabled = True  # it warns of a missing triton, of which nobody here asked
from torch.utils.flop_counter import register_flop_formula  # noqa: E402 (now that it is quiet)

_log.disabled = False


def _states(shape):
    """Rows of all steps."""
    return prod(shape[:-1])


def _loop(rows, weight_hh):
    return 2 * rows * prod(weight_hh)  # of heads, their blocks alone


@register_flop_formula(torch.ops.rnnfused.recurrence)
def _(projections, weight_hh, *_, **__):
    return _loop(_states(projections), weight_hh)


@register_flop_formula(torch.ops.rnnfused.recurrence_backward)
def _(grad_output, grad_h_n, output, weight_hh, *_, **__):
    return _loop(_states(output), weight_hh)


@register_flop_formula(torch.ops.rnnfused.layer)
def _(input, weight_ih, bias_ih, bias_hh, weight_hh, *_, out_shape, **__):
    rows = _states(out_shape[0])
    is_ids = len(input) < len(out_shape[0])
    return _loop(rows, weight_hh) + (0 if is_ids else 2 * rows * prod(weight_ih))


@register_flop_formula(torch.ops.rnnfused.layer_backward)
def _(grad_output, grad_h_n, output, input, weight_ih, weight_hh, *options, **__):
    needs_input, needs_weight_ih, _, needs_weight_hh, _ = options[-5:]
    rows = _states(output)
    is_ids = len(input) < len(output)
    projection = 0 if is_ids else 2 * rows * prod(weight_ih)
    loops = 2 if needs_weight_hh else 1
    return loops * _loop(rows, weight_hh) + (needs_input + needs_weight_ih) * projection


@register_flop_formula(torch.ops.rnnfused.project)
def _(input, weight, *_, **__):
    return 2 * prod(input) * weight[0]


@register_flop_formula(torch.ops.rnnfused.sum_of_products)
def _(left, right, **__):
    return 2 * prod(left) * right[-1]
