"""What the choice asks of CUDA, by stand-ins for torch.cuda and for the library's ops."""

import os
import subprocess
import sys

import pytest
import torch

from rnnfused import cuda
from rnnfused.cuda import graphs
from rnnfused.cuda.gpu import Gpu

OPS = """
import torch
torch.version.cuda = None  # so that no library with these ops is loaded
import rnnfused
from rnnfused.cuda.gpu import Gpu, has_fused_kernels

cpu, calls = torch.device("cpu"), []
gpu = Gpu()

def plan(hidden_size, rows, dtype=torch.float32):
    return gpu.plan(cpu, dtype, hidden_size, rows)

def define(schema, function):
    name, bracket, rest = schema.partition("(")
    torch.library.define("rnnfused::" + name, bracket + rest)
    torch.library.impl("rnnfused::" + name, "CompositeExplicitAutograd", function)

assert plan(512, 4) == "" and not has_fused_kernels()
assert rnnfused.cuda.report().mode == "auto"
define("forward_fused(Tensor x) -> Tensor", lambda x: x + 1)
define("backward_fused(Tensor x) -> Tensor", lambda x: x + 2)

def fits(weight, rows):
    calls.append((tuple(weight.shape), weight.dtype, rows))
    if rows == 13:
        raise RuntimeError("no kernel image")
    return rows <= 8

define("fits(Tensor weight_hh, int batch_size) -> bool", fits)
assert plan(512, 4) == "" and not has_fused_kernels() and calls == []  # a library without a watchdog
define("fused_plan(Tensor weight_hh, int batch_size) -> str", lambda w, rows: f"cluster of {rows}, x")
define("has_fused_alarm(Tensor like) -> bool", lambda like: like.shape != (3,))
define("fused_alarm(Tensor like) -> str", lambda like: "hung" if like.shape != (3,) else 1 / 0)
define("fused_time_limit(float seconds) -> ()", lambda seconds: calls.append(seconds))
assert has_fused_kernels()
assert plan(512, 4) == "cluster of 4, x" and plan(512, 9) == ""
assert calls == [((512, 512), torch.float32, 4), ((512, 512), torch.float32, 9)]
assert plan(512, 4, torch.complex64) == "" and len(calls) == 2
assert plan(512, 13) == ""
import os
os.environ["RNNFUSED_CUDA_PLAN"] = "cluster,8"
try:
    plan(512, 13)
except RuntimeError as error:
    assert "no kernel image" in str(error)
else:
    raise AssertionError("a forced plan that does not hold the call is an error")
assert gpu.forward_fused(torch.zeros(1)).item() == 1 and gpu.backward_fused(torch.zeros(1)).item() == 2
"""

GUARDS = """
gpu.set_time_limit(2.0)
assert calls[-1] == 2.0
waited = []

class Stream:
    def synchronize(self):
        waited.append(True)

torch.cuda.current_stream = lambda device: Stream()
assert gpu.take_alarm(cpu) == "hung" and waited == [True]

import contextlib
torch.cuda.device = lambda device: contextlib.nullcontext()
torch.cuda.is_current_stream_capturing = lambda: captures
for captures in (False, True):
    assert gpu.reported_alarm(torch.empty(2)) == ("" if captures else "hung")
    assert gpu.reported_alarm(torch.empty(3)) == ""  # not asked for the text
assert waited == [True]
"""


def test_ops_of_the_library(monkeypatch):
    monkeypatch.setenv("RNNFUSED_CUDA_FUSED", "1")  # as `make gpu-check` runs these tests
    monkeypatch.setenv("RNNFUSED_CUDA_PLAN", "none")
    own = {name: value for name, value in os.environ.items() if not name.startswith("RNNFUSED_")}
    # Not forked: the server of forks has read the variables, and may have loaded the library.
    command = [sys.executable, "-c", OPS + GUARDS]
    done = subprocess.run(command, env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_milliseconds_are_those_between_two_events(monkeypatch):
    order = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing
            self.number = len(order)

        def record(self):
            order.append(("record", self))

        def synchronize(self):
            order.append(("synchronize", self))

        def elapsed_time(self, end):
            order.append(("elapsed", end))
            return 7.5

    monkeypatch.setattr(torch.cuda, "Event", Event)
    assert Gpu().milliseconds(lambda: order.append(("work", None))) == 7.5
    assert [name for name, _ in order] == ["record", "work", "record", "synchronize", "elapsed"]
    assert order[2][1] is order[3][1] is order[4][1] is not order[0][1]


@pytest.mark.parametrize(
    ("capturing", "debug", "expected"),
    [((), 0, True), ((0,), 0, False), ((1,), 0, False), ((), 1, False), ((), 2, False)],
)
def test_it_measures_outside_of_captures_where_waiting_is_allowed(
    monkeypatch, capturing, debug, expected
):
    current = [0]

    class Device:
        def __init__(self, index):
            self.index = index

        def __enter__(self):
            self.before, current[0] = current[0], self.index

        def __exit__(self, *_):
            current[0] = self.before

    monkeypatch.setattr(torch.cuda, "device", Device)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: debug)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: current[0] in capturing)
    assert Gpu().can_measure(1) == expected


@pytest.mark.parametrize("uses_a_pool", [False, True])
def test_it_captures_outside_of_memory_pools(monkeypatch, uses_a_pool):
    monkeypatch.setattr(graphs, "uses_a_pool", lambda: uses_a_pool)
    assert Gpu().can_capture() != uses_a_pool


def test_the_public_functions():
    assert cuda.report().rows == ()
    assert "nothing was decided yet" in str(cuda.report())
    if not torch.cuda.is_available():
        assert not cuda.uses_fused_kernels(torch.empty(4, 4), 1)


def test_the_variable_is_read_when_the_package_is_imported(monkeypatch):
    monkeypatch.setattr(cuda, "choice", "steps")
    assert cuda.report().mode == "steps"
    monkeypatch.setattr(cuda, "choice", "2")
    with pytest.raises(ValueError, match="got '2'"):
        cuda.report()
