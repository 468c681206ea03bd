"""Where gradients are clipped: by their global norm."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def clip_gradients(
    grad_clip_val: float, model: torch.nn.Module | Tensor | Iterable[Tensor]
) -> Tensor:
    """Scales all gradients by ``grad_clip_val / norm`` where their global 2-norm exceeds the threshold.

    Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks" (2013),
    algorithm 1. Parameters without a gradient are passed over. Gradients within the threshold, a norm of
    zero among them, stay as they are to the bit. A trainer class takes it as a ``staticmethod``.

    Args:
        grad_clip_val: the threshold, positive, in units of the gradients' norm.
        model: a module, or its parameters, or a single one.

    Returns:
        The norm before clipping, a 0-dim tensor (0.0 if there is no gradient).

    Raises:
        ValueError: the threshold is not a positive number.
        FloatingPointError: the norm is infinite or NaN. No gradient has been changed then.
    """
    if not grad_clip_val > 0:
        raise ValueError(f"grad_clip_val must be positive, got {grad_clip_val}")
    if isinstance(model, torch.nn.Module):
        parameters: Iterable[Tensor] = model.parameters()
    else:
        parameters = [model] if isinstance(model, Tensor) else model
    gradients = [p.grad for p in parameters if p.grad is not None and p.grad.numel()]
    norm = torch.nn.utils.get_total_norm(gradients)
    value = norm.item()  # read once: a GPU is waited for
    if gradients and not (math.isfinite(value) and value > 1e-15):
        # The squares of finite gradients may overflow, or vanish.
        largest = max(g.abs().max().double() for g in gradients)
        if largest.isfinite() and largest > 0:
            norm = largest * torch.nn.utils.get_total_norm(
                [g.double() / largest for g in gradients]
            )
            value = norm.item()
    if not math.isfinite(value):
        raise FloatingPointError(
            f"the global norm of the gradients is {value}: nothing was clipped. "
            "Lower the learning rate, or look for the step that overflowed"
        )
    if value > grad_clip_val:
        torch._foreach_mul_(gradients, grad_clip_val / value)
    return norm
