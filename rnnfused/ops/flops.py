"""The floating-point operations of the ops, for :class:`torch.utils.flop_counter.FlopCounterMode`.

As for torch's own operators, matrix products alone count: two operations per multiply-add. Rows count in full,
whatever their lengths.
"""

import logging
from math import prod

import torch

from .registry import once
from .schema import LayerArgs, LayerBackwardArgs, RecurrenceBackwardArgs

_log = logging.getLogger("torch.utils.flop_counter")
_log.disabled = True  # its warning of a missing triton is noise here
from torch.utils.flop_counter import register_flop_formula  # noqa: E402 (now that it is quiet)

_log.disabled = False
register_flop_formula = once(register_flop_formula)


def _rows(shape):
    """The rows of all steps."""
    return prod(shape[:-1])


def _loop(rows, weight_hh):
    return 2 * rows * prod(weight_hh)  # of a weight with heads, the blocks alone


def _loop_backward(output, weight_hh, state, needs_h_0):
    """Without the product of the first step, whose result is the gradient of h_0, unless that is needed."""
    rows = _rows(output)
    if not needs_h_0:
        # A packed batch's number of rows is known from a state alone.
        rows -= output[1] if len(output) == 3 else _rows(state) if state else 0
    return _loop(rows, weight_hh)


def _projection(rows, weight_ih, input, output):
    """A lookup of token ids has no products, and projections as the input need none."""
    has_ids = input is not None and len(input) < len(output)
    return 0 if weight_ih is None or has_ids else 2 * rows * prod(weight_ih)


@register_flop_formula(torch.ops.rnnfused.layer)
def _(*shapes, out_shape, **__):
    args = LayerArgs(*shapes)
    output, rows = out_shape[0], _rows(out_shape[0])
    return _loop(rows, args.weight_hh) + _projection(rows, args.weight_ih, args.input, output)


@register_flop_formula(torch.ops.rnnfused.layer_backward)
def _(*shapes, **__):
    args = LayerBackwardArgs(*shapes)
    output, rows = args.output, _rows(args.output)
    projection = _projection(rows, args.weight_ih, args.input, output)
    if args.time_dim == 1:
        output = (output[1], output[0], output[2])
    loop = _loop_backward(output, args.weight_hh, args.h_0 or args.grad_h_n, args.needs_h_0)
    weight = _loop(rows, args.weight_hh) if args.needs_weight_hh else 0
    return loop + weight + (args.needs_input + args.needs_weight_ih) * projection


@register_flop_formula(torch.ops.rnnfused.recurrence_backward)
def _(*shapes, **__):
    args = RecurrenceBackwardArgs(*shapes)
    return _loop_backward(args.output, args.weight_hh, args.grad_h_n, args.needs_h_0)


@register_flop_formula(torch.ops.rnnfused.project)
def _(input, weight, *_, **__):
    return 2 * prod(input) * weight[0]


@register_flop_formula(torch.ops.rnnfused.sum_of_products)
def _(left, right, **__):
    return 2 * prod(left) * right[-1]
