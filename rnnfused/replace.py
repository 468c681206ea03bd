"""Swaps ``torch.nn.RNN`` for ``rnnfused.RNN`` inside any model, and back."""

import warnings

from torch import nn

from .cell import RNNCell
from .rnn import RNN

_OURS = {nn.RNN: RNN, nn.RNNCell: RNNCell}
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}


def replace_rnn(model: nn.Module) -> nn.Module:
    """Makes every :class:`torch.nn.RNN` and ``RNNCell`` in the model an :class:`rnnfused.RNN` and ``RNNCell``.

    In place: each module changes its class and stays the same object, with its Parameter objects, hooks and
    parametrizations. So optimizers, tied weights and references keep working. Modules of classes derived from
    ``nn.RNN`` are left unchanged, with a warning.

    Args:
        model: any module; it may be an ``nn.RNN`` itself.

    Returns:
        The same model.

    Raises:
        TypeError: ``model`` is not a module.
    """
    return _change_classes(model, _OURS)


def restore_rnn(model: nn.Module) -> nn.Module:
    """The inverse of :func:`replace_rnn`: every :class:`rnnfused.RNN` and ``RNNCell`` becomes torch's.

    Args:
        model: any module.

    Returns:
        The same model.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: a layer uses ``heads`` or ``state_grad_clip``, which torch's lacks; nothing is changed.
    """
    if isinstance(model, nn.Module):
        for name, module in model.named_modules():
            if isinstance(module, RNN) and (module.heads > 1 or module.state_grad_clip is not None):
                raise ValueError(
                    f"model.{name} has heads={module.heads} and "
                    f"state_grad_clip={module.state_grad_clip}: torch.nn.RNN has neither"
                )
    return _change_classes(model, _THEIRS)


def _change_classes(model: nn.Module, classes: dict[type, type]) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    for name, module in model.named_modules():
        old = type(module)
        if nn.utils.parametrize.is_parametrized(module):
            parent = old.__bases__[0]  # torch derives a class for each parametrized module
            if parent in classes:
                namespace = {
                    k: v for k, v in vars(old).items() if k not in ("__dict__", "__weakref__")
                }
                module.__class__ = type(
                    f"Parametrized{classes[parent].__name__}", (classes[parent],), namespace
                )
        elif old in classes:
            module.__class__ = classes[old]
        elif any(isinstance(module, cls) for cls in classes) and not isinstance(
            module, tuple(classes.values())
        ):
            warnings.warn(
                f"model.{name} is left as it is: {old.__name__} is derived from "
                f"{old.__mro__[1].__name__} and may change what it does",
                stacklevel=3,
            )
        if isinstance(module, nn.RNN):
            module._init_flat_weights()
    return model
