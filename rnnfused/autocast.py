"""What :func:`torch.autocast` means for the recurrence: it runs in the region's dtype, as matrix products do."""

import torch
from torch import Tensor


def cast(device_type: str, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """The tensors in the dtype of the autocast region, if there is one for this type of device.

    As for torch's own operators, float64 stays what it is; so does what is no floating-point tensor, and
    what lies on another device.
    """
    if not (torch._C._is_any_autocast_enabled() and torch.is_autocast_enabled(device_type)):
        return tensors
    dtype = torch.get_autocast_dtype(device_type)
    return tuple(x.to(dtype) if _is_eligible(x, device_type) else x for x in tensors)


def _is_eligible(value: object, device_type: str) -> bool:
    return (
        isinstance(value, Tensor)
        and value.is_floating_point()
        and value.dtype != torch.float64
        and value.device.type == device_type
    )
