"""Subnormal float32 values are computed, not flushed to zero, on every instruction set."""

import numpy as np
import pytest
import torch
from recurrence_case import Case

import rnnfused

LEAST = np.finfo(np.float32).smallest_subnormal
LEAST_NORMAL = np.finfo(np.float32).tiny


def subnormal(values):
    return (values * np.float32(1e-40)).astype(np.float32)


def check(got, expected, sums):
    """Assert that values are subnormal, mostly not zero, and exact up to rounding."""
    np.testing.assert_allclose(got, expected, rtol=0, atol=sums * LEAST)
    magnitudes = np.abs(got[got != 0])
    assert magnitudes.size > 0.9 * got.size and magnitudes.max() < LEAST_NORMAL


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("batch", [1, 9])
def test_states_and_gradients(kernels, batch, relu):
    """Subnormal projections and first states, and subnormal gradients, with normal weights."""
    case = Case(4, batch, 37, np.float32, relu=relu)
    for name in ("projections", "h_0", "grad_output", "grad_h_n"):
        setattr(case, name, subnormal(getattr(case, name)))
    if relu:  # half of it would be zero
        case.projections, case.h_0 = np.abs(case.projections), np.abs(case.h_0)
        case.weight = np.abs(case.weight) / 4
    for got, expected in zip(case.run(kernels), case.exact(), strict=True):
        check(got, expected, sums=4 * 37)


@pytest.mark.parametrize("batch", [1, 9])
def test_weights(kernels, batch):
    """Subnormal weights and a first state near one: the second state and d are sums of weights."""
    case = Case(2, batch, 37, np.float32)
    case.weight = subnormal(case.weight)
    case.projections[0] = 10
    case.projections[1] = 0
    case.grad_output[1] = 1
    case.grad_output[0] = 0
    case.grad_h_n[:] = 0
    output, h_n, _, _ = case.run(kernels)
    expected = case.exact()[0]
    check(output[1], expected[1], sums=37)
    np.testing.assert_array_equal(h_n, output[1])
    # relu, so that the slope is one where tanh's is nearly zero.
    case.relu = True
    case.projections[1] = 1e-38
    check(case.run(kernels)[2][0], case.exact()[2][0], sums=37)


def test_the_layer_gives_what_torch_gives():
    torch.manual_seed(0)
    ours, theirs = rnnfused.RNN(11, 40), torch.nn.RNN(11, 40)
    for what in ("weights", "inputs"):
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter.uniform_(-0.1, 0.1)
                if what == "weights":
                    parameter *= 1e-40
                elif parameter.dim() == 1:
                    parameter.zero_()
        ours.load_state_dict(theirs.state_dict())
        x = torch.randn(5, 9, 11) * (1e-40 if what == "inputs" else 1)
        gradient = torch.randn(5, 9, 40)
        results = []
        for module in (ours, theirs):
            input = x.clone().requires_grad_()
            output, _ = module(input)
            output.backward(gradient)
            results.append([output.detach(), input.grad, module.weight_hh_l0.grad])
        for got, expected in zip(*results, strict=True):
            rounding = max(100 * LEAST, 1e-6 * expected.abs().max().item())
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=float(rounding))
        assert 0 < results[0][0].abs().max() < LEAST_NORMAL
