"""Runs Python code in a new process."""

import os
import subprocess
import sys


def run_python(code, folder=None, timeout=120, **environment):
    """Returns the finished process, with its output as text. Keywords set environment variables."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **environment},
        timeout=timeout,
    )
