"""Weights that a user has replaced by wrong ones: every class names them, of one step and of several."""

import pytest
import torch
from torch.nn import Parameter

import rnnfused
from rnnfused.scratch import RNNScratch, RNNScratchCell

INPUT = 5
KINDS = {
    "RNN": (rnnfused.RNN, lambda steps: torch.randn(steps, 3, INPUT)),
    "TokenRNN": (rnnfused.TokenRNN, lambda steps: torch.randint(INPUT, (steps, 3))),
    "RNNCell": (rnnfused.RNNCell, lambda _: torch.randn(3, INPUT)),
    "RNNScratch": (RNNScratch, lambda steps: torch.randn(steps, 3, INPUT)),
    "RNNScratch of ids": (RNNScratch, lambda steps: torch.randint(INPUT, (steps, 3))),
    "RNNScratchCell": (RNNScratchCell, lambda _: torch.randn(3, INPUT)),
}
CHANGES = {
    "none": lambda w: None,
    "float64": lambda w: w.double(),
    "bfloat16": lambda w: w.bfloat16(),
    "integers": lambda w: w.long(),
    "meta": lambda w: w.to("meta"),
    "a number": lambda w: w.sum(),
    "a row": lambda w: w[:1],
    "a column": lambda w: w[..., :1],
    "another row": lambda w: torch.cat([w, w[:1]]),
}


@pytest.mark.parametrize("differentiated", [True, False], ids=["gradients", "none"])
@pytest.mark.parametrize("hidden", [8, 300])
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_weight_is_named(kind, change, steps, hidden, differentiated):
    make, input_of = KINDS[kind]
    module, x = make(INPUT, hidden), input_of(steps)
    for name, weight in list(module.named_parameters()):
        is_first = name in ("W_xh", "Wx")
        if kind.endswith("ids") and is_first and change == "another row":
            continue  # a larger vocabulary
        wrong = CHANGES[change](weight.detach())
        needs = differentiated and wrong is not None and wrong.is_floating_point()
        setattr(module, name, None if wrong is None else Parameter(wrong, requires_grad=needs))
        # One weight sets the dtype and device of all arguments: if it is wrong, the message may name another.
        names = rf"{name} must|like the weights, |like {name}, "
        with (
            torch.set_grad_enabled(differentiated),
            pytest.raises((RuntimeError, TypeError, ValueError), match=names),
        ):
            module(x)
        setattr(module, name, weight)
    module(x)


@pytest.mark.parametrize("bias", ["bias_ih", "bias_hh"])
@pytest.mark.parametrize("differentiated", [True, False], ids=["gradients", "none"])
@pytest.mark.parametrize("hidden", [8, 300])
@pytest.mark.parametrize("shape", [(1,), (), (1, -1), (3, -1)])
def test_a_cell_broadcasts_no_bias(bias, differentiated, hidden, shape):
    cell = rnnfused.RNNCell(INPUT, hidden)
    wrong = torch.zeros([hidden if size == -1 else size for size in shape])
    setattr(cell, bias, Parameter(wrong))
    with (
        torch.set_grad_enabled(differentiated),
        pytest.raises(RuntimeError, match=f"{bias} must have shape"),
    ):
        cell(torch.randn(3, INPUT))
