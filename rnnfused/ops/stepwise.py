"""The recurrence as one torch matrix product and one pointwise kernel a step, on any device.

The ops ``rnnfused::recurrence`` and ``rnnfused::recurrence_backward`` on (T, B, H) or packed rows where no fused kernel takes a call: their contract but
for lengths, their results, and nothing but torch. On a GPU it is also the oracle that the fused kernels are compared with.
"""

import torch
from torch import Tensor

from .matmul import times
from .schema import NONLINEARITIES
from .sequence import new_sequence

TANH = NONLINEARITIES["tanh"]


def _steps(sequence: Tensor, batch_sizes: Tensor | None) -> list[Tensor]:
    """Views of the rows of every step."""
    return list(sequence.unbind(0) if batch_sizes is None else sequence.split(batch_sizes.tolist()))


def _in_order(steps: list[Tensor], ascending: bool) -> list[Tensor]:
    return steps if ascending else steps[::-1]


def batch_size(sequence: Tensor, batch_sizes: Tensor | None) -> int:
    """Rows of the whole batch, all of which take part in the first step of a packed sequence."""
    return sequence.size(1) if batch_sizes is None else int(batch_sizes[0])


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

    Fills ``grad_h_0`` unless it has no rows.
    """
    later = d.new_empty(0, d.size(-1))
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
    """As the op ``rnnfused::recurrence``: ``(output, h_n)``. ``run`` may be :mod:`rnnfused.cuda.graphs`'s."""
    output = new_sequence(projections)
    h_n = output.new_empty(batch_size(output, batch_sizes), output.size(-1))
    options = (batch_sizes, nonlinearity, reverse)
    run(advance, (output, h_n), projections, (weight_hh, h_0), options)
    return output, h_n


def backward(
    grad_output, grad_h_n, output, weight_hh, batch_sizes, nonlinearity, reverse, state_grad_clip,
    needs_grad_h_0, run=run,
):  # fmt: skip
    """As the op ``rnnfused::recurrence_backward``: ``(grad_projections, grad_h_0)``; ``run`` as in :func:`forward`."""
    d = new_sequence(output)
    rows = batch_size(output, batch_sizes) if needs_grad_h_0 else 0
    grad_h_0 = output.new_empty(rows, output.size(-1))
    options = (batch_sizes, nonlinearity, reverse, state_grad_clip)
    run(retreat, (d, grad_h_0), grad_output, (weight_hh, grad_h_n, output), options)
    return d, grad_h_0
