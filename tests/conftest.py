"""What tests share: the devices that they run on, the number of threads, processes on an instruction set."""

import os
import subprocess
import sys

import pytest
import torch


@pytest.fixture(params=["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
def device(request):
    """Every device there is, in turn; tensors that name no device are made on it."""
    if request.param == "cpu":
        yield request.param
    else:
        with torch.device(request.param):
            yield request.param


@pytest.fixture
def restore_threads():
    """Puts the number of threads back that a test changes."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run_on_capability(request):
    """Runs tests of the same file, chosen as by -k, in a process of its own on an instruction set."""

    def run(capability, names, timeout):
        environment = {**os.environ, "RNNFUSED_CPU_CAPABILITY": capability}
        command = [sys.executable, "-m", "pytest", "-q", "-x", str(request.path), "-k", names]
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=timeout
        )
        if "this machine" in result.stdout:
            pytest.skip(f"this machine has no {capability}")
        assert result.returncode == 0, result.stdout[-3000:]

    return run
