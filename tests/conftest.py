"""The devices that the tests of the op and of the modules run on."""

import pytest
import torch


@pytest.fixture(params=["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
def device(request):
    """Every device there is, in turn; tensors that name no device are made on it."""
    if request.param == "cpu":
        yield request.param
    else:
        with torch.device(request.param):
            yield request.param


@pytest.fixture
def restore_threads():
    """Puts the number of threads back that a test changes."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
