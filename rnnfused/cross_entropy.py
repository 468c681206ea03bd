"""The output layer and cross-entropy of a classifier or language model, as one fused call."""

import numbers

import torch
from torch import Tensor

from .arguments import as_int, check_tensors
from .export import onnx
from .ops import cross_entropy as ops
from .ops.autocast import cast, is_active
from .ops.modes import hides_values, is_transformed
from .ops.tokens import is_integer


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """``cross_entropy(linear(hidden, weight, bias), target)`` without a tensor of all logits.

    On the CPU one call makes the loss, and with a graph also every gradient, in one pass over chunks of rows: the
    logits of a chunk exist at a time, so memory does not grow with the number of rows. Sums are in float32, or float64
    for float64 arguments, and do not depend on the number of threads. A second derivative, forward-mode derivatives,
    :mod:`torch.func` and other devices take torch's two calls. Under :func:`torch.autocast` the arguments are cast to the region's
    dtype, and the loss is float32, as torch's.

    Args:
        hidden: (.., H), float32, float64, bfloat16 or float16: usually the output of a recurrent layer.
        weight: (V, H), same dtype and device, any strides. V is the number of classes, at least 1.
        bias: (V,), same dtype and device; None for zeros.
        target: (..), any integer dtype, same device: a class in [0, V) or ``ignore_index`` for each row.
        ignore_index: rows of this target have no loss, and do not count in the mean. Their part of the gradient of
            ``hidden`` is zero: on the CPU also where the row is NaN, which does make the gradient of ``weight`` NaN.
        reduction: ``"mean"`` over the rows that count (NaN without any), ``"sum"``, or ``"none"``.
        label_smoothing: s in [0, 1]; the target distribution is ``(1 - s) onehot + s / V`` (Szegedy et al.,
            "Rethinking the Inception Architecture for Computer Vision", 2016, section 7).

    Returns:
        The loss in nats, of the dtype of ``hidden``: a scalar, or shaped as ``target`` for ``"none"``.

    Raises:
        TypeError: an argument is not a tensor, or of an unsupported or a different dtype.
        ValueError: a shape, a device, ``reduction`` or ``label_smoothing`` is wrong.
        IndexError: a target is neither in [0, V) nor ``ignore_index``.
    """
    ignore_index = _check_ignore_index(ignore_index)
    smoothing = _check_options(reduction, label_smoothing)
    is_autocast = isinstance(hidden, Tensor) and is_active(hidden.device.type)
    if is_autocast:
        hidden, weight, bias = cast(hidden.device.type, hidden, weight, bias)  # type: ignore[assignment]
    _check(hidden, weight, bias, target)
    # Not reshape(-1, H), which is undefined for H = 0.
    rows = hidden.reshape(target.numel(), hidden.size(-1))
    ids = _as_int64(target.reshape(-1), ignore_index)
    arguments = (rows, weight, bias, ids, ops.REDUCTIONS[reduction], ignore_index, smoothing)
    if not _has_kernel(hidden):
        _check_values(ids, target, weight.size(0), ignore_index)
        loss = ops.by_torch(*arguments)
    else:
        try:
            loss = ops.linear_cross_entropy(*arguments)
        except RuntimeError as error:
            if "neither a class" in str(error):  # the op does not say which value
                _check_values(ids, target, weight.size(0), ignore_index)
            raise
    if not is_autocast:
        loss = loss.to(hidden.dtype)
    return loss.reshape(target.shape) if reduction == "none" else loss


def _has_kernel(hidden: Tensor) -> bool:
    return (
        hidden.is_cpu and hidden.size(-1) > 0 and not is_transformed() and not onnx.is_exporting()
    )


def _check_ignore_index(value: int) -> int:
    """The value as an int."""
    number = as_int("ignore_index must be an int", value)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"ignore_index must be an int of 64 bits, got {number}")
    return number


def _as_int64(target: Tensor, ignore_index: int) -> Tensor:
    """The target as int64, in which a uint64 value beyond it becomes one that is refused."""
    ids = target.long()
    if target.dtype != torch.uint64:
        return ids
    refused = -1 if ignore_index != -1 else -2
    return ids.where(ids >= 0, refused)


def _check_options(reduction: str, label_smoothing: float) -> float:
    """The smoothing as a float."""
    if not isinstance(reduction, str) or reduction not in ops.REDUCTIONS:
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    if isinstance(label_smoothing, bool) or not isinstance(label_smoothing, numbers.Real):
        raise TypeError(f"label_smoothing must be a number, got {label_smoothing!r}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must lie in [0, 1], got {label_smoothing!r}")
    return float(label_smoothing)


def _check(hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor) -> None:
    check_tensors("hidden", hidden, {"weight": weight} | ({} if bias is None else {"bias": bias}))
    if not is_integer(target):
        got = target.dtype if isinstance(target, Tensor) else type(target).__name__
        raise TypeError(f"target must be a tensor of an integer dtype, got {got}")
    if hidden.dim() == 0:
        raise ValueError("hidden must be (.., H), got a scalar")
    if weight.dim() != 2 or weight.size(0) == 0 or weight.size(1) != hidden.size(-1):
        raise ValueError(
            f"weight must be (classes, {hidden.size(-1)}) for hidden of shape "
            f"{tuple(hidden.shape)}, with at least one class, got {tuple(weight.shape)}"
        )
    if bias is not None and bias.shape != (weight.size(0),):
        raise ValueError(f"bias must be ({weight.size(0)},), got {tuple(bias.shape)}")
    if target.shape != hidden.shape[:-1]:
        raise ValueError(
            f"target must be {tuple(hidden.shape[:-1])}, the rows of hidden, got {tuple(target.shape)}"
        )
    if target.device != hidden.device:
        raise ValueError(f"target must be on {hidden.device} like hidden, got {target.device}")


def _check_values(ids: Tensor, target: Tensor, num_classes: int, ignore_index: int) -> None:
    """Raises IndexError for a target that is neither a class nor ``ignore_index``; ``ids`` are its rows as int64."""
    if hides_values(target) or not target.is_cpu:
        return  # the kernel checks
    wrong = ((ids < 0) | (ids >= num_classes)) & (ids != ignore_index)
    if wrong.any():
        got = target.reshape(-1)[int(wrong.nonzero()[0])]
        raise IndexError(
            f"target must be in [0, {num_classes}), or ignore_index = {ignore_index}, "
            f"got {got.item()}"
        )
