"""The textbook's progress board: records curves while a model trains and plots them afterwards."""

import os
from collections import defaultdict

from .plot import plot_curves


class Board:
    """Named curves of a training run.

    Args:
        xlabel: label of the x axis.
        ylabel: label of the y axis.

    Attributes:
        points: ``{label: [(x, y), ..]}``.
        xlim: lowest and highest x of the plot; None fits the points.
    """

    def __init__(self, xlabel: str = "epoch", ylabel: str = "perplexity"):
        self.xlabel, self.ylabel = xlabel, ylabel
        self.xlim: list[float] | None = None
        self.points: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def draw(self, x: float, y: float, label: str) -> None:
        """Add a point to the curve ``label``; it replaces the curve's last point at the same x."""
        points = self.points[label]
        if points and points[-1][0] == x:
            points.pop()
        points.append((float(x), float(y)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Plot all curves into a picture; the suffix of ``path`` selects its format.

        The user's matplotlib settings have no effect and stay unchanged.

        Raises:
            ModuleNotFoundError: matplotlib is not installed.
            ValueError: the suffix is no known format.
            OSError: ``path`` cannot be written.
        """
        plot_curves(path, self.points, xlabel=self.xlabel, ylabel=self.ylabel, xlim=self.xlim)
