"""The stepwise loops against the fused ops: same arguments, results and strides."""

import pytest
import torch
from raw_ops import loop

from rnnfused import ops
from rnnfused.ops import stepwise

pytestmark = pytest.mark.usefixtures("device")

SIZES = torch.tensor([5, 3, 3, 1])


def test_without_h_0_the_first_step_does_not_read_the_weight():
    nan = torch.full((4, 4), float("nan"))
    output, _ = stepwise.forward(torch.randn(2, 3, 4), nan, None, None, stepwise.TANH, False)
    assert output[0].isfinite().all() and output[1].isnan().all()


def check(got, expected):
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)
        assert a.stride() == b.stride()


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("layout", ["time_first", "batch_first", "packed"])
@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("heads", [1, 7])
@pytest.mark.parametrize("clip", [None, 0.1])
def test_equals_the_fused_ops(nonlinearity, reverse, layout, given, heads, clip):
    nonlinearity = ops.NONLINEARITIES[nonlinearity]
    batch_sizes = SIZES if layout == "packed" else None
    shape = {"time_first": (6, 5, 7), "batch_first": (5, 6, 7), "packed": (12, 7)}[layout]
    projections, gradient = torch.randn(2, *shape, dtype=torch.float64)
    if layout == "batch_first":
        projections, gradient = projections.transpose(0, 1), gradient.transpose(0, 1)
    weight_hh = torch.randn(7, 7, dtype=torch.float64) / 3
    if heads > 1:
        weight_hh = torch.randn(7, 1, 1, dtype=torch.float64)
    h_0, grad_h_n = torch.randn(2, 1, 5, 7, dtype=torch.float64) if given else (None, None)
    if given:
        h_0 = h_0[:, :1].expand(1, 5, 7)
        grad_h_n = grad_h_n[:, :1].expand(1, 5, 7)
    arguments = (projections, weight_hh, h_0, batch_sizes)
    output, h_n = loop(*arguments, nonlinearity=nonlinearity, reverse=reverse)
    check(stepwise.forward(*arguments, nonlinearity, reverse), (output, h_n))
    for grad_output in (gradient, None):
        for needs_grad_h_0 in (True, False):
            arguments = (grad_output, grad_h_n, output, weight_hh, batch_sizes)
            check(
                stepwise.backward(*arguments, nonlinearity, reverse, clip, needs_grad_h_0),
                ops.recurrence_backward(
                    *arguments, None, nonlinearity, reverse, clip, needs_grad_h_0
                ),
            )
