"""The folder that a training run fills: made at its start, written after each pass."""

import json
import os
import tempfile
from pathlib import Path

from .atomic import replacing
from .checkpoint import save_checkpoint
from .model import CharLM
from .plot import plot_perplexity
from .vocab import Vocab


def make_folder(out: str | os.PathLike) -> Path:
    """The folder ``out``, made if missing, once a file was created and removed there.

    Raises:
        OSError: it cannot be made, is a file, or no file can be created in it.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    try:
        # Tried, not asked: os.access says yes to root even where nothing can be created.
        with tempfile.NamedTemporaryFile(dir=out, prefix=".", suffix=".tmp"):
            pass
    except OSError as error:
        raise OSError(f"out folder {str(out)!r} cannot be written to: {error.strerror}") from None
    return out


def save_results(
    out: Path, model: CharLM, vocab: Vocab, *, settings: dict, metrics: list[dict]
) -> None:
    """Write all of a run that is known so far: checkpoint, ``metrics.jsonl`` and ``loss.png``.

    Args:
        out: the folder, which must exist; files of the same names are replaced, each whole.
        settings: how the model is trained, for the checkpoint.
        metrics: one dict a pass; see ``train``.

    Raises:
        OSError: ``out`` cannot be written to.
    """
    save_checkpoint(out, model, vocab, settings=settings, metrics=metrics)
    with replacing(out / "metrics.jsonl") as [new]:
        new.write_text("".join(json.dumps(row) + "\n" for row in metrics), encoding="utf-8")
    plot_perplexity(metrics, out / "loss.png")
