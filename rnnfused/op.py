"""The compiled op: loads the shared libraries.

``torch.ops.rnnfused.recurrence`` runs the whole time loop in one call, and ``layer`` the loop with its input
projection; ``recurrence_backward`` and ``layer_backward`` return their gradients. Use the ops through
:func:`rnnfused.functional.rnn` and the layers, which check their arguments. Of their arguments,

- ``time_dim`` is the dimension of time in a sequence: 0, 1, or -1 where the sequence is a single step without it
  (``recurrence_backward`` lacks it: 0). A sequence without a batch is one row. A layer's states have the layers in front, of which a call is one,
  (1, batch, hidden), but for a single step; those of ``recurrence`` are (batch, hidden);
- ``nonlinearity`` is one of :data:`NONLINEARITIES`.
"""

import functools
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .custom_function import below_autograd

LIBRARY = Path(__file__).with_name("_cpu.so")
CUDA_LIBRARY = LIBRARY.with_name("_cuda.so")  # there if it was built where there is an nvcc

if not LIBRARY.exists():
    project = LIBRARY.parents[1]
    raise ImportError(
        f"{project} is the source tree of rnnfused, which is not built in place: start Python in another folder to "
        "use an rnnfused that `pip install .` has installed, or build here with `pip install -e .`"
        if (project / "setup.py").exists()
        else f"rnnfused's compiled library {LIBRARY.name} is missing from {LIBRARY.parent}: install rnnfused again"
    )
torch.ops.load_library(LIBRARY)

if torch.version.cuda is not None and CUDA_LIBRARY.exists():
    try:
        torch.ops.load_library(CUDA_LIBRARY)
    except OSError as error:
        warnings.warn(
            f"rnnfused works on the CPU only: {CUDA_LIBRARY} did not load: {error.__cause__ or error}",
            stacklevel=2,
        )

NONLINEARITIES = {"tanh": 0, "relu": 1}


class RecurrenceArgs(NamedTuple):
    """The arguments of the op ``recurrence``, or the gradients of them."""

    projections: Tensor | None = None
    weight_hh: Tensor | None = None
    h_0: Tensor | None = None
    batch_sizes: Tensor | None = None
    lengths: Tensor | None = None
    time_dim: int | None = None
    nonlinearity: int | None = None
    reverse: bool | None = None
    state_grad_clip: float | None = None


class LayerArgs(NamedTuple):
    """The arguments of the op ``layer``, or the gradients of them."""

    input: Tensor | None = None
    weight_ih: Tensor | None = None
    bias_ih: Tensor | None = None
    bias_hh: Tensor | None = None
    weight_hh: Tensor | None = None
    h_0: Tensor | None = None
    batch_sizes: Tensor | None = None
    lengths: Tensor | None = None
    time_dim: int | None = None
    nonlinearity: int | None = None
    reverse: bool | None = None
    state_grad_clip: float | None = None


recurrence = below_autograd(torch.ops.rnnfused.recurrence.default)
recurrence_backward = below_autograd(torch.ops.rnnfused.recurrence_backward.default)
layer = below_autograd(torch.ops.rnnfused.layer.default)
layer_backward = below_autograd(torch.ops.rnnfused.layer_backward.default)


@functools.cache  # torch leaks the string that the op returns
def cpu_capability() -> str:
    """The instruction set of the CPU kernels: ``"default"``, ``"avx2"``, ``"avx512"`` or ``"avx512_bf16"``.

    It is the best one that the machine has; the environment variable ``RNNFUSED_CPU_CAPABILITY``,
    read at the first call, forces another.

    Raises:
        RuntimeError: the variable names one that this machine or build does not have.
    """
    return torch.ops.rnnfused.cpu_capability()


def has_cuda_kernels() -> bool:
    """Whether the library with the fused CUDA kernels was built and loaded."""
    return hasattr(torch.ops.rnnfused, "forward_fused")
