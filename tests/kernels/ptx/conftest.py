"""PTX of the kernels, compiled once."""

import functools
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from . import nvcc_output
from .calls import Programs

# What the tests without the `slow` mark run: every kernel for the newest GPU, and two dtypes for the oldest.
USUAL = [
    *((dtype, "sm_90a") for dtype in nvcc_output.PRODUCTS),
    ("float32", "compute_80"),
    ("bfloat16", "compute_80"),
]


@pytest.fixture(scope="session")
def programs():
    """The function that returns the programs of a dtype and architecture."""
    if nvcc_output.find_nvcc() is None:
        pytest.skip("no nvcc is found, or RNNFUSED_CUDA=0 forbids it")
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # nvcc has one thread
        list(pool.map(lambda pair: nvcc_output.ptx_of(*pair), USUAL))
    return functools.cache(Programs)
