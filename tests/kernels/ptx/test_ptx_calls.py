"""The kernels' PTX on the interpreter: random sizes, options and schedules in every kind of plan, against NumPy.

Most calls have the depths that compile soonest: nvcc_output.PRODUCTS. The slow tests of test_ptx_whole.py have all.
"""

import pytest

from . import nvcc_output
from .calls import draw
from .conftest import USUAL

SEEDS = 6  # of each kind of plan
KINDS = [
    (dtype, architecture, exchange)
    for dtype, architecture in USUAL
    for exchange in ("none", "cluster", "grid")
    if exchange != "cluster" or architecture == "sm_90a"
]


def check(programs, call):
    print(call)  # pytest shows it where the test fails
    call.check(programs(call.dtype, call.architecture))


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize(("dtype", "architecture", "exchange"), KINDS)
def test_random_call(programs, dtype, architecture, exchange, seed):
    seed += 100 * KINDS.index((dtype, architecture, exchange))
    check(programs, draw(seed, dtype=dtype, architecture=architecture, exchange=exchange))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", nvcc_output.PRODUCTS)
def test_random_call_that_sends_16_bytes(programs, dtype, seed):
    where = dict(dtype=dtype, exchange="cluster", architecture="sm_90a", blocks=(2, 4, 4)[seed])
    check(programs, draw(1000 + seed, send="wide", **where))


@pytest.mark.parametrize("exchange", ["cluster", "grid"])
@pytest.mark.parametrize("dtype", nvcc_output.PLANNED)
def test_random_call_of_a_depth_that_the_planner_picks(planned_programs, dtype, exchange):
    [depth] = nvcc_output.PLANNED[dtype]
    where = dict(dtype=dtype, architecture="sm_90a", exchange=exchange, depth=depth)
    call = draw(2000, hidden=depth + 1, steps=3, batch=3, **where)  # two slices
    print(call)
    call.check(planned_programs(dtype))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200))
def test_more_random_calls_that_send_16_bytes(programs, seed):
    seed += 2 * 10**6
    check(programs, draw(seed, exchange="cluster", architecture="sm_90a", send="wide"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(700))
def test_more_random_calls(programs, seed):
    check(programs, draw(10**6 + seed))
