"""Files that appear complete or not at all, whatever stops the writer."""

import errno
import os
import re
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

# Some file systems cannot fsync a folder; their renames are as durable as they can be.
_NO_FSYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp", re.DOTALL)


@contextmanager
def replacing(
    *paths: str | os.PathLike[str], check: Callable[[], None] = lambda: None
) -> Iterator[list[Path]]:
    """Yield a temporary path beside each of ``paths``; rename them if the block succeeds.

    If the block raises (an interrupt included), the temporary files are removed and the files at
    ``paths`` stay as they were. Each file is replaced atomically, and all are on disk before the
    first rename. Renames follow the order of ``paths``, each on disk before the next. A file that
    names the others therefore goes last and commits them all::

        with replacing("a.json") as [new]:
            new.write_text("{}")

    A killed process leaves its temporary files behind: see ``remove_temporaries``.

    Args:
        check: called before the block and before each rename; raises to stop the writer.

    Raises:
        OSError: a folder cannot be written to, or one of ``paths`` is a folder. It names one of
            ``paths`` or its folder, never a temporary file.
    """
    check()
    targets = [Path(path) for path in paths]
    # Beside the targets, because a rename is atomic only within one file system.
    temporaries = [path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp") for path in targets]
    try:
        yield temporaries
        # Data first, names second: after a power cut no name may point at an empty file.
        for temporary in temporaries:
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        for temporary, path in zip(temporaries, targets):
            check()
            os.replace(temporary, path)
            _sync_folder(path.parent)
    except OSError as error:
        if error.errno is not None:
            # Errors of open files name none at all, a full disk for example.
            places = {str(new): str(path) for new, path in zip(temporaries, targets)}
            place = str(targets[0].parent) if error.filename is None else str(error.filename)
            error.filename, error.filename2 = places.get(place, place), None
        raise
    finally:
        for temporary in temporaries:
            # An error here would hide the one that stopped the writer.
            with suppress(OSError):
                temporary.unlink()


def _sync_folder(folder: Path) -> None:
    """Wait until the names in ``folder`` are on disk, where the system supports that."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FSYNC:
            raise
    finally:
        os.close(descriptor)


def remove_temporaries(folder: Path, names: re.Pattern[str], *, seconds: float = 0.0) -> None:
    """Remove the temporary files that killed processes left behind in ``replacing``.

    Args:
        folder: the folder to clear. No other process may write there, unless ``seconds`` allows it.
        names: matches the whole names of the files that were to be replaced.
        seconds: minimum age of a removed file; a younger one may still be in use.
    """
    # A file that cannot be removed costs space and nothing else.
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            found = _TEMPORARY.fullmatch(entry.name)
            if found and names.fullmatch(found[1]):
                with suppress(OSError):
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime >= seconds:
                        os.unlink(entry.path)


@contextmanager
def delayed_interrupt() -> Iterator[None]:
    """Delay Ctrl-C until the end of the block; a second Ctrl-C takes effect at once.

    For short blocks. Has no effect outside the main thread, which alone receives signals, or where
    SIGINT has no Python handler (it is ignored, for example).
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    received = []

    def delay(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            handler(number, frame)

    signal.signal(signal.SIGINT, delay)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if received:
            handler(signal.SIGINT, None)
