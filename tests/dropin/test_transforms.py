"""torch.func, vmap, autocast, complex numbers, nested tensors, operation counts: against nn.RNN or a loop of calls."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import rnnfused

SIZES = torch.tensor([7, 0, 5])


def pair(*sizes, **options):
    """Returns rnnfused's and torch's modules with the same parameters."""
    ours, theirs = rnnfused.RNN(*sizes, **options), torch.nn.RNN(*sizes, **options)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("transform", ["jacfwd", "jacrev", "hessian"])
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_jacobians(transform, nonlinearity):
    options = dict(num_layers=2, bidirectional=True, nonlinearity=nonlinearity)
    modules = pair(3, 4, dtype=torch.float64, **options)
    x = torch.randn(4, 2, 3, dtype=torch.float64)

    def derivative(module):
        return getattr(torch.func, transform)(lambda x: module(x)[0].pow(2).sum(-1))(x)

    torch.testing.assert_close(*map(derivative, modules))


def test_jvp_of_everything():
    ours, theirs = pair(3, 4, dtype=torch.float64)
    x, h_0 = torch.randn(5, 2, 3, dtype=torch.float64), torch.randn(1, 2, 4, dtype=torch.float64)
    parameters = {name: p.detach() for name, p in ours.named_parameters()}
    tangents = {name: torch.randn_like(p) for name, p in parameters.items()}

    def tangent(module):
        def call(parameters, x, h_0):
            return torch.func.functional_call(module, parameters, (x, h_0))

        return torch.func.jvp(call, (parameters, x, h_0), (tangents, x.sin(), h_0.cos()))

    torch.testing.assert_close(tangent(ours), tangent(theirs))


def test_grad_of_grad():
    modules = pair(3, 4, dtype=torch.float64)
    x = torch.randn(5, 2, 3, dtype=torch.float64)

    def second(module):
        def gradient(x):
            return torch.func.grad(lambda x: module(x)[0].pow(3).sum())(x).pow(2).sum()

        return torch.func.grad(gradient)(x)

    torch.testing.assert_close(*map(second, modules))


EXTENTS = {
    "padded": ((7, 3), None),
    "lengths": ((7, 3), "lengths"),
    "jagged": ((12,), "lengths"),
    "packed": ((9,), "batch_sizes"),
}


@pytest.mark.parametrize("mapped", ["projections", "h_0", "weight_hh", "all"])
@pytest.mark.parametrize("extents", EXTENTS)
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("reverse", [False, True])
def test_vmap_of_the_function(mapped, extents, heads, reverse):
    shape, name = EXTENTS[extents]
    sizes = {"lengths": SIZES, "batch_sizes": torch.tensor([3, 3, 2, 1])}
    options = {"reverse": reverse, **({name: sizes[name]} if name else {})}
    part = 4 // heads
    shapes = {
        "projections": (*shape, 4),
        "weight_hh": (heads, part, part) if heads > 1 else (4, 4),
        "h_0": (3, 4),
    }
    dims = {name: -1 if mapped in (name, "all") else None for name in shapes}
    tensors = [
        torch.randn(*shapes[name], *([] if dims[name] is None else [5]), dtype=torch.float64)
        for name in shapes
    ]
    tensors = [x.requires_grad_() for x in tensors]

    def rnn(*tensors):
        return rnnfused.functional.rnn(*tensors, **options)

    def one_by_one(i):
        picked = [
            x if d is None else x[..., i] for x, d in zip(tensors, dims.values(), strict=True)
        ]
        return rnn(*picked)

    got = torch.vmap(rnn, tuple(dims.values()))(*tensors)
    expected = tuple(torch.stack(x) for x in zip(*map(one_by_one, range(5)), strict=True))
    torch.testing.assert_close(got, expected)
    gradients = [
        torch.autograd.grad(output.sin().sum() + h_n.pow(2).sum(), tensors)
        for output, h_n in (got, expected)
    ]
    torch.testing.assert_close(*gradients)


def test_vmap_over_lengths():
    module, x = rnnfused.RNN(6, 4), torch.randn(7, 3, 6)
    lengths = torch.tensor([[1, 2, 3], [7, 0, 4]])
    got = torch.vmap(lambda n: module(x, lengths=n)[0])(lengths)
    torch.testing.assert_close(got, torch.stack([module(x, lengths=n)[0] for n in lengths]))
    gradient = torch.func.grad(lambda x, n: module(x, lengths=n)[0].sum())
    got = torch.vmap(gradient, (None, 0))(x, lengths)
    torch.testing.assert_close(got, torch.stack([gradient(x, n) for n in lengths]))
    with pytest.raises(NotImplementedError, match="vmap over batch_sizes"):
        torch.vmap(lambda n: rnnfused.functional.rnn(x[:2, 0], x[:4, 0, :4], batch_sizes=n))(
            torch.tensor([[2], [2]])
        )


@pytest.mark.parametrize(
    "options", [dict(), dict(num_layers=2, bidirectional=True, batch_first=True)]
)
def test_an_ensemble_of_models(options):
    models = [rnnfused.RNN(6, 4, dtype=torch.float64, **options) for _ in range(3)]
    parameters, _ = torch.func.stack_module_state(models)
    x = torch.randn(7, 5, 6, dtype=torch.float64)

    def loss(parameters, x):
        return torch.func.functional_call(models[0], parameters, (x,))[0].pow(2).sum()

    got = torch.vmap(torch.func.grad(loss), in_dims=(0, None))(parameters, x)
    for i, model in enumerate(models):
        model(x)[0].pow(2).sum().backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(got[name][i], parameter.grad)


def test_gradients_for_each_sample():
    model, x = rnnfused.RNN(6, 4, dtype=torch.float64), torch.randn(7, 5, 6, dtype=torch.float64)
    parameters = dict(model.named_parameters())

    def loss(parameters, x):
        output, _ = torch.func.functional_call(model, parameters, (x.unsqueeze(1),))
        return output.pow(2).sum()

    got = torch.vmap(torch.func.grad(loss), in_dims=(None, 1))(parameters, x)
    for i in range(5):
        expected = torch.func.grad(loss)(parameters, x[:, i])
        for name in parameters:
            torch.testing.assert_close(got[name][i], expected[name])


def test_an_ensemble_of_token_models():
    models = [rnnfused.TokenRNN(6, 4) for _ in range(3)]
    parameters, _ = torch.func.stack_module_state(models)
    ids = torch.randint(6, (3, 7, 2))
    call = torch.vmap(lambda p, x: torch.func.functional_call(models[0], p, (x,))[0])
    expected = torch.stack([model(x)[0] for model, x in zip(models, ids, strict=True)])
    torch.testing.assert_close(call(parameters, ids), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtypes_with_and_without_autocast(dtype):
    ours, theirs = pair(3, 4)
    cells = rnnfused.RNNCell(3, 4), torch.nn.RNNCell(3, 4)
    x = torch.randn(5, 2, 3)
    with torch.autocast("cpu", dtype):
        assert [y.dtype for y in ours(x)] == [y.dtype for y in theirs(x)]
        assert cells[0](x[0]).dtype == cells[1](x[0]).dtype
    narrow = [module.to(dtype)(x.to(dtype)) for module in (ours, theirs)]
    assert [y.dtype for y in narrow[0]] == [y.dtype for y in narrow[1]]


@pytest.mark.parametrize(
    "options", [dict(), dict(num_layers=2, bidirectional=True, batch_first=True)]
)
@pytest.mark.parametrize("packed", [False, True])
def test_complex_weights(options, packed):
    modules = pair(3, 4, dtype=torch.complex128, **options)
    x = torch.randn(5, 5, 3, dtype=torch.complex128)

    def everything(module):
        given = x.clone().requires_grad_()
        leaves = [given, *module.parameters()]
        if packed:  # torch cannot differentiate a packed complex input
            given = torch.nn.utils.rnn.pack_padded_sequence(
                x, [3, 5, 1, 1, 2], module.batch_first, enforce_sorted=False
            )
            leaves = leaves[1:]
        output, h_n = module(given)
        loss = (output.data if packed else output).abs().sum() + h_n.real.sum()
        return h_n, *torch.autograd.grad(loss, leaves)

    torch.testing.assert_close(*map(everything, modules))


@pytest.mark.parametrize("batch_first", [False, True])
def test_jagged_nested_tensors(batch_first):
    module = rnnfused.RNN(6, 4, 2, bidirectional=True, batch_first=batch_first)
    rows = [torch.randn(n, 6) for n in (3, 5, 1)]
    nested = torch.nested.nested_tensor(rows, layout=torch.jagged, requires_grad=True)
    h_0 = torch.randn(4, 3, 4)
    output, h_n = module(nested, h_0)
    assert output.is_nested and output.layout == torch.jagged
    for i, row in enumerate(rows):
        expected, last = module(row, h_0[:, i])
        torch.testing.assert_close(output.unbind()[i], expected)
        torch.testing.assert_close(h_n[:, i], last)
    output.values().sum().backward()
    (gradient,) = torch.autograd.grad(
        module(row := rows[1].requires_grad_(), h_0[:, 1])[0].sum(), row
    )
    torch.testing.assert_close(nested.grad.unbind()[1], gradient)

    tokens = rnnfused.TokenRNN(9, 4)
    ids = [torch.randint(9, (n,)) for n in (3, 5)]
    output, _ = tokens(torch.nested.nested_tensor(ids, layout=torch.jagged))
    torch.testing.assert_close(output.unbind()[1], tokens(ids[1])[0])


def test_other_nested_tensors_are_refused():
    module, rows = rnnfused.RNN(6, 4), [torch.randn(3, 6), torch.randn(5, 6)]
    with pytest.raises(ValueError, match="input, if nested, must be .* torch.jagged"):
        module(torch.nested.nested_tensor(rows))
    jagged = torch.nested.nested_tensor(rows, layout=torch.jagged)
    with pytest.raises(ValueError, match="lengths must be None"):
        module(jagged, lengths=torch.tensor([3, 5]))
    with pytest.raises(ValueError, match="input, if nested"):
        module(jagged.transpose(1, 2))
    shifted = torch.nested.nested_tensor_from_jagged(torch.randn(5, 6), torch.tensor([1, 4, 6]))
    with pytest.raises(ValueError, match="offsets from 0 on"):
        module(shifted)


@pytest.mark.parametrize("options", [dict(), dict(bidirectional=True, num_layers=2)])
def test_operation_counts_are_those_of_the_products(options):
    module, x = rnnfused.RNN(6, 8, **options), torch.randn(7, 3, 6, requires_grad=True)
    forward = backward = 0
    for name, weight in module.named_parameters():
        if name.startswith("weight"):
            forward += 2 * 7 * 3 * weight.numel()
            backward += (
                2 * 2 * 7 * 3 * weight.numel()
            )  # the gradients of the weight and of its input
        if name.startswith("weight_hh"):
            backward -= 2 * 3 * weight.numel()  # a null h_0 has no gradient
    with FlopCounterMode(display=False) as counter:
        output, _ = module(x)
        assert counter.get_total_flops() == forward
        output.sum().backward()
    assert counter.get_total_flops() == forward + backward
    with FlopCounterMode(display=False) as counter:
        rnnfused.TokenRNN(6, 8)(torch.randint(6, (7, 3)))
    assert counter.get_total_flops() == 2 * 7 * 3 * 8 * 8
