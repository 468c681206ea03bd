"""functional.rnn_layer and the matrix products outside its loop: values, gradients to second order, layouts, errors."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from raw_ops import TANH

import rnnfused
from rnnfused import functional, layers, ops, reference
from rnnfused.ops import matmul

pytestmark = pytest.mark.usefixtures("device")

SIZES = [5, 3, 3, 1]


@pytest.fixture(params=["torch's products", "rnnfused's products"])
def small_products(request, monkeypatch):
    """Small matrix products run in torch, the default, or in the kernels that large ones use."""
    if request.param == "rnnfused's products":
        monkeypatch.setattr(matmul, "MIN_WORK", 0)


def make(layout, steps, batch, features, hidden, *, bias=True, with_h_0=True, dtype=torch.float64):
    """Returns leaves (input, weight_ih, weight_hh, bias, h_0) in the layout, and the matching keywords."""
    torch.manual_seed(0)

    def leaf(*shape, scale=1.0):
        return (torch.randn(*shape, dtype=dtype) * scale).requires_grad_()

    keywords = {}
    if layout == "packed":
        keywords["batch_sizes"] = torch.tensor(SIZES, device="cpu")
        batch, shape = SIZES[0], (sum(SIZES), features)
    elif layout == "batch_first":
        keywords["batch_first"] = True
        shape = (batch, steps, features)
    else:
        shape = (steps, batch, features)
    weights = leaf(hidden, features, scale=features**-0.5), leaf(hidden, hidden, scale=hidden**-0.5)
    return (
        leaf(*shape),
        *weights,
        leaf(hidden) if bias else None,
        leaf(batch, hidden) if with_h_0 else None,
    ), keywords


def plain(input, weight_ih, weight_hh, bias, h_0, **keywords):
    return reference.rnn(F.linear(input, weight_ih, bias), weight_hh, h_0, **keywords)


def check_equal(inputs, keywords):
    leaves = [x for x in inputs if x is not None and x.requires_grad]
    everything = []
    for function in (functional.rnn_layer, plain):
        results = function(*inputs, **keywords)
        torch.manual_seed(1)
        loss = sum((x * torch.randn(x.shape, dtype=x.dtype)).sum() for x in results)
        everything.append([*results, *torch.autograd.grad(loss, leaves)])
    tolerance = 1e-12 if inputs[0].dtype == torch.float64 else 1e-4
    for got, expected in zip(*everything, strict=True):
        largest = max(1, expected.abs().max().item())
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance * largest)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("hidden", [1, 7, 16, 33, 100])
@pytest.mark.parametrize("batch", [1, 7, 8, 15, 30])
def test_equals_reference_at_every_size(small_products, dtype, hidden, batch):
    for steps, features in ((1, 5), (6, 1), (5, 40)):
        check_equal(*make("time_first", steps, batch, features, hidden, dtype=dtype))


def test_equals_reference_with_large_weights():
    check_equal(*make("time_first", 3, 9, 300, 260, dtype=torch.float32))
    check_equal(*make("batch_first", 4, 3, 256, 512, dtype=torch.float32))


options = list(
    itertools.product(
        ["time_first", "batch_first", "packed"], [True, False], ["tanh", "relu"], [False, True]
    )
)


@pytest.mark.parametrize(("layout", "given", "nonlinearity", "reverse"), options)
@pytest.mark.parametrize("batch", [3, 9])
def test_equals_reference_with_every_option(
    small_products, layout, given, nonlinearity, reverse, batch
):
    inputs, keywords = make(layout, 4, batch, 6, 5, bias=given, with_h_0=given)
    check_equal(inputs, {**keywords, "nonlinearity": nonlinearity, "reverse": reverse})


@pytest.mark.parametrize("batch", [2, 8])  # projections outside and inside the loop
@pytest.mark.parametrize(("layout", "given", "nonlinearity", "reverse"), options)
def test_gradcheck_to_second_order(
    small_products, layout, given, nonlinearity, reverse, batch, any_order, monkeypatch
):
    monkeypatch.setitem(globals(), "SIZES", [batch, 2, 1])
    inputs, keywords = make(layout, 3, batch, 2, 3, bias=given, with_h_0=given)
    present = [x for x in inputs if x is not None]

    def layer(*given_inputs):
        iterator = iter(given_inputs)
        filled = [None if x is None else next(iterator) for x in inputs]
        return functional.rnn_layer(*filled, nonlinearity=nonlinearity, reverse=reverse, **keywords)

    options = dict(fast_mode=True, nondet_tol=any_order)
    assert torch.autograd.gradcheck(layer, present, **options)
    assert torch.autograd.gradgradcheck(layer, present, **options)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),  # batch before time
        lambda x: torch.cat([x, x], 1)[:, : x.size(1)],  # gaps between steps
        lambda x: x.mT.contiguous().mT,  # strided features
        lambda x: x[:1].expand(x.shape),
        lambda x: x[:, :1].expand(x.shape),
    ],
)
@pytest.mark.parametrize("batch", [3, 9])
def test_any_strides(change, batch, exact):
    (input, *others), _ = make("time_first", 4, batch, 6, 5)
    strided = change(input.detach())
    with torch.no_grad():
        expected = functional.rnn_layer(strided.contiguous(), *others)
        for got, wanted in zip(functional.rnn_layer(strided, *others), expected, strict=True):
            torch.testing.assert_close(got, wanted, **exact)
    strided.requires_grad_()
    check_equal((strided, *others), {})


def test_without_h_0_the_first_step_does_not_read_weight_hh():
    (input, weight_ih, weight_hh, bias, _), _ = make("time_first", 2, 9, 3, 4)
    weight_hh = torch.full_like(weight_hh, torch.nan)
    output, _ = functional.rnn_layer(input, weight_ih, weight_hh, bias)
    assert output[0].isfinite().all() and output[1].isnan().all()


@pytest.mark.parametrize("batch_sizes", [None, torch.tensor([9, 2, 1], device="cpu")])
@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
def test_opcheck_of_the_layer(batch_sizes, given, transposed, device):
    if device != "cpu":
        pytest.skip("other devices compose the layer from other ops")
    input = torch.randn(4, 9, 3) if batch_sizes is None else torch.randn(12, 3)
    if transposed and batch_sizes is None:
        input = torch.randn(9, 4, 3).transpose(0, 1)
    biases, h_0 = ((torch.randn(5),) * 2, torch.randn(1, 9, 5)) if given else ((None, None), None)
    weights = torch.randn(5, 3), torch.randn(5, 5), *biases
    arguments = (input, *weights, h_0, batch_sizes, None, 0, TANH, False, None)
    torch.library.opcheck(torch.ops.rnnfused.layer, arguments)


@pytest.mark.parametrize("bias", [True, False])
def test_opcheck_of_the_products(bias, device):
    if device != "cpu":
        pytest.skip("torch multiplies on other devices")
    arguments = (torch.randn(6, 3), torch.randn(5, 3), torch.randn(5) if bias else None)
    torch.library.opcheck(torch.ops.rnnfused.project.default, arguments)
    for left, right in (((2, 7, 3), (2, 7, 4)), ((0, 7, 3), (0, 7, 4)), ((7, 1, 3), (7, 1, 4))):
        arguments = (torch.randn(left), torch.randn(right))
        torch.library.opcheck(torch.ops.rnnfused.sum_of_products.default, arguments)
        expected = torch.einsum("oil,oir->lr", *arguments)
        torch.testing.assert_close(torch.ops.rnnfused.sum_of_products(*arguments), expected)


def good(**changes):
    arguments = {
        "input": torch.randn(4, 3, 2),
        "weight_ih": torch.randn(5, 2),
        "weight_hh": torch.randn(5, 5),
        "bias": torch.randn(5),
        "h_0": torch.randn(3, 5),
    }
    return {**arguments, **changes}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda: dict(input=[1.0]), TypeError, "input must be a Tensor, got list"),
        (lambda: dict(bias=1), TypeError, "bias must be a Tensor, got int"),
        (
            lambda: dict(input=torch.ones(4, 3, 2).int()),
            TypeError,
            "input must be .*, got torch.int32",
        ),
        (
            lambda: dict(weight_ih=torch.randn(5, 2).double()),
            TypeError,
            "weight_ih must be torch.float32",
        ),
        (
            lambda: dict(bias=torch.randn(5, device="meta")),
            ValueError,
            "bias must be on .*, got meta",
        ),
        (
            lambda: dict(input=torch.randn(4, 2)),
            ValueError,
            r"input must have 3 dim.*\(T, B, I\).*\(4, 2\)",
        ),
        (
            lambda: dict(input=torch.randn(0, 3, 2)),
            ValueError,
            "input must have at least one time step",
        ),
        (
            lambda: dict(weight_ih=torch.randn(5, 3)),
            ValueError,
            r"weight_ih .* \(5, 2\), got \(5, 3\)",
        ),
        (
            lambda: dict(weight_ih=torch.randn(4, 2)),
            ValueError,
            r"weight_ih .* \(5, 2\), got \(4, 2\)",
        ),
        (
            lambda: dict(weight_hh=torch.randn(5, 4)),
            ValueError,
            r"weight_hh must be \(H, H\) or .*, got \(5, 4\)",
        ),
        (
            lambda: dict(weight_hh=torch.randn(0, 0)),
            ValueError,
            r"weight_ih must be \(hidden, features\) = \(0, .*",
        ),
        (lambda: dict(bias=torch.randn(5, 1)), ValueError, r"bias must be \(5,\), got \(5, 1\)"),
        (lambda: dict(h_0=torch.randn(2, 5)), ValueError, r"h_0 must be .* \(3, 5\), got \(2, 5\)"),
        (lambda: dict(nonlinearity="gelu"), ValueError, "'tanh' or 'relu', got 'gelu'"),
        (lambda: dict(reverse=1), TypeError, "reverse must be a bool, got 1"),
    ],
)
def test_wrong_input_is_named(change, error, message):
    functional.rnn_layer(**good())
    with pytest.raises(error, match=message):
        functional.rnn_layer(**good(**change()))


def test_a_direct_call_cannot_read_out_of_bounds(device):
    if device != "cpu":
        pytest.skip("the op exists on the CPU alone")
    x, w, b = torch.randn(6, 3), torch.randn(5, 3), torch.randn(5)
    wrong = [(x[0], w, b), (x, w[:, :2], b), (x, w, b[:4]), (x, w.double(), b)]
    for arguments in (*wrong, (x.int(), w.int(), None)):
        with pytest.raises((RuntimeError, IndexError)):
            torch.ops.rnnfused.project(*arguments)
    with pytest.raises(RuntimeError, match="same rows"):
        torch.ops.rnnfused.sum_of_products(torch.randn(2, 3, 4), torch.randn(2, 4, 4))
    x, h = torch.randn(4, 3, 2), torch.randn(3, 5)
    tensors = [x, torch.randn(5, 2), torch.randn(5, 5), b, b, h[None]]
    good = [*tensors, None, None, 0, TANH, False, None]
    ops.layer(*good)
    wrong = {
        1: (torch.randn(4, 2), torch.randn(5, 3), None),
        2: (torch.randn(4, 4),),
        3: (b[:4],),
        4: (b[:4],),
        5: (h[None, :2], h),
    }
    for place, values in wrong.items():
        for value in values:
            with pytest.raises(RuntimeError):
                ops.layer(*good[:place], value, *good[place + 1 :])


@pytest.mark.parametrize("batch_sizes", [None, torch.tensor([9, 2, 1], device="cpu")])
@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("needs", [(True,) * 5, (False,) * 5, (False, True, True, False, False)])
def test_opcheck_of_the_layers_gradients(batch_sizes, given, needs, device):
    if device != "cpu":
        pytest.skip("other devices compose the layer from other ops")
    rows = (4, 9) if batch_sizes is None else (12,)
    gradients = (torch.randn(*rows, 5), torch.randn(1, 9, 5)) if given else (None, None)
    h_0 = torch.randn(1, 9, 5) if given else None
    rows_of = torch.randn(*rows, 5), torch.randn(*rows, 3)
    tensors = (*gradients, *rows_of, torch.randn(5, 3), torch.randn(5, 5), h_0)
    arguments = (*tensors, batch_sizes, None, 0, TANH, True, None, *needs)
    torch.library.opcheck(torch.ops.rnnfused.layer_backward, arguments)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_of_a_large_batch(device, threads, batch_first, reverse, restore_threads):
    """The batch runs backward in chunks of rows; each chunk adds to the gradients of the weights."""
    if device != "cpu":
        pytest.skip("tests the CPU's kernels")
    torch.set_num_threads(threads)
    inputs, keywords = make("batch_first" if batch_first else "time_first", 12, 1500, 5, 17)
    inputs[0].requires_grad_(False)
    check_equal(inputs, {**keywords, "reverse": reverse})


def token_leaves(vocab, hidden, dtype=torch.float64):
    torch.manual_seed(0)
    shapes = (hidden, vocab), (hidden, hidden), (hidden,)
    return [(torch.randn(*shape, dtype=dtype) / hidden**0.5).requires_grad_() for shape in shapes]


def run_tokens(ids, one_hot, leaves, h_0=None, batch_first=False, batch_sizes=None):
    """Runs the layer on ids, or on their one-hot rows."""
    weight_ih, weight_hh, bias = leaves
    input = F.one_hot(ids, weight_ih.size(1)).to(weight_ih.dtype) if one_hot else ids
    state = None if h_0 is None else h_0[None]
    options = "tanh", int(batch_first), False, batch_sizes
    return layers.run_layer(input, weight_ih, weight_hh, bias, None, state, *options)


@pytest.mark.parametrize("hidden", [1, 16, 31, 33, 100])
@pytest.mark.parametrize("batch", [1, 3, 15, 900])
@pytest.mark.parametrize("batch_first", [False, True])
def test_token_ids_equal_one_hot_rows(hidden, batch, batch_first):
    leaves = token_leaves(23, hidden)
    ids = torch.randint(23, (batch, 12) if batch_first else (12, batch))
    everything = []
    for one_hot in (False, True):
        output, h_n = run_tokens(ids, one_hot, leaves, batch_first=batch_first)
        gradients = torch.autograd.grad(output.sin().sum() + h_n.square().sum(), leaves)
        everything.append([output, h_n, *gradients])
    torch.testing.assert_close(*everything, rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize("batch_sizes", [None, torch.tensor([3, 2, 1], device="cpu")])
def test_gradcheck_of_token_ids_to_second_order(batch_sizes, any_order):
    leaves = [*token_leaves(4, 3), torch.randn(3, 3, dtype=torch.float64, requires_grad=True)]
    ids = torch.randint(4, (3, 3) if batch_sizes is None else (6,))

    def layer(*leaves):
        return run_tokens(ids, False, leaves[:3], leaves[3], batch_sizes=batch_sizes)

    assert torch.autograd.gradcheck(layer, leaves, nondet_tol=any_order)
    assert torch.autograd.gradgradcheck(layer, leaves, fast_mode=True, nondet_tol=any_order)


@pytest.mark.parametrize("transposed", [True, False])
def test_opcheck_of_token_ids(transposed, device):
    if device != "cpu":
        pytest.skip("the op exists on the CPU alone")
    ids = torch.randint(4, (9, 3)).t() if transposed else torch.randint(4, (3, 9))
    w, b, u = torch.randn(5, 4), torch.randn(5), torch.randn(5, 5)
    options = None, None, 0, TANH, False, None
    forward = (ids, w, u, b, None, None, *options)
    torch.library.opcheck(torch.ops.rnnfused.layer, forward)
    output, _ = ops.layer(*forward)
    tensors = torch.randn_like(output), None, output, ids, w, u, None
    backward = (*tensors, *options, False, True, True, True, True)
    torch.library.opcheck(torch.ops.rnnfused.layer_backward, backward)
    for wrong in (-1, 4):
        ids[1, 2] = wrong
        for op, arguments in ((ops.layer, forward), (ops.layer_backward, backward)):
            with pytest.raises(RuntimeError, match="outside the vocabulary"):
                op(*arguments)


def test_no_features_leave_the_bias():
    weight_hh, bias = torch.zeros(5, 5), torch.randn(5, requires_grad=True)
    output, _ = functional.rnn_layer(torch.zeros(3, 9, 0), torch.zeros(5, 0), weight_hh, bias)
    torch.testing.assert_close(output, torch.tanh(bias).expand(3, 9, 5))
    output.sum().backward()
    torch.testing.assert_close(bias.grad, 27 * (1 - torch.tanh(bias.detach()) ** 2))


@pytest.mark.parametrize("bias", [torch.randn(10)[::2], torch.randn(1).expand(5)])
def test_a_bias_of_any_stride(bias, device):
    input, *weights = torch.randn(3, 2, 4), torch.randn(5, 4), torch.randn(5, 5)
    bias = bias.to(device)
    expected = functional.rnn_layer(input, *weights, bias.contiguous())
    torch.testing.assert_close(functional.rnn_layer(input, *weights, bias), expected)


def test_a_parameter_without_data_is_refused(device):
    layer = rnnfused.RNN(5, 4, num_layers=2, device=device)
    layer.weight_ih_l1 = torch.nn.Parameter(torch.empty(4, 4, device="meta"))
    with pytest.raises(RuntimeError, match="weight_ih_l1 must be .* got torch.float32 on meta"):
        layer(torch.randn(3, 2, 5))


@pytest.mark.parametrize("batch", [2, 9])  # projections outside and inside the loop
@pytest.mark.parametrize("steps", [20, 700])
def test_rows_of_any_stride(batch, steps, device):
    wide = torch.randn(steps, 2 * batch, 128)[:, ::2, 5:69]
    weight, bias = torch.randn(64, 64) / 8, torch.randn(64)
    for x in (wide, wide.transpose(0, 1).clone().transpose(0, 1)[1:-1]):
        leaves = [x.detach().requires_grad_(), x.detach().contiguous().requires_grad_()]
        outputs = [functional.rnn_layer(leaf, weight, weight, bias)[0] for leaf in leaves]
        torch.testing.assert_close(*outputs)
        gradients = [
            torch.autograd.grad(output.sum(), leaf)[0]
            for output, leaf in zip(outputs, leaves, strict=True)
        ]
        torch.testing.assert_close(*gradients)


def test_saved_tensors_may_come_back_in_another_layout():
    def gradient(pack):
        torch.manual_seed(0)
        layer = rnnfused.RNN(12, 16, batch_first=True, dtype=torch.float64)
        x = torch.randn(9, 20, 12, dtype=torch.float64, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            output, _ = layer(x)
        return torch.autograd.grad(output.sin().sum(), [x, *layer.parameters()])

    kept = gradient(lambda x: x)
    torch.testing.assert_close(gradient(lambda x: x.contiguous()), kept)

    def output_alone(x):  # the largest of the saved tensors
        return x.contiguous() if x.numel() > 2500 else x

    torch.testing.assert_close(gradient(output_alone), kept)


def test_forward_mode_with_and_without_grad_mode(device):
    layer, x = rnnfused.RNN(5, 4, device=device), torch.randn(3, 2, 5)
    tangents = []
    for mode in (torch.no_grad(), torch.enable_grad()):
        with torch.autograd.forward_ad.dual_level(), mode:
            dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
            tangents.append(torch.autograd.forward_ad.unpack_dual(layer(dual)[0]).tangent)
    torch.testing.assert_close(*tangents)
    assert tangents[0].abs().min() > 0


@pytest.mark.parametrize("features", [256, 512, 1024, 2048])
@pytest.mark.parametrize("batch", [2, 15, 40])
def test_rows_with_power_of_two_strides(features, batch, device):
    """Such rows collide in few sets of the cache, so each step copies them first."""
    x, weight_ih, weight_hh = (
        torch.randn(4, batch, features),
        torch.randn(33, features),
        torch.randn(33, 33),
    )
    weight_ih, weight_hh = weight_ih / features**0.5, weight_hh / 6
    got = functional.rnn_layer(x, weight_ih, weight_hh)
    expected = reference.rnn(F.linear(x, weight_ih), weight_hh)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("features", [40, 300])
def test_weights_larger_than_a_cache(features, device):
    """They are packed once for all threads, also where the loop makes the projections."""
    x, hidden = torch.randn(3, 9, features), 450
    weight_ih, weight_hh = torch.randn(hidden, features), torch.randn(hidden, hidden)
    weight_ih, weight_hh = weight_ih / features**0.5, weight_hh / hidden**0.5
    got = functional.rnn_layer(x, weight_ih, weight_hh)
    expected = reference.rnn(F.linear(x, weight_ih), weight_hh)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("hidden", [1, 5, 40])
def test_expanded_tensors_have_gradients(hidden, device):
    """All rows share one memory: their stride is 0."""
    weights = [torch.randn(hidden, 3), torch.randn(hidden, hidden) / hidden]
    leaves = [torch.randn(3), *weights, torch.randn(hidden)]
    leaves = [leaf.requires_grad_() for leaf in leaves]

    def gradients(change):
        x, w, u, h = leaves
        output, _ = functional.rnn_layer(
            change(x.expand(4, 2, 3)), w, u, None, change(h.expand(2, hidden))
        )
        return torch.autograd.grad(output.sin().sum(), leaves)

    torch.testing.assert_close(gradients(lambda x: x), gradients(lambda x: x.contiguous()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("lengths", [None, torch.tensor([2, 5, 0])], ids=["whole", "lengths"])
def test_gradients_by_token_have_the_layout_of_the_weight_and_no_bit_depends_on_the_vocabulary(
    dtype, lengths, exact
):
    """Few ids in a large vocabulary are summed in the weight's layout, many in rows, which are transposed."""
    steps, rows, hidden, small, large = 5, 3, 37, 7, 1000
    torch.manual_seed(0)
    ids = torch.randint(small, (steps, rows))
    weight = torch.randn(hidden, large, dtype=dtype)
    gradients = []
    for vocab_size in (small, large):
        rnn = rnnfused.TokenRNN(vocab_size, hidden, dtype=dtype)
        with torch.no_grad():
            rnn.weight_ih_l0.copy_(weight[:, :vocab_size])
            for name in ("weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
                getattr(rnn, name).fill_(0.01)
        output, _ = rnn(ids, lengths=lengths)
        (gradient,) = torch.autograd.grad(output.float().square().sum(), [rnn.weight_ih_l0])
        assert gradient.is_contiguous()
        gradients.append(gradient)
    torch.testing.assert_close(gradients[0], gradients[1][:, :small], **exact)
    assert not gradients[1][:, small:].any()
