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
        planned = [pool.submit(planned_ptx, dtype) for dtype in nvcc_output.PLANNED]
        list(pool.map(lambda pair: nvcc_output.ptx_of(*pair), USUAL))
        for each in planned:
            each.result()
    return functools.cache(Programs)


def planned_ptx(dtype):
    return nvcc_output.ptx_of(dtype, "sm_90a", depths=nvcc_output.PLANNED[dtype])


@pytest.fixture(scope="session")
def planned_programs(programs):
    """The function that returns the programs of a dtype in the depths of nvcc_output.PLANNED, for sm_90a."""
    return functools.cache(lambda dtype: Programs(dtype, "sm_90a", planned_ptx(dtype)))
