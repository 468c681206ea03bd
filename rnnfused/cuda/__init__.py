"""Chooses the loop that runs a call on an NVIDIA GPU: a fused kernel, a captured graph, or one product per step.

The fused kernels keep W_hh in registers for the whole loop. They take the hidden sizes and batches that the GPU can
hold at once (:func:`uses_fused_kernels`). Every other call is one matrix product per step, replayed as a CUDA graph
(:mod:`rnnfused.cuda.graphs`).

Neither has been proven on hardware yet, so both are off by default: every call then goes step by step through
torch's own kernels. docs/environment.md explains the variable that turns them on.
"""

import functools
import os

import torch
from torch import Tensor

from ..ops import composite, has_cuda_kernels, stepwise
from ..ops.registry import impl
from . import graphs

# Read once, when the package is imported.
choice = os.environ.get("RNNFUSED_CUDA_FUSED", "")


def uses_fused_kernels(weight_hh: Tensor, batch_size: int) -> bool:
    """Whether a call with this weight runs as one fused kernel.

    Args:
        weight_hh: (H, H) on a CUDA device; (n, H/n, H/n), a weight with heads, never does.
        batch_size: B, the rows of the whole batch.
    """
    if choice != "1" or not has_cuda_kernels() or weight_hh.dim() == 3:
        return False
    return _fits(weight_hh.device, weight_hh.dtype, weight_hh.size(0), batch_size)


@functools.lru_cache(maxsize=1024)  # so that a call computes its plan once, in C++
def _fits(device: torch.device, dtype: torch.dtype, hidden_size: int, batch_size: int) -> bool:
    weight_hh = torch.empty((), device=device, dtype=dtype).expand(hidden_size, hidden_size)
    return torch.ops.rnnfused.fits(weight_hh, batch_size)


def _loops_by_step():
    return graphs if choice in ("1", "steps") else stepwise


def _forward(projections, weight_hh, h_0, batch_sizes, nonlinearity, reverse):
    arguments = (projections, weight_hh, h_0, batch_sizes, nonlinearity, reverse)
    if uses_fused_kernels(weight_hh, stepwise.batch_size(projections, batch_sizes)):
        return torch.ops.rnnfused.forward_fused(*arguments)
    return _loops_by_step().forward(*arguments)


def _backward(
    grad_output,
    grad_h_n,
    output,
    weight_hh,
    batch_sizes,
    nonlinearity,
    reverse,
    state_grad_clip,
    needs_h_0,
):
    arguments = (grad_output, grad_h_n, output, weight_hh, batch_sizes, nonlinearity, reverse)
    rows = stepwise.batch_size(output, batch_sizes)
    if state_grad_clip is None and uses_fused_kernels(weight_hh, rows):
        return torch.ops.rnnfused.backward_fused(*arguments, needs_h_0)
    return _loops_by_step().backward(*arguments, state_grad_clip, needs_h_0)


impl("rnnfused::layer", "CUDA", composite.layer_by(_forward))
impl("rnnfused::recurrence_backward", "CUDA", composite.recurrence_backward_by(_backward))
