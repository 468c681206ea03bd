"""The measured shapes, their modules and inputs, and their number of operations."""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from rnnfused.bench.shape import Shape


class Case(NamedTuple):
    num_steps: int
    batch_size: int
    input_size: int
    hidden_size: int
    tokens: bool = False  # rnnfused takes ids; peers take the same as one-hot rows
    bidirectional: bool = False

    def __str__(self):
        ends = ["ids"] * self.tokens + ["both"] * self.bidirectional
        return "-".join(map(str, [*self[:4], *ends]))

    @property
    def shape(self):
        return Shape(*self[:4], ids=self.tokens, bidirectional=self.bidirectional)

    def operations(self, way):
        """Returns the floating-point operations of the loop, its projection and the gradients of parameters."""
        return self.shape.operations(way)


FIXED_COST = Case(1, 1, 8, 8)  # almost no arithmetic: the time is a call's overhead
SUBNORMAL = Case(35, 20, 200, 200)
SECOND_ORDER = [Case(32, 1, 28, 32), SUBNORMAL, Case(64, 32, 128, 256)]
COMPILED = [Case(32, 1, 28, 32), SUBNORMAL]
STEPS = [Case(1, 1, 28, 32), Case(1, 20, 28, 32), Case(1, 1, 256, 256), Case(1, 32, 256, 256)]
PREPARED = [Case(1, 1, size, size) for size in (8, 64, 256)]
LENGTHS = Case(64, 64, 128, 256)
CROWDED = [Case(32, 1, 256, 256), Case(32, 1, 1024, 1024)]
CROWD = 64  # threads
BOTH_DIRECTIONS = [
    Case(steps, rows, size, size, bidirectional=True)
    for steps, rows, size in [(100, 1, 128), (200, 1, 256), (100, 4, 128)]
]
LONG, CHUNKS = Case(100_000, 1, 512, 512), 6
PACKED = [*(Case(steps, 8, 64, 64) for steps in (10, 100, 1000, 4000)), Case(200, 64, 256, 256)]

CASES = [
    FIXED_COST,
    Case(32, 1, 28, 32),
    Case(32, 1024, 28, 32),
    Case(32, 1024, 28, 32, tokens=True),
    SUBNORMAL,
    Case(64, 32, 128, 256),
    Case(64, 64, 512, 512),
    Case(100, 1, 256, 256),
    Case(512, 1, 512, 512),
    Case(128, 128, 1024, 1024),
    Case(35, 64, 256, 1024),
    Case(200, 16, 128, 128),
    Case(1000, 16, 64, 128),
    Case(180, 20, 50, 500),
    Case(180, 20, 50, 500, tokens=True),
]

# Axes of growth: sizes, and the case of a size.
AXES = {
    "T": ([10, 100, 1000, 10_000, 100_000], lambda steps: Case(steps, 8, 64, 64)),
    "B": ([1, 4, 16, 64, 256, 1024, 4096], lambda rows: Case(35, rows, 200, 200)),
    "H": ([16, 32, 64, 128, 256, 512, 1024, 2048], lambda units: Case(32, 32, units, units)),
}

# Large weights and batches, where arithmetic and bandwidth dominate; the largest case takes too long.
NARROW = [
    c for c in CASES if c.batch_size in range(16, 128) and c.hidden_size >= 256 and not c.tokens
]


def inputs(case):
    """Returns (module, input) of rnnfused, the same of nn.RNN with equal weights, and a gradient of the output."""
    ours, theirs, gradient = case.shape.inputs()
    # The textbook's model takes one-hot rows, which make its values saturate as in training.
    if case.input_size == 28 and not case.tokens:
        ids = torch.randint(case.input_size, (case.num_steps, case.batch_size))
        x = F.one_hot(ids, case.input_size).float()
        ours, theirs = ours._replace(input=x), theirs._replace(input=x)
    return ours, theirs, gradient
