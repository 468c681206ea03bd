"""The files of a checkpoint: data files named by their content, and a record that names them.

The record is renamed into place last: that one rename is the commit. A file named by its content
never changes. A file that a record names is therefore complete, or was removed because a newer
record was committed.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..messages import shorten
from .atomic import replacing
from .lock import FolderLock

RECORD = "model.json"
FORMAT = 3
# The fields of a record that name a file, and the stems of those names. A field can be missing, except
# the first: the weights to use. The others are the weights of the last step, which are often the same,
# and the state that a stopped run goes on from. Formats 1 and 2 have the first alone.
STEMS = {"weights": "model", "last": "model", "training": "training"}
# Format 1 had one file with a fixed name.
WEIGHTS_1 = "model.safetensors"

# The files of a checkpoint of which temporary copies may exist.
CHECKPOINT_FILES = re.compile(
    r"model\.json|model\.safetensors|(model|training)-[0-9a-f]{16}\.safetensors"
)
_OWN = re.compile(r"(?:model|training)-[0-9a-f]{16}\.safetensors")
# Restarts of a reader because a newer checkpoint was committed meanwhile.
_TRIES = 1000
# Reads of an unchanged record before its missing file counts as lost.
_READS = 4


class CheckpointError(ValueError):
    """A checkpoint's files are damaged, or do not belong together.

    The message quotes the files, so it is cut to 500 characters.
    """

    def __init__(self, message: str):
        super().__init__(shorten(message))


def content_name(field: str, data: bytes) -> str:
    """The name for a file that holds ``data`` and that a record's ``field`` will name."""
    return f"{STEMS[field]}-{hashlib.sha256(data).hexdigest()[:16]}.safetensors"


def named_files(record: dict[str, Any], path: Path) -> dict[str, str]:
    """The names of the files of ``record`` by field: plain names in the record's own folder.

    Raises:
        CheckpointError: a name of ``record``, which was read from ``path``, has another form.
    """
    if record["format"] == 1:
        return {"weights": WEIGHTS_1}
    names = {}
    for field, stem in STEMS.items():
        if field != "weights" and (record["format"] < 3 or field not in record):
            continue
        name = record.get(field)
        # A name that contains a path could lead out of the folder.
        if not isinstance(name, str) or not _OWN.fullmatch(name) or not name.startswith(stem):
            raise CheckpointError(
                f"{str(path)!r} is damaged: {field} must be a file name such as "
                f"{stem}-0123456789abcdef.safetensors, got {name!r}"
            )
        names[field] = name
    return names


def parse(data: bytes, path: Path) -> dict[str, Any]:
    """The record ``data``, which was read from ``path``.

    Raises:
        CheckpointError: ``data`` is not JSON, or is no record of a known format.
    """
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{str(path)!r} is not JSON: {error}") from None
    found = record.get("format") if isinstance(record, dict) else None
    # The type too: true and 1.0 are equal to 1 in Python.
    if not isinstance(record, dict) or type(found) is not int or not 1 <= found <= FORMAT:
        newer = type(found) is int and found > FORMAT
        hint = ": a newer rnnfused wrote it; update rnnfused" if newer else ""
        raise CheckpointError(
            f"{str(path)!r} must be a checkpoint of format 1 to {FORMAT}, "
            f"got format {found!r}{hint}"
        )
    return record


def read(
    folder: Path, fields: Collection[str]
) -> tuple[dict[str, Any], dict[str, str], dict[str, bytes]]:
    """The record in ``folder``, the names of its files by field, and their contents by field.

    They belong to one commit, even if newer ones follow meanwhile. Of the files, those of ``fields``
    are read, where the record has them.

    Raises:
        FileNotFoundError: the record, or a file that it names, is missing.
        CheckpointError: as ``parse`` and ``named_files``.
    """
    path = folder / RECORD
    before, reads = None, 0
    for _ in range(_TRIES):
        data = _read_file(path)
        record = parse(data, path)
        names = named_files(record, path)
        try:
            contents = {
                field: _read_file(folder / name) for field, name in names.items() if field in fields
            }
            return record, names, contents
        except FileNotFoundError as error:
            # Removed because a newer record was committed: that one is read next.
            missing = error
        reads = reads + 1 if data == before else 1
        before = data
        if reads == _READS:
            break
        if reads > 1:
            time.sleep(0.005)
    raise missing


def _read_file(path: Path) -> bytes:
    # Checked first: reading a pipe at this path would block forever.
    if path.is_file():
        with suppress(FileNotFoundError):
            return path.read_bytes()
    raise FileNotFoundError(f"no checkpoint in {str(path.parent)!r}: {path.name} is missing")


def write(lock: FolderLock, files: dict[str, bytes], record: str) -> None:
    """Commit ``record`` and the files that it names, then remove those of earlier records.

    The lock's folder holds the earlier checkpoint until the record's rename and this one
    afterwards.

    Args:
        files: contents by name; see ``content_name``.
        record: the text of ``model.json``.

    Raises:
        FolderLostError: the lock was lost; the record in the folder is untouched.
        OSError: the folder cannot be written to; the earlier checkpoint is untouched.
    """
    paths = [*(lock.folder / name for name in files), lock.folder / RECORD]
    try:
        with replacing(*paths, check=lock.check) as temporaries:
            for temporary, data in zip(temporaries, [*files.values(), record.encode("utf-8")]):
                temporary.write_bytes(data)
    finally:
        # Files of the earlier record or, if the commit failed, of this one. Without the lock, they
        # may be files that another run is about to name.
        if lock.holds:
            remove_orphans(lock.folder)


def remove_orphans(folder: Path) -> None:
    """Remove the checkpoint's data files that the record does not name.

    Removes nothing if the record is unreadable. The caller holds the folder's lock.
    """
    path = folder / RECORD
    removed = _OWN
    try:
        named = set(named_files(parse(_read_file(path), path), path).values())
        if WEIGHTS_1 not in named:
            removed = re.compile(f"{_OWN.pattern}|{re.escape(WEIGHTS_1)}")
    except FileNotFoundError:
        named = set()
    except (OSError, CheckpointError):
        return
    # A file that cannot be removed costs space and nothing else.
    with suppress(OSError):
        for name in os.listdir(folder):
            if removed.fullmatch(name) and name not in named:
                with suppress(OSError):
                    os.unlink(folder / name)
