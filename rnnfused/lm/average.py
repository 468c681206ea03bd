"""The exponential moving average of a model's weights."""

import copy

import torch
from torch import Tensor

from .model import CharLM


class WeightAverage:
    """Averages the weights of ``model`` over its steps: Polyak and Juditsky, 1992, exponentially.

    After step n, ``average = d * average + (1 - d) * weights`` with
    ``d = min(decay, (1 + n) / (10 + n))``, so that the first weights soon have no part in it.

    Args:
        model: stays as it is.
        decay: the highest d, in (0, 1).

    Attributes:
        model: the averaged model, in eval mode and without gradients.
    """

    def __init__(self, model: CharLM, decay: float):
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: CharLM, step: int) -> None:
        """Take the weights of ``model`` after ``step`` steps into the average."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages: list[Tensor] = [*self.model.parameters()]
        weights: list[Tensor] = [*model.parameters()]
        torch._foreach_lerp_(averages, weights, 1 - decay)
