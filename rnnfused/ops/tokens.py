"""The input projection of token ids: a one-hot row times W_ih is a column of W_ih, so it is looked up."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .modes import hides_values


def project_tokens(ids: Tensor, weight_ih: Tensor, bias: Tensor | None = None) -> Tensor:
    """``one_hot(ids) W_ih^T + bias`` without the one-hot tensor or the product.

    Args:
        ids: (...), any integer dtype, values in [0, V).
        weight_ih: (H, V), floating point.
        bias: (H,), or None.

    Returns:
        (..., H), of the dtype of ``weight_ih``.

    Raises:
        TypeError, ValueError, IndexError: as :func:`check_ids`.
    """
    hidden_size, vocab_size = weight_ih.shape
    ids = check_ids(ids, vocab_size, weight_ih.device)
    if ids.numel() < vocab_size or weight_ih.is_complex():
        # Gathers a few columns without a copy of the weight. torch's embedding lacks a complex derivative.
        rows = weight_ih.index_select(1, ids.reshape(-1)).t()
        rows = rows if bias is None else rows + bias
        return rows.reshape(*ids.shape, hidden_size)
    table = weight_ih.t() if bias is None else weight_ih.t() + bias
    return F.embedding(ids, table.contiguous())


def check_ids(ids: Tensor, vocab_size: int, device: torch.device, name: str = "ids") -> Tensor:
    """The ids as int64, after the checks that every consumer of token ids needs.

    Raises:
        TypeError: ``ids`` is not a tensor of integers.
        ValueError: it is on another device.
        IndexError: an id is outside [0, vocab_size).
    """
    if not is_integer(ids):
        got = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
        raise TypeError(f"{name} must be a tensor of an integer dtype, got {got}")
    if ids.device != device:
        raise ValueError(f"{name} must be on {device} like the weights, got {ids.device}")
    given, ids = ids, ids.long()
    # Where Python cannot read the values, the kernels check them.
    captured = ids.is_cuda and torch.cuda.is_current_stream_capturing()
    if not (captured or ids.is_meta or hides_values(ids)) and ids.numel():
        low, high = value_range(given)
        if low < 0 or high >= vocab_size:
            raise IndexError(
                f"{name} must be in [0, {vocab_size}), the vocabulary, got values from {low} to {high}"
            )
    return ids


def value_range(values: Tensor) -> tuple[int, int]:
    """The lowest and the highest of integers of any dtype, at least one."""
    as_int64 = values.long()
    bounds = as_int64.aminmax()
    # A GPU is waited for once.
    low, high = torch.stack(bounds).tolist() if values.is_cuda else (int(bound) for bound in bounds)
    if values.dtype != torch.uint64 or low >= 0:
        return low, high
    # From 2 ** 63 on, a uint64 value is as int64 less by 2 ** 64. torch has no order of uint64.
    highest = int(as_int64[as_int64 < 0].max()) + 2**64
    return (int(as_int64[as_int64 >= 0].min()) if high >= 0 else low + 2**64), highest


def is_ids(input: Tensor) -> bool:
    """Whether a layer's input is token ids; below the modules' edge ids are int64."""
    return input.dtype is torch.int64


def is_integer(value: object) -> bool:
    """Whether this is a tensor of integers, of any width; bool does not count."""
    if not isinstance(value, Tensor):
        return False
    return not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)
