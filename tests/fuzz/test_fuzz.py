"""Calls with anything wrong: each equals its oracle, or raises an error that names an argument; none leaves its tensors.

pytest tests/fuzz --fuzz-calls 20000 --fuzz-seed 7     (make fuzz)
"""

import random
import re

import pytest
import torch

from .calls import draw

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.08, torch.float16: 0.02}


def tensors_of(result):
    return result if isinstance(result, tuple) else (result,)


def check(call, memory):
    """Make the call. AssertionError where it breaks a promise."""
    try:
        results = tensors_of(call.function(**call.arguments))
    except MemoryError:
        assert not memory.changed(), "an argument, or memory beside it, has changed"
        return "refused"
    except (TypeError, ValueError, IndexError, RuntimeError, AttributeError) as error:
        # A raw op's rule for fake tensors may meet None.
        assert not (call.is_public and isinstance(error, AttributeError))
        message = str(error)
        assert not memory.changed(), "an argument, or memory beside it, has changed"
        if call.is_public and "can't allocate memory" not in message:
            assert any(re.search(rf"\b{name}\b", message) for name in NAMES[call.name]), message
        return "refused"
    assert not memory.changed(), "an argument, or memory beside it, has changed"
    if call.oracle is None:
        return "taken"
    expected = tensors_of(call.oracle(**call.arguments))
    for got, wanted in zip(results, expected, strict=True):
        assert got.shape == wanted.shape
        limit = TOLERANCE[got.dtype]
        torch.testing.assert_close(
            got.double(), wanted.to(got.dtype).double(), rtol=limit, atol=limit, equal_nan=True
        )
    return "taken"


NAMES = {
    "functional.rnn": "projections weight_hh h_0 nonlinearity batch_first reverse batch_sizes lengths".split(),
    "functional.rnn_layer": (
        "input weight_ih weight_hh bias h_0 nonlinearity batch_first reverse batch_sizes lengths".split()
    ),
    "RNN.forward": "input hx".split(),
    "linear_cross_entropy": (
        "hidden weight bias target reduction label_smoothing ignore_index".split()
    ),
}


@pytest.mark.filterwarnings("ignore")
def test_random_calls(fuzz_calls, fuzz_seed):
    counts = {"taken": 0, "refused": 0}
    for number in range(fuzz_calls):
        seed = fuzz_seed * 10**6 + number
        torch.manual_seed(seed)
        call, memory = draw(random.Random(seed))
        try:
            counts[check(call, memory)] += 1
        except Exception as error:
            shown = {
                name: (value.dtype, tuple(value.shape), value.stride(), value.device.type)
                if isinstance(value, torch.Tensor)
                else value
                for name, value in call.arguments.items()
            }
            raise AssertionError(
                f"call {number} of --fuzz-seed {fuzz_seed}: {call.name}{shown}"
            ) from error
    assert min(counts.values()) > fuzz_calls / 10, counts
