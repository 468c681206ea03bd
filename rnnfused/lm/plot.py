"""The learning curve."""

import io
import os
import sys
import warnings
from collections.abc import Sequence

from .atomic import replacing

# Of the process, not of a figure: these are not ours to change.
_SHARED = ("backend", "backend_fallback", "interactive", "toolbar")


def import_matplotlib():
    """The module, also where ``MPLBACKEND`` names a backend that is not installed here.

    Raises:
        ModuleNotFoundError: matplotlib, or a library that it needs, is missing.
        Exception: its settings or its files are broken.
    """
    try:
        return _import_whole()
    except ValueError:
        # A notebook's backend, say, inherited by a command. Figures in files need none.
        backend = os.environ.pop("MPLBACKEND", None)
        if backend is None:
            raise
        try:
            return _import_whole()
        finally:
            os.environ["MPLBACKEND"] = backend


def _import_whole():
    try:
        import matplotlib.figure
    except Exception:
        # The parts that did come in would make the next import fail in another way.
        if "matplotlib" not in sys.modules:
            for name in [name for name in sys.modules if name.startswith("matplotlib.")]:
                del sys.modules[name]
        raise
    return matplotlib


def check_installed() -> None:
    """Find out now, not after the first pass, whether there is a matplotlib.

    Raises:
        ModuleNotFoundError: there is none. One that does not work is not reported.
    """
    try:
        import_matplotlib()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "matplotlib":
            raise
    except Exception:
        pass  # each plot tries again, and says so


def plot_perplexity(metrics: Sequence[dict], path: str | os.PathLike) -> None:
    """Draw training and validation perplexity by pass, the bigram's as a dashed line, as a PNG.

    The user's matplotlib settings play no part, and are left as they are.

    Args:
        metrics: one dict a pass with ``"pass"``, ``"train_perplexity"``,
            ``"validation_perplexity"`` and ``"bigram_perplexity"``.
        path: the file to write or replace.

    Raises:
        ValueError: ``metrics`` is empty.
        OSError: ``path`` cannot be written.
        Exception: as ``import_matplotlib``.
    """
    if not metrics:
        raise ValueError("metrics must hold at least one pass, got none")
    matplotlib = import_matplotlib()
    picture = io.BytesIO()
    with warnings.catch_warnings():
        # Of deprecated settings and missing glyphs; no reason to lose the plot under -W error.
        warnings.simplefilter("ignore")
        defaults = matplotlib.rcParamsDefault
        plain = {name: defaults[name] for name in defaults if name not in _SHARED}
        with matplotlib.rc_context(plain):
            _draw(metrics).savefig(picture, format="png", dpi=150)
    with replacing(path) as [new]:
        new.write_bytes(picture.getvalue())


def _draw(metrics: Sequence[dict]):
    """The figure of ``plot_perplexity``."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    # A bare Figure draws without a display and leaves pyplot's global state alone.
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    passes = [row["pass"] for row in metrics]
    for key, label in (("train_perplexity", "training"), ("validation_perplexity", "validation")):
        axes.plot(passes, [row[key] for row in metrics], marker="o", markersize=3, label=label)
    axes.axhline(
        metrics[-1]["bigram_perplexity"], linestyle="--", color="gray", label="bigram, validation"
    )
    axes.set(xlabel="pass over the training text", ylabel="perplexity", yscale="log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    # Plain 4 and 6 instead of powers of ten.
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(ScalarFormatter())
    axes.legend()
    return figure
