"""rnnfused.functional.linear_cross_entropy against torch's two calls."""

import itertools

import numpy
import pytest
import torch
import torch.nn.functional as F

from rnnfused.functional import linear_cross_entropy
from rnnfused.ops import cross_entropy as ops

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# Error relative to the largest value; 16-bit states round products of their own.
TOLERANCE = {
    torch.float64: 1e-13,
    torch.float32: 1e-5,
    torch.bfloat16: 2e-2,
    torch.float16: 3e-3,
}
SIZES = [
    (1, 1, 2),
    (7, 3, 2),
    (5, 8, 16),
    (33, 32, 28),
    (300, 20, 17),
    (70, 7, 1030),
    (2500, 5, 260),
    (40, 6, 512),  # so many logits would lie a power of two apart
]
ignored = -100


def arguments(rows, hidden_size, classes, dtype=torch.float64, bias=True, transposed=False):
    torch.manual_seed(rows + classes)
    hidden = torch.randn(rows, hidden_size, dtype=dtype)
    weight = torch.randn(classes, hidden_size, dtype=dtype)
    if transposed:
        weight = weight.t().contiguous().t()
    target = torch.randint(classes, (rows,))
    target[torch.rand(rows) < 0.2] = ignored
    target[0] = 0
    leaves = [hidden, weight] + ([torch.randn(classes, dtype=dtype)] if bias else [])
    for leaf in leaves:
        leaf.requires_grad_()
    return leaves, target


def torch_loss(leaves, target, dtype=None, **options):
    hidden, weight, *bias = (x if dtype is None else x.to(dtype) for x in leaves)
    return F.cross_entropy(F.linear(hidden, weight, *bias), target, **options)


def our_loss(leaves, target, **options):
    hidden, weight, bias = [*leaves, None][:3]
    return linear_cross_entropy(hidden, weight, bias, target, **options)


def gradients(loss, leaves, grad_loss=None):
    return torch.autograd.grad(loss, leaves, grad_loss)


def check_close(got, expected, dtype):
    assert got.shape == expected.shape
    scale = expected.abs().max().clamp(min=1e-3)
    assert (got.double() - expected).abs().max() <= TOLERANCE[dtype] * scale


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_loss_and_gradients(sizes, dtype, reduction):
    for smoothing, bias, transposed in itertools.product((0.0, 0.1), (True, False), (True, False)):
        options = {"reduction": reduction, "label_smoothing": smoothing}
        leaves, target = arguments(*sizes, dtype, bias, transposed)
        loss = our_loss(leaves, target, **options)
        expected = torch_loss(leaves, target, torch.float64, **options)
        assert loss.dtype == dtype
        check_close(loss, expected, dtype)
        grad_loss = torch.randn(loss.shape, dtype=torch.float64).to(dtype)
        expected = gradients(expected, leaves, grad_loss.double())
        for leaf, got, want in zip(
            leaves, gradients(loss, leaves, grad_loss), expected, strict=True
        ):
            assert got.dtype == dtype and got.stride() == leaf.stride()
            check_close(got, want.double(), dtype)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_gradcheck(reduction):
    leaves, target = arguments(6, 3, 5)

    def loss(*leaves):
        return our_loss(leaves, target, reduction=reduction, label_smoothing=0.2)

    assert torch.autograd.gradcheck(loss, leaves)
    assert torch.autograd.gradgradcheck(loss, leaves)


@pytest.mark.parametrize("needed", list(itertools.product((True, False), repeat=3)), ids=str)
def test_only_wanted_gradients(needed):
    leaves, target = arguments(9, 4, 6)
    for leaf, needs_it in zip(leaves, needed, strict=True):
        leaf.requires_grad_(needs_it)
    loss = our_loss(leaves, target)
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    assert loss.requires_grad == bool(wanted)
    if wanted:
        expected = gradients(torch_loss(leaves, target), wanted)
        for got, want in zip(gradients(loss, wanted), expected, strict=True):
            check_close(got, want, torch.float64)


def test_backward_twice():
    leaves, target = arguments(9, 4, 6)
    loss = our_loss(leaves, target)
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    second = torch.autograd.grad(3 * loss, leaves)
    for one, three in zip(first, second, strict=True):
        torch.testing.assert_close(3 * one, three)


def test_change_in_place_before_backward_is_an_error():
    leaves, target = arguments(9, 4, 6)
    loss = our_loss(leaves, target)
    with torch.no_grad():
        leaves[1].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_change_of_a_gradient_in_place_is_no_wrong_gradient():
    leaves, target = arguments(9, 4, 6)
    loss = our_loss(leaves, target)
    for gradient in torch.autograd.grad(loss, leaves, retain_graph=True):
        gradient.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_threads_change_no_bit(dtype):
    leaves, target = arguments(3000, 40, 70, dtype)
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            loss = our_loss(leaves, target)
            results.append([loss, *gradients(loss, leaves)])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_shapes_of_rows():
    leaves, target = arguments(24, 4, 6)
    hidden, *others = leaves
    expected = torch_loss(leaves, target, reduction="none")
    for shape in [(24,), (4, 6), (2, 3, 4)]:
        loss = linear_cross_entropy(
            hidden.reshape(*shape, 4), *others, target.view(shape), reduction="none"
        )
        torch.testing.assert_close(loss, expected.view(shape))
    one = linear_cross_entropy(hidden[1], *others, target[1].clamp(min=0))
    torch.testing.assert_close(one, torch_loss([hidden[1], *others], target[1].clamp(min=0)))


def test_without_features():
    hidden, weight, bias = torch.zeros(3, 0), torch.zeros(4, 0), torch.randn(4)
    target = torch.tensor([0, 1, 2])
    loss = linear_cross_entropy(hidden, weight, bias, target)
    torch.testing.assert_close(loss, F.cross_entropy(bias.expand(3, 4), target))


def test_strided_arguments():
    leaves, target = arguments(24, 4, 6)
    hidden, weight, bias = (x.detach() for x in leaves)
    expected = torch_loss([hidden, weight, bias], target)
    apart = torch.stack([hidden, hidden], -1)[..., 0]
    rows = torch.stack([hidden, hidden], 1)[:, 0]
    classes = torch.stack([bias, bias], -1)[..., 0]
    ids = torch.stack([target, target], -1)[..., 0]
    for other in (apart, rows):
        torch.testing.assert_close(linear_cross_entropy(other, weight, classes, ids), expected)
    expanded = hidden[:1].expand(24, 4)
    torch.testing.assert_close(
        linear_cross_entropy(expanded, weight, bias, target),
        torch_loss([expanded, weight, bias], target),
    )


def test_integer_dtypes_and_ignored_rows():
    leaves, target = arguments(9, 4, 6)
    target = target.clamp(min=0)
    expected = torch_loss(leaves, target)
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint64):
        torch.testing.assert_close(our_loss(leaves, target.to(dtype)), expected)
    torch.testing.assert_close(
        our_loss(leaves, target, ignore_index=2), torch_loss(leaves, target, ignore_index=2)
    )
    torch.testing.assert_close(
        our_loss(leaves, target, ignore_index=numpy.int64(2)),
        torch_loss(leaves, target, ignore_index=2),
    )
    none = torch.full((9,), ignored)
    assert our_loss(leaves, none).isnan() and our_loss(leaves, none, reduction="sum") == 0
    assert all((g == 0).all() for g in gradients(our_loss(leaves, none), leaves))
    empty = [leaves[0][:0], *leaves[1:]]
    assert our_loss(empty, none[:0]).isnan() and our_loss(empty, none[:0], reduction="sum") == 0
    assert all((g == 0).all() for g in gradients(our_loss(empty, none[:0]), leaves[1:]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_extreme_logits(dtype):
    identity, target = torch.eye(3, dtype=dtype), torch.tensor([0, 1, 2, 0])
    large = 1e4 if dtype == torch.float32 else 1e6
    logits = torch.tensor([[large, 0, -large], [-large, -large, -large], [0, 0, 90.0], [0, 0, 0]])
    for scale in (1, -1):
        leaves = [(scale * logits).to(dtype).requires_grad_(), identity.clone().requires_grad_()]
        loss, expected = our_loss(leaves, target), torch_loss(leaves, target)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(gradients(loss, leaves), gradients(expected, leaves))


def test_masked_class_has_probability_zero():
    hidden = torch.zeros(3, 1, requires_grad=True)
    bias = torch.tensor([0.0, -torch.inf, 1.0], requires_grad=True)
    loss = linear_cross_entropy(hidden, torch.ones(3, 1), bias, torch.tensor([0, 2, 0]))
    assert loss.isfinite() and gradients(loss, [bias])[0][1] == 0


def test_not_finite_values():
    leaves, target = arguments(6, 4, 5, bias=False)
    target[1] = ignored
    with torch.no_grad():
        leaves[0][1] = torch.nan  # an ignored row
    loss = our_loss(leaves, target)
    d_hidden, d_weight = gradients(loss, leaves[:2])
    assert loss.isfinite() and d_hidden.isfinite().all() and (d_hidden[1] == 0).all()
    assert d_weight.isnan().all()
    with torch.no_grad():
        leaves[0][0] = torch.nan
    losses = our_loss(leaves, target, reduction="none")
    assert losses[0].isnan() and losses[2:].isfinite().all()


def test_autocast():
    leaves, target = arguments(30, 16, 12, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss, expected = our_loss(leaves, target), torch_loss(leaves, target)
    assert loss.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=2e-2, atol=2e-2)
    for got, want in zip(gradients(loss, leaves), gradients(expected, leaves), strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, want, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compile(backend, reduction):
    torch.compiler.reset()
    leaves, target = arguments(10, 4, 6)

    def loss(leaves, target):
        return our_loss([2 * x for x in leaves], target, reduction=reduction)

    compiled = torch.compile(loss, backend=backend, fullgraph=True)
    got, expected = compiled(leaves, target), loss(leaves, target)
    torch.testing.assert_close(got, expected)
    grad_loss = torch.rand_like(got)
    torch.testing.assert_close(
        gradients(got, leaves, grad_loss), gradients(expected, leaves, grad_loss)
    )


def test_transforms():
    leaves, target = arguments(10, 4, 6)
    values = tuple(x.detach() for x in leaves)
    got = torch.func.grad(lambda hidden: our_loss((hidden, *values[1:]), target))(values[0])
    check_close(got, gradients(torch_loss(leaves, target), leaves[:1])[0], torch.float64)
    _, tangent = torch.func.jvp(
        lambda hidden: our_loss((hidden, *values[1:]), target), values[:1], values[:1]
    )
    torch.testing.assert_close(tangent, (got * values[0]).sum())


def func_grad(loss, hidden, weight, bias, target):
    def of_row(weight, hidden, target):
        return loss((hidden, weight, bias), target)

    return torch.vmap(torch.func.grad(of_row), (None, 0, 0))(weight, hidden, target)


def func_grad_of_batches(loss, hidden, weight, bias, target):
    def of_batch(hidden, target):
        return loss((hidden, weight, bias), target)

    return torch.vmap(torch.func.grad(of_batch))(hidden.view(5, 2, -1), target.view(5, 2))


def func_hessian(loss, hidden, weight, bias, target):
    def of_row(hidden, target):
        return loss((hidden, weight, bias), target)

    return torch.vmap(torch.func.hessian(of_row))(hidden, target)


@pytest.mark.parametrize("transform", [func_grad, func_grad_of_batches, func_hessian])
def test_mapped_targets(transform):
    leaves, target = arguments(10, 4, 6)
    values = [x.detach() for x in leaves]
    got = transform(our_loss, *values, target.clamp(min=0))
    check_close(got, transform(torch_loss, *values, target.clamp(min=0)), torch.float64)


@pytest.mark.parametrize("reduction", ops.REDUCTIONS)
def test_batched_gradients(reduction):
    leaves, target = arguments(5, 3, 4)
    loss, expected = (f(leaves, target, reduction=reduction) for f in (our_loss, torch_loss))
    batch = torch.randn(3, *loss.shape, dtype=loss.dtype)
    for x in leaves:
        got, wanted = (
            torch.autograd.grad(y, x, batch, is_grads_batched=True, retain_graph=True)[0]
            for y in (loss, expected)
        )
        check_close(got, wanted, torch.float64)
    assert torch.autograd.gradcheck(
        lambda *leaves: our_loss(leaves, target, reduction=reduction),
        leaves,
        check_batched_grad=True,
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("reduction", ops.REDUCTIONS.values())
def test_the_op_on_any_device(reduction, smoothing):
    leaves, target = arguments(9, 4, 6, torch.float32)
    leaves = [x.detach() for x in leaves]
    scales = torch.rand(9) if reduction == ops.REDUCTIONS["none"] else None
    options = (reduction, ignored, smoothing, True, True, True)
    composite = ops._on_any_device(*leaves, target, scales, *options)
    kernel = torch.ops.rnnfused.linear_cross_entropy(*leaves, target, scales, *options)
    for got, expected in zip(kernel, composite, strict=True):
        torch.testing.assert_close(got, expected)


def test_opcheck():
    leaves, target = arguments(9, 4, 6, torch.float32)
    for reduction in ops.REDUCTIONS.values():
        torch.library.opcheck(
            torch.ops.rnnfused.linear_cross_entropy.default,
            (*leaves, target, None, reduction, ignored, 0.1, True, True, True),
        )


def test_operations_are_counted():
    from torch.utils.flop_counter import FlopCounterMode

    leaves, target = arguments(9, 4, 6)
    counts = []
    for loss in (our_loss, torch_loss):
        with FlopCounterMode(display=False) as counter:
            loss(leaves, target).backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] == 3 * 2 * 9 * 4 * 6


def test_no_tensor_of_all_logits():
    rows, classes = 4000, 3000
    leaves, target = arguments(rows, 2, classes, torch.float32)
    with torch.profiler.profile(profile_memory=True) as profile:
        our_loss(leaves, target).backward()
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert 0 < largest < rows * classes * 4 / 20


X, W, B, Y = torch.zeros(5, 3), torch.zeros(4, 3), torch.zeros(4), torch.zeros(5, dtype=torch.long)
# As int64, this would be the default ignore_index.
BEYOND = torch.tensor([2**64 - 100] * 5, dtype=torch.uint64)
REFUSALS = [
    ((X.tolist(), W, B, Y), {}, TypeError, "hidden must be a Tensor"),
    ((X, W.double(), B, Y), {}, TypeError, "weight must be torch.float32"),
    ((X, W, B.half(), Y), {}, TypeError, "bias must be torch.float32"),
    ((X.long(), W.long(), B.long(), Y), {}, TypeError, "hidden must be float32"),
    ((X, W, B, Y.float()), {}, TypeError, "target must be a tensor of an integer dtype, got torch"),
    ((X, W, B, [0] * 5), {}, TypeError, "target must be a tensor of an integer dtype, got list"),
    ((X, W[:, :2], B, Y), {}, ValueError, r"weight must be \(classes, 3\)"),
    ((X, W[:0], B[:0], Y), {}, ValueError, "at least one class"),
    ((X, W, B[:2], Y), {}, ValueError, r"bias must be \(4,\)"),
    ((X, W, B, Y[:2]), {}, ValueError, r"target must be \(5,\)"),
    ((X, W, B, Y + 4), {}, IndexError, r"target must be in \[0, 4\).*got 4"),
    ((X, W, B, Y - 1), {}, IndexError, "got -1"),
    ((X, W.to("meta"), B, Y), {}, ValueError, "weight must be on cpu"),
    ((X, W, B, Y.to("meta")), {}, ValueError, "target must be on cpu"),
    ((X.to_sparse(), W, B, Y), {}, TypeError, "hidden must be a dense tensor"),
    ((X, W, B, Y), {"reduction": "max"}, ValueError, "reduction must be"),
    ((X, W, B, Y), {"label_smoothing": 1.5}, ValueError, r"label_smoothing must lie in \[0, 1\]"),
    ((X, W, B, Y), {"label_smoothing": torch.nan}, ValueError, "label_smoothing"),
    ((X, W, B, Y), {"label_smoothing": "a"}, TypeError, "label_smoothing must be a number"),
    ((X, W, B, Y), {"ignore_index": 1.0}, TypeError, "ignore_index must be an int"),
    ((X, W, B, Y), {"ignore_index": 2**63}, ValueError, "ignore_index"),
    ((X, W, B, Y), {"ignore_index": True}, TypeError, "ignore_index must be an int, got True"),
    ((X, W, B, Y), {"reduction": ["mean"]}, ValueError, r"'none', got \['mean'\]"),
    ((X, W, B, BEYOND), {}, IndexError, f"ignore_index = -100, got {2**64 - 100}"),
    (
        (X, W, B, BEYOND.long().add(99).to(torch.uint64)),
        {"ignore_index": -1},
        IndexError,
        f"got {2**64 - 1}",
    ),
]


@pytest.mark.parametrize("arguments, options, error, message", REFUSALS)
def test_refusals(arguments, options, error, message):
    with pytest.raises(error, match=message):
        linear_cross_entropy(*arguments, **options)


RAW_REFUSALS = [
    (X[0], W, B, Y, None, 1, -100, 0.0),
    (X, W[:, :1], B, Y, None, 1, -100, 0.0),
    (X, W, B[:1], Y, None, 1, -100, 0.0),
    (X, W, B, Y[:1], None, 1, -100, 0.0),
    (X, W, B, Y.int(), None, 1, -100, 0.0),
    (X, W, B, Y + 9, None, 1, -100, 0.0),
    (X, W, B, Y, torch.ones(5), 1, -100, 0.0),
    (X, W, B, Y, torch.ones(4), 0, -100, 0.0),
    (X, W, B, Y, torch.ones(5).double(), 0, -100, 0.0),
    (X, W, B, Y, None, 3, -100, 0.0),
    (X, W, B, Y, None, 1, -100, 2.0),
    (X, W.double(), B, Y, None, 1, -100, 0.0),
    (X.long(), W.long(), None, Y, None, 1, -100, 0.0),
]


@pytest.mark.parametrize("arguments", RAW_REFUSALS)
def test_the_raw_op_refuses(arguments):
    with pytest.raises(RuntimeError, match="rnnfused: "):
        torch.ops.rnnfused.linear_cross_entropy(*arguments, True, True, True)
