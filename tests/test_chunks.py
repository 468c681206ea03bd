"""One long row as several chunks at once: the plain call's results, what runs again, and what is refused."""

import numpy
import pytest
import torch

from rnnfused import chunks
from rnnfused.functional import rnn

H = 24


def problem(num_steps, scale=0.5, dtype=torch.float32, size=H):
    """Projections (T, 1, H) and W_hh of a spectral radius near ``scale``."""
    torch.manual_seed(0)
    weight_hh = torch.randn(size, size, dtype=torch.float64) * scale / size**0.5
    return torch.randn(num_steps, 1, size).to(dtype), weight_hh.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("num_steps", [1, 5, 300, 5000])
@pytest.mark.parametrize("count", [2, 7])
@pytest.mark.parametrize("warm_up", [0, 3, 200])
def test_has_the_bits_of_one_chunk(dtype, num_steps, count, warm_up):
    projections, weight_hh = problem(num_steps, dtype=dtype)
    expected = rnn(projections, weight_hh)
    got = rnn(projections, weight_hh, chunks=count, warm_up=warm_up, tolerance=0)
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape and torch.equal(a, b)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_options(nonlinearity, batch_first, threads, restore_threads):
    torch.set_num_threads(threads)
    projections, weight_hh = problem(3000)
    if batch_first:
        projections = projections.transpose(0, 1).contiguous()
    options = {"nonlinearity": nonlinearity, "batch_first": batch_first}
    h_0 = torch.randn(1, H)
    expected = rnn(projections, weight_hh, h_0, **options)
    got = rnn(projections, weight_hh, h_0, **options, chunks=4, warm_up=500, tolerance=0.0)
    assert all(map(torch.equal, got, expected))


def test_blocks_of_weights():
    projections, _ = problem(2000)
    weight_hh = torch.randn(3, H // 3, H // 3) * 0.1
    got = rnn(projections, weight_hh, chunks=3, warm_up=300, tolerance=0)
    assert all(map(torch.equal, got, rnn(projections, weight_hh)))


@pytest.mark.parametrize("stride", [2, 3])
def test_strided_projections(stride):
    projections, weight_hh = problem(6000)
    for strided in (projections[::stride], projections.repeat(1, stride, 1)[:, ::stride]):
        got = rnn(strided, weight_hh, chunks=4, warm_up=300, tolerance=0)
        assert all(map(torch.equal, got, rnn(strided, weight_hh)))


class CountedLoop:
    """The loop, which counts the steps of its calls with one row and with several."""

    def __init__(self, weight_hh):
        self.weight_hh, self.alone, self.together = weight_hh, 0, 0

    def __call__(self, projections, h_0):
        if projections.size(1) == 1:
            self.alone += len(projections)
        else:
            self.together += len(projections)
        return rnn(projections, self.weight_hh, h_0)


def test_a_contraction_runs_nothing_again():
    projections, weight_hh = problem(20_000)
    loop = CountedLoop(weight_hh)
    output, _ = chunks.run_in_chunks(loop, projections, None, 6, 300, 0.0)
    assert loop.together == 300 + (20_000 - 300) // 6
    assert loop.alone < 6  # the steps that no chunk has
    assert torch.equal(output, rnn(projections, weight_hh)[0])


def test_chaos_runs_again():
    """Two states of a chaotic recurrence never meet: all chunks but the first run again, with the right result."""
    projections, weight_hh = problem(8000, scale=5.0)
    loop = CountedLoop(weight_hh)
    output, h_n = chunks.run_in_chunks(loop, projections, None, 4, 500, 0.0)
    assert loop.alone >= 3 * (7500 // 4)
    expected = rnn(projections, weight_hh)
    assert torch.equal(output, expected[0]) and torch.equal(h_n, expected[1])


def test_a_chunk_runs_again_until_it_meets_its_states():
    projections, weight_hh = problem(60_000)
    loop = CountedLoop(weight_hh)
    output, _ = chunks.run_in_chunks(loop, projections, None, 3, 0, 0.0)
    assert 2 <= loop.alone / chunks._STEPS_PER_CALL < 3  # a call for each chunk, and the last steps
    assert torch.equal(output, rnn(projections, weight_hh)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_keeps_many_units_apart(dtype):
    """With a tolerance above it nothing runs again, and the result is as near as two orders of one sum are."""
    projections, weight_hh = problem(6000, dtype=dtype, size=256)
    eps = torch.finfo(dtype).eps
    loop = CountedLoop(weight_hh)
    output, _ = chunks.run_in_chunks(loop, projections, None, 4, 500, 64 * eps)
    assert loop.alone < 4
    difference = (output - rnn(projections, weight_hh)[0]).abs().max()
    assert 0 < difference <= 16 * eps


def test_a_difference_that_grows_is_found_without_a_tolerance():
    """The state grows from far below any tolerance: only equal bits at the joins are sure."""
    projections, weight_hh = torch.zeros(3000, 1, 1), torch.tensor([[1.02]])
    h_0 = torch.tensor([[1e-25]])
    expected = rnn(projections, weight_hh, h_0)
    assert expected[1] > 0.1
    assert all(map(torch.equal, rnn(projections, weight_hh, h_0, chunks=2), expected))


def test_many_chunks_take_little_memory():
    projections, weight_hh = problem(40_000)
    largest = 0

    def loop(projections, h_0):
        nonlocal largest
        largest = max(largest, projections.size(0) * projections.size(1))
        return rnn(projections, weight_hh, h_0)

    for count in (6, 90, 1000):
        output, _ = chunks.run_in_chunks(loop, projections, None, count, 100, 0.0)
        assert torch.equal(output, rnn(projections, weight_hh)[0])
        assert largest <= max(chunks._STEPS_PER_CALL, chunks._LEAST_STEPS * count)


def test_tolerance():
    """A short warm-up leaves a difference at the joins; within the tolerance it stays."""
    projections, weight_hh = problem(20_000)
    loop = CountedLoop(weight_hh)
    output, _ = chunks.run_in_chunks(loop, projections, None, 6, 12, 1e-2)
    assert loop.alone < 6
    difference = (output - rnn(projections, weight_hh)[0]).abs().max()
    assert 0 < difference <= 1e-2


@pytest.mark.parametrize("place", ["projections", "weight_hh", "h_0"])
def test_nan(place):
    """NaN spreads as in the plain call. Without h_0 the first step is f(p) alone, whatever W_hh holds."""
    projections, weight_hh = problem(2500)
    h_0 = None
    if place == "projections":
        projections[1200, 0, 3] = torch.nan
    elif place == "weight_hh":
        weight_hh[0, 0] = torch.nan
    else:
        h_0 = torch.full((1, H), torch.nan)
    expected = rnn(projections, weight_hh, h_0)
    got = rnn(projections, weight_hh, h_0, chunks=3, warm_up=100, tolerance=0)
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a.isnan(), b.isnan())
        assert torch.equal(a.nan_to_num(), b.nan_to_num())


def test_autocast():
    projections, weight_hh = problem(1500)
    with torch.autocast("cpu", torch.bfloat16):
        expected = rnn(projections, weight_hh)
        got = rnn(projections, weight_hh, chunks=2, warm_up=100, tolerance=0)
    assert got[0].dtype == torch.bfloat16
    assert all(map(torch.equal, got, expected))


WRONG = {
    "no chunk": ({"chunks": 0}, ValueError, "chunks must be at least 1"),
    "a fraction": ({"chunks": 2.5}, TypeError, "chunks must be an int"),
    "a negative warm-up": ({"warm_up": -1}, ValueError, "warm_up must be at least 0"),
    "a warm-up of text": ({"warm_up": "long"}, TypeError, "warm_up must be an int"),
    "a negative tolerance": ({"tolerance": -1e-3}, ValueError, "tolerance must be at least 0"),
    "NaN": ({"tolerance": float("nan")}, ValueError, "tolerance must be at least 0"),
    "a bool": ({"chunks": True}, TypeError, "chunks must be an int"),
    "a float": ({"chunks": 1.0}, TypeError, "chunks must be an int"),
    "several numbers": ({"chunks": torch.tensor([3, 4])}, TypeError, "chunks must be an int"),
    "a tensor without values": (
        {"projections": torch.zeros(50, 1, H, device="meta")},
        RuntimeError,
        "chunks must be 1 in a compiled, traced or transformed call, and for tensors without values",
    ),
    "no float": ({"tolerance": 10**400}, ValueError, "tolerance must be at least 0, and a float"),
    "a tolerance of text": ({"tolerance": "small"}, TypeError, "tolerance must be a number"),
    "reverse": ({"reverse": True}, ValueError, "chunks must be 1 with reverse"),
    "lengths": ({"lengths": [50]}, ValueError, "chunks must be 1 with lengths"),
    "batch_sizes": (
        {"batch_sizes": torch.ones(50, dtype=torch.int64)},
        ValueError,
        "chunks must be 1 with batch_sizes",
    ),
    "a nonlinearity": ({"nonlinearity": "cos"}, ValueError, "nonlinearity must be"),
    "h_0": ({"h_0": torch.zeros(2, H)}, ValueError, "h_0 must be"),
    "a dtype": ({"h_0": torch.zeros(1, H).double()}, TypeError, "h_0 must be torch.float32"),
    "rows": (
        {"projections": torch.zeros(50, 2, H)},
        ValueError,
        "chunks must be 1 for more than one row, got 2 for 2 rows",
    ),
    "a dimension": ({"projections": torch.zeros(50, H)}, ValueError, "must have 3 dimensions"),
    "a list": ({"projections": [[0.0]]}, TypeError, "projections must be a Tensor"),
    "a gradient": (
        {"projections": torch.zeros(50, 1, H, requires_grad=True)},
        RuntimeError,
        "chunks must be 1 where a tensor needs a gradient",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_refuses(name):
    changed, error, message = WRONG[name]
    projections, weight_hh = problem(50)
    arguments = {"projections": projections, "weight_hh": weight_hh, "chunks": 2, **changed}
    with pytest.raises(error, match=message):
        rnn(**arguments)


@pytest.mark.parametrize("tolerance", [float("inf"), 1, numpy.float32(0.5)])
def test_takes_any_real_tolerance(tolerance):
    projections, weight_hh = problem(500)
    got = rnn(projections, weight_hh, chunks=2, warm_up=0, tolerance=tolerance)
    assert (got[0] - rnn(projections, weight_hh)[0]).abs().max() <= 2


def test_refuses_a_compiler_and_a_transform():
    projections, weight_hh = problem(50)
    with pytest.raises(RuntimeError, match="chunks must be 1 in a compiled"):
        torch.func.vmap(lambda p: rnn(p, weight_hh, chunks=2))(projections.expand(2, 50, 1, H))


def test_without_gradients_a_parameter_may_need_one():
    projections, weight_hh = problem(500)
    weight_hh.requires_grad_()
    with torch.no_grad():
        got = rnn(projections, weight_hh, chunks=2, warm_up=100, tolerance=0)
        assert all(map(torch.equal, got, rnn(projections, weight_hh)))
