"""Text to learn from: reading it, cutting it in two, simplifying it."""

import os
import re
from pathlib import Path

from .codes import pieces
from .messages import shown


class TextError(ValueError):
    """The text cannot be used: not text at all, empty, or too short."""


def read_text(path: str | os.PathLike) -> str:
    """Read a UTF-8 file; a byte order mark is dropped and line ends become ``"\\n"``.

    Raises:
        FileNotFoundError, PermissionError: from the operating system.
        IsADirectoryError: ``path`` is a folder.
        TextError: not a regular file, binary (holds a NUL byte), not UTF-8, or empty.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"text file {shown(str(path))} is a folder; name a file")
    # A pipe or a device could block for ever or never end.
    if path.exists() and not path.is_file():
        raise TextError(f"text file {shown(str(path))} is not a regular file")
    data = path.read_bytes()
    if not data:
        raise TextError(f"text file {shown(str(path))} is empty")
    nul = data.find(b"\0")
    if nul >= 0:
        raise TextError(f"text file {shown(str(path))} is binary: NUL byte at byte offset {nul}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TextError(
            f"text file {shown(str(path))} is not UTF-8: byte 0x{data[error.start]:02x} "
            f"at byte offset {error.start} ({error.reason})"
        ) from None
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if not text:
        raise TextError(f"text file {shown(str(path))} is empty but for a byte order mark")
    return text


def default_text() -> str:
    """The help topics that every CPython carries: about 460,000 characters of English.

    The topics are joined by newlines in sorted order. They differ a little between versions of
    Python, and a few passages occur in more than one topic.
    """
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def split_text(text: str, validation_fraction: float = 0.1) -> tuple[str, str]:
    """Cut ``text`` into a training part and, contiguous at its end, a validation part.

    Args:
        text: at least 4 characters.
        validation_fraction: share of the characters to hold out, between 0 and 1 (both excluded).

    Returns:
        ``(training, validation)``, each of at least 2 characters: one to read, one to predict.

    Raises:
        TypeError: ``text`` is not a ``str``.
        ValueError: ``validation_fraction`` is out of its range.
        TextError: one of the parts would be shorter than 2 characters.
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, got {type(text).__name__}")
    if not 0 < validation_fraction < 1:
        raise ValueError(f"validation_fraction must lie between 0 and 1, got {validation_fraction}")
    cut = len(text) - int(len(text) * validation_fraction)
    if min(cut, len(text) - cut) < 2:
        raise TextError(
            f"text is too short: {len(text)} characters split with "
            f"validation_fraction={validation_fraction} leave {cut} to train on and "
            f"{len(text) - cut} to validate on; each part needs at least 2"
        )
    return text[:cut], text[cut:]


def letters_only(text: str) -> str:
    """Lower-case ``text``; every run of anything but the letters a to z becomes one space.

    The preparation of *The Time Machine* in Zhang, Lipton, Li and Smola, *Dive into Deep
    Learning*, section 9.2 (https://d2l.ai/chapter_recurrent-neural-networks/text-sequence.html).

    Raises:
        TypeError: ``text`` is not a ``str``.
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, got {type(text).__name__}")
    parts = [""]
    # In pieces: of a whole large text, re.sub makes a list of millions of words.
    for _, piece in pieces(text):
        part = re.sub("[^A-Za-z]+", " ", piece).lower()
        # One run of other characters can reach over several pieces.
        if parts[-1].endswith(" "):
            part = part.removeprefix(" ")
        if part:
            parts.append(part)
    return "".join(parts)
