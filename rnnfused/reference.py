"""The recurrence in plain Python, one step at a time: the oracle that the fused op is tested against.

Elman, "Finding Structure in Time" (1990), in PyTorch's form::

    h_t = f(p_t + h_{t-1} W_hh^T)        p_t = W_ih x_t + b_ih + b_hh,    f = tanh or relu
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu}


class _Clip(torch.autograd.Function):
    """The identity, whose gradient is clipped."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, limit: float) -> Tensor:
        ctx.limit = limit
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.clamp(-ctx.limit, ctx.limit), None


def rnn_cell(
    projection: Tensor,
    weight_hh: Tensor,
    h: Tensor | None,
    nonlinearity: str = "tanh",
    state_grad_clip: float | None = None,
) -> Tensor:
    """One step: ``f(projection + h W_hh^T)``.

    Args:
        projection: (B, H), the projected input of this step, biases included.
        weight_hh: (H, H).
        h: (B, H), the state before the step; None for zeros, which need no product.
        nonlinearity: ``"tanh"`` or ``"relu"``.
        state_grad_clip: c, the gradient at the nonlinearity's input is clipped to [-c, c].

    Returns:
        (B, H), the state after the step.

    Raises:
        KeyError: ``nonlinearity`` is unknown.
    """
    if h is not None:
        projection = projection + h @ weight_hh.t()
    if state_grad_clip is not None:
        projection = _Clip.apply(projection, state_grad_clip)  # type: ignore[no-untyped-call]
    return ACTIVATIONS[nonlinearity](projection)


def rnn(
    projections: Tensor,
    weight_hh: Tensor,
    h_0: Tensor | None = None,
    *,
    nonlinearity: str = "tanh",
    batch_first: bool = False,
    reverse: bool = False,
    batch_sizes: Tensor | None = None,
    lengths: Tensor | None = None,
    state_grad_clip: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Same arguments, results and gradients as :func:`rnnfused.functional.rnn`, any device or dtype.

    A loop of :func:`rnn_cell` that autograd follows step by step; slow, and simple enough to trust. It checks nothing:
    wrong arguments raise the errors of torch's operations.

    Args:
        projections: (T, B, H), (B, T, H) with ``batch_first``, or (N, H) packed or row after row.
        weight_hh: (H, H), or (heads, H / heads, H / heads).
        h_0: (B, H); zeros if None.
        nonlinearity: ``"tanh"`` or ``"relu"``.
        batch_first: the batch is the first dimension.
        reverse: runs from the last step to the first.
        batch_sizes: (T,), int64, the rows of each step of packed projections.
        lengths: (B,), integers, the steps of each row; later outputs are zeros.
        state_grad_clip: as for :func:`rnn_cell`.

    Returns:
        ``(output, h_n)``: shaped as ``projections``, and (B, H), each row's state after its own last step.

    Raises:
        KeyError: ``nonlinearity`` is unknown.
    """
    if weight_hh.dim() == 3:
        weight_hh = torch.block_diag(*weight_hh)  # type: ignore[no-untyped-call]
    if lengths is not None:
        return _rnn_by_row(
            projections,
            weight_hh,
            h_0,
            lengths,
            batch_first,
            nonlinearity=nonlinearity,
            reverse=reverse,
            state_grad_clip=state_grad_clip,
        )
    if batch_sizes is None:
        steps = list(projections.unbind(1 if batch_first else 0))
    else:
        steps = list(projections.split(batch_sizes.tolist()))  # type: ignore[no-untyped-call]
    h = h_0
    outputs: list[Tensor] = [projections] * len(steps)
    for t in reversed(range(len(steps))) if reverse else range(len(steps)):
        step = steps[t]
        active = step.size(0)
        known = 0 if h is None else h.size(0)
        # In reverse, rows join later; without h_0 they lack a state.
        parts = []
        if h is not None:
            parts.append(
                rnn_cell(step[:known], weight_hh, h[:active], nonlinearity, state_grad_clip)
            )
        if active > known or not parts:  # also a batch without rows
            parts.append(rnn_cell(step[known:], weight_hh, None, nonlinearity, state_grad_clip))
        outputs[t] = torch.cat(parts)
        h = outputs[t] if h is None else torch.cat([outputs[t], h[active:]])
    assert h is not None  # there is a step
    if batch_sizes is None:
        return torch.stack(outputs, 1 if batch_first else 0), h
    return torch.cat(outputs), h


def _rnn_by_row(
    projections: Tensor,
    weight_hh: Tensor,
    h_0: Tensor | None,
    lengths: Tensor,
    batch_first: bool,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """One row after another, each cut at its own end."""
    if projections.dim() == 2:
        rows = list(projections.split(lengths.tolist()))  # type: ignore[no-untyped-call]
    else:
        rows = [
            row[:n]
            for row, n in zip(
                projections.unbind(0 if batch_first else 1), lengths.tolist(), strict=True
            )
        ]
    outputs, last = [], []
    for b, row in enumerate(rows):
        h = None if h_0 is None else h_0[b : b + 1]
        if len(row):
            states, h = rnn(row.unsqueeze(1), weight_hh, h, **options)
            row = states.squeeze(1)
        outputs.append(row)
        last.append(projections.new_zeros(1, projections.size(-1)) if h is None else h)
    h_n = torch.cat(last)
    if projections.dim() == 2:
        return torch.cat(outputs), h_n
    time_dim = 1 if batch_first else 0
    padded = [F.pad(row, (0, 0, 0, projections.size(time_dim) - len(row))) for row in outputs]
    return torch.stack(padded, 1 - time_dim), h_n
