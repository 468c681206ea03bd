"""Every truncation of a record, many of the weights, random flips of bits: the model loads as it was, or not at all."""

import random

import pytest
import torch
from runs import weights_of

from rnnfused.lm import CheckpointError, load_checkpoint

FLIPS = 300
MORE_FLIPS = 10_000


def load(folder, original):
    """'loaded' if the model is as it was, 'refused' if one short sentence says why it is not read."""
    try:
        loaded = load_checkpoint(folder)
    except (CheckpointError, FileNotFoundError) as error:
        text = str(error)
        assert str(folder) in text and "\n" not in text and len(text) < 1000
        return "refused"
    assert loaded.vocab == original.vocab and loaded.model.config == original.model.config
    expected = original.model.state_dict()
    assert loaded.model.state_dict().keys() == expected.keys()
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, expected[name])
    return "loaded"


def damaged(path, pieces, original):
    """Counts the contents of the file from which the model loads, and those that are refused."""
    kept = path.read_bytes()
    counts = {"loaded": 0, "refused": 0}
    for data in pieces:
        path.write_bytes(data)
        counts[load(path.parent, original)] += 1
    path.write_bytes(kept)
    return counts


def flipped(data, count, seed):
    """Copies of the data, each with 1 to 3 bits flipped."""
    chance = random.Random(seed)
    for _ in range(count):
        copy = bytearray(data)
        for _ in range(chance.randint(1, 3)):
            copy[chance.randrange(len(copy))] ^= 1 << chance.randrange(8)
        yield bytes(copy)


def test_every_truncation_of_the_record(folder):
    path = folder / "model.json"
    data = path.read_bytes()
    pieces = (data[:length] for length in range(len(data)))
    counts = damaged(path, pieces, load_checkpoint(folder))
    # White space at the end may be missing.
    assert counts["loaded"] <= 1 and sum(counts.values()) == len(data)


def test_truncations_of_the_weights(folder):
    path = weights_of(folder)
    data = path.read_bytes()
    chance = random.Random(0)
    lengths = {0, 1, 7, 8, 9, len(data) - 1} | {chance.randrange(len(data)) for _ in range(300)}
    counts = damaged(path, (data[:length] for length in lengths), load_checkpoint(folder))
    assert counts == {"loaded": 0, "refused": len(lengths)}


@pytest.mark.parametrize(
    "count", [FLIPS, pytest.param(MORE_FLIPS, marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_flipped_bits(folder, count):
    original = load_checkpoint(folder)
    weights, record = weights_of(folder), folder / "model.json"
    for seed, path in enumerate([weights, record]):
        counts = damaged(path, flipped(path.read_bytes(), count // 2, seed), original)
        assert counts["refused"] > 0.5 * sum(counts.values())
        # Only the record has fields that do not belong to the model.
        assert path == record or counts["loaded"] == 0
