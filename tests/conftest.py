"""Shared fixtures: devices, numbers of threads, processes on another instruction set."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from instruction_sets import skip_unless_here

import rnnfused

# Tests set more threads than some machines have processors, and mean as many workers.
os.environ.setdefault("RNNFUSED_PROCESSORS", "64")

# A shell has its background jobs ignore Ctrl-C; the tests' processes would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    """Add the options of tests/fuzz, which pytest reads before it knows that folder."""
    parser.addoption("--fuzz-calls", type=int, default=500, help="number of random calls")
    parser.addoption("--fuzz-seed", type=int, help="seed of the random calls; default: any")


@pytest.fixture(params=[False, True], ids=["torch's", "fused"])
def deterministic(request):
    """Whether torch's algorithms shall be deterministic, each in turn: then single steps take the fused op."""
    torch.use_deterministic_algorithms(request.param)
    yield request.param
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
def device(request):
    """Each available device in turn; it is torch's default device during the test, and its products are IEEE's."""
    if request.param == "cpu":
        yield request.param
    else:
        with (
            torch.device(request.param),
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
        ):
            yield request.param


@pytest.fixture
def exact(device):
    """Tolerances of assert_close: the same bits on the CPU; torch's own on a GPU, which may sum in another order."""
    return dict(rtol=0, atol=0) if device == "cpu" else {}


@pytest.fixture
def any_order(device):
    """The difference between two equal calls that gradcheck allows: a GPU adds the rows of an index in any order."""
    return 0.0 if device == "cpu" else 1e-12


@pytest.fixture
def restore_threads():
    """Restores torch's number of threads after the test."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def one_thread():
    """Runs a module's tests on one thread: on tiny tensors, torch's second thread mostly waits for a core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run_on_capability(request):
    """Runs tests of the same file, selected as by ``-k``, in a new process on the given instruction set."""

    def run(capability, names, timeout):
        skip_unless_here(capability)
        if capability == rnnfused.cpu_capability():
            pytest.skip(f"the tests of this process run on {capability}")
        environment = {**os.environ, "RNNFUSED_CPU_CAPABILITY": capability}
        command = [sys.executable, "-m", "pytest", "-q", "-x", str(request.path), "-k", names]
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=timeout
        )
        assert result.returncode == 0, result.stdout[-3000:]

    return run
