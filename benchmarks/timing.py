"""Two sides timed in turn in one process, A B A B .., and the arithmetic that the processor can do meanwhile."""

import gc
import math
import statistics
import time
from typing import NamedTuple

import torch

# Thread pools wait busily after a call, in the way of the other side's threads, and the system takes a while to give
# these a core each again: up to about this long.
SETTLE_SECONDS = 0.1
# Calls shorter than this are timed several together.
BLOCK_SECONDS = 0.005


class Comparison(NamedTuple):
    ours: float  # median seconds of a call
    theirs: float
    peak: float  # operations a second


def peak():
    """What this many threads reach right now, in operations a second: the best of a few short loops."""
    torch.ops.rnnfused.cpu_multiply_add(1000)
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        count = torch.ops.rnnfused.cpu_multiply_add(400_000)
        best = max(best, 2 * count / (time.perf_counter() - start))
    return best


class Side:
    """A call, how long it takes about, and how many of them make a block."""

    def __init__(self, call):
        def without_result():
            call()  # freed at once, where pytest-benchmark would keep it while the other side runs

        self.call = without_result
        call()
        self.seconds = min(self._time(1) for _ in range(2))
        self.repeats = math.ceil(BLOCK_SECONDS / self.seconds)

    def settle(self):
        """Leaves the processor to this side: it runs untimed for a while, or pauses where it is slow."""
        if self.seconds > SETTLE_SECONDS:
            return time.sleep(SETTLE_SECONDS)
        end = time.perf_counter() + SETTLE_SECONDS
        while time.perf_counter() < end:
            self.call()

    def time(self):
        """Seconds of a call: the mean of a block, as pytest-benchmark takes it of the other side."""
        return self._time(self.repeats)

    def _time(self, repeats):
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            start = time.perf_counter()
            for _ in range(repeats):
                self.call()
            return (time.perf_counter() - start) / repeats
        finally:
            if was_enabled:
                gc.enable()


def in_turn(benchmark, ours, theirs, seconds):
    """The Comparison of two calls, taken in turn for about that long; None with ``--benchmark-disable``.

    pytest-benchmark times a block of ours; its teardown times a block of theirs. Each block is of one side's
    calls alone, after that side has settled.
    """
    if benchmark.disabled:
        benchmark.pedantic(ours)
        theirs()
        return None
    ours, theirs = Side(ours), Side(theirs)
    round_seconds = sum(s.repeats * s.seconds + SETTLE_SECONDS for s in (ours, theirs))
    rounds = max(5, int(seconds / round_seconds))
    times, peaks = [], [peak()]

    def after_ours():
        theirs.settle()
        times.append(theirs.time())
        ours.settle()
        if len(times) in (rounds // 2, rounds):
            peaks.append(peak())

    ours.settle()
    benchmark.pedantic(ours.call, teardown=after_ours, rounds=rounds, iterations=ours.repeats)
    return Comparison(benchmark.stats["median"], statistics.median(times[:rounds]), max(peaks))
