"""Casts for :func:`torch.autocast`: the recurrence runs in the region's dtype, as matrix products do."""

import torch
from torch import Tensor

from .modes import is_any_autocast_active


def cast(device_type: str, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """The tensors in the dtype of the autocast region, if there is one for this type of device.

    As for torch's own operators, float64 stays what it is; so does what is no floating-point tensor.
    """
    if not is_active(device_type):
        return tensors
    return tuple(x.to(dtype_of(x)) if isinstance(x, Tensor) else x for x in tensors)


def is_active(device_type: str) -> bool:
    """Whether this is an autocast region for this type of device."""
    return is_any_autocast_active() and torch.is_autocast_enabled(device_type)


def dtype_of(tensor: Tensor) -> torch.dtype:
    """The dtype that the tensor is used in here."""
    device_type = tensor.device.type
    if tensor.dtype == torch.float64 or not tensor.is_floating_point():
        return tensor.dtype
    return torch.get_autocast_dtype(device_type) if is_active(device_type) else tensor.dtype
