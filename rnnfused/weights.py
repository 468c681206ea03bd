"""Finds the weights of a layer or a cell."""

import torch
from torch import Tensor


def weight_of(module: torch.nn.Module, name: str) -> Tensor:
    """The module's weight of this name: a Parameter, or what a parametrization or functional_call put in its place."""
    weight = module._parameters.get(name)
    found: Tensor = getattr(module, name) if weight is None else weight  # getattr is slow
    return found
