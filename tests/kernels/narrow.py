"""Calls of the recurrence in the 16-bit types, where every state is rounded and nothing else."""

import numpy as np
import torch
from recurrence_case import Case


class Narrow:
    """A 16-bit type: converts between NumPy arrays of its bits and of its values."""

    def __init__(self, dtype, bits_dtype, same):
        self.dtype, self.bits_dtype = dtype, bits_dtype
        self.same = same  # the least share of results that equal the rounded exact ones
        self.__name__ = str(dtype).removeprefix("torch.")

    def bits(self, array):
        """The bits of the nearest value of each float32: float16, or integers for bfloat16."""
        as_int16 = torch.from_numpy(array).to(self.dtype).view(torch.int16)
        return as_int16.numpy().view(self.bits_dtype)

    def values(self, bits):
        return torch.from_numpy(bits.view(np.int16)).view(self.dtype).float().numpy()

    def rounded(self, array):
        return self.values(self.bits(array.astype(np.float32))).astype(np.float64)

    def case(self, *arguments, **options):
        """A :class:`Case` of bits, and the same case in float64."""
        case, exact = (Case(*arguments, np.float32, **options) for _ in range(2))
        for name, value in vars(case).items():
            if isinstance(value, np.ndarray) and value.dtype == np.float32:
                setattr(case, name, self.bits(value))
                setattr(exact, name, self.rounded(value))
        return case, exact

    def check(self, kernels, *arguments, **options):
        case, exact = self.case(*arguments, **options)
        expected = exact.exact(self.rounded)
        for bits, wanted in zip(case.run(kernels), expected, strict=True):
            got, wanted = self.values(bits), self.rounded(wanted)
            # Sums in another order seldom round to a neighbour.
            np.testing.assert_allclose(got, wanted, rtol=2**-7, atol=2**-6)
            assert (got == wanted).mean() > self.same


BFLOAT16 = Narrow(torch.bfloat16, np.int16, 0.93)
FLOAT16 = Narrow(torch.float16, np.float16, 0.6)
