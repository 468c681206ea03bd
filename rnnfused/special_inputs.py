"""Sorts a layer's calls: ordinary ones, inputs that are no tensors, and per-sample weights."""

from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import handle_torch_function, has_torch_function

from .ops.modes import is_recorded

# The types of a weight in an ordinary call; None where a parametrization makes it.
PLAIN_WEIGHTS = frozenset((Parameter, Tensor, type(None)))


def is_checked_by_op(input: Any, hx: Any, weight: Any, has_ids: bool = False) -> TypeGuard[Tensor]:
    """Whether the op itself refuses a wrong shape or dtype, so that Python explains only on refusal.

    The CPU op does, for dense tensors. Python checks fake tensors, other devices, and ids or features beforehand.
    """
    return (
        type(input) is Tensor
        and type(weight) in (Parameter, Tensor)
        and input.is_cpu
        and weight.is_cpu
        and input.dtype is (torch.int64 if has_ids else weight.dtype)
        and input.layout is torch.strided
        and not input.is_nested
        and (hx is None or type(hx) is Tensor and hx.layout is torch.strided)
        and not is_recorded()
    )


def is_special(input: Any, hx: Any, weight: Any) -> bool:
    """Whether :func:`run_specially` may take the call."""
    return (
        not isinstance(input, Tensor)
        or (hx is not None and not isinstance(hx, Tensor))
        or type(weight) not in PLAIN_WEIGHTS
    )


def run_specially(module: Any, input: Any, hx: Any, **keywords: Any) -> Any:
    """The result of the module's call, or NotImplemented if it is an ordinary one after all.

    - A ``torch.fx.Proxy`` records the module as a leaf of the graph, as modules of torch.nn are.
    - Another object with ``__torch_function__`` takes the call over, as it does a function of torch.
    - Weights that are torch's ``ExpandedWeight`` (:func:`torch.nn.utils._per_sample_grad.call_for_per_sample_grads`)
      go through ``module.forward_per_sample``.
    """
    if isinstance(input, torch.fx.Proxy):
        given = {name: value for name, value in keywords.items() if value is not None}
        tracer: Any = input.tracer
        path = tracer.path_of_module(module)
        if not path:
            raise torch.fx.proxy.TraceError(
                "a layer must be traced inside of a module, which has it as a leaf, not as the root"
            )
        return tracer.create_proxy("call_module", path, (input, hx), given)
    others = [x for x in (input, hx) if not (x is None or isinstance(x, Tensor | type))]
    if has_torch_function(others):
        return handle_torch_function(type(module).forward, others, module, input, hx, **keywords)
    if isinstance(input, Tensor | PackedSequence) and _is_per_sample(module):
        wrong = {name: value for name, value in keywords.items() if value is not None}
        if wrong:
            raise NotImplementedError(f"gradients per sample with {' and '.join(wrong)}")
        return module.forward_per_sample(input, hx)
    return NotImplemented


def _is_per_sample(module) -> bool:
    from torch.nn.utils._expanded_weights.expanded_weights_impl import ExpandedWeight

    return any(isinstance(weight, ExpandedWeight) for weight in module._parameters.values())


def has_hooks(module: torch.nn.Module) -> bool:
    """Whether a hook watches or changes the module's forward call, so that the call must be made."""
    return bool(module._forward_hooks or module._forward_pre_hooks)
