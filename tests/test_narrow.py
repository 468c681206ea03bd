"""bfloat16, float16 and autocast: torch's dtypes, and values as close as the rounding of states allows."""

import pytest
import torch

import rnnfused
from rnnfused import functional

pytestmark = pytest.mark.usefixtures("device")

both_dtypes = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
# Bounds for the rounding of a state, relative to values of size 1. Gradients sum T such errors.
TOLERANCE = {torch.bfloat16: 2**-6, torch.float16: 2**-9}


def modules(**options):
    """Returns rnnfused's and torch's modules with the same float32 weights."""
    torch.manual_seed(0)
    theirs = torch.nn.RNN(12, 20, 2, bidirectional=True, **options)
    ours = rnnfused.RNN(12, 20, 2, bidirectional=True, **options)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def gradients(module, x, hx, weight):
    """Returns the outputs, and the gradients of their weighted sum: input, state, parameters."""
    module.zero_grad()
    x, hx = (value.detach().clone().requires_grad_() for value in (x, hx))
    output, h_n = module(x, hx)
    ((output.float() * weight).sum() + h_n.float().sum()).backward()
    return [output, h_n, x.grad, hx.grad, *(p.grad for p in module.parameters())]


def check_close(got, exact, dtype):
    for ours, wanted in zip(got, exact, strict=True):
        scale = max(1.0, wanted.abs().max().item())
        error = (ours.float() - wanted.float()).abs().max().item() / scale
        assert error < 4 * TOLERANCE[dtype]


def relative_error(got, exact):
    """Returns the root mean square of the tensors' relative errors."""
    errors = [(g.float() - e).norm() / e.norm() for g, e in zip(got, exact, strict=True)]
    return torch.stack(errors).norm().item() / len(errors) ** 0.5


@both_dtypes
@pytest.mark.parametrize("batch_first", [False, True])
def test_autocast_equals_torchs(dtype, batch_first, device):
    """Dtypes equal torch's; errors against float32 are smaller, because torch rounds more than the states."""
    if device != "cpu" and dtype != torch.float16:
        pytest.skip("cuDNN's RNN runs in float16 under autocast of any dtype")
    ours, theirs = modules(batch_first=batch_first)
    x, hx = torch.randn(6, 9, 12), torch.randn(4, 9 if not batch_first else 6, 20)
    weight = torch.randn(6, 9, 40)
    exact = gradients(theirs, x, hx, weight)
    with torch.autocast(x.device.type, dtype):
        output, h_n = ours(x, hx)
        wanted, wanted_h_n = theirs(x, hx)
        assert (output.dtype, h_n.dtype) == (wanted.dtype, wanted_h_n.dtype) == (dtype, dtype)
        got = gradients(ours, x, hx, weight)
        rounded = gradients(theirs, x, hx, weight)
    assert all(value.dtype == torch.float32 for value in got[2:])
    # cuDNN rounds no more than the states, and a product before the loop rounds the projections.
    factor = 1 if device == "cpu" else 1.1
    assert relative_error(got, exact) < factor * relative_error(rounded, exact)
    assert relative_error(got[:2], exact[:2]) < TOLERANCE[dtype] / (4 if device == "cpu" else 2)


@both_dtypes
def test_weights_of_the_dtype(dtype):
    ours, theirs = modules()
    x, hx, weight = torch.randn(7, 5, 12), torch.randn(4, 5, 20), torch.randn(7, 5, 40)
    for module in (ours, theirs):  # rounds the weights, so that float32 holds the same values
        module.to(dtype).float()
    x, hx = x.to(dtype).float(), hx.to(dtype).float()
    exact = gradients(theirs, x, hx, weight)
    got = gradients(ours.to(dtype), x.to(dtype), hx.to(dtype), weight)
    assert all(value.dtype == dtype for value in got)
    check_close(got, exact, dtype)


@both_dtypes
@pytest.mark.parametrize("batch", [3, 40])
def test_token_ids(dtype, batch):
    torch.manual_seed(0)
    ours = rnnfused.TokenRNN(11, 17)
    ids = torch.randint(11, (5, batch))
    exact = ours(ids)
    exact[0].sum().backward()
    exact_grad = ours.weight_ih_l0.grad.clone()
    ours.zero_grad()
    with torch.autocast(ids.device.type, dtype):
        got = ours(ids)
    got[0].float().sum().backward()
    assert got[0].dtype == dtype and ours.weight_ih_l0.grad.dtype == torch.float32
    check_close([*got, ours.weight_ih_l0.grad], [*exact, exact_grad], dtype)


@both_dtypes
def test_packed(dtype):
    ours, _ = modules()
    x = torch.randn(6, 3, 12)
    lengths = torch.tensor([6, 2, 4], device="cpu")
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    exact = ours(packed)
    with torch.autocast(x.device.type, dtype):
        got = ours(packed)
    assert got[0].data.dtype == dtype
    check_close([got[0].data, got[1]], [exact[0].data, exact[1]], dtype)


@both_dtypes
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (3, 40, 300, 700), (40, 2, 5, 65), (2, 600, 7, 33)]
)
def test_layers_of_every_size(dtype, shape):
    """Projections inside and before the loop, weights inside and beyond L2, gradients in chunks and at once."""
    steps, batch, features, hidden = shape
    torch.manual_seed(0)
    x = torch.randn(steps, batch, features)
    weight_ih = torch.randn(hidden, features) / features**0.5
    weight_hh = torch.randn(hidden, hidden) / hidden**0.5
    bias, h_0 = torch.randn(hidden), torch.randn(batch, hidden)
    arguments = [x.to(dtype) for x in (x, weight_ih, weight_hh, bias, h_0)]
    weight = torch.randn(steps, batch, hidden) / (steps * batch) ** 0.5
    results = []
    for wanted in (dtype, torch.float64):
        leaves = [x.detach().to(wanted).requires_grad_() for x in arguments]
        output, h_n = functional.rnn_layer(*leaves)
        loss = (output * weight.to(wanted)).sum() + h_n.sum() / batch**0.5
        results.append([output, h_n, *torch.autograd.grad(loss, leaves)])
    for got, exact in zip(*results, strict=True):
        assert got.dtype == dtype
        difference = (got.double() - exact).norm() / exact.norm().clamp(min=1)
        assert difference < 2 * TOLERANCE[dtype]


def test_the_second_derivative_in_bfloat16():
    x, w = (value.bfloat16().requires_grad_() for value in (torch.randn(3, 2, 4), torch.eye(4)))
    output, _ = functional.rnn(x, w)
    (grad,) = torch.autograd.grad(output.sum(), x, create_graph=True)
    grad.square().sum().backward()
    assert w.grad.dtype == torch.bfloat16 and w.grad.isfinite().all()


def test_autocast_keeps_float64_and_refuses_mixed_dtypes():
    ours, _ = modules()
    x = torch.randn(3, 2, 12)
    with torch.autocast(x.device.type, torch.bfloat16):
        with pytest.raises(ValueError, match="input must be torch.float32"):
            ours(x.double())
        with pytest.raises(ValueError, match="input must be torch.float32"):
            ours(x.int())
        with pytest.raises(RuntimeError, match="hx must be torch.float32"):
            ours(x, torch.zeros(4, 2, 20).double())
        assert ours(x.bfloat16(), torch.zeros(4, 2, 20))[0].dtype == torch.bfloat16
        output, _ = functional.rnn(torch.randn(3, 2, 5), torch.randn(5, 5).bfloat16())
        assert output.dtype == torch.bfloat16
        assert ours.double()(x.double())[0].dtype == torch.float64


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_autocast_of_another_device_has_no_effect():
    other = "cuda" if torch.get_default_device().type == "cpu" else "cpu"
    with torch.autocast(other, torch.bfloat16):
        ours, _ = modules()
        assert ours(torch.randn(3, 2, 12))[0].dtype == torch.float32
