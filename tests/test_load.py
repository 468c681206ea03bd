"""Loads beyond those of a usual program: 16 threads of Python at once, forks among them, a million steps."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import long_sequence
import pytest
import torch
from threads import run_in_threads

import rnnfused

THREADS = 16
# T and B: a team of threads; groups of rows; parts of steps; little blocks of memory only.
SIZES = [(40, 2), (60, 40), (700, 9), (3, 1)]


def calls_of(module):
    """A function per size that returns the output, the last state and all gradients of one call."""

    def call(x, h_0, gradients):
        leaves = [x, h_0, *module.parameters()]
        results = module(x, h_0)
        # .backward() would sum the gradients of all threads.
        return [*results, *torch.autograd.grad(results, leaves, gradients)]

    states = module.num_layers
    for steps, batch in SIZES:
        x = torch.randn(steps, batch, module.input_size, requires_grad=True)
        h_0 = torch.randn(states, batch, module.hidden_size, requires_grad=True)
        outputs = torch.randn(steps, batch, module.hidden_size), torch.randn_like(h_0)
        yield lambda x=x, h_0=h_0, outputs=outputs: call(x, h_0, outputs)


def assert_same_bits(results, expected):
    for got, wanted in zip(results, expected, strict=True):
        assert torch.equal(got, wanted)


@pytest.fixture
def calls(restore_threads):
    """Calls of one module, each with its results on one thread."""
    torch.manual_seed(0)
    calls = list(calls_of(rnnfused.RNN(20, 192, num_layers=2)))
    torch.set_num_threads(1)
    expected = [call() for call in calls]
    torch.set_num_threads(2)
    return list(zip(calls, expected, strict=True))


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("torch_threads", [2, 64])  # 64: the op's own threads, in turns
def test_sixteen_threads_on_one_module(calls, seconds, torch_threads):
    torch.set_num_threads(torch_threads)
    end = time.monotonic() + seconds
    counts = [0] * THREADS

    def work(number):
        while time.monotonic() < end:
            call, expected = calls[(number + counts[number]) % len(calls)]
            assert_same_bits(call(), expected)
            counts[number] += 1

    run_in_threads(work, range(THREADS), timeout=seconds + 60)
    assert min(counts) > 0


def exits_with_success(calls, threads=1):
    """Forks; the child makes each call. Whether all results were right within a minute."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            torch.set_num_threads(threads)
            results = [call() for call, _ in calls]
            # torch.equal would wait for the parent's threads.
            torch.set_num_threads(1)
            for got, (_, expected) in zip(results, calls, strict=True):
                assert_same_bits(got, expected)
            code = 0
        finally:
            os._exit(code)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return False


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform lacks fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("forks", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_forks_while_other_threads_compute(calls, forks):
    """The child lacks those threads, and has the memory that they were writing to."""
    ends = threading.Event()

    def work(number):
        if number == 0:
            try:
                assert all(exits_with_success(calls) for _ in range(forks))
            finally:
                ends.set()
        while not ends.is_set():
            for call, expected in calls:
                assert_same_bits(call(), expected)

    run_in_threads(work, range(4), timeout=60 + 10 * forks)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform lacks fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_fork_has_threads_of_its_own(restore_threads, threads):
    """The child lacks the pool of OpenMP that its parent had started, and may start another."""
    torch.manual_seed(0)
    calls = list(calls_of(rnnfused.RNN(20, 512)))
    # The cell then runs the op, as it does in the child.
    torch.use_deterministic_algorithms(True)
    cell, x = rnnfused.RNNCell(256, 256), torch.randn(64, 256)
    calls.append(lambda: [cell(x)])
    torch.set_num_threads(2)
    expected = [call() for call in calls]
    torch.use_deterministic_algorithms(False)
    assert exits_with_success(list(zip(calls, expected, strict=True)), threads)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_million_steps():
    """The results of one call are those of 100 calls with a carried state, and its memory is that of its tensors."""
    process = subprocess.run(
        [sys.executable, Path(long_sequence.__file__)], capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr[-2000:]
    megabytes = float(process.stdout)
    assert 0.9 * long_sequence.TENSORS_MB < megabytes < long_sequence.TENSORS_MB + 16
