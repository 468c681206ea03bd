"""Compiles programs of the tests and drivers of the benchmarks. They are kept until their command or a source changes."""

import fcntl
import hashlib
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
BUILT = ROOT / "build" / "compiled"


def compiled(name, command, sources):
    """The file that the command makes with ``-o``; `sources` are the files that it reads. Processes take turns.

    Raises RuntimeError, with the compiler's messages, where the command fails.
    """
    version = subprocess.run([command[0], "--version"], capture_output=True, text=True).stdout
    key = hashlib.sha256("\n".join([version, *command]).encode())
    for file in sorted(sources):
        key.update(file.read_bytes())
    target = BUILT / f"{name}.{key.hexdigest()[:16]}"
    BUILT.mkdir(parents=True, exist_ok=True)
    with (BUILT / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            partial = f"{target}.{os.getpid()}"
            call = subprocess.run(
                [*command, "-o", partial], cwd=ROOT, capture_output=True, text=True
            )
            if call.returncode:
                raise RuntimeError(f"{name} does not compile:\n{call.stderr}")
            os.replace(partial, target)
    return target
