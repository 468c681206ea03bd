"""The build backend: setuptools' own, plus the torch that the library is compiled against.

pip builds in isolation: the torch of the environment that it installs into cannot be imported.
Naming torch as a build requirement would download a second one, perhaps of another version; so this
backend asks the interpreter, which pip does not replace, where its torch lies.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple, NoReturn

from setuptools import build_meta
from setuptools.build_meta import (  # the hooks that do not compile need nothing more
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

# Finds torch without importing it: that takes seconds, and the build needs only its files.
LOCATE_TORCH = """
import importlib.util, json, runpy
[root] = importlib.util.find_spec("torch").submodule_search_locations
print(json.dumps([runpy.run_path(root + "/version.py")["__version__"], root]))
"""


class Torch(NamedTuple):
    """An installed torch: its version, and the folder that holds its `include` and `lib`."""

    version: str
    root: Path


def fail(reason: str) -> NoReturn:
    """End the build with one line for the user; any other exception would print a traceback."""
    raise SystemExit(f"rnnfused: {reason}")


def find_torch(python: str = sys.executable) -> Torch:
    """Return the torch that `python` has; without one, or with one too old, say what to do."""
    # -E drops the PYTHONPATH by which pip isolates a build; without it, a user's own counts.
    for options in ([], ["-E"]):
        command = [python, *options, "-c", LOCATE_TORCH]
        answer = subprocess.run(command, check=False, capture_output=True, text=True)
        if answer.returncode == 0:
            break
    else:
        fail(
            f"{python} has no torch to compile against: `pip install torch` first (if it is there: "
            "uv hides it without --no-build-isolation, `python -m build` without --no-isolation)"
        )

    version, root = json.loads(answer.stdout)
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        fail(f"torch {version} in {root} is too old: `pip install 'torch>={oldest}'` first")
    return Torch(version, Path(root))


def get_requires_for_build_wheel(config_settings=None):
    """PEP 517 hook: a missing torch is reported here, before pip has downloaded anything."""
    find_torch()
    return build_meta.get_requires_for_build_wheel(config_settings)


def get_requires_for_build_editable(config_settings=None):
    """PEP 660 hook: as for a wheel."""
    find_torch()
    return build_meta.get_requires_for_build_editable(config_settings)
