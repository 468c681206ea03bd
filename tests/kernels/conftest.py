"""Compiles the modules through which pytest calls the kernels."""

import fcntl
import os
import re
import sys
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

import rnnfused.ops

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def compile_module(name):
    """The Python module that ``name.cpp`` makes; compiled again only if it or a header has changed."""
    folder = ROOT / "build" / "test_kernels"
    folder.mkdir(parents=True, exist_ok=True)
    # ninja is found beside the interpreter even when its environment is not activated.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with (folder / "own_lock").open("w") as own_lock:
        fcntl.flock(own_lock, fcntl.LOCK_EX)
        # A killed compilation leaves torch's lock, on which the next one would wait for ever.
        (folder / "lock").unlink(missing_ok=True)
        return cpp_extension.load(
            f"{name}_{re.sub('[^0-9a-z]', '_', torch.__version__)}",
            [str(HERE / f"{name}.cpp")],
            extra_include_paths=[str(ROOT / "csrc"), str(HERE), str(HERE / "fake_cuda")],
            extra_cflags=["-O1"],
            build_directory=str(folder),
        )


@pytest.fixture(scope="session")
def kernels_module():
    return compile_module("cpu")


@pytest.fixture(scope="session")
def team_module():
    return compile_module("team")


@pytest.fixture(scope="session")
def emulator_module():
    return compile_module("cuda_emulator")


@pytest.fixture(scope="session")
def plans_module():
    return compile_module("cuda_plans")


@pytest.fixture(scope="session")
def alarms_module():
    return compile_module("cuda_alarms")


@pytest.fixture(scope="session", params=["default", "avx2", "avx512", "avx512_bf16"])
def kernels(request, kernels_module):
    """The kernels of each instruction set, as the installed library has them."""
    try:
        return kernels_module.Kernels(str(rnnfused.ops.LIBRARY), request.param)
    except KeyError:
        pytest.skip(f"this machine or build has no {request.param}")
