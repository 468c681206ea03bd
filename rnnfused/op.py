"""The compiled op: loads the shared libraries.

``torch.ops.rnnfused.forward`` and ``torch.ops.rnnfused.backward`` run the whole time loop, each in one call;
``layer_forward`` and ``layer_backward`` with the input projection and all gradients of a layer. Use them through
:func:`rnnfused.functional.rnn` and the layers, which check their arguments.
"""

import warnings
from pathlib import Path

import torch

from .custom_function import below_autograd

LIBRARY = Path(__file__).with_name("_cpu.so")
CUDA_LIBRARY = LIBRARY.with_name("_cuda.so")  # there if it was built where there is an nvcc

if not LIBRARY.exists():
    raise ImportError(
        f"rnnfused's compiled library {LIBRARY.name} is missing from {LIBRARY.parent}: "
        "build it with `pip install .` in the project's folder"
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

forward = below_autograd(torch.ops.rnnfused.forward.default)
layer_forward = below_autograd(torch.ops.rnnfused.layer_forward.default)
backward = below_autograd(torch.ops.rnnfused.backward.default)
layer_backward = below_autograd(torch.ops.rnnfused.layer_backward.default)


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
