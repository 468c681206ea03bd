"""Training takes no more memory the longer it runs."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import memory_growth
import pytest

MODELS = ["layers", "tokens", "cell", "lengths", "language_model", "compiled"]
# A dictionary that is resized once, torch's own caches: 20 KB in all. A string a step was 48 bytes and more.
MOST_HEAP_BYTES_PER_STEP = 10
MOST_RESIDENT_MB = 20


@pytest.mark.parametrize("model", MODELS)
def test_memory_does_not_grow(model):
    if not hasattr(ctypes.CDLL(None), "mallinfo2"):
        pytest.skip("the C library has no mallinfo2, which glibc has since 2.33")
    # The allocator's defaults, whatever the tests run with.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD"))
    }
    result = subprocess.run(
        [sys.executable, Path(memory_growth.__file__), model],
        capture_output=True, text=True, timeout=300, env=environment, check=True,
    )  # fmt: skip
    resident_mb, heap_bytes_per_step = map(float, result.stdout.split())
    assert heap_bytes_per_step < MOST_HEAP_BYTES_PER_STEP
    assert resident_mb < MOST_RESIDENT_MB
