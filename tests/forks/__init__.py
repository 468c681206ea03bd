"""Runs Python code in new processes that need not import torch: forks of ``server.py``."""

import atexit
import functools
import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
# The script of the command ``rnnfused``, as installed.
COMMAND = "import sys; from rnnfused_command import main; sys.exit(main())"


@functools.cache
def server():
    """The socket of this process's fork server, which ends with this process."""
    folder = tempfile.TemporaryDirectory()
    path = os.path.join(folder.name, "socket")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    # The package that this process imports, also where another one is installed.
    package = str(Path(importlib.util.find_spec("rnnfused").origin).parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, os.getenv("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, HERE / "server.py", path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )

    def end():
        process.communicate()
        folder.cleanup()

    atexit.register(end)
    assert process.stdout.readline() == b"listening\n"
    return path


def forked(code, *arguments):
    """The command line of a process that runs the code with the arguments as ``sys.argv[1:]``."""
    if not hasattr(socket, "send_fds"):
        return [sys.executable, "-c", code, *arguments]
    return [sys.executable, "-I", "-S", str(HERE / "client.py"), server(), code, *arguments]
