"""A layer with complex weights: a loop by steps that autograd follows, since no kernel takes complex numbers."""

import torch
from torch import Tensor

from .composite import layer_by
from .matmul import times
from .named_arguments import LayerArgs
from .nonlinearity import TANH


def layer(*arguments) -> tuple[Tensor, Tensor]:
    """As the op ``rnnfused::layer``, differentiable.

    Raises:
        NotImplementedError: ``state_grad_clip`` is given, which has no meaning for complex gradients.
    """
    if LayerArgs(*arguments).state_grad_clip is not None:
        raise NotImplementedError("state_grad_clip must be None for complex weights")
    output, h_n = _layer(*arguments)
    return output.clone(), h_n.clone()  # no views


def _loop(projections, weight_hh, h_0, batch_sizes, nonlinearity, reverse):
    activate = torch.tanh if nonlinearity == TANH else torch.relu
    is_packed = batch_sizes is not None
    steps = projections.split(batch_sizes.tolist()) if is_packed else projections.unbind(0)
    outputs = list(steps)
    h = projections.new_empty(0, projections.size(-1))
    for t in reversed(range(len(steps))) if reverse else range(len(steps)):
        active = steps[t].size(0)
        if h_0 is not None:  # rows at their first step
            h = torch.cat([h, h_0[0, h.size(0) : active]])
        known = min(h.size(0), active)
        now = torch.cat([steps[t][:known] + times(h[:known], weight_hh.mT), steps[t][known:]])
        outputs[t] = activate(now)
        h = torch.cat([outputs[t], h[active:]])
    return (torch.cat if is_packed else torch.stack)(outputs), h.unsqueeze(0)


_layer = layer_by(_loop)
