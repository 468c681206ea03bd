"""Training text and its windows: read a file, split it, cut its ids into batches."""

import os
import re
from collections.abc import Iterable, Iterator

from torch import Tensor

from rnnfused.wording import quantity

from .reading import TextError, TextFile
from .vocab import check_ids, pieces


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a UTF-8 file; drop a byte order mark and turn line ends into ``"\\n"``.

    Args:
        path: the file's name; ``"-"`` for standard input.

    Raises:
        FileNotFoundError, PermissionError: from the operating system.
        IsADirectoryError: ``path`` is a folder.
        OSError: the file cannot be read.
        TextError: ``path`` is not a regular file, is binary (holds a NUL byte), not UTF-8, or
            empty.
        ValueError: ``path`` is empty, or holds a NUL character itself.
    """
    with TextFile(path) as file:
        return "".join(file.pieces())


def default_text() -> str:
    """Python's own help topics, which ship with CPython: about 460,000 characters of English.

    The topics are sorted by name and joined by newlines. They differ slightly between Python
    versions, and a few passages occur in more than one topic.
    """
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def split_text(text: str, validation_fraction: float = 0.1) -> tuple[str, str]:
    """Split ``text`` into a training part and a contiguous validation part at its end.

    Args:
        text: at least 4 characters.
        validation_fraction: share of the characters to hold out, between 0 and 1, both excluded.

    Returns:
        ``(training, validation)``, each at least 2 characters: one to read and one to predict.

    Raises:
        TypeError: ``text`` is not a ``str``.
        ValueError: ``validation_fraction`` is out of range.
        TextError: a part would be shorter than 2 characters.
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, got {type(text).__name__}")
    if not 0 < validation_fraction < 1:
        raise ValueError(f"validation_fraction must lie between 0 and 1, got {validation_fraction}")
    cut = len(text) - int(len(text) * validation_fraction)
    if min(cut, len(text) - cut) < 2:
        raise TextError(
            f"text is too short: {quantity(len(text), 'character')} split with "
            f"validation_fraction={validation_fraction} leave {cut} to train on and "
            f"{len(text) - cut} to validate on; each part needs at least 2"
        )
    return text[:cut], text[cut:]


def letters_only(text: str) -> str:
    """Convert ``text`` to lower case and replace each run of other characters than a-z by a space.

    This is the preparation of *The Time Machine* in Zhang, Lipton, Li and Smola, *Dive into Deep
    Learning*, section 9.2 (https://d2l.ai/chapter_recurrent-neural-networks/text-sequence.html).

    Raises:
        TypeError: ``text`` is not a ``str``.
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, got {type(text).__name__}")
    return "".join(letters_only_pieces(piece for _, piece in pieces(text)))


def letters_only_pieces(parts: Iterable[str]) -> Iterator[str]:
    """The pieces of ``letters_only`` of a text that comes in pieces; some may be empty."""
    # In pieces: on the whole of a large text, re.sub builds a list of millions of words.
    after_space = False
    for part in parts:
        part = re.sub("[^A-Za-z]+", " ", part).lower()
        # A run of other characters can span several pieces.
        if after_space:
            part = part.removeprefix(" ")
        if part:
            after_space = part.endswith(" ")
        yield part


def check_sizes(ids: Tensor, batch_size: int, num_steps: int) -> None:
    """Validate ids and the sizes of their batches.

    Raises:
        TypeError: ``ids`` is not an integer tensor.
        ValueError: ``ids`` is not 1-D, or a size is below 1.
    """
    check_ids(ids)
    for name, value in (("batch_size", batch_size), ("num_steps", num_steps)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


class StreamBatches:
    """Cuts ids into parallel streams and iterates over them in windows, for truncated BPTT.

    The ids are laid out as ``batch_size`` rows of equal length; each row is a contiguous stretch
    of the text. In every row, window k + 1 starts where window k ended, so the detached hidden
    state can be carried over. A pass reads and predicts each symbol of a row once. The last window
    may be shorter than ``num_steps``. Up to ``batch_size - 1`` symbols at the end of the text,
    which do not fill a column, are dropped.

    The ids may be in a mapped file, of which an iteration reads one window at a time.

    Iterating yields ``(x, y)``: views of ``ids``, both of shape ``(batch_size, steps)`` with
    ``steps <= num_steps``; ``y`` holds the symbol after each symbol in ``x``. Iteration can be
    repeated; ``len`` is the number of windows, and ``window(n)`` is any of them.

    Args:
        ids: 1-D tensor of any integer dtype, on any device.
        batch_size: number of streams, at least 1.
        num_steps: length of a window in symbols, at least 1.

    Raises:
        TypeError: ``ids`` is not an integer tensor.
        ValueError: ``ids`` is not 1-D, a size is below 1, or ``ids`` is too short for one full
            window (``batch_size * num_steps + 1`` symbols).
    """

    def __init__(self, ids: Tensor, batch_size: int, num_steps: int):
        check_sizes(ids, batch_size, num_steps)
        needed = batch_size * num_steps + 1
        if len(ids) < needed:
            raise ValueError(
                f"text is too short for one window: it has {quantity(len(ids), 'symbol')}, but "
                f"batch_size={batch_size} streams of num_steps={num_steps} need {needed}; use a "
                f"longer text, a smaller batch_size or a smaller num_steps"
            )
        self.num_steps = num_steps
        self.stream_length = (len(ids) - 1) // batch_size
        used = batch_size * self.stream_length
        self._inputs = ids[:used].view(batch_size, self.stream_length)
        self._targets = ids[1 : used + 1].view(batch_size, self.stream_length)

    @property
    def num_symbols(self) -> int:
        """Number of symbols that one pass predicts."""
        return self._targets.numel()

    def __len__(self) -> int:
        return -(-self.stream_length // self.num_steps)

    def window(self, index: int) -> tuple[Tensor, Tensor]:
        """The window ``(x, y)`` of that number, counted from 0.

        Raises:
            IndexError: there are fewer windows.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"index must lie in 0 .. {len(self) - 1}, got {index}")
        start = index * self.num_steps
        stop = start + self.num_steps
        return self._inputs[:, start:stop], self._targets[:, start:stop]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # One by one: a view of each window of a large text would take gigabytes.
        return map(self.window, range(len(self)))
