"""The instruction sets against each other: those with fused multiply-adds give the same bits."""

import numpy as np
import pytest
from narrow import BFLOAT16, FLOAT16
from recurrence_case import Case

import rnnfused.ops

# Units of rounding, at 1 or at the value if that is larger; what sums of up to 450 products leave, and twice that.
MOST_ULPS = 40

both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def installed(kernels_module, *names):
    """The instruction sets of this name that this machine and build have."""
    found = []
    for name in names:
        try:
            found.append(kernels_module.Kernels(str(rnnfused.ops.LIBRARY), name))
        except KeyError:
            continue
    return found


@pytest.fixture(
    scope="module",
    params=["avx512", "plain_16", pytest.param("plain_64", marks=pytest.mark.slow)],
)
def pair(request, kernels_module, compile_layout):
    """AVX2's kernels, and others: AVX-512's, or those with registers of another size in bytes (NEON's: 16)."""
    found = installed(kernels_module, "avx2")
    if not found:
        pytest.skip("this machine or build has no avx2")
    if request.param == "avx512":
        found += installed(kernels_module, "avx512")
    else:
        path = compile_layout(request.param.removeprefix("plain_"))
        found.append(kernels_module.Kernels(str(path), "plain"))
    if len(found) < 2:
        pytest.skip("this machine or build has no avx512")
    return found


def check(pair, case):
    """Whether states, last states, d and the gradient of h_0 have the same bits."""
    for a, b in zip(*(case.run(kernels) for kernels in pair), strict=True):
        np.testing.assert_array_equal(a, b)


@both_dtypes
@pytest.mark.parametrize("reverse", [True, False])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("with_h_0", [True, False])
def test_with_every_option(pair, dtype, with_h_0, relu, reverse):
    options = dict(with_h_0=with_h_0, relu=relu, reverse=reverse)
    for steps, batch, hidden in [(1, 1, 1), (5, 9, 19), (20, 15, 64), (4, 31, 129), (3, 2, 450)]:
        check(pair, Case(steps, batch, hidden, dtype, **options))
    batch_sizes = [30, 30, 16, 15, 14, 13, 2]
    check(pair, Case(7, 30, 33, dtype, batch_sizes=batch_sizes, **options))


@both_dtypes
def test_over_many_steps(pair, dtype):
    check(pair, Case(300, 8, 48, dtype))


@pytest.mark.parametrize("narrow", [BFLOAT16, FLOAT16], ids=["bfloat16", "float16"])
def test_16_bit_types(pair, narrow):
    for sizes in [(5, 9, 19), (20, 15, 64), (4, 31, 129)]:
        check(pair, narrow.case(*sizes)[0])


def arrays(dtype, *shapes):
    random = np.random.default_rng(0)
    return [random.standard_normal(shape).astype(dtype) for shape in shapes]


@both_dtypes
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 3, 5), (29, 40, 33), (300, 17, 70)])
def test_projections(pair, dtype, rows, inputs, outputs):
    input, weight, bias = arrays(dtype, (rows, inputs), (outputs, inputs), outputs)
    results = np.zeros((2, rows, outputs), dtype)
    for kernels, result in zip(pair, results, strict=True):
        kernels.project(input, weight, bias, result, [0, rows])
    np.testing.assert_array_equal(*results)


@both_dtypes
@pytest.mark.parametrize("outer", [1, 7, 300])
@pytest.mark.parametrize("inner", [1, 30, 700])
def test_sums_over_rows(pair, dtype, outer, inner):
    left, right = arrays(dtype, (outer, inner, 19), (outer, inner, 37))
    results = np.zeros((2, 19, 37), dtype)
    for kernels, result in zip(pair, results, strict=True):
        kernels.sum_products(left, right, result, [0, 19])
    np.testing.assert_array_equal(*results)


@both_dtypes
def test_tanh(pair, dtype):
    x = np.random.default_rng(0).standard_normal(100_000).astype(dtype) * 4
    x[:5] = 0, -0.0, np.inf, -np.inf, np.nan
    results = np.empty((2, len(x)), dtype)
    for kernels, result in zip(pair, results, strict=True):
        kernels.tanh(x, result)
    np.testing.assert_array_equal(*results)


@both_dtypes
def test_the_baseline_but_for_rounding(kernels_module, dtype):
    """It has no fused multiply-adds, so it rounds products first."""
    found = installed(kernels_module, "default", "avx2")
    if len(found) < 2:
        pytest.skip("this machine or build has one instruction set")
    unit = np.finfo(dtype).eps
    for sizes in [(5, 9, 19), (20, 15, 64), (3, 2, 450)]:
        case = Case(*sizes, dtype)
        for a, b in zip(*(case.run(kernels) for kernels in found), strict=True):
            assert (np.abs(a - b) <= MOST_ULPS * unit * np.maximum(1, np.abs(b))).all()
