"""Stage: what this machine is, and what its GPU offers. Writes machine.json and preflight.jsonl.

preflight.py FOLDER [--prebuilt]
"""

import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from place import BUILT, HERE, PYTHON

CAPABILITY = ("--query-gpu=compute_cap", "--format=csv,noheader")

# In the Python of the later stages.
DESCRIBE_PYTHON = """
import json, sys
from importlib.metadata import distributions
facts = {"python": sys.version.split()[0]}
wanted = ("torch", "pytest", "pytest-xdist", "pytest-timeout", "setuptools", "numpy")
facts |= {d.name: d.version for d in distributions() if d.name in wanted}
try:
    import torch
    facts |= {"torch_cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    facts["torch_sees"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
except Exception as error:
    facts["torch_error"] = str(error)
print(json.dumps(facts))
"""


def ask(*command: str) -> str:
    """What a program prints; why there is nothing, if it does not run."""
    try:
        answer = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]}: {error}"
    return answer.stdout.strip()


def describe_machine() -> dict:
    """Versions of everything that takes part."""
    gpu = "name,driver_version,compute_cap,memory.total,clocks.sm,clocks.max.sm,clocks.mem,mig.mode.current"
    facts = {
        "nvidia_smi": ask("nvidia-smi", f"--query-gpu={gpu}", "--format=csv"),
        "nvcc": ask("nvcc", "--version").rpartition("\n")[2],
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "variables": {k: v for k, v in os.environ.items() if k.startswith(("RNNFUSED_", "CUDA_"))},
    }
    try:
        facts |= json.loads(ask(PYTHON, "-c", DESCRIBE_PYTHON).rpartition("\n")[2])
    except (ValueError, TypeError):
        facts["torch_error"] = f"{PYTHON} does not describe itself"
    return facts


def note(rows: list[dict]) -> str:
    """One line on the GPU."""
    most = max((row["shared_bytes"] for row in rows if "shared_bytes" in row), default=0)
    clusters = [
        f"{row['cluster_blocks']}: {row['active_clusters']}"
        for row in rows
        if row.get("shared_bytes") == most and row["cluster_blocks"] > 1
    ]
    device = next((row for row in rows if "multiprocessors" in row), {})
    counts = f"active clusters of {', '.join(clusters)}" if clusters else "no clusters"
    return f"{device.get('name')}, {device.get('multiprocessors')} multiprocessors, {counts}"


def main() -> int:
    folder = Path(sys.argv[1])
    machine = describe_machine()
    (folder / "machine.json").write_text(json.dumps(machine, indent=1) + "\n")
    print(json.dumps(machine, indent=1), flush=True)
    if not re.search(r"^\d+\.\d+$", ask("nvidia-smi", *CAPABILITY), re.M):
        if not os.environ.get("RNNFUSED_CUDA_ARCHS"):
            print(
                "note: nvidia-smi lists no NVIDIA GPU (RNNFUSED_CUDA_ARCHS=90a goes on without it)"
            )
            return 2
    if "--prebuilt" not in sys.argv:
        subprocess.run([sys.executable, HERE / "build_probe.py", "preflight"], check=True)
    with (folder / "preflight.jsonl").open("w") as output:
        status = subprocess.run([BUILT / "preflight"], stdout=output).returncode
    text = (folder / "preflight.jsonl").read_text()
    print(text, end="")
    if status == 0:
        print("note:", note([json.loads(line) for line in text.splitlines()]))
    else:
        print(
            "note: CUDA finds no NVIDIA GPU"
            if status == 2
            else f"note: preflight ended with {status}"
        )
    return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"note: {error}")
