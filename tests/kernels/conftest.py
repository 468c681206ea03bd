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


def compile_sources(sources, name, flags=(), is_python_module=True):
    """The Python module that the sources make, or the path of their library; compiled again only after a change."""
    folder = ROOT / "build" / "test_kernels"
    folder.mkdir(parents=True, exist_ok=True)
    # ninja is found beside the interpreter even when its environment is not activated.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    name = f"{name}_{re.sub('[^0-9a-z]', '_', torch.__version__)}"
    with (folder / "own_lock").open("w") as own_lock:
        fcntl.flock(own_lock, fcntl.LOCK_EX)
        # A killed compilation leaves torch's lock, on which the next one would wait for ever.
        (folder / "lock").unlink(missing_ok=True)
        module = cpp_extension.load(
            name,
            [str(source) for source in sources],
            extra_include_paths=[str(ROOT / "csrc"), str(HERE), str(HERE / "fake_cuda")],
            extra_cflags=["-O1", *flags],
            build_directory=str(folder),
            is_python_module=is_python_module,
        )
    return module if is_python_module else folder / f"{name}.so"


def compile_module(name):
    return compile_sources([HERE / f"{name}.cpp"], name)


@pytest.fixture(scope="session")
def compile_layout():
    """Compiles layout.cpp for registers of this many bytes; returns the path of the library."""

    def compiled(size):
        flags = ["-mavx2", "-mfma", f"-DRNNFUSED_PLAIN_VECTORS={size}", "-Wno-psabi"]
        return compile_sources(
            [HERE / "layout.cpp", ROOT / "csrc" / "cpu" / "team.cpp"],
            f"layout_{size}",
            ["-ffp-contract=off", "-fno-math-errno", *flags],
            is_python_module=False,
        )

    return compiled


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
