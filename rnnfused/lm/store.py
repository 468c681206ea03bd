"""The files of a checkpoint: data named by its content, and a record that names it.

The record is renamed into place last: that one rename is the commit. A file named by its content
never changes, so what a record names is either whole or gone because a newer record was committed.
"""

import hashlib
import json
import os
import re
import time
from contextlib import suppress
from pathlib import Path

from .atomic import replacing
from .messages import shown

RECORD = "model.json"
FORMAT = 2
# The fields of a record that name a file, and how those names begin.
STEMS = {"weights": "model"}
# Format 1 had one file of a fixed name.
WEIGHTS_1 = "model.safetensors"

# The files of a checkpoint that may be in the making.
CHECKPOINT_FILES = re.compile(r"model\.json|model(-[0-9a-f]{16})?\.safetensors")
_OWN = re.compile(rf"(?:{'|'.join(STEMS.values())})-[0-9a-f]{{16}}\.safetensors")
# How often a reader starts again because a newer checkpoint was committed meanwhile.
_TRIES = 1000
# How often it looks for a file of an unchanged record before it takes the file to be missing.
_LOOKS = 4


class CheckpointError(ValueError):
    """A checkpoint's files are damaged, or do not belong together."""


def content_name(field: str, data: bytes) -> str:
    """The name of a file that holds ``data`` and that a record's ``field`` is to name."""
    return f"{STEMS[field]}-{hashlib.sha256(data).hexdigest()[:16]}.safetensors"


def named_files(record: object, path: Path) -> dict[str, str]:
    """The names of the files of ``record`` by field: plain names in the record's own folder.

    Raises:
        CheckpointError: ``record``, which was read from ``path``, is of no known format, or one
            of the names is not of our form.
    """
    found = record.get("format") if isinstance(record, dict) else None
    # By type as well: true and 1.0 are equal to 1 in Python.
    if type(found) is not int or not 1 <= found <= FORMAT:
        raise CheckpointError(
            f"{shown(str(path))} must be a checkpoint of format 1 or {FORMAT}, "
            f"got format {shown(found)}"
        )
    if found == 1:
        return {"weights": WEIGHTS_1}
    names = {field: record.get(field) for field in STEMS}
    for field, name in names.items():
        # A name with a path in it could lead out of the folder.
        if not isinstance(name, str) or not _OWN.fullmatch(name):
            raise CheckpointError(
                f"{shown(str(path))} is damaged: {field} must be a file name such as "
                f"{STEMS[field]}-0123456789abcdef.safetensors, got {shown(name)}"
            )
    return names


def parse(data: bytes, path: Path) -> object:
    """The JSON value ``data``, which was read from ``path``.

    Raises:
        CheckpointError: it is not JSON.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{shown(str(path))} is not JSON: {shown(str(error))}") from None


def read(folder: Path) -> tuple[dict, dict[str, str], dict[str, bytes]]:
    """The record in ``folder``, the names of its files by field, and their contents by field.

    They belong to one commit, whatever is committed meanwhile.

    Raises:
        FileNotFoundError: there is no record, or a file that it names is missing.
        CheckpointError: as ``named_files`` and ``parse``.
    """
    path = folder / RECORD
    before, looks = None, 0
    for _ in range(_TRIES):
        data = _read_file(path)
        record = parse(data, path)
        names = named_files(record, path)
        try:
            contents = {field: _read_file(folder / name) for field, name in names.items()}
            return record, names, contents
        except FileNotFoundError as error:
            # Removed because a newer record was committed: that one is read next.
            missing = error
        looks = looks + 1 if data == before else 1
        before = data
        if looks == _LOOKS:
            break
        if looks > 1:
            time.sleep(0.005)
    raise missing


def _read_file(path: Path) -> bytes:
    # Asked first: a pipe in the place of a file would block for ever.
    if path.is_file():
        with suppress(FileNotFoundError):
            return path.read_bytes()
    raise FileNotFoundError(f"no checkpoint in {shown(str(path.parent))}: {path.name} is missing")


def write(folder: Path, files: dict[str, bytes], record: str) -> None:
    """Commit ``record`` and the files that it names, then remove those of earlier records.

    Until the record's rename the folder holds the earlier checkpoint, from then on this one. The
    caller holds the folder's lock.

    Args:
        files: contents by name, as ``content_name`` gives it.
        record: the text of ``model.json``.

    Raises:
        OSError: ``folder`` is missing or cannot be written to; the earlier checkpoint is untouched.
    """
    try:
        with replacing(*(folder / name for name in files), folder / RECORD) as temporaries:
            for temporary, data in zip(temporaries, [*files.values(), record.encode("utf-8")]):
                temporary.write_bytes(data)
    finally:
        # The files of the earlier record; or, where the commit failed, those of this one.
        remove_orphans(folder)


def remove_orphans(folder: Path) -> None:
    """Remove the files of the forms of a checkpoint's that the record does not name.

    Nothing is removed beside a record that cannot be read. The caller holds the folder's lock.
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
    # What cannot be removed costs space and nothing else.
    with suppress(OSError):
        for name in os.listdir(folder):
            if removed.fullmatch(name) and name not in named:
                with suppress(OSError):
                    os.unlink(folder / name)
