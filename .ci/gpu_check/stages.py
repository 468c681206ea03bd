"""The stages of the check, in their order: what fails first says most, and comes first."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from place import BUILT, HERE, PYTHON
from runner import Stage

STALL = 8  # seconds without a word of the probe: its kernel hangs
PROBE_LIMIT = "1"  # seconds that a kernel of the probe waits for another block
MODULE_TESTS = [
    f"tests/test_{name}.py"
    for name in ("functional", "layer", "rnn", "scratch", "clip", "stepwise", "narrow")
]
# Cases of the probe whose kernels are profiled.
PROFILED = [
    "auto/float32/16x512/forward",
    "auto/float32/64x512/backward",
    "auto/bfloat16/64x1024/forward",
]
PROFILE_SECONDS = 25

MODULES = ("xdist", "pytest_timeout", "flashrnn")
FIND_MODULES = f"""
import importlib.util, json
print(json.dumps([name for name in {MODULES} if importlib.util.find_spec(name)]))
"""


def installed_modules() -> set[str]:
    """Those of MODULES that the Python of the stages has."""
    try:
        call = subprocess.run(
            [PYTHON, "-c", FIND_MODULES], capture_output=True, text=True, timeout=30, cwd="/"
        )
        return set(json.loads(call.stdout.strip().rpartition("\n")[2]))
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return set()


def pytest_command(modules: set[str], processes: int, seconds: int, *arguments: str) -> list[str]:
    """pytest with a line per test; in processes and with a limit per test, where it has the plugins."""
    command = [PYTHON, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-o", "addopts="]
    if "xdist" in modules:
        command += ["-n", str(processes), "--max-worker-restart=4"]
    if "pytest_timeout" in modules:
        # The other method, a signal, does not end a call of the driver.
        command += [f"--timeout={seconds}", "--timeout-method=thread"]
    return [*command, *arguments]


def watched(folder: Path, rows: str, *arguments: str) -> list[str]:
    """The command that runs the probe, with its rows in a file."""
    script = [
        sys.executable,
        str(HERE / "watch_probe.py"),
        str(folder / rows),
        "{seconds}",
        str(STALL),
    ]
    return [*script, str(BUILT / "probe"), *arguments]


def build_stages(prebuilt: bool) -> list[Stage]:
    """The stages that make probe and library, or see that they were brought."""
    if not prebuilt:
        probe = [sys.executable, str(HERE / "build_probe.py"), "probe"]
        library = [PYTHON, "setup.py", "build_ext", "--inplace"]
    else:
        probe = [str(BUILT / "probe"), "--list"]
        library = [
            PYTHON,
            "-c",
            "from rnnfused.ops import has_cuda_kernels as has; exit(not has())",
        ]
    return [
        Stage("build-probe", probe, 150, needs=("preflight",)),
        Stage("build", library, 150, needs=("preflight",), environment={"RNNFUSED_CUDA": "1"}),
    ]


def all_stages(folder: Path, prebuilt: bool) -> list[Stage]:
    """Every stage of a run that writes to this folder."""
    modules = installed_modules()
    build_probe, build = build_stages(prebuilt)
    preflight = [sys.executable, str(HERE / "preflight.py"), str(folder)]
    compare = [PYTHON, "benchmarks/compare_cuda.py"]
    compare += ["--flashrnn"] if "flashrnn" in modules else []
    probe = [str(BUILT / "probe"), "--time-limit", "20"]
    fused = {"RNNFUSED_CUDA_FUSED": "1"}
    few = ("--few",)
    limited = ("--time-limit", PROBE_LIMIT)
    profile = [
        "ncu",
        "--set",
        "full",
        "--clock-control",
        "none",
        "--kernel-name",
        "regex:scan_kernel",
    ]
    profile += ["--launch-skip", "1", "--launch-count", "1", *probe, "--only"]
    return [
        Stage("preflight", preflight + ["--prebuilt"] * prebuilt, 60),
        build_probe,
        Stage("plans", watched(folder, "plans.jsonl", "--plans"), 20, needs=("build-probe",)),
        Stage("probe", watched(folder, "probe.jsonl", *limited), 60, needs=("build-probe",)),
        Stage(
            "two-grids",
            watched(folder, "two-grids.jsonl", "--two-grids", *limited),
            25,
            needs=("build-probe",),
        ),
        build,
        Stage(
            "kernels",
            pytest_command(modules, 4, 15, "tests/cuda"),
            110,
            needs=("build",),
            environment=fused,
        ),
        Stage(
            "benchmark-first",
            [*compare, "--rows", "first", "--out", str(folder / "benchmark-first.jsonl")],
            60,
            needs=("build",),
        ),
        Stage(
            "modules",
            pytest_command(modules, 8, 60, *MODULE_TESTS, "-k", "cuda"),
            90,
            needs=("build",),
            environment=fused,
        ),
        Stage(
            "sweep",
            watched(folder, "sweep.jsonl", "--sweep", *limited),
            90,
            needs=("build-probe",),
        ),
        *(
            Stage(
                tool,
                ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", *probe, *few]
                # It does not follow the mbarriers between blocks that order a cluster's accesses.
                + ["--without", "cluster"] * (tool == "racecheck"),
                40,
                needs=("build-probe",),
                program="compute-sanitizer",
            )
            for tool in ("memcheck", "racecheck", "synccheck")
        ),
        Stage(
            "benchmark-rest",
            [*compare, "--rows", "rest", "--seconds", "{seconds}"]
            + ["--out", str(folder / "benchmark-rest.jsonl")],
            600,
            needs=("build",),
            least=15,
            reserve=PROFILE_SECONDS * len(PROFILED) if shutil.which("ncu") else 0,
        ),
        *(
            Stage(
                f"ncu-{number}",
                [*profile, case],
                PROFILE_SECONDS,
                needs=("build-probe",),
                program="ncu",
            )
            for number, case in enumerate(PROFILED, 1)
        ),
    ]
