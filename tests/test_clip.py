"""Gradient clipping by the global norm."""

import math

import pytest
import torch

from rnnfused import clip_gradients

pytestmark = pytest.mark.usefixtures("device")


def parameters(*gradients):
    result = []
    for gradient in gradients:
        parameter = torch.nn.Parameter(torch.zeros(2))
        parameter.grad = None if gradient is None else torch.tensor(gradient)
        result.append(parameter)
    return result


def gradients_of(parameters):
    return [None if p.grad is None else p.grad.tolist() for p in parameters]


def test_scales_to_the_threshold():
    tensors = parameters([3.0, 0.0], None, [0.0, 4.0])
    assert clip_gradients(1, tensors).item() == pytest.approx(5)
    assert gradients_of(tensors) == [[pytest.approx(0.6), 0], None, [0, pytest.approx(0.8)]]


@pytest.mark.parametrize("threshold", [5.0, 6.0])
def test_gradients_within_the_threshold_do_not_change(threshold):
    tensors = parameters([3.0, 0.0], [0.0, 4.0])
    clip_gradients(threshold, tensors)
    assert gradients_of(tensors) == [[3, 0], [0, 4]]


def test_zero_norm_and_no_gradients():
    tensors = parameters([0.0, 0.0], None)
    assert clip_gradients(1, tensors) == 0
    assert gradients_of(tensors) == [[0, 0], None]
    assert clip_gradients(1, parameters(None)) == 0
    assert clip_gradients(1, []) == 0
    empty = torch.nn.Parameter(torch.zeros(0))
    empty.grad = torch.zeros(0)
    assert clip_gradients(1, [empty]) == 0


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_non_finite_norm_raises_and_changes_nothing(bad):
    tensors = parameters([3.0, bad], [100.0, 0.0])
    with pytest.raises(FloatingPointError, match="norm of the gradients is (inf|nan)"):
        clip_gradients(1, tensors)
    assert gradients_of(tensors)[1] == [100, 0] and gradients_of(tensors)[0][0] == 3


def test_a_single_parameter():
    (tensor,) = parameters([3.0, 4.0])
    assert clip_gradients(1, tensor).item() == pytest.approx(5)
    assert tensor.grad.tolist() == [pytest.approx(0.6), pytest.approx(0.8)]


@pytest.mark.parametrize(
    ("dtype", "size"), [(torch.float32, 1e-25), (torch.float32, 1e-41), (torch.float64, 1e300)]
)
def test_squares_that_underflow_or_overflow(dtype, size):
    tensor = torch.nn.Parameter(torch.zeros(2, dtype=dtype))
    tensor.grad = torch.full((2,), size, dtype=dtype)
    assert clip_gradients(size / 10, tensor).item() == pytest.approx(2**0.5 * size, rel=1e-3)
    assert tensor.grad.norm(p=1).item() == pytest.approx(2**0.5 * size / 10, rel=1e-2)


def test_large_gradients_do_not_count_as_infinite():
    tensors = parameters([3e30, 0.0], [0.0, 4e30])
    assert clip_gradients(1, tensors).item() == pytest.approx(5e30)
    assert gradients_of(tensors) == [[pytest.approx(0.6), 0], [0, pytest.approx(0.8)]]


@pytest.mark.parametrize("threshold", [0, -1.0, math.nan])
def test_threshold_must_be_positive(threshold):
    with pytest.raises(ValueError, match="grad_clip_val must be positive"):
        clip_gradients(threshold, parameters([1.0, 1.0]))


def test_takes_a_module_of_mixed_dtypes():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2).double())
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert clip_gradients(1, module).item() == pytest.approx(12**0.5)
    assert sum(p.grad.pow(2).sum().item() for p in module.parameters()) == pytest.approx(1)
