"""What the ops return, without data: sizes, strides and dtypes, for meta tensors and for torch's compilers."""

import torch
from torch._subclasses.fake_tensor import FakeTensor

from .steps import new_sequence


def _batch_size(sequence, state, batch_sizes, lengths):
    if lengths is not None:
        return lengths.size(0)
    if batch_sizes is None:
        return sequence.size(1)
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


def _new_sequence(model, rows, features, like):
    # (T, B, features) with the batch outside the time in memory where `like` has it there; or (N, features).
    if len(rows) == 2 and like.size(1) > 1 and like.stride(0) < like.stride(1):
        return model.new_empty((*rows[::-1], features)).transpose(0, 1)
    return model.new_empty((*rows, features))


@torch.library.register_fake("rnnfused::forward")
def _(
    projections, weight_hh, h_0, batch_sizes, lengths, nonlinearity, reverse, state_grad_clip,
):  # fmt: skip
    _check_together(projections, weight_hh, h_0, sizes=(batch_sizes, lengths))
    batch_size = _batch_size(projections, h_0, batch_sizes, lengths)
    h_n = projections.new_empty((batch_size, projections.size(-1)))
    return new_sequence(projections), h_n


@torch.library.register_fake("rnnfused::layer_forward")
def _(
    input, weight_ih, bias_ih, bias_hh, weight_hh, h_0, batch_sizes, lengths, nonlinearity, reverse,
    state_grad_clip,
):  # fmt: skip
    _check_together(
        input, weight_ih, bias_ih, bias_hh, weight_hh, h_0, sizes=(batch_sizes, lengths)
    )
    batch_size = _batch_size(input, h_0, batch_sizes, lengths)
    hidden_size = weight_ih.size(0)
    rows = input.shape[:-1] if input.is_floating_point() else input.shape
    output = _new_sequence(weight_hh, rows, hidden_size, input)
    return output, weight_hh.new_empty((1, batch_size, hidden_size))


@torch.library.register_fake("rnnfused::backward")
def _(
    grad_output, grad_h_n, output, weight_hh, batch_sizes, lengths, nonlinearity, reverse,
    state_grad_clip, needs_grad_h_0,
):  # fmt: skip
    _check_together(grad_output, grad_h_n, output, weight_hh, sizes=(batch_sizes, lengths))
    rows = _batch_size(output, grad_h_n, batch_sizes, lengths) if needs_grad_h_0 else 0
    return new_sequence(output), output.new_empty((rows, output.size(-1)))


@torch.library.register_fake("rnnfused::layer_backward")
def _(
    grad_output, grad_h_n, output, input, weight_ih, weight_hh, h_0, batch_sizes, lengths,
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
    hidden_size = output.size(-1)
    weight_shape = (hidden_size, weight_ih.size(1))
    if not input.is_floating_point():  # token ids: by token, seen the other way round
        grad_weight_ih = output.new_empty(weight_shape[::-1] if needs_weight_ih else 0)
        grad_weight_ih = grad_weight_ih.t() if needs_weight_ih else grad_weight_ih
    else:
        grad_weight_ih = output.new_empty(weight_shape if needs_weight_ih else 0)
    state = h_0 if grad_h_n is None else grad_h_n
    rows = _batch_size(output, state, batch_sizes, lengths) if needs_h_0 else 0
    return (
        _new_sequence(input, input.shape[:-1], input.size(-1), output)
        if needs_input
        else output.new_empty(0),
        grad_weight_ih,
        output.new_empty(hidden_size if needs_bias else 0),
        output.new_empty(weight_hh.shape if needs_weight_hh else 0),
        output.new_empty((1, rows, hidden_size)),
    )


@torch.library.register_fake("rnnfused::project")
def _(input, weight, bias):
    _check_together(input, weight, bias)
    return input.new_empty((input.size(0), weight.size(0)))


@torch.library.register_fake("rnnfused::sum_of_products")
def _(left, right):
    _check_together(left, right)
    return left.new_empty((left.size(2), right.size(2)))
