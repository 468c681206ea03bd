"""The options of the random calls."""

import secrets

import pytest


@pytest.fixture
def fuzz_calls(request):
    return request.config.getoption("--fuzz-calls")


@pytest.fixture
def fuzz_seed(request):
    """Another one each time, unless the command line sets it; a failure shows it."""
    seed = request.config.getoption("--fuzz-seed")
    return secrets.randbelow(10**6) if seed is None else seed
