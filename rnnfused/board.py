"""The textbook's progress board: records curves while a model trains and plots them afterwards."""

from collections import defaultdict
from pathlib import Path


class Board:
    """Points of named curves: ``points`` is ``{label: [(x, y), ..]}``, ``xlim`` bounds the plot if set."""

    def __init__(self, xlabel: str = "epoch", ylabel: str = "perplexity"):
        self.xlabel, self.ylabel = xlabel, ylabel
        self.xlim: list[float] | None = None
        self.points: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def draw(self, x: float, y: float, label: str) -> None:
        """Adds a point to the curve called ``label``; it takes the place of the last one at the same x."""
        points = self.points[label]
        if points and points[-1][0] == x:
            points.pop()
        points.append((float(x), float(y)))

    def save(self, path: str | Path) -> None:
        """Plots all curves into a picture; its format follows the suffix. Needs matplotlib.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from matplotlib.figure import Figure
        from matplotlib.ticker import ScalarFormatter

        figure = Figure(figsize=(5, 3.5), layout="constrained")
        axes = figure.add_subplot(xlabel=self.xlabel, ylabel=self.ylabel, yscale="log")
        for label, points in self.points.items():
            axes.plot(*zip(*points, strict=True), label=label)
        # Plain 7 and 20 instead of powers of ten.
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(ScalarFormatter())
        if self.xlim is not None:
            axes.set_xlim(*self.xlim)
        axes.legend()
        figure.savefig(path)
