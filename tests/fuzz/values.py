"""Tensors in odd places of memory, and values that are no argument of anything."""

import math

import torch

MARGIN = 64  # elements before and after a tensor that no call may touch
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
WRONG_DTYPES = [torch.int32, torch.complex64, torch.bool, torch.float8_e5m2]
SPECIAL = [math.nan, math.inf, -math.inf, 1e-42, -0.0, 1e-310]
# Dimensions beyond any memory, whose products pass 2^63; such tensors repeat one element.
HUGE = [2**38, 2**45, 2**62]


class Memory:
    """The storages of a call's tensors, which end up as they began."""

    def __init__(self, random):
        self.random = random
        self._storages = []

    def tensor(self, sizes, dtype, *, integers=None):
        """A tensor of small random numbers, or of integers below `integers`, with any strides; seldom odd values."""
        random = self.random
        order = list(range(len(sizes)))
        if random.random() < 0.3:
            random.shuffle(order)
        strides, extent = [0] * len(sizes), 1
        for dim in reversed(order):
            strides[dim] = extent
            extent = extent * max(sizes[dim], 1) + (
                random.randrange(3) if random.random() < 0.3 else 0
            )
        if sizes and random.random() < 0.1:
            strides[random.randrange(len(sizes))] = 0  # one row for all
        elif len(sizes) > 1 and random.random() < 0.05:
            strides[0] = 1  # rows overlap
        return self._place(sizes, strides, dtype, integers)

    def _place(self, sizes, strides, dtype, integers):
        random = self.random
        reach = sum(
            (size - 1) * stride for size, stride in zip(sizes, strides, strict=True) if size
        )
        count = 2 * MARGIN + reach + 1
        storage = torch.zeros(count, dtype=dtype)
        if integers is not None:
            storage.copy_(torch.randint(0, max(integers, 1), (count,)))
        elif dtype.is_floating_point and dtype.itemsize > 1:
            storage.copy_(torch.randn(count) / 2)
            if random.random() < 0.1:
                storage[MARGIN + random.randrange(reach + 1)] = random.choice(SPECIAL)
        if dtype.is_floating_point and dtype.itemsize > 1:
            storage[:MARGIN] = math.nan
            storage[MARGIN + reach + 1 :] = math.nan
        self._storages.append((storage, storage.clone()))
        return storage.as_strided(sizes, strides, MARGIN)

    def huge(self, dims, dtype):
        """A tensor that says it is larger than memory."""
        # No two are alike: two tensors of one such size could make a right call that takes an hour.
        huge = [size + self.random.randrange(2**20) for size in HUGE]
        sizes = [self.random.choice([1, 3, *huge]) for _ in range(dims)]
        try:
            return torch.zeros(1, dtype=dtype).expand(sizes)
        except RuntimeError:  # torch itself refuses the product
            return torch.zeros([1] * dims, dtype=dtype).expand([huge[0]] + [1] * (dims - 1))

    def changed(self):
        """Whether a call wrote into an argument or beside it."""
        return not all(
            torch.equal(now.view(torch.uint8), before.view(torch.uint8))
            for now, before in self._storages
        )


def spoiled(memory, value, others):
    """Something else in place of an argument; `others` are the call's other arguments."""
    random = memory.random
    if not isinstance(value, torch.Tensor) or value.numel() > 10**6:
        return random.choice(
            [None, -1, 0, 2**63, 1.5, math.nan, "tanh", b"x", [], {}, torch.ones(2)]
        )
    kind = random.randrange(10)
    sizes = list(value.shape)
    if kind == 0:
        return memory.tensor(sizes, random.choice(DTYPES + WRONG_DTYPES))
    if kind == 1:
        return random.choice([None, 3, 0.5, "x", [[0.0]], object()])
    if kind == 2:
        return random.choice(others)
    if kind == 3:
        return value.to("meta")
    if kind == 4:
        return memory.huge(len(sizes), value.dtype)
    if kind == 5 and value.dtype == torch.int64:
        return value - random.choice([1, 5, 2**40, -(2**40), 2**63 - 1])
    if kind == 6:
        return value.unsqueeze(random.randrange(len(sizes) + 1))
    if kind == 7 and sizes:
        return value.select(random.randrange(len(sizes)), 0) if 0 not in sizes else value.flatten()
    if kind == 8 and len(sizes) > 1:
        return value.transpose(0, 1)
    if sizes:
        dim = random.randrange(len(sizes))
        sizes[dim] = random.choice([0, 1, max(sizes[dim] - 1, 0), sizes[dim] + 1])
    return memory.tensor(sizes, value.dtype, integers=5)
