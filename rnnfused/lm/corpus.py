"""A corpus: the ids of a training, a validation and a test text, and their vocabulary.

Files are read in pieces, several times: to count, and to encode. Their ids go into a mapped file,
so memory does not grow with the text.
"""

import itertools
import os
import re
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .data import letters_only_pieces
from .mapped import mapped_tensor
from .progress import progress_bar
from .reading import STDIN, TextError, TextFile
from .vocab import Vocab, count_characters, pieces
from .vocabulary import Level, Vocabulary, check_level, check_vocabulary, counted
from .words import WordVocab, word_pieces

Text = str | os.PathLike[str]
# The arguments of the parts' texts, and how messages call texts that are no files.
_ARGUMENTS = {"train": "text", "valid": "valid", "test": "test", "text": "text"}
_LABELS = {"train": "text", "valid": "validation text", "test": "test text", "text": "text"}


class Corpus(NamedTuple):
    """Result of ``build_corpus``.

    Attributes:
        vocab: of the training part; its ``level`` is ``"char"`` or ``"word"``.
        train, valid: ids, 1-D, in the narrowest dtype that holds them (uint8, int16 or int32), on
            the CPU; in mapped files if the texts are files.
        test: as ``train``, or None.
        num_characters: characters of each part's text, by the part's name (``"train"``,
            ``"valid"``, ``"test"``): at word level, bits per character need them.
        num_unknown: symbols of each part that the vocabulary lacks.
    """

    vocab: Vocabulary
    train: Tensor
    valid: Tensor
    test: Tensor | None
    num_characters: dict[str, int]
    num_unknown: dict[str, int]


class EncodedText(NamedTuple):
    """Result of ``encode_text``.

    Attributes:
        ids: 1-D, in the narrowest dtype that holds them, on the CPU; in a mapped file if the text
            is a file.
        num_characters: characters of the text.
        num_unknown: symbols that the vocabulary lacks.
    """

    ids: Tensor
    num_characters: int
    num_unknown: int


def build_corpus(
    text: Text,
    *,
    valid: Text | None = None,
    test: Text | None = None,
    level: Level = "char",
    letters_only: bool = False,
    min_count: int = 1,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.0,
    vocab: Vocabulary | None = None,
    folder: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> Corpus:
    """Encode a training text, and texts for validation and test.

    A ``str`` is a text itself and stays in memory. A path, such as ``pathlib.Path("book.txt")``,
    names a UTF-8 file; ``Path("-")`` is standard input. Files of any size need a few tens of
    megabytes, plus the vocabulary. Their ids take one, two or four bytes a symbol on the disk, in
    files without names that disappear with the process.

    Args:
        text: the training text. Without ``valid``, its end is held out for validation.
        valid, test: further texts; at most one of the three is standard input.
        level: ``"char"``: each character is a symbol. ``"word"``: each word is one, and each line
            end; see ``WordVocab``.
        letters_only: whether ``rnnfused.lm.letters_only`` prepares the texts. It turns line ends
            into spaces.
        min_count: symbols that are rarer in the training part are unknown; not beside ``vocab``.
        validation_fraction: share of the symbols of ``text`` to hold out, between 0 and 1; not
            beside ``valid``.
        test_fraction: share of the symbols of ``text`` to hold out for the test, after those for
            validation; 0 for no test part; not beside ``test``.
        vocab: a vocabulary to use instead of the training part's, to resume a run; its level is
            ``level``.
        folder: where mapped files are made; None for the system's temporary folder, which some
            systems keep in memory.
        progress: whether to show bars on stderr; None: where that is a terminal.

    Raises:
        FileNotFoundError, PermissionError, IsADirectoryError, OSError: a file cannot be read, or
            the mapped files cannot be written.
        TextError: a text is binary, not UTF-8, empty or too short, or a file changes meanwhile.
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of range, or has no effect beside another one.
    """
    check_level(level)
    for other, value, name, is_default in (
        ("valid", valid, "validation_fraction", validation_fraction == 0.1),
        ("test", test, "test_fraction", test_fraction == 0),
        ("vocab", vocab, "min_count", min_count == 1),
    ):
        if value is not None and not is_default:
            raise ValueError(f"{name} must not be given with {other}, where it has no effect")
    if vocab is not None:
        check_vocabulary(vocab)
        if vocab.level != level:
            raise ValueError(f"vocab must have level={level!r}, got one of level {vocab.level!r}")
    fractions = {}
    if valid is None:
        fractions["valid"] = validation_fraction
    if test is None and test_fraction != 0:
        fractions["test"] = test_fraction
    _check_fractions(fractions)
    given = {"train": text, "valid": valid, "test": test}
    for name, one in given.items():
        if one is not None or name == "train":
            _check_text(_ARGUMENTS[name], one)
    piped = [_ARGUMENTS[name] for name, one in given.items() if _is_stdin(one)]
    if len(piped) > 1:
        raise ValueError(
            f"{piped[1]} must be a file: standard input ({STDIN!r}) can be only one of the texts"
        )
    with ExitStack() as stack:
        # All are opened before the first is read: a wrong name is reported at once.
        sources = {
            name: stack.enter_context(_Source(one, name, level, letters_only, folder, progress))
            for name, one in given.items()
            if one is not None
        }
        parts = {
            name: source.split(name, fractions if name == "train" else {})
            for name, source in sources.items()
        }
        if vocab is None:
            vocab = sources["train"].vocabulary(parts["train"]["train"], min_count)
        encoded: dict[str, EncodedText] = {}
        for name, source in sources.items():
            encoded |= source.encode(vocab, parts[name], folder)
    return Corpus(
        vocab,
        encoded["train"].ids,
        encoded["valid"].ids,
        encoded["test"].ids if "test" in encoded else None,
        {name: part.num_characters for name, part in encoded.items()},
        {name: part.num_unknown for name, part in encoded.items()},
    )


def encode_text(
    text: Text,
    vocab: Vocabulary,
    *,
    letters_only: bool = False,
    folder: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> EncodedText:
    """The ids of a text in an existing vocabulary, as for an evaluation.

    Args and errors are as those of ``build_corpus``. The text has at least two symbols.
    """
    _check_text("text", text)
    check_vocabulary(vocab)
    with _Source(text, "text", vocab.level, letters_only, folder, progress) as source:
        return source.encode(vocab, source.split("text", {}), folder)["text"]


def _check_text(name: str, text: object) -> None:
    if not isinstance(text, (str, os.PathLike)):
        raise TypeError(f"{name} must be a str or a path, got {type(text).__name__}")


def _is_stdin(text: Text | None) -> bool:
    return isinstance(text, os.PathLike) and os.fspath(text) == STDIN


def _check_fractions(fractions: dict[str, float]) -> None:
    names = {"valid": "validation_fraction", "test": "test_fraction"}
    for part, fraction in fractions.items():
        if not 0 < fraction < 1:
            raise ValueError(f"{names[part]} must lie between 0 and 1, got {fraction}")
    if sum(fractions.values()) >= 1:
        raise ValueError(
            "validation_fraction and test_fraction must leave text to train on, "
            f"got {fractions['valid']} and {fractions['test']}"
        )


class _Source:
    """One text, read as often as needed in pieces of symbols."""

    def __init__(
        self,
        text: Text,
        name: str,
        level: Level,
        letters_only: bool,
        folder: str | os.PathLike[str] | None,
        progress: bool | None,
    ):
        self._text = text if isinstance(text, str) else None
        self._file = None
        if not isinstance(text, str):
            self._file = TextFile(text, folder, _ARGUMENTS[name])
        self.label = self._file.label if self._file else _LABELS[name]
        self._level, self._letters_only, self._progress = level, letters_only, progress

    def __enter__(self) -> "_Source":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def _symbols(self, work: str) -> Generator[tuple[str | list[str], str], None, None]:
        """Characters or words, each piece with the stretch of text that it covers."""
        with self._pieces(work) as parts:
            if self._letters_only:
                parts = letters_only_pieces(parts)
            if self._level == "word":
                yield from word_pieces(parts, self.label)
            else:
                for part in parts:
                    yield from ((piece, piece) for _, piece in pieces(part))

    @contextmanager
    def _pieces(self, work: str) -> Iterator[Iterator[str]]:
        if self._file is None:
            yield (piece for _, piece in pieces(self._text or ""))
            return
        work = f"{work} {self.label}"
        with progress_bar(work, self._file.size, "B", self._progress) as advance:
            yield self._file.pieces(advance)

    def split(self, first: str, fractions: dict[str, float]) -> dict[str, int]:
        """Symbols of each part: the part ``first``, then those of ``fractions``.

        Raises:
            TextError: a part would have fewer than 2 symbols: one to read and one to predict.
        """
        size = sum(len(symbols) for symbols, _ in self._symbols("counting"))
        parts = {name: int(size * fraction) for name, fraction in fractions.items()}
        parts = {first: size - sum(parts.values()), **parts}
        if min(parts.values()) < 2:
            leave = ", ".join(f"{number} for {name}" for name, number in parts.items())
            needs = f"the split leaves {leave}; each part needs" if fractions else "it needs"
            raise TextError(
                f"{self.label} is too short: {counted(size, self._level)}; {needs} at least 2"
            )
        return parts

    def vocabulary(self, size: int, min_count: int) -> Vocabulary:
        """The vocabulary of the first ``size`` symbols."""
        first = self._first(size)
        if self._level == "char":
            return Vocab.from_counts(count_characters(first), min_count)
        counts: Counter[str] = Counter()
        for words in first:
            counts.update(words)
        return WordVocab.from_counts(counts, min_count)

    def _first(self, size: int) -> Iterator[Any]:
        with closing(self._symbols("reading the vocabulary of")) as parts:
            for symbols, _ in parts:
                yield symbols[:size]
                size -= len(symbols)
                if size <= 0:
                    return

    def encode(
        self, vocab: Vocabulary, parts: dict[str, int], folder: str | os.PathLike[str] | None
    ) -> dict[str, EncodedText]:
        """The parts of the text, given their sizes in order.

        Raises:
            TextError: the text has another size than it had.
        """
        size, dtype = sum(parts.values()), vocab.smallest_dtype()
        if self._file is None:
            ids = torch.empty(size, dtype=dtype)
        else:
            ids = mapped_tensor(size, dtype, folder)
        ends = list(itertools.accumulate(parts.values()))
        characters = [0]
        done = length = 0
        with closing(self._symbols("encoding")) as pairs:
            for symbols, text in pairs:
                stop = done + len(symbols)
                if stop > size:
                    raise self._changed()
                if isinstance(vocab, WordVocab):
                    ids[done:stop] = vocab.encode_words(list(symbols), dtype)
                else:
                    ids[done:stop] = vocab.encode(text, dtype)
                characters += [
                    length + self._offset(text, end - done) for end in ends if done < end <= stop
                ]
                done, length = stop, length + len(text)
        if done != size:
            raise self._changed()
        # Whitespace after the last word. Other whitespace belongs to the word after it.
        characters[-1] = length
        return {
            name: EncodedText(part, stop - start, _count_unknown(part))
            for name, part, (start, stop) in zip(
                parts,
                torch.split(ids, list(parts.values())),
                itertools.pairwise(characters),
                strict=True,
            )
        }

    def _changed(self) -> TextError:
        return TextError(f"{self.label} was changed while it was read")

    def _offset(self, text: str, number: int) -> int:
        """Where the first ``number`` symbols of ``text`` end."""
        if self._level == "char":
            return number
        return next(itertools.islice(re.finditer(r"\n|\S+", text), number - 1, None)).end()


def _count_unknown(ids: Tensor) -> int:
    return sum(int((piece == 0).sum()) for _, piece in pieces(ids))
