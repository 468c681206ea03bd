"""Compiled models that make views of a layer's output or input. The caller then changes them in place."""

import pytest
import torch
from torch._inductor.utils import fresh_cache

import rnnfused

VIEWS = {
    "whole": lambda output: output,
    "last step": lambda output: output[-1],
    "transposed": lambda output: output.transpose(0, 1),
    "flat": lambda output: output.flatten(0, 1),
}
BACKENDS = ["aot_eager", "inductor"]


class Model(torch.nn.Module):
    def __init__(self, before, after):
        super().__init__()
        self.rnn = rnnfused.RNN(3, 4, dtype=torch.float64)
        self.before, self.after = before, after

    def forward(self, x):
        return self.after(self.rnn(self.before(x))[0])


def gradients(module, output):
    return torch.autograd.grad(output.sum(), list(module.parameters()))


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    with fresh_cache():
        yield
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("view", VIEWS)
def test_a_view_of_the_output(backend, view):
    model, x = Model(lambda x: x, VIEWS[view]), torch.randn(5, 2, 3, dtype=torch.float64)
    expected = gradients(model.rnn, model(x) * 0.5)
    output = torch.compile(model, backend=backend)(x)
    output *= 0.5
    torch.testing.assert_close(gradients(model.rnn, output), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_result_of_vmap(backend):
    rnn, x = rnnfused.RNN(3, 4, dtype=torch.float64), torch.randn(2, 5, 2, 3, dtype=torch.float64)
    mapped = torch.vmap(lambda x: rnn(x)[0])
    expected = gradients(rnn, mapped(x) * 0.5)
    output = torch.compile(mapped, backend=backend)(x)
    output *= 0.5
    torch.testing.assert_close(gradients(rnn, output), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_transposed_view_of_the_input(backend):
    model = Model(lambda x: x.transpose(0, 1), torch.clone)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    expected = gradients(model.rnn, model(x))
    output = torch.compile(model, backend=backend)(x)
    x.zero_()
    torch.testing.assert_close(gradients(model.rnn, output), expected)
