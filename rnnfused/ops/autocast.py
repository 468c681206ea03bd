"""Casts for :func:`torch.autocast`: the recurrence runs in the region's dtype, as matrix products do."""

import torch
from torch import Tensor

from .modes import AUTOCAST_KEYS, is_any_autocast_active, without_autocast
from .registry import impl


def cast(device_type: str, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """The tensors in the dtype of the autocast region, if this type of device has one.

    As for torch's own operators, float64 stays; so does a tensor that is not floating point.
    """
    if not is_active(device_type):
        return tensors
    return tuple(x.to(dtype_of(x)) if isinstance(x, Tensor) else x for x in tensors)


def is_active(device_type: str) -> bool:
    """Whether autocast is on for this type of device."""
    return is_any_autocast_active() and torch.is_autocast_enabled(device_type)


def dtype_of(tensor: Tensor) -> torch.dtype:
    """The dtype of the tensor in this region."""
    device_type = tensor.device.type
    if tensor.dtype == torch.float64 or not tensor.is_floating_point():
        return tensor.dtype
    return torch.get_autocast_dtype(device_type) if is_active(device_type) else tensor.dtype


def _in_region(name, num_tensors):
    """The op ``name`` in a region, its first arguments cast: programs without Python's casts call it."""

    def call(*arguments):
        weight_hh = arguments[2]
        tensors = cast(weight_hh.device.type, *arguments[:num_tensors])
        with without_autocast():
            return getattr(torch.ops.rnnfused, name)(*tensors, *arguments[num_tensors:])

    return call


for _key in AUTOCAST_KEYS:
    for _name, _num_tensors in (("layer", 6), ("both_directions", 10)):
        impl(f"rnnfused::{_name}", _key, _in_region(_name, _num_tensors))
