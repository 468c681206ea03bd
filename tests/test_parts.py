"""A layer runs backward in parts (of rows, of steps). Its gradients do not depend on the split."""

import pytest
import torch
from raw_ops import TANH

import rnnfused
from rnnfused import functional

pytestmark = pytest.mark.usefixtures("restore_threads")

# T, B, I, H. Parts of the float64 calls, in order: all steps of some rows; some steps of all rows; some steps of some
# rows; one row; weights too large to read again for each few rows; weights too large for one thread to sum.
SHAPES = [
    (40, 200, 5, 16),
    (600, 5, 9, 64),
    (150, 130, 3, 40),
    (3000, 1, 4, 60),
    (90, 12, 7, 300),
    (300, 3, 200, 480),
]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape)))


def run_layer(layer, x, h_0, gradient, gradient_n):
    """Returns the results, and the gradients of the input, the first state and the parameters."""
    leaves = [x, h_0, *layer.parameters()]
    leaves = [leaf.requires_grad_() for leaf in leaves if leaf is not None]
    results = layer(x, h_0)
    gradients = torch.autograd.grad(results, leaves, (gradient, gradient_n))
    return [*results, *gradients]


def arguments(shape, layer, given, dtype):
    steps, batch, features, hidden = shape
    sequence = (batch, steps) if layer.batch_first else (steps, batch)
    states = (1 + layer.bidirectional, batch, hidden)
    return (
        torch.randn(*sequence, features, dtype=dtype),
        torch.randn(states, dtype=dtype) if given else None,
        torch.randn(*sequence, hidden * states[0], dtype=dtype),
        torch.randn(states, dtype=dtype),
    )


@shapes
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_both_directions_equal_torchs(shape, threads, batch_first, given):
    torch.manual_seed(0)
    torch.set_num_threads(1)  # nn.RNN takes a minute where its threads wait for a core
    options = {"batch_first": batch_first, "bidirectional": True, "dtype": torch.float64}
    ours, theirs = (kind(*shape[2:], **options) for kind in (rnnfused.RNN, torch.nn.RNN))
    ours.load_state_dict(theirs.state_dict())
    inputs = arguments(shape, ours, given, torch.float64)
    wanted = run_layer(theirs, *inputs)
    torch.set_num_threads(threads)
    for got, expected in zip(run_layer(ours, *inputs), wanted, strict=True):
        largest = expected.abs().max().item()
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11 * largest)


@shapes
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_d_has_the_bits_of_the_loop_op(shape, reverse, dtype):
    """If W_ih is the identity, the input's gradient is d. The op without parts returns all of d."""
    torch.manual_seed(0)
    steps, batch, _, hidden = shape
    x = torch.randn(steps, batch, hidden, dtype=dtype, requires_grad=True)
    projections = x.detach().clone().requires_grad_()
    weight_hh = torch.randn(hidden, hidden).to(dtype) / hidden**0.5
    gradients = torch.randn(steps, batch, hidden, dtype=dtype), torch.randn(batch, hidden).to(dtype)
    eye = torch.eye(hidden, dtype=dtype)
    in_parts = functional.rnn_layer(x, eye, weight_hh, reverse=reverse)
    whole = functional.rnn(projections, weight_hh, reverse=reverse)
    (grad_input,) = torch.autograd.grad(in_parts, x, gradients)
    (d,) = torch.autograd.grad(whole, projections, gradients)
    assert torch.equal(grad_input, d)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("threads", [1, 2])
@shapes
def test_sums_of_16_bit_types_are_rounded_once(shape, dtype, threads):
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    layer = rnnfused.RNN(*shape[2:], dtype=dtype)
    inputs = arguments(shape, layer, True, dtype)
    *_, weight_ih, weight_hh, bias, _ = run_layer(layer, *inputs)
    x = inputs[0].detach().float()
    # The op without parts returns all of d; the expected sums are made from it.
    with torch.no_grad():
        output = layer(inputs[0], inputs[1])[0]
    tensors = inputs[2], inputs[3], output, layer.weight_hh_l0.detach(), None, None
    d, _ = torch.ops.rnnfused.recurrence_backward(*tensors, TANH, False, None, False)
    before = torch.cat([inputs[1].detach(), output[:-1]]).float()
    tolerance = {"rtol": 2 * torch.finfo(dtype).eps, "atol": 2e-2}
    torch.testing.assert_close(
        weight_ih.float(), torch.einsum("tbh,tbi->hi", d.float(), x), **tolerance
    )
    torch.testing.assert_close(
        weight_hh.float(), torch.einsum("tbh,tbi->hi", d.float(), before), **tolerance
    )
    torch.testing.assert_close(bias.float(), d.float().sum((0, 1)), **tolerance)


def test_each_gradient_alone():
    """A gradient computed alone has the bits that it has among all."""
    torch.manual_seed(0)
    x, weight_ih = torch.randn(900, 4, 11), torch.randn(96, 11)
    weight_hh, bias, h_0 = torch.randn(96, 96) / 10, torch.randn(96), torch.randn(4, 96)
    gradients = torch.randn(900, 4, 96), torch.randn(4, 96)

    def run(needed):
        leaves = [
            t.clone().requires_grad_(i in needed)
            for i, t in enumerate((x, weight_ih, weight_hh, bias, h_0))
        ]
        results = functional.rnn_layer(*leaves)
        return torch.autograd.grad(results, [leaves[i] for i in needed], gradients)

    everything = run(range(5))
    for i, expected in enumerate(everything):
        assert torch.equal(run([i])[0], expected)


# T, B, I, H: few rows, or float16, so that projections precede the loop. They are made in one part or in several.
PROJECTED = [(900, 2, 200, 130), (2500, 1, 90, 130), (40, 3, 70, 90)]


@pytest.mark.parametrize("shape", PROJECTED, ids=lambda shape: "-".join(map(str, shape)))
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("given", [False, True])
def test_projections_do_not_depend_on_the_parts(shape, reverse, batch_first, dtype, given):
    """One call on the sequence has more parts than calls on pieces of it, and the same bits."""
    torch.manual_seed(0)
    steps, batch, features, hidden = shape
    x = torch.randn(batch, steps, features, dtype=dtype)
    weights = torch.randn(hidden, features), torch.randn(hidden, hidden), torch.randn(hidden)
    weights = [w.to(dtype) / hidden**0.5 for w in weights]
    h_0 = torch.randn(batch, hidden, dtype=dtype) if given else None
    options = {"batch_first": batch_first, "reverse": reverse}

    def run(x, h_0):
        x = x if batch_first else x.transpose(0, 1).contiguous()
        output, h_n = functional.rnn_layer(x, *weights, h_0, **options)
        return output if batch_first else output.transpose(0, 1), h_n

    output, h_n = run(x, h_0)
    pieces = list(x.split(50, 1))
    for piece in reversed(pieces) if reverse else pieces:
        expected, h_0 = run(piece, h_0)
        at = 50 * [p is piece for p in pieces].index(True)
        assert torch.equal(output[:, at : at + expected.size(1)], expected)
    assert torch.equal(h_n, h_0)
