"""Sampling from a model."""

import math

import pytest
import torch

from rnnfused.lm import CharLM, CharLMConfig, WordVocab, generate


def greedy_by_single_steps(model, vocab, prefix, num_chars):
    """The reference: one call per symbol, those of the prefix included."""
    model.eval()
    state, text = None, prefix
    for position in range(len(prefix) + num_chars - 1):
        logits, state = model(vocab.encode(text[position]).view(1, 1), state)
        if position >= len(prefix) - 1:
            text += vocab.idx_to_token[1 + int(logits[0, 0, 1:].argmax())]
    return text


def test_warm_up_in_one_call_equals_stepping(model, vocab):
    # Larger weights: the state depends on more than the last symbol, and no logits are equal.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    expected = greedy_by_single_steps(model, vocab, "the quick", 40)
    assert generate(model, vocab, "the quick", 40, temperature=0) == expected
    assert len(set(expected[9:])) > 1
    assert generate(model, vocab, "xxx quick", 40, temperature=0)[9:] != expected[9:]


def test_the_prefix_is_one_call_and_each_symbol_one_more(model, vocab):
    lengths = []
    model.register_forward_pre_hook(lambda _, arguments: lengths.append(arguments[0].shape[1]))
    generate(model, vocab, "the quick", 4)
    assert lengths == [9, 1, 1, 1]


def test_length_prefix_and_symbols(model, vocab):
    text = generate(model, vocab, "fox", 200, temperature=2.0, seed=0)
    assert text.startswith("fox") and len(text) == 203
    assert set(text) <= set(vocab.idx_to_token[1:])
    assert generate(model, vocab, "fox", 0) == "fox"


def test_unknown_is_never_drawn(model, vocab):
    with torch.no_grad():
        model.head.bias[0] = 1e6
    for temperature in (0, 1.0):
        assert "\ufffd" not in generate(model, vocab, "fox", 50, temperature=temperature)


def test_seed_makes_it_repeatable_and_leaves_the_global_generator_alone(model, vocab):
    before = torch.get_rng_state()
    first = generate(model, vocab, "fox", 80, temperature=1.0, seed=3)
    assert torch.equal(before, torch.get_rng_state())
    assert first == generate(model, vocab, "fox", 80, temperature=1.0, seed=3)
    assert first != generate(model, vocab, "fox", 80, temperature=1.0, seed=4)


def test_temperature_scales_the_logits(model, vocab):
    # One symbol is 20 times as likely as each of the others at temperature 1.
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
        model.head.bias[vocab["q"]] = math.log(20)
    others = len(vocab) - 2
    for temperature in (0.5, 1.0, 2.0):
        weight = 20 ** (1 / temperature)
        drawn = generate(model, vocab, "q", 2000, temperature=temperature, seed=0)[1:]
        assert drawn.count("q") / 2000 == pytest.approx(weight / (weight + others), abs=0.05)


def test_tiny_temperature_is_greedy_and_not_nan(model, vocab):
    expected = generate(model, vocab, "fox", 20, temperature=0)
    for temperature in (1e-30, 5e-324):
        assert generate(model, vocab, "fox", 20, temperature=temperature) == expected


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_stays(model, vocab, training):
    model.train(training)
    generate(model, vocab, "fox", 3)
    assert model.training == training
    with torch.no_grad():
        model.head.bias.fill_(math.nan)
    with pytest.raises(ValueError, match="not finite"):
        generate(model, vocab, "fox", 3)
    assert model.training == training


def test_wrong_arguments(model, vocab):
    with pytest.raises(ValueError, match="prefix must hold at least one character"):
        generate(model, vocab, "", 3)
    with pytest.raises(ValueError, match="got 'Z' at position 2"):
        generate(model, vocab, "foZ", 3)
    with pytest.raises(TypeError, match="prefix must be a str, got int"):
        generate(model, vocab, 7, 3)
    with pytest.raises(ValueError, match="num_chars must be at least 0, got -1"):
        generate(model, vocab, "fox", -1)
    with pytest.raises(TypeError, match="num_chars must be an int, got 2.0"):
        generate(model, vocab, "fox", 2.0)
    for temperature in (-1, math.nan, math.inf):
        with pytest.raises(ValueError, match="temperature must be finite and at least 0"):
            generate(model, vocab, "fox", 3, temperature=temperature)
    with pytest.raises(ValueError, match=f"vocab_size={len(vocab)}, got 3"):
        generate(model, type(vocab)("ab"), "a", 3)


def test_greedy_is_temperature_zero_and_top_1(model, vocab):
    expected = generate(model, vocab, "fox", 40, temperature=0)
    assert generate(model, vocab, "fox", 40, greedy=True) == expected
    assert generate(model, vocab, "fox", 40, top_k=1) == expected
    assert generate(model, vocab, "fox", 40, top_p=1e-9) == expected


def test_top_k_and_top_p_leave_out_symbols(model, vocab):
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.arange(len(vocab)) / 10)
    likeliest = vocab.idx_to_token[-3:]
    assert set(generate(model, vocab, "fox", 300, temperature=2, top_k=3, seed=0)[3:]) == set(
        likeliest
    )
    some = set(generate(model, vocab, "fox", 300, temperature=2, top_p=0.5, seed=0)[3:])
    assert 3 < len(some) < len(vocab) - 1


def test_samples_are_texts_of_their_numbers(model, vocab):
    texts = generate(model, vocab, "fox", 60, temperature=1.0, seed=3, num_samples=5)
    assert len(set(texts)) == 5
    assert texts[0] == generate(model, vocab, "fox", 60, temperature=1.0, seed=3)
    later = generate(
        model, vocab, "fox", 60, temperature=1.0, seed=3, num_samples=2, first_sample=3
    )
    assert later == texts[3:]


@pytest.mark.parametrize("num_chars", [0, 1, 3000])
def test_pieces_join_to_the_text(model, vocab, num_chars):
    pieces = []
    text = generate(model, vocab, "the fox", num_chars, seed=0, callback=pieces.append)
    assert "".join(pieces) == text and len(text) == 7 + num_chars
    assert pieces[0].startswith("the fox")
    lists = []
    texts = generate(
        model, vocab, "the fox", num_chars, seed=0, num_samples=2, callback=lists.append
    )
    assert ["".join(each) for each in zip(*lists, strict=True)] == texts


def test_words_are_separated_by_spaces():
    vocab = WordVocab("the cat sat\non the mat\n")
    torch.manual_seed(0)
    model = CharLM(CharLMConfig(len(vocab), hidden_size=8, num_layers=1))
    pieces = []
    text = generate(
        model, vocab, "the  cat \n", 300, temperature=3.0, seed=0, callback=pieces.append
    )
    assert "".join(pieces) == text
    assert text.startswith("the cat\n") and "  " not in text and " \n" not in text
    assert len(vocab.split(text)) == 303 and set(vocab.split(text)) == set(vocab.idx_to_token[1:])
    # An unknown word is read as in training and evaluation.
    unknown = generate(model, vocab, "the dog sat", 3, greedy=True)
    assert unknown.startswith("the <unk> sat")
    assert unknown == generate(model, vocab, "the <unk> sat", 3, greedy=True)
    with pytest.raises(ValueError, match="at least one word, got '  '"):
        generate(model, vocab, "  ", 3)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("embedding_size", [None, 12])
def test_every_form_of_the_model_equals_single_steps(vocab, embedding_size, tied):
    torch.manual_seed(0)
    config = CharLMConfig(len(vocab), 12, 2, dropout=0.3, embedding_size=embedding_size, tied=tied)
    model = CharLM(config, dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3).add_(torch.randn_like(parameter) * 0.1)
    model.train()
    got = generate(model, vocab, "the quick", 40, greedy=True)
    assert got == greedy_by_single_steps(model, vocab, "the quick", 40)
    assert len(set(got[9:])) > 1


def test_a_subclass_is_called(model, vocab):
    class Shifted(CharLM):
        def forward(self, ids, state=None):
            logits, state = super().forward(ids, state)
            return logits.roll(1, -1), state

    shifted = Shifted(model.config, dtype=torch.float64)
    shifted.load_state_dict(model.state_dict())
    got = generate(shifted, vocab, "the quick", 20, greedy=True)
    assert got == greedy_by_single_steps(shifted, vocab, "the quick", 20)
    assert got != generate(model, vocab, "the quick", 20, greedy=True)


def test_the_largest_number_of_a_sample(model, vocab):
    last = generate(model, vocab, "fox", 5, first_sample=2**63 - 2, seed=0)
    before = generate(model, vocab, "fox", 5, first_sample=2**63 - 3, num_samples=2, seed=0)
    assert before[1] == last


def test_logits_that_a_hook_keeps_stay(model, vocab):
    kept = []
    model.register_forward_hook(lambda _, arguments, result: kept.append(result[0]))
    generate(model, vocab, "fox", 3)
    assert len(kept) == 3 and all(logits.isfinite().all() for logits in kept)


def test_numbers_of_numpy(model, vocab):
    numpy = pytest.importorskip("numpy")
    options = {"num_samples": 2, "first_sample": 1, "top_k": 3, "seed": 4}
    expected = generate(model, vocab, "fox", 5, temperature=0.5, top_p=0.5, **options)
    given = {name: numpy.int64(value) for name, value in options.items()}
    half = numpy.float32(0.5)
    got = generate(model, vocab, "fox", numpy.int64(5), temperature=half, top_p=half, **given)
    assert got == expected


def test_the_op_is_used(model, vocab, monkeypatch):
    monkeypatch.setattr("rnnfused.generation.functions.StepByStep", None)
    assert len(generate(model, vocab, "fox", 20, num_samples=2, seed=0)[1]) == 23


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_samples": 0}, ValueError, "num_samples must be at least 1, got 0"),
        ({"num_samples": 1.0}, TypeError, "num_samples must be an int"),
        ({"first_sample": 2**63 - 1}, ValueError, f"first_sample must be at most {2**63 - 2}"),
        (
            {"first_sample": 2**63 - 3, "num_samples": 3},
            ValueError,
            f"first_sample must be at most {2**63 - 4}, for 3 .* got {2**63 - 3}",
        ),
        ({"num_chars": 10**15}, MemoryError, f"num_chars must be smaller: 1 x {10**15} symbols"),
        ({"num_samples": 10**15}, MemoryError, "num_samples must be smaller"),
        ({"temperature": None}, TypeError, "temperature must be a float, got None"),
        ({"callback": 5}, TypeError, "callback must be callable, got 5"),
        ({"callback": 5, "num_chars": 0}, TypeError, "callback must be callable, got 5"),
        ({"greedy": "x"}, TypeError, "greedy must be a bool, got 'x'"),
        ({"model": "a"}, TypeError, "model must be a CharLM, got str"),
        ({"vocab": "a"}, TypeError, "vocab must be a Vocab or a WordVocab, got str"),
        ({"first_sample": -1}, ValueError, "first_sample must be at least 0"),
        ({"top_k": 0}, ValueError, "top_k must be at least 1"),
        ({"top_p": 2.0}, ValueError, "top_p must lie in"),
        ({"seed": 2**63}, ValueError, "seed must lie in"),
        ({"greedy": True, "top_k": 5}, ValueError, "top_k must be None with greedy=True, got 5"),
        ({"greedy": True, "top_p": 0.5}, ValueError, "top_p must be None with greedy=True"),
    ],
)
def test_wrong_options(model, vocab, options, error, message):
    with pytest.raises(error, match=message):
        generate(**{"model": model, "vocab": vocab, "prefix": "fox", "num_chars": 3, **options})
