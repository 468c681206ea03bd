"""Prints the MB of resident memory that one call of a million steps takes, forward and backward; checks its results.

It runs as its own process, because the peak of resident memory never falls.
"""

import re
from pathlib import Path

import torch

import rnnfused

STEPS, PIECES = 1_000_000, 100
FEATURES, HIDDEN = 4, 16
# What a call returns: the output and the input's gradient. All else is a few parts of it.
TENSORS_MB = STEPS * (HIDDEN + FEATURES) * 4 / 2**20


def peak_mb():
    # The peak of getrusage() may be that of the process that started this one.
    return int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) / 2**10


def results(module, x, h_0, grad_output, grad_h_n):
    """Output and last state, then the gradients of the input, the first state and the parameters."""
    x, h_0 = x.detach().requires_grad_(), h_0.detach().requires_grad_()
    outputs = module(x, h_0)
    leaves = [x, h_0, *module.parameters()]
    return [
        each.detach()
        for each in (*outputs, *torch.autograd.grad(outputs, leaves, (grad_output, grad_h_n)))
    ]


def check_against_pieces(module, inputs, whole):
    """The call cut in pieces: the states are carried forward, their gradients back."""
    x, h_0, grad_output, grad_h_n = inputs
    output, h_n, grad_x, grad_h_0, *gradients = whole
    cuts = [slice(i, i + STEPS // PIECES) for i in range(0, STEPS, STEPS // PIECES)]
    state, states = h_0, []
    with torch.no_grad():
        for cut in cuts:
            states.append(state)
            piece, state = module(x[cut], state)
            assert torch.equal(piece, output[cut])
    assert torch.equal(state, h_n)
    sums = [torch.zeros_like(each, dtype=torch.float64) for each in gradients]
    for cut, state in reversed(list(zip(cuts, states, strict=True))):
        _, _, of_x, grad_h_n, *pieces = results(module, x[cut], state, grad_output[cut], grad_h_n)
        assert torch.equal(of_x, grad_x[cut])
        for sum, piece in zip(sums, pieces, strict=True):
            sum += piece
    assert torch.equal(grad_h_n, grad_h_0)
    # A float32 sum of a million terms, whose order differs.
    for got, wanted in zip(gradients, sums, strict=True):
        error = (got - wanted).abs().max() / wanted.abs().max()
        assert error < 1e-4, error


def check_last_piece(module, inputs, whole):
    """Torch's RNN, from the state before the last 1,000 steps, whose input's gradients no earlier step reaches."""
    x, _, grad_output, grad_h_n = inputs
    output, h_n, grad_x, *_ = whole
    last = slice(STEPS - 1000, STEPS)
    theirs = torch.nn.RNN(FEATURES, HIDDEN)
    theirs.load_state_dict(module.state_dict())
    state = output[last.start - 1 : last.start]
    expected = results(theirs, x[last], state, grad_output[last], grad_h_n)
    for got, wanted in zip((output[last], h_n, grad_x[last]), expected[:3], strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def main():
    torch.manual_seed(0)
    torch.set_num_threads(2)
    module = rnnfused.RNN(FEATURES, HIDDEN)
    inputs = (
        torch.randn(STEPS, 1, FEATURES),
        torch.randn(1, 1, HIDDEN),
        torch.randn(STEPS, 1, HIDDEN),
        torch.randn(1, 1, HIDDEN),
    )
    # Torch starts its threads and its autograd.
    results(module, *(each[:1000] for each in inputs))
    before = peak_mb()
    whole = results(module, *inputs)
    print(peak_mb() - before)
    check_against_pieces(module, inputs, whole)
    check_last_piece(module, inputs, whole)


if __name__ == "__main__":
    main()
