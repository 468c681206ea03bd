"""Time and memory of one call against T, B and H, in rnnfused and in nn.RNN; and the times that the machine allows."""

import time

import memory
import pytest
import torch
from cases import AXES, inputs

from rnnfused.bench import timing
from rnnfused.bench.shape import ways

POINTS = [(axis, size) for axis, (sizes, _) in AXES.items() for size in sizes]
# Both sides of a point take about this long; a long call is timed twice.
SECONDS = 0.1


@pytest.mark.once
@pytest.mark.parametrize("axis, size", POINTS)
def test_time(axis, size, way, record):
    _, case_of = AXES[axis]
    ours, theirs, gradient = inputs(case_of(size))
    calls = (ways(*side, gradient)[way] for side in (ours, theirs))
    taken = timing.in_turn(*calls, SECONDS)
    for side, seconds in (("ours", taken.ours), ("nn.RNN", taken.theirs)):
        key = {"axis": axis, "size": size, "way": way, "side": side}
        record("growth", key, {"seconds": seconds})


@pytest.mark.once
@pytest.mark.parametrize("side", memory.SIDES)
@pytest.mark.parametrize("axis, size", POINTS)
def test_memory(axis, size, side, record):
    peak = memory.peak(AXES[axis][1](size), side, torch.get_num_threads())
    key = {"axis": axis, "size": size, "way": "forward_backward", "side": side}
    record("peaks", key, {"bytes": peak})


@pytest.mark.once
@pytest.mark.parametrize("axis, size", POINTS)
def test_limits(axis, size, record):
    """The least seconds of the multiply-adds at the processor's peak, and of reading W_hh once per step."""
    case = AXES[axis][1](size)
    operations = {way: case.operations(way) for way in ("forward", "forward_backward")}
    peak = timing.peak()
    reads = case.num_steps * 4 * case.hidden_size**2
    figures = {f"{way}_at_peak": count / peak for way, count in operations.items()}
    figures["reads"] = reads / bandwidth(4 * case.hidden_size**2)
    record("limits", {"axis": axis, "size": size}, figures)


def bandwidth(size):
    """Bytes per second that a dot product reads from two vectors of this many bytes together; they stay in a cache."""
    vectors = [torch.ones(max(8, size // 8)) for _ in range(2)]
    best, repeats = 0.0, max(1, 10_000_000 // size)
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(repeats):
            torch.dot(*vectors)
        taken = time.perf_counter() - start
        best = max(best, repeats * sum(v.nbytes for v in vectors) / taken)
    return best
