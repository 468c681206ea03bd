"""Objects with ``__torch_function__``, gradients per sample, operation counts: as ``nn.RNN`` has them."""

import pytest
import torch
from torch.nn.utils._per_sample_grad import call_for_per_sample_grads
from torch.utils.flop_counter import FlopCounterMode

import rnnfused


class Wrapped:
    """Holds a tensor without being one; torch's functions take it through ``__torch_function__``."""

    def __init__(self, data):
        self.data = data

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        def unwrap(x):
            return x.data if isinstance(x, cls) else x

        kwargs = {name: unwrap(x) for name, x in (kwargs or {}).items()}
        result = function(*map(unwrap, args), **kwargs)
        return tuple(map(cls, result)) if isinstance(result, tuple) else cls(result)


def test_objects_with_torch_function():
    layer, cell = rnnfused.RNN(6, 5), rnnfused.RNNCell(6, 5)
    x, h = torch.randn(4, 3, 6), torch.randn(1, 3, 5)
    for arguments in ((Wrapped(x),), (Wrapped(x), Wrapped(h)), (Wrapped(x), h), (x, Wrapped(h))):
        plain = [a.data if isinstance(a, Wrapped) else a for a in arguments]
        output, h_n = layer(*arguments)
        torch.testing.assert_close((output.data, h_n.data), layer(*plain))
    output, _ = layer(Wrapped(x), lengths=[4, 1, 2])
    torch.testing.assert_close(output.data, layer(x, lengths=[4, 1, 2])[0])
    for arguments in ((Wrapped(x[0]),), (Wrapped(x[0]), h[0]), (x[0], Wrapped(h[0]))):
        plain = [a.data if isinstance(a, Wrapped) else a for a in arguments]
        torch.testing.assert_close(cell(*arguments).data, cell(*plain))


@pytest.mark.parametrize("module", [rnnfused.RNN(6, 5), rnnfused.RNNCell(6, 5)])
def test_other_objects_are_refused(module):
    for arguments in ((object(),), ("x",), (torch.randn(4, 3, 6)[: module.input_size], object())):
        with pytest.raises(TypeError, match="(input|hx) must be a Tensor"):
            module(*arguments)


def grad_samples(module, x):
    results = call_for_per_sample_grads(module, batch_first=True)(x)
    (results[0] if isinstance(results, tuple) else results).sin().sum().backward()
    return [parameter.grad_sample for parameter in module.parameters()]


def by_loop(module, x):
    samples = []
    for row in x.split(1):
        results = module(row)
        loss = (results[0] if isinstance(results, tuple) else results).sin().sum()
        samples.append(torch.autograd.grad(loss, list(module.parameters())))
    return [torch.stack(each) for each in zip(*samples, strict=True)]


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: rnnfused.RNN(6, 5, batch_first=True), (3, 4, 6)),
        (lambda: rnnfused.RNN(6, 5, 2, "relu", batch_first=True, bidirectional=True), (3, 4, 6)),
        (lambda: rnnfused.RNNCell(6, 5), (3, 6)),
        (lambda: rnnfused.RNNCell(6, 5, nonlinearity="relu", bias=False), (3, 6)),
        (lambda: rnnfused.replace_rnn(torch.nn.RNN(6, 5, batch_first=True)), (3, 4, 6)),
    ],
)
def test_gradients_per_sample(make, shape):
    torch.manual_seed(0)
    module, x = make(), torch.randn(shape)
    torch.testing.assert_close(grad_samples(module, x), by_loop(module, x))
    module(x)  # an ordinary call still works


def test_gradients_per_sample_of_token_ids():
    module, ids = rnnfused.TokenRNN(6, 5, batch_first=True), torch.randint(6, (3, 4))
    torch.testing.assert_close(grad_samples(module, ids), by_loop(module, ids))


@pytest.mark.parametrize("options", [dict(heads=5), dict(state_grad_clip=1.0)])
def test_gradients_per_sample_with_options_beyond_torchs(options):
    module = rnnfused.RNN(6, 5, batch_first=True, **options)
    with pytest.raises(NotImplementedError, match="gradients per sample with heads or"):
        grad_samples(module, torch.randn(3, 4, 6))


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize(
    "options", [dict(), dict(batch_first=True), dict(num_layers=2, bidirectional=True)]
)
def test_operation_counts_equal_torchs(options, given):
    counts = []
    for kind in (rnnfused.RNN, torch.nn.RNN):
        module, x = kind(40, 64, **options), torch.randn(10, 8, 40, requires_grad=True)
        states = 4 if module.bidirectional else 1
        batch = x.size(0 if module.batch_first else 1)
        hx = torch.randn(states, batch, 64, requires_grad=True) if given else None
        with FlopCounterMode(display=False) as counter:
            module(x, hx)[0].sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]
