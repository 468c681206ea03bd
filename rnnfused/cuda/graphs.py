"""Replays the loops of :mod:`rnnfused.ops.stepwise` as CUDA graphs: one launch for all their kernels.

A graph is bound to its captured memory. So a call copies its tensors into the graph's own, replays, and copies the
results out; these copies are small beside the matrix products. The second call with the same sizes captures the loop.
The most recently used graphs are kept.
"""

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable

import torch

from ..ops import stepwise

MAX_STEPS = 4096  # of a captured loop: a graph has two kernels per step
# Of one graph's own tensors. Larger loops gain little: a step then takes longer than its launch.
MAX_BYTES = 2**29
MAX_BYTES_OF_ALL = 2**30
MAX_GRAPHS = 8
MAX_SEEN = 256  # remembered calls, to recognise a second one
# Calls before a dropped graph is captured again. A caller that alternates too many sizes would only capture.
WAITS_OF_DROPPED = 32


def capture(loop: Callable[[], None]) -> Callable[[], None]:
    """Captures the launches of ``loop`` on the current device; the result launches them again."""
    loop()  # loads cuBLAS's kernels, which must not happen in a capture
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()  # the default stream cannot be captured
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        # Without an earlier workspace, cuBLAS takes one from the graph's memory, which dies with the graph.
        torch._C._cuda_clearCublasWorkspaces()
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            loop()
        finally:
            graph.capture_end()
            torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.current_stream().wait_stream(stream)
    return graph.replay


def place() -> Hashable:
    """The settings that a captured graph does not follow: device, stream, modes of matrix products."""
    matmul = torch.backends.cuda.matmul
    return (
        torch.cuda.current_stream(),
        matmul.fp32_precision,
        matmul.allow_fp16_accumulation,
        matmul.allow_fp16_reduced_precision_reduction,
        matmul.allow_bf16_reduced_precision_reduction,
        torch.are_deterministic_algorithms_enabled(),
    )


def may_capture() -> bool:
    return not torch.cuda.is_current_stream_capturing()


def uses_a_pool() -> bool:
    """Whether this thread's tensors go to a memory pool, of ``torch.cuda.use_mem_pool`` or of a compiled program.

    A graph would then take its own memory from that pool, which goes on to give it to others. A walk through all
    memory of the process, so ask rarely.
    """
    probe = torch.empty(1, device="cuda")
    try:
        segments = torch.cuda.memory_snapshot()
    except RuntimeError:  # an allocator without pools
        return False
    for segment in segments:
        if 0 <= probe.data_ptr() - segment["address"] < segment["total_size"]:
            return tuple(segment["segment_pool_id"]) != (0, 0)
    return False


def is_small(steps: int, size: int) -> bool:
    """Whether a loop of so many steps, on tensors of so many bytes, may have a graph."""
    return steps <= MAX_STEPS and size <= MAX_BYTES


def _bytes_of(tensors) -> int:
    return sum(x.numel() * x.element_size() for x in tensors if x is not None)


class NotCaptured(Exception):
    """There is no graph of this call, at least not yet."""


# A capture clears the workspaces of cuBLAS, those of another capture too.
_one_capture = threading.Lock()


class Graph:
    """One captured loop and its tensors."""

    def __init__(self, capture, loop, results, others, options):
        self.lock = threading.Lock()  # held from the first copy to the last
        # Its tensors are written outside of inference mode too. Leaving that mode turns gradients on.
        with torch.inference_mode(False), torch.no_grad():
            self.results = [torch.zeros_like(x) for x in results]
            self.others = [None if x is None else torch.empty_like(x).copy_(x) for x in others]
            self.size = _bytes_of([*self.results, *self.others])
            with _one_capture:
                self.replay = capture(lambda: loop(*self.results, *self.others, *options))

    def run(self, results, start, others):
        with self.lock:
            stepwise.fill(self.results[0], start)
            for own, given in zip(self.others, others, strict=True):
                if own is not None:
                    own.copy_(given)
            self.replay()
            for own, wanted in zip(self.results, results, strict=True):
                wanted.copy_(own)


class Graphs:
    """The graphs of a process. Tests without a GPU pass other functions."""

    def __init__(
        self, capture=capture, place=place, may_capture=may_capture, uses_a_pool=uses_a_pool
    ):
        self.capture, self.place, self.may_capture = capture, place, may_capture
        self.uses_a_pool = uses_a_pool
        self.lock = threading.Lock()
        self.seen: OrderedDict[Hashable, int] = OrderedDict()  # calls before the capture
        self.graphs: OrderedDict[Hashable, Graph | None] = OrderedDict()  # None: cannot be captured

    def run(self, loop, results, start, others, options):
        """As :func:`rnnfused.ops.stepwise.run`, by a graph from the second such call on."""
        try:
            self.run_captured(loop, results, start, others, options)
        except NotCaptured:
            stepwise.run(loop, results, start, others, options)

    def run_captured(self, loop, results, start, others, options):
        """As :meth:`run`, by a graph alone.

        Raises:
            NotCaptured: there is none; the call is remembered.
        """
        graph = self._find(loop, results, others, options) if self.may_capture() else None
        if graph is None:
            raise NotCaptured
        graph.run(results, start, others)

    def _find(self, loop, results, others, options) -> Graph | None:
        batch_sizes, *choices = options
        steps = results[0].size(0) if batch_sizes is None else batch_sizes.numel()
        tensors = [*results, *others]
        if not is_small(steps, _bytes_of(tensors)):
            return None
        sizes = None if batch_sizes is None else tuple(batch_sizes.tolist())
        layouts = tuple(None if x is None else (x.dtype, x.shape, x.stride()) for x in tensors)
        key = (loop, sizes, *choices, layouts, self.place())
        with self.lock:  # held during a capture, so that two threads never capture one loop
            if key not in self.graphs:
                waits = self.seen.get(key, 1)
                _keep(self.seen, key, waits - 1, MAX_SEEN)
                if waits > 0 or self.uses_a_pool():
                    return None
                graph = self._capture(loop, results, others, options)
                self.graphs[key] = graph
                while len(self.graphs) > MAX_GRAPHS or self._bytes() > MAX_BYTES_OF_ALL:
                    self._drop_oldest()
            self.graphs.move_to_end(key)
            return self.graphs[key]

    def _bytes(self) -> int:
        return sum(graph.size for graph in self.graphs.values() if graph)

    def _drop_oldest(self) -> None:
        key, graph = self.graphs.popitem(last=False)
        _keep(self.seen, key, WAITS_OF_DROPPED, MAX_SEEN)
        if graph and graph.results[0].is_cuda:
            torch.cuda.synchronize()  # it may still be running

    def _capture(self, *what) -> Graph | None:
        try:
            return Graph(self.capture, *what)
        except RuntimeError as error:  # out of memory, or a mode that forbids captures
            warnings.warn(
                f"rnnfused goes step by step: the loop could not be captured: {error}", stacklevel=2
            )
            return None


def _keep(known: OrderedDict, key, value, most: int) -> None:
    """Puts the value last, and drops the first one of too many."""
    known[key] = value
    known.move_to_end(key)
    if len(known) > most:
        known.popitem(last=False)


graphs = Graphs()


def forward(projections, *rest, run=graphs.run):
    """As :func:`rnnfused.ops.stepwise.forward`; ``run`` may be ``graphs.run_captured``."""
    with torch.cuda.device(projections.device):
        return stepwise.forward(projections, *rest, run=run)


def backward(grad_output, grad_h_n, output, *rest, run=graphs.run):
    """As :func:`rnnfused.ops.stepwise.backward`; ``run`` as in :func:`forward`."""
    with torch.cuda.device(output.device):
        return stepwise.backward(grad_output, grad_h_n, output, *rest, run=run)
