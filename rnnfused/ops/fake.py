"""What the ops return, without data: sizes, strides and dtypes, for meta tensors and for torch's compilers."""

import torch
from torch._subclasses.fake_tensor import FakeTensor

from .registry import register_fake
from .sequence import Extents, Layout, new_sequence
from .tokens import is_ids


def _batch_size(sequence, layout, state, batch_sizes, lengths):
    if lengths is not None:
        return lengths.size(0)
    if batch_sizes is None:
        return sequence.size(1 if layout.time_dim == 0 else 0) if layout.has_batch else 1
    if state is not None:
        return state.size(-2)
    # Data, which a fake has not: a new unknown.
    if isinstance(batch_sizes, FakeTensor):
        return torch.library.get_ctx().new_dynamic_size()
    return int(batch_sizes[0])


def _check_together(*tensors, sizes=()):
    # A call that mixes in a meta tensor comes here: what it would return has never been computed.
    devices = sorted({str(x.device) for x in tensors if x is not None})
    if len(devices) > 1:
        raise RuntimeError(f"all tensors must be on one device, got {' and '.join(devices)}")
    if any(x is not None and x.device.type != "cpu" for x in sizes):
        raise RuntimeError("batch_sizes and lengths must be on the CPU")


@register_fake("rnnfused::recurrence")
def _(
    projections, weight_hh, h_0, batch_sizes, lengths, time_dim, nonlinearity, reverse,
    state_grad_clip,
):  # fmt: skip
    _check_together(projections, weight_hh, h_0, sizes=(batch_sizes, lengths))
    layout = Layout.of(projections.dim() - 1, Extents(batch_sizes, lengths), time_dim)
    batch_size = _batch_size(projections, layout, h_0, batch_sizes, lengths)
    h_n = projections.new_empty((batch_size, projections.size(-1)))
    return new_sequence(projections), h_n


@register_fake("rnnfused::layer")
def _(
    input, weight_ih, bias_ih, bias_hh, weight_hh, h_0, batch_sizes, lengths, time_dim,
    nonlinearity, reverse, state_grad_clip,
):  # fmt: skip
    _check_together(
        input, weight_ih, bias_ih, bias_hh, weight_hh, h_0, sizes=(batch_sizes, lengths)
    )
    hidden_size = weight_ih.size(0)
    rows = input.shape if is_ids(input) else input.shape[:-1]
    layout = Layout.of(len(rows), Extents(batch_sizes, lengths), time_dim)
    batch_size = _batch_size(input, layout, h_0, batch_sizes, lengths)
    h_n = layout.layer_state(weight_hh.new_empty((batch_size, hidden_size)))
    return weight_hh.new_empty((*rows, hidden_size)), h_n


@register_fake("rnnfused::recurrence_backward")
def _(
    grad_output, grad_h_n, output, weight_hh, batch_sizes, lengths, nonlinearity, reverse,
    state_grad_clip, needs_grad_h_0,
):  # fmt: skip
    _check_together(grad_output, grad_h_n, output, weight_hh, sizes=(batch_sizes, lengths))
    rows = 0
    if needs_grad_h_0:
        layout = Layout.of(output.dim() - 1, Extents(batch_sizes, lengths), 0)
        rows = _batch_size(output, layout, grad_h_n, batch_sizes, lengths)
    return new_sequence(output), output.new_empty((rows, output.size(-1)))


@register_fake("rnnfused::layer_backward")
def _(
    grad_output, grad_h_n, output, input, weight_ih, weight_hh, h_0, batch_sizes, lengths, time_dim,
    nonlinearity, reverse, state_grad_clip, needs_input, needs_weight_ih, needs_bias,
    needs_weight_hh, needs_h_0,
):  # fmt: skip
    _check_together(
        grad_output,
        grad_h_n,
        output,
        input,
        weight_ih,
        weight_hh,
        h_0,
        sizes=(batch_sizes, lengths),
    )

    def wanted(needed, *shape):
        return output.new_empty(shape if needed else (0,))

    hidden_size, features = weight_ih.shape
    if needs_weight_ih and is_ids(input):  # stored by token, transposed
        grad_weight_ih = output.new_empty((features, hidden_size)).t()
    else:
        grad_weight_ih = wanted(needs_weight_ih, hidden_size, features)
    grad_h_0 = output.new_empty(0)
    if needs_h_0:
        layout = Layout.of(output.dim() - 1, Extents(batch_sizes, lengths), time_dim)
        state = layout.loop_state(h_0 if grad_h_n is None else grad_h_n)
        batch_size = _batch_size(output, layout, state, batch_sizes, lengths)
        grad_h_0 = layout.layer_state(output.new_empty((batch_size, hidden_size)))
    return (
        output.new_empty((*output.shape[:-1], input.size(-1)) if needs_input else 0),
        grad_weight_ih,
        wanted(needs_bias, hidden_size),
        wanted(needs_weight_hh, *weight_hh.shape),
        grad_h_0,
    )


@register_fake("rnnfused::project")
def _(input, weight, bias):
    _check_together(input, weight, bias)
    return input.new_empty((input.size(0), weight.size(0)))


@register_fake("rnnfused::sum_of_products")
def _(left, right):
    _check_together(left, right)
    return left.new_empty((left.size(2), right.size(2)))
