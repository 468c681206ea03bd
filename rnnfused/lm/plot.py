"""The learning curves of a training run."""

import io
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rnnfused.scratch.plot import import_matplotlib, plot_curves

from .checkpoint.atomic import replacing


def check_installed() -> None:
    """Report a missing matplotlib before training, not after the first epoch.

    Raises:
        ModuleNotFoundError: matplotlib is missing. A broken installation is not reported here.
    """
    try:
        import_matplotlib()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "matplotlib":
            raise
    except Exception:
        pass  # each plot tries again and reports it


def plot_perplexity(
    metrics: Sequence[dict[str, Any]],
    path: str | os.PathLike[str],
    *,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Plot training and validation perplexity by epoch, and the bigram model's as a dashed line.

    The user's matplotlib settings have no effect and stay unchanged.

    Args:
        metrics: one dict per evaluation with ``"epoch"``, ``"train_perplexity"``,
            ``"validation_perplexity"`` and ``"bigram_perplexity"``.
        path: the file to write or replace; its suffix selects the format.
        check: called before the file is written; raises to leave it as it is.

    Raises:
        ValueError: ``metrics`` is empty, or the suffix is no known format.
        OSError: ``path`` cannot be written.
        Exception: as ``import_matplotlib``.
    """
    _plot(metrics, path, "perplexity", lambda value: value, check)


def plot_loss(
    metrics: Sequence[dict[str, Any]],
    path: str | os.PathLike[str],
    *,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Plot the mean cross-entropy per symbol in nats: the logarithm of ``plot_perplexity``.

    Arguments and errors are those of ``plot_perplexity``.
    """
    _plot(metrics, path, "loss, nats per symbol", math.log, check)


def _plot(
    metrics: Sequence[dict[str, Any]],
    path: str | os.PathLike[str],
    ylabel: str,
    scale: Callable[[float], float],
    check: Callable[[], None],
) -> None:
    if not metrics:
        raise ValueError("metrics must hold at least one evaluation, got none")
    curves = {
        label: [(row["epoch"], scale(row[key])) for row in metrics]
        for label, key in (
            ("training", "train_perplexity"),
            ("validation", "validation_perplexity"),
        )
    }
    levels = {"bigram, validation": scale(metrics[-1]["bigram_perplexity"])}
    write_curves(path, curves, levels=levels, xlabel="epoch", ylabel=ylabel, check=check)


def write_curves(
    path: str | os.PathLike[str],
    curves: dict[str, list[tuple[float, float]]],
    *,
    check: Callable[[], None],
    **labels: Any,
) -> None:
    """Draw by ``plot_curves``, and write or replace the file as a whole; errors as there."""
    picture = io.BytesIO()
    plot_curves(picture, curves, format=Path(path).suffix[1:] or "png", **labels)
    with replacing(path, check=check) as [new]:
        new.write_bytes(picture.getvalue())
