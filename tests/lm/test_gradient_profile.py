"""The gradient's norm by distance, against autograd through the model's own calls."""

import json

import pytest
import torch
from runs import SMALL, TEXT
from torch.nn import functional as F

from rnnfused.lm import CharLM, CharLMConfig, Vocab, train
from rnnfused.lm.gradient_profile import gradient_profile

SHAPES = [
    {"num_layers": 1},
    {"num_layers": 3, "nonlinearity": "relu", "dropout": 0.5},
    {"num_layers": 2, "embedding_size": 5},
    {"num_layers": 2, "embedding_size": 8, "tied": True},
    {"num_layers": 2, "tied": True},
]


def by_jacobians(model, ids):
    """The top layer's norms: the loss as a function of a change of one state."""
    model = model.double().eval()
    norms = []
    for distance in range(len(ids) - 1):
        split = len(ids) - 1 - distance
        _, state = model.hidden(ids[None, :split])
        change = torch.zeros_like(state[-1], requires_grad=True)
        changed = torch.cat([state[:-1], (state[-1] + change)[None]])
        if distance == 0:
            hidden = changed[-1]
        else:
            hidden = model.hidden(ids[None, split:-1], changed)[0][:, -1]
        logits = F.linear(hidden, model.output_weight, model.head.bias)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, ids[-1:]), change)
        norms.append(gradient.norm().item())
    return norms


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_top_layer_against_jacobians(shape):
    torch.manual_seed(0)
    model = CharLM(CharLMConfig(7, hidden_size=8, **shape))
    ids = torch.randint(7, (13,))
    profile = gradient_profile(model, ids, num_windows=1)
    assert len(profile) == shape["num_layers"] and all(len(norms) == 12 for norms in profile)
    assert profile[-1] == pytest.approx(by_jacobians(model, ids), rel=1e-9, abs=1e-12)


def test_a_lower_layer_counts_what_it_gives_to_the_one_above():
    torch.manual_seed(0)
    model = CharLM(CharLMConfig(7, hidden_size=8, num_layers=2))
    with torch.no_grad():
        model.rnn.weight_hh_l0.zero_()  # so it reaches the loss through the layer above alone
    lower, upper = gradient_profile(model, torch.randint(7, (20,)), num_windows=1)
    assert min(lower) > 0 and len(lower) == 19


@pytest.mark.parametrize(("scale", "grows"), [(0.5, False), (2.0, True)])
def test_a_linear_recurrence_vanishes_or_explodes_geometrically(scale, grows):
    model = CharLM(CharLMConfig(3, hidden_size=4, num_layers=1, nonlinearity="relu"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.25)
        model.rnn.weight_hh_l0.copy_(scale * torch.eye(4))
        model.head.weight[0] = 1.0
    (norms,) = gradient_profile(model, torch.tensor([0, 1, 2, 1, 0, 2, 1]))
    ratios = [after / before for before, after in zip(norms, norms[1:])]
    assert ratios == pytest.approx([scale] * 5)
    assert (norms[-1] > norms[0]) == grows


def test_windows_are_averaged():
    torch.manual_seed(0)
    model = CharLM(CharLMConfig(7, hidden_size=8, num_layers=1))
    ids = torch.randint(7, (25,))
    mean = gradient_profile(model, ids, distance=5, num_windows=3)[0]
    # Starts spread evenly: at 0, 9 and 18.
    each = [gradient_profile(model, ids[start : start + 7])[0] for start in (0, 9, 18)]
    assert mean == pytest.approx([sum(norms) / 3 for norms in zip(*each)])
    # The model stays as it is.
    assert model.training and model.head.bias.requires_grad
    assert model.head.bias.dtype == torch.float32 and model.head.bias.grad is None


IDS = torch.zeros(9, dtype=torch.long)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": None}, TypeError, "model must be a CharLM, got NoneType"),
        ({"ids": IDS[:1]}, ValueError, "ids must be at least 2, got 1"),
        ({"ids": [1, 2, 3]}, TypeError, "ids must be a tensor of integers, got list"),
        ({"ids": IDS.float()}, TypeError, "ids must be a tensor of integers, got torch.float32"),
        ({"ids": IDS.view(3, 3)}, ValueError, r"ids must be 1-D, got shape \(3, 3\)"),
        ({"ids": IDS + 7}, IndexError, "ids must lie in 0 .. 6, .* got values from 7 to 7"),
        ({"ids": IDS - 1}, IndexError, "ids must lie in 0 .. 6, .* got values from -1 to -1"),
        ({"distance": -1}, ValueError, "^distance must be at least 0, got -1"),
        ({"distance": 1.5}, TypeError, "distance must be an int, got 1.5"),
        ({"distance": "a"}, TypeError, "distance must be an int, got 'a'"),
        ({"num_windows": 0}, ValueError, "^num_windows must be at least 1, got 0"),
        ({"num_windows": 2.5}, TypeError, "num_windows must be an int, got 2.5"),
    ],
)
def test_wrong_arguments(options, error, message):
    model = CharLM(CharLMConfig(7, hidden_size=8))
    with pytest.raises(error, match=message):
        gradient_profile(**{"model": model, "ids": IDS, **options})


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.uint64], ids=str)
def test_any_integer_dtype(dtype):
    model = CharLM(CharLMConfig(7, hidden_size=8))
    ids = torch.arange(6)
    assert gradient_profile(model, ids.to(dtype)) == gradient_profile(model, ids)


def test_a_run_leaves_it_as_json_and_as_a_plot(tmp_path):
    train(TEXT, tmp_path / "without", SMALL)
    assert not list((tmp_path / "without").glob("gradients*"))
    train(TEXT, tmp_path / "run", SMALL, profile_gradients=True)
    values = json.loads((tmp_path / "run" / "gradients.json").read_text())
    # The validation text has 72 symbols.
    assert values["distance"] == list(range(71)) and len(values["norms"][0]) == 71
    from rnnfused.lm import load_checkpoint

    ids = Vocab(TEXT).encode(TEXT[-72:])
    assert values["norms"] == gradient_profile(load_checkpoint(tmp_path / "run").model, ids)
    assert (tmp_path / "run" / "gradients.png").read_bytes().startswith(b"\x89PNG")
