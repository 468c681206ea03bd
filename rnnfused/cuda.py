"""Which loop runs a call on an NVIDIA GPU: the fused kernel, or one matrix product a step.

The fused kernels keep W_hh in registers for the whole loop, so they take hidden sizes and batches that the GPU
can hold at once (``torch.ops.rnnfused.fits`` tells); all else is a matrix product a step, replayed as a CUDA
graph. Rows with lengths are packed first. Neither has been proven on hardware yet: ``RNNFUSED_CUDA_FUSED=1`` turns both on, ``=steps`` the graphs
alone, and without it every call goes step by step through torch's own kernels.
"""

import os

import torch
from torch import Tensor

from . import composite, graphed, op, packing, stepwise
from .registry import impl
from .steps import Extents, Layout


def _choice() -> str:
    return os.environ.get("RNNFUSED_CUDA_FUSED", "")


def uses_fused_kernels(weight_hh: Tensor, batch_size: int) -> bool:
    """Whether a call with this weight, on a CUDA device, runs as one fused kernel; with heads it does not."""
    if _choice() != "1" or not op.has_cuda_kernels() or weight_hh.dim() == 3:
        return False
    return torch.ops.rnnfused.fits(weight_hh, batch_size)


def _loops_by_step():
    return graphed if _choice() in ("1", "steps") else stepwise


def _loop(projections, weight_hh, h_0, batch_sizes, lengths, *options):
    """The op ``recurrence`` on (T, B, H), packed or jagged rows."""
    if lengths is not None:
        return packing.forward(_loop, projections, weight_hh, h_0, lengths, *options)
    arguments = (projections, weight_hh, h_0, batch_sizes, *options)
    if uses_fused_kernels(weight_hh, stepwise.batch_size(projections, batch_sizes)):
        return torch.ops.rnnfused.forward_fused(*arguments)
    return _loops_by_step().forward(*arguments)


@impl("rnnfused::recurrence", "CUDA")
def _(
    projections, weight_hh, h_0, batch_sizes, lengths, time_dim, nonlinearity, reverse,
    state_grad_clip,
):  # fmt: skip
    layout = Layout.of(projections.dim() - 1, Extents(batch_sizes, lengths), time_dim)
    output, h_n = _loop(
        layout.time_major(projections), weight_hh, h_0, batch_sizes, lengths, nonlinearity, reverse
    )
    return layout.restore(output), h_n


@impl("rnnfused::recurrence_backward", "CUDA")
def _(
    grad_output, grad_h_n, output, weight_hh, batch_sizes, lengths, nonlinearity, reverse,
    state_grad_clip, needs_grad_h_0,
):  # fmt: skip
    if lengths is not None:
        return packing.backward(
            op.recurrence_backward, grad_output, grad_h_n, output, weight_hh, lengths,
            nonlinearity, reverse, state_grad_clip, needs_grad_h_0,
        )  # fmt: skip
    arguments = (grad_output, grad_h_n, output, weight_hh, batch_sizes, nonlinearity, reverse)
    rows = stepwise.batch_size(output, batch_sizes)
    if state_grad_clip is None and uses_fused_kernels(weight_hh, rows):
        return torch.ops.rnnfused.backward_fused(*arguments, needs_grad_h_0)
    return _loops_by_step().backward(*arguments, needs_grad_h_0, state_grad_clip)


impl("rnnfused::layer", "CUDA", composite.layer)
impl("rnnfused::layer_backward", "CUDA", composite.layer_backward)
