"""Calling a :class:`torch.autograd.Function` without what a short sequence would feel."""

import torch


def apply(function, *arguments):
    """``function.apply(*arguments)``, but for a search for default arguments that takes 20 us."""
    if torch._C._are_functorch_transforms_active() or torch.compiler.is_compiling():
        return function.apply(*arguments)
    return super(torch.autograd.Function, function).apply(*arguments)


def run(function, *arguments):
    """The function with a graph for gradients if there is to be one, else its forward alone."""
    if torch.is_grad_enabled():
        return apply(function, *arguments)
    return function.forward(*arguments)
