"""Runs stages one after another, each in a process group of its own and within its time, and records each at once."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from logbook import Logbook

GRACE = 5.0  # seconds between SIGTERM and SIGKILL


class Stage(NamedTuple):
    """A command and when it may run.

    The word ``{seconds}`` in the command becomes the seconds that the stage has, less ``margin``.
    """

    name: str
    command: Sequence[str]
    limit: float  # seconds
    needs: Sequence[str] = ()  # stages that must have succeeded
    program: str = ""  # that must be installed
    least: float = 3  # seconds without which it is not worth its start
    reserve: float = 0  # seconds that are left to later stages
    margin: float = 5
    environment: dict[str, str] = {}


class Interrupted(Exception):
    """SIGINT, SIGTERM or SIGHUP came."""


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """The first of SIGNALS. It interrupts a wait for a stage, and nothing else: a stage that is ended is ended whole."""

    def __init__(self):
        self.name = ""  # of the signal, once one came
        self._may_raise = False

    def handle(self, number, _frame) -> None:
        """A signal's handler; the run then ends in good order, which no second signal disturbs."""
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        self.name = signal.Signals(number).name
        if self._may_raise:
            self.check()

    def check(self) -> None:
        """Raise Interrupted if a signal came."""
        if self.name:
            raise Interrupted(self.name)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """A context that a signal interrupts, also one that came before."""
        self._may_raise = True
        try:
            self.check()
            yield
        finally:
            self._may_raise = False


def why_not(stage: Stage, succeeded: set[str], path: str) -> str:
    """Why a stage cannot run; empty if it can."""
    for name in stage.needs:
        if name not in succeeded:
            return f"needs {name}, which did not succeed"
    if stage.program and not shutil.which(stage.program, path=path):
        return f"{stage.program} is not installed"
    return ""


# The lines that say most of a log: of pytest, compute-sanitizer, and the check's own stages.
TELLING = re.compile(
    r"^=* ?(.*\b(?:passed|failed|errors?|skipped)\b.* in [\d.]+s.*?) ?=*$"
    r"|^=+ *((?:ERROR|RACECHECK) SUMMARY: .*)$"
    r"|^note: (.*)$"
)


def note_of(log: Path) -> str:
    """The last telling line of a log, else its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    for line in reversed(lines):
        if match := TELLING.match(line):
            return next(filter(None, match.groups()))
    return lines[-1][:160] if lines else ""


def signal_group(process: subprocess.Popen, number: int) -> None:
    """Send a signal to a stage's whole process group, which may have ended."""
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def end_group(process: subprocess.Popen, grace: float) -> None:
    """End a stage: SIGTERM, then SIGKILL. A process that the driver does not let go is left behind."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        signal_group(process, number)
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            continue
        break
    signal_group(process, signal.SIGKILL)  # children that outlived it


class Runner:
    """Runs stages within ``deadline`` seconds since ``started``, by the clock ``time.monotonic``."""

    def __init__(
        self,
        logbook: Logbook,
        deadline: float,
        environment: dict[str, str],
        grace: float = GRACE,
        started: float | None = None,
        interrupts: Interrupts | None = None,
    ):
        self.logbook = logbook
        self.deadline = deadline
        self.environment = environment
        self.grace = grace
        self.started = time.monotonic() if started is None else started
        self.interrupts = interrupts or Interrupts()
        self.succeeded: set[str] = set()

    def left(self) -> float:
        """Seconds until the deadline, less those for ending a stage that hangs."""
        return self.deadline - (time.monotonic() - self.started) - 2 * self.grace

    def run_all(self, stages: Sequence[Stage]) -> int:
        """Run the stages; return the exit status: 0, 1 if one failed, 130 if a signal came."""
        for stage in stages:
            try:
                self.interrupts.check()
                self.run(stage)
                self.interrupts.check()
            except Interrupted as signal_name:
                if self.logbook.is_running():
                    self.logbook.end("interrupted", None, f"by {signal_name}")
                for later in stages[len(self.logbook.rows) :]:
                    self.logbook.skip(later.name, f"interrupted by {signal_name}")
                return 130
        return int(any(row["status"] in ("failed", "timeout") for row in self.logbook.rows))

    def run(self, stage: Stage) -> None:
        """Run one stage, or record why it cannot run."""
        reason = why_not(stage, self.succeeded, self.environment.get("PATH", ""))
        seconds = min(stage.limit, self.left() - stage.reserve)
        if not reason and seconds < stage.least:
            reason = f"no time: {max(0, self.left()):.0f} s are left"
            reason += f", {stage.reserve:.0f} s of them for later stages" if stage.reserve else ""
        if reason:
            self.logbook.skip(stage.name, reason)
            return
        text = str(max(1, int(seconds - stage.margin)))
        command = [word.replace("{seconds}", text) for word in stage.command]
        log = self.logbook.begin(stage.name, command, seconds)
        try:
            status, code, note = self.call(stage, command, log, seconds)
        except OSError as error:
            status, code, note = "failed", None, f"cannot start: {error}"
        if status == "ok":
            self.succeeded.add(stage.name)
        parts = [note, f"rc {code}" if code else "", note_of(log)]
        self.logbook.end(status, code, ": ".join(filter(None, parts)))

    def call(self, stage: Stage, command, log: Path, seconds: float):
        """Run a command to its end or its limit; return (status, exit status, note)."""
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**self.environment, **stage.environment, "GPU_CHECK_STAGE": stage.name},
            )
        try:
            with self.interrupts.allowed():
                code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return "timeout", None, f"ended after {seconds:.0f} s"
        finally:
            end_group(process, self.grace)
        return "failed" if code else "ok", code, ""
