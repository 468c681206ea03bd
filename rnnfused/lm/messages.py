"""Words for people: bounded, one line, and nothing in them that steers a terminal."""

import sys
import unicodedata
from contextlib import suppress
from typing import TextIO

# Joiners that Persian and Indic words and composed emoji consist of; they steer no terminal.
_HARMLESS = frozenset("\n\t\u200c\u200d")
# Controls, formats (direction of writing among them), separators of lines and paragraphs.
_STEERING = frozenset(("Cc", "Cf", "Zl", "Zp"))


def shorten(text: str, most: int = 500) -> str:
    """``text``, its middle replaced by ``"..."`` if it is longer than ``most`` characters."""
    if len(text) <= most:
        return text
    tail = (most - 3) // 3
    return f"{text[: most - 3 - tail]}...{text[len(text) - tail :]}"


def shown(value: object, most: int = 200) -> str:
    """``repr(value)`` for a message, at most ``most`` characters of it."""
    return shorten(repr(value), most)


def printable(text: str) -> str:
    """``text`` with backslash escapes for the characters that steer a terminal.

    Those are control and format characters and Unicode's separators of lines and paragraphs.
    Newlines, tabs and the joiners U+200C and U+200D stay.
    """
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if character not in _HARMLESS and unicodedata.category(character) in _STEERING
        else character
        for character in text
    )


def for_stream(text: str, stream: TextIO | None) -> str:
    """``printable(text)`` if ``stream`` is a terminal, else ``text`` as it is."""
    return printable(text) if stream is not None and stream.isatty() else text


def one_line(reason: object) -> str:
    """``str(reason)`` as one bounded line that is safe on a terminal."""
    return shorten(printable(" ".join(shorten(str(reason), 2000).split())))


def warn(reason: object) -> None:
    """Print ``rnnfused: warning: <reason>`` on stderr; a stderr that takes nothing is no error.

    Printed, not ``warnings.warn``: a filter that turns warnings into errors must not end a
    training run.
    """
    if sys.stderr is not None:  # closed, where print would take stdout
        with suppress(OSError, ValueError):
            print("rnnfused: warning:", one_line(reason), file=sys.stderr, flush=True)
