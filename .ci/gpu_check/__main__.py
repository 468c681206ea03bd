"""Checks the CUDA kernels on this machine's NVIDIA GPU, and leaves evidence whatever happens.

Each stage is a process with a time limit; a stage that hangs is ended and the next one runs. Results are written row
by row into a folder, and the folder after every stage into an archive. --build needs no GPU: it only compiles, for
RNNFUSED_CUDA_ARCHS; --prebuilt uses what was compiled so, and compiles nothing.
"""

import argparse
import datetime
import math
import os
import signal
import sys
import time
from pathlib import Path

from logbook import Logbook, say
from place import HERE, ROOT, gpu_state
from runner import GRACE, SIGNALS, Interrupts, Runner, Stage
from stages import all_stages, build_stages


def seconds_of(text: str) -> float:
    """Parse a positive number of seconds; raises argparse.ArgumentTypeError on anything else."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number of seconds; got {text!r}")
    return seconds


def limit_of(text: str) -> tuple[str, float]:
    """Parse STAGE=SECONDS; raises argparse.ArgumentTypeError on anything else."""
    name, _, seconds = text.partition("=")
    return name, seconds_of(seconds)


def parse_arguments(words=None) -> argparse.Namespace:
    """The options, whose defaults may come from the environment."""
    given = os.environ.get
    parser = argparse.ArgumentParser(
        prog="gpu-check",
        description=__doc__,
        epilog="PYTHON names the Python of the stages; COMMIT the commit, where there is no git.",
    )
    parser.add_argument(
        "--logs",
        type=Path,
        default=given("LOGS") or ROOT / "build" / "gpu-check",
        help="folder of the results (LOGS; build/gpu-check)",
    )
    parser.add_argument(
        "--archive",
        type=Path,
        default=given("ARCHIVE") or None,
        help="the results in one file (ARCHIVE; the folder's name and .tar.gz)",
    )
    parser.add_argument(
        "--deadline",
        type=seconds_of,
        default=given("DEADLINE") or "540",
        metavar="SECONDS",
        help="of the whole check (DEADLINE; 540)",
    )
    parser.add_argument(
        "--grace",
        type=seconds_of,
        default=GRACE,
        metavar="SECONDS",
        help="from asking a stage to end to killing it (5)",
    )
    parser.add_argument(
        "--limit",
        type=limit_of,
        action="append",
        default=[],
        metavar="STAGE=SECONDS",
        help="another limit for a stage; may be repeated",
    )
    parser.add_argument("--build", action="store_true", help="only compile; needs no GPU")
    parser.add_argument(
        "--prebuilt",
        action="store_true",
        default=given("PREBUILT", "") not in ("", "0"),
        help="compile nothing (PREBUILT=1)",
    )
    return parser.parse_args(words)


def stages_of(options: argparse.Namespace, folder: Path) -> list[Stage]:
    """The stages that the options ask for, with their limits; raises ValueError on a limit of an unknown stage."""
    if options.build:
        preflight = [sys.executable, str(HERE / "build_probe.py"), "preflight"]
        stages = [Stage("preflight", preflight, 60), *build_stages(prebuilt=False)]
    else:
        stages = all_stages(folder, options.prebuilt)
    limits = dict(options.limit)
    if unknown := set(limits) - {stage.name for stage in stages}:
        raise ValueError(f"--limit names no stage: {', '.join(sorted(unknown))}")
    return [
        stage._replace(limit=limits[stage.name], least=0) if stage.name in limits else stage
        for stage in stages
    ]


def main() -> int:
    started = time.monotonic()
    options = parse_arguments()
    folder = options.logs.resolve()
    archive = (options.archive or folder.with_name(folder.name + ".tar.gz")).resolve()
    os.chdir(ROOT)
    try:
        stages = stages_of(options, folder)
    except ValueError as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        return 2
    facts = {
        "commit": gpu_state.commit(),
        "date": datetime.datetime.now().isoformat(timespec="seconds"),
        "deadline": options.deadline,
        "arguments": sys.argv[1:],
    }
    try:
        logbook = Logbook(folder, archive, facts)
    except OSError as error:
        print(f"gpu-check: cannot write results: {error}", file=sys.stderr)
        return 2
    interrupts = Interrupts()
    for number in SIGNALS:
        signal.signal(number, interrupts.handle)
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "COMMIT": facts["commit"],
    }
    runner = Runner(logbook, options.deadline, environment, options.grace, started, interrupts)
    status = runner.run_all(stages)
    say(f"\n{logbook.table()}\n\nResults: {folder}\nArchive: {archive}")
    return status


if __name__ == "__main__":
    sys.exit(main())
