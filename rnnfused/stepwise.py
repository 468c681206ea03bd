"""The recurrence as one torch matrix product and one pointwise kernel a step, on any device.

The ops ``rnnfused::forward`` and ``rnnfused::backward`` where no fused kernel takes a call: their contract,
their results, and nothing but torch. On a GPU it is also the oracle that the fused kernels are compared with.
"""

import torch
from torch import Tensor

from .steps import new_sequence


def _steps(sequence: Tensor, batch_sizes: Tensor | None) -> list[Tensor]:
    """Views of the rows of every step."""
    return list(sequence.unbind(0) if batch_sizes is None else sequence.split(batch_sizes.tolist()))


def _copy(state: Tensor) -> Tensor:
    # Contiguous, because a state may be one row expanded to all.
    return state.clone(memory_format=torch.contiguous_format)


def forward(projections, weight_hh, h_0, batch_sizes, nonlinearity, reverse):
    """As the op ``rnnfused::forward``: ``(output, h_n)``."""
    activate = torch.tanh_ if nonlinearity == "tanh" else torch.relu_
    output = new_sequence(projections)
    inputs, outputs = _steps(projections, batch_sizes), _steps(output, batch_sizes)
    rows = max(step.size(0) for step in inputs)
    # Rows leave h_n at their last step; one that joins later finds its first state there.
    h_n = projections.new_empty(rows, projections.size(-1)) if h_0 is None else _copy(h_0)
    # Rows that have a state; one that starts from zeros has none before its first step.
    known = 0 if h_0 is None else rows
    order = range(len(inputs))
    for t in reversed(order) if reverse else order:
        active = inputs[t].size(0)
        known_now = min(known, active)
        if known_now:
            torch.addmm(
                inputs[t][:known_now], h_n[:known_now], weight_hh.t(), out=outputs[t][:known_now]
            )
        outputs[t][known_now:] = inputs[t][known_now:]
        h_n[:active] = activate(outputs[t])
        known = max(known, active)
    return output, h_n


def backward(
    grad_output, grad_h_n, output, weight_hh, batch_sizes, nonlinearity, reverse, needs_grad_h_0
):
    """As the op ``rnnfused::backward``: ``(grad_projections, grad_h_0)``."""
    d = new_sequence(output)
    outputs, ds = _steps(output, batch_sizes), _steps(d, batch_sizes)
    gradients = None if grad_output is None else _steps(grad_output, batch_sizes)
    rows = max(step.size(0) for step in outputs)
    # What arrives at a row's state from later steps; at first, the gradient of its last state.
    arriving = output.new_zeros(rows, output.size(-1)) if grad_h_n is None else _copy(grad_h_n)
    order = range(len(outputs))
    for t in order if reverse else reversed(order):
        h, active = outputs[t], outputs[t].size(0)
        total = arriving[:active] if gradients is None else arriving[:active] + gradients[t]
        slope = 1 - h * h if nonlinearity == "tanh" else (h > 0).to(h.dtype)
        torch.mul(total, slope, out=ds[t])
        torch.mm(ds[t], weight_hh, out=arriving[:active])
    return d, arriving if needs_grad_h_0 else arriving[:0]
