"""The loops as one torch matrix product and one pointwise kernel per step, on any device.

They run (T, B, H) or packed rows where no fused kernel takes a call. On a GPU the fused kernels are compared with them.
"""

from typing import TypeVar

import torch
from torch import Tensor

from .matmul import times
from .nonlinearity import TANH
from .sequence import Extents, Layout, new_sequence

Step = TypeVar("Step")


def _steps(sequence: Tensor, batch_sizes: Tensor | None) -> list[Tensor]:
    """Views of the rows of every step."""
    return list(sequence.unbind(0) if batch_sizes is None else sequence.split(batch_sizes.tolist()))


def _in_order(steps: list[Step], ascending: bool) -> list[Step]:
    return steps if ascending else steps[::-1]


def batch_size(sequence: Tensor, batch_sizes: Tensor | None) -> int:
    """The rows of the whole batch of a (T, B, H) or packed sequence."""
    extents = Extents(batch_sizes)
    return Layout.of(sequence.dim() - 1, extents, 0).batch_size(sequence, extents)


def _add_product(to: Tensor, states: Tensor, weight: Tensor) -> None:
    if weight.dim() == 2:
        to.addmm_(states, weight)
    else:
        to += times(states, weight)


def advance(
    states: Tensor,
    h_n: Tensor,
    weight_hh: Tensor,
    h_0: Tensor | None,
    batch_sizes: Tensor | None,
    nonlinearity: int,
    reverse: bool,
) -> None:
    """The forward loop in place: ``states`` holds the projections and becomes the output; fills ``h_n``."""
    activate = torch.tanh_ if nonlinearity == TANH else torch.relu_
    h_n, h_0 = h_n[0], None if h_0 is None else h_0[0]
    last = states.new_empty(0, states.size(-1))
    for now in _in_order(_steps(states, batch_sizes), not reverse):
        going_on = min(now.size(0), last.size(0))
        if going_on:
            _add_product(now[:going_on], last[:going_on], weight_hh.mT)
        if now.size(0) > going_on and h_0 is not None:  # rows at their first step
            _add_product(now[going_on:], h_0[going_on : now.size(0)], weight_hh.mT)
        h_n[going_on : last.size(0)] = last[going_on:]
        last = activate(now)
    h_n[: last.size(0)] = last


def retreat(
    d: Tensor,
    grad_h_0: Tensor,
    weight_hh: Tensor,
    grad_h_n: Tensor | None,
    output: Tensor,
    batch_sizes: Tensor | None,
    nonlinearity: int,
    reverse: bool,
    state_grad_clip: float | None = None,
) -> None:
    """The backward loop in place: ``d`` holds grad_output and becomes grad_projections.

    Fills ``grad_h_0`` unless it is empty.
    """
    later = d.new_empty(0, d.size(-1))
    grad_h_0 = grad_h_0[0] if grad_h_0.size(0) else grad_h_0
    grad_h_n = None if grad_h_n is None else grad_h_n[0]
    steps = zip(_steps(d, batch_sizes), _steps(output, batch_sizes), strict=True)
    for now, h in _in_order(list(steps), reverse):
        going_on = min(now.size(0), later.size(0))
        if going_on:
            _add_product(now[:going_on], later[:going_on], weight_hh)
        if now.size(0) > going_on and grad_h_n is not None:  # rows at their last step
            now[going_on:] += grad_h_n[going_on : now.size(0)]
        if grad_h_0.size(0) and later.size(0) > going_on:
            grad_h_0[going_on : later.size(0)] = times(later[going_on:], weight_hh)
        if nonlinearity == TANH:
            torch.ops.aten.tanh_backward.grad_input(now, h, grad_input=now)
        else:
            torch.ops.aten.threshold_backward.grad_input(now, h, 0, grad_input=now)
        if state_grad_clip is not None:
            now.clamp_(-state_grad_clip, state_grad_clip)
        later = now
    if grad_h_0.size(0):
        grad_h_0[: later.size(0)] = times(later, weight_hh)


def run(loop, results, start, others, options) -> None:
    """``loop(*results, *others, *options)``, where the first result starts as ``start``, or as zeros."""
    fill(results[0], start)
    loop(*results, *others, *options)


def fill(tensor: Tensor, start: Tensor | None) -> None:
    tensor.zero_() if start is None else tensor.copy_(start)


def forward(projections, weight_hh, h_0, batch_sizes, nonlinearity, reverse, run=run):
    """``(output, h_n)`` of the forward loop, states as (1, B, H). ``run`` may be :mod:`rnnfused.cuda.graphs`'s."""
    output = new_sequence(projections)
    h_n = output.new_empty(1, batch_size(output, batch_sizes), output.size(-1))
    options = (batch_sizes, nonlinearity, reverse)
    run(advance, (output, h_n), projections, (weight_hh, h_0), options)
    return output, h_n


def backward(
    grad_output,
    grad_h_n,
    output,
    weight_hh,
    batch_sizes,
    nonlinearity,
    reverse,
    state_grad_clip,
    needs_h_0,
    run=run,
):
    """``(grad_projections, grad_h_0)`` of the backward loop, the latter empty unless needed; else as :func:`forward`."""
    d = new_sequence(output)
    rows = batch_size(output, batch_sizes)
    grad_h_0 = output.new_empty((1, rows, output.size(-1)) if needs_h_0 else 0)
    options = (batch_sizes, nonlinearity, reverse, state_grad_clip)
    run(retreat, (d, grad_h_0), grad_output, (weight_hh, grad_h_n, output), options)
    return d, grad_h_0
