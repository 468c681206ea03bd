"""replace_rnn and restore_rnn keep a model's parameters, optimizer, hooks, ties and references."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import rnnfused

TOLERANCE = dict(rtol=1e-9, atol=1e-11)


class Model(nn.Module):
    """Has one RNN twice, one in a list, a cell, and a tied embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 5)
        self.first = nn.RNN(5, 5, num_layers=2)
        self.again = self.first
        self.others = nn.ModuleList([nn.RNN(5, 5, nonlinearity="relu", bias=False)])
        self.cell = nn.RNNCell(5, 5)
        self.head = nn.Linear(5, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        x, h = self.first(self.embedding(ids))
        x, _ = self.again(x, h)
        x, _ = self.others[0](x)
        return self.head(self.cell(x[-1], x[0]))


def model():
    torch.manual_seed(0)
    return Model().double()


IDS = torch.arange(12).view(4, 3) % 7


def rnns(module):
    return [type(m) for m in module.modules() if isinstance(m, (nn.RNNBase, nn.RNNCell))]


def trained(module, steps, optimizer=None):
    optimizer = optimizer or torch.optim.Adam(module.parameters(), lr=0.01)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(module(IDS), IDS[0])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_round_trip_keeps_modules_and_parameters():
    module = model()
    modules, parameters = dict(module.named_modules()), dict(module.named_parameters())
    state = copy.deepcopy(module.state_dict())
    expected = module(IDS)
    assert rnnfused.replace_rnn(module) is module
    assert rnns(module) == [rnnfused.RNN, rnnfused.RNN, rnnfused.RNNCell]
    assert module.first is module.again
    torch.testing.assert_close(module(IDS), expected, **TOLERANCE)
    rnnfused.replace_rnn(module)  # again: nothing changes
    for swap in (lambda m: m, rnnfused.restore_rnn):
        swap(module)
        assert all(module.get_submodule(name) is m for name, m in modules.items())
        assert all(module.get_parameter(name) is p for name, p in parameters.items())
        assert module.state_dict().keys() == state.keys()
    assert rnns(module) == [nn.RNN, nn.RNN, nn.RNNCell]
    assert torch.equal(module(IDS), expected)
    assert repr(module) == repr(model())


def test_an_optimizer_keeps_its_state():
    module, other = model(), model()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    losses = trained(module, 4, optimizer)
    rnnfused.replace_rnn(module)
    losses += trained(module, 4, optimizer)
    rnnfused.restore_rnn(module)
    losses += trained(module, 4, optimizer)
    torch.testing.assert_close(losses, trained(other, 12), **TOLERANCE)
    assert losses[-1] < losses[0]


def test_hooks_survive():
    module, calls = model(), []
    hooks = (
        module.first.register_forward_pre_hook(lambda *_: calls.append("pre")),
        module.first.register_forward_hook(lambda *_: calls.append("after")),
        module.first.register_full_backward_hook(lambda *_: calls.append("backward")),
        module.first.weight_hh_l1.register_hook(lambda g: calls.append("gradient")),
    )
    module(IDS).sum().backward()
    expected = calls.copy()
    calls.clear()
    rnnfused.replace_rnn(module)
    module(IDS).sum().backward()
    assert sorted(calls) == sorted(expected) and calls.count("pre") == 2
    for hook in hooks:
        hook.remove()
    calls.clear()
    module(IDS).sum().backward()
    assert not calls


def test_a_hook_that_changes_the_output():
    module = model()
    module.first.register_forward_hook(lambda m, args, out: (2 * out[0], out[1]))
    expected = module(IDS)
    torch.testing.assert_close(rnnfused.replace_rnn(module)(IDS), expected, **TOLERANCE)


@pytest.mark.parametrize("change", [parametrizations.weight_norm, parametrizations.orthogonal])
def test_parametrizations_survive(change):
    module = model()
    change(module.first, "weight_hh_l1")
    change(module.cell, "weight_hh")
    expected, parameters = module(IDS), list(module.parameters())
    rnnfused.replace_rnn(module)
    assert isinstance(module.first, rnnfused.RNN) and isinstance(module.cell, rnnfused.RNNCell)
    assert parametrize.is_parametrized(module.first, "weight_hh_l1")
    assert all(a is b for a, b in zip(module.parameters(), parameters, strict=True))
    torch.testing.assert_close(module(IDS), expected, **TOLERANCE)
    module(IDS).sum().backward()
    assert all(p.grad is not None for p in module.parameters())
    torch.testing.assert_close(rnnfused.restore_rnn(module)(IDS), expected, **TOLERANCE)
    assert type(module.first).__bases__ == (nn.RNN,)
    rnnfused.replace_rnn(module)
    parametrize.remove_parametrizations(module.first, "weight_hh_l1")
    parametrize.remove_parametrizations(module.cell, "weight_hh")
    assert rnns(module) == [rnnfused.RNN, rnnfused.RNN, rnnfused.RNNCell]
    torch.testing.assert_close(module(IDS), expected, **TOLERANCE)


def test_old_weight_norm_survives():
    module = model()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(module.first, "weight_ih_l0")
    expected = module(IDS)
    rnnfused.replace_rnn(module)
    torch.testing.assert_close(module(IDS), expected, **TOLERANCE)
    with torch.no_grad():
        module.first.weight_ih_l0_g.mul_(2)
    assert not torch.allclose(module(IDS), expected)


def test_ties_survive():
    module = model()
    module.others[0].weight_hh_l0 = module.first.weight_hh_l0
    rnnfused.replace_rnn(module)
    assert module.others[0].weight_hh_l0 is module.first.weight_hh_l0
    assert module.head.weight is module.embedding.weight
    with torch.no_grad():
        module.first.weight_hh_l0.zero_()
    assert not module.others[0].all_weights[0][1].any()
    rnnfused.restore_rnn(module)
    assert module.others[0].weight_hh_l0 is module.first.weight_hh_l0


@pytest.mark.parametrize("swaps", [[], [rnnfused.restore_rnn]])
def test_a_weight_assigned_after_the_swap_is_used(swaps):
    module, x = nn.RNN(4, 5), torch.randn(3, 2, 4)
    rnnfused.replace_rnn(module)
    module(x)
    for swap in swaps:
        swap(module)
    module.weight_hh_l0 = nn.Parameter(torch.zeros(5, 5))
    expected = torch.tanh(
        nn.functional.linear(x, module.weight_ih_l0, module.bias_ih_l0 + module.bias_hh_l0)
    )
    torch.testing.assert_close(module(x)[0], expected)


@pytest.mark.parametrize("theirs, ours", [(nn.RNN, rnnfused.RNN), (nn.RNNCell, rnnfused.RNNCell)])
def test_a_model_that_is_an_rnn(theirs, ours):
    module = theirs(4, 5)
    assert rnnfused.replace_rnn(module) is module and type(module) is ours
    assert rnnfused.restore_rnn(module) is module and type(module) is theirs


class Own(nn.RNN):
    def forward(self, input, hx=None):
        output, h_n = super().forward(input, hx)
        return output + 1, h_n


def test_a_subclass_is_left_with_a_warning():
    module = nn.Sequential(Own(4, 5), nn.LSTM(5, 5), nn.GRU(5, 5), nn.LSTMCell(5, 5))
    with pytest.warns(UserWarning, match="Own") as caught:
        rnnfused.replace_rnn(module)
    assert len(caught) == 1
    assert [type(m) for m in module] == [Own, nn.LSTM, nn.GRU, nn.LSTMCell]


def test_a_plain_swap_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rnnfused.restore_rnn(rnnfused.replace_rnn(model()))
        rnnfused.restore_rnn(rnnfused.replace_rnn(nn.Linear(2, 2)))


def test_pickles_and_copies_of_a_replaced_model():
    module = rnnfused.replace_rnn(model())
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert rnns(other) == rnns(module)
        assert torch.equal(other(IDS), module(IDS))
        torch.testing.assert_close(rnnfused.restore_rnn(other)(IDS), module(IDS), **TOLERANCE)


def test_modes_and_options_survive():
    module = nn.RNN(4, 5, 3, "relu", False, True, 0.5, True).eval()
    x, text = torch.randn(2, 3, 4), repr(module)
    expected = module(x)
    rnnfused.replace_rnn(module)
    assert not module.training and repr(module) == text
    torch.testing.assert_close(module(x), expected)
    rnnfused.restore_rnn(module.train())
    assert module.training and repr(module) == text and module(x)[0].shape == expected[0].shape


@pytest.mark.parametrize("options", [dict(heads=5), dict(state_grad_clip=1.0)])
def test_options_beyond_torchs_are_not_restored(options):
    module = nn.Sequential(rnnfused.RNN(4, 5), rnnfused.RNN(5, 5, **options))
    with pytest.raises(ValueError, match=next(iter(options))):
        rnnfused.restore_rnn(module)
    assert rnns(module) == [rnnfused.RNN] * 2


@pytest.mark.parametrize("swap", [rnnfused.replace_rnn, rnnfused.restore_rnn])
def test_a_model_of_another_type_is_refused(swap):
    with pytest.raises(TypeError, match="model"):
        swap([nn.RNN(4, 5)])


def test_torchs_model_loads_a_replaced_models_checkpoint():
    ours, theirs = rnnfused.replace_rnn(model()), model()
    trained(ours, 3)
    for assign in (True, False):
        theirs.load_state_dict(ours.state_dict(), strict=True, assign=assign)
        torch.testing.assert_close(theirs(IDS), ours(IDS), **TOLERANCE)
