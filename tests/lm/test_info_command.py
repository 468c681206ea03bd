"""``rnnfused info``: the description of an installation."""

import json
import os
import platform
import sys
from pathlib import Path

import pytest
import torch
from runs import run_command

import rnnfused
from rnnfused import info
from rnnfused.lm.cli import main


def test_json(capsys):
    assert main(["info", "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    found = json.loads(out)
    assert found["rnnfused"] == rnnfused.__version__
    assert found["torch"] == torch.__version__
    assert platform.python_version() in found["python"]
    assert found["instruction_set"] == rnnfused.cpu_capability()
    assert found["threads"] == torch.get_num_threads()
    assert 1 <= found["cores"] <= os.cpu_count()
    assert found["devices"][0] == "cpu"
    assert len(found["devices"]) >= 1 + torch.cuda.device_count()
    assert found["torch_cuda"] == torch.version.cuda
    assert found["libraries"]["tqdm"]


def test_lines_for_a_reader(capsys):
    assert main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    values = dict(line.split(": ", 1) for line in lines)
    names = ["rnnfused", "torch", "instruction set", "CUDA kernels", "devices", "environment"]
    assert set(names) <= set(values)
    assert values["rnnfused"].strip() == rnnfused.__version__
    # In one column.
    assert len({len(line) - len(line.split(":", 1)[1].lstrip()) for line in lines}) == 1


def test_environment_variables(monkeypatch):
    for name in [name for name in os.environ if name.startswith("RNNFUSED_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert "environment" in info.report()
    monkeypatch.setenv("RNNFUSED_CACHE", "/somewhere")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("SECRET", "token")
    found = info.report()["environment"]
    assert found["RNNFUSED_CACHE"] == "/somewhere" and found["OMP_NUM_THREADS"] == "3"
    assert "SECRET" not in found
    assert "RNNFUSED_CACHE=/somewhere" in info.describe(info.report())


def test_a_wrong_instruction_set_is_described_and_not_an_error():
    done = run_command("info", "--json", RNNFUSED_CPU_CAPABILITY="none")
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert found["instruction_set"].startswith('error: RNNFUSED_CPU_CAPABILITY is "none"')
    assert found["environment"]["RNNFUSED_CPU_CAPABILITY"] == "none"


def test_how_it_was_built(monkeypatch, tmp_path):
    found = info.report()
    has_kernels = hasattr(torch.ops.rnnfused, "forward_fused")
    assert (found["cuda_kernels"] == "built and loaded") == has_kernels
    assert "GCC" in found["compiler"] or "clang" in found["compiler"]
    monkeypatch.setattr(rnnfused, "__file__", str(tmp_path / "__init__.py"))
    found = info.report()
    assert found["compiler"] == "error: No such file or directory"
    if not has_kernels:
        assert found["cuda_kernels"] == "not built"
        (tmp_path / "_cuda.so").touch()
        assert info.report()["cuda_kernels"] == "built, but not loaded"


def test_gpus_and_a_broken_driver(monkeypatch):
    class Gpu:
        name, major, minor, total_memory = "Toy", 9, 0, 80 * 2**30

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Gpu)
    assert info.report()["devices"][1] == "cuda:0 Toy (compute capability 9.0, 80 GiB)"

    def broken(_):
        raise RuntimeError("driver too old\nmore")

    monkeypatch.setattr(torch.cuda, "get_device_properties", broken)
    assert info.report()["devices"] == ["cpu", "error: driver too old"]


def test_missing_libraries(monkeypatch):
    import importlib.metadata

    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    found = info.report()
    assert set(found["libraries"].values()) == {None}
    assert "tqdm -" in info.describe(found)


@pytest.mark.parametrize("terminal", [True, False])
def test_control_characters_of_the_environment(monkeypatch, capsys, terminal):
    monkeypatch.setenv("RNNFUSED_CACHE", "\x1b[2J")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert main(["info"]) == 0
    assert ("\x1b" in capsys.readouterr().out) != terminal


def test_it_runs_without_the_extra(tmp_path):
    # Libraries that cannot be imported, in front of the real ones.
    for name in ("matplotlib", "numpy", "safetensors", "tqdm"):
        (tmp_path / f"{name}.py").write_text("raise ModuleNotFoundError(name=__name__)")
    path = os.pathsep.join([str(tmp_path), str(Path(rnnfused.__file__).parents[1])])
    done = run_command("info", PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("rnnfused: ")
