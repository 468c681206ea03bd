"""Perplexity of the model, bits per character, and streams that are stuck."""

import json
import math
import re
import tracemalloc

import pytest
import torch
from torch.nn import functional as F

from rnnfused.lm import (
    CharLM,
    CharLMConfig,
    Evaluation,
    StreamBatches,
    Vocab,
    WordVocab,
    evaluate,
    evaluate_ids,
    evaluate_text,
    perplexity,
)


def test_perplexity():
    # Two symbols, each predicted with probability 1/8.
    assert perplexity(2 * math.log(8), 2) == pytest.approx(8)
    assert perplexity(1e9, 1) == math.inf
    with pytest.raises(ValueError, match="num_symbols must be at least 1, got 0"):
        perplexity(0.0, 0)


def test_evaluate_is_the_mean_over_all_symbols_for_any_windows(model, text, vocab):
    ids = vocab.encode(text)[:301]
    model.eval()
    logits, _ = model(ids[None, :-1])
    expected = math.exp(F.cross_entropy(logits[0], ids[1:]).item())
    model.train()
    for num_steps in (7, 64, 300):
        assert evaluate(model, StreamBatches(ids, 1, num_steps)).perplexity == pytest.approx(
            expected
        )
    assert model.training
    model.eval()
    evaluate(model, StreamBatches(ids, 1, 64))
    assert not model.training


def test_a_uniform_model_has_the_perplexity_of_the_vocabulary_s_size(model, text, vocab):
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    batches = StreamBatches(vocab.encode(text), 4, 16)
    assert evaluate(model, batches).perplexity == pytest.approx(len(vocab))


def test_evaluate_needs_batches(model):
    with pytest.raises(ValueError, match="batches must hold at least one window"):
        evaluate(model, [])


def test_results_in_their_units():
    # 8 words, each predicted with probability 1/16; two of three characters belong to no word.
    result = Evaluation(8 * math.log(16), 8, symbols_per_character=1 / 3)
    assert result.perplexity == pytest.approx(16)
    assert result.bits_per_symbol == pytest.approx(4)
    assert result.bits_per_character == pytest.approx(4 / 3)
    assert result.warning() == ""
    huge = Evaluation(1e9, 1)
    assert json.loads(json.dumps(huge.to_json(), allow_nan=False))["perplexity"] is None


def trap():
    """A model, and a text on which a cold start in the middle ends in a saturated attractor.

    The text repeats "a". The one hidden unit keeps its sign for good; "b" sets it to -1, and with
    -1 the model expects "a". A stream that starts from zeros at an "a" drifts to +1 instead, where
    the model expects "b" and nothing else.
    """
    vocab = Vocab("ab")
    model = CharLM(CharLMConfig(len(vocab), hidden_size=1, num_layers=1))
    with torch.no_grad():
        for name, parameter in model.rnn.named_parameters():
            parameter.zero_()
            if name.startswith("weight_hh"):
                parameter.fill_(3)
            elif name.startswith("weight_ih"):
                parameter.view(-1).copy_(torch.tensor([0.0, 0.5, -9.0]))
        model.head.weight.copy_(torch.tensor([[0.0], [-9.0], [9.0]]))
        model.head.bias.zero_()
    return model, vocab, "b" + "a" * 4000


def test_a_stuck_stream_is_noticed():
    model, vocab, text = trap()
    ids = vocab.encode(text)
    result = evaluate(model, StreamBatches(ids, 4, 50))
    # Stream 0 starts at the "b". Each other one is judged after 150 symbols: 1000 // 150 times.
    assert [stuck.stream for stuck in result.stuck_streams] == [1, 2, 3]
    assert all(stuck.windows == 6 for stuck in result.stuck_streams)
    assert all(17 < stuck.nats < 18.1 for stuck in result.stuck_streams)
    assert result.warning().startswith("3 of 4 streams of the evaluation are stuck: stream 1 has a")
    one = result._replace(stuck_streams=result.stuck_streams[:1])
    assert one.warning().startswith("1 of 4 streams of the evaluation is stuck: stream 1 has a")
    report = result.to_json()["stuck_streams"]
    assert report[0] == {"stream": 1, "windows": 6, "nats_per_symbol": pytest.approx(17.9, abs=0.2)}
    # The streams that are not stuck predict well: the loss is all in the others.
    assert result.bits_per_symbol > 15


def test_a_rare_passage_is_not_a_stuck_stream():
    # A unigram model of a text in which "z" is rare, as an epoch of training makes one.
    vocab = Vocab("abcdefghz")
    model = CharLM(CharLMConfig(len(vocab), hidden_size=1, num_layers=1))
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    model.head.bias.data[vocab.encode("z")] = -7
    common = "abcdefgh" * 16
    for passage, stuck in ((1, ()), (15, ()), (16, (0,))):
        text = "a" + common * 20 + "z" * 128 * passage + common * 20
        result = evaluate_ids(model, vocab.encode(text))
        assert tuple(stream.stream for stream in result.stuck_streams) == stuck
        assert all(stream.windows == passage for stream in result.stuck_streams)
    # A text that is short, or mostly of this kind.
    for common_parts, passage, stuck in ((0, 1, 1), (1, 1, 0), (3, 3, 0), (3, 4, 1)):
        text = "a" + common * common_parts + "z" * 128 * passage
        assert len(evaluate_ids(model, vocab.encode(text)).stuck_streams) == stuck


def test_a_model_that_expects_unknown_symbols_is_not_stuck():
    # Three of four symbols are unknown, the known ones uniform: this model predicts as well as any.
    vocab = Vocab("abcdefgh")
    model = CharLM(CharLMConfig(len(vocab), hidden_size=1, num_layers=1))
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    model.head.bias.data[0] = math.log(8 * 3)
    ids = vocab.encode("???a???b???c???d???e???f???g???h" * 20)
    result = evaluate_ids(model, ids)
    assert result.stuck_streams == ()
    expected = 0.75 * math.log(4 / 3) + 0.25 * math.log(32)
    assert result.nats / result.symbols == pytest.approx(expected, rel=0.01)


def test_an_evaluation_of_a_text_starts_cold_once():
    model, vocab, text = trap()
    ids = vocab.encode(text)
    for streams in (1, 4, 7):
        result = evaluate_ids(model, ids, num_streams=streams)
        assert result.stuck_streams == ()
        assert result.symbols == len(ids) - 1
        assert result.streams == streams
        assert result.bits_per_symbol < 0.01
    # A text that really begins in the attractor is reported.
    bad = evaluate_ids(model, ids[1:], num_streams=4)
    assert len(bad.stuck_streams) == 4


def test_a_poor_model_is_not_stuck(model, text, vocab):
    # The uniform model; a loss of up to one nat more; more than that.
    ids = vocab.encode(text)
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    batches = StreamBatches(ids, 2, 64)
    assert evaluate(model, batches).stuck_streams == ()
    known = torch.bincount(ids, minlength=len(vocab)).double() / len(ids)
    for excess, stuck in ((0.8, 0), (1.4, 2)):
        # Logits against the frequencies, as large as this excess needs.
        low, high = 0.0, 1000.0
        for _ in range(60):
            middle = (low + high) / 2
            logits = -middle * known
            loss = (torch.logsumexp(logits, 0) - (known * logits).sum()).item()
            low, high = (middle, high) if loss < math.log(len(vocab)) + excess else (low, middle)
        model.head.bias.data.copy_(logits)
        assert len(evaluate(model, batches).stuck_streams) == stuck


def test_unknown_symbols_are_counted_and_make_no_stream_stuck(model, text, vocab):
    # As a model that never saw id 0: it gives it almost no probability.
    model.head.bias.data[0] = -40
    ids = vocab.encode(text.replace("o", "\u00f6"))
    result = evaluate(model, StreamBatches(ids, 2, 64))
    share = text.count("o") / len(text)
    assert result.unknown_symbols / result.symbols == pytest.approx(share, rel=0.02)
    assert result.perplexity > 10
    assert result.stuck_streams == ()


@pytest.mark.parametrize("streams", [1, 2, 3, 5])
def test_evaluate_ids_scores_each_symbol_but_the_first(model, vocab, text, streams):
    ids = vocab.encode(text)[: 601 + streams // 2]
    result = evaluate_ids(model, ids, num_streams=streams)
    assert result.symbols == len(ids) - 1
    # Long warm-ups, so that parallel streams differ little from one.
    whole = evaluate(model, [(ids[None, :-1], ids[None, 1:])])
    tolerance = 1e-9 if streams == 1 else 1e-3
    assert result.nats == pytest.approx(whole.nats, rel=tolerance)


def test_a_long_text_has_more_streams(model):
    ids = torch.randint(1, len(Vocab("ab")), (3 * 2**15 + 5,))
    small = CharLM(CharLMConfig(3, hidden_size=2, num_layers=1))
    assert evaluate_ids(small, ids).streams == 3
    assert evaluate_ids(small, ids[: 2**15]).streams == 1
    seen = []
    evaluate_ids(small, ids, advance=seen.append)
    assert sum(seen) == len(ids) - 1


def test_evaluate_ids_refuses_wrong_arguments(model):
    with pytest.raises(ValueError, match="ids must hold at least 2 symbols, got 1"):
        evaluate_ids(model, torch.tensor([1]))
    for number in (0, 9):
        with pytest.raises(ValueError, match=rf"num_streams must lie in 1 .. 8, .* got {number}"):
            evaluate_ids(model, torch.arange(9), num_streams=number)
    with pytest.raises(TypeError, match="ids must be a tensor of integers"):
        evaluate_ids(model, torch.rand(9))
    with pytest.raises(TypeError, match="num_streams must be an int or None, got 1.5"):
        evaluate_ids(model, torch.arange(9), num_streams=1.5)
    with pytest.raises(TypeError, match="model must be a CharLM, got NoneType"):
        evaluate_ids(None, torch.arange(9))
    for wrong in (-1, model.config.vocab_size, -100):
        for place in (0, 4, 8):
            ids = torch.arange(9)
            ids[place] = wrong
            with pytest.raises(IndexError, match=f"ids must lie in 0 .. .* {wrong}"):
                evaluate_ids(model, ids)
    far = torch.tensor([1, 2**63, 2], dtype=torch.uint64)
    with pytest.raises(IndexError, match=f"got values from 1 to {2**63}"):
        evaluate_ids(model, far)


def test_evaluate_text_at_both_levels(tmp_path, text):
    path = tmp_path / "a.txt"
    path.write_text(text)
    torch.manual_seed(0)
    for vocab in (Vocab(text), WordVocab(text)):
        model = CharLM(CharLMConfig(len(vocab), hidden_size=4, num_layers=1))
        ids = vocab.encode(text)
        expected = evaluate(model, [(ids[None, :-1], ids[None, 1:])])
        for given in (text, path):
            result = evaluate_text(model, vocab, given)
            assert result.nats == pytest.approx(expected.nats)
            per_character = result.nats / (len(ids) - 1) * len(ids) / len(text) / math.log(2)
            assert result.bits_per_character == pytest.approx(per_character)
    letters = evaluate_text(model, vocab, text, letters_only=True)
    assert letters.symbols == len(re.sub("[^a-z]+", " ", text).split()) - 1
    with pytest.raises(ValueError, match="vocab must have the model's vocab_size=10, got 30"):
        evaluate_text(model, Vocab(text), text)
    with pytest.raises(TypeError, match="model must be a CharLM, got str"):
        evaluate_text(text, model, vocab)
    with pytest.raises(TypeError, match="vocab must be a Vocab or a WordVocab, got str"):
        evaluate_text(model, text, vocab)
    with pytest.raises(TypeError, match="model must be a CharLM, got str"):
        evaluate("a", [])


def test_memory_does_not_grow_with_the_text(tmp_path):
    text = "the quick brown fox\n" * 100_000
    (tmp_path / "a.txt").write_text(text)
    vocab = Vocab(text)
    model = CharLM(CharLMConfig(len(vocab), hidden_size=2, num_layers=1))
    evaluate_text(model, vocab, text[:100])
    tracemalloc.start()
    try:
        result = evaluate_text(model, vocab, tmp_path / "a.txt")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert result.symbols == len(text) - 1
    # Pieces of a megabyte, a few times.
    assert peak < 8e6
