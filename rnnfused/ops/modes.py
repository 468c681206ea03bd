"""Selects how an op is called: with autograd, without, or as a traceable op. torch's private switches are read here."""

import functools
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad

# Whether autocast is on for any type of device.
is_any_autocast_active = torch._C._is_any_autocast_enabled
_functorch = torch._C._functorch
_has_transforms = torch._C._are_functorch_transforms_active

# The dispatch keys of autocast, one per type of device.
AUTOCAST_KEYS = tuple(f"Autocast{name}" for name in ("CPU", "CUDA", "MPS", "XPU", "PrivateUse1"))
_autocast_key_set = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)
for _key in AUTOCAST_KEYS:
    _autocast_key_set |= torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, _key))


def without_autocast():
    """A context in which ops skip their kernels for autocast."""
    return torch._C._ExcludeDispatchKeyGuard(_autocast_key_set)


def is_recorded() -> bool:
    """Whether a compiler, exporter or tracer records the call, so that Python is absent when it runs."""
    return torch.compiler.is_compiling() or torch._C._is_tracing()


def is_compiled() -> bool:
    """Whether ``torch.compile`` records the call; exporters do not count."""
    if not is_recorded() or torch.compiler.is_exporting() or torch.jit.is_tracing():
        return False
    return not torch.onnx.is_in_onnx_export()


def is_transformed() -> bool:
    """Whether :mod:`torch.func`, or forward-mode differentiation, intercepts every operation."""
    return _has_transforms() or forward_ad._current_level >= 0


def is_differentiated() -> bool:
    """Whether the call needs a graph for gradients, or another transformation."""
    if torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
        return True
    return is_transformed()


def is_fake(tensor: Tensor) -> bool:
    """Whether the tensor is one of a compiler's, without values."""
    return isinstance(tensor, FakeTensor)


def is_mapped(tensor: Tensor) -> bool:
    """Whether a vmap maps over the tensor, be it outside other transforms, or autograd's over a batch of gradients."""
    if torch.compiler.is_compiling():  # the compiler knows this switch alone
        return bool(_functorch.is_batchedtensor(tensor))
    while _functorch.is_functorch_wrapped_tensor(tensor):
        if _functorch.is_batchedtensor(tensor):
            return True
        tensor = _functorch.get_unwrapped(tensor)
    return bool(_functorch.is_legacy_batchedtensor(tensor))


def hides_values(tensor: Tensor) -> bool:
    """Whether Python cannot read the tensor's values: the call is recorded or mapped, or the tensor is a fake."""
    return is_recorded() or is_mapped(tensor) or is_fake(tensor)


def apply(function, *arguments):
    """``function.apply(*arguments)`` without its search for default arguments, which takes 20 us."""
    if _has_transforms():
        return function.apply(*arguments)
    return super(torch.autograd.Function, function).apply(*arguments)


def entry(function, op=None):
    """A function that calls an autograd Function: with a graph where gradients need one, else its forward alone.

    Args:
        function: the :class:`torch.autograd.Function`.
        op: the op with the same derivative, which recorded calls take; None: no call is recorded.
    """
    forward = function.forward  # looked up once: a small call takes a few us

    def call(*arguments):
        if op is not None and is_recorded():
            return op(*arguments)
        if is_differentiated():
            return apply(function, *arguments)
        return forward(*arguments)

    return call


def below_autograd(op):
    """The op below its registered gradient, whose lookup takes 10 us."""
    guard = torch._C._AutoDispatchBelowAutograd

    def call(*arguments):
        if _has_transforms():
            return op(*arguments)
        with guard():
            return op._op(*arguments)  # op() itself takes 0.4 us more

    return call


_Result = TypeVar("_Result")


def outside_graphs(function: Callable[..., _Result]) -> Callable[..., _Result]:
    """The function, around which compiled callers break their graph. Only such callers import the compiler."""
    outside = torch._disable_dynamo(function)

    @functools.wraps(function)
    def call(*arguments):
        return outside(*arguments) if torch.compiler.is_compiling() else function(*arguments)

    return call
