"""The CPU's matrix products beside the loop, on every instruction set, against NumPy in float64."""

import numpy as np
import pytest

both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
# Around the widths of vectors and panels (4 to 32), and of a block of right columns (512 float32).
SIZES = [1, 3, 8, 16, 17, 31, 32, 33, 70]
TOLERANCE = {np.float32: 2e-5, np.float64: 1e-13}


def normal(dtype, *shape):
    return np.random.default_rng(shape).standard_normal(shape).astype(dtype)


def check_project(
    kernels, dtype, rows, in_size, out_size, bias=True, input=None, weight=None, cuts=None
):
    input = normal(dtype, rows, in_size) if input is None else input
    weight = normal(dtype, out_size, in_size) if weight is None else weight
    bias = normal(dtype, out_size) if bias else None
    output = np.full((rows + 1, out_size), np.nan, dtype)
    kernels.project(input, weight, bias, output[:rows], cuts or [0, rows])
    expected = input.astype(np.float64) @ weight.astype(np.float64).T
    expected += 0 if bias is None else bias
    tolerance = TOLERANCE[dtype] * in_size**0.5
    np.testing.assert_allclose(output[:rows], expected, rtol=tolerance, atol=tolerance)
    assert np.isnan(output[rows]).all()  # nothing is written past the end
    return output[:rows]


@both_dtypes
@pytest.mark.parametrize("out_size", SIZES)
def test_project_at_every_size(kernels, dtype, out_size):
    for rows in (0, 1, 2, 5, 14, 15, 40):
        for in_size in (1, 7, 33):
            check_project(kernels, dtype, rows, in_size, out_size)


@both_dtypes
def test_project_without_a_bias_with_strides_and_large(kernels, dtype):
    check_project(kernels, dtype, 9, 5, 20, bias=False)
    wide = normal(dtype, 30, 300)
    check_project(
        kernels, dtype, 30, 100, 20, input=wide[:, 7:107], weight=normal(dtype, 100, 20).T
    )
    check_project(kernels, dtype, 30, 256, 33)  # rows at a power of two
    check_project(kernels, dtype, 230, 512, 500)  # a weight that exceeds L2


@both_dtypes
def test_a_projected_row_does_not_depend_on_its_neighbours(kernels, dtype):
    whole = check_project(kernels, dtype, 50, 40, 70)
    parts = check_project(kernels, dtype, 50, 40, 70, cuts=[0, 1, 3, 20, 50])
    np.testing.assert_array_equal(whole, parts)


def check_sum(kernels, dtype, left, right, cuts=None):
    result = np.full((left.shape[2] + 1, right.shape[2]), np.nan, dtype)
    kernels.sum_products(left, right, result[:-1], cuts or [0, left.shape[2]])
    expected = np.einsum("oil,oir->lr", left.astype(np.float64), right.astype(np.float64))
    tolerance = TOLERANCE[dtype] * max(1, left.shape[0] * left.shape[1]) ** 0.5
    np.testing.assert_allclose(result[:-1], expected, rtol=tolerance, atol=tolerance)
    assert np.isnan(result[-1]).all()
    return result[:-1]


@both_dtypes
@pytest.mark.parametrize("right", SIZES)
def test_sum_at_every_size(kernels, dtype, right):
    for left in (1, 6, 13, 14, 15, 29):
        for rows in (0, 1, 20, 300):
            check_sum(kernels, dtype, normal(dtype, 1, rows, left), normal(dtype, 1, rows, right))


@both_dtypes
def test_sum_over_any_layout_of_rows(kernels, dtype):
    left, right = normal(dtype, 9, 270, 20), normal(dtype, 9, 270, 40)
    check_sum(kernels, dtype, left[:, 1:], right[:, :-1])
    check_sum(kernels, dtype, left.transpose(1, 0, 2), right.transpose(1, 0, 2))
    check_sum(
        kernels, dtype, normal(dtype, 2, 40, 512), normal(dtype, 2, 40, 1100)
    )  # powers of two


@both_dtypes
@pytest.mark.parametrize(
    "left_size", [20, 256]
)  # rows of 256 are copied, because they lie at a power of two
@pytest.mark.parametrize("right_size", [33, 300])  # rows of 300 are packed, because they are long
def test_sum_over_short_runs(kernels, dtype, left_size, right_size):
    for outer, inner in ((40, 7), (3, 100), (5, 1), (2, 0), (150, 3)):
        left, right = (
            normal(dtype, outer, inner + 2, left_size),
            normal(dtype, outer, inner + 2, right_size),
        )
        check_sum(kernels, dtype, left[:, :-2], right[:, 2:])


@both_dtypes
def test_a_sum_does_not_depend_on_how_columns_are_shared(kernels, dtype):
    left, right = normal(dtype, 3, 300, 41), normal(dtype, 3, 300, 33)
    whole = check_sum(kernels, dtype, left, right)
    np.testing.assert_array_equal(whole, check_sum(kernels, dtype, left, right, [0, 1, 16, 41]))
