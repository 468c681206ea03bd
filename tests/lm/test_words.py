"""The map between words and ids."""

import json

import pytest
import torch

from rnnfused.lm import TextError, Vocab, WordVocab, vocabulary_from_json
from rnnfused.lm.words import word_pieces

# As in the Penn Treebank's files: spaces around the words, rare words replaced.
TREEBANK = " no it was n't black monday \n but while the <unk> was n't bad \n"


def test_words_in_the_form_of_the_penn_treebank():
    vocab = WordVocab(TREEBANK)
    # By falling frequency, then sorted.
    assert vocab.idx_to_token == [
        "<unk>", "<eos>", "n't", "was", "bad", "black", "but", "it", "monday", "no", "the", "while"
    ]  # fmt: skip
    assert vocab.split(TREEBANK)[5:8] == ["monday", "<eos>", "but"]
    ids = vocab.encode(TREEBANK)
    assert ids.dtype == torch.long
    assert len(ids) == 6 + 1 + 7 + 1
    assert ids[6] == ids[-1] == 1
    # The text's own <unk> is the unknown word.
    assert ids[10] == 0
    assert vocab["was"] == 3 and vocab["absent"] == 0
    assert "was" in vocab and "absent" not in vocab
    assert vocab.level == "word" and Vocab("a").level == "char"


def test_only_a_line_end_that_is_there_becomes_a_symbol():
    vocab = WordVocab("a b\n")
    assert vocab.encode("a").tolist() == [2]
    assert vocab.encode("a\n\n b").tolist() == [2, 1, 1, 3]
    assert vocab.encode("").tolist() == vocab.encode("  \t").tolist() == []


def test_decode_joins_words():
    vocab = WordVocab("a b\n")
    ids = vocab.encode("  a b c\n\na\n")
    assert vocab.decode(ids) == vocab.decode(ids.tolist()) == "a b <unk>\n\na\n"
    assert vocab.decode([]) == ""
    for index in (4, -1):
        with pytest.raises(IndexError, match=f"0 .. 3, got {index}"):
            vocab.decode([index])
    with pytest.raises(TypeError, match="ids must be a tensor of integers, got torch.float32"):
        vocab.decode(torch.tensor([1.0]))


def test_rare_words_are_unknown():
    text = "a a a b b c\n"
    assert WordVocab(text, min_count=2).idx_to_token == ["<unk>", "<eos>", "a", "b"]
    assert WordVocab(text, min_count=2).encode(text).tolist() == [2, 2, 2, 3, 3, 0, 1]
    with pytest.raises(ValueError, match="no word .* min_count=4 times; the most .* 3 times"):
        WordVocab(text, min_count=4)
    with pytest.raises(ValueError, match="no word of the training text"):
        WordVocab(" \n\n")
    with pytest.raises(ValueError, match="min_count must be at least 1, got 0"):
        WordVocab(text, min_count=0)
    for wrong in (1.0, True, "1"):
        with pytest.raises(TypeError, match="min_count must be an int"):
            WordVocab(text, min_count=wrong)
    with pytest.raises(TypeError, match="text must be a str, got bytes"):
        WordVocab(b"a")


def test_rare_characters_are_unknown():
    vocab = Vocab.from_counts({"a": 3, "b": 2, "c": 1}, 2)
    assert vocab.idx_to_token == ["<unk>", "a", "b"]
    with pytest.raises(ValueError, match="no character of the training text"):
        Vocab.from_counts({"a": 3}, 4)


def test_narrow_ids():
    few, many = WordVocab("a b"), WordVocab(" ".join(map(str, range(40_000))))
    assert few.smallest_dtype() == torch.uint8 and many.smallest_dtype() == torch.int32
    assert few.encode("b a", torch.uint8).tolist() == [3, 2]
    with pytest.raises(ValueError, match="hold ids up to 40001"):
        many.encode("1", torch.int16)


def test_json_round_trip():
    for vocab in (WordVocab('naïve "x" \\ \u2028 \U0001f600\n'), Vocab("ab\n")):
        again = vocabulary_from_json(json.loads(json.dumps(vocab.to_json())))
        assert again == vocab and type(again) is type(vocab)
        assert again.token_to_idx == vocab.token_to_idx
    assert WordVocab("a") != WordVocab("b") and WordVocab("a") != Vocab("a")


@pytest.mark.parametrize(
    "tokens",
    [None, {}, "<unk>", [], ["<unk>"], ["<unk>", "a"], ["<eos>", "<unk>"], ["<unk>", "<eos>", "a b"],
     ["<unk>", "<eos>", ""], ["<unk>", "<eos>", "a\n"], ["<unk>", "<eos>", "a", "a"],
     ["<unk>", "<eos>", 1], ["<unk>", "<eos>", []], ["<unk>", "<eos>", "<unk>"]],
)  # fmt: skip
def test_from_json_refuses_other_tokens(tokens):
    with pytest.raises(ValueError, match="tokens must be a list of '<unk>', '<eos>'"):
        vocabulary_from_json({"level": "word", "tokens": tokens})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "the fields level and tokens"),
        ({"level": "word"}, "the fields level and tokens"),
        ({"level": "word", "tokens": ["<unk>", "<eos>"], "x": 1}, "the fields level and tokens"),
        ({"level": "char", "tokens": ["<unk>", "<eos>"]}, "level must be 'word', got 'char'"),
        ({"level": [], "tokens": ["<unk>", "<eos>"]}, "level must be 'word', got"),
        (None, "tokens must be a list"),
        ("word", "tokens must be a list"),
    ],
)
def test_from_json_refuses_other_values(value, message):
    with pytest.raises(ValueError, match=message):
        vocabulary_from_json(value)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
def test_words_that_span_pieces_stay_whole(size):
    text = "  the quick\nbrown \u2003fox\n\njumps over\tthe lazy dog"
    parts = [text[start : start + size] for start in range(0, len(text), size)]
    pairs = list(word_pieces(parts, "text"))
    vocab = WordVocab(text)
    assert [word for words, _ in pairs for word in words] == vocab.split(text)
    assert "".join(stretch for _, stretch in pairs) == text
    assert all(vocab.split(stretch) == words for words, stretch in pairs)


def test_a_text_without_spaces_is_refused_at_word_level():
    assert len(list(word_pieces(["x" * 2**16], "text"))) == 1
    with pytest.raises(TextError, match="text 7 holds a word of more than 65536 characters"):
        list(word_pieces(["a ", "x" * 2**15, "x" * 2**15, "x"], "text 7"))
