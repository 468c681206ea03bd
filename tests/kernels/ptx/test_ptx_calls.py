"""The kernels' PTX on the interpreter: random plans, sizes, options and schedules, against NumPy in float64."""

import pytest

from .calls import draw
from .conftest import USUAL

USUAL_CALLS = 72
SLOW_CALLS = 700


def check(programs, call):
    print(call)  # pytest shows it where the test fails
    call.check(programs(call.dtype, call.architecture))


def usual(seed):
    """A call of kernels that are compiled for the usual tests."""
    for seed in (seed * 1000 + i for i in range(1000)):
        call = draw(seed)
        if (call.dtype, call.architecture) in USUAL:
            return call


@pytest.mark.parametrize("seed", range(USUAL_CALLS))
def test_random_call(programs, seed):
    check(programs, usual(seed))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SLOW_CALLS))
def test_more_random_calls(programs, seed):
    check(programs, draw(10**6 + seed))
