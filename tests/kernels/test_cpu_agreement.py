"""The instruction sets against each other: a model gives the same on every machine, but for rounding."""

import itertools

import numpy as np
import pytest
from recurrence_case import Case

import rnnfused.ops

# Units of rounding, at 1 or at the value if that is larger; what sums of up to 450 products leave, and twice that.
MOST_ULPS = 40


@pytest.fixture(scope="module")
def pairs(kernels_module):
    """Every two of the instruction sets that this machine and build have."""
    found = []
    for name in ("default", "avx2", "avx512"):
        try:
            found.append(kernels_module.Kernels(str(rnnfused.ops.LIBRARY), name))
        except KeyError:
            continue
    if len(found) < 2:
        pytest.skip("this machine or build has one instruction set")
    return list(itertools.combinations(found, 2))


def check(pairs, case):
    """Whether states, last states, d and the gradient of h_0 agree."""
    unit = np.finfo(case.dtype).eps
    for pair in pairs:
        for a, b in zip(*(case.run(kernels) for kernels in pair), strict=True):
            assert (np.abs(a - b) <= MOST_ULPS * unit * np.maximum(1, np.abs(b))).all()


both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@both_dtypes
@pytest.mark.parametrize("reverse", [True, False])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("with_h_0", [True, False])
def test_with_every_option(pairs, dtype, with_h_0, relu, reverse):
    options = dict(with_h_0=with_h_0, relu=relu, reverse=reverse)
    for steps, batch, hidden in [(1, 1, 1), (5, 9, 19), (20, 15, 64), (4, 31, 129), (3, 2, 450)]:
        check(pairs, Case(steps, batch, hidden, dtype, **options))
    batch_sizes = [30, 30, 16, 15, 14, 13, 2]
    check(pairs, Case(7, 30, 33, dtype, batch_sizes=batch_sizes, **options))


@both_dtypes
def test_over_many_steps(pairs, dtype):
    check(pairs, Case(300, 8, 48, dtype))
