"""The build backend: setuptools' own, plus a search for the torch to compile against.

pip builds in isolation, where the torch of the target environment cannot be imported. As a build
requirement, torch would be downloaded a second time, perhaps in another version. So this backend
runs the interpreter, which isolation does not replace, to locate the installed torch.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple, NoReturn

from setuptools import build_meta
from setuptools.build_meta import (  # setuptools' own hooks, unchanged
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

OLDEST_TORCH = (2, 10)  # the first whose stable ABI has all that csrc calls

# Locates torch without importing it: the import takes seconds, and the build needs only files.
LOCATE_TORCH = """
import importlib.util, json, runpy
[root] = importlib.util.find_spec("torch").submodule_search_locations
facts = runpy.run_path(root + "/version.py")
print(json.dumps([facts["__version__"], root, facts.get("cuda")]))
"""


class Torch(NamedTuple):
    """An installed torch."""

    version: str
    root: Path  # the folder that holds `include` and `lib`
    cuda: str | None  # the version of CUDA that it was built with


def fail(reason: str) -> NoReturn:
    """End the build with a one-line message; any other exception would print a traceback."""
    raise SystemExit(f"rnnfused: {reason}")


def find_torch(python: str = sys.executable) -> Torch:
    """Return the torch of the interpreter `python`; fail if it lacks one or has one too old."""
    # The first attempt respects the user's PYTHONPATH; -E drops the one that pip isolates with.
    for options in ([], ["-E"]):
        command = [python, *options, "-c", LOCATE_TORCH]
        answer = subprocess.run(command, check=False, capture_output=True, text=True)
        if answer.returncode == 0:
            break
    else:
        fail(
            f"{python} has no torch to compile against: `pip install torch` first (an installed "
            "torch is hidden by uv without --no-build-isolation, by `python -m build` without "
            "--no-isolation)"
        )

    version, root, cuda = json.loads(answer.stdout)
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        fail(f"torch {version} in {root} is too old: `pip install 'torch>={oldest}'` first")
    return Torch(version, Path(root), cuda)


def require_writable(folder: Path) -> None:
    """Fail if no file can be made in `folder`: setuptools would print a traceback."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        fail(
            f"cannot write to {folder}, where the build puts its files ({error.strerror}): copy the "
            "folder, and build the copy"
        )


def get_requires_for_build_wheel(config_settings=None):
    """PEP 517 hook: reports a missing torch before pip downloads anything."""
    find_torch()
    return build_meta.get_requires_for_build_wheel(config_settings)


def get_requires_for_build_editable(config_settings=None):
    """PEP 660 hook: the same for an editable install."""
    find_torch()
    return build_meta.get_requires_for_build_editable(config_settings)
