"""Which loop runs a call on an NVIDIA GPU: the fused kernel, or one matrix product a step.

The fused kernels keep W_hh in registers for the whole loop, so they take hidden sizes up to a few hundred
(``torch.ops.rnnfused.fits`` tells). They have not been proven on hardware yet: ``RNNFUSED_CUDA_FUSED=1``
turns them on, and without it every call goes step by step.
"""

import os

import torch
from torch import Tensor

from . import op, stepwise


def uses_fused_kernels(weight_hh: Tensor) -> bool:
    """Whether a call with this (H, H) weight, on a CUDA device, runs as one fused kernel."""
    if os.environ.get("RNNFUSED_CUDA_FUSED") != "1" or not op.has_cuda_kernels():
        return False
    return torch.ops.rnnfused.fits(weight_hh)


@torch.library.impl("rnnfused::forward", "CUDA")
def _(projections, weight_hh, h_0, batch_sizes, nonlinearity, reverse):
    fused = uses_fused_kernels(weight_hh)
    forward = torch.ops.rnnfused.forward_fused if fused else stepwise.forward
    return forward(projections, weight_hh, h_0, batch_sizes, nonlinearity, reverse)


@torch.library.impl("rnnfused::backward", "CUDA")
def _(grad_output, grad_h_n, output, weight_hh, batch_sizes, nonlinearity, reverse, needs_grad_h_0):
    fused = uses_fused_kernels(weight_hh)
    backward = torch.ops.rnnfused.backward_fused if fused else stepwise.backward
    return backward(
        grad_output, grad_h_n, output, weight_hh, batch_sizes, nonlinearity, reverse, needs_grad_h_0
    )
