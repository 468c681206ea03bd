"""UTF-8 text read in pieces, from a file or from standard input, in constant memory."""

import codecs
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

# In place of a file's name: standard input.
STDIN = "-"
# Bytes read at once.
_PIECE = 2**20


class TextError(ValueError):
    """The text cannot be used: it is binary, not UTF-8, empty, or too short."""


def _ignore(_: int) -> None:
    pass


class TextFile:
    """A UTF-8 file, or standard input, that can be read in pieces as often as needed::

        with TextFile("book.txt") as file:
            for piece in file.pieces():
                ...

    Standard input can be read only once, so it is copied into a file without a name, which
    disappears with the process even if that is killed.

    Args:
        path: a file's name; ``"-"`` for standard input.
        folder: where standard input is copied to; None for the system's temporary folder.
        argument: the argument of a caller that names the file, for error messages.

    Attributes:
        label: the name for error messages, such as ``"text file 'book.txt'"``.
        size: bytes.

    Raises:
        FileNotFoundError, PermissionError: from the operating system.
        IsADirectoryError: ``path`` is a folder.
        OSError: the text cannot be read, or standard input cannot be copied.
        TextError: ``path`` is not a regular file, or the process has no standard input.
        ValueError: ``path`` is empty, or holds a NUL character.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        folder: str | os.PathLike[str] | None = None,
        argument: str = "text",
    ) -> None:
        name = os.fspath(path)
        if name == STDIN:
            self.label = "standard input"
            self._file = _copy_of_stdin(folder)
        else:
            self.label = f"{argument} file {name!r}"
            self._file = _open(name, self.label)
        self.size = os.fstat(self._file.fileno()).st_size

    def __enter__(self) -> "TextFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; ``pieces`` then fails."""
        self._file.close()

    def pieces(self, advance: Callable[[int], object] = _ignore) -> Iterator[str]:
        """The text from its start, in non-empty pieces of at most a megabyte.

        A byte order mark is dropped, and line ends become ``"\\n"``.

        Args:
            advance: called with the number of bytes of each piece, for a progress bar.

        Raises:
            OSError: the file cannot be read.
            TextError: the text is binary (holds a NUL byte), not UTF-8, or empty.
        """
        self._file.seek(0)
        return decoded(self._chunks(advance), self.label)

    def _chunks(self, advance: Callable[[int], object]) -> Iterator[bytes]:
        while chunk := self._read():
            yield chunk
            advance(len(chunk))

    def _read(self) -> bytes:
        try:
            return self._file.read(_PIECE)
        except OSError as error:
            # Opened, but not readable: such errors lack the name.
            reason = error.strerror or error
            raise OSError(f"{self.label} cannot be read: {reason}") from None


def _open(name: str, label: str) -> BinaryIO:
    # pathlib takes an empty name for the current folder.
    if not name or "\0" in name:
        raise ValueError(f"path must name a text file, without NUL characters, got {name!r}")
    try:
        mode = os.stat(name).st_mode
        # Opening a pipe could block forever, and a device may never end.
        file = open(name, "rb", buffering=0) if stat.S_ISREG(mode) else None
    except OSError as error:
        # The system's message lacks the argument.
        raise type(error)(f"{label} cannot be opened: {error.strerror or error}") from None
    if file is not None:
        return file
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{label} is a folder; name a file")
    raise TextError(
        f"{label} is not a regular file; a pipe is read from standard input, by the name {STDIN!r}"
    )


def _copy_of_stdin(folder: str | os.PathLike[str] | None) -> BinaryIO:
    if sys.stdin is None:
        raise TextError("standard input is closed")
    copy = temporary_file(folder)
    try:
        try:
            # Each error below concerns one side only: reads lack a name, writes get one.
            shutil.copyfileobj(sys.stdin.buffer, _NamedErrors(copy, folder), _PIECE)
            copy.flush()
        except OSError as error:
            if error.filename is not None:
                raise
            raise OSError(f"standard input cannot be read: {error.strerror or error}") from None
    except BaseException:
        copy.close()
        raise
    return copy


class _NamedErrors:
    """The writing side of a temporary file, whose errors name its folder."""

    def __init__(self, file: BinaryIO, folder: str | os.PathLike[str] | None):
        self._file, self._folder = file, folder

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            error.filename = temporary_folder(self._folder)
            raise


def temporary_folder(folder: str | os.PathLike[str] | None) -> str:
    """The name of ``folder``; for None, the system's temporary folder (``TMPDIR``)."""
    return tempfile.gettempdir() if folder is None else os.fspath(folder)


def temporary_file(folder: str | os.PathLike[str] | None) -> BinaryIO:
    """A new file without a name in ``folder``: its space is free again once nothing uses it.

    Not buffered, so that a write that fails is reported by that write.

    Raises:
        OSError: no file can be created there.
    """
    return tempfile.TemporaryFile(buffering=0, dir=temporary_folder(folder))


def decoded(chunks: Iterable[bytes], label: str) -> Iterator[str]:
    """The text of UTF-8 ``chunks``, in non-empty pieces: see ``TextFile.pieces``.

    Characters and line ends may span chunks. Memory is a few times the largest chunk.

    Raises:
        TextError: the text is binary, not UTF-8, or empty; names ``label`` and the byte's offset.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset, at_start, held, empty = 0, True, "", True
    for chunk in _then_empty(chunks):
        nul = chunk.find(b"\0")
        if nul >= 0:
            raise TextError(f"{label} is binary: NUL byte at byte offset {offset + nul}")
        # The bytes of an unfinished character stay in the decoder.
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            raise TextError(
                f"{label} is not UTF-8: byte 0x{error.object[error.start]:02x} at byte offset "
                f"{offset - pending + error.start} ({error.reason})"
            ) from None
        offset += len(chunk)
        if at_start and text:
            text, at_start = text.removeprefix("\ufeff"), False
        text, held = held + text, ""
        if chunk and text.endswith("\r"):
            # A newline may follow in the next chunk.
            text, held = text[:-1], "\r"
        if text:
            empty = False
            # Looked for first: one search in place of two.
            yield text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
    if empty:
        rest = " except for a byte order mark" if offset else ""
        raise TextError(f"{label} is empty{rest}")


def _then_empty(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The non-empty ``chunks``, then an empty one, which ends the text."""
    yield from filter(None, chunks)
    yield b""
