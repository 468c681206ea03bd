"""Which way a call takes into an op: with a graph for gradients or without, and as what a tracer can record."""

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad


def is_recorded() -> bool:
    """Whether calls are being recorded as ops (compile, export, trace), and Python is not there when they run."""
    return torch.compiler.is_compiling() or torch._C._is_tracing()


def is_transformed() -> bool:
    """Whether :mod:`torch.func`, or forward-mode differentiation, looks at every operation."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_differentiated() -> bool:
    """Whether a graph for gradients is to be made, or another transformation."""
    if torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
        return True
    return is_transformed()


def hides_values(tensor: Tensor) -> bool:
    """Whether Python can't ask for the tensor's values: calls are recorded or mapped, or it is a fake."""
    if is_recorded() or torch._C._functorch.is_batchedtensor(tensor):
        return True
    return isinstance(tensor, FakeTensor)


def apply(function, *arguments):
    """``function.apply(*arguments)``, but for a search for default arguments that takes 20 us."""
    if torch._C._are_functorch_transforms_active():
        return function.apply(*arguments)
    return super(torch.autograd.Function, function).apply(*arguments)


def entry(function, op=None):
    """What calls the function: with a graph for gradients if there is to be one, else its forward alone.

    Where calls are recorded it calls the op, if one stands for the function.
    """
    forward = function.forward  # looked up once: all this is run beside small calls

    def call(*arguments):
        if op is not None and is_recorded():
            return op(*arguments)
        if is_differentiated():
            return apply(function, *arguments)
        return forward(*arguments)

    return call


def below_autograd(op):
    """The op without the gradient that is registered for it, whose search would cost 10 us."""
    has_transforms = torch._C._are_functorch_transforms_active
    guard = torch._C._AutoDispatchBelowAutograd

    def call(*arguments):
        if has_transforms():
            return op(*arguments)
        with guard():
            return op._op(*arguments)  # what op() calls, 0.4 us later

    return call
