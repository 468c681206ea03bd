"""The floating-point operations of the ops, for :class:`torch.utils.flop_counter.FlopCounterMode`.

As for torch's own operators, matrix products alone count: two operations per multiply-add. Rows count in full,
whatever their lengths.
"""

import logging
from math import prod

import torch

from .both_directions import split, split_backward
from .named_arguments import (
    BothDirectionsArgs,
    BothDirectionsBackwardArgs,
    CrossEntropyArgs,
    LayerArgs,
    LayerBackwardArgs,
    RecurrenceBackwardArgs,
)
from .registry import once
from .sequence import Extents, Layout
from .tokens import is_ids

_log = logging.getLogger("torch.utils.flop_counter")
_log.disabled = True  # its warning of a missing triton is noise here
from torch.utils.flop_counter import register_flop_formula  # noqa: E402 (now that it is quiet)

_log.disabled = False
register_flop_formula = once(register_flop_formula)


def _loop(rows, weight_hh):
    return 2 * rows * weight_hh.numel()  # of a weight with heads, the blocks alone


def _rows(output):
    return prod(output.shape[:-1])


def _loop_backward(args, time_dim):
    """Counts the products at first steps only if the gradient of h_0 is needed."""
    rows = _rows(args.output)
    if not args.needs_h_0:
        extents = Extents(args.batch_sizes, args.lengths)
        layout = Layout.of(args.output.dim() - 1, extents, time_dim)
        rows -= layout.batch_size(args.output, extents)
    return _loop(rows, args.weight_hh)


def _projection(rows, weight_ih, input):
    """A lookup of token ids has no products, and projections as the input need none."""
    return 0 if weight_ih is None or is_ids(input) else 2 * rows * weight_ih.numel()


def _layer(args, rows):
    return _loop(rows, args.weight_hh) + _projection(rows, args.weight_ih, args.input)


@register_flop_formula(torch.ops.rnnfused.layer, get_raw=True)
def _(*arguments, out_val, **__):
    return _layer(LayerArgs(*arguments), _rows(out_val[0]))


@register_flop_formula(torch.ops.rnnfused.both_directions, get_raw=True)
def _(*arguments, out_val, **__):
    return sum(_layer(args, _rows(out_val[0])) for args in split(BothDirectionsArgs(*arguments)))


@register_flop_formula(torch.ops.rnnfused.layer_backward, get_raw=True)
def _(*arguments, **__):
    return _layer_backward(LayerBackwardArgs(*arguments))


@register_flop_formula(torch.ops.rnnfused.both_directions_backward, get_raw=True)
def _(*arguments, **__):
    return sum(map(_layer_backward, split_backward(BothDirectionsBackwardArgs(*arguments))))


def _layer_backward(args):
    rows = _rows(args.output)
    projection = _projection(rows, args.weight_ih, args.input)
    weight = _loop(rows, args.weight_hh) if args.needs_weight_hh else 0
    products = (args.needs_input + args.needs_weight_ih) * projection
    return _loop_backward(args, args.time_dim) + weight + products


@register_flop_formula(torch.ops.rnnfused.recurrence_backward, get_raw=True)
def _(*arguments, **__):
    return _loop_backward(RecurrenceBackwardArgs(*arguments), 0)


@register_flop_formula(torch.ops.rnnfused.project)
def _(input, weight, *_, **__):
    return 2 * prod(input) * weight[0]


@register_flop_formula(torch.ops.rnnfused.sum_of_products)
def _(left, right, **__):
    return 2 * prod(left) * right[-1]


@register_flop_formula(torch.ops.rnnfused.linear_cross_entropy, get_raw=True)
def _(*arguments, **__):
    args = CrossEntropyArgs(*arguments)
    products = 1 + args.needs_hidden + args.needs_weight
    return 2 * args.hidden.numel() * args.weight.size(0) * products
