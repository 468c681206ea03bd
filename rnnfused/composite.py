"""Ops made of other ops.

``layer`` and ``layer_backward``, for devices that lack a fused kernel for a layer: the input projection, the loop and
the products of its gradients are calls of their own. And two ops for calls that are recorded, ``recurrence_gradients``
and ``copied``: a compiler that saves a view of a tensor for backward does not see that the tensor is changed later,
so the views are made inside of an op.
"""

import torch

from .autograd import layer_gradients, recurrence_gradients
from .custom_function import is_recorded
from .products import project
from .registry import define, impl, register_autograd, register_fake
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


def layer_backward(grad_output, grad_h_n, output, input, *others):
    """As the op ``rnnfused::layer_backward``."""
    gradients = layer_gradients(
        torch.ops.rnnfused.recurrence_backward, grad_output, grad_h_n, output, input, *others
    )
    grad_input, grad_weight_ih, *rest = (output.new_empty(0) if x is None else x for x in gradients)
    if input.is_floating_point():  # else it lies by token
        grad_weight_ih = grad_weight_ih.contiguous()
    return grad_input.contiguous(), grad_weight_ih, *(x.contiguous() for x in rest)


define(
    "rnnfused::recurrence_gradients",
    "(Tensor? grad_output, Tensor? grad_h_n, Tensor output, Tensor weight_hh, Tensor? h_0, Tensor? batch_sizes, "
    "Tensor? lengths, int time_dim, int nonlinearity, bool reverse, float? state_grad_clip, bool needs_weight_hh, "
    "bool needs_h_0) -> (Tensor grad_projections, Tensor grad_weight_hh, Tensor grad_h_0)",
)


@impl("rnnfused::recurrence_gradients", "CompositeExplicitAutograd")
def _(grad_output, grad_h_n, output, *others):
    gradients = recurrence_gradients(
        torch.ops.rnnfused.recurrence_backward, with_contiguous_features(grad_output),
        with_contiguous_features(grad_h_n), output, *others,
    )  # fmt: skip
    return tuple(output.new_empty(0) if x is None else x.contiguous() for x in gradients)


@register_fake("rnnfused::recurrence_gradients")
def _(grad_output, grad_h_n, output, weight_hh, h_0, *others):
    *_, needs_weight_hh, needs_h_0 = others
    return (
        torch.empty_like(output, memory_format=torch.contiguous_format),
        output.new_empty(weight_hh.shape if needs_weight_hh else 0),
        output.new_empty(h_0.shape if needs_h_0 else 0),
    )


define("rnnfused::copied", "(Tensor x) -> Tensor")
impl("rnnfused::copied", "CompositeExplicitAutograd", lambda x: x.contiguous().clone())
register_fake("rnnfused::copied")(lambda x: x.new_empty(x.shape))
register_autograd(
    "rnnfused::copied",
    lambda ctx, gradient: gradient,
    setup_context=lambda ctx, inputs, output: None,
)


def copy_of_view(view):
    """A copy where calls are compiled: a compiler must save no view of an argument for backward.

    Not in exported programs, which then run where this package is no more than its compiled library.
    """
    compiled = is_recorded() and not (torch.compiler.is_exporting() or torch.jit.is_tracing())
    if view is None or not compiled or torch.onnx.is_in_onnx_export():
        return view
    return torch.ops.rnnfused.copied(view)
