"""The step-by-step loops of :mod:`rnnfused.stepwise` as CUDA graphs: one launch for all their kernels.

A graph is bound to the memory that it was captured with. So a call copies its tensors into the graph's own,
replays, and copies the results out; beside the matrix products those copies are small. A loop is captured
when it is called a second time with the same sizes, and the graphs used last are kept.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import torch

from . import stepwise

MAX_STEPS = 4096  # of a captured loop: a graph has two kernels a step
MAX_BYTES = 512 * 2**20  # of one graph's own tensors
MAX_GRAPHS = 8


def capture(loop: Callable[[], None]) -> Callable[[], None]:
    """Capture what ``loop`` launches on the current device; the result launches it again."""
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()  # the default stream cannot be captured
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        loop()  # cuBLAS allocates in its first call on a stream, which must not be captured
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            loop()
        finally:
            graph.capture_end()
    torch.cuda.current_stream().wait_stream(stream)
    return graph.replay


def place() -> Hashable:
    """What a captured graph does not follow: device, stream, and how torch multiplies matrices."""
    matmul = torch.backends.cuda.matmul
    return (
        torch.cuda.current_stream(),
        matmul.allow_tf32,
        matmul.allow_fp16_reduced_precision_reduction,
        matmul.allow_bf16_reduced_precision_reduction,
    )


def may_capture() -> bool:
    return not torch.cuda.is_current_stream_capturing()


class Graph:
    """One captured loop and the tensors that it works on."""

    def __init__(self, capture, loop, results, others, options):
        self.lock = threading.Lock()  # copies in, replay and copies out are one piece of work
        self.results = [torch.zeros_like(x) for x in results]
        self.others = [None if x is None else x.clone() for x in others]
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
    """The graphs of a process. Where there is no GPU (the tests), other functions capture and ask."""

    def __init__(self, capture=capture, place=place, may_capture=may_capture):
        self.capture, self.place, self.may_capture = capture, place, may_capture
        self.lock = threading.Lock()
        self.known: OrderedDict[Hashable, Graph | None] = OrderedDict()  # None: called once so far

    def run(self, loop, results, start, others, options):
        """As :func:`rnnfused.stepwise.run`, by a graph from the second such call on."""
        batch_sizes, *choices = options
        steps = results[0].size(0) if batch_sizes is None else batch_sizes.numel()
        tensors = [*results, *others]
        size = sum(x.numel() * x.element_size() for x in tensors if x is not None)
        if steps > MAX_STEPS or size > MAX_BYTES or not self.may_capture():
            return stepwise.run(loop, results, start, others, options)
        sizes = None if batch_sizes is None else tuple(batch_sizes.tolist())
        layouts = tuple(None if x is None else (x.dtype, x.shape, x.stride()) for x in tensors)
        key = (loop, sizes, *choices, layouts, self.place())
        with (
            self.lock
        ):  # also while a graph is captured, so that nobody captures the same one twice
            seen, graph = key in self.known, self.known.get(key)
            if seen and graph is None:
                graph = Graph(self.capture, loop, results, others, options)
            self._keep(key, graph)
        if graph is None:
            return stepwise.run(loop, results, start, others, options)
        return graph.run(results, start, others)

    def _keep(self, key, graph):
        self.known[key] = graph
        self.known.move_to_end(key)
        if len(self.known) > MAX_GRAPHS:
            _, dropped = self.known.popitem(last=False)
            if dropped and dropped.results[0].is_cuda:
                torch.cuda.synchronize(dropped.results[0].device)  # it may still be running


graphs = Graphs()


def forward(*arguments):
    """As the op ``rnnfused::forward``."""
    return stepwise.forward(*arguments, run=graphs.run)


def backward(*arguments):
    """As the op ``rnnfused::backward``."""
    return stepwise.backward(*arguments, run=graphs.run)
