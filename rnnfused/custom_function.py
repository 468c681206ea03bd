"""Which way a call takes into an op: with a graph for gradients or without, and as what a tracer can record."""

import torch
from torch.autograd import forward_ad


def is_recorded() -> bool:
    """Whether calls are being recorded as ops (compile, export, trace), and Python is not there when they run."""
    return torch.compiler.is_compiling() or torch._C._is_tracing()


def is_transformed() -> bool:
    """Whether :mod:`torch.func`, or forward-mode differentiation, looks at every operation."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def apply(function, *arguments):
    """``function.apply(*arguments)``, but for a search for default arguments that takes 20 us."""
    if torch._C._are_functorch_transforms_active():
        return function.apply(*arguments)
    return super(torch.autograd.Function, function).apply(*arguments)


def run(function, *arguments):
    """The function with a graph for gradients if there is to be one, else its forward alone."""
    if torch.is_grad_enabled() or is_transformed():
        return apply(function, *arguments)
    return function.forward(*arguments)


def below_autograd(op):
    """The op without the gradient that is registered for it, whose search would cost 10 us."""

    def call(*arguments):
        if torch._C._are_functorch_transforms_active():
            return op(*arguments)
        with torch._C._AutoDispatchBelowAutograd():
            return op(*arguments)

    return call
