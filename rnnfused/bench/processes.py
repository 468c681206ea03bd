"""Several processes measure one shape: ratios differ more between processes than within one."""

import json
import statistics
import subprocess
from collections.abc import Callable
from typing import Any, NamedTuple

from .shape import WAYS, Shape
from .worker import arguments


class ProcessError(RuntimeError):
    """A measuring process ended without its figures."""


class Figures(NamedTuple):
    """The figures of one way, with one value per process.

    Attributes:
        ours: seconds per call of rnnfused.
        theirs: seconds per call of ``torch.nn.RNN``.
        peak: float32 operations per second of a loop of multiply-adds.
    """

    ours: list[float]
    theirs: list[float]
    peak: list[float]

    @property
    def ratios(self) -> list[float]:
        """How many times faster rnnfused is, per process."""
        return [theirs / ours for ours, theirs in zip(self.ours, self.theirs, strict=True)]


def compare(
    shape: Shape,
    threads: int,
    processes: int = 5,
    seconds: float = 1.0,
    advance: Callable[[int], object] = lambda done: None,
) -> dict[str, Figures]:
    """Times rnnfused against ``torch.nn.RNN`` in several processes, one after another.

    Args:
        shape: the layer and its input.
        threads: CPU threads of each process.
        processes: number of processes.
        seconds: measured per way and process.
        advance: is called with 1 after each of the ``2 * processes`` measurements.

    Returns:
        The figures by way, "forward" and "forward_backward".

    Raises:
        ProcessError: a process failed.
        ValueError: both sides give different states, or an argument is out of range.
        MemoryError: the memory does not suffice.
    """
    if processes < 1:
        raise ValueError(f"processes must be at least 1, got {processes}")
    if not 0 < seconds < 1e6:
        raise ValueError(f"seconds must be positive, and below 1e6, got {seconds}")
    found = {way: Figures([], [], []) for way in WAYS}
    for _ in range(processes):
        for way, result in zip(WAYS, _run(arguments(shape, threads, seconds), advance)):
            for name, values in found[way]._asdict().items():
                values.append(result[name])
    return found


def _run(command: list[str], advance: Callable[[int], object]) -> list[dict[str, Any]]:
    """Runs one process and returns the results that it printed."""
    results = []
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,  # the process ends when this end of it closes
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            for line in process.stdout:
                result = json.loads(line)
                if "error" in result:
                    raise _ERRORS.get(result["kind"], RuntimeError)(result["error"])
                results.append(result)
                advance(1)
            errors = process.stderr.read().strip().splitlines()
        except BaseException:
            process.kill()
            raise
    if len(results) < len(WAYS):
        # A process that took all memory is killed by the system, and says nothing.
        reason = errors[-1] if errors else f"it ended with status {process.returncode}"
        raise ProcessError(f"a measuring process failed: {reason}")
    return results


_ERRORS: dict[str, type[Exception]] = {"ValueError": ValueError, "MemoryError": MemoryError}


def describe(shape: Shape, figures: dict[str, Figures]) -> str:
    """A table: a row per way, with the median over the processes, and least and largest ratio."""
    heads = ["", "rnnfused", "torch.nn.RNN", "times faster"]
    shows_peak = shape.dtype == "float32" and shape.device == "cpu"
    rows = [heads + ["of the peak"] * shows_peak]
    for way, found in figures.items():
        ratios = found.ratios
        row = [
            way.replace("_", " + "),
            time_text(statistics.median(found.ours)),
            time_text(statistics.median(found.theirs)),
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        ]
        if shows_peak:
            pairs = zip(found.ours, found.peak, strict=True)
            shares = [shape.operations(way) / (ours * peak) for ours, peak in pairs]
            row.append(f"{statistics.median(shares):.0%}")
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)]
        cells[0] = f"{row[0]:{widths[0]}}"
        lines.append("   ".join(cells).rstrip())
    return "\n".join(lines)


def time_text(seconds: float) -> str:
    """Three digits, in the largest unit that gives at least 1."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            break
    else:
        unit, size = "us", 1e-6
    value = seconds / size
    return f"{value:.{max(0, 2 - (value >= 10) - (value >= 100))}f} {unit}"
