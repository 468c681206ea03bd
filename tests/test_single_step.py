"""Single steps: in torch's own operations, or in the fused op where torch's algorithms shall be deterministic."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import rnnfused
from rnnfused import single_step
from rnnfused.scratch import RNNScratch, RNNScratchCell

B, INPUT, HIDDEN = 3, 4, 5
OURS = "rnnfused.layer.default"


class Ops(TorchDispatchMode):
    """Records the names of the operations."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.names.append(str(op))
        return op(*args, **(kwargs or {}))


def textbook(x, weight_x, weight_h, bias, h):
    return torch.tanh(x @ weight_x + h @ weight_h + bias)


def scratch(h):
    rnn = RNNScratch(INPUT, HIDDEN, sigma=0.5)
    x = torch.randn(1, B, INPUT, requires_grad=True)
    outputs, state = rnn(x, h)
    assert len(outputs) == 1 and torch.equal(outputs[0], state)
    return rnn, x, state, textbook(x[0], rnn.W_xh, rnn.W_hh, rnn.b_h, zeros_of(h))


def ids(h):
    rnn = RNNScratch(INPUT, HIDDEN, sigma=0.5)
    ids = torch.randint(INPUT, (1, B))
    rows = torch.nn.functional.one_hot(ids[0], INPUT).float()
    return rnn, None, rnn(ids, h)[1], textbook(rows, rnn.W_xh, rnn.W_hh, rnn.b_h, zeros_of(h))


def scratch_cell(h):
    cell = RNNScratchCell(INPUT, HIDDEN, sigma=0.5)
    x = torch.randn(B, INPUT, requires_grad=True)
    return cell, x, cell(x, h), textbook(x, cell.Wx, cell.Wh, cell.b, zeros_of(h))


def cell(h):
    cell = rnnfused.RNNCell(INPUT, HIDDEN)
    x = torch.randn(B, INPUT, requires_grad=True)
    bias = cell.bias_ih + cell.bias_hh
    return (
        cell,
        x,
        cell(x, h),
        textbook(x, cell.weight_ih.t(), cell.weight_hh.t(), bias, zeros_of(h)),
    )


def zeros_of(h):
    return torch.zeros(B, HIDDEN) if h is None else h


CALLS = {"RNNScratch": scratch, "ids": ids, "RNNScratchCell": scratch_cell, "RNNCell": cell}


@pytest.mark.parametrize("has_state", [True, False])
@pytest.mark.parametrize("name", CALLS)
def test_both_ways_equal_the_formula(deterministic, name, has_state):
    torch.manual_seed(0)
    h = torch.randn(B, HIDDEN, requires_grad=True) if has_state else None
    with Ops() as ops:
        module, x, got, expected = CALLS[name](h)
    assert (OURS in ops.names) == deterministic
    torch.testing.assert_close(got, expected)
    leaves = [each for each in (*module.parameters(), x, h) if each is not None]
    seed = torch.randn_like(got)
    torch.testing.assert_close(
        torch.autograd.grad(got, leaves, seed), torch.autograd.grad(expected, leaves, seed)
    )


@pytest.mark.parametrize("has_state", [True, False])
@pytest.mark.parametrize("name", CALLS)
def test_a_step_without_gradients_changes_no_argument(name, has_state):
    torch.manual_seed(0)
    h = torch.randn(B, HIDDEN) if has_state else None
    given = zeros_of(h).clone()
    with torch.no_grad():
        module, _, got, expected = CALLS[name](h)
    torch.testing.assert_close(got, expected)  # whose formula runs second, on the same tensors
    assert torch.equal(zeros_of(h), given)
    untouched = type(module)(INPUT, HIDDEN)
    for parameter, other in zip(module.parameters(), untouched.parameters(), strict=True):
        assert parameter._version == other._version


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("bias", [True, False])
def test_options_of_the_cell(deterministic, nonlinearity, bias):
    torch.manual_seed(0)
    options = {"nonlinearity": nonlinearity, "bias": bias}
    ours = rnnfused.RNNCell(INPUT, HIDDEN, **options)
    theirs = torch.nn.RNNCell(INPUT, HIDDEN, **options)
    theirs.load_state_dict(ours.state_dict())
    x, h = torch.randn(B, INPUT), torch.randn(B, HIDDEN)
    torch.testing.assert_close(ours(x, h), theirs(x, h))


@pytest.mark.parametrize(
    ("rows", "hidden", "way"),
    [(1, 128, "fused"), (1, 129, "torch"), (4, 256, "fused"), (64, 257, "torch")],
)
def test_without_gradients_the_size_of_the_weight_decides(rows, hidden, way):
    cell = rnnfused.RNNCell(INPUT, hidden)
    with torch.no_grad(), Ops() as ops:
        cell(torch.randn(rows, INPUT), torch.randn(rows, hidden))
    assert (OURS in ops.names) == (way == "fused")


WRONG_STATES = {
    "rows": torch.randn(2, HIDDEN),
    "features": torch.randn(B, 1),
    "one dimension": torch.randn(HIDDEN),
    "dtype": torch.randn(B, HIDDEN).double(),
    "two": (torch.randn(B, HIDDEN), torch.randn(B, HIDDEN)),
    "sparse": torch.randn(B, HIDDEN).to_sparse(),
    "number": 1.0,
}


@pytest.mark.parametrize("name", WRONG_STATES)
@pytest.mark.parametrize("rows", [B, 1])
def test_a_wrong_state_is_named(name, rows):
    state = WRONG_STATES[name]
    with pytest.raises((TypeError, ValueError), match=r"^state "):
        RNNScratch(INPUT, HIDDEN)(torch.randn(1, rows, INPUT), state)
    with pytest.raises((TypeError, ValueError), match=r"^h "):
        RNNScratchCell(INPUT, HIDDEN)(torch.randn(rows, INPUT), state)
    if name != "two":
        with pytest.raises((TypeError, ValueError, RuntimeError), match="hx"):
            rnnfused.RNNCell(INPUT, HIDDEN)(torch.randn(rows, INPUT), state)


@pytest.mark.parametrize("value", [INPUT, -1, 2**40])
def test_a_wrong_id_is_named(value):
    with pytest.raises(IndexError, match=f"{value}"):
        RNNScratch(INPUT, HIDDEN)(torch.tensor([[0, value]]))


WRONG_INPUTS = [
    torch.randn(1, B, INPUT + 1),
    torch.randn(1, B, INPUT).double(),
    torch.randn(1, B),
    torch.randint(2, (1, B, INPUT)),
    torch.randn(1, B, INPUT).to_sparse(),
]


@pytest.mark.parametrize("index", range(len(WRONG_INPUTS)))
def test_a_wrong_input_is_named(index):
    x = WRONG_INPUTS[index]
    with pytest.raises((TypeError, ValueError), match="inputs"):
        RNNScratch(INPUT, HIDDEN)(x)
    with pytest.raises((TypeError, ValueError, RuntimeError), match="input"):
        rnnfused.RNNCell(INPUT, HIDDEN)(x[0])


@pytest.mark.parametrize("shape", [(3, HIDDEN), (1,), (), (1, HIDDEN)], ids=str)
def test_another_bias_is_not_broadcast(deterministic, shape):
    rnn, cell = RNNScratch(INPUT, HIDDEN), RNNScratchCell(INPUT, HIDDEN)
    rnn.b_h = cell.b = torch.nn.Parameter(torch.zeros(shape))
    with pytest.raises((RuntimeError, ValueError)):
        rnn(torch.randn(1, B, INPUT))
    with pytest.raises((RuntimeError, ValueError)):
        cell(torch.randn(B, INPUT))


@pytest.mark.parametrize("name", ["W_xh", "W_hh", "b_h"])
def test_weights_without_values_are_refused(deterministic, name):
    rnn = RNNScratch(INPUT, HIDDEN)
    setattr(rnn, name, torch.nn.Parameter(getattr(rnn, name).to("meta")))
    with pytest.raises((RuntimeError, ValueError, NotImplementedError)):
        rnn(torch.randn(1, B, INPUT), torch.randn(B, HIDDEN))


def test_inputs_without_values_are_refused(deterministic):
    rnn, meta = RNNScratch(INPUT, HIDDEN), torch.randn(1, B, INPUT, device="meta")
    with pytest.raises(ValueError, match="inputs must be on cpu like the weights, got meta"):
        rnn(meta)
    with pytest.raises(ValueError, match="state must be on cpu like the weights, got meta"):
        rnn(torch.randn(1, B, INPUT), torch.randn(B, HIDDEN, device="meta"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_types_and_autocast_stay_with_the_op(dtype):
    """Torch rounds each product; the op rounds their sum."""
    x, h = torch.randn(B, INPUT), torch.randn(B, HIDDEN)
    cell = rnnfused.RNNCell(INPUT, HIDDEN)
    assert not single_step.suits(x.to(dtype), cell.weight_hh.to(dtype))
    with torch.autocast("cpu", dtype):
        assert not single_step.suits(x, cell.weight_hh)
        assert cell(x, h).dtype == dtype


def test_a_mapped_cell_does_not_warn(recwarn):
    cell = rnnfused.RNNCell(INPUT, HIDDEN)
    x, h = torch.randn(2, B, INPUT), torch.randn(2, B, HIDDEN)
    mapped = torch.vmap(cell)(x, h)
    torch.testing.assert_close(
        mapped, torch.stack([cell(*each) for each in zip(x, h, strict=True)])
    )
    assert not recwarn.list


def test_second_derivatives():
    torch.manual_seed(0)
    module = RNNScratchCell(INPUT, HIDDEN, sigma=0.5).double()
    x, h = (torch.randn(B, n, dtype=torch.float64, requires_grad=True) for n in (INPUT, HIDDEN))
    assert torch.autograd.gradgradcheck(lambda x, h, *_: module(x, h), (x, h, *module.parameters()))
