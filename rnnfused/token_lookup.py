"""The input projection of token ids: a one-hot row times W_ih is a column of W_ih, so it is looked up."""

import torch
import torch.nn.functional as F
from torch import Tensor


def project_tokens(ids: Tensor, weight_ih: Tensor, bias: Tensor | None = None) -> Tensor:
    """``one_hot(ids) W_ih^T + bias`` without the one-hot tensor or the product.

    Args:
        ids: (...), any integer dtype, values in [0, V).
        weight_ih: (H, V), floating point.
        bias: (H,), or None.

    Returns:
        (..., H), of the dtype of ``weight_ih``.

    Raises:
        TypeError: ``ids`` is not an integer tensor.
        IndexError: an id is outside the vocabulary.
    """
    hidden_size, vocab_size = weight_ih.shape
    if not isinstance(ids, Tensor) or not is_integer(ids):
        got = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
        raise TypeError(f"ids must be a tensor of an integer dtype, got {got}")
    ids = ids.long()
    if ids.numel() and not ids.is_meta:
        low, high = (bound.item() for bound in ids.aminmax())
        if low < 0 or high >= vocab_size:
            raise IndexError(
                f"ids must be in [0, {vocab_size}), the vocabulary, got values from {low} to {high}"
            )
    if ids.numel() < vocab_size:
        # A few columns, gathered where they are.
        rows = weight_ih.index_select(1, ids.reshape(-1)).t()
        rows = rows if bias is None else rows + bias
        return rows.reshape(*ids.shape, hidden_size)
    table = weight_ih.t() if bias is None else weight_ih.t() + bias
    return F.embedding(ids, table.contiguous())


def is_integer(tensor: Tensor) -> bool:
    """Whether the dtype counts: integers of any width, but not bool."""
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
