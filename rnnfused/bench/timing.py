"""Times two calls in turn, A B A B .., a block of calls each; and the processor's arithmetic peak meanwhile."""

import gc
import math
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

Call = Callable[[], object]

# After a call, threads of a pool keep spinning and block the other side's. The system takes about this long to give
# each of these a core again.
SETTLE_SECONDS = 0.1
# Shorter calls are timed in blocks of this length.
BLOCK_SECONDS = 0.005
LEAST_BLOCKS = 2
# Blocks that take as long as this together are made once.
LONG_SECONDS = 2.0


class Comparison(NamedTuple):
    """The times of two calls in one process.

    Attributes:
        ours: median seconds per call of rnnfused.
        theirs: median seconds per call of the other side.
        peak: float32 operations per second of a loop of multiply-adds, between the blocks.
    """

    ours: float
    theirs: float
    peak: float


def nothing() -> None:
    """Waits for no device: work on the CPU is done when its call returns."""


def in_turn(ours: Call, theirs: Call, seconds: float, synchronize: Call = nothing) -> Comparison:
    """Times two calls in turn.

    A block has calls of one side alone, after that side has settled. At least two blocks of each side are timed, or one
    of calls that take seconds.

    Args:
        ours: makes a call of rnnfused. Its result is dropped.
        theirs: makes a call of the other side.
        seconds: that both sides take, about.
        synchronize: waits for the device.

    Returns:
        The medians of the blocks' means, and the largest of a few measurements of the peak.
    """
    sides = [_Side(call, synchronize) for call in (ours, theirs)]
    for side in sides:
        side.estimate()
    round_seconds = sum(side.repeats * side.seconds + side.settling for side in sides)
    rounds = int(seconds / max(round_seconds, 1e-9))
    least = LEAST_BLOCKS if round_seconds < LONG_SECONDS else 1
    rounds = max(rounds, least - min(len(side.times) for side in sides))
    peaks = [peak()]
    for number in range(rounds):
        for side in sides:
            side.settle()
            side.time()
        if number in (rounds // 2, rounds - 1):
            peaks.append(peak())
    own, other = (statistics.median(side.times) for side in sides)
    return Comparison(own, other, max(peaks))


def peak() -> float:
    """Returns the float32 operations per second of the best of a few short loops, on torch's number of threads."""
    torch.ops.rnnfused.cpu_multiply_add(1000)
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        count = torch.ops.rnnfused.cpu_multiply_add(400_000)
        best = max(best, 2 * count / (time.perf_counter() - start))
    return best


class _Side:
    """A call, its approximate seconds, the number of calls in a block, and the times of its blocks."""

    def __init__(self, call: Call, synchronize: Call):
        self.call, self.synchronize = call, synchronize
        self.times: list[float] = []
        # A single thread leaves nothing that spins.
        self.settling = SETTLE_SECONDS if torch.get_num_threads() > 1 else 0.0
        self.seconds = self._mean_of(1)  # loads or compiles code

    def estimate(self) -> None:
        """Finds the seconds per call, and the calls of a block. A long call is a block already."""
        time.sleep(self.settling)
        self.seconds = self._mean_of(1)
        if self.seconds < SETTLE_SECONDS:
            self.seconds = min(self.seconds, self._mean_of(1))
        else:
            self.times.append(self.seconds)
        self.repeats = max(1, math.ceil(BLOCK_SECONDS / max(self.seconds, 1e-9)))

    def settle(self) -> None:
        """Gives this side the processor: runs it untimed for a while, or sleeps if one call takes longer."""
        if self.seconds > SETTLE_SECONDS:
            time.sleep(self.settling)
            return
        end = time.perf_counter() + self.settling
        self.call()  # its data is in the cache again
        while time.perf_counter() < end:
            self.call()
        self.synchronize()

    def time(self) -> None:
        """Times a block."""
        self.times.append(self._mean_of(self.repeats))

    def _mean_of(self, repeats: int) -> float:
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            start = time.perf_counter()
            for _ in range(repeats):
                self.call()
            self.synchronize()
            return (time.perf_counter() - start) / repeats
        finally:
            if was_enabled:
                gc.enable()
