"""The map between characters and ids."""

import json

import pytest
import torch

from rnnfused.lm import Vocab


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
def test_from_json_refuses_what_is_no_vocabulary(tokens):
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
