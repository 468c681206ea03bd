"""The stages that fold the lanes of several registers at once, on every instruction set."""

import os
import platform
import shlex
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CSRC = HERE.parent.parent / "csrc"


@pytest.mark.parametrize(
    "flags", [[], ["-mavx2", "-mfma"], ["-mavx512f"]], ids=["baseline", "avx2", "avx512"]
)
def test_each_register_is_folded_into_its_lane(flags):
    if flags and platform.machine() != "x86_64":
        pytest.skip("the flags are those of x86-64")
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    source = [f"-I{CSRC}", str(HERE / "fold.cpp")]
    subprocess.run([*compiler, "-std=c++17", "-fsyntax-only", *flags, *source], check=True)
