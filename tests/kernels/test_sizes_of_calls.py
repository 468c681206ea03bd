"""Sizes do not overflow, however large their factors are."""

import numpy as np
import pytest

HUGE = [2**31, 2**32 + 1, 2**58, 2**62, 2**63 - 1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int16])
def test_bytes_of_a_packed_matrix(kernels, kernels_module, dtype):
    example = np.zeros(1, dtype)
    for depth in [1, 7, 16, 100, *HUGE]:
        for columns in [1, 7, 16, 100, *HUGE]:
            # At least 16 bits per value; at most 64, in whole registers.
            least, most = 2 * depth * columns, 8 * (depth + 1) * (columns + 32)
            got = kernels.packed_bytes(example, depth, columns)
            assert (
                min(least, kernels_module.TOO_LARGE) <= got <= min(most, kernels_module.TOO_LARGE)
            )


def test_products(kernels_module):
    for a in [0, 1, 3, *HUGE]:
        for b in [0, 1, 3, *HUGE]:
            for c in [0, 1, 3, *HUGE]:
                expected = min(a * b * c, kernels_module.TOO_LARGE)
                assert kernels_module.product_of(a, b, c) == expected


@pytest.mark.parametrize("count", [0, 1, 5, 100, 2**40 + 3, 2**63 - 1])
def test_parts(kernels_module, count):
    def begin(i):
        return kernels_module.begin_of_part(count, parts, i)

    for parts in [1, 2, 7, 2**32 - 5]:
        assert begin(0) == 0 and begin(parts) == count
        for i in {i for i in (0, 1, parts // 2, parts - 1) if i < parts}:
            assert count // parts <= begin(i + 1) - begin(i) <= count // parts + 1
