"""A module's state: constructor, parameters, state dict, pickles, copies, tied weights."""

import copy
import inspect
import io
import pickle
import warnings

import pytest
import torch
from torch.nn.utils import parametrizations, prune

import rnnfused

OPTIONS = [
    {},
    dict(num_layers=2, nonlinearity="relu", dropout=0.3),
    dict(bias=False, batch_first=True),
    dict(num_layers=3, bidirectional=True),
    dict(dtype=torch.float64, bidirectional=True),
    dict(dtype=torch.bfloat16, device="cpu"),
]
CLASSES = {torch.nn.RNN: rnnfused.RNN, torch.nn.RNNCell: rnnfused.RNNCell}
every_option = pytest.mark.parametrize("options", OPTIONS, ids=str)
each_class = pytest.mark.parametrize("theirs", CLASSES, ids=lambda cls: cls.__name__)
TOLERANCE = dict(rtol=1e-9, atol=1e-11)


def built(cls, *args, seed=0, **kwargs):
    torch.manual_seed(seed)
    return cls(*args, **kwargs)


def pair(theirs=torch.nn.RNN, *args, **kwargs):
    """Returns rnnfused's and torch's modules from the same seed, in float64."""
    args, kwargs = args or (4, 5), dict(dtype=torch.float64) | kwargs
    return built(CLASSES[theirs], *args, **kwargs), built(theirs, *args, **kwargs)


def sample(module, time=3, batch=2):
    shape = (time, batch) if isinstance(module, torch.nn.RNNBase) else (batch,)
    generator = torch.Generator().manual_seed(1)
    weight = next(module.parameters())
    return torch.randn(*shape, 4, generator=generator, dtype=weight.dtype)


def output_of(module, x):
    result = module(x)
    return result[0] if isinstance(result, tuple) else result


def gradients(module, x, run=output_of):
    """Returns the output and the gradients of the input and the parameters, by name."""
    module.zero_grad()
    x = x.clone().requires_grad_()
    output = run(module, x)
    output.sin().sum().backward()
    return dict(output=output, x=x.grad, **{n: p.grad for n, p in module.named_parameters()})


def check_close(got, expected):
    assert got.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], **TOLERANCE, msg=lambda m: name + m)


def check_as_torchs(ours, theirs, run=output_of):
    check_close(gradients(ours, sample(ours), run), gradients(theirs, sample(theirs), run))


def check_state_dict_both_ways(ours_class, theirs_class=torch.nn.RNN):
    for assign in (False, True):
        for source, target in ((ours_class, theirs_class), (theirs_class, ours_class)):
            a, b = built(source, 4, 5), built(target, 4, 5, seed=1)
            b.load_state_dict(a.state_dict(), strict=True, assign=assign)
            torch.testing.assert_close(output_of(b, sample(b)), output_of(a, sample(a)))


def check_pickles(ours_class, theirs_class=torch.nn.RNN):
    module = built(ours_class, 4, 5)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    for other in (loaded, pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        assert type(other) is ours_class and repr(other) == repr(module)
        assert other.training == module.training
        assert all(a is not b for a, b in zip(other.parameters(), module.parameters()))
        assert torch.equal(output_of(other, sample(other)), output_of(module, sample(module)))
        with torch.no_grad():  # the copy runs with its own weights
            next(other.parameters()).zero_()
        assert not torch.equal(output_of(other, sample(other)), output_of(module, sample(module)))


def check_tied(ours_class, theirs_class=torch.nn.RNN):
    both = [built(c, 5, 5, 2, dtype=torch.float64) for c in (ours_class, theirs_class)]
    x, results = torch.randn(3, 2, 5, dtype=torch.float64), []
    for module in both:
        with torch.no_grad():
            module.weight_hh_l0.mul_(2)
        module.weight_hh_l1 = module.weight_hh_l0
        assert len(list(module.parameters())) == 7
        results.append(gradients(module, x))
    check_close(*results)


@each_class
def test_state_dict_of_each_class_both_ways(theirs):
    check_state_dict_both_ways(CLASSES[theirs], theirs)


@each_class
def test_pickles_and_copies(theirs):
    check_pickles(CLASSES[theirs], theirs)


def test_pickles_that_name_the_former_module_of_token_rnn():
    module = rnnfused.TokenRNN(4, 5)
    pickled = pickle.dumps(module, protocol=2)  # names its classes as lines of text
    former = pickled.replace(b"rnnfused.token_rnn\n", b"rnnfused.rnn\n")
    assert former != pickled
    loaded, ids = pickle.loads(former), torch.tensor([[0, 3], [2, 1]])
    assert type(loaded) is rnnfused.TokenRNN
    assert torch.equal(output_of(loaded, ids), output_of(module, ids))


def test_two_layers_share_a_parameter():
    check_tied(rnnfused.RNN)


@every_option
def test_built_as_torchs(options):
    ours, theirs = built(rnnfused.RNN, 4, 5, **options), built(torch.nn.RNN, 4, 5, **options)
    for (name, a), (expected_name, b) in zip(
        ours.named_parameters(), theirs.named_parameters(), strict=True
    ):
        assert name == expected_name and type(a) is type(b) and a.dtype == b.dtype
        assert torch.equal(a, b)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert repr(ours) == repr(theirs)
    assert [[w.shape for w in ws] for ws in ours.all_weights] == [
        [w.shape for w in ws] for ws in theirs.all_weights
    ]
    assert all(w is p for w, p in zip(sum(ours.all_weights, []), ours.parameters(), strict=True))
    assert ours.flatten_parameters() is None
    public = {k for k in vars(theirs) if not k.startswith("_")}
    assert {k: getattr(ours, k) for k in public} == {k: getattr(theirs, k) for k in public}
    assert isinstance(ours, torch.nn.RNNBase)
    ours.reset_parameters()
    assert not torch.equal(next(ours.parameters()), next(theirs.parameters()))


@each_class
def test_all_arguments_by_position_and_by_name(theirs):
    ours = CLASSES[theirs]
    if theirs is torch.nn.RNN:
        names = (
            "input_size hidden_size num_layers nonlinearity bias batch_first dropout bidirectional"
        )
        names = (*names.split(), "proj_size", "device", "dtype")
        values = (4, 5, 2, "relu", False, True, 0.25, True, 0, "cpu", torch.float64)
    else:
        names = "input_size hidden_size bias nonlinearity device dtype".split()
        values = (4, 5, False, "relu", "cpu", torch.float64)
        assert list(inspect.signature(ours).parameters) == names
    by_name = {k: v for k, v in zip(names, values, strict=True) if k != "proj_size"}
    expected = built(theirs, *values)
    for module in (built(ours, *values), built(ours, **by_name), built(theirs, **by_name)):
        assert repr(module) == repr(expected) and module.nonlinearity == "relu"
        assert list(module.state_dict()) == list(expected.state_dict())
        assert all(torch.equal(a, b) for a, b in zip(module.parameters(), expected.parameters()))


@each_class
def test_forward_takes_keyword_arguments(theirs):
    ours, expected = pair(theirs)
    x = sample(ours)
    for got, wanted in zip(ours(input=x, hx=None), expected(input=x, hx=None), strict=True):
        torch.testing.assert_close(got, wanted, **TOLERANCE)


@each_class
def test_frozen_weights(theirs):
    ours, expected = pair(theirs)
    for module in (ours, expected):
        for name, weight in module.named_parameters():
            weight.requires_grad_(name.startswith("bias_hh"))
    check_as_torchs(ours, expected)


def test_an_assigned_weight_is_used():
    ours, theirs = pair()
    ours(sample(ours))
    for module in (ours, theirs):
        torch.manual_seed(3)
        module.weight_hh_l0 = torch.nn.Parameter(torch.randn(5, 5, dtype=torch.float64))
        module.bias_ih_l0.data = torch.randn(5, dtype=torch.float64)
    check_as_torchs(ours, theirs)
    assert ours.all_weights[0][1] is ours.weight_hh_l0


def without_warnings(change):
    def changed(module, name):
        with warnings.catch_warnings():  # the function is deprecated
            warnings.simplefilter("ignore")
            return change(module, name)

    return changed


CHANGES = {
    "old weight_norm": without_warnings(torch.nn.utils.weight_norm),
    "old spectral_norm": without_warnings(torch.nn.utils.spectral_norm),
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "pruned": lambda module, name: prune.l1_unstructured(module, name, amount=0.4),
}


@pytest.mark.parametrize("change", CHANGES)
@each_class
def test_weights_computed_from_other_parameters(theirs, change):
    ours, expected = pair(theirs)
    name = "weight_hh_l0" if theirs is torch.nn.RNN else "weight_hh"
    for module in (ours, expected):
        torch.manual_seed(2)
        CHANGES[change](module, name)
        module.eval()  # in training mode, each read of spectral_norm's weight changes its buffers
    check_as_torchs(ours, expected)
    before = output_of(ours, sample(ours))
    with torch.no_grad():
        for weight in ours.parameters():  # as a step of training does
            weight.mul_(0.9)
    assert not torch.allclose(output_of(ours, sample(ours)), before)
    expected.load_state_dict(ours.state_dict(), strict=True)
    check_as_torchs(ours, expected)


@each_class
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_functional_call(theirs, dtype):
    # The given parameters replace the module's, in another dtype too.
    ours, expected = pair(theirs, dtype=torch.float32)
    x, results = sample(ours).to(dtype), []
    for module in (ours, expected):
        weights = {n: (2 * p.detach()).to(dtype) for n, p in module.named_parameters()}
        for weight in weights.values():
            weight.requires_grad_()
        result = torch.func.functional_call(module, weights, (x,))
        output = result[0] if isinstance(result, tuple) else result
        results.append([output, *torch.autograd.grad(output.sin().sum(), [*weights.values()])])
        assert output.dtype == dtype
    torch.testing.assert_close(*results)
    assert torch.equal(output_of(ours, sample(ours)), output_of(copy.deepcopy(ours), sample(ours)))
