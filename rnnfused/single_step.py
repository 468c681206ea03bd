"""One step in torch's own operations, where they take less time than one call of the fused op.

With gradients, a call of the op costs 40 us of Python, and torch's few operations 20. Without, torch's cell loses to the
op where weights are small, as the op packs them in each call; the textbook's two products and tanh do not.
A layer's only step takes torch's operations where its weight is large for the rows.
``torch.use_deterministic_algorithms(True)`` selects the op, whose results have the same bits on every machine.
"""

import os
from collections.abc import Callable, Iterable
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.nn import Parameter

from .ops.modes import is_any_autocast_active, is_differentiated, is_recorded, is_transformed

_is_deterministic = torch._C._get_deterministic_algorithms
# Elements of a weight that the op packs in less time than it saves, per row, and the most rows that count.
_PACKED_PER_ROW = 128 * 128
_MOST_ROWS = 4
# The same for a layer, which has more to check than a cell; with gradients the op packs twice.
_PACKED_BY_LAYER = 4 * _PACKED_PER_ROW
_PACKED_WITH_GRADIENTS = _PACKED_PER_ROW // 2
_is_forked = False


def _note_fork() -> None:
    global _is_forked
    _is_forked = True


# A child whose parent has used torch's threads waits for them forever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def suits(input: Any, weight: Any) -> TypeGuard[Tensor]:
    """Whether torch's operations may take a step: of float32 or float64 on the CPU, not recorded or cast."""
    return (
        not is_recorded()  # first: compilers know that call, and not the others
        and type(input) is Tensor
        and type(weight) in (Parameter, Tensor)
        and (weight.dtype is torch.float32 or weight.dtype is torch.float64)
        and weight.is_cpu
        and input.is_cpu
        and input.layout is torch.strided
        and not input.is_nested
        and not _is_deterministic()
        and not _is_forked
        and not is_any_autocast_active()
    )


def textbook(
    x: Tensor, weight_x: Tensor | None, weight_h: Tensor, bias: Tensor | None, h: Any
) -> Tensor | None:
    """``tanh(x W_x + h W_h + b)``; None where an argument is wrong, which the caller then explains.

    Args:
        x: (B, I), or token ids (B,).
        weight_x: (I, H); None where a parametrization makes it.
        weight_h: (H, H).
        bias: (H,), or None likewise.
        h: (B, H), (1, H), one of these in a tuple, or None.
    """
    # torch would broadcast another bias, and read what a tensor on meta lacks.
    if (
        weight_x is None
        or bias is None
        or not weight_x.is_cpu
        or not bias.is_cpu
        or weight_x.dim() != 2
        or not weight_x.shape[1:] == bias.shape == weight_h.shape[:1]
        or not weight_x.dtype is bias.dtype is weight_h.dtype
    ):
        return None
    try:
        if x.dim() == 1:
            p = torch.embedding(weight_x, x) + bias
        else:
            p = torch.addmm(bias, x, weight_x)
        if type(h) is tuple and len(h) == 1:
            h = h[0]
        if h is None:
            h = p.new_zeros(p.shape)  # W_h gets a gradient of zeros
        elif type(h) is not Tensor or not h.is_cpu or h.layout is not torch.strided:
            return None
        elif h.shape != p.shape:
            if h.shape != (1, p.size(1)):
                return None
            h = h.expand(p.shape)
        if is_differentiated():
            return torch.tanh(torch.addmm(p, h, weight_h))
        return p.addmm_(h, weight_h).tanh_()  # in place: 2 us less
    except (RuntimeError, IndexError):
        return None


def suits_cell(
    input: Tensor, hx: Any, weight_ih: Tensor, weight: Tensor, biases: Iterable[Tensor | None]
) -> bool:
    """Whether torch's cell takes the step of a batch (B, I) with a weight (H, H): where the op would take longer."""
    # torch's cell has no rule for vmap.
    if not (suits(input, weight) and weight_ih.is_cpu and input.dim() == 2) or is_transformed():
        return False
    if not (hx is None or hx.is_cpu and hx.dim() == 2):
        return False
    hidden = weight.shape[:1]
    if any(
        bias is not None and bias.shape != hidden for bias in biases
    ):  # torch would broadcast it
        return False
    return is_differentiated() or weight.numel() > _PACKED_PER_ROW * min(input.size(0), _MOST_ROWS)


def of_layer(
    module: Any, input: Tensor, hx: Tensor | None, weight: Any, time_dim: int
) -> tuple[Tensor, Tensor] | None:
    """The only step of an ``RNN``; None where the op takes it, or where an argument is wrong, which the op explains.

    Args:
        module: the layer.
        input: (1, B, I), (B, 1, I) or (1, I); token ids without I.
        hx: (1, B, H), or (1, H) unbatched; zeros if None.
        weight: W_hh, (H, H).

    Returns:
        The output, laid out as the input with H features, and the last state, each in memory of its own.
    """
    has_ids = input.dtype is torch.int64
    is_batch = input.dim() + has_ids == 3
    rows = input.size(1 - time_dim) if is_batch else 1
    packed = _PACKED_WITH_GRADIENTS if is_differentiated() else _PACKED_BY_LAYER
    if (
        weight.numel() <= packed * min(rows, _MOST_ROWS)
        or module.bidirectional
        or not module.num_layers == module.heads == 1
        or module.state_grad_clip is not None
        or module.nonlinearity not in CELLS
        or not suits(input, weight)
        or is_transformed()
    ):
        return None
    weight_ih, weight_hh, *biases = module._weights_of(0)
    # torch would broadcast other weights, and convert some.
    for other, dims in (weight_ih, 2), *((bias, 1) for bias in biases if bias is not None):
        fits = other.is_cpu and other.dtype is weight_hh.dtype and other.dim() == dims
        if not fits or other.shape[:1] != weight_hh.shape[:1]:
            return None
    x, hidden = input.select(time_dim, 0) if is_batch else input, weight_hh.size(0)
    try:
        if hx is None:
            h = weight_hh.new_zeros(rows, hidden)
        elif not hx.is_cpu or hx.shape != ((1, rows, hidden) if is_batch else (1, hidden)):
            return None
        else:
            h = hx[0] if is_batch else hx
        if has_ids:
            # Not an embedding of the transposed weight, whose gradient would be transposed too.
            projections = weight_ih.index_select(1, x).t()
            for bias in biases:
                projections = projections if bias is None else projections + bias
            function = torch.tanh if module.nonlinearity == "tanh" else torch.relu
            h = function(torch.addmm(projections, h, weight_hh.t()))
        else:
            h = CELLS[module.nonlinearity](x, h, weight_ih, weight_hh, *biases)
    except (RuntimeError, IndexError):
        return None
    if is_batch:
        return torch.unsqueeze_copy(h, time_dim), torch.unsqueeze_copy(h, 0)
    return h, h.clone()


CELLS: dict[str, Callable[..., Tensor]] = {
    "tanh": torch.rnn_tanh_cell,
    "relu": torch.rnn_relu_cell,
}
