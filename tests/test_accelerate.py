"""Large layers where torch multiplies by Accelerate, on any machine: the products are torch's, the values those of the op."""

import pytest
import torch

import rnnfused
from rnnfused.ops import matmul

OPTIONS = [
    {},
    {"batch_first": True},
    {"num_layers": 2, "bidirectional": True},
    {"nonlinearity": "relu", "bias": False},
    {"heads": 2},
    {"state_grad_clip": 0.01},
]


@pytest.fixture
def accelerate(monkeypatch):
    """A function that turns Accelerate on, for products of any size."""

    def turn_on():
        monkeypatch.setattr(matmul, "HAS_ACCELERATE", True)
        monkeypatch.setattr(matmul, "MIN_ACCELERATE_WORK", 0)

    return turn_on


def results(module, x, **keywords):
    x = x.clone().requires_grad_()
    output, h_n = module(x, **keywords)
    leaves = [x, *module.parameters()]
    return [output, h_n, *torch.autograd.grad(output.sin().sum() + h_n.sum(), leaves)]


def products_of(run):
    """The names of the products and of the package's ops in a call."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    return {event.name for event in profile.events()}


@pytest.mark.parametrize("lengths", [None, [9, 0, 4]])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_values_and_gradients(options, lengths, accelerate):
    torch.manual_seed(0)
    module = rnnfused.RNN(5, 8, dtype=torch.float64, **options)
    x = torch.randn((3, 9, 5) if "batch_first" in options else (9, 3, 5), dtype=torch.float64)
    keywords = {} if lengths is None else {"lengths": lengths}
    expected = results(module, x, **keywords)
    accelerate()
    for got, wanted in zip(results(module, x, **keywords), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def test_derivatives_of_second_order(accelerate):
    accelerate()
    module = rnnfused.RNN(3, 4, dtype=torch.float64)
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: module(x), x)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_products_are_those_of_torch(bidirectional, accelerate):
    module = rnnfused.RNN(5, 8, bidirectional=bidirectional)
    x = torch.randn(9, 3, 5, requires_grad=True)
    accelerate()
    names = products_of(lambda: module(x)[0].sum().backward())
    assert {"aten::linear", "rnnfused::layer", "rnnfused::recurrence_backward"} <= names
    assert not names & {"rnnfused::layer_backward", "rnnfused::both_directions"}


@pytest.mark.parametrize("case", ["deterministic", "small", "ids", "bfloat16"])
def test_other_calls_take_the_op_alone(case, accelerate, monkeypatch):
    dtype = torch.bfloat16 if case == "bfloat16" else torch.float32
    module = (rnnfused.TokenRNN if case == "ids" else rnnfused.RNN)(5, 8, dtype=dtype)
    x = torch.randint(5, (9, 3)) if case == "ids" else torch.randn(9, 3, 5, dtype=dtype)
    accelerate()
    if case == "small":
        monkeypatch.setattr(matmul, "MIN_ACCELERATE_WORK", 9 * 3 * 8 * 8 + 1)
    if case == "deterministic":
        monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    names = products_of(lambda: module(x)[0].sum().backward())
    assert not names & {"aten::linear", "rnnfused::project"}
    assert ("rnnfused::layer_backward" in names) == (case != "ids")


def test_is_off_on_this_machine():
    assert not matmul.HAS_ACCELERATE or torch.backends.mps.is_built()
