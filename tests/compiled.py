"""Compiles programs and libraries of the tests. They are kept in build/ until their command or a source changes."""

import fcntl
import hashlib
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "build" / "test_kernels"


def compiled(name, command, sources):
    """The file that the command makes with ``-o``; `sources` are the files that it reads. Processes take turns."""
    version = subprocess.run([command[0], "--version"], capture_output=True, text=True).stdout
    key = hashlib.sha256("\n".join([version, *command]).encode())
    for file in sorted(sources):
        key.update(file.read_bytes())
    target = FOLDER / f"{name}.{key.hexdigest()[:16]}"
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            partial = f"{target}.{os.getpid()}"
            call = subprocess.run(
                [*command, "-o", partial], cwd=ROOT, capture_output=True, text=True
            )
            assert call.returncode == 0, call.stderr
            os.replace(partial, target)
    return target
