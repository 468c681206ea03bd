"""The textbook's progress board: records curves while a model trains and plots them afterwards."""

from collections import defaultdict
from pathlib import Path


class Board:
    """Points of named curves, ``{label: [(x, y), ..]}`` in ``points``; ``xlim`` bounds the plot if set."""

    def __init__(self, xlabel: str = "epoch", ylabel: str = "perplexity"):
        self.xlabel, self.ylabel = xlabel, ylabel
        self.xlim: list[float] | None = None
        self.points: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def draw(self, x: float, y: float, label: str) -> None:
        """Adds a point to the curve called ``label``."""
        self.points[label].append((float(x), float(y)))

    def save(self, path: str | Path) -> None:
        """Plots all curves into a picture; its format follows the suffix. Needs matplotlib.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5, 3.5), layout="constrained")
        axes = figure.add_subplot(xlabel=self.xlabel, ylabel=self.ylabel, yscale="log")
        for label, points in self.points.items():
            axes.plot(*zip(*points, strict=True), label=label)
        if self.xlim is not None:
            axes.set_xlim(*self.xlim)
        axes.legend()
        figure.savefig(path)
