"""Loads the compiled libraries and binds the raw ops, which skip autograd."""

import functools
import warnings
from pathlib import Path

import torch

from .modes import below_autograd
from .registry import impl

LIBRARY = Path(__file__).parents[1] / "_cpu.so"
CUDA_LIBRARY = LIBRARY.with_name("_cuda.so")  # exists where the build found nvcc

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

recurrence_backward = below_autograd(torch.ops.rnnfused.recurrence_backward.default)
layer = below_autograd(torch.ops.rnnfused.layer.default)
layer_backward = below_autograd(torch.ops.rnnfused.layer_backward.default)
both_directions = below_autograd(torch.ops.rnnfused.both_directions.default)
both_directions_backward = below_autograd(torch.ops.rnnfused.both_directions_backward.default)
pack_generator = below_autograd(torch.ops.rnnfused.pack_generator.default)
generate = below_autograd(torch.ops.rnnfused.generate.default)
pack_layer = below_autograd(torch.ops.rnnfused.pack_layer.default)
# Without gradients even where its arguments need them.
impl("rnnfused::run_prepared", "Autograd", torch.library.fallthrough_kernel)
run_prepared = torch.ops.rnnfused.run_prepared.default._op


@functools.cache  # torch leaks the string that the op returns
def cpu_capability() -> str:
    """The instruction set of the CPU kernels: ``"default"``, ``"avx2"``, ``"avx512"``, ``"avx512_bf16"``, ``"neon_bf16"``.

    The best set that the machine supports, unless the environment variable ``RNNFUSED_CPU_CAPABILITY`` forces
    another. The variable is read at the first call.

    Raises:
        RuntimeError: the variable names a set that this machine or build lacks.
    """
    return torch.ops.rnnfused.cpu_capability()


def has_cuda_kernels() -> bool:
    """Whether the library with the fused CUDA kernels was built and loaded."""
    return hasattr(torch.ops.rnnfused, "forward_fused")
