"""Calling a :class:`torch.autograd.Function` without what a short sequence would feel."""

import torch
from torch.autograd import forward_ad


def apply(function, *arguments):
    """``function.apply(*arguments)``, but for a search for default arguments that takes 20 us."""
    if torch._C._are_functorch_transforms_active() or torch.compiler.is_compiling():
        return function.apply(*arguments)
    return super(torch.autograd.Function, function).apply(*arguments)


def run(function, *arguments):
    """The function with a graph for gradients if there is to be one, else its forward alone."""
    # Forward-mode differentiation, which works without grad mode too, must not be left out in silence.
    if torch.is_grad_enabled() or forward_ad._current_level >= 0:
        return apply(function, *arguments)
    return function.forward(*arguments)
