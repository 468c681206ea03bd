"""Times two sides in turn in one process, A B A B .., and the arithmetic peak that the processor reaches meanwhile."""

import gc
import math
import statistics
import time
from typing import NamedTuple

import torch

# After a call, threads of a pool keep spinning and block the other side's. The system takes about this long to give
# each of these a core again.
SETTLE_SECONDS = 0.1
# Shorter calls are timed in blocks of this length.
BLOCK_SECONDS = 0.005


class Comparison(NamedTuple):
    ours: float  # median seconds per call
    theirs: float
    peak: float  # operations per second


def peak():
    """Returns the operations per second of the best of a few short loops, on the current number of threads."""
    torch.ops.rnnfused.cpu_multiply_add(1000)
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        count = torch.ops.rnnfused.cpu_multiply_add(400_000)
        best = max(best, 2 * count / (time.perf_counter() - start))
    return best


class Side:
    """A call, its approximate seconds, and the number of calls in a block."""

    def __init__(self, call):
        def without_result():
            call()  # frees the result; pytest-benchmark would keep it while the other side runs

        self.call = without_result
        call()
        self.seconds = min(self._time(1) for _ in range(2))
        self.repeats = math.ceil(BLOCK_SECONDS / self.seconds)

    def settle(self):
        """Gives this side the processor: runs it untimed for a while, or sleeps if one call takes longer."""
        if self.seconds > SETTLE_SECONDS:
            return time.sleep(SETTLE_SECONDS)
        end = time.perf_counter() + SETTLE_SECONDS
        while time.perf_counter() < end:
            self.call()

    def time(self):
        """Returns seconds per call: the mean of a block, as pytest-benchmark measures the other side."""
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
    """Returns the Comparison of two calls, timed for about ``seconds``; None with ``--benchmark-disable``.

    pytest-benchmark times a block of ``ours``; its teardown times a block of ``theirs``. A block has calls of one side
    alone, after that side has settled.
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
