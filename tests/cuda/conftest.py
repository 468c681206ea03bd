"""A fake GPU and the loops on it, for the tests of the choice of a way."""

import math

import pytest
from fake_gpu import FakeGpu, new_loops

from rnnfused.cuda import timing


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(timing, "ENOUGH_SECONDS", math.inf)  # all rounds, on a slow machine too
    return FakeGpu()


@pytest.fixture
def loops(gpu):
    return new_loops(gpu)
