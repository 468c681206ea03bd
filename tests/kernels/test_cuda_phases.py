"""The CUDA kernels' phases, run by a host with threads in random order, against NumPy in float64."""

import numpy as np
import pytest
import torch
from recurrence_case import Case

both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
# Around the edges of a thread's units (4) and depths (8, 16, 32, 36), and of a cluster's blocks.
HIDDEN_SIZES = [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31, 33, 37, 63, 65, 100]


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
        (np.float32, 720, 16),
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


def test_a_first_state_of_zeros_does_not_read_the_weight(gpu):
    case = Case(2, 3, 9, np.float32, with_h_0=False)
    case.weight[...] = np.nan
    output = case.run(gpu)[0]
    assert np.isfinite(output[0]).all() and np.isnan(output[1]).all()


def bfloat16_bits(array):
    """The nearest bfloat16 of each float32, as its 16 bits; NumPy has no such type."""
    return torch.from_numpy(array).bfloat16().view(torch.int16).numpy()


def from_bfloat16(bits):
    return torch.from_numpy(bits).view(torch.bfloat16).float().numpy()


@pytest.mark.parametrize("hidden", [8, 33, 100])
def test_bfloat16_rounds_every_state_and_nothing_else(gpu, hidden):
    case = Case(3, 5, hidden, np.float32)
    names = ("projections", "weight", "h_0", "grad_output", "grad_h_n")
    for name in names:
        setattr(case, name, bfloat16_bits(getattr(case, name)))
    results = case.run(gpu)
    for name in names:
        setattr(case, name, from_bfloat16(getattr(case, name)))

    p, w = (torch.from_numpy(x) for x in (case.projections, case.weight))
    h, outputs = torch.from_numpy(case.h_0), []
    for t in range(3):
        h = torch.tanh(p[t] + h @ w.T).bfloat16().float()
        outputs.append(h)
    d, ds = torch.from_numpy(case.grad_h_n), [None] * 3
    for t in reversed(range(3)):
        arrived = torch.from_numpy(case.grad_output[t]) + d
        ds[t] = (arrived * (1 - outputs[t] ** 2)).bfloat16().float()
        d = ds[t] @ w
    expected = (torch.stack(outputs), h, torch.stack(ds), d.bfloat16().float())
    for got, wanted in zip(results, expected, strict=True):
        got = torch.from_numpy(from_bfloat16(got))
        # Sums in another order may round to a neighbour, and seldom do.
        torch.testing.assert_close(got, wanted, rtol=2**-7, atol=2**-8)
        assert (got == wanted).float().mean() > 0.97


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
    assert fitting >= (500 if is_double else 720)
