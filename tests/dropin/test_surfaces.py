"""Autocast in recorded programs, packed gradients per sample and operation counts as torch's; messages of refusals."""

import pytest
import torch
from torch.nn.utils._per_sample_grad import call_for_per_sample_grads
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils.flop_counter import FlopCounterMode

import rnnfused


class AfterLinear(torch.nn.Module):
    def __init__(self, rnn):
        super().__init__()
        self.linear, self.rnn = torch.nn.Linear(4, 4), rnn

    def forward(self, x):
        return self.rnn(self.linear(x))[0]


RECORDERS = {
    "script": lambda module, x: torch.jit.script(module),
    "trace": torch.jit.trace,
    "export": lambda module, x: torch.export.export(module, (x,)).module(),
}


@pytest.mark.parametrize("recorder", RECORDERS)
def test_autocast_of_a_recorded_program(recorder):
    x = torch.randn(5, 3, 4)
    program = RECORDERS[recorder](AfterLinear(rnnfused.RNN(4, 6)), x)
    with torch.autocast("cpu", torch.bfloat16):
        output = program(x)
    assert output.dtype == torch.bfloat16
    output.sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in program.parameters())


def test_autocast_of_scripted_cells_and_tokens():
    kinds = rnnfused.RNNCell, rnnfused.TokenRNN
    cell, tokens = (torch.jit.script(kind(4, 6)) for kind in kinds)
    with torch.autocast("cpu", torch.bfloat16):
        assert cell(torch.randn(3, 4)).dtype == torch.bfloat16
        assert tokens(torch.randint(4, (5, 3)))[0].dtype == torch.bfloat16


def test_gradients_per_sample_of_a_packed_batch():
    theirs = torch.nn.RNN(4, 6)
    ours = rnnfused.RNN(4, 6)
    ours.load_state_dict(theirs.state_dict())
    packed = pack_padded_sequence(torch.randn(3, 5, 4), [5, 3, 1], batch_first=True)
    for module in (theirs, ours):
        call_for_per_sample_grads(module, batch_size=3)(packed)[0].data.sum().backward()
    got, expected = ([p.grad_sample for p in module.parameters()] for module in (ours, theirs))
    torch.testing.assert_close(got, expected)


def operations(module, make_input):
    with FlopCounterMode(display=False) as counter:
        result = module(make_input())
        result = result[0] if isinstance(result, tuple) else result
        (result.data if isinstance(result, PackedSequence) else result).sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("shape", [(3, 40), (40,)])
def test_operations_of_a_cell(shape, requires_grad):
    def new():
        return torch.randn(shape, requires_grad=requires_grad)

    kinds = rnnfused.RNNCell, torch.nn.RNNCell
    ours, theirs = (operations(kind(40, 60), new) for kind in kinds)
    assert ours == theirs


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}])
@pytest.mark.parametrize("packed", [False, True])
def test_operations_of_unbatched_and_packed_input(options, packed):
    def new():
        x = torch.randn(5, 3, 40) if packed else torch.randn(5, 40)
        return pack_padded_sequence(x, [5, 3, 1]) if packed else x

    kinds = rnnfused.RNN, torch.nn.RNN
    ours, theirs = (operations(kind(40, 60, **options), new) for kind in kinds)
    if packed and options:  # torch multiplies zeros where rows join in reverse
        assert ours < theirs
    else:
        assert ours == theirs


def with_weight(name, shape):
    module = rnnfused.RNN(4, 6, 2)
    setattr(module, name, torch.nn.Parameter(torch.randn(shape)))
    return module(torch.randn(5, 3, 4))


def packed(data, *sizes):
    return rnnfused.RNN(4, 6)(PackedSequence(data, torch.tensor(sizes)))


def scripted(module, *inputs):
    return torch.jit.script(module)(*inputs)


REFUSALS = {
    "weight_hh": (RuntimeError, lambda: with_weight("weight_hh_l0", (5, 5)), r"weight_hh_l0 must .* \(6, 6\), got \(5, 5\)"),
    "weight_ih": (RuntimeError, lambda: with_weight("weight_ih_l1", (6, 5)), r"weight_ih_l1 must .* \(6, 6\), got \(6, 5\)"),
    "bias": (RuntimeError, lambda: with_weight("bias_ih_l1", (5,)), r"bias_ih_l1 must .* \(6,\), got \(5,\)"),
    "sizes": (RuntimeError, lambda: packed(torch.randn(5, 4), 3, 3), "batch_sizes must add up to the 5 rows of input, got 6"),
    "order": (RuntimeError, lambda: packed(torch.randn(5, 4), 2, 3), r"batch_sizes must be positive .* got \[2, 3\]"),
    "data": (RuntimeError, lambda: packed(torch.randn(5, 4, 2), 3, 2), r"input must have 2 dimensions.*\(5, 4, 2\)"),
    "float": (TypeError, lambda: packed(torch.randn(5, 4), 3.0, 2.0), "batch_sizes must be int64, got torch.float32"),
    "features": (RuntimeError, lambda: rnnfused.RNN(4, 6)(torch.randn(5, 3, 7)), r"input must have size 4, input_size.*\(5, 3, 7\)"),
    "no step": (RuntimeError, lambda: rnnfused.RNN(4, 6)(torch.randn(0, 3, 4)), r"at least one time step, got shape \(0, 3, 4\)"),
    "hx": (RuntimeError, lambda: rnnfused.RNN(4, 6)(torch.randn(5, 3, 4), torch.randn(2, 3, 6)), r"hx must have shape \(1, 3, 6\)"),
    "hx of layers": (RuntimeError, lambda: rnnfused.RNN(4, 6, 2)(torch.randn(5, 3, 4), torch.randn(3, 3, 6)), "hx must have"),
    "cell": (RuntimeError, lambda: rnnfused.RNNCell(4, 6)(torch.randn(3, 5)), r"input must have shape \(3, 4\).*\(3, 5\)"),
    "cell hx": (RuntimeError, lambda: rnnfused.RNNCell(4, 6)(torch.randn(3, 4), torch.randn(2, 6)), r"hx must .*\(3, 6\).*\(2, 6\)"),
    "no input": (TypeError, lambda: rnnfused.RNNCell(4, 6)(None), "input must be a Tensor, got NoneType"),
    "script": (torch.jit.Error, lambda: scripted(rnnfused.RNN(4, 6), torch.randn(5, 3, 7)), r"input must have size 4, input_size.*\[5, 3, 7\]"),
    "script step": (torch.jit.Error, lambda: scripted(rnnfused.RNN(4, 6), torch.randn(0, 3, 4)), "at least one time step"),
    "script cell": (torch.jit.Error, lambda: scripted(rnnfused.RNNCell(4, 6), torch.randn(3, 4), torch.randn(2, 6)), r"\[3, 6\], got \[2, 6\]"),
    "script complex": (NotImplementedError, lambda: torch.jit.script(rnnfused.RNN(4, 6, dtype=torch.cfloat)), "needs real weights, got torch.complex64"),
    "root of fx": (torch.fx.proxy.TraceError, lambda: torch.fx.symbolic_trace(rnnfused.RNN(4, 6)), "a layer must be traced inside of a module"),
    "class": (TypeError, lambda: rnnfused.RNN(4, 6)(torch.Tensor), "input must be a Tensor or a PackedSequence"),
    "op clip": (RuntimeError, lambda: torch.ops.rnnfused.layer(torch.randn(1, 1, 2), None, torch.randn(2, 2), *[None] * 5, 0, 0, False, -1.0), "state_grad_clip must be positive"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_names_the_argument(name):
    error, call, message = REFUSALS[name]
    with pytest.raises(error, match=message) as raised:
        call()
    assert raised.type is error
