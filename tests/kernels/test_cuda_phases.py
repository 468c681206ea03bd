"""The CUDA kernels' phases, run by a host with threads in random order, against NumPy in float64."""

import numpy as np
import pytest
from recurrence_case import Case

both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
# Around the edges of a thread's units (4) and depths (8, 16, 32, 40), and of a cluster's blocks.
HIDDEN_SIZES = [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31, 33, 41, 63, 65, 100]


@pytest.fixture(params=[1, 16], ids=["no cluster", "cluster"])
def gpu(request, emulator_module):
    """A small GPU, so that a tile has several rows."""
    return emulator_module.Emulator(4, request.param, 0)


@both_dtypes
@pytest.mark.parametrize("hidden", HIDDEN_SIZES)
def test_every_size(gpu, dtype, hidden):
    for batch in (1, 2, 5, 13):
        Case(3, batch, hidden, dtype).check(gpu)


@both_dtypes
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("reverse", [True, False])
@pytest.mark.parametrize("with_h_0", [True, False])
def test_every_option(gpu, dtype, relu, reverse, with_h_0):
    for steps in (1, 2, 5):
        case = Case(steps, 9, 19, dtype, relu=relu, reverse=reverse, with_h_0=with_h_0)
        case.check(gpu)


@both_dtypes
@pytest.mark.parametrize("reverse", [True, False])
@pytest.mark.parametrize("batch_sizes", [[3], [4, 4, 2, 1], [30, 30, 16, 15, 14, 13, 2], [1, 1]])
def test_rows_that_end_early(gpu, dtype, reverse, batch_sizes):
    Case(
        len(batch_sizes), batch_sizes[0], 21, dtype, reverse=reverse, batch_sizes=batch_sizes
    ).check(gpu)


# Hidden sizes that take 2, 4, 8 and 16 blocks.
@pytest.mark.parametrize(
    ("dtype", "hidden", "cluster"),
    [
        (np.float32, 256, 2),
        (np.float32, 350, 4),
        (np.float32, 512, 8),
        (np.float32, 768, 16),
        (np.float64, 160, 2),
        (np.float64, 230, 4),
        (np.float64, 350, 8),
        (np.float64, 500, 16),
    ],
)
def test_every_cluster(emulator_module, dtype, hidden, cluster):
    gpu = emulator_module.Emulator(132, 16, 0)
    assert gpu.plan(hidden, 3, dtype == np.float64).cluster == cluster
    for seed in range(2):
        Case(3, 3, hidden, dtype).check(emulator_module.Emulator(cluster, 16, seed))


@both_dtypes
def test_same_bits_in_any_order(emulator_module, dtype):
    runs = [Case(4, 7, 70, dtype).run(emulator_module.Emulator(2, 8, seed)) for seed in range(3)]
    for other in runs[1:]:
        for got, expected in zip(other, runs[0], strict=True):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("is_double", [False, True])
def test_plans_fit_the_machine(emulator_module, is_double):
    gpu = emulator_module.Emulator(132, 16, 0)
    fitting = 0
    for hidden in range(1, 1000):
        for batch in (1, 16, 1000):
            plan = gpu.plan(hidden, batch, is_double)
            if plan.cluster == 0:
                continue
            fitting = max(fitting, hidden)
            assert 1 <= plan.threads <= 256 and plan.batch_tile >= 1
            # Every block has a unit, and together they have them all.
            assert plan.units * (plan.cluster - 1) < hidden <= plan.units * plan.cluster
    assert fitting >= (500 if is_double else 768)
