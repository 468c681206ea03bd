"""The sizes, strides and dtypes of the ops' results, for meta tensors and torch's compilers."""

import torch

from . import composite
from .both_directions import split
from .modes import is_fake
from .named_arguments import (
    BothDirectionsArgs,
    LayerArgs,
    LayerBackwardArgs,
    RecurrenceBackwardArgs,
)
from .registry import register_fake
from .sequence import Extents, Layout, new_sequence
from .tokens import is_ids


def _batch_size(sequence, layout, state, extents):
    if state is not None and extents.batch_sizes is not None:
        return state.size(-2)
    # A fake batch lacks values: its size is a new unknown.
    if extents.batch_sizes is not None and is_fake(extents.batch_sizes):
        return torch.library.get_ctx().new_dynamic_size()
    return layout.batch_size(sequence, extents)


def _check_together(*tensors, sizes=()):
    # A call that mixes in a meta tensor comes here: what it would return has never been computed.
    devices = sorted({str(x.device) for x in tensors if x is not None})
    if len(devices) > 1:
        raise RuntimeError(f"all tensors must be on one device, got {' and '.join(devices)}")
    if any(x is not None and x.device.type != "cpu" for x in sizes):
        raise RuntimeError("batch_sizes and lengths must be on the CPU")


@register_fake("rnnfused::layer")
def _(*arguments):
    args = LayerArgs(*arguments)
    _check_together(*args[:6], sizes=(args.batch_sizes, args.lengths))
    extents = Extents(args.batch_sizes, args.lengths)
    has_ids = args.weight_ih is not None and is_ids(args.input)
    rows = args.input.shape if has_ids else args.input.shape[:-1]
    layout = Layout.of(len(rows), extents, args.time_dim)
    if args.weight_ih is None:
        output = new_sequence(args.input)
    else:
        output = args.weight_hh.new_empty((*rows, args.weight_ih.size(0)))
    batch_size = _batch_size(args.input, layout, args.h_0, extents)
    h_n = output.new_empty(layout.state_shape(batch_size, output.size(-1)))
    return output, h_n


@register_fake("rnnfused::recurrence_backward")
def _(*arguments):
    args = RecurrenceBackwardArgs(*arguments)
    _check_together(*args[:4], sizes=(args.batch_sizes, args.lengths))
    grad_h_0 = args.output.new_empty(0)
    if args.needs_h_0:
        extents = Extents(args.batch_sizes, args.lengths)
        layout = Layout.of(args.output.dim() - 1, extents, 0)
        batch_size = _batch_size(args.output, layout, args.grad_h_n, extents)
        grad_h_0 = args.output.new_empty(layout.state_shape(batch_size, args.output.size(-1)))
    return new_sequence(args.output), grad_h_0


@register_fake("rnnfused::layer_backward")
def _(*arguments):
    args = LayerBackwardArgs(*arguments)
    _check_together(*args[:7], sizes=(args.batch_sizes, args.lengths))
    output = args.output
    hidden_size = output.size(-1)

    def wanted(needed, *shape):
        return output.new_empty(shape if needed else (0,))

    grad_weight_ih = output.new_empty(0)
    if args.needs_weight_ih:
        grad_weight_ih = output.new_empty(args.weight_ih.shape)
    grad_h_0 = output.new_empty(0)
    if args.needs_h_0:
        extents = Extents(args.batch_sizes, args.lengths)
        layout = Layout.of(output.dim() - 1, extents, args.time_dim)
        state = args.h_0 if args.grad_h_n is None else args.grad_h_n
        batch_size = _batch_size(output, layout, state, extents)
        grad_h_0 = output.new_empty(layout.state_shape(batch_size, hidden_size))
    grad_input = output.new_empty(0)
    if args.needs_input and args.weight_ih is None:
        grad_input = new_sequence(output)
    elif args.needs_input:
        grad_input = output.new_empty((*output.shape[:-1], args.input.size(-1)))
    return (
        grad_input,
        grad_weight_ih,
        wanted(args.needs_weight_hh, *args.weight_hh.shape),
        wanted(args.needs_bias, hidden_size),
        grad_h_0,
    )


@register_fake("rnnfused::both_directions")
def _(*arguments):
    args = BothDirectionsArgs(*arguments)
    if args.h_0 is not None and args.h_0.size(0) != 2:
        raise RuntimeError(f"h_0 must have 2 states, got {args.h_0.size(0)}")
    first, second = split(args)
    (output, h_n), (other, _) = (torch.ops.rnnfused.layer(*each) for each in (first, second))
    if other.shape != output.shape or first.weight_hh.shape != second.weight_hh.shape:
        raise RuntimeError("both directions must have the same hidden size")
    hidden_size = output.size(-1)
    return (
        output.new_empty((*output.shape[:-1], 2 * hidden_size)),
        h_n.new_empty((2, *h_n.shape[1:])),
    )


register_fake("rnnfused::both_directions_backward")(composite.both_directions_backward)


@register_fake("rnnfused::project")
def _(input, weight, bias):
    _check_together(input, weight, bias)
    return input.new_empty((input.size(0), weight.size(0)))


@register_fake("rnnfused::sum_of_products")
def _(left, right):
    _check_together(left, right)
    return left.new_empty((left.size(2), right.size(2)))


@register_fake("rnnfused::pack_generator")
def _(table, weights_hh, weights_ih, biases, head_weight, head_bias):
    _check_together(table, weights_hh, weights_ih, biases, head_weight, head_bias)
    num_layers, hidden_size, _ = weights_hh.shape
    vocab_size = table.size(0)

    def padded(size):  # GeneratorSizes in csrc/generation.h
        return (size + 31) // 32 * 32

    square = (hidden_size + 1) * padded(hidden_size)
    layers = square + (num_layers - 1) * (padded(hidden_size) + 2 * square)
    head = (hidden_size + 2) * padded(vocab_size)
    elements = vocab_size * padded(hidden_size) + layers + head
    return table.new_empty(elements * table.element_size(), dtype=torch.uint8)


@register_fake("rnnfused::generate")
def _(packed, states, ids, streams, vocab_size, nonlinearity, num_symbols, *others):
    _check_together(packed, states, ids, streams)
    return ids.new_empty((ids.size(0), num_symbols)), torch.empty_like(states)


@register_fake("rnnfused::run_prepared")
def _(packed, input, states, input_size, time_dim, nonlinearity):
    _check_together(packed, input, states)
    rows = input.shape if is_ids(input) else input.shape[:-1]
    return states.new_empty((*rows, states.size(2))), torch.empty_like(states)
