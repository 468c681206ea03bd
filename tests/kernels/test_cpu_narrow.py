"""bfloat16 and float16 on every instruction set of the CPU: conversions, loops, products."""

import numpy as np
import pytest
from narrow import BFLOAT16, FLOAT16

both_types = pytest.mark.parametrize(
    "narrow", [BFLOAT16, FLOAT16], ids=["bfloat16", "float16"], scope="module"
)
ALL_BITS = np.arange(1 << 16, dtype=np.uint16).view(np.int16)


@both_types
def test_every_value_is_what_it_stands_for(kernels, narrow):
    values = ALL_BITS.view(narrow.bits_dtype)
    sums = np.empty(values.shape, np.float32)
    kernels.to_sums(values, sums)
    np.testing.assert_array_equal(sums, narrow.values(values))
    assert (np.signbit(sums) == np.signbit(narrow.values(values)))[~np.isnan(sums)].all()


@both_types
def test_the_nearest_value_is_taken(kernels, narrow):
    """Around every value, halfway to the next one, past the largest, and anywhere."""
    exact = narrow.values(ALL_BITS.view(narrow.bits_dtype))
    with np.errstate(all="ignore"):
        halves = (exact + np.nextafter(exact, np.float32(np.inf), dtype=np.float32)) / 2
        next_ones = narrow.values((ALL_BITS + np.int16(1)).view(narrow.bits_dtype))
        halfway = (exact.astype(np.float64) + next_ones).astype(np.float32) / 2
    anything = np.random.default_rng(0).integers(0, 1 << 32, 200_000, np.uint32).view(np.float32)
    around = [np.nextafter(halfway, np.float32(end)) for end in (-np.inf, np.inf)]
    for sums in (exact, halves, halfway, *around, anything):
        values = np.empty(sums.shape, narrow.bits_dtype)
        kernels.from_sums(sums, values)
        got, expected = narrow.values(values), narrow.values(narrow.bits(sums))
        np.testing.assert_array_equal(got, expected)
        there = ~np.isnan(got)
        assert (np.signbit(got) == np.signbit(expected))[there].all()


@both_types
@pytest.mark.parametrize("hidden", [1, 2, 3, 5, 8, 9, 15, 16, 17, 31, 32, 33, 48, 65, 129])
def test_every_tile(kernels, narrow, hidden):
    for batch in (1, 2, 3, 4, 6, 7, 13, 14, 15, 29):
        narrow.check(kernels, 3, batch, hidden)


@both_types
@pytest.mark.parametrize("batch", [1, 16, 31])
def test_weights_too_large_for_the_cache(kernels, narrow, batch):
    narrow.check(kernels, 3, batch, 593)


@both_types
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("reverse", [True, False])
@pytest.mark.parametrize("with_h_0", [True, False])
@pytest.mark.parametrize("batch_sizes", [(), [13, 13, 9, 8, 1]])
def test_every_option(kernels, narrow, relu, reverse, with_h_0, batch_sizes):
    options = dict(relu=relu, reverse=reverse, with_h_0=with_h_0, batch_sizes=batch_sizes)
    narrow.check(kernels, 5, 13, 37, **options)


@both_types
@pytest.mark.parametrize("hidden", [7, 40])
def test_rows_do_not_depend_on_their_neighbours(kernels, narrow, hidden):
    case, _ = narrow.case(4, 31, hidden)
    whole = case.run(kernels)
    for cuts in ([0, 1, 3, 9, 31], list(range(32))):
        for got, expected in zip(case.run(kernels, cuts), whole, strict=True):
            np.testing.assert_array_equal(got, expected)


def normal(narrow, *shape):
    return narrow.bits(np.random.default_rng(shape).standard_normal(shape).astype(np.float32))


@both_types
@pytest.mark.parametrize(("hidden", "features"), [(5, 1), (20, 33), (64, 7), (33, 64)])
def test_projections_made_in_the_loop_have_the_same_bits(kernels, narrow, hidden, features):
    """A loop reads the float32 projections that were made before it without rounding them."""
    case, _ = narrow.case(3, 20, hidden)
    if not kernels.projects(case.weight):
        pytest.skip("the loop does not make projections of this type")
    input, weight_ih = normal(narrow, 3, 20, features), normal(narrow, hidden, features)
    bias = normal(narrow, hidden)
    output, h_n = np.empty_like(case.projections), np.empty_like(case.h_0)
    kernels.layer_forward(
        input, weight_ih, bias, case.weight, case.h_0, output, h_n, [], False, False, [0, 1, 8, 20]
    )
    projections = np.empty((60, hidden), np.float32)
    kernels.project(input.reshape(60, -1), weight_ih, bias, projections, [0, 60])
    case.projections = projections.reshape(3, 20, hidden)
    expected = np.empty_like(output)
    kernels.forward(
        case.projections, case.weight, case.h_0, expected, h_n, [], False, False, [0, 20]
    )
    np.testing.assert_array_equal(output, expected)


@both_types
@pytest.mark.parametrize("in_size", [1, 2, 7, 33, 128])
def test_project(kernels, narrow, in_size):
    for rows, out_size in ((1, 3), (15, 33), (40, 16)):
        input, weight = normal(narrow, rows, in_size), normal(narrow, out_size, in_size)
        bias = normal(narrow, out_size)
        exact = narrow.values(input).astype(np.float64) @ narrow.values(weight).T
        exact += narrow.values(bias)
        sums = np.empty((rows, out_size), np.float32)
        kernels.project(input, weight, bias, sums, [0, rows])
        np.testing.assert_allclose(sums, exact, rtol=1e-5, atol=1e-4)
        rounded = np.empty((rows, out_size), narrow.bits_dtype)
        kernels.project(input, weight, bias, rounded, [0, rows])
        np.testing.assert_array_equal(rounded, narrow.bits(sums))


def check_sum(kernels, narrow, left, right):
    result = np.empty((left.shape[2], right.shape[2]), np.float32)
    kernels.sum_products(left, right, result, [0, left.shape[2]])
    wide = (narrow.values(x).astype(np.float64) for x in (left, right))
    np.testing.assert_allclose(result, np.einsum("oil,oir->lr", *wide), rtol=1e-4, atol=1e-3)


@both_types
@pytest.mark.parametrize("rows", [1, 2, 19, 257, 600])
def test_sum_of_products(kernels, narrow, rows):
    for left_size, right_size in ((1, 3), (15, 33), (29, 16)):
        left, right = normal(narrow, 2, rows, left_size), normal(narrow, 2, rows, right_size)
        check_sum(kernels, narrow, left, right)


@both_types
@pytest.mark.parametrize("rows", [1, 7, 100])
def test_sum_over_short_runs(kernels, narrow, rows):
    left, right = normal(narrow, 23, rows + 2, 15), normal(narrow, 23, rows + 2, 33)
    check_sum(kernels, narrow, left[:, 1:-1], right[:, 2:])
