"""The map between words and ids, in the form of the Penn Treebank's language-model files."""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from .reading import TextError
from .vocab import UNKNOWN, Tokens, check_dtype, check_ids, frequent, pieces

EOS = "<eos>"
# Characters of the longest word. Longer "words" are texts without spaces, or binary data.
_LONGEST = 2**16


class WordVocab(Tokens):
    """The words of a text: id 0 is ``"<unk>"``, id 1 is ``"<eos>"``, the rest by falling frequency.

    Words are separated by whitespace, and the end of a line is the symbol ``<eos>``: the form of
    the Penn Treebank files of Mikolov et al., *Recurrent neural network based language model*,
    2010. A word ``<unk>`` of the text itself is the unknown one. Words of equal frequency are
    sorted.

    Build it from the *training* part of a text only: see ``Vocab``.

    Args:
        text: the text whose distinct words form the vocabulary.
        min_count: rarer words are unknown, at least 1.

    Attributes:
        idx_to_token: list of str, the token of each id.
        token_to_idx: dict from token to id.
        level: ``"word"``.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: ``min_count`` is below 1, or ``text`` holds no word that occurs so often.
    """

    level: Literal["word"] = "word"

    def __init__(self, text: str, min_count: int = 1):
        self._number(_by_frequency(Counter(split_words(text)), min_count))

    @classmethod
    def from_counts(cls, counts: Mapping[str, int], min_count: int = 1) -> "WordVocab":
        """The vocabulary of the words that occur at least ``min_count`` times.

        Args:
            counts: the number of occurrences of each word, as of ``collections.Counter``.

        Raises:
            TypeError, ValueError: as the class.
        """
        return cls._of(_by_frequency(counts, min_count))

    @classmethod
    def _of(cls, tokens: list[str]) -> "WordVocab":
        vocab = cls.__new__(cls)
        vocab._number(tokens)
        return vocab

    def __getitem__(self, token: str) -> int:
        """Id of one word; 0 for an unknown one."""
        return self.token_to_idx.get(token, 0)

    def split(self, text: str) -> list[str]:
        """The words of ``text``, with ``"<eos>"`` for each line end."""
        return split_words(text)

    def encode(self, text: str, dtype: torch.dtype = torch.long) -> Tensor:
        """Ids of the words of ``text`` and of its line ends: 1-D, 0 where unknown.

        Args:
            dtype: ``torch.int64``, or a narrower one for large texts; see ``smallest_dtype``.

        Raises:
            TypeError: ``text`` is not a ``str``.
            ValueError: ``dtype`` is not uint8, int8, int16, int32 or int64, or too narrow.
        """
        return self.encode_words(split_words(text), dtype)

    def encode_words(self, words: list[str], dtype: torch.dtype = torch.long) -> Tensor:
        """Ids of ``words``: shape ``(len(words),)``, 0 where unknown.

        Raises:
            ValueError: as ``encode``.
        """
        check_dtype(dtype, len(self))
        known = self.token_to_idx
        ids = array("q", [known.get(word, 0) for word in words])
        return (
            torch.frombuffer(ids, dtype=torch.long).to(dtype) if ids else torch.empty(0).to(dtype)
        )

    def decode(self, ids: Tensor | Iterable[int]) -> str:
        """Words of a 1-D tensor or an iterable of ids, joined by spaces; ``<eos>`` ends a line.

        Raises:
            TypeError: a tensor holds no integers.
            ValueError: a tensor is not 1-D.
            IndexError: an id is below 0, or not below ``len(self)``.
        """
        if isinstance(ids, Tensor):
            check_ids(ids)
            ids = ids.tolist()
        parts: list[str] = []
        for index in ids:
            if not 0 <= index < len(self):
                raise IndexError(f"ids must lie in 0 .. {len(self) - 1}, got {index}")
            if index == 1:
                parts.append("\n")
            else:
                if parts and parts[-1] != "\n":
                    parts.append(" ")
                parts.append(self.idx_to_token[index])
        return "".join(parts)

    def to_json(self) -> dict[str, Any]:
        """A value for ``json.dump``: the level, and the tokens in the order of their ids."""
        return {"level": self.level, "tokens": list(self.idx_to_token)}

    @classmethod
    def from_json(cls, value: object) -> "WordVocab":
        """The vocabulary that ``to_json`` described.

        Raises:
            ValueError: ``value`` is not such a dict, or its tokens are not ``"<unk>"``,
                ``"<eos>"`` and then distinct words.
        """
        if not isinstance(value, dict) or set(value) != {"level", "tokens"}:
            raise ValueError("vocabulary must be a dict with the fields level and tokens")
        if value["level"] != "word":
            raise ValueError(f"level must be 'word', got {value['level']!r}")
        tokens = value["tokens"]
        if (
            not isinstance(tokens, list)
            or tokens[:2] != [UNKNOWN, EOS]
            or not all(isinstance(token, str) and token.split() == [token] for token in tokens)
            or len(set(tokens)) != len(tokens)
        ):
            raise ValueError(
                f"tokens must be a list of {UNKNOWN!r}, {EOS!r} and then distinct words "
                "without whitespace"
            )
        return cls._of(list(tokens))


def _by_frequency(counts: Mapping[str, int], min_count: int) -> list[str]:
    known = frequent(
        {word: count for word, count in counts.items() if word not in (UNKNOWN, EOS)},
        min_count,
        "word",
    )
    return [UNKNOWN, EOS, *sorted(known, key=lambda word: (-counts[word], word))]


def split_words(text: str) -> list[str]:
    """The words of ``text``, with ``"<eos>"`` for each line end.

    Raises:
        TypeError: ``text`` is not a ``str``.
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, got {type(text).__name__}")
    return text.replace("\n", f" {EOS} ").split()


def word_pieces(parts: Iterable[str], label: str) -> Iterator[tuple[list[str], str]]:
    """The words of a text that comes in pieces, each list with the stretch of text that it covers.

    The stretches join to the whole text. Words that span pieces stay whole.

    Raises:
        TextError: a word is longer than 65,536 characters; names ``label``, the text's name.
    """
    rest = ""
    for part in parts:
        # Pieces of a long text first: the words of a whole one would take many times its size.
        for _, piece in pieces(part):
            text = rest + piece
            rest = "" if text[-1].isspace() else text.rsplit(None, 1)[-1]
            if len(rest) > _LONGEST:
                raise TextError(
                    f"{label} holds a word of more than {_LONGEST} characters, which begins with "
                    f"{rest[:20]!r}: the level 'word' needs spaces between words; use 'char'"
                )
            if len(rest) < len(text):
                text = text[: len(text) - len(rest)]
                yield split_words(text), text
    if rest:
        yield split_words(rest), rest
