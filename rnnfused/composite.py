"""The ops ``layer`` and ``layer_backward`` made of other ops, for devices that lack a fused kernel for a layer.

The input projection, the loop and the products of its gradients are calls of their own.
"""

import torch

from .autograd import layer_gradients
from .products import project
from .steps import Extents, Layout, with_contiguous_features
from .token_lookup import project_tokens


def layer(
    input, weight_ih, bias_ih, bias_hh, weight_hh, h_0, batch_sizes, lengths, time_dim,
    nonlinearity, reverse, state_grad_clip,
):  # fmt: skip
    """As the op ``rnnfused::layer``."""
    bias = bias_ih if bias_hh is None else bias_hh if bias_ih is None else bias_ih + bias_hh
    projections = (project if input.is_floating_point() else project_tokens)(input, weight_ih, bias)
    layout = Layout.of(projections.dim() - 1, Extents(batch_sizes, lengths), time_dim)
    output, h_n = torch.ops.rnnfused.recurrence(
        layout.time_major(projections.contiguous()), weight_hh,
        with_contiguous_features(layout.loop_state(h_0)), batch_sizes, lengths, 0, nonlinearity,
        reverse, state_grad_clip,
    )  # fmt: skip
    return layout.restore(output), layout.layer_state(h_n)


def layer_backward(grad_output, grad_h_n, output, *others):
    """As the op ``rnnfused::layer_backward``."""
    gradients = layer_gradients(
        torch.ops.rnnfused.recurrence_backward, grad_output, grad_h_n, output, *others
    )
    return tuple(output.new_empty(0) if x is None else x.contiguous() for x in gradients)
