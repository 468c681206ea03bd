"""Which text a run learns: the identity of a corpus."""

import hashlib
import json

from .corpus import Corpus

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
