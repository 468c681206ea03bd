"""The learning curves of a training run."""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rnnfused.scratch.plot import import_matplotlib, plot_curves

from .checkpoint.atomic import replacing


def check_installed() -> None:
    """Report a missing matplotlib before training, not after the first pass.

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
    """Plot training and validation perplexity by pass, and the bigram model's as a dashed line.

    The user's matplotlib settings have no effect and stay unchanged.

    Args:
        metrics: one dict per pass with ``"pass"``, ``"train_perplexity"``,
            ``"validation_perplexity"`` and ``"bigram_perplexity"``.
        path: the file to write or replace; its suffix selects the format.
        check: called before the file is written; raises to leave it as it is.

    Raises:
        ValueError: ``metrics`` is empty, or the suffix is no known format.
        OSError: ``path`` cannot be written.
        Exception: as ``import_matplotlib``.
    """
    if not metrics:
        raise ValueError("metrics must hold at least one pass, got none")
    curves = {
        label: [(row["pass"], row[key]) for row in metrics]
        for label, key in (
            ("training", "train_perplexity"),
            ("validation", "validation_perplexity"),
        )
    }
    picture = io.BytesIO()
    plot_curves(
        picture,
        curves,
        levels={"bigram, validation": metrics[-1]["bigram_perplexity"]},
        xlabel="pass over the training text",
        ylabel="perplexity",
        format=Path(path).suffix[1:] or "png",
    )
    with replacing(path, check=check) as [new]:
        new.write_bytes(picture.getvalue())
