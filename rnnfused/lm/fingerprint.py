"""Which text a run learns: the identity of a corpus."""

import hashlib
import json
from typing import Any

from .corpus import Corpus
from .reading import STDIN

# Symbols hashed at once.
_PIECE = 2**22


def fingerprint(corpus: Corpus) -> str:
    """SHA-256 over the vocabulary and the ids of training and validation, in hexadecimal."""
    total = hashlib.sha256(json.dumps(corpus.vocab.to_json()).encode("ascii"))
    for ids in (corpus.train, corpus.valid):
        total.update(f"{len(ids)} {ids.dtype}\n".encode("ascii"))
        for start in range(0, len(ids), _PIECE):
            total.update(ids[start : start + _PIECE].contiguous().numpy().tobytes())
    return total.hexdigest()


def refusal(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The message that a run cannot go on with another text.

    Args:
        before, now: records of the run's settings, with the names of its texts.
    """
    old, new = _texts(before), _texts(now)
    need = "text must be that of the run that is resumed"
    return f"{need}, but it has changed: {old}" if old == new else f"{need}, {old}, got {new}"


def _texts(record: dict[str, Any]) -> str:
    valid = record.get("valid")
    return _name(record.get("source")) + (f" with validation text {_name(valid)}" if valid else "")


def _name(source: object) -> str:
    return "standard input" if source == STDIN else repr(source) if source else "a text of no file"
