"""No lane overflows: arithmetic on any bits, compiled with UndefinedBehaviorSanitizer."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

import rnnfused.ops

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CHECKS = ["-fsanitize=undefined", "-fno-sanitize-recover=undefined"]
COMPILER = shlex.split(os.environ.get("CXX", "c++"))


def build(source, program, *options):
    command = [*COMPILER, "-std=c++17", "-O1", *CHECKS, *options, str(source), "-o", str(program)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize(("name", "options"), [("default", []), ("avx2", ["-mavx2", "-mfma"])])
def test_any_bits(tmp_path, kernels_module, name, options):
    try:
        kernels_module.Kernels(str(rnnfused.ops.LIBRARY), name)
    except KeyError:
        pytest.skip(f"this machine or build has no {name}")
    nothing = tmp_path / "nothing.cpp"
    nothing.write_text("int main() {}")
    if build(nothing, tmp_path / "nothing").returncode != 0:
        pytest.skip("this compiler has no checks of undefined behaviour")
    built = build(HERE / "undefined.cpp", tmp_path / "program", f"-I{ROOT / 'csrc'}", *options)
    assert built.returncode == 0, built.stderr
    result = subprocess.run([tmp_path / "program"], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "all defined\n"), result.stderr
