"""Memory does not grow during training."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import memory_growth
import pytest

MODELS = ["layers", "tokens", "cell", "lengths", "language_model", "compiled"]
# torch's caches and a resized dictionary take 20 KB in all; a leak of one string per step takes 48 bytes per step.
MOST_HEAP_BYTES_PER_STEP = 10
MOST_RESIDENT_MB = 20


@pytest.mark.parametrize("steps", [2000, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("model", MODELS)
def test_memory_does_not_grow(model, steps):
    if not hasattr(ctypes.CDLL(None), "mallinfo2"):
        pytest.skip("the C library lacks mallinfo2 (glibc 2.33 and newer)")
    # The limits hold for the allocator's defaults.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD"))
    }
    command = [sys.executable, Path(memory_growth.__file__), model, str(steps)]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=600, env=environment, check=True
    )
    resident_mb, heap_bytes_per_step = map(float, result.stdout.split())
    assert heap_bytes_per_step < MOST_HEAP_BYTES_PER_STEP
    assert resident_mb < MOST_RESIDENT_MB
