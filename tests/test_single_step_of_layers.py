"""A layer's only step: in torch's operations where the weight is large for the rows, else in the fused op."""

import pytest
import torch
import torch.nn.functional as F

import rnnfused
from rnnfused import single_step
from rnnfused.ops import modes

INPUT, HIDDEN = 6, 300
LAYOUTS = ["time first", "batch first", "unbatched"]


def taken(monkeypatch, module, *arguments):
    """Whether torch's operations take the step."""
    results = []
    real = single_step.of_layer

    def of_layer(*given):
        results.append(real(*given))
        return results[-1]

    with monkeypatch.context() as patch:
        patch.setattr(single_step, "of_layer", of_layer)
        module(*arguments)
    return bool(results) and results[0] is not None


def case(layout, kind, dtype=torch.float32, rows=3, **options):
    """A layer, torch's layer with the same parameters, the inputs of both, and the first state."""
    batch_first = layout == "batch first"
    options = {"batch_first": batch_first, "dtype": dtype, **options}
    make = rnnfused.TokenRNN if kind == "ids" else rnnfused.RNN
    ours = make(INPUT, HIDDEN, **options)
    theirs = torch.nn.RNN(INPUT, HIDDEN, **options)
    theirs.load_state_dict(ours.state_dict())
    shape = {"time first": (1, rows), "batch first": (rows, 1), "unbatched": (1,)}[layout]
    states = (1, HIDDEN) if layout == "unbatched" else (1, rows, HIDDEN)
    h = torch.randn(states, dtype=dtype, requires_grad=True)
    if kind == "ids":
        x = torch.randint(INPUT, shape)
        return ours, theirs, x, F.one_hot(x, INPUT).to(dtype), h
    x = torch.randn(*shape, INPUT, dtype=dtype, requires_grad=True)
    return ours, theirs, x, x, h


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["ids", "features"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_both_ways_equal_torchs_layer(monkeypatch, deterministic, layout, kind, bias, nonlinearity):
    options = {"bias": bias, "nonlinearity": nonlinearity}
    ours, theirs, x, their_x, h = case(layout, kind, torch.float64, **options)
    assert taken(monkeypatch, ours, x, h) != deterministic
    for state in (h, None):
        got, expected = ours(x, state), theirs(their_x, state)
        torch.testing.assert_close(got, expected)
        leaves = [h] * (state is not None) + [x] * (kind == "features")
        gradients = [
            torch.autograd.grad(
                [result.square().sum() for result in results], [*leaves, *module.parameters()]
            )
            for results, module in ((got, ours), (expected, theirs))
        ]
        torch.testing.assert_close(*gradients)
        with torch.no_grad():
            torch.testing.assert_close(ours(x, state), expected)


@pytest.mark.parametrize("kind", ["ids", "features"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("graph", [True, False], ids=["graph", "no graph"])
def test_results_have_memory_of_their_own(deterministic, layout, kind, graph):
    ours, _, x, _, h = case(layout, kind)
    with torch.set_grad_enabled(graph):
        output, h_n = ours(x, h)
    kept = output.detach().clone()
    assert output._base is None and h_n._base is None
    assert len({t.untyped_storage().data_ptr() for t in (x, h, output, h_n)}) == 4
    h_n.detach_().fill_(7)
    assert torch.equal(output, kept) and output.is_contiguous() and h_n.is_contiguous()
    if graph:
        output.sum().backward()


@pytest.mark.parametrize(
    ("rows", "hidden", "graph", "way"),
    [
        (1, 90, True, "op"),
        (1, 91, True, "torch"),
        (1, 256, False, "op"),
        (1, 257, False, "torch"),
        (32, 181, True, "op"),
        (32, 182, True, "torch"),
        (32, 512, False, "op"),
        (32, 513, False, "torch"),
    ],
)
def test_weight_and_rows_decide(monkeypatch, rows, hidden, graph, way):
    rnn, x = rnnfused.RNN(2, hidden), torch.randn(1, rows, 2)
    with torch.set_grad_enabled(graph):
        assert taken(monkeypatch, rnn, x) == (way == "torch")
        assert not taken(monkeypatch, rnn, torch.randn(2, rows, 2))


OTHERS = {
    "layers": {"num_layers": 2},
    "directions": {"bidirectional": True},
    "heads": {"heads": 2},
    "clip": {"state_grad_clip": 1.0},
    "bfloat16": {"dtype": torch.bfloat16},
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_layers_stay_with_the_op(monkeypatch, name):
    rnn = rnnfused.RNN(INPUT, HIDDEN, **OTHERS[name])
    x = torch.randn(1, 3, INPUT, dtype=OTHERS[name].get("dtype"))
    assert not taken(monkeypatch, rnn, x)


def test_regions_and_transforms_stay_with_the_op(monkeypatch, recwarn):
    rnn, x = rnnfused.RNN(INPUT, HIDDEN), torch.randn(1, 3, INPUT)
    with torch.autocast("cpu", torch.bfloat16):
        assert not taken(monkeypatch, rnn, x)
    expected = rnn(x)[0]
    mapped = torch.vmap(lambda x: rnn(x)[0])(torch.stack([x, x]))
    torch.testing.assert_close(mapped, torch.stack([expected, expected]))
    assert modes.is_differentiated() and not recwarn.list


WRONG_STATES = {
    "rows": torch.randn(1, 1, HIDDEN),
    "features": torch.randn(1, 3, 1),
    "one dimension": torch.randn(HIDDEN),
    "two dimensions": torch.randn(3, HIDDEN),
    "layers": torch.randn(2, 3, HIDDEN),
    "dtype": torch.randn(1, 3, HIDDEN).double(),
    "device": torch.randn(1, 3, HIDDEN, device="meta"),
}


@pytest.mark.parametrize("kind", ["ids", "features"])
@pytest.mark.parametrize("name", WRONG_STATES)
def test_a_wrong_state_is_named(name, kind):
    ours, _, x, _, _ = case("time first", kind)
    with pytest.raises(RuntimeError, match="^hx must"):
        ours(x, WRONG_STATES[name])


def test_a_wrong_input_is_named():
    rnn = rnnfused.RNN(INPUT, HIDDEN)
    with pytest.raises(RuntimeError, match="^input must"):
        rnn(torch.randn(1, 3, INPUT + 1))
    for wrong in (-1, INPUT, 2**40):
        with pytest.raises(IndexError, match=r"in the input must be in \[0, 6\)"):
            rnnfused.TokenRNN(INPUT, HIDDEN)(torch.tensor([[0, wrong]]))


@pytest.mark.parametrize("kind", ["ids", "features"])
@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"])
def test_a_replaced_weight_of_a_wrong_shape_is_named(name, kind):
    ours, _, x, _, _ = case("time first", kind)
    parameter = getattr(ours, name)
    for wrong in (parameter[:1], torch.cat([parameter, parameter])):
        setattr(ours, name, torch.nn.Parameter(wrong.detach()))
        with pytest.raises((RuntimeError, ValueError), match=name):
            ours(x)
