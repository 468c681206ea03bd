"""Copies for calls that are compiled: a compiler that saves a view for backward misses a later change in place."""

import torch

from .modes import is_recorded
from .registry import define, impl, register_autograd, register_fake

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
