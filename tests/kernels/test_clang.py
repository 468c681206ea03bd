"""Clang compiles the kernels with the memory of a laptop: macOS has no other compiler.

A search for a function that was inlined into itself once took 12 GB, where GCC needs 0.5.
"""

import resource
import shutil
import subprocess

import pytest
from compiled import ROOT

MOST_BYTES = 4 * 2**30
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Icsrc"]
CLANG = next((name for name in ("clang++", "clang++-19") if shutil.which(name)), None)
ARM = "--target=aarch64-linux-gnu"
KERNELS = {  # a file, and its options
    "baseline": ("baseline", []),
    "avx2": ("avx2", ["-mavx2", "-mfma"]),
    "avx512": ("avx512", ["-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mfma"]),
    "neon": ("baseline", [ARM]),
    "neon_bf16": ("neon_bf16", [ARM, "-march=armv8.2-a+bf16"]),
}


def limit_memory():
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))


@pytest.mark.skipif(CLANG is None, reason="there is no clang++")
@pytest.mark.parametrize("name", KERNELS)
def test_clang_compiles(name, tmp_path):
    file, options = KERNELS[name]
    if ARM in options and not shutil.which("aarch64-linux-gnu-g++-12"):
        pytest.skip("the headers of an ARM compiler are missing")
    source = f"csrc/cpu/kernels/isa_{file}.cpp"
    command = [CLANG, *FLAGS, *options, "-c", source, "-o", str(tmp_path / "object.o")]
    result = subprocess.run(
        command, cwd=ROOT, preexec_fn=limit_memory, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert not result.stderr
