"""What a measurement on a GPU belongs to: the sources' commit, and the clocks. Changes no setting of the GPU."""

import os
import subprocess
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

FIELDS = {  # name in a result: name of nvidia-smi's query
    "sm_mhz": "clocks.sm",
    "memory_mhz": "clocks.mem",
    "power_w": "power.draw",
    "temperature_c": "temperature.gpu",
}
QUERY = [
    "nvidia-smi",
    "--id=0",
    f"--query-gpu={','.join(FIELDS.values())}",
    "--format=csv,noheader,nounits",
]


def commit() -> str:
    """The commit of the sources; the variable COMMIT names it where they come without git."""
    if os.environ.get("COMMIT"):
        return os.environ["COMMIT"]
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return answer.stdout.strip() or "unknown"


def parse_clocks(line: str) -> dict | None:
    """The clocks of a line of nvidia-smi; None if it is another line. A value that it lacks is None."""
    words = [word.strip() for word in line.split(",")]
    if len(words) != len(FIELDS):
        return None
    values = []
    for word in words:
        try:
            values.append(float(word))
        except ValueError:  # such as [N/A]
            values.append(None)
    return dict(zip(FIELDS, values, strict=True))


def clocks() -> dict | None:
    """The present clocks; None if nvidia-smi does not tell them."""
    try:
        answer = subprocess.run(QUERY, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_clocks(answer.stdout.strip().partition("\n")[0])


class Clocks:
    """Reads the clocks every second in the background; ``last`` is the newest reading, or None."""

    def __enter__(self):
        self.last = None
        try:
            self._process = subprocess.Popen(
                [*QUERY, "--loop=1"],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        except OSError:
            self._process = None
            return self
        threading.Thread(target=self._read, daemon=True).start()
        return self

    def _read(self):
        for line in self._process.stdout:
            self.last = parse_clocks(line) or self.last

    def __exit__(self, *error):
        if self._process is not None:
            self._process.kill()
            self._process.wait()
