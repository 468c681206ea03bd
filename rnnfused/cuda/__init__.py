"""Chooses the loop that runs a call on an NVIDIA GPU: a fused kernel, a captured graph, or one product per step.

The fused kernels keep W_hh in registers for the whole loop. They take the hidden sizes and batches that the GPU can
hold at once. Every other call is one matrix product per step, as separate launches or replayed as a CUDA graph
(:mod:`rnnfused.cuda.graphs`).

The kernels have run on an H100 alone. So by default the user's device decides (:mod:`rnnfused.cuda.decider`): a way is
taken where its results are right and it is the fastest. :func:`report` shows the choices. docs/environment.md explains
the variable that forces one.
"""

import os

from torch import Tensor

from ..ops import composite
from ..ops.registry import impl
from .gpu import Gpu
from .loops import Loops
from .reporting import Report, report_of

__all__ = ["Report", "report", "uses_fused_kernels"]

# Read once, when the package is imported.
choice = os.environ.get("RNNFUSED_CUDA_FUSED", "")

_loops = Loops(Gpu(), lambda: choice)


def uses_fused_kernels(weight_hh: Tensor, batch_size: int) -> bool:
    """Whether a call with this weight can run as one fused kernel on its device.

    By default the device decides among all ways: see :func:`report`. With ``RNNFUSED_CUDA_FUSED=1`` the call does run
    as one fused kernel.

    Args:
        weight_hh: (H, H) on a CUDA device; (n, H/n, H/n), a weight with heads, never does.
        batch_size: B, the rows of the whole batch.

    Raises:
        ValueError: RNNFUSED_CUDA_FUSED has an unknown value.
    """
    return _loops.may_fuse(weight_hh, batch_size)


def report() -> Report:
    """What the devices of this process have decided so far; ``print(rnnfused.cuda.report())`` shows it.

    Each row has the device, the plan of the fused kernels, the dtype, the class of shapes, the result of the
    self-check, the median times and the choice. A bug report on CUDA should contain it.

    Raises:
        ValueError: RNNFUSED_CUDA_FUSED has an unknown value.
    """
    return report_of(_loops)


impl("rnnfused::layer", "CUDA", composite.layer_by(_loops.forward))
impl("rnnfused::layer_backward", "CUDA", composite.layer_backward_by(_loops.backward))
impl("rnnfused::recurrence_backward", "CUDA", composite.recurrence_backward_by(_loops.backward))
