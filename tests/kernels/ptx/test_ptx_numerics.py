"""The interpreter's arithmetic, against other definitions of the same operations."""

from fractions import Fraction

import numpy as np
import torch

from . import numerics

RANDOM = np.random.default_rng(0)
EDGES = np.array([0, -0.0, 1, -1, np.inf, -np.inf, np.nan, 1e-40, 3.4e38, 65519, 65520, 1e-7], "f4")
BITS = RANDOM.integers(0, 2**32, 5000, dtype=np.uint32).view(np.float32)
FLOATS = np.concatenate([EDGES, BITS, RANDOM.standard_normal(5000).astype(np.float32)])


def same_values(got, wanted):
    np.testing.assert_array_equal(np.asarray(got), np.asarray(wanted))


def test_16_bit_types_round_as_in_torch():
    for kind, to, back in (
        (torch.bfloat16, numerics.bfloat16_bits, numerics.from_bfloat16),
        (torch.float16, numerics.float16_bits, numerics.from_float16),
    ):
        with np.errstate(all="ignore"):
            got = back(to(FLOATS))
        same_values(got, torch.from_numpy(FLOATS).to(kind).float().numpy())


def test_fused_multiply_adds_round_once():
    a, b, c = (RANDOM.standard_normal(300).astype(np.float32) for _ in range(3))
    exact = [
        Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)) for x, y, z in zip(a, b, c)
    ]
    same_values(numerics.fma32(a, b, c), np.array([float(x) for x in exact], np.float32))
    a, b = (RANDOM.standard_normal(300) for _ in range(2))
    c = -a * b  # leaves the error of the product
    exact = [float(Fraction(x) * Fraction(y) + Fraction(z)) for x, y, z in zip(a, b, c)]
    np.testing.assert_allclose(numerics.fma64(a, b, c), exact, rtol=0, atol=2.0**-60)


def test_integers_divide_toward_zero():
    a = np.array([7, -7, 7, -7, 0], np.int32)
    b = np.array([2, 2, -2, -2, 5], np.int32)
    assert numerics.divided(a, b).tolist() == [3, -3, -3, 3, 0]
    assert numerics.remainder(a, b).tolist() == [1, -1, 1, -1, 0]
    a = RANDOM.integers(-(2**31), 2**31, 100, dtype=np.int32)
    b = RANDOM.integers(-(2**31), 2**31, 100, dtype=np.int32)
    wanted = [int(x) * int(y) >> 32 for x, y in zip(a, b)]
    assert numerics.high_product(a, b).tolist() == wanted


def test_leading_zeros():
    values = np.array([0, 1, 2, 3, 4, 2**31 - 1, 2**31, 2**32 - 1], np.uint32)
    wanted = [32 - int(value).bit_length() for value in values]
    assert numerics.leading_zeros(values).tolist() == wanted


def test_approximations_are_close():
    x = RANDOM.uniform(-20, 20, 1000).astype(np.float32)
    np.testing.assert_allclose(numerics.exp2_approximate(x), 2.0 ** x.astype(float), rtol=2**-22)
    np.testing.assert_allclose(numerics.reciprocal_approximate(x), 1 / x, rtol=2**-22)
    y = RANDOM.uniform(1, 20, 1000)
    np.testing.assert_allclose(numerics.reciprocal_upper_half(y), 1 / y, rtol=2**-19)
    assert numerics.exp2_approximate(np.float32(-140)) == 0  # .ftz


def test_mma_by_the_tables_of_the_manual():
    """PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type"."""
    warps = 3
    a = RANDOM.standard_normal((warps, 16, 16)).astype(np.float16)
    b = RANDOM.standard_normal((warps, 16, 8)).astype(np.float16)
    c = RANDOM.standard_normal((warps, 16, 8)).astype(np.float32)
    halves_a = np.empty((warps, 32, 8), np.float16)  # a0 .. a7 of each lane
    halves_b = np.empty((warps, 32, 4), np.float16)
    registers_c = np.empty((warps, 32, 4), np.float32)
    for lane in range(32):
        group, member = lane >> 2, lane % 4
        for i in range(8):
            row = group if 0 <= i < 2 or 4 <= i < 6 else group + 8
            column = member * 2 + (i & 1) + (8 if i >= 4 else 0)
            halves_a[:, lane, i] = a[:, row, column]
        for i in range(4):
            halves_b[:, lane, i] = b[:, member * 2 + (i & 1) + (8 if i >= 2 else 0), group]
            registers_c[:, lane, i] = c[:, group + (8 if i >= 2 else 0), member * 2 + (i & 1)]
    words_a = halves_a.view(np.uint32).reshape(-1, 4).T
    words_b = halves_b.view(np.uint32).reshape(-1, 2).T
    got = numerics.mma_m16n8k16(
        words_a, words_b, registers_c.reshape(-1, 4).T, numerics.from_float16
    )
    wanted = c + a.astype(float) @ b.astype(float)
    for lane in range(32 * warps):
        warp, group, member = lane // 32, lane % 32 >> 2, lane % 4
        for i in range(4):
            exact = wanted[warp, group + (8 if i >= 2 else 0), member * 2 + (i & 1)]
            np.testing.assert_allclose(got[i][lane], exact, rtol=1e-6, atol=1e-6)
