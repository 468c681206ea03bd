"""The build refuses a setuptools that is too old, which only a build without isolation can meet."""

import re
import sys

import pytest
import setuptools
from fake_project import ROOT, load

[OLDEST] = re.findall(
    r'^requires = \["setuptools>=([\d.]+)"\]', (ROOT / "pyproject.toml").read_text(), re.M
)
MAJOR = int(OLDEST.partition(".")[0])


@pytest.fixture
def version(monkeypatch):
    """A function that sets the version of setuptools."""
    # setup.py is loaded again, under the name of the module that other tests hold.
    for name in ("setup", "build_backend", "nvcc"):
        monkeypatch.setitem(sys.modules, name, sys.modules[name])
    monkeypatch.setattr(sys, "path", [str(ROOT / "build_tools"), *sys.path])
    return lambda value: monkeypatch.setattr(setuptools, "__version__", value)


@pytest.mark.parametrize("old", ["65.5.0", f"{MAJOR - 1}.9.9", f"{MAJOR}.0.0", "9.1"])
def test_an_old_setuptools_is_refused_in_one_line(monkeypatch, version, old):
    version(old)
    # Versions before 70.1 lack it.
    monkeypatch.setitem(sys.modules, "setuptools.command.bdist_wheel", None)
    with pytest.raises(SystemExit) as failure:
        load(ROOT / "setup.py")
    reason = str(failure.value)
    assert reason.startswith(f"rnnfused: setuptools {old} is too old: ")
    assert f"pip install 'setuptools>={OLDEST}'" in reason and "\n" not in reason


@pytest.mark.parametrize("new", [OLDEST, f"{OLDEST}.post20250101", f"{MAJOR + 1}", "100.0.0"])
def test_others_are_taken(version, new):
    version(new)
    load(ROOT / "setup.py")
