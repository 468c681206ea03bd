"""The matrix products beside the time loop: large ones on the CPU by rnnfused's kernels, all others by torch's.

    project(x, W, b) = x W^T + b          sum_of_products(l, r) = sum_n l_n^T r_n

Each is the derivative of the other, so both have derivatives of any order. With ``g`` the gradient of the result::

    dx = project(g, W^T),   dW = sum_of_products(g, x),   db = sum_n g_n
    dl = project(r, g),     dr = project(l, g^T)

``times`` and ``sum_by_head`` are the products with W_hh, which may have heads: diagonal blocks, (n, H/n, H/n).
"""

import platform
import sys

import torch
import torch.nn.functional as F
from torch import Tensor

from .modes import entry, is_recorded, is_transformed
from .sequence import is_batch_major
from .tokens import is_ids, project_tokens

# Multiply-adds below which a call of rnnfused's kernels costs more than it saves.
MIN_WORK = 1_000_000

# Whether torch multiplies by Apple's Accelerate, whose matrix unit outruns every vector instruction.
HAS_ACCELERATE = sys.platform == "darwin" and platform.machine() == "arm64"
# Multiply-adds of a product from which Accelerate is the faster one. An estimate, as no Mac was at hand: NEON takes 0.3 ms
# for them on a core of an M1, torch's call and a pass over its result 0.1 ms.
MIN_ACCELERATE_WORK = 16_000_000


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums of products: float32 beside the 16-bit dtypes."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _has_kernel(model: Tensor, work: int) -> bool:
    # torch's products can be recorded and transformed.
    return (
        work >= MIN_WORK
        and model.device.type == "cpu"
        and model.dtype in (torch.float32, torch.float64)
        and not (is_recorded() or is_transformed())
        and not suits_accelerate(model, work)
    )


def suits_accelerate(model: Tensor, work: int) -> bool:
    """Whether torch multiplies faster, by Accelerate, in a CPU product of ``work`` multiply-adds.

    Never under :func:`torch.use_deterministic_algorithms`, which asks for the bits of rnnfused's kernels.
    """
    return (
        HAS_ACCELERATE
        and work >= MIN_ACCELERATE_WORK
        and model.is_cpu
        and model.dtype in (torch.float32, torch.float64)
        and not torch.are_deterministic_algorithms_enabled()
    )


def project(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``input W^T + bias`` as :func:`torch.nn.functional.linear`: (.., I), (H, I), (H) -> (.., H)."""
    if not _has_kernel(input, input.numel() * weight.size(0)):
        return F.linear(input, weight, bias)
    if is_batch_major(input):
        return project(input.transpose(0, 1), weight, bias).transpose(0, 1)
    rows = input.reshape(-1, input.size(-1))
    return _project_rows(rows, weight, bias).view(*input.shape[:-1], weight.size(0))


def project_input(input: Tensor, weight_ih: Tensor, bias: Tensor | None = None) -> Tensor:
    """``input W_ih^T + bias`` for features (.., I) or token ids (..): (.., H)."""
    return (project_tokens if is_ids(input) else project)(input, weight_ih, bias)


def sum_of_products(left: Tensor, right: Tensor) -> Tensor:
    """``sum_n left[n]^T right[n]`` over all steps and rows: (.., H), (.., K) -> (H, K)."""
    if is_batch_major(left):
        left, right = left.transpose(0, 1), right.transpose(0, 1)
    if not _has_kernel(left, left.numel() * right.size(-1)):
        return left.reshape(-1, left.size(-1)).t() @ right.reshape(-1, right.size(-1))
    if left.dim() == 2:
        left, right = left.unsqueeze(0), right.unsqueeze(0)
    return _sum_products(left, right)


def times(states: Tensor, weight: Tensor) -> Tensor:
    """``states W``: (.., H) with (H, H), or with each head's block (n, H/n, H/n)."""
    if weight.dim() == 2:
        return states @ weight
    return torch.bmm(_by_head(states, weight), weight).transpose(0, 1).reshape(states.shape)


def sum_by_head(left: Tensor, right: Tensor, weight: Tensor) -> Tensor:
    """:func:`sum_of_products` of states, as a gradient of the weight: (H, H), or of each head's block."""
    if weight.dim() == 2:
        return sum_of_products(left, right)
    return torch.bmm(_by_head(left, weight).mT, _by_head(right, weight))


def _by_head(states: Tensor, weight: Tensor) -> Tensor:
    """(n, rows, H/n)"""
    return states.reshape(-1, *weight.shape[:2]).transpose(0, 1)


class _Projection(torch.autograd.Function):
    @staticmethod
    def forward(input, weight, bias):
        return torch.ops.rnnfused.project(input, weight, bias)

    @staticmethod
    def setup_context(ctx, inputs, output):
        input, weight, _ = inputs
        ctx.save_for_backward(input, weight)

    @staticmethod
    def backward(ctx, gradient):
        input, weight = ctx.saved_tensors
        needs_input, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            project(gradient, weight.t()) if needs_input else None,
            sum_of_products(gradient, input) if needs_weight else None,
            gradient.sum(0) if needs_bias else None,
        )


class _ProductSum(torch.autograd.Function):
    @staticmethod
    def forward(left, right):
        return torch.ops.rnnfused.sum_of_products(left, right)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        left, right = ctx.saved_tensors
        needs_left, needs_right = ctx.needs_input_grad
        return (
            project(right, gradient) if needs_left else None,
            project(left, gradient.t()) if needs_right else None,
        )


_project_rows = entry(_Projection)
_sum_products = entry(_ProductSum)
