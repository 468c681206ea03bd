"""Terminal output: bounded messages on one line, without characters that steer a terminal."""

import sys
import unicodedata
from contextlib import suppress
from typing import TextIO

# In place of a file's name in errors of stdout.
STDOUT = "<stdout>"
# Line ends, and the joiners of Persian and Indic words and composed emoji, steer no terminal.
_HARMLESS = frozenset("\n\t\u200c\u200d")
# Control and format characters (writing direction among them), line and paragraph separators.
_STEERING = frozenset(("Cc", "Cf", "Zl", "Zp"))


def shorten(text: str, most: int = 500) -> str:
    """``text``, its middle replaced by ``"..."`` if it is longer than ``most`` characters."""
    if len(text) <= most:
        return text
    tail = (most - 3) // 3
    return f"{text[: most - 3 - tail]}...{text[len(text) - tail :]}"


def printable(text: str) -> str:
    """``text`` with backslash escapes for the characters that steer a terminal.

    Escaped are control and format characters and Unicode's line and paragraph separators. Newlines,
    tabs and the joiners U+200C and U+200D stay.
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
    """``printable(text)`` if ``stream`` is a terminal, else ``text`` unchanged."""
    return printable(text) if stream is not None and stream.isatty() else text


def one_line(reason: object) -> str:
    """``str(reason)`` as one line of at most 500 characters that is safe on a terminal.

    Every message passes through here before it is printed, so code that raises an exception can
    quote a value of any length.
    """
    return shorten(printable(" ".join(shorten(str(reason), 2000).split())))


def show(text: str, end: str = "\n") -> None:
    """Print ``text`` on stdout at once.

    Raises:
        OSError: stdout cannot be written; its ``filename`` is ``STDOUT``.
    """
    try:
        # Python's own flush at exit could not report an error.
        print(text, end=end, flush=True)
    except OSError as error:
        error.filename = STDOUT
        raise


def warn(reason: object) -> None:
    """Print ``rnnfused: warning: <reason>`` on stderr; ignore a stderr that cannot be written.

    Printed, not ``warnings.warn``: a filter that turns warnings into errors must not end a
    training run.
    """
    if sys.stderr is not None:  # None where it is closed; print would then use stdout
        with suppress(OSError, ValueError):
            print("rnnfused: warning:", one_line(reason), file=sys.stderr, flush=True)
