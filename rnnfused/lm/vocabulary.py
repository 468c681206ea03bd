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


def vocabulary_from_json(value: object) -> Vocabulary:
    """The vocabulary that ``to_json`` described: a list for characters, a dict for words.

    Raises:
        ValueError: ``value`` has neither form, or its tokens are wrong.
    """
    return WordVocab.from_json(value) if isinstance(value, dict) else Vocab.from_json(value)
