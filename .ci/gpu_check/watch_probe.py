"""Stage: runs the probe, writes its rows one by one, and goes on behind a call that hangs or ends it.

    watch_probe.py ROWS.jsonl SECONDS STALL PROBE [arguments of the probe]

A row of the probe gets the commit and the clocks. A call that prints nothing for STALL seconds is recorded as "hang",
one that ends the probe as "crash"; a new process goes on with the next call. Fails if a row is bad, or if none is good.
"""

import collections
import json
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path

from place import gpu_state

MAX_RESTARTS = 8
GOOD = {"ok", "refused"}


class Process:
    """The probe; ``line`` returns its next line, None at its end."""

    def __init__(self, command):
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def line(self, seconds):
        """Raises queue.Empty if no line comes in time."""
        return self.lines.get(timeout=max(0.01, seconds))

    def end(self, is_over):
        """Kills it unless it is over; returns its exit status, None if the driver holds it."""
        if not is_over:
            self.process.kill()
        try:
            return self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return None


class Watch:
    """Rows of one run of the probe, over several processes if calls hang."""

    def __init__(self, output, seconds, stall, command, clocks):
        self.output, self.stall, self.command, self.clocks = output, stall, command, clocks
        self.ends = time.monotonic() + seconds
        self.commit = gpu_state.commit()
        self.counts = collections.Counter()
        self.bad = []

    def write(self, row):
        row |= {"commit": self.commit, "clocks": self.clocks.last}
        self.output.write(json.dumps(row) + "\n")
        self.output.flush()
        if "status" not in row:
            self.counts["rows"] += 1
            return
        self.counts[row["status"]] += 1
        if row["status"] not in GOOD:
            self.bad.append(f"{row.get('case')}: {row['status']}")
            print(json.dumps(row), flush=True)

    def run(self, start):
        """Runs one process from a call on; returns the number of the next one, None at the end."""
        words = ["--from", str(start)] if start else []
        process = Process([*self.command, *words])
        open_row, status = None, "crash"
        while True:
            try:
                line = process.line(min(self.stall, self.ends - time.monotonic()))
            except queue.Empty:
                status = "hang" if time.monotonic() < self.ends else "no time"
                break
            if line is None:
                break
            try:
                row = json.loads(line)
            except ValueError:
                print(line, end="", flush=True)
                continue
            open_row = row if row.get("status") == "started" else None
            if open_row is None:
                self.write(row)
                start = row.get("index", start) + 1
        code = process.end(is_over=status == "crash")
        if open_row is None and status == "crash":
            if code == 4:  # its row is written; the GPU takes nothing more from that process
                return start
            if code not in (0, 1):
                self.bad.append(f"the probe ended with {code}")
            return None
        if status == "no time":
            self.counts["no time"] += 1
            return None
        if open_row is None:
            self.bad.append("the probe hangs without a call")
            return None
        self.write({**open_row, "status": status, "returncode": code})
        return open_row["index"] + 1 if "index" in open_row else None

    def run_all(self):
        start = 0
        for _ in range(1 + MAX_RESTARTS):
            start = self.run(start)
            if start is None:
                return
        self.bad.append(f"given up after {MAX_RESTARTS} restarts")


def main():
    rows, seconds, stall, *command = sys.argv[1:]
    with Path(rows).open("a") as output, gpu_state.Clocks() as clocks:
        watch = Watch(output, float(seconds), float(stall), command, clocks)
        watch.run_all()
    counted = ", ".join(f"{count} {status}" for status, count in sorted(watch.counts.items()))
    print("note:", "; ".join([counted or "no rows", *watch.bad[:3]]))
    good = watch.counts["ok"] or watch.counts["rows"]
    return 1 if watch.bad or not good else 0


if __name__ == "__main__":
    sys.exit(main())
