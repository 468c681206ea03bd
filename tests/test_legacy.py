"""The ops of rnnfused 0.1.0: programs that it exported still call them."""

import io

import pytest
import torch

import rnnfused


class Layer(torch.nn.Module):
    """Calls the op that rnnfused 0.1.0 recorded for a layer."""

    def __init__(self, rnn):
        super().__init__()
        self.rnn = rnn

    def forward(self, x):
        weight_ih, weight_hh, bias_ih, bias_hh = self.rnn.parameters()
        if self.rnn.batch_first:
            x = x.transpose(0, 1)
        tensors = (x, weight_ih, bias_ih, bias_hh, weight_hh, None, None, None)
        options = (self.rnn.nonlinearity, False, None)
        output, h_n = torch.ops.rnnfused.layer_forward(*tensors, *options)
        return (output.transpose(0, 1) if self.rnn.batch_first else output), h_n


@pytest.mark.parametrize("kind", [rnnfused.RNN, rnnfused.TokenRNN])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_exported_programs_load(kind, batch_first, nonlinearity):
    rnn = kind(6, 5, batch_first=batch_first, nonlinearity=nonlinearity)
    x = torch.randint(6, (4, 3)) if kind is rnnfused.TokenRNN else torch.randn(4, 3, 6)
    module = Layer(rnn)
    for got, expected in zip(module(x), rnn(x), strict=True):
        torch.testing.assert_close(got, expected)
        assert got.stride() == expected.stride()  # compiled programs rely on strides
    file = io.BytesIO()
    torch.export.save(torch.export.export(module, (x,)), file)
    file.seek(0)
    torch.testing.assert_close(torch.export.load(file).module()(x), rnn(x))


def test_the_recurrence():
    projections, weight = torch.randn(4, 3, 5, requires_grad=True), torch.randn(5, 5)
    old = torch.ops.rnnfused.forward(projections, weight, None, None, None, "tanh", True, None)
    new = rnnfused.functional.rnn(projections, weight, reverse=True)
    torch.testing.assert_close(old, new)
    (gradient,) = torch.autograd.grad(old[0].sum(), projections)
    torch.testing.assert_close(gradient, torch.autograd.grad(new[0].sum(), projections)[0])


def test_a_wrong_nonlinearity():
    with pytest.raises(ValueError, match="nonlinearity must be 'tanh' or 'relu', got 'gelu'"):
        torch.ops.rnnfused.forward(
            torch.randn(1, 1, 2), torch.randn(2, 2), None, None, None, "gelu", False, None
        )
