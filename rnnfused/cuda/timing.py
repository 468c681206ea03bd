"""Times the ways of a loop against each other, on tensors of its own, and compares their results."""

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from ..ops import stepwise
from . import graphs
from .agreement import OF_TF32, OF_TIMING, is_out_of_memory, require_close
from .calls import MOST_TIMED_STEPS, Call
from .samples import Sample, sample
from .self_check import raise_alarm
from .ways import FUSED, GRAPHED, STEPS

ROUNDS = 5
ENOUGH_SECONDS = 0.1  # of rounds; at least two are made
MAX_BYTES = 2**28  # of all tensors; more on a device with much memory
# That exist at once, at most: arguments, results, a graph's own, those of a comparison.
SEQUENCES = 12
LEAST_STEPS = 4  # fewer steps say little about a long loop


def timed_steps(call: Call, spare_bytes: int = 0) -> int | None:
    """How many steps are timed; None where so large a batch should not be.

    A fused kernel first loads the weight, which weighs more in few steps than in the caller's many. So a device with
    bytes to spare times more steps of a large batch.
    """
    bytes_of_step = SEQUENCES * call.batch_size * call.hidden_size * call.dtype.itemsize
    most = min(call.num_steps, MOST_TIMED_STEPS)
    steps = min(most, max(MAX_BYTES, spare_bytes) // bytes_of_step)
    return steps if steps >= min(most, LEAST_STEPS) else None


def measure(
    gpu, call: Call, num_steps: int, ways: list[str]
) -> tuple[dict[str, float], dict[str, Exception]]:
    """Median milliseconds of each way, which take turns, and the errors of those that failed.

    The first way is :data:`STEPS`, whose errors are raised.

    Raises:
        torch.OutOfMemoryError: the device lacks the memory.
    """
    given = sample(call, num_steps, call.batch_size)
    loops = {way: _loop(gpu, call, given, way) for way in ways}
    times: dict[str, list[float]] = {way: [] for way in ways}
    failures: dict[str, Exception] = {}

    def attempt(way, work):
        try:
            work()
        except Exception as error:
            if way == STEPS or (way == FUSED and is_out_of_memory(error)):
                raise
            failures[way] = error.with_traceback(None)  # whose frames would keep the tensors
            del loops[way]

    def warm_up():  # loads the kernels; its results are freed at the end
        expected = loops[STEPS]()
        for way in ways[1:]:
            attempt(way, lambda: _require_right(gpu, call, way, loops[way](), expected))

    warm_up()
    end = time.perf_counter() + ENOUGH_SECONDS
    for done in range(ROUNDS):
        if done >= 2 and time.perf_counter() > end:
            break
        for way in list(loops):
            attempt(way, lambda: times[way].append(gpu.milliseconds(loops[way])))
    if FUSED in loops:
        attempt(FUSED, lambda: raise_alarm(gpu, call))
    return {way: statistics.median(times[way]) for way in loops}, failures


def _require_right(gpu, call, way, results, expected) -> None:
    if way == FUSED:
        raise_alarm(gpu, call)
    names = ("grad_projections", "grad_h_0") if call.is_backward else ("output", "h_n")
    require_close(names, results, expected, _tolerance(call))


def _loop(gpu, call: Call, given: Sample, way: str) -> Callable[[], tuple]:
    if way == FUSED and call.is_backward:
        return partial(gpu.backward_fused, *given.fused_backward(output=given.backward[2]))
    if way == FUSED:
        return partial(gpu.forward_fused, *given.forward)
    run = _OneGraph(gpu.capture).run if way == GRAPHED else stepwise.run
    if call.is_backward:
        return partial(partial(stepwise.backward, run=run), *given.backward)
    return partial(partial(stepwise.forward, run=run), *given.forward)


class _OneGraph:
    """A graph outside of those that the process keeps: the first call captures it."""

    def __init__(self, capture):
        self._capture, self._graph = capture, None

    def run(self, loop, results, start, others, options):
        if self._graph is None:
            self._graph = graphs.Graph(self._capture, loop, results, others, options)
        self._graph.run(results, start, others)


def _tolerance(call: Call) -> float:
    is_exact = torch.backends.cuda.matmul.fp32_precision in ("ieee", "none")
    return OF_TIMING[call.dtype] if is_exact or call.dtype != torch.float32 else OF_TF32
