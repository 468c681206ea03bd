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


SHAPES = [
    {},
    {"tied": True},
    {"embedding_size": 5},
    {"embedding_size": 12, "tied": True},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_parameter_of_every_shape_learns(text, vocab, shape):
    ids = vocab.encode(text)
    model = CharLM(CharLMConfig(len(vocab), hidden_size=12, num_layers=2, **shape))
    loss, state = model.loss(ids[None, :200], ids[None, 1:201])
    assert loss.item() == pytest.approx(torch.tensor(len(vocab)).log().item(), rel=0.2)
    assert state.shape == (2, 1, 12)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_a_size_of_embedding_is_that_of_its_rows_and_of_the_input(vocab):
    model = CharLM(CharLMConfig(len(vocab), hidden_size=12, embedding_size=5))
    assert model.embedding.weight.shape == (len(vocab), 5)
    assert model.rnn.weight_ih_l0.shape == (12, 5)
    # Without one, a column of the input weight is a symbol's.
    assert CharLM(CharLMConfig(len(vocab), hidden_size=12)).rnn.weight_ih_l0.shape == (
        12,
        len(vocab),
    )


@pytest.mark.parametrize("embedding_size", [None, 12])
def test_tied_weights_are_one_tensor_of_the_input_and_the_output(vocab, embedding_size):
    config = CharLMConfig(
        len(vocab), hidden_size=12, num_layers=1, embedding_size=embedding_size, tied=True
    )
    model = CharLM(config)
    names = {name for name, _ in model.named_parameters()}
    assert "head.weight" not in names and "head.bias" in names
    assert model.output_weight.shape == (len(vocab), 12)
    ids = torch.randint(len(vocab), (2, 5))
    with torch.no_grad():
        model.output_weight[3] = 0
        model.head.bias[3] = 7
    # The symbol's input has changed as well as its logit.
    assert (model(ids)[0][..., 3] == 7).all()
    changed = torch.full((1, 1), 3)
    bias = model.rnn.bias_ih_l0 + model.rnn.bias_hh_l0
    torch.testing.assert_close(model.hidden(changed)[0][0, 0], torch.tanh(bias))


def test_loss_is_the_cross_entropy_of_the_logits(model, text, vocab):
    model.eval()
    ids = vocab.encode(text, torch.uint8)[:81]
    x, y = ids[:80].view(2, 40), ids[1:].view(2, 40)
    state = torch.randn(2, 2, 12, dtype=torch.float64)
    logits, end = model(x, state)
    expected = F.cross_entropy(logits.flatten(0, 1), y.flatten().long(), reduction="none")
    for reduction, value in (
        ("none", expected),
        ("mean", expected.mean()),
        ("sum", expected.sum()),
    ):
        loss, new = model.loss(x, y, state, reduction=reduction)
        torch.testing.assert_close(loss, value)
        torch.testing.assert_close(new, end)


def test_a_configuration_of_an_earlier_version_loads():
    old = {"vocab_size": 5, "hidden_size": 7, "num_layers": 1, "nonlinearity": "relu"}
    config = CharLMConfig.from_json(old | {"dropout": 0.5})
    assert config.embedding_size is None and config.tied is False
    with pytest.raises(ValueError, match="config must have the fields"):
        CharLMConfig.from_json(old)
    with pytest.raises(ValueError, match="config must have the fields"):
        CharLMConfig.from_json(old | {"dropout": 0.5, "heads": 2})


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
        ({"embedding_size": 0}, ValueError, "embedding_size must be at least 1, got 0"),
        ({"embedding_size": 2.0}, TypeError, "embedding_size must be an int, got 2.0"),
        ({"tied": 1}, TypeError, "tied must be a bool, got 1"),
        (
            {"tied": True, "embedding_size": 7},
            ValueError,
            "embedding_size must equal hidden_size=500 if the output weights are tied",
        ),
    ],
)
def test_config_refuses(change, error, message):
    with pytest.raises(error, match=message):
        CharLMConfig(**({"vocab_size": 5} | change))


@pytest.mark.parametrize("values", [None, [], {}, {"vocab_size": 5}])
def test_config_from_json_names_the_fields(values):
    with pytest.raises(ValueError, match="config must have the fields"):
        CharLMConfig.from_json(values)
