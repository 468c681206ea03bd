"""Where the check finds the project and puts what it builds."""

import importlib
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / ".ci" / "gpu_check"
BUILT = ROOT / "build" / "gpu"  # preflight and probe
PROBE_SOURCES = ROOT / "tests" / "cuda" / "probe"

sys.path.append(str(ROOT / "benchmarks"))
gpu_state = importlib.import_module("gpu_state")

# The Python of the stages that need torch.
PYTHON = os.environ.get("PYTHON") or sys.executable
