"""A fake GPU and the loops on it, for the tests of the choice of a way."""

import math
import warnings

import pytest
import torch
from fake_gpu import FakeGpu, new_loops

from rnnfused.cuda import timing


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(timing, "ENOUGH_SECONDS", math.inf)  # all rounds, on a slow machine too
    return FakeGpu()


@pytest.fixture
def loops(gpu):
    return new_loops(gpu)


@pytest.fixture
def tf32():
    """Restores torch's switch after the test; monkeypatch cannot."""
    before = torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture
def warned():
    """The texts of all warnings of the test."""
    texts = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_: texts.append(str(message))
        yield texts
