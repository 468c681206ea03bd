"""The folder of a run: a log per stage, summary.json, and one archive of it all, rewritten after every stage."""

import json
import os
import sys
import tarfile
import time
from pathlib import Path

KINDS = ("*.log", "*.json", "*.jsonl")  # what a run writes


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is complete at every moment."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)


def say(text: str) -> None:
    """Print for people. Where nobody reads any more (a closed pipe), the check goes on."""
    try:
        print(text, flush=True)
    except OSError:
        sys.stdout = open(os.devnull, "w")


class Logbook:
    """What is known of a run; ``rows`` has one per stage."""

    def __init__(self, folder: Path, archive: Path, facts: dict):
        self.folder, self.archive = folder.resolve(), archive.resolve()
        self.facts = facts
        self.rows: list[dict] = []
        self.started = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.archive.parent.mkdir(parents=True, exist_ok=True)
        if (self.folder / "summary.json").exists():  # an earlier run's files would mix with these
            for old in self.files():
                old.unlink()
        self.save()

    def files(self) -> list[Path]:
        """The files of the run."""
        return sorted(path for kind in KINDS for path in self.folder.glob(kind))

    def save(self) -> None:
        """Write summary.json and the archive."""
        summary = {
            **self.facts,
            "seconds": round(time.monotonic() - self.started, 1),
            "stages": self.rows,
        }
        write_whole(self.folder / "summary.json", json.dumps(summary, indent=1) + "\n")
        partial = self.archive.with_name(f".{self.archive.name}.partial")
        with tarfile.open(partial, "w:gz") as archive:
            for path in self.files():
                archive.add(path, f"{self.folder.name}/{path.name}")
        os.replace(partial, self.archive)

    def begin(self, name: str, command: list[str], limit: float) -> Path:
        """Record that a stage starts; return the path of its log."""
        self.begun = time.monotonic()
        log = self.folder / f"{len(self.rows) + 1:02}-{name}.log"
        log.touch()
        row = {"stage": name, "status": "running", "seconds": 0.0, "note": ""}
        self.rows.append({**row, "limit": round(limit, 1), "log": log.name, "command": command})
        self.save()
        say(f"== {name}, at most {limit:.0f} s")
        return log

    def is_running(self) -> bool:
        """Whether a stage has begun and not ended."""
        return bool(self.rows) and self.rows[-1]["status"] == "running"

    def end(self, status: str, code: int | None, note: str) -> None:
        """Record how the stage that runs has ended."""
        row = self.rows[-1]
        seconds = round(time.monotonic() - self.begun, 1)
        row.update(status=status, seconds=seconds, returncode=code, note=note)
        self.save()
        if status != "ok":
            log = self.folder / row["log"]
            say("\n".join(log.read_text(errors="replace").splitlines()[-15:]))
        say(line_of(row))

    def skip(self, name: str, reason: str) -> None:
        """Record that a stage did not run."""
        self.rows.append({"stage": name, "status": "skipped", "seconds": 0.0, "note": reason})
        self.save()
        say(line_of(self.rows[-1]))

    def table(self) -> str:
        """The stages as text, a line each."""
        return "\n".join(map(line_of, self.rows))


def line_of(row: dict) -> str:
    """A stage's line of the table."""
    return f"{row['stage']:16} {row['status']:11} {row['seconds']:5.0f} s  {row['note'][:110]}".rstrip()
