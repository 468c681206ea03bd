"""The folder of a training run: made and locked at its start, written to at each save."""

import json
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..messages import warn
from ..model import CharLM
from ..plot import plot_loss, plot_perplexity
from ..vocabulary import Vocabulary
from . import RunState, describe, store
from .atomic import delayed_interrupt, remove_temporaries, replacing
from .lock import LOCK, FolderBusyError, FolderLock, FolderLostError

METRICS = "metrics.jsonl"
# The most of a run's time that its plots may take.
_DRAWING = 0.02
_OWN = re.compile(
    rf"{store.CHECKPOINT_FILES.pattern}|metrics\.jsonl|(loss|perplexity|gradients)\.png"
    r"|gradients\.json"
)


class RunFolder:
    """The folder ``out`` of one run, locked against other writers until the end of the block.

    A missing folder is made. Unfinished files of killed runs are removed. If the block ends before
    anything was saved, the folders that were made for it are removed again::

        with RunFolder("runs/mine") as folder:
            folder.save(model, vocab, settings={}, metrics=metrics)

    Raises:
        FolderBusyError: another run writes there; nothing was changed.
        FileExistsError: ``out`` or a parent is a file, or a symbolic link that points nowhere.
        IsADirectoryError: a folder in ``out`` has the name of a file that a run writes.
        OSError: the folder cannot be made, or no file can be created in it.
        ValueError: ``out`` holds a NUL character.
    """

    def __init__(self, out: str | os.PathLike[str]):
        name = os.fspath(out)
        _check_path(name)
        _check_contents(name)
        try:
            self._lock = FolderLock(out, make=True)
        except FolderBusyError:
            raise
        except OSError as error:
            reason = error.strerror
            if error.filename not in (None, name, os.path.abspath(name)):
                reason = f"{reason}: {error.filename!r}"
            raise OSError(f"out folder {name!r} cannot be written to: {reason}") from None
        self.path = self._lock.folder
        self._warned: set[str] = set()
        # Rows that the plots show, seconds that all plots took, and those of the next ones.
        self._drawn, self._drawing, self._next = 0, 0.0, 1.0
        # Without locks, the unfinished files may belong to a running process.
        if self._lock.excludes:
            try:
                remove_temporaries(self.path, _OWN)
                store.remove_orphans(self.path)
            except BaseException:
                self._lock.release()
                raise

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def save(
        self,
        model: CharLM,
        vocab: Vocabulary,
        *,
        settings: dict[str, Any],
        metrics: list[dict[str, Any]],
        run: RunState | None = None,
    ) -> None:
        """Write the state of a run: checkpoint and ``metrics.jsonl``.

        Each file is replaced as a whole; Ctrl-C takes effect after both.

        Args:
            settings: training settings, for the checkpoint.
            metrics: one dict per evaluation; see ``train``.
            run: what a stopped run goes on from.

        Raises:
            FolderLostError: the folder, or the lock's file in it, was removed since the start.
            OSError: the folder cannot be written to.
        """
        files, record = describe(model, vocab, settings, metrics, run)
        with delayed_interrupt():
            store.write(self._lock, files, record)
            with replacing(self.path / METRICS, check=self._lock.check) as [new]:
                new.write_text("".join(json.dumps(row) + "\n" for row in metrics), encoding="utf-8")

    def draw(self, metrics: list[dict[str, Any]], elapsed: float | None = None) -> None:
        """Draw ``loss.png`` and ``perplexity.png``, unless they show all rows of ``metrics``.

        A plot that cannot be drawn is a warning on stderr.

        Args:
            elapsed: seconds of the run so far. If given, nothing is drawn where all plots would
                then have taken more than 2% of them.

        Raises:
            FolderLostError: as ``save``.
        """
        if len(metrics) == self._drawn:
            return
        if elapsed is not None and self._drawing + self._next > _DRAWING * elapsed:
            return
        start = time.perf_counter()
        self._draw("loss.png", plot_loss, metrics)
        self._draw("perplexity.png", plot_perplexity, metrics)
        self._next = time.perf_counter() - start
        self._drawing, self._drawn = self._drawing + self._next, len(metrics)

    def _draw(self, name: str, plot: Callable[..., None], metrics: list[dict[str, Any]]) -> None:
        try:
            plot(metrics, self.path / name, check=self._lock.check)
        except FolderLostError:
            raise
        except Exception as error:  # matplotlib, its settings and its files can fail in any way
            reason = f"{type(error).__name__}: {error}"
            # One warning a run, not one for each plot and save.
            if reason not in self._warned:
                self._warned.add(reason)
                warn(f"{name} could not be drawn: {reason}")

    def check(self) -> None:
        """Validate that the folder is still this run's.

        Raises:
            FolderLostError: the folder, or the lock's file in it, was removed.
        """
        self._lock.check()


def _check_path(out: str) -> None:
    """Validate that ``out`` is a folder, or can be made one."""
    if "\0" in out:
        raise ValueError(f"out must name a folder, got {out!r}, which holds a NUL character")
    for path in (Path(out), *Path(out).parents):
        if os.path.lexists(path):
            if not os.path.isdir(path):
                kind = "a file"
                if not os.path.exists(path):  # a link
                    kind = f"a symbolic link that points nowhere: to {os.readlink(path)!r}"
                raise FileExistsError(f"out must name a folder, but {str(path)!r} is {kind}")
            return


def _check_contents(out: str) -> None:
    """Validate that no folder in ``out`` has the name of a file that a run writes."""
    entries: list[os.DirEntry[str]] = []
    # A folder that is missing holds none; one that cannot be listed may still take files.
    with suppress(OSError):
        entries = list(os.scandir(out))
    for entry in entries:
        if entry.name == LOCK or _OWN.fullmatch(entry.name):
            if entry.is_dir(follow_symlinks=False):
                raise IsADirectoryError(
                    f"{entry.path!r} is a folder, but a run writes a file of that name: "
                    "remove it, or name another out folder"
                )
