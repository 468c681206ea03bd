"""Ops for calls that are compiled: they hide views from the compiler.

A compiler that saves a view of a tensor for backward misses a later change of the tensor. So the views are made
inside of an op: ``recurrence_gradients`` and ``copied``.
"""

import torch

from .autograd import recurrence_gradients
from .modes import is_recorded
from .registry import define, impl, register_autograd, register_fake
from .sequence import with_contiguous_features

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
