"""Vocabularies of both levels, characters and words, and how to choose and restore one."""

from typing import Literal

from .vocab import Vocab
from .words import WordVocab

Vocabulary = Vocab | WordVocab
Level = Literal["char", "word"]
LEVELS: tuple[Level, ...] = ("char", "word")


def check_level(level: object) -> None:
    """Validate the name of a level.

    Raises:
        ValueError: ``level`` is neither ``"char"`` nor ``"word"``.
    """
    if level not in LEVELS:
        raise ValueError(f"level must be 'char' or 'word', got {level!r}")


def check_vocabulary(vocab: object, vocab_size: int | None = None) -> None:
    """Validate a vocabulary, and its size if one is given: the model's.

    Raises:
        TypeError: ``vocab`` is no vocabulary.
        ValueError: it does not have that size.
    """
    if not isinstance(vocab, Vocabulary):
        raise TypeError(f"vocab must be a Vocab or a WordVocab, got {type(vocab).__name__}")
    if vocab_size is not None and len(vocab) != vocab_size:
        raise ValueError(f"vocab must have the model's vocab_size={vocab_size}, got {len(vocab)}")


def counted(number: int, level: str) -> str:
    """``"1 character"``, ``"2 characters"``; ``"1 word or line end"``, ``"2 words and line ends"``."""
    if level == "char":
        return f"{number:,} character{'' if number == 1 else 's'}"
    return f"{number:,} {'word or line end' if number == 1 else 'words and line ends'}"


def vocabulary_from_json(value: object) -> Vocabulary:
    """The vocabulary that ``to_json`` described: a list for characters, a dict for words.

    Raises:
        ValueError: ``value`` has neither form, or its tokens are wrong.
    """
    return WordVocab.from_json(value) if isinstance(value, dict) else Vocab.from_json(value)
