"""The folder that a training run fills: made and locked at its start, written after each pass."""

import json
import os
import re

from . import store
from .atomic import remove_temporaries, replacing, temporary_path
from .checkpoint import describe
from .interrupts import held_back
from .lock import FolderBusyError, FolderLock
from .messages import shown, warn
from .model import CharLM
from .plot import plot_perplexity
from .vocab import Vocab

METRICS, PLOT = "metrics.jsonl", "loss.png"
_OWN = re.compile(rf"{store.CHECKPOINT_FILES.pattern}|metrics\.jsonl|loss\.png")


class RunFolder:
    """The folder ``out`` of one run, which nobody else may write to until the end of the block.

    It is made if missing. What killed runs left unfinished there is removed. If the block ends
    before anything was saved, the folders that were made for it are removed again::

        with RunFolder("runs/mine") as folder:
            folder.save(model, vocab, settings={}, metrics=metrics)

    Raises:
        FolderBusyError: another run writes there; nothing was touched.
        OSError: the folder cannot be made, is a file, or no file can be created in it.
    """

    def __init__(self, out: str | os.PathLike):
        try:
            self._lock = FolderLock(out, make=True)
        except (FolderBusyError, FileExistsError):
            raise
        except OSError as error:
            raise _unwritable(out, error) from None
        self.path = self._lock.folder
        self._warned = set()
        try:
            # A file system without locks leaves open whose these files are.
            if self._lock.excludes:
                remove_temporaries(self.path, _OWN)
                store.remove_orphans(self.path)
            self._try_to_write(out)
        except BaseException:
            self._lock.release()
            raise

    def _try_to_write(self, out: str | os.PathLike) -> None:
        # Tried, not asked: os.access says yes to root even where nothing can be created.
        path = temporary_path(self.path / store.RECORD)
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
            os.unlink(path)
        except OSError as error:
            raise _unwritable(out, error) from None

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def save(self, model: CharLM, vocab: Vocab, *, settings: dict, metrics: list[dict]) -> None:
        """Write all of a run that is known so far: checkpoint, ``metrics.jsonl`` and ``loss.png``.

        Files of the same names are replaced, each whole; Ctrl-C waits for checkpoint and metrics.
        A plot that cannot be drawn is a warning on stderr.

        Args:
            settings: how the model is trained, for the checkpoint.
            metrics: one dict a pass; see ``train``.

        Raises:
            OSError: the folder cannot be written to.
        """
        files, record = describe(model, vocab, settings, metrics)
        with held_back():
            store.write(self.path, files, record)
            with replacing(self.path / METRICS) as [new]:
                new.write_text("".join(json.dumps(row) + "\n" for row in metrics), encoding="utf-8")
        try:
            plot_perplexity(metrics, self.path / PLOT)
        except Exception as error:  # matplotlib, its settings and its files can fail in any way
            reason = f"{PLOT} could not be drawn: {type(error).__name__}: {error}"
            if reason not in self._warned:
                self._warned.add(reason)
                warn(reason)


def _unwritable(out: str | os.PathLike, error: OSError) -> OSError:
    reason = error.strerror or error
    return OSError(f"out folder {shown(os.fspath(out))} cannot be written to: {reason}")
