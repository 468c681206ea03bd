"""Imports of the package: without slow modules, twice, and from a source tree before its build."""

import shutil
from pathlib import Path

import pytest
from python_process import run_python

import rnnfused

WARNINGS = "error::UserWarning"
TWICE = """
import importlib, sys, torch, rnnfused
importlib.reload(rnnfused)
first = rnnfused
for name in [name for name in sys.modules if name.split(".")[0] == "rnnfused"]:
    del sys.modules[name]
import rnnfused
assert rnnfused is not first
layer, x = rnnfused.RNN(3, 4, 2), torch.randn(5, 2, 3, requires_grad=True)
torch.compile(layer, backend="aot_eager")(x)[0].sum().backward()
compiled = x.grad
x.grad = None
layer(x)[0].sum().backward()
torch.testing.assert_close(x.grad, compiled)
torch.testing.assert_close(torch.vmap(layer)(x.expand(2, 5, 2, 3))[0][1], layer(x)[0])
"""


def test_slow_modules_wait_until_they_are_needed():
    """The compiler alone takes as long as torch itself."""
    slow = ("torch._dynamo", "sympy", "matplotlib", "onnx", "safetensors")
    code = f"import sys, rnnfused, rnnfused.lm.cli; print([x for x in {slow} if x in sys.modules])"
    result = run_python(code)
    assert (result.returncode, result.stdout) == (0, "[]\n"), result.stderr


def test_imported_twice():
    result = run_python(TWICE, PYTHONWARNINGS=WARNINGS)
    assert result.returncode == 0, result.stderr


def test_an_unbuilt_source_tree(tmp_path):
    source = Path(rnnfused.__file__).parent
    copied = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(source, tmp_path / "rnnfused", ignore=copied)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import rnnfused"
    result = run_python(code, tmp_path, PYTHONWARNINGS=WARNINGS)
    assert result.returncode == 1 and "install rnnfused again" in result.stderr
    (tmp_path / "setup.py").touch()
    result = run_python(code, tmp_path, PYTHONWARNINGS=WARNINGS)
    message = result.stderr.strip().splitlines()[-1]
    assert f"ImportError: {tmp_path} is the source tree of rnnfused" in message
    assert "start Python in another folder" in message


@pytest.mark.parametrize("version", ["2.9.1+cpu", "2.9.0a0+git1234", "1.13.1"])
def test_an_old_torch(version):
    # An attribute that old versions lack stands for all others.
    code = f"import torch; torch.__version__ = {version!r}; del torch.Tensor; import rnnfused"
    result = run_python(code)
    message = result.stderr.strip().splitlines()[-1]
    assert (
        message.startswith("ImportError: rnnfused needs torch 2.10 or newer") and version in message
    )
    assert message.endswith("pip install 'torch>=2.10'")
