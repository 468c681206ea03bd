"""The package loads its CUDA library only beside a torch with CUDA; a failure is a warning."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(importlib.util.find_spec("rnnfused").origin).parent

PROGRAM = """
import torch
torch.version.cuda = {version!r}
import rnnfused
print(rnnfused.RNN(1, 1)(torch.ones(1, 1, 1))[0].shape)
"""


@pytest.fixture
def use_package(tmp_path):
    """Use a copy of the package with the given bytes as CUDA library; return its warnings."""

    def use(library, cuda_of_torch):
        copy = tmp_path / "rnnfused"
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("_cuda.so", "__pycache__"))
        if library is not None:
            (copy / "_cuda.so").write_bytes(library)
        program = PROGRAM.format(version=cuda_of_torch)
        command = [sys.executable, "-c", program]
        first = {**os.environ, "PYTHONPATH": str(tmp_path)}
        call = subprocess.run(command, cwd=tmp_path, env=first, capture_output=True, text=True)
        assert (call.returncode, call.stdout) == (0, "torch.Size([1, 1, 1])\n"), call.stderr
        return call.stderr

    return use


def test_a_library_that_does_not_load_is_a_warning(use_package, tmp_path):
    message = use_package(b"no library", "13.0")
    library = tmp_path / "rnnfused" / "_cuda.so"
    assert f"UserWarning: rnnfused works on the CPU only: {library} did not load: " in message
    assert "file too short" in message or "invalid ELF header" in message  # the loader's own reason


@pytest.mark.parametrize(("library", "cuda_of_torch"), [(b"no library", None), (None, "13.0")])
def test_no_library_or_no_cuda_in_torch_is_no_problem(use_package, library, cuda_of_torch):
    assert use_package(library, cuda_of_torch) == ""
