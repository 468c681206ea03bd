"""Files that appear whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(*paths: str | os.PathLike) -> Iterator[list[Path]]:
    """Give a temporary path beside each of ``paths``; move them into place if the block succeeds.

    If the block raises (an interrupt included), the temporary files are removed and whatever
    ``paths`` held before stays untouched. Each file is replaced atomically, and of several the
    first only when all are safely on disk::

        with replacing("a.json") as [new]:
            new.write_text("{}")

    Raises:
        OSError: a folder cannot be written to, or one of ``paths`` is a folder.
    """
    paths = [Path(path) for path in paths]
    # Beside the targets, because a rename is atomic only within one file system.
    temporaries = [path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp") for path in paths]
    try:
        yield temporaries
        # Data first, names second: after a power cut no name must point at an empty file.
        for temporary in temporaries:
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        for temporary, path in zip(temporaries, paths):
            os.replace(temporary, path)
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)
