"""The plot of perplexity curves, for the board and for the language model's training runs."""

import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, BinaryIO

# Settings of the process rather than of a figure: they keep their values.
_SHARED = ("backend", "backend_fallback", "interactive", "toolbar")
# Longer curves have no markers: they would hide the line.
_MOST_MARKERS = 100


def import_matplotlib() -> ModuleType:
    """Import matplotlib, even if ``MPLBACKEND`` names a backend that is not installed.

    Raises:
        ModuleNotFoundError: matplotlib, or a library that it needs, is missing.
        Exception: its settings or its files are broken.
    """
    try:
        return _import_whole()
    except ValueError:
        # For example a notebook's backend, inherited by a command. Figures in files need none.
        backend = os.environ.pop("MPLBACKEND", None)
        if backend is None:
            raise
        try:
            return _import_whole()
        finally:
            os.environ["MPLBACKEND"] = backend


def _import_whole() -> ModuleType:
    try:
        import matplotlib.figure
    except Exception:
        # Submodules that were imported would make the next import fail in another way.
        if "matplotlib" not in sys.modules:
            for name in [name for name in sys.modules if name.startswith("matplotlib.")]:
                del sys.modules[name]
        raise
    return matplotlib


def plot_curves(
    file: str | os.PathLike[str] | BinaryIO,
    curves: Mapping[str, Sequence[tuple[float, float]]],
    *,
    xlabel: str,
    ylabel: str,
    xlim: Sequence[float] | None = None,
    levels: Mapping[str, float] | None = None,
    format: str | None = None,
) -> None:
    """Plot curves over a logarithmic y axis with plain tick labels and save the figure.

    The user's matplotlib settings have no effect and stay unchanged.

    Args:
        file: a path or an open binary file.
        curves: points ``(x, y)`` by label.
        xlim: lowest and highest x of the plot; None fits the points.
        levels: y by label, drawn as dashed horizontal lines.
        format: such as ``"png"``; None takes it from the suffix of ``file``.

    Raises:
        OSError: ``file`` cannot be written.
        ValueError: the format is unknown.
        Exception: as :func:`import_matplotlib`.
    """
    matplotlib = import_matplotlib()
    with warnings.catch_warnings():
        # Deprecated settings and missing glyphs must not end the plot under -W error.
        warnings.simplefilter("ignore")
        defaults = matplotlib.rcParamsDefault
        plain = {name: defaults[name] for name in defaults if name not in _SHARED}
        with matplotlib.rc_context(plain):
            figure = _draw(curves, levels or {}, xlim, xlabel=xlabel, ylabel=ylabel)
            figure.savefig(file, format=format, dpi=150)


def _draw(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    levels: Mapping[str, float],
    xlim: Sequence[float] | None,
    **labels: str,
) -> Any:
    """The figure of :func:`plot_curves`."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    # A bare Figure needs no display and does not touch pyplot's global state.
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(yscale="log", **labels)
    for label, points in curves.items():
        marker = "o" if len(points) <= _MOST_MARKERS else None
        axes.plot(*zip(*points, strict=True), marker=marker, markersize=3, label=label)
    for label, y in levels.items():
        axes.axhline(y, linestyle="--", color="gray", label=label)
    if xlim is not None:
        axes.set_xlim(*xlim)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    # Plain 4 and 6 instead of powers of ten.
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(ScalarFormatter())
    axes.legend()
    return figure
