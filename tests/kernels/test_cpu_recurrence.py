"""The loops of every instruction set, around every tile edge, against NumPy in float64."""

import numpy as np
import pytest
from recurrence_case import Case

# 2 vectors make a panel; 4, 8 or 16 lanes a vector. Sizes just below, at and above each edge.
HIDDEN_SIZES = [1, 3, 4, 5, 8, 9, 15, 16, 17, 31, 32, 33, 48, 65, 97, 129]
# Tiles are 1 to 14 rows high (6 without AVX-512); more rows make several blocks.
BATCH_SIZES = [1, 2, 3, 4, 6, 7, 8, 13, 14, 15, 29]
# The smallest weights that count as too large for L2, which changes the order of the loops.
STREAMING_SIZE = {np.float32: 417, np.float64: 290}

both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@both_dtypes
@pytest.mark.parametrize("hidden", HIDDEN_SIZES)
def test_every_tile(kernels, dtype, hidden):
    for batch in BATCH_SIZES:
        Case(3, batch, hidden, dtype).check(kernels)


@both_dtypes
@pytest.mark.parametrize("batch", [1, 16, 31])
def test_weights_too_large_for_the_cache(kernels, dtype, batch):
    Case(3, batch, STREAMING_SIZE[dtype], dtype).check(kernels)


@both_dtypes
@pytest.mark.parametrize("with_h_0", [True, False])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("reverse", [True, False])
def test_every_option(kernels, dtype, with_h_0, relu, reverse):
    for steps in (1, 2, 5):
        Case(steps, 9, 19, dtype, with_h_0=with_h_0, relu=relu, reverse=reverse).check(kernels)


@both_dtypes
@pytest.mark.parametrize("reverse", [True, False])
@pytest.mark.parametrize("batch_sizes", [[3], [4, 4, 2, 1], [30, 30, 16, 15, 14, 13, 2], [1, 1]])
def test_rows_that_end_early(kernels, dtype, reverse, batch_sizes):
    for hidden in (5, 33, STREAMING_SIZE[dtype]):
        Case(
            len(batch_sizes),
            batch_sizes[0],
            hidden,
            dtype,
            reverse=reverse,
            batch_sizes=batch_sizes,
        ).check(kernels)


@both_dtypes
@pytest.mark.parametrize("hidden", [7, 40])
def test_rows_do_not_depend_on_their_neighbours(kernels, dtype, hidden):
    """Any split of the batch, down to single rows, gives the same bits."""
    whole = Case(4, 31, hidden, dtype).run(kernels)
    for cuts in ([0, 1, 3, 9, 31], [0, 14, 28, 31], list(range(32))):
        for got, expected in zip(Case(4, 31, hidden, dtype).run(kernels, cuts), whole, strict=True):
            np.testing.assert_array_equal(got, expected)


@both_dtypes
@pytest.mark.parametrize("reverse", [True, False])
@pytest.mark.parametrize("batch_sizes", [(), [20, 9, 3]])
@pytest.mark.parametrize(("hidden", "features"), [(5, 1), (20, 33), (64, 7)])
def test_projections_made_in_the_loop_have_the_same_bits(
    kernels, dtype, hidden, features, reverse, batch_sizes
):
    case = Case(3, 20, hidden, dtype, reverse=reverse, batch_sizes=batch_sizes)
    random = np.random.default_rng(0)
    shape = (*case.projections.shape[:-1], features)
    input, bias = random.standard_normal(shape).astype(dtype), np.ones(hidden, dtype)
    weight_ih = random.standard_normal((hidden, features)).astype(dtype)
    flat = case.projections.reshape(-1, hidden)
    kernels.project(input.reshape(-1, features), weight_ih, bias, flat, [0, len(flat)])
    expected = case.run(kernels)[:2]
    for cuts in ([0, 20], [0, 1, 8, 20]):
        output, h_n = (np.full_like(x, np.nan) for x in expected)
        kernels.layer_forward(
            input,
            weight_ih,
            bias,
            case.weight,
            case.h_0,
            output,
            h_n,
            case.batch_sizes,
            False,
            reverse,
            cuts,
        )
        np.testing.assert_array_equal(output, expected[0])
        np.testing.assert_array_equal(h_n, expected[1])


def spread(array):
    """An array of the same shape inside a larger one of sentinels, batch outermost."""
    steps, batch, hidden = array.shape
    memory = np.full((batch + 2, steps + 1, hidden + 3), 99, array.dtype)
    return memory[1:-1, :-1, 2:-1].transpose(1, 0, 2)


@both_dtypes
@pytest.mark.parametrize("hidden", [1, 6, 16, 37])
def test_strides_are_obeyed_and_nothing_else_is_written(kernels, dtype, hidden):
    case = Case(3, 8, hidden, dtype)
    case.weight = np.asfortranarray(case.weight)
    views = [spread(array) for array in (case.projections, case.grad_output)]
    for view, array in zip(views, (case.projections, case.grad_output), strict=True):
        view[...] = array
    case.projections, case.grad_output = views
    written = []

    def new(_):
        written.append(spread(views[0]))
        return written[-1]

    case.check(kernels, new=new)
    for view in written:
        view[...] = 99
        assert (view.base == 99).all()
