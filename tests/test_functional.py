"""The fused function against the reference loop: values, gradients, second derivatives, wrong input."""

import itertools
from functools import partial

import pytest
import torch

from rnnfused import functional, reference

pytestmark = pytest.mark.usefixtures("device")

TOLERANCE = {torch.float32: 3e-5, torch.float64: 1e-12}
PACKED = torch.tensor([5, 3, 3, 1])


def make(layout, steps, batch, hidden, *, with_h_0=True, dtype=torch.float64, sizes=PACKED):
    """Returns leaves (projections, weight_hh[, h_0]) in the layout, and the matching keywords."""
    torch.manual_seed(0)

    def leaf(*shape, scale=1.0):
        return (torch.randn(*shape, dtype=dtype) * scale).requires_grad_()

    keywords = {}
    if layout == "packed":
        keywords["batch_sizes"] = sizes
        batch, shape = int(sizes[0]), (int(sizes.sum()), hidden)
    elif layout == "batch_first":
        keywords["batch_first"] = True
        shape = (batch, steps, hidden)
    else:
        shape = (steps, batch, hidden)
    inputs = [leaf(*shape), leaf(hidden, hidden, scale=hidden**-0.5)]
    if with_h_0:
        inputs.append(leaf(batch, hidden))
    return inputs, keywords


def outputs_and_gradients(function, inputs, keywords, grads_of):
    """Returns the results and all gradients, for fixed random gradients of the results named in ``grads_of``."""
    output, h_n = function(*inputs, **keywords)
    torch.manual_seed(1)
    weights = [torch.randn(x.shape, dtype=x.dtype) for x in (output, h_n)]
    loss = 0
    if "output" in grads_of:
        loss = loss + (output * weights[0]).sum()
    if "h_n" in grads_of:
        loss = loss + (h_n * weights[1]).sum()
    return output, h_n, *torch.autograd.grad(loss, inputs, materialize_grads=True)


def check_equal(inputs, keywords, grads_of="output and h_n"):
    fused = outputs_and_gradients(functional.rnn, inputs, keywords, grads_of)
    plain = outputs_and_gradients(reference.rnn, inputs, keywords, grads_of)
    names = ["output", "h_n", "projections", "weight_hh", "h_0"]
    tolerance = TOLERANCE[inputs[0].dtype]
    for name, got, expected in zip(names, fused, plain, strict=False):
        largest = expected.abs().max().item() if expected.numel() else 0
        limits = {"rtol": tolerance, "atol": tolerance * max(1, largest)}
        message = f"{name}: {{}}".format
        torch.testing.assert_close(got, expected, **limits, msg=message)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("hidden", [1, 2, 7, 8, 9, 16, 17, 31, 33, 64, 100])
@pytest.mark.parametrize("batch", [1, 2, 5, 14, 15, 30])
def test_equals_reference_at_every_size(dtype, hidden, batch):
    for steps in (1, 2, 6):
        check_equal(*make("time_first", steps, batch, hidden, dtype=dtype))


options = pytest.mark.parametrize(
    ("layout", "with_h_0", "nonlinearity", "reverse"),
    list(
        itertools.product(
            ["time_first", "batch_first", "packed"], [True, False], ["tanh", "relu"], [False, True]
        )
    ),
)


@options
@pytest.mark.parametrize("grads_of", ["output", "h_n", "output and h_n"])
def test_equals_reference_with_every_option(layout, with_h_0, nonlinearity, reverse, grads_of):
    inputs, keywords = make(layout, 4, 3, 5, with_h_0=with_h_0)
    check_equal(inputs, {**keywords, "nonlinearity": nonlinearity, "reverse": reverse}, grads_of)


@options
def test_gradcheck_to_second_order(layout, with_h_0, nonlinearity, reverse, any_order):
    sizes = torch.tensor([3, 2, 1], device="cpu")
    inputs, keywords = make(layout, 3, 2, 3, with_h_0=with_h_0, sizes=sizes)
    keywords = {**keywords, "nonlinearity": nonlinearity, "reverse": reverse}

    def fused(*inputs):
        return functional.rnn(*inputs, **keywords)

    gradcheck = partial(torch.autograd.gradcheck, nondet_tol=any_order)
    gradgradcheck = partial(torch.autograd.gradgradcheck, nondet_tol=any_order)
    assert gradcheck(fused, inputs)
    assert gradcheck(lambda *i: reference.rnn(*i, **keywords), inputs)
    assert gradgradcheck(fused, inputs)
    # With one result alone, the other's gradient is undefined, not zero.
    assert gradgradcheck(lambda *i: fused(*i)[0], inputs, fast_mode=True)
    assert gradgradcheck(lambda *i: fused(*i)[1], inputs, fast_mode=True)


@pytest.mark.parametrize("hidden", [8, 17])
@pytest.mark.parametrize("batch", [1, 15])
def test_gradcheck_across_tiles(hidden, batch):
    inputs, _ = make("time_first", 3, batch, hidden)
    assert torch.autograd.gradcheck(functional.rnn, inputs, fast_mode=True)


def test_third_derivative_exists():
    inputs, _ = make("time_first", 3, 2, 3)

    def third(function):
        gradient = function(*inputs)[0].sin().sum()
        for _ in range(3):
            gradients = torch.autograd.grad(gradient, inputs, create_graph=True)
            gradient = sum(g.sin().sum() for g in gradients)
        return gradient

    torch.testing.assert_close(third(functional.rnn), third(reference.rnn))


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_gradients_with_a_frozen_input(frozen):
    inputs, _ = make("time_first", 3, 2, 4)
    inputs[frozen].requires_grad_(False)
    wanted = [x for x in inputs if x.requires_grad]
    gradients, expected = (
        torch.autograd.grad(function(*inputs)[0].sum(), wanted)
        for function in (functional.rnn, reference.rnn)
    )
    torch.testing.assert_close(gradients, expected)


STRIDED = {
    "transposed": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "a slice of features": lambda x: torch.cat([x, x], -1)[..., : x.size(-1)],
    "every other step": lambda x: x.repeat_interleave(2, 0)[::2],
    "every other feature": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "time innermost": lambda x: x.permute(2, 1, 0).contiguous().permute(2, 1, 0),
    "first step expanded": lambda x: x[:1].expand_as(x),
    "first row expanded": lambda x: x[:, :1].expand_as(x),
}


@pytest.mark.parametrize("name", STRIDED)
def test_any_strides(name):
    (projections, weight_hh, h_0), _ = make("time_first", 5, 3, 9)
    projections = STRIDED[name](projections.detach()).requires_grad_()
    weight_hh = weight_hh.detach().t().requires_grad_()
    h_0 = h_0.detach().t().contiguous().t().requires_grad_()
    check_equal([projections, weight_hh, h_0], {})
    output, _ = functional.rnn(projections, weight_hh, h_0)
    assert output.stride(-1) == 1


def test_overlapping_windows():
    series = torch.randn(20, dtype=torch.float64)
    windows = series.unfold(0, 6, 1).unsqueeze(1).requires_grad_()  # strides (1, .., 1)
    check_equal([windows, torch.eye(6, dtype=torch.float64).requires_grad_()], {})


def test_output_keeps_the_layout_without_a_copy():
    for batch_first in (False, True):
        inputs, keywords = make("batch_first" if batch_first else "time_first", 4, 3, 5)
        output, _ = functional.rnn(*inputs, **keywords)
        assert output.is_contiguous() and output.shape == inputs[0].shape


def test_empty_batch():
    inputs, _ = make("time_first", 3, 0, 4)
    check_equal(inputs, {})
    for result in (0, 1):
        functional.rnn(inputs[0].mT.contiguous().mT, *inputs[1:])[result].sum().backward()


def test_batch_sizes_of_any_strides():
    inputs, _ = make("packed", 0, 0, 4)
    every_other = PACKED.repeat_interleave(2)[::2]
    check_equal(inputs, {"batch_sizes": every_other})


@pytest.mark.parametrize("sizes", [[3, 1], [20, 1], [40, 17, 16]])
def test_a_row_does_not_read_the_weight_in_its_first_step(sizes):
    batch_sizes = torch.tensor(sizes, device="cpu")
    weight_hh = torch.full((5, 5), float("nan"))
    projections = torch.randn(sum(sizes), 5, requires_grad=True)
    for reverse in (False, True):
        for function in (functional.rnn, reference.rnn):
            output, _ = function(projections, weight_hh, batch_sizes=batch_sizes, reverse=reverse)
            rows = output.isnan().any(1)
            assert rows.sum() == sum(sizes) - sizes[0]


def test_without_h_0_the_first_step_does_not_read_the_weight():
    weight_hh = torch.full((4, 4), float("nan"))
    for projections in (torch.randn(1, 2, 4), torch.randn(2, 2, 4)):
        output, _ = functional.rnn(projections, weight_hh)
        assert output[0].isfinite().all() and output[1:].isnan().all()
        torch.testing.assert_close(output, reference.rnn(projections, weight_hh)[0], equal_nan=True)


def test_saves_nothing_but_inputs_and_output():
    (projections, weight_hh, h_0), _ = make("time_first", 50, 3, 8)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        output, _ = functional.rnn(projections, weight_hh, h_0)
    known = {x.data_ptr() for x in (weight_hh, h_0, output)}
    assert len(saved) == 3 and {x.data_ptr() for x in saved} == known


def test_same_without_gradients():
    inputs, _ = make("time_first", 4, 3, 5)
    expected = functional.rnn(*inputs)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            for got, wanted in zip(functional.rnn(*inputs), expected, strict=True):
                assert torch.equal(got, wanted) and not got.requires_grad


def good(**changes):
    arguments = {
        "projections": torch.randn(4, 3, 5),
        "weight_hh": torch.randn(5, 5),
        "h_0": torch.randn(3, 5),
    }
    return {**arguments, **changes}


def packed(sizes, **changes):
    if not isinstance(sizes, torch.Tensor):
        sizes = torch.tensor(sizes, device="cpu", dtype=torch.int64)
    return good(projections=torch.randn(6, 5), h_0=None, batch_sizes=sizes, **changes)


WRONG = {
    "not a tensor": (
        lambda: good(projections=[1.0]),
        TypeError,
        "projections must be a Tensor, got list",
    ),
    "h_0 not a tensor": (lambda: good(h_0=0), TypeError, "h_0 must be a Tensor, got int"),
    "integers": (
        lambda: good(projections=torch.ones(4, 3, 5).int()),
        TypeError,
        "float32 or float64.*, got torch.int32",
    ),
    "complex": (
        lambda: good(projections=torch.randn(4, 3, 5) * 1j),
        TypeError,
        "got torch.complex64",
    ),
    "mixed dtypes": (
        lambda: good(weight_hh=torch.randn(5, 5).double()),
        TypeError,
        "weight_hh must be",
    ),
    "h_0 of another dtype": (
        lambda: good(h_0=torch.randn(3, 5).double()),
        TypeError,
        "h_0 must be torch.float32",
    ),
    "another device": (
        lambda: good(weight_hh=torch.randn(5, 5, device="meta")),
        ValueError,
        "got meta",
    ),
    "two dimensions": (
        lambda: good(projections=torch.randn(4, 5)),
        ValueError,
        r"3 dimensions.*\(4, 5\)",
    ),
    "no steps": (
        lambda: good(projections=torch.randn(0, 3, 5)),
        ValueError,
        r"time step.*\(0, 3, 5\)",
    ),
    "batch_first not a bool": (
        lambda: good(batch_first=1),
        TypeError,
        "batch_first must be a bool",
    ),
    "reverse not a bool": (
        lambda: good(reverse="no"),
        TypeError,
        "reverse must be a bool, got 'no'",
    ),
    "weight not square": (
        lambda: good(weight_hh=torch.randn(5, 4)),
        ValueError,
        r"\(5, 5\).*got \(5, 4\)",
    ),
    "weight of another size": (
        lambda: good(weight_hh=torch.randn(6, 6)),
        ValueError,
        r"got \(6, 6\)",
    ),
    "weight a vector": (lambda: good(weight_hh=torch.randn(5)), ValueError, r"got \(5,\)"),
    "h_0 of another batch": (
        lambda: good(h_0=torch.randn(4, 5)),
        ValueError,
        r"\(3, 5\), got \(4, 5\)",
    ),
    "h_0 with layers": (lambda: good(h_0=torch.randn(1, 3, 5)), ValueError, r"got \(1, 3, 5\)"),
    "batch first": (
        lambda: good(batch_first=True),
        ValueError,
        r"h_0 must be .* \(4, 5\), got \(3, 5\)",
    ),
    "unknown nonlinearity": (
        lambda: good(nonlinearity="gelu"),
        ValueError,
        "'tanh' or 'relu', got 'gelu'",
    ),
    "sizes a list": (
        lambda: good(projections=torch.randn(6, 5), h_0=None, batch_sizes=[3, 3]),
        TypeError,
        "batch_sizes must be a Tensor, got list",
    ),
    "sizes int32": (
        lambda: packed(torch.tensor([3, 3], device="cpu").int()),
        TypeError,
        "must be int64",
    ),
    "sizes on another device": (
        lambda: packed(torch.ones(2, device="meta").long()),
        ValueError,
        "on the CPU",
    ),
    "sizes grow": (lambda: packed([2, 4]), ValueError, r"never increase, got \[2, 4\]"),
    "size zero": (lambda: packed([6, 0]), ValueError, "positive"),
    "sizes too few": (lambda: packed([3, 2]), ValueError, "add up to the 6 rows"),
    "sizes beyond memory": (
        lambda: packed(torch.ones(1, device="cpu").long().expand(2**45)),
        ValueError,
        f"at most a step per row of projections, 6, got {2**45}",
    ),
    "sizes empty": (lambda: packed([]), ValueError, r"a step, got shape \(0,\)"),
    "sizes 2-D": (lambda: packed([[3, 3]]), ValueError, "one dimension"),
    "packed batch_first": (lambda: packed([3, 3], batch_first=True), ValueError, "no meaning"),
    "packed 3-D": (
        lambda: good(batch_sizes=torch.tensor([3, 3], device="cpu")),
        ValueError,
        "2 dimensions",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_named(name):
    arguments, error, message = WRONG[name]
    with pytest.raises(error, match=message):
        functional.rnn(**arguments())
