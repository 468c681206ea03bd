"""The instruction sets of the CPU's kernels, and those of this machine."""

import functools

import pytest
from python_process import run_python

CAPABILITIES = ["default", "avx2", "avx512", "avx512_bf16"]  # each includes the ones before


@functools.cache
def best_capability():
    """The instruction set that this machine and build choose, whichever these tests run on."""
    code = "import rnnfused; print(rnnfused.cpu_capability())"
    return run_python(code, RNNFUSED_CPU_CAPABILITY="").stdout.strip()


def skip_unless_here(capability):
    if CAPABILITIES.index(capability) > CAPABILITIES.index(best_capability()):
        pytest.skip(f"this machine lacks {capability}")
