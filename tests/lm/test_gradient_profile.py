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


def test_wrong_arguments():
    model = CharLM(CharLMConfig(7, hidden_size=8))
    for ids, changes in (
        (torch.zeros(1, dtype=torch.long), {}),
        (torch.zeros(9, dtype=torch.long), {"distance": -1}),
        (torch.zeros(9, dtype=torch.long), {"num_windows": 0}),
    ):
        with pytest.raises(ValueError, match="ids must be at least 2, distance at least 0"):
            gradient_profile(model, ids, **changes)


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
