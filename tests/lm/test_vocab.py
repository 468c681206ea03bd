"""The map between characters and ids."""

import json
import tracemalloc

import pytest
import torch

from rnnfused.lm import Vocab, letters_only


def test_ids_are_sorted_and_zero_is_unknown():
    vocab = Vocab("banana")
    assert vocab.idx_to_token == ["<unk>", "a", "b", "n"]
    assert vocab.token_to_idx == {"<unk>": 0, "a": 1, "b": 2, "n": 3}
    assert len(vocab) == 4
    assert vocab["b"] == 2
    assert vocab["<unk>"] == vocab["z"] == 0
    assert vocab[["b", "a", "z"]] == [2, 1, 0]
    assert "b" in vocab and "z" not in vocab


def test_encode_and_decode():
    vocab = Vocab("banana")
    ids = vocab.encode("nab?")
    assert ids.dtype == torch.long
    assert ids.tolist() == [3, 1, 2, 0]
    assert vocab.decode(ids) == vocab.decode([3, 1, 2, 0]) == "nab\ufffd"
    assert vocab.encode("").shape == (0,)
    assert vocab.decode([]) == ""


def test_any_text_comes_back():
    text = 'naïve “café” \U0001f600\t\n{"\\'
    vocab = Vocab(text)
    assert vocab.decode(vocab.encode(text)) == text


def test_json_round_trip():
    vocab = Vocab('é"\\\n\u2028\U0001f600 <unk>')
    again = Vocab.from_json(json.loads(json.dumps(vocab.to_json())))
    assert again == vocab
    assert again.token_to_idx == vocab.token_to_idx
    assert again != Vocab("x")


@pytest.mark.parametrize(
    "tokens",
    [None, {}, [], ["a"], ["a", "<unk>"], ["<unk>", "ab"], ["<unk>", ""], ["<unk>", 1],
     ["<unk>", "a", "a"]],
)  # fmt: skip
def test_from_json_refuses_other_values(tokens):
    with pytest.raises(ValueError, match="tokens must be a list"):
        Vocab.from_json(tokens)


def test_wrong_arguments():
    vocab = Vocab("banana")
    with pytest.raises(ValueError, match="text must hold at least one character"):
        Vocab("")
    with pytest.raises(TypeError, match="text must be a str, got bytes"):
        Vocab(b"banana")
    with pytest.raises(TypeError, match="text must be a str, got list"):
        vocab.encode(["b"])
    with pytest.raises(TypeError, match="token must be a str or a list of str, got int"):
        vocab[1]
    with pytest.raises(ValueError, match="one character, got 'ban'"):
        vocab["ban"]
    for index in (4, -1):
        with pytest.raises(IndexError, match=f"0 .. 3, got {index}"):
            vocab.decode([index])
    with pytest.raises(IndexError, match=f"0 .. 3, got {2**64 - 1}"):
        vocab.decode(torch.tensor([1, 2**64 - 1], dtype=torch.uint64))


WIDE = "a\U0001f600\ud83d\ude00\udfff\uffff\U0010ffff\x00\n"


def test_astral_characters_and_lone_surrogates_are_symbols_of_their_own():
    vocab = Vocab(WIDE)
    assert len(vocab) == 1 + len(set(WIDE)) == 10
    ids = vocab.encode(WIDE)
    assert ids.tolist() == [vocab.token_to_idx[character] for character in WIDE]
    # A pair of lone surrogates stays two characters.
    assert vocab.decode(ids) == WIDE and len(WIDE) == 9
    assert Vocab("b").encode(WIDE).tolist() == [0] * 9
    assert Vocab("\U0010ffff").encode(WIDE).tolist() == [0, 0, 0, 0, 0, 0, 1, 0, 0]


def test_texts_longer_than_a_piece(monkeypatch):
    monkeypatch.setattr("rnnfused.lm.vocab._PIECE", 7)
    text = (WIDE + "the quick brown fox, ") * 20
    vocab = Vocab(text[:40])
    for length in (0, 1, 6, 7, 8, 14, 15, len(text)):
        part = text[:length]
        ids = vocab.encode(part)
        assert ids.tolist() == [vocab.token_to_idx.get(character, 0) for character in part]
        assert vocab.decode(ids) == vocab.decode(ids.tolist())
    with pytest.raises(IndexError, match="got 99"):
        vocab.decode(torch.tensor([1] * 20 + [99]))


@pytest.mark.parametrize(
    ("size", "smallest"),
    [(1, torch.uint8), (255, torch.uint8), (256, torch.int16), (2**15 - 1, torch.int16),
     (2**15, torch.int32)],
)  # fmt: skip
def test_narrow_ids(size, smallest):
    text = "".join(map(chr, range(40, 40 + size)))
    vocab = Vocab(text)
    assert vocab.smallest_dtype() == smallest
    ids = vocab.encode(text + "\x01", smallest)
    assert ids.dtype == smallest
    assert ids.tolist() == [*range(1, size + 1), 0]
    assert vocab.decode(ids[:-1]) == text


def test_dtypes_that_cannot_hold_the_ids():
    vocab = Vocab("".join(map(chr, range(40, 300))))
    for dtype in (torch.uint8, torch.int8, torch.uint16, torch.float32, torch.bool, None, "int64"):
        with pytest.raises(ValueError, match="dtype must be torch.uint8, int8, .* ids up to 260"):
            vocab.encode("a", dtype)


def test_decode_takes_1d_tensors_of_integers_only():
    vocab = Vocab("banana")
    for dtype in (torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint64):
        assert vocab.decode(torch.tensor([3, 0, 1]).to(dtype)) == "n\ufffda"
    assert vocab.decode(torch.empty(0, dtype=torch.int32)) == ""
    with pytest.raises(TypeError, match="ids must be a tensor of integers, got torch.float32"):
        vocab.decode(torch.tensor([1.0]))
    for shape in ((), (1, 1)):
        with pytest.raises(ValueError, match="ids must be 1-D, got shape"):
            vocab.decode(torch.ones(shape, dtype=torch.long))


@pytest.mark.parametrize("work", ["encode", "decode", "letters_only"])
def test_a_large_text_does_not_become_a_list(work):
    text = "lazy dogs, " * 200_000
    vocab = Vocab(text)
    ids = vocab.encode(text, torch.uint8)
    tracemalloc.start()
    try:
        if work == "letters_only":
            assert len(letters_only(text)) == 2_000_000
        else:
            vocab.encode(text) if work == "encode" else vocab.decode(ids)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # torch's tensors are not counted; a list would take 8 bytes per character.
    assert peak < 4.5 * len(text)
