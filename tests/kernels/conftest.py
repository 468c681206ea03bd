"""Compiles the module that shows pytest the kernels' insides."""

import os
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

import rnnfused.op

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


@pytest.fixture(scope="session")
def kernels_module():
    folder = ROOT / "build" / "test_kernels"
    folder.mkdir(parents=True, exist_ok=True)
    # ninja is found beside the interpreter even when its environment is not activated.
    os.environ["PATH"] = f"{Path(os.sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return cpp_extension.load(
        f"rnnfused_kernels_{torch.__version__.replace('.', '_').replace('+', '_')}",
        [str(HERE / "module.cpp")],
        extra_include_paths=[str(ROOT / "csrc")],
        extra_cflags=["-O1"],
        build_directory=str(folder),
    )


@pytest.fixture(scope="session", params=["default", "avx2", "avx512"])
def kernels(request, kernels_module):
    """The kernels of each instruction set, as the installed library has them."""
    try:
        return kernels_module.Kernels(str(rnnfused.op.LIBRARY), request.param)
    except KeyError:
        pytest.skip(f"this machine or build has no {request.param}")
