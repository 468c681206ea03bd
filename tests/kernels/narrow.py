"""Calls of the recurrence in the 16-bit types: every state is rounded to them, and nothing else is."""

import numpy as np
import torch
from recurrence_case import Case


class Narrow:
    """A 16-bit type: NumPy arrays of its bits as kernels take them, and what they stand for."""

    def __init__(self, dtype, bits_dtype, same):
        self.dtype, self.bits_dtype = dtype, bits_dtype
        self.same = same  # the least share of results that are equal to the exact ones rounded
        self.__name__ = str(dtype).removeprefix("torch.")

    def bits(self, array):
        """The nearest value of each float32. NumPy knows float16, and gets bfloat16 as integers."""
        as_int16 = torch.from_numpy(array).to(self.dtype).view(torch.int16)
        return as_int16.numpy().view(self.bits_dtype)

    def values(self, bits):
        return torch.from_numpy(bits.view(np.int16)).view(self.dtype).float().numpy()

    def rounded(self, array):
        return self.values(self.bits(array.astype(np.float32))).astype(np.float64)

    def case(self, *arguments, **options):
        """A :class:`Case` of bits, and the same in float64."""
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
            # Sums in another order may round to a neighbour, and seldom do.
            np.testing.assert_allclose(got, wanted, rtol=2**-7, atol=2**-6)
            assert (got == wanted).mean() > self.same


BFLOAT16 = Narrow(torch.bfloat16, np.int16, 0.93)
FLOAT16 = Narrow(torch.float16, np.float16, 0.6)
