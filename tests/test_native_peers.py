"""The benchmarks' peers in C: their states and gradients are those of nn.RNN."""

from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
# One step, one row, sizes with no divisor of 8, sizes of several blocks.
SIZES = [(1, 1, 8, 8), (2, 3, 5, 7), (32, 1, 28, 32), (5, 20, 200, 200), (7, 128, 50, 500)]


@pytest.fixture(params=["onednn", "libxsmm"])
def peer(request, monkeypatch):
    """Makes a layer of the peer: peer(state, x, gradient)."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from native_peers import native

    reason = native.missing(request.param)
    if reason:
        pytest.skip(reason)
    return lambda *layer: native.Peer(request.param, *layer)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_equals_nn_rnn(peer, sizes, threads):
    num_steps, batch_size, input_size, hidden_size = sizes
    torch.manual_seed(0)
    module = torch.nn.RNN(input_size, hidden_size)
    x = torch.randn(num_steps, batch_size, input_size)
    gradient = torch.randn(num_steps, batch_size, hidden_size)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ours = peer(module.state_dict(), x, gradient)
        states = module(x)[0]
        states.backward(gradient)
        torch.testing.assert_close(ours.forward(), states, rtol=1e-4, atol=1e-5)
        for _ in range(2):  # a second call does not add to the first one's gradients
            ours.states.zero_()
            ours.forward_backward()
            torch.testing.assert_close(ours.states, states, rtol=1e-4, atol=1e-5)
            expected = [p.grad for p in module.parameters()][:3]
            torch.testing.assert_close(ours.parameter_gradients(), expected, rtol=1e-3, atol=1e-3)
    finally:
        torch.set_num_threads(before)


def test_names_the_missing_package(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from native_peers import native

    absent = native.Library("Absent 1", "libabsent-dev", "no/such/header.h", "1", ())
    monkeypatch.setitem(native.LIBRARIES, "absent", absent)
    with pytest.raises(
        RuntimeError, match="absent needs Absent 1: .* Debian's package libabsent-dev"
    ):
        native.driver("absent")
