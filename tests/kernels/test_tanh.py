"""tanh on every instruction set, against float64."""

import numpy as np
import pytest

LARGEST_TOLD_APART = np.float32(10)  # from about 9.02 on, tanh rounds to 1


def tanh(kernels, x):
    out = np.empty_like(x)
    kernels.tanh(x, out)
    return out


def ulps(got, exact):
    """The largest error, in units in the last place of the exact value in got's dtype."""
    unit = np.spacing(np.abs(exact.astype(got.dtype))).astype(exact.dtype)
    return float(np.max(np.abs(got - exact) / unit))


def floats(first_bits, last_bits, step=1):
    return np.arange(first_bits, last_bits, step, dtype=np.uint32).view(np.float32)


def bits(x):
    return int(np.float32(x).view(np.uint32))


def check(kernels, x):
    got = tanh(kernels, x)
    assert ulps(got, np.tanh(x.astype(np.float64))) <= 0.75
    assert (np.diff(got) >= 0).all()  # monotone
    assert (tanh(kernels, -x) == -got).all()  # odd
    assert got[-1] <= 1


def test_float32_on_a_sample_of_all_floats(kernels):
    check(kernels, floats(0, bits(LARGEST_TOLD_APART), 5003))


@pytest.mark.slow
def test_float32_on_every_float(kernels):
    end, chunk = bits(LARGEST_TOLD_APART), 1 << 24
    for start in range(0, end, chunk):
        # One float of overlap, so that monotony is seen across the chunks.
        check(kernels, floats(max(start - 1, 0), min(start + chunk, end)))
    beyond = floats(end, bits(np.inf) + 1, 4099)
    assert (tanh(kernels, beyond) == 1).all()


def test_float64_on_a_sample(kernels):
    x = np.sort(np.exp(np.random.default_rng(0).uniform(np.log(1e-18), np.log(30), 200_000)))
    got = tanh(kernels, x)
    assert ulps(got, np.tanh(x.astype(np.longdouble))) <= 1
    assert (np.diff(got) >= 0).all()  # monotone
    assert (tanh(kernels, -x) == -got).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_special_values(kernels, dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, tiny, -tiny, 1e30, -1e30], dtype)
    got = tanh(kernels, x)
    expected = np.array([0, 0, 1, -1, np.nan, tiny, -tiny, 1, -1], dtype)
    np.testing.assert_array_equal(got, expected)
    assert not np.signbit(got[0]) and np.signbit(got[1])
