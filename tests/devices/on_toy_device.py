"""Layers and functions on the device ``toy`` against the CPU. test_devices.py runs this file in its own process."""

import copy

import pytest
import torch
import toy_device  # noqa: F401 (registers the device)
from torch.nn.utils.rnn import pack_padded_sequence

import rnnfused
from rnnfused import functional, reference

OPTIONS = {
    "plain": {},
    "relu": {"nonlinearity": "relu"},
    "layers": {"num_layers": 2, "bidirectional": True},
    "batch_first": {"batch_first": True},
    "heads": {"heads": 2},
    "clip": {"state_grad_clip": 0.1},
    "no bias": {"bias": False},
}


def to(device, x):
    return x.to(device) if isinstance(x, torch.Tensor | torch.nn.Module) else x


def results_and_gradients(module, *inputs, **keywords):
    """Returns, for each device: results and gradients (inputs, parameters) as CPU tensors."""
    both = []
    for device in ("cpu", "toy"):
        here = copy.deepcopy(module).to(device)
        given = [x.to(device) for x in inputs]
        leaves = [x.requires_grad_() for x in given if x.is_floating_point()]
        results = here(*given, **keywords)
        results = results if isinstance(results, tuple) else (results,)
        assert all(x.device.type == device for x in results)
        weights = [torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view(x.shape) for x in results]
        loss = sum((x * to(device, w)).sum() for x, w in zip(results, weights, strict=True))
        gradients = torch.autograd.grad(loss, [*leaves, *here.parameters()])
        both.append([x.detach().cpu() for x in (*results, *gradients)])
    return both


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("lengths", [None, [5, 0, 3]])
def test_layers(name, lengths):
    options = OPTIONS[name]
    module = rnnfused.RNN(3, 4, dtype=torch.float64, **options)
    x = torch.randn(3, 5, 3) if options.get("batch_first") else torch.randn(5, 3, 3)
    states = torch.randn(module.num_layers * (1 + module.bidirectional), 3, 4).double()
    torch.testing.assert_close(*results_and_gradients(module, x.double(), states, lengths=lengths))


def test_unbatched_and_packed_and_tokens_and_cell():
    module = rnnfused.RNN(3, 4, dtype=torch.float64)
    torch.testing.assert_close(*results_and_gradients(module, torch.randn(5, 3).double()))
    tokens = rnnfused.TokenRNN(7, 4, dtype=torch.float64)
    torch.testing.assert_close(*results_and_gradients(tokens, torch.randint(7, (5, 3))))
    cell = rnnfused.RNNCell(3, 4, dtype=torch.float64)
    state = torch.randn(2, 4).double()
    torch.testing.assert_close(*results_and_gradients(cell, torch.randn(2, 3).double(), state))
    packed = pack_padded_sequence(torch.randn(5, 3, 3).double(), [2, 5, 3], enforce_sorted=False)
    expected, h_n = module(packed)
    got, got_h_n = module.to("toy")(packed.to("toy"))
    torch.testing.assert_close((got.data.cpu(), got_h_n.cpu()), (expected.data, h_n))


@pytest.mark.parametrize("reverse", [False, True])
def test_second_derivatives(reverse):
    p, w, h = (torch.randn(s).double() for s in ((4, 2, 3), (3, 3), (2, 3)))
    both = []
    for device, rnn in (("cpu", reference.rnn), ("toy", functional.rnn)):
        leaves = [x.to(device).requires_grad_() for x in (p, w, h)]
        output, h_n = rnn(*leaves, reverse=reverse)
        first = torch.autograd.grad(output.square().sum() + h_n.sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(x.square().sum() for x in first), leaves)
        both.append([x.detach().cpu() for x in (*first, *second)])
    torch.testing.assert_close(*both)


@pytest.mark.parametrize("tokens", [False, True])
def test_scripted_layers(tokens):
    module = rnnfused.TokenRNN(7, 4, 2) if tokens else rnnfused.RNN(3, 4, 2)
    x = torch.randint(7, (5, 2)) if tokens else torch.randn(5, 2, 3)
    expected = module(x)
    output, h_n = torch.jit.script(module.to("toy"))(x.to("toy"))
    torch.testing.assert_close((output.cpu(), h_n.cpu()), expected)


def test_exported_on_the_cpu_and_moved(tmp_path):
    from torch.export.passes import move_to_device_pass

    module, x = rnnfused.RNN(3, 4, 2, bidirectional=True), torch.randn(5, 2, 3)
    torch.export.save(torch.export.export(module, (x,)), tmp_path / "layers.pt2")
    moved = move_to_device_pass(torch.export.load(tmp_path / "layers.pt2"), "toy").module()
    output, h_n = moved(x.to("toy"))
    torch.testing.assert_close((output.cpu(), h_n.cpu()), module(x))


def test_wrong_input_is_explained():
    tokens = rnnfused.TokenRNN(7, 4).to("toy")
    with pytest.raises(IndexError, match=r"must be in \[0, 7\)"):
        tokens(torch.tensor([[7]]).to("toy"))
    with pytest.raises(RuntimeError, match="input must be on toy"):
        rnnfused.RNN(3, 4).to("toy")(torch.randn(5, 2, 3))
    with pytest.raises(ValueError, match="weight_hh must be on toy"):
        functional.rnn(torch.randn(5, 2, 4).to("toy"), torch.randn(4, 4))
