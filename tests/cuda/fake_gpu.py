"""A GPU and its fused kernels in the place of CUDA: CPU tensors, torch's operations, and a clock that tests set."""

import contextlib
import threading

import torch

from rnnfused.cuda import graphs
from rnnfused.cuda.loops import Loops
from rnnfused.ops import stepwise

PLAN = "cluster of 8, 64 units a block, tile of 4 rows, depth 32, 256 threads; 0.6 us a step"
# As text_of in csrc/cuda/watchdog.h.
ALARM = (
    "rnnfused: an earlier fused call stopped on cuda:0, because blocks of its kernel waited 2.00 s for each other. "
    "Its results are incomplete. Its layout: cluster of 8, 64 units a block, tile of 4 rows, depth 32, 256 threads. "
    "Rank 3 of team 0 waited in step 5 for barrier 1. RNNFUSED_CUDA_FUSED=0 avoids the fused kernels."
)


class FakeGpu:
    """Counts what it runs. Its attributes say what the kernels do wrong, and how long each way takes.

    Attributes:
        times: milliseconds of each way, forward and backward.
        fault: called on (op's name, arguments, results) of a fused call; returns the results.
        calls: how often each fused op ran.
    """

    def __init__(self):
        self.times = {"fused": 1.0, "graphed": 2.0, "steps": 3.0}
        self.fault = lambda op, arguments, results: results
        self.calls = {"forward_fused": 0, "backward_fused": 0}
        self.timings = self.captures = self.plans = self.spare = 0
        self.alarm, self.limits, self.forced = "", [], ""
        self.may_measure = self.may_capture = self.has_library = True
        self.plan_of = lambda device, dtype, hidden_size, rows: PLAN
        self.local = threading.local()

    @property
    def where(self):
        """The device of this thread's tensors."""
        return getattr(self.local, "where", torch.device("cpu:0"))

    @where.setter
    def where(self, device):
        self.local.where = torch.device(device)

    def device_of(self, tensor):
        return self.where

    def name(self, device):
        return f"Fake {device.index}"

    def on(self, device):
        return contextlib.nullcontext()

    def spare_bytes(self, device):
        return self.spare

    def can_measure(self, device):
        return self.may_measure

    def can_capture(self):
        return self.may_capture

    def forced_plan(self):
        return self.forced

    def plan(self, *key):
        self.plans += 1
        if not self.has_library:
            return ""
        return self.plan_of(*key)

    def forward_fused(self, *arguments):
        return self.run("forward_fused", stepwise.forward(*arguments), arguments)

    def backward_fused(self, *arguments):
        results = stepwise.backward(*arguments[:-1], None, arguments[-1])
        return self.run("backward_fused", results, arguments)

    def run(self, op, results, arguments):
        if self.alarm:
            text, self.alarm = self.alarm, ""
            raise RuntimeError(text)
        self.calls[op] += 1
        self.ran = "fused"
        return self.fault(op, arguments, results)

    def capture(self, loop):
        self.captures += 1
        loop()

        def replay():
            self.ran = "graphed"
            loop()

        return replay

    def set_time_limit(self, seconds):
        assert self.has_library
        self.limits.append(seconds)

    def reported_alarm(self, like):
        return self.take_alarm(self.where) if self.may_measure else ""

    def take_alarm(self, device):
        assert self.has_library
        text, self.alarm = self.alarm, ""
        return text

    def milliseconds(self, work):
        self.ran = "steps"
        work()
        self.timings += 1
        return self.times[self.ran]


class Graphed:
    """The loops of graphs.py, with graphs that a fake GPU records."""

    def __init__(self, gpu):
        self.graphs = graphs.Graphs(
            gpu.capture, lambda: "here", lambda: gpu.may_measure, lambda: not gpu.may_capture
        )

    def forward(self, *arguments, run):
        return stepwise.forward(*arguments, run=run)

    def backward(self, *arguments, run):
        return stepwise.backward(*arguments, run=run)


def new_loops(gpu, mode=""):
    """The loops on this GPU; the attribute ``value`` is that of RNNFUSED_CUDA_FUSED."""
    loops = Loops(gpu, lambda: loops.value, Graphed(gpu))
    loops.value = mode
    return loops


def arguments(
    steps=6, batch=5, hidden=7, dtype=torch.float64, heads=1, batch_sizes=None, clip=None
):
    """Arguments of ``Loops.forward``, and of ``Loops.backward``, each with its own random values."""
    random = torch.Generator().manual_seed(1)

    def new(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64).to(dtype)

    if batch_sizes is not None:
        batch = int(batch_sizes[0])
    shape = (steps, batch) if batch_sizes is None else (int(batch_sizes.sum()),)
    block = hidden // heads
    weight = new(heads, block, block) if heads > 1 else new(hidden, hidden)
    weight = weight / block**0.5
    options = (batch_sizes, stepwise.TANH, False)
    forward = (new(*shape, hidden), weight, new(1, batch, hidden), *options)
    output = new(*shape, hidden).tanh()
    backward = (new(*shape, hidden), new(1, batch, hidden), output, weight, *options, clip, True)
    return forward, backward


def run(loops, **sizes):
    """Runs both loops, asserts that their results are right, returns the ways that were taken."""
    forward, backward = arguments(**sizes)
    return run_forward(loops, *forward), run_backward(loops, *backward)


def run_forward(loops, *forward):
    return _run(loops, "forward", forward)


def run_backward(loops, *backward):
    return _run(loops, "backward", backward)


def _run(loops, name, given):
    copies = [x.clone() if isinstance(x, torch.Tensor) else x for x in given]
    expected = getattr(stepwise, name)(*copies)
    got = getattr(loops, name)(*given)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}.get(expected[0].dtype, 0.05)
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)
    for copy, x in zip(copies, given, strict=True):
        if isinstance(x, torch.Tensor):
            assert torch.equal(copy, x)  # the caller's tensors are as they were
    return ways(loops)[name == "backward"]


def ways(loops):
    """The ways of the last forward and of the last backward class; None before one is decided."""
    last = [None, None]
    for shape_class, choice in loops.decider.choices.items():
        last[shape_class.is_backward] = choice.way
    return last


def work_of(gpu):
    """Everything that deciding does."""
    return gpu.timings, gpu.captures, len(gpu.limits)


def spoil(op, index, value):
    """A fault that adds a value to the last element of a result of one op."""

    def fault(name, given, results):
        if name == op:
            results[index].view(-1)[-1] += value
        return results

    return fault
