"""rnnfused's RNN and RNNCell raise torch's exceptions for wrong input, with messages that name the mistake."""

import warnings

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import rnnfused

zeros = torch.zeros


def packed(batch_sizes=(2, 2, 1), rows=5, features=4, dtype=None):
    return PackedSequence(zeros(rows, features, dtype=dtype), torch.tensor(batch_sizes))


def unsorted():
    return pack_sequence([zeros(2, 4), zeros(3, 4)], enforce_sorted=False)


def with_weight(cls, name, value):
    module = cls(4, 5)
    setattr(module, name, torch.nn.Parameter(value))
    return module


# name: (the mistake, a word that rnnfused's message must have: the argument's name or the wrong value)
CALLS = {
    "4-D input": (lambda c: c(4, 5)(zeros(2, 2, 3, 4)), "(2, 2, 3, 4)"),
    "1-D input": (lambda c: c(4, 5)(zeros(4)), "(4,)"),
    "0-D input": (lambda c: c(4, 5)(zeros(())), "input"),
    "input float64": (lambda c: c(4, 5)(zeros(3, 2, 4, dtype=torch.float64)), "float64"),
    "input integer": (lambda c: c(4, 5)(zeros(3, 2, 4, dtype=torch.int64)), "int64"),
    "input bfloat16": (lambda c: c(4, 5)(zeros(3, 2, 4, dtype=torch.bfloat16)), "bfloat16"),
    "input complex": (lambda c: c(4, 5)(zeros(3, 2, 4, dtype=torch.complex64)), "complex64"),
    "input on meta": (lambda c: c(4, 5)(zeros(3, 2, 4, device="meta")), "meta"),
    "input features": (lambda c: c(4, 5)(zeros(3, 2, 6)), "(3, 2, 6)"),
    "input features unbatched": (lambda c: c(4, 5)(zeros(3, 6)), "6"),
    "input without features": (lambda c: c(4, 5)(zeros(3, 2, 0)), "(3, 2, 0)"),
    "no step": (lambda c: c(4, 5)(zeros(0, 2, 4)), "(0, 2, 4)"),
    "no step, batch_first": (lambda c: c(4, 5, batch_first=True)(zeros(2, 0, 4)), "(2, 0, 4)"),
    "no step, unbatched": (lambda c: c(4, 5)(zeros(0, 4)), "input"),
    "no input": (lambda c: c(4, 5)(), "input"),
    "a third argument": (lambda c: c(4, 5)(zeros(3, 2, 4), zeros(1, 2, 5), None), "argument"),
    "unknown argument": (lambda c: c(4, 5)(zeros(3, 2, 4), h_0=zeros(1, 2, 5)), "h_0"),
    "hx batch": (lambda c: c(4, 5)(zeros(3, 2, 4), zeros(1, 3, 5)), "(1, 3, 5)"),
    "hx would broadcast": (lambda c: c(4, 5)(zeros(3, 2, 4), zeros(1, 1, 5)), "(1, 1, 5)"),
    "hx layers": (lambda c: c(4, 5, 2)(zeros(3, 2, 4), zeros(1, 2, 5)), "(2, 2, 5)"),
    "hx directions": (
        lambda c: c(4, 5, bidirectional=True)(zeros(3, 2, 4), zeros(1, 2, 5)),
        "(2, 2, 5)",
    ),
    "hx features": (lambda c: c(4, 5)(zeros(3, 2, 4), zeros(1, 2, 6)), "(1, 2, 6)"),
    "hx 2-D, batched": (lambda c: c(4, 5)(zeros(3, 2, 4), zeros(1, 5)), "hx"),
    "hx 3-D, unbatched": (lambda c: c(4, 5)(zeros(3, 4), zeros(1, 2, 5)), "hx"),
    "hx 4-D": (lambda c: c(4, 5)(zeros(3, 2, 4), zeros(1, 2, 5, 1)), "hx"),
    "hx batch first": (
        lambda c: c(4, 5, batch_first=True)(zeros(2, 3, 4), zeros(2, 1, 5)),
        "(2, 1, 5)",
    ),
    "hx float64": (lambda c: c(4, 5)(zeros(3, 2, 4), zeros(1, 2, 5).double()), "float64"),
    "hx integer": (lambda c: c(4, 5)(zeros(3, 2, 4), zeros(1, 2, 5).long()), "int64"),
    "hx on meta": (lambda c: c(4, 5)(zeros(3, 2, 4), zeros(1, 2, 5, device="meta")), "meta"),
    "packed float64": (lambda c: c(4, 5)(packed(dtype=torch.float64)), "float64"),
    "packed features": (lambda c: c(4, 5)(packed(features=6)), "6"),
    "packed 3-D": (lambda c: c(4, 5)(pack_sequence([zeros(3, 1, 4)])), "2 dimensions"),
    "packed 1-D": (lambda c: c(4, 5)(pack_sequence([zeros(3)])), "input"),
    "packed, hx batch": (lambda c: c(4, 5)(packed(), zeros(1, 3, 5)), "(1, 3, 5)"),
    "packed, hx 2-D": (lambda c: c(4, 5)(packed(), zeros(2, 5)), "(2, 5)"),
    "packed, hx layers": (lambda c: c(4, 5)(packed(), zeros(2, 2, 5)), "(2, 2, 5)"),
    "packed, hx float64": (lambda c: c(4, 5)(packed(), zeros(1, 2, 5).double()), "float64"),
    "unsorted, hx batch": (lambda c: c(4, 5)(unsorted(), zeros(1, 1, 5)), "1"),
    "packed, more rows than data": (lambda c: c(4, 5)(packed((3, 3))), "batch_sizes"),
    "packed, growing": (lambda c: c(4, 5)(packed((1, 2), 3)), "batch_sizes"),
    "proj_size": (lambda c: c(4, 5, proj_size=2), "proj_size"),
    "proj_size -1, positional": (
        lambda c: c(4, 5, 1, "tanh", True, False, 0.0, False, -1),
        "proj_size",
    ),
    "dropout 1.5": (lambda c: c(4, 5, 2, dropout=1.5), "dropout"),
    "dropout -0.1": (lambda c: c(4, 5, 2, dropout=-0.1), "dropout"),
    "dropout NaN": (lambda c: c(4, 5, 2, dropout=float("nan")), "dropout"),
    "dropout a bool": (lambda c: c(4, 5, 2, dropout=True), "dropout"),
    "dropout a string": (lambda c: c(4, 5, 2, dropout="much"), "much"),
    "dropout None": (lambda c: c(4, 5, 2, dropout=None), "None"),
    "nonlinearity": (lambda c: c(4, 5, nonlinearity="gelu"), "gelu"),
    "nonlinearity, positional": (lambda c: c(4, 5, 1, "TANH"), "TANH"),
    "nonlinearity None": (lambda c: c(4, 5, nonlinearity=None), "nonlinearity"),
    "hidden_size a float": (lambda c: c(4, 5.0), "hidden_size"),
    "hidden_size None": (lambda c: c(4, None), "hidden_size"),
    "hidden_size 0": (lambda c: c(4, 0), "hidden_size"),
    "hidden_size -3": (lambda c: c(4, -3), "hidden_size"),
    "input_size a float": (lambda c: c(4.0, 5), "input_size"),
    "input_size 0": (lambda c: c(0, 5), "input_size"),
    "num_layers 0": (lambda c: c(4, 5, 0), "num_layers"),
    "num_layers -1": (lambda c: c(4, 5, -1), "num_layers"),
    "num_layers a float": (lambda c: c(4, 5, 2.0), "float"),
    "bias an int": (lambda c: c(4, 5, bias=1), "bias"),
    "batch_first an int": (lambda c: c(4, 5, batch_first=1), "batch_first"),
    "dtype int64": (lambda c: c(4, 5, dtype=torch.int64), "floating"),
    "no hidden_size": (lambda c: c(4), "hidden_size"),
    "num_layers twice": (lambda c: c(4, 5, 1, num_layers=2), "num_layers"),
    "unknown option": (lambda c: c(4, 5, hidden=1), "hidden"),
    "state dict without keys": (lambda c: c(4, 5).load_state_dict({}), "weight_ih_l0"),
    "state dict of other sizes": (
        lambda c: c(4, 5).load_state_dict(c(4, 6).state_dict()),
        "weight_hh_l0",
    ),
    "a weight that is no Parameter": (
        lambda c: setattr(c(4, 5), "weight_ih_l0", zeros(5, 4)),
        "weight_ih_l0",
    ),
    "weight_hh of other sizes": (
        lambda c: with_weight(c, "weight_hh_l0", zeros(5, 6))(zeros(3, 2, 4)),
        "weight_hh",
    ),
    "weight_ih of other sizes": (
        lambda c: with_weight(c, "weight_ih_l0", zeros(6, 4))(zeros(3, 2, 4)),
        "weight_ih",
    ),
    "bias of other sizes": (
        lambda c: with_weight(c, "bias_ih_l0", zeros(6))(zeros(3, 2, 4)),
        "bias",
    ),
}

CELL_CALLS = {
    "3-D input": (lambda c: c(4, 5)(zeros(2, 3, 4)), "(2, 3, 4)"),
    "0-D input": (lambda c: c(4, 5)(zeros(())), "input"),
    "input features": (lambda c: c(4, 5)(zeros(2, 6)), "(2, 6)"),
    "input features unbatched": (lambda c: c(4, 5)(zeros(6)), "6"),
    "input float64": (lambda c: c(4, 5)(zeros(2, 4).double()), "float64"),
    "hx 3-D": (lambda c: c(4, 5)(zeros(2, 4), zeros(1, 2, 5)), "(1, 2, 5)"),
    "hx batch": (lambda c: c(4, 5)(zeros(2, 4), zeros(3, 5)), "(3, 5)"),
    "hx would broadcast": (lambda c: c(4, 5)(zeros(2, 4), zeros(1, 5)), "(1, 5)"),
    "hx 1-D, batched": (lambda c: c(4, 5)(zeros(1, 4), zeros(5)), "(5,)"),
    "hx features": (lambda c: c(4, 5)(zeros(2, 4), zeros(2, 6)), "(2, 6)"),
    "hx float64": (lambda c: c(4, 5)(zeros(2, 4), zeros(2, 5).double()), "float64"),
    "nonlinearity": (lambda c: c(4, 5, nonlinearity="gelu")(zeros(2, 4)), "gelu"),
    "hidden_size -1": (lambda c: c(4, -1), "-1"),
    "proj_size": (lambda c: c(4, 5, proj_size=1), "proj_size"),
    "no hidden_size": (lambda c: c(4), "hidden_size"),
}

OTHER_TYPE = "rnnfused raises TypeError; torch raises AttributeError by accident"

# Calls on which rnnfused's classes differ from torch's, and the reason.
DIFFERENT = {
    "input None": (lambda c: c(4, 5)(None), OTHER_TYPE),
    "input a list": (lambda c: c(4, 5)([[1.0]]), OTHER_TYPE),
    "hx a tuple": (
        lambda c: c(4, 5)(zeros(3, 2, 4), (zeros(1, 2, 5), zeros(1, 2, 5))),
        OTHER_TYPE,
    ),
    "proj_size 0": (
        lambda c: c(4, 5, proj_size=0),
        "rnnfused accepts the default, 0; torch refuses the argument",
    ),
    "proj_size 2, positional": (
        lambda c: c(4, 5, 1, "tanh", True, False, 0.0, False, 2),
        "rnnfused refuses it at once; torch builds an RNN that refuses every input",
    ),
    "bidirectional an int": (
        lambda c: c(4, 5, bidirectional=1)(zeros(3, 2, 4)),
        "rnnfused converts it to a bool; torch refuses it when called",
    ),
    "packed, fewer rows than data": (
        lambda c: c(4, 5)(packed((2, 2))),
        "rnnfused refuses it; torch ignores the last rows",
    ),
    "packed, an empty step": (
        lambda c: c(4, 5)(packed((5, 0))),
        "rnnfused refuses it; torch accepts a step without rows",
    ),
    "bias that would broadcast": (
        lambda c: with_weight(c, "bias_ih_l0", zeros(1))(zeros(3, 2, 4)),
        "rnnfused refuses it; torch broadcasts the bias",
    ),
    "output changed in place": (
        lambda c: c(4, 5)(zeros(3, 2, 4))[0].mul_(2).sum().backward(),
        "rnnfused saves the output itself for backward; torch returns a copy of it",
    ),
}


def error_of(call, cls):
    """Returns the exception of the call, or None."""
    try:
        call(cls)
    except Exception as error:
        return error
    return None


def check_same_error(ours_class, theirs_class, call, word=None):
    """Raises AssertionError unless both raise the same type, and rnnfused's message has the word."""
    ours, theirs = error_of(call, ours_class), error_of(call, theirs_class)
    assert type(ours) is type(theirs), f"{ours!r} is not {theirs!r}"
    if word is not None:
        assert ours is not None and word in str(ours)


@pytest.mark.parametrize("name", CALLS)
def test_layer(name):
    check_same_error(rnnfused.RNN, torch.nn.RNN, *CALLS[name])


@pytest.mark.parametrize("name", CELL_CALLS)
def test_cell(name):
    check_same_error(rnnfused.RNNCell, torch.nn.RNNCell, *CELL_CALLS[name])


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(call, id=name, marks=pytest.mark.xfail(strict=True, reason=reason))
        for name, (call, reason) in DIFFERENT.items()
    ],
)
def test_differences_from_torch(call):
    check_same_error(rnnfused.RNN, torch.nn.RNN, call)


@pytest.mark.xfail(strict=True, reason=OTHER_TYPE)
def test_difference_from_torchs_cell():
    check_same_error(rnnfused.RNNCell, torch.nn.RNNCell, lambda c: c(4, 5)([1.0]))


@pytest.mark.parametrize("name", ["input", "hx"])
def test_a_nested_tensor_for_a_cell(name):
    nested = torch.nested.nested_tensor([zeros(1, 4), zeros(2, 4)], layout=torch.strided)
    with pytest.raises(TypeError, match=f"{name} must be a dense tensor, got a nested tensor"):
        rnnfused.RNNCell(4, 4)(**{"input": zeros(2, 4), name: nested})


def test_messages_name_the_given_shape():
    with pytest.raises(RuntimeError) as error:
        rnnfused.RNN(4, 5)(zeros(3, 6))
    assert "(3, 6)" in str(error.value)


@pytest.mark.parametrize("cls", [rnnfused.RNN, torch.nn.RNN])
def test_dropout_of_one_layer_warns(cls):
    with pytest.warns(UserWarning, match="num_layers greater than 1"):
        cls(4, 5, dropout=0.5)


@pytest.mark.parametrize("cls", [rnnfused.RNN, torch.nn.RNN])
def test_a_correct_call_does_not_warn(cls):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cls(4, 5, 2, dropout=0.5)(zeros(3, 2, 4))[0].sum().backward()


def test_a_refused_call_leaves_the_module_usable():
    module, x = rnnfused.RNN(4, 5), torch.randn(3, 2, 4)
    expected = module(x)[0]
    for bad in (zeros(3, 2, 6), zeros(4), x.double()):
        with pytest.raises((RuntimeError, ValueError)):
            module(bad)
    assert torch.equal(module(x)[0], expected)
