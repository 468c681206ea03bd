"""The learning curve."""

import os
from collections.abc import Sequence

from .atomic import replacing


def plot_perplexity(metrics: Sequence[dict], path: str | os.PathLike) -> None:
    """Draw training and validation perplexity by pass, the bigram's as a dashed line, as a PNG.

    Args:
        metrics: one dict a pass with ``"pass"``, ``"train_perplexity"``,
            ``"validation_perplexity"`` and ``"bigram_perplexity"``.
        path: the file to write or replace.

    Raises:
        ValueError: ``metrics`` is empty.
        OSError: ``path`` cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    if not metrics:
        raise ValueError("metrics must hold at least one pass, got none")
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
    with replacing(path) as [new]:
        figure.savefig(new, format="png", dpi=150)
