"""Casts for :func:`torch.autocast`: the recurrence runs in the region's dtype, as matrix products do."""

import torch
from torch import Tensor

from .modes import AUTOCAST_KEYS, is_any_autocast_active, without_autocast
from .named_arguments import BothDirectionsArgs
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


def _layer(input, weight_ih, weight_hh, bias_ih, bias_hh, h_0, *others):
    """The op ``layer`` in a region; scripted, traced and exported programs call it without Python's casts."""
    tensors = cast(weight_hh.device.type, input, weight_ih, weight_hh, bias_ih, bias_hh, h_0)
    with without_autocast():
        return torch.ops.rnnfused.layer(*tensors, *others)


def _both_directions(*arguments):
    args = BothDirectionsArgs(*arguments)
    tensors = cast(args.weight_hh.device.type, *args[:10])
    with without_autocast():
        return torch.ops.rnnfused.both_directions(*tensors, *args[10:])


for _key in AUTOCAST_KEYS:
    impl("rnnfused::layer", _key, _layer)
    impl("rnnfused::both_directions", _key, _both_directions)
