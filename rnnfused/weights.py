"""Finds the weights of a layer or a cell."""

import torch
from torch import Tensor


def weight_of(module: torch.nn.Module, name: str) -> Tensor:
    """The module's weight of this name: a Parameter, or what a parametrization or functional_call put in its place.

    Raises:
        RuntimeError: it is None.
    """
    weight = module._parameters.get(name)
    if weight is None:
        weight = getattr(module, name)  # slow
        if weight is None:
            raise RuntimeError(f"{name} must be a Tensor, got None")
    return weight
