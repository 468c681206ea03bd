"""The optimizer, its state as tensors with names, and the clipping before its step."""

import math

import torch
from torch import Tensor, nn

from rnnfused import clip_gradients

from .settings import TrainSettings


def build_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """The optimizer of ``settings`` over all parameters of ``model``; its rate is the highest one."""
    parameters = list(model.parameters())
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=settings.lr)
    if settings.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=settings.lr, betas=settings.betas)
    return torch.optim.AdamW(
        parameters, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay
    )


def clipped_norm(model: nn.Module, clip: float) -> float:
    """Clip the gradients by their global norm; returns the norm before, infinite if it is not finite."""
    try:
        return clip_gradients(clip, model).item()
    except FloatingPointError:
        return math.inf


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Copies of the optimizer's tensors, named ``"<parameter>/<entry>"``; none before its first step."""
    return {
        f"{name}/{entry}": value.detach().clone()
        for name, parameter in model.named_parameters()
        for entry, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def set_optimizer_tensors(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, Tensor]
) -> None:
    """Make ``tensors``, as ``optimizer_tensors`` returned them, the whole state of ``optimizer``.

    Raises:
        ValueError: a name is that of no parameter.
    """
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    for name, value in tensors.items():
        name, _, entry = name.rpartition("/")
        if name not in parameters:
            raise ValueError(f"tensors must belong to parameters of the model, got {name!r}")
        parameter = parameters[name]
        # A counter of steps stays on the CPU.
        device = parameter.device if value.dim() else value.device
        optimizer.state[parameter][entry] = value.clone().to(device)
