"""Options beyond nn.RNN, against the reference: lengths (padded or jagged), heads, clipped gradients."""

import pytest
import torch
from raw_ops import TANH, loop

import rnnfused
from rnnfused import functional, reference
from rnnfused.ops import packing

T, B, H = 5, 4, 6
LENGTHS = torch.tensor([3, 5, 0, 2])
FAR = torch.tensor([1, 2, 3, 2**64 - 1], dtype=torch.uint64)  # as int64, its last is -1
EXTENTS = {
    "padded": ((T, B), {}),
    "batch_first": ((B, T), {"batch_first": True}),
    "packed": ((8,), {"batch_sizes": torch.tensor([4, 3, 1])}),
    "lengths": ((T, B), {"lengths": LENGTHS}),
    "lengths batch_first": ((B, T), {"lengths": LENGTHS, "batch_first": True}),
    "jagged": ((10,), {"lengths": LENGTHS}),
}


def leaves(shape, heads, given, hidden=H, dtype=torch.float64):
    part = hidden // heads
    weight = torch.randn(heads, part, part) if heads > 1 else torch.randn(hidden, hidden) / 2
    tensors = [torch.randn(*shape, hidden), weight]
    if given:
        tensors.append(torch.randn(B, hidden))
    return [x.to(dtype).requires_grad_() for x in tensors]


def results(function, tensors, **options):
    """Returns the results, and the gradients of the tensors."""
    output, h_n = function(*tensors, **options)
    pattern = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    loss = (output * pattern).sum() + (h_n * h_n).sum()
    return output, h_n, *torch.autograd.grad(loss, tensors)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("extents", EXTENTS)
@pytest.mark.parametrize("clip", [None, 0.3])
def test_equals_the_reference(nonlinearity, reverse, given, heads, extents, clip, device):
    shape, options = EXTENTS[extents]
    options = {**options, "reverse": reverse, "nonlinearity": nonlinearity}
    tensors = leaves(shape, heads, given)
    got, expected = (
        results(f, tensors, **options, state_grad_clip=clip)
        for f in (functional.rnn, reference.rnn)
    )
    torch.testing.assert_close(got, expected)
    if clip is not None:  # proves that the threshold was exceeded
        unclipped = results(functional.rnn, tensors, **options)
        assert not torch.allclose(got[2], unclipped[2])


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("extents", EXTENTS)
def test_derivatives_of_both_modes_to_second_order(nonlinearity, reverse, given, heads, extents):
    shape, options = EXTENTS[extents]

    def rnn(*tensors):
        return functional.rnn(*tensors, **options, reverse=reverse, nonlinearity=nonlinearity)

    tensors = leaves(shape, heads, given)
    assert torch.autograd.gradcheck(
        rnn,
        tensors,
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
    )
    assert torch.autograd.gradgradcheck(rnn, tensors, check_fwd_over_rev=True, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("hidden", [1, 17, 48, 130])
@pytest.mark.parametrize("batch", [1, 13, 70])
def test_large_batches_with_lengths_have_the_bits_of_their_rows(dtype, hidden, batch):
    lengths = torch.randint(0, 9, (batch,))
    x = (
        torch.randn(8, batch, 7)
        .to(dtype)
        .masked_fill((torch.arange(8).unsqueeze(1) >= lengths).unsqueeze(-1), torch.nan)
    )
    layer = rnnfused.RNN(7, hidden, 2, bidirectional=True, dtype=dtype)
    output, h_n = layer(x, lengths=lengths)
    for b, n in enumerate(lengths.tolist()):
        assert not output[n:, b].any()
        if n:
            alone, last = layer(x[:n, b])
            assert torch.equal(output[:n, b], alone) and torch.equal(h_n[:, b], last)
        else:
            assert not h_n[:, b].any()


@pytest.mark.parametrize("jagged", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("sizes", [(40, 30, 20, 50), (33, 70, 64, 30)])
def test_gradients_of_a_layer_with_lengths(jagged, reverse, sizes):
    time, batch, features, hidden = sizes
    lengths = torch.randint(0, time + 1, (batch,))
    past_end = torch.arange(time).unsqueeze(1) >= lengths
    weights = [torch.randn(hidden, features), torch.randn(hidden, hidden), torch.randn(hidden)]
    weights = [(w / hidden**0.5).requires_grad_() for w in weights]
    h_0 = torch.randn(batch, hidden, requires_grad=True)
    x = torch.randn(time, batch, features).masked_fill(past_end.unsqueeze(-1), torch.nan)
    gradient = torch.randn(time, batch, hidden)
    if jagged:
        inside = ~past_end.t()
        x, gradient = x.transpose(0, 1)[inside], gradient.transpose(0, 1)[inside]
    x.requires_grad_()
    leaves = [x, *weights, h_0]
    output, h_n = functional.rnn_layer(*leaves, lengths=lengths, reverse=reverse)
    got = torch.autograd.grad([output, h_n], leaves, [gradient, torch.ones_like(h_n)])
    clean = x.nan_to_num(0)
    projections = torch.nn.functional.linear(clean, weights[0], weights[2])
    output, h_n = reference.rnn(projections, weights[1], h_0, lengths=lengths, reverse=reverse)
    expected = torch.autograd.grad([output, h_n], leaves, [gradient, torch.ones_like(h_n)])
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("jagged", [False, True])
@pytest.mark.parametrize("lengths", [[3, 5, 0, 2], [0, 0, 0, 0], [1, 1, 1, 1]])
def test_packed_loops_equal_the_op_with_lengths(reverse, jagged, lengths):
    """Devices whose loops take packed rows alone run lengths this way."""
    ops = torch.ops.rnnfused
    lengths = torch.tensor(lengths)
    shape = (int(lengths.sum()), H) if jagged else (T, B, H)
    p, g = torch.randn(2, *shape, dtype=torch.float64)
    weight = torch.randn(H, H, dtype=torch.float64)
    h_0, g_n = torch.randn(2, 1, B, H, dtype=torch.float64)
    options = (TANH, reverse)
    for h, grad_h_n in ((h_0, g_n), (None, None)):
        expected = loop(p, weight, h, lengths=lengths, reverse=reverse)

        def packed_loop(p, weight, h, batch_sizes, nonlinearity, reverse):
            return loop(p, weight, h, batch_sizes, nonlinearity=nonlinearity, reverse=reverse)

        def packed_backward(g, grad_h_n, output, weight, batch_sizes, *options):
            return ops.recurrence_backward(g, grad_h_n, output, weight, batch_sizes, None, *options)

        got = packing.forward(packed_loop, p, weight, h, lengths, *options)
        torch.testing.assert_close(got, expected)
        for needs in (True, False):
            arguments = (weight, None, lengths, *options, None, needs)
            expected_gradients = ops.recurrence_backward(g, grad_h_n, expected[0], *arguments)
            got = packing.backward(
                packed_backward, g, grad_h_n, expected[0], weight, lengths, *options, None, needs
            )
            torch.testing.assert_close(got[0], expected_gradients[0])
            if needs:
                torch.testing.assert_close(got[1], expected_gradients[1])


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("heads", [2, 8, 64])
def test_heads_are_separate_recurrences(threads, heads, restore_threads):
    torch.set_num_threads(threads)
    layer = rnnfused.RNN(20, 128, heads=heads)
    x, h_0 = torch.randn(30, 20, 20), torch.randn(1, 20, 128)
    output, _ = layer(x, h_0)
    bias = layer.bias_ih_l0 + layer.bias_hh_l0
    part = 128 // heads
    for head in range(heads):
        own = slice(head * part, (head + 1) * part)
        weights = layer.weight_ih_l0[own], layer.weight_hh_l0[head], bias[own]
        alone, _ = functional.rnn_layer(x, *weights, h_0[0, :, own])
        torch.testing.assert_close(output[..., own], alone)


def test_layers_take_the_options():
    layer = rnnfused.RNN(3, H, 2, bidirectional=True, heads=2, state_grad_clip=0.01)
    assert layer.weight_hh_l1_reverse.shape == (2, 3, 3)
    assert (
        repr(layer) == "RNN(3, 6, num_layers=2, bidirectional=True, heads=2, state_grad_clip=0.01)"
    )
    x = torch.randn(T, B, 3)
    output, _ = layer(x, lengths=LENGTHS.tolist())
    output.sum().backward()
    # The gradient sums T * B terms, each clipped.
    assert 0 < layer.bias_hh_l1.grad.abs().max() <= 0.01 * T * B * 1.0001
    dense = rnnfused.RNN(3, H, 2, bidirectional=True)
    state = {k: torch.block_diag(*v) if v.dim() == 3 else v for k, v in layer.state_dict().items()}
    dense.load_state_dict(state)
    torch.testing.assert_close(dense(x, lengths=LENGTHS)[0], output)


def test_tokens_past_the_end_have_no_effect():
    layer = rnnfused.TokenRNN(7, H, batch_first=True)
    ids = torch.randint(7, (B, T))
    lengths = torch.tensor([5, 2, 0, 3])
    changed = ids.masked_fill(torch.arange(T) >= lengths.unsqueeze(1), -100)
    got, expected = (
        results(lambda w, x=x: functional_output(layer, w, x, lengths), [layer.weight_ih_l0])
        for x in (changed, ids)
    )
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    assert not got[0][2].any()
    one_hot = rnnfused.RNN(7, H, batch_first=True)
    one_hot.load_state_dict(layer.state_dict())
    rows = torch.nn.functional.one_hot(ids, 7).float()
    torch.testing.assert_close(layer(ids, lengths=lengths), one_hot(rows, lengths=lengths))


def functional_output(layer, weight_ih, ids, lengths):
    return torch.func.functional_call(
        layer, {"weight_ih_l0": weight_ih}, (ids,), {"lengths": lengths}
    )


def test_a_clipped_gradient_has_no_derivative():
    p, weight = leaves((T, B), 1, False)
    output, _ = functional.rnn(p, weight, state_grad_clip=0.1)
    (gradient,) = torch.autograd.grad(output.sum(), p, create_graph=True)
    with pytest.raises(RuntimeError, match="state_grad_clip .* no derivative"):
        gradient.sum().backward()
    with pytest.raises(RuntimeError, match="state_grad_clip .* forward-mode"):
        torch.func.jvp(lambda p: functional.rnn(p, weight, state_grad_clip=0.1), (p,), (p,))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(lengths="no"), TypeError, "lengths must be a tensor or a list of integers, got 'no'"),
        (dict(lengths=[2**70] * B), TypeError, "lengths must be a tensor or a list of integers"),
        (
            dict(lengths=torch.ones(B)),
            TypeError,
            "lengths must be of an integer dtype, got .*float32",
        ),
        (dict(lengths=LENGTHS.to_sparse()), TypeError, "lengths must be a dense tensor"),
        (dict(lengths=LENGTHS.to("meta")), ValueError, "lengths must have values"),
        (
            dict(lengths=[2**63 - 1, 2**63 - 1, 17], projections=torch.randn(15, H)),
            ValueError,
            "add up",
        ),
        (
            dict(lengths=torch.tensor([1, 2])),
            ValueError,
            r"lengths must be \(4,\).*got shape \(2,\)",
        ),
        (dict(lengths=torch.tensor([1, 2, 3, 6])), ValueError, "lengths must be from 0 to 5"),
        (dict(lengths=FAR), ValueError, rf"the time steps of .* got \[1, 2, 3, {2**64 - 1}\]"),
        (
            dict(lengths=torch.tensor([1, 2, 3, -1])),
            ValueError,
            r"from 0 to 5.*got \[1, 2, 3, -1\]",
        ),
        (dict(lengths=LENGTHS, batch_sizes=LENGTHS), ValueError, "exclude each other"),
        (dict(projections=torch.randn(9, H), lengths=LENGTHS), ValueError, "add up to the 9 rows"),
        (
            dict(projections=torch.randn(10, H), lengths=LENGTHS, batch_first=True),
            ValueError,
            "batch_first has no meaning",
        ),
        (dict(state_grad_clip=0), ValueError, "state_grad_clip must be positive, .* got 0"),
        (dict(state_grad_clip=float("nan")), ValueError, "state_grad_clip must be positive"),
        (
            dict(state_grad_clip=10**400),
            ValueError,
            "state_grad_clip must be positive, and a float",
        ),
        (dict(state_grad_clip="1"), TypeError, "state_grad_clip must be a number or None"),
        (
            dict(weight_hh=torch.randn(4, 2, 2)),
            ValueError,
            r"weight_hh must be \(6, 6\).*\(4, 2, 2\)",
        ),
    ],
)
def test_wrong_options_are_named(change, error, message):
    arguments = {"projections": torch.randn(T, B, H), "weight_hh": torch.randn(H, H), **change}
    with pytest.raises(error, match=message):
        functional.rnn(**arguments)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(heads=4), ValueError, "heads must divide hidden_size 6, got 4"),
        (dict(heads=0), ValueError, "heads must divide"),
        (dict(heads=2.0), TypeError, "heads must be an int, got 2.0"),
        (dict(state_grad_clip=-1), ValueError, "state_grad_clip must be positive"),
    ],
)
def test_wrong_options_of_a_layer_are_named(change, error, message):
    with pytest.raises(error, match=message):
        rnnfused.RNN(3, H, **change)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_lengths_of_any_integers(dtype):
    layer, x = rnnfused.RNN(3, H), torch.randn(T, B, 3)
    torch.testing.assert_close(
        layer(x, lengths=LENGTHS.to(dtype)), layer(x, lengths=LENGTHS.tolist())
    )


@pytest.mark.parametrize("shape", [(T, 0, H), (0, H)])
def test_lengths_of_no_rows(shape):
    leaves = [torch.randn(shape), torch.randn(H, H), torch.randn(0, H)]
    leaves = [x.requires_grad_() for x in leaves]
    output, h_n = functional.rnn_layer(
        leaves[0], torch.eye(H), leaves[1], None, leaves[2], lengths=torch.tensor([], dtype=int)
    )
    assert output.shape == shape and h_n.shape == (0, H)
    output.sum().backward()
    assert all(not x.grad.any() for x in leaves)


def test_sparse_and_nested_tensors_are_refused():
    p, weight = torch.randn(T, B, H), torch.randn(H, H)
    for name in ("projections", "weight_hh"):
        arguments = {"projections": p, "weight_hh": weight}
        arguments[name] = arguments[name].to_sparse()
        with pytest.raises(TypeError, match=f"{name} must be a dense tensor"):
            functional.rnn(**arguments)
    with pytest.raises(TypeError, match="hx must be a dense tensor"):
        rnnfused.RNN(H, H)(p, torch.nested.nested_tensor([p[0]]))
    with pytest.raises(TypeError, match="input must be a dense tensor"):
        rnnfused.RNN(H, H)(p.to_sparse())
    cell = rnnfused.RNNCell(H, H)
    with pytest.raises(TypeError, match="input must be a dense tensor"):
        cell(p[0].to_sparse())
    with pytest.raises(TypeError, match="hx must be a dense tensor"):
        cell(p[0], p[0].to_sparse())


def test_sizes_and_tensors_on_the_meta_device():
    p, weight = torch.randn(T, B, H), torch.randn(H, H)
    with pytest.raises(RuntimeError, match="must be on the CPU"):
        loop(p, weight, lengths=LENGTHS.to("meta"))
    output, h_n = functional.rnn(p.to("meta"), weight.to("meta"), lengths=LENGTHS)
    assert output.shape == p.shape and h_n.shape == (B, H) and h_n.is_meta
    packed, sizes = torch.randn(8, H, device="meta"), torch.tensor([4, 3, 1])
    _, h_n = functional.rnn(packed, weight.to("meta"), batch_sizes=sizes)
    assert h_n.shape == (4, H)


def test_lengths_of_unbatched_and_packed_input_are_refused():
    layer = rnnfused.RNN(3, H)
    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.randn(T, 2, 3), [5, 2])
    for input in (torch.randn(T, 3), packed):
        with pytest.raises(ValueError, match="lengths must be None"):
            layer(input, lengths=torch.tensor([5, 2]))


@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
def test_on_every_instruction_set(capability, run_on_capability):
    run_on_capability(
        capability,
        "test_equals_the_reference or test_large_batches or test_gradients_of_a_layer",
        timeout=600,
    )
