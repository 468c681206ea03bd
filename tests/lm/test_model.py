"""The model: shapes, carried state, configuration."""

import json

import pytest
import torch
from torch.nn import functional as F

from rnnfused.lm import CharLM, CharLMConfig, StreamBatches


def test_shapes_and_dtypes(model, vocab):
    ids = torch.randint(len(vocab), (3, 5), dtype=torch.int32)
    logits, state = model(ids)
    assert logits.shape == (3, 5, len(vocab))
    assert state.shape == (2, 3, 12)
    assert logits.dtype == state.dtype == torch.float64


def test_carried_state_equals_one_long_sequence(model, text, vocab):
    model.eval()
    ids = vocab.encode(text)[:481]
    whole, end = model(ids[:480].view(2, 240))
    state, parts = None, []
    for x, _ in StreamBatches(ids, 2, 50):
        logits, state = model(x, state)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    torch.testing.assert_close(state, end)


def test_every_parameter_learns(model, text, vocab):
    ids = vocab.encode(text)
    model.eval()
    logits, _ = model(ids[None, :200])
    F.cross_entropy(logits[0], ids[1:201]).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_dropout_acts_in_training_only_even_with_one_layer(vocab):
    model = CharLM(CharLMConfig(len(vocab), hidden_size=12, num_layers=1, dropout=0.5))
    ids = torch.ones(1, 8, dtype=torch.long)
    assert not torch.equal(model(ids)[0], model(ids)[0])
    model.eval()
    assert torch.equal(model(ids)[0], model(ids)[0])


def test_ids_outside_the_vocabulary_are_refused(model, vocab):
    with pytest.raises((IndexError, ValueError)):
        model(torch.tensor([[len(vocab)]]))


def test_config_round_trip():
    config = CharLMConfig(30, hidden_size=7, num_layers=3, nonlinearity="relu", dropout=0.25)
    assert CharLMConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"vocab_size": 0}, ValueError, "vocab_size must be at least 1, got 0"),
        ({"hidden_size": -3}, ValueError, "hidden_size must be at least 1, got -3"),
        (
            {"vocab_size": 2**31},
            ValueError,
            "vocab_size must be at most 2147483647, got 2147483648",
        ),
        ({"hidden_size": 10**30}, ValueError, "hidden_size must be at most 2147483647, got 1000"),
        ({"num_layers": 1001}, ValueError, "num_layers must be at most 1000, got 1001"),
        ({"num_layers": 1.5}, TypeError, "num_layers must be an int, got 1.5"),
        ({"num_layers": True}, TypeError, "num_layers must be an int, got True"),
        ({"nonlinearity": "gelu"}, ValueError, "'tanh' or 'relu', got 'gelu'"),
        ({"dropout": 1.0}, ValueError, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"dropout": "0.1"}, TypeError, "dropout must be a float, got '0.1'"),
    ],
)
def test_config_refuses(change, error, message):
    with pytest.raises(error, match=message):
        CharLMConfig(**({"vocab_size": 5} | change))


@pytest.mark.parametrize("values", [None, [], {}, {"vocab_size": 5}])
def test_config_from_json_names_the_fields(values):
    with pytest.raises(ValueError, match="config must have the fields"):
        CharLMConfig.from_json(values)
