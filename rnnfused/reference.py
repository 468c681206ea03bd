"""The recurrence in plain Python, one step at a time: the oracle that the fused op is tested against.

Elman, "Finding Structure in Time" (1990), in PyTorch's form::

    h_t = f(p_t + h_{t-1} W_hh^T)        p_t = W_ih x_t + b_ih + b_hh,    f = tanh or relu
"""

import torch
from torch import Tensor

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu}


def rnn_cell(
    projection: Tensor, weight_hh: Tensor, h: Tensor | None, nonlinearity: str = "tanh"
) -> Tensor:
    """One step: ``f(projection + h W_hh^T)``.

    Args:
        projection: (B, H), the projected input of this step, biases included.
        weight_hh: (H, H).
        h: (B, H), the state before the step; None for zeros, which need no product.
        nonlinearity: ``"tanh"`` or ``"relu"``.

    Returns:
        (B, H), the state after the step.
    """
    if h is not None:
        projection = projection + h @ weight_hh.t()
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
) -> tuple[Tensor, Tensor]:
    """Same arguments, results and gradients as :func:`rnnfused.functional.rnn`, any device or dtype.

    A loop of :func:`rnn_cell` that autograd follows step by step; slow, and simple enough to trust.
    """
    if batch_sizes is None:
        steps = list(projections.unbind(1 if batch_first else 0))
    else:
        steps = list(projections.split(batch_sizes.tolist()))
    h = h_0
    outputs: list[Tensor] = [projections] * len(steps)
    for t in reversed(range(len(steps))) if reverse else range(len(steps)):
        active = steps[t].size(0)
        known = 0 if h is None else h.size(0)
        # In reverse, rows join as time goes on; without h_0 there is no state of theirs yet.
        parts = (
            [] if h is None else [rnn_cell(steps[t][:known], weight_hh, h[:active], nonlinearity)]
        )
        if active > known:
            parts.append(rnn_cell(steps[t][known:], weight_hh, None, nonlinearity))
        outputs[t] = torch.cat(parts)
        h = outputs[t] if h is None else torch.cat([outputs[t], h[active:]])
    if batch_sizes is None:
        return torch.stack(outputs, 1 if batch_first else 0), h
    return torch.cat(outputs), h
