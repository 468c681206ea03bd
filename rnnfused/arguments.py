"""Checks the arguments of functions and layers. Each message names the argument, its value and the need."""

import math
import numbers
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .ops.modes import hides_values, is_mapped, is_recorded
from .ops.nonlinearity import check_nonlinearity
from .ops.tokens import is_integer
from .ops.tokens import value_range as value_range
from .wording import quantity

# The 16-bit types round every state and compute in float32.
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def explain(check: Callable[..., Any], *arguments: Any) -> None:
    """Explains an op's refusal: raises the error of a check, if it finds one, without the refusal as its context."""
    try:
        check(*arguments)
    except Exception as explanation:
        raise explanation from None


def check_weights(
    weights: dict[str, Tensor],
    shapes: Sequence[tuple[int, ...]],
    like: Tensor,
    of_like: str,
    shape_error: type[Exception] = RuntimeError,
    dtype_error: type[Exception] = RuntimeError,
) -> None:
    """Checks the weights of a layer or cell, which a user may have replaced.

    Raises:
        shape_error: a weight is of another shape than its own, is sparse, or is on another device than ``like``.
        dtype_error: it is of another dtype.
    """
    for (name, weight), shape in zip(weights.items(), shapes, strict=True):
        if weight.shape != shape:
            raise shape_error(f"{name} must have shape {shape}, got {tuple(weight.shape)}")
        if weight.layout != torch.strided:
            raise shape_error(f"{name} must be dense, got layout {weight.layout}")
        if weight.dtype != like.dtype or weight.device != like.device:
            error = dtype_error if weight.dtype != like.dtype else shape_error
            raise error(
                f"{name} must be {like.dtype} on {like.device} like {of_like}, "
                f"got {weight.dtype} on {weight.device}"
            )


def as_int(need: str, value: Any) -> int:
    """The value as an int: numpy's integers are taken too, bools are not.

    Raises:
        TypeError: it is no integer; the message begins with ``need``.
    """
    try:
        if isinstance(value, bool):  # an int to Python
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{need}, got {value!r}") from None


def as_float(need: str, value: Any) -> float:
    """The value as a float, NaN if it is too large for one; bools are not taken.

    Raises:
        TypeError: it is no real number; the message begins with ``need``.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{need}, got {value!r}")
    try:
        return float(value)
    except OverflowError:
        return math.nan


def check_int(name: str, value: Any, least: int) -> int:
    """The value as an int, by ``as_int``.

    Raises:
        TypeError: it is no integer.
        ValueError: it is not in ``least .. 2 ** 63 - 1``.
    """
    number = as_int(f"{name} must be an int", value)
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    if number >= 2**63:
        raise ValueError(f"{name} must lie in {least} .. 2 ** 63 - 1, got {number}")
    return number


def check_dtype(name: str, sequence: Tensor) -> None:
    """Raises TypeError for a dtype that no loop takes."""
    if sequence.dtype not in DTYPES:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise TypeError(f"{name} must be {names}, got {sequence.dtype}")


def check_layout(name: str, tensor: Tensor) -> None:
    """Raises TypeError for a nested or sparse tensor."""
    if tensor.is_nested or tensor.layout != torch.strided:
        kind = "a nested tensor" if tensor.is_nested else tensor.layout
        raise TypeError(f"{name} must be a dense tensor, got {kind}")


def check_tensors(name: str, sequence: Any, others: dict[str, Any]) -> None:
    for each, value in {name: sequence, **others}.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{each} must be a Tensor, got {type(value).__name__}")
        check_layout(each, value)
    check_dtype(name, sequence)
    for each, value in others.items():
        if value.dtype != sequence.dtype:
            raise TypeError(f"{each} must be {sequence.dtype} like {name}, got {value.dtype}")
        if value.device != sequence.device:
            raise ValueError(f"{each} must be on {sequence.device} like {name}, got {value.device}")


def check_choices(
    nonlinearity: str, batch_first: bool, reverse: bool, state_grad_clip: float | None
) -> float | None:
    """The clip as a float."""
    for name, value in {"batch_first": batch_first, "reverse": reverse}.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be a bool, got {value!r}")
    check_nonlinearity(nonlinearity)
    return check_state_grad_clip(state_grad_clip)


def check_state_grad_clip(value: float | None) -> float | None:
    """The value as a float, or None.

    Raises:
        TypeError, ValueError: it is neither None nor a positive number.
    """
    if value is None or type(value) is float and value > 0:
        return value
    number = as_float("state_grad_clip must be a number or None", value)
    if not number > 0:
        raise ValueError(f"state_grad_clip must be positive, and a float, got {value!r}")
    return number


def hidden_size_of(weight_hh: Tensor) -> int:
    """The hidden size of the matrix, or of its blocks together; -1 if they are not square."""
    if weight_hh.dim() not in (2, 3) or weight_hh.size(-1) != weight_hh.size(-2):
        return -1
    return weight_hh.size(-1) * (weight_hh.size(0) if weight_hh.dim() == 3 else 1)


def check_sequence(
    name: str,
    features: str,
    sequence: Tensor,
    batch_first: bool,
    batch_sizes: Tensor | None,
    lengths: Tensor | None,
) -> tuple[int | None, Tensor | None]:
    """The batch size and the lengths of a sequence, after all checks of its shape."""
    if batch_sizes is not None and lengths is not None:
        raise ValueError("batch_sizes and lengths exclude each other: packed rows have their sizes")
    if batch_sizes is not None:
        return check_packed(name, features, sequence, batch_first, batch_sizes), None
    if lengths is not None and isinstance(sequence, Tensor) and sequence.dim() == 2:
        if batch_first:
            raise ValueError(
                f"batch_first has no meaning for {name} of shape (N, {features}) with lengths"
            )
        lengths = check_lengths(lengths, None, sequence.size(0), name)
        return lengths.size(0), lengths
    layout = f"(B, T, {features})" if batch_first else f"(T, B, {features})"
    if sequence.dim() != 3:
        raise ValueError(
            f"{name} must have 3 dimensions, {layout}, got shape {tuple(sequence.shape)}"
        )
    time, batch = sequence.shape[:2][::-1] if batch_first else sequence.shape[:2]
    if time == 0:
        raise ValueError(
            f"{name} must have at least one time step, "
            f"got shape {tuple(sequence.shape)} for {layout}"
        )
    if lengths is not None:
        lengths = check_lengths(lengths, batch, time, name)
    return batch, lengths


def check_lengths(lengths, batch: int | None, most: int, name: str) -> Tensor:
    """The lengths as the ops take them: int64, contiguous, on the CPU.

    Args:
        lengths: a tensor or a list of integers: (batch,), none above ``most``; or with batch None (B,), with
            the sum ``most``.
        name: the sequence's name in messages.

    Raises:
        TypeError, ValueError: they are not that.
    """
    if not isinstance(lengths, Tensor):
        try:
            lengths = torch.as_tensor(lengths, device="cpu")
        except (TypeError, ValueError, RuntimeError, OverflowError):
            raise TypeError(
                f"lengths must be a tensor or a list of integers, got {lengths!r}"
            ) from None
        if lengths.numel() == 0:  # torch makes an empty list float
            lengths = lengths.long()
    if not is_integer(lengths):
        raise TypeError(f"lengths must be of an integer dtype, got {lengths.dtype}")
    check_layout("lengths", lengths)
    if lengths.dim() != 1 or batch not in (None, lengths.size(0)):
        expected = "(B,)" if batch is None else f"({batch},), the batch of {name}"
        raise ValueError(f"lengths must be {expected}, got shape {tuple(lengths.shape)}")
    given, lengths = lengths, lengths.long()
    if hides_values(lengths):
        return lengths  # the op checks them
    if lengths.is_meta:
        raise ValueError("lengths must have values, on the CPU if all else is on meta, got meta")
    lengths = lengths.cpu().contiguous()
    low, high = (int(bound) for bound in lengths.aminmax()) if lengths.numel() else (0, 0)
    if batch is None:
        if low < 0 or high > most or int(lengths.sum()) != most:
            raise ValueError(
                f"lengths must be at least 0 and add up to the {quantity(most, 'row')} of {name}, "
                f"got {given.tolist()}"
            )
    elif low < 0 or high > most:
        raise ValueError(
            f"lengths must be from 0 to {most}, the time steps of {name}, got {given.tolist()}"
        )
    return lengths


def check_h_0(h_0: Tensor | None, batch: int | None, hidden: int) -> None:
    if h_0 is not None and h_0.shape != (h_0.size(0) if batch is None else batch, hidden):
        raise ValueError(
            f"h_0 must be (batch, hidden) = ({batch}, {hidden}), got {tuple(h_0.shape)}"
        )


def check_packed(
    name: str, features: str, sequence: Tensor, batch_first: bool, batch_sizes: Tensor
) -> int | None:
    if not isinstance(batch_sizes, Tensor):
        raise TypeError(f"batch_sizes must be a Tensor, got {type(batch_sizes).__name__}")
    if batch_sizes.dtype != torch.int64:
        raise TypeError(f"batch_sizes must be int64, got {batch_sizes.dtype}")
    if batch_sizes.device.type != "cpu":
        raise ValueError(f"batch_sizes must be on the CPU, got {batch_sizes.device}")
    if batch_first:
        raise ValueError(
            "batch_first has no meaning with batch_sizes: packed data has no time axis"
        )
    if sequence.dim() != 2:
        raise ValueError(
            f"{name} must have 2 dimensions, (N, {features}), with batch_sizes, "
            f"got shape {tuple(sequence.shape)}"
        )
    if is_mapped(batch_sizes):
        raise NotImplementedError(
            "vmap over batch_sizes: pad the rows and map over lengths instead"
        )
    if is_recorded():
        return None  # its values are unknown
    if batch_sizes.dim() != 1 or batch_sizes.numel() == 0:
        raise ValueError(
            f"batch_sizes must have one dimension and a step, got shape {tuple(batch_sizes.shape)}"
        )
    if batch_sizes.numel() > sequence.size(0):  # before a list of them, which may not fit in memory
        raise ValueError(
            f"batch_sizes must have at most a step per row of {name}, {sequence.size(0)}, "
            f"got {batch_sizes.numel()}"
        )
    sizes = batch_sizes.tolist()
    if sizes[-1] < 1 or any(a < b for a, b in zip(sizes, sizes[1:], strict=False)):
        raise ValueError(f"batch_sizes must be positive and never increase, got {sizes}")
    if sum(sizes) != sequence.size(0):
        raise ValueError(
            f"batch_sizes must add up to the {quantity(sequence.size(0), 'row')} of {name}, "
            f"got {sum(sizes)}"
        )
    return sizes[0]
