"""Files that appear whole or not at all."""

import errno
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Some file systems have no fsync of folders; their renames are as durable as they can be.
_NO_FSYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp", re.DOTALL)


@contextmanager
def replacing(*paths: str | os.PathLike) -> Iterator[list[Path]]:
    """Give a temporary path beside each of ``paths``; move them into place if the block succeeds.

    If the block raises (an interrupt included), the temporary files are removed and whatever
    ``paths`` held before stays untouched. Each file is replaced atomically. Of several, the first
    is replaced once all are safely on disk, and each later one once the rename before it is: a
    file that names the others goes last, as the commit of them all::

        with replacing("a.json") as [new]:
            new.write_text("{}")

    A process that is killed leaves its temporary files: see ``remove_temporaries``.

    Raises:
        OSError: a folder cannot be written to, or one of ``paths`` is a folder.
    """
    paths = [Path(path) for path in paths]
    # Beside the targets, because a rename is atomic only within one file system.
    temporaries = [temporary_path(path) for path in paths]
    try:
        yield temporaries
        # Data first, names second: after a power cut no name must point at an empty file.
        for temporary in temporaries:
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        for temporary, path in zip(temporaries, paths):
            os.replace(temporary, path)
            sync_folder(path.parent)
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """A new path beside ``path``, of the form that ``remove_temporaries`` knows."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def sync_folder(folder: Path) -> None:
    """Wait until the names in ``folder`` are on disk; nothing where the system cannot do that.

    Raises:
        OSError: the disk failed.
    """
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


def remove_temporaries(folder: Path, names: re.Pattern, *, seconds: float = 0.0) -> None:
    """Remove the files that killed processes left where ``replacing`` made them.

    Args:
        folder: where to look. Nobody else may be writing there, unless ``seconds`` says otherwise.
        names: matches the whole names of the files that were to be replaced.
        seconds: age below which a file is spared, for somebody may still write it.
    """
    # What cannot be removed costs space and nothing else.
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            found = _TEMPORARY.fullmatch(entry.name)
            if found and names.fullmatch(found[1]):
                with suppress(OSError):
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime >= seconds:
                        os.unlink(entry.path)
