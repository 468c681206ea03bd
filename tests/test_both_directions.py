"""A layer in both directions by one op: the bits of two layers, derivatives, mistakes, and when two layers run instead."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import rnnfused
from rnnfused import layers
from rnnfused.ops import composite
from rnnfused.ops.both_directions import both_directions

pytestmark = pytest.mark.usefixtures("restore_threads")
OPS = torch.ops.rnnfused

# T, B, I, H: too little work for a second thread; few rows; enough rows to share; a W large enough for a team.
SHAPES = [(3, 2, 4, 5), (40, 1, 6, 70), (200, 1, 16, 128), (60, 40, 9, 64), (150, 2, 8, 256)]
WAYS = [
    "dense",
    "batch_first",
    "unbatched",
    "lengths",
    "packed",
    "tokens",
    "heads",
    "clip",
    "no bias",
]


def layer_of(way, features, hidden, **options):
    options |= {
        "bidirectional": True,
        "batch_first": way == "batch_first",
        "bias": way != "no bias",
    }
    options["state_grad_clip"] = 0.01 if way == "clip" else None
    torch.manual_seed(0)
    if way == "tokens":
        return rnnfused.TokenRNN(features, hidden, **options)
    return rnnfused.RNN(features, hidden, heads=2 if way == "heads" else 1, **options)


def results(module, way, shape, h_0=True):
    """The output, the last states and all gradients."""
    steps, batch, features, hidden = shape
    generator = torch.Generator().manual_seed(1)
    rows = {"unbatched": (steps,), "batch_first": (batch, steps)}.get(way, (steps, batch))
    if way == "tokens":
        x = torch.randint(features, rows, generator=generator)
    else:
        x = torch.randn(*rows, features, generator=generator).requires_grad_()
    leaves = [*module.parameters(), *([] if way == "tokens" else [x])]
    state = None
    if h_0:
        state_rows = () if way == "unbatched" else (batch,)
        state = torch.randn(2, *state_rows, hidden, generator=generator).requires_grad_()
        leaves.append(state)
    options = {}
    least = int(way == "packed")
    lengths = torch.randint(least, steps + 1, (batch,), generator=generator)
    if way == "lengths":
        options["lengths"] = lengths
    if way == "packed":
        pack = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        output, h_n = module(pack, state)
        output = output.data
    else:
        output, h_n = module(x, state, **options)
    gradients = [torch.randn(y.shape, generator=generator) for y in (output, h_n)]
    return [output, h_n, *torch.autograd.grad((output, h_n), leaves, gradients)]


def by_two_layers(monkeypatch, *arguments, **keywords):
    with monkeypatch.context() as patch:
        patch.setattr(layers, "_runs_as_one_op", lambda *_: False)
        return results(*arguments, **keywords)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape)))
def test_has_the_bits_of_two_layers(shape, way, threads, monkeypatch):
    if way == "heads" and shape[3] % 2:
        pytest.skip("heads must divide the hidden size")
    module = layer_of(way, shape[2], shape[3])
    torch.set_num_threads(1)
    expected = by_two_layers(monkeypatch, module, way, shape)
    torch.set_num_threads(threads)
    for got, wanted in zip(results(module, way, shape), expected, strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_has_the_bits_of_two_layers_in_other_dtypes(dtype, monkeypatch):
    module = layer_of("dense", 6, 40).to(dtype)
    x = torch.randn(30, 3, 6, dtype=dtype)
    output, h_n = module(x)
    monkeypatch.setattr(layers, "_runs_as_one_op", lambda *_: False)
    for got, wanted in zip((output, h_n), module(x), strict=True):
        assert torch.equal(got, wanted)


def test_without_a_state(monkeypatch):
    module = layer_of("dense", 4, 12)
    got = results(module, "dense", (9, 3, 4, 12), h_0=False)
    for one, two in zip(
        got, by_two_layers(monkeypatch, module, "dense", (9, 3, 4, 12), h_0=False), strict=True
    ):
        assert torch.equal(one, two)


def calls_of(run):
    """The names of the package's ops that a call dispatches."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    return [event.name for event in profile.events() if event.name.startswith("rnnfused::")]


def test_is_one_op_forward_and_one_backward():
    module = layer_of("dense", 4, 6)
    x = torch.randn(5, 2, 4, requires_grad=True)
    assert calls_of(lambda: module(x)[0].sum().backward()) == [
        "rnnfused::both_directions",
        "rnnfused::both_directions_backward",
    ]


@pytest.mark.parametrize("way", ["autocast", "complex", "transform", "forward mode"])
def test_two_layers_run_where_the_op_does_not_suit(way):
    module = layer_of("dense", 4, 6, dtype=torch.complex64 if way == "complex" else None)
    x = torch.randn(5, 2, 4, dtype=torch.complex64 if way == "complex" else None)

    def run():
        if way == "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                return module(x)
        if way == "transform":
            return torch.func.vmap(lambda x: module(x)[0])(x.unsqueeze(0))
        if way == "forward mode":
            with torch.autograd.forward_ad.dual_level():
                return module(torch.autograd.forward_ad.make_dual(x, x))
        return module(x)

    assert not any("both_directions" in name for name in calls_of(run))


def arguments(dtype=torch.float64, time_dim=0):
    """Those of the op for T = 4, B = 2, I = 3, H = 2."""
    torch.manual_seed(0)
    rows = (4, 2) if time_dim == 0 else (2, 4)
    sizes = [(*rows, 3), *2 * [(2, 3), (2, 2), (2,), (2,)], (2, 2, 2)]
    tensors = [torch.randn(size, dtype=dtype, requires_grad=True) for size in sizes]
    return tensors, (None, None, time_dim, 0, None)


@pytest.mark.parametrize("time_dim", [0, 1])
def test_derivatives_of_first_and_second_order(time_dim):
    tensors, others = arguments(time_dim=time_dim)

    def function(*tensors):
        return both_directions(*tensors, *others)

    assert torch.autograd.gradcheck(function, tensors)
    assert torch.autograd.gradgradcheck(function, tensors)


@pytest.mark.parametrize("wanted", range(10))
def test_a_single_gradient(wanted):
    tensors, others = arguments()
    output, h_n = both_directions(*tensors, *others)
    every = torch.autograd.grad(output.sum() + h_n.sum(), tensors)
    for i, tensor in enumerate(tensors):
        tensor.requires_grad_(i == wanted)
    output, h_n = both_directions(*tensors, *others)
    (alone,) = torch.autograd.grad(output.sum() + h_n.sum(), [tensors[wanted]])
    assert torch.equal(alone, every[wanted])


@pytest.mark.parametrize("given", ["output", "h_n"])
def test_the_gradient_of_one_result(given):
    tensors, others = arguments()
    index = ["output", "h_n"].index(given)
    grads = [
        torch.autograd.grad(run(*tensors, *others)[index].sum(), tensors)
        for run in (both_directions, two_layers)
    ]
    for got, wanted in zip(*grads, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def two_layers(input, *others):
    *weights, h_0, batch_sizes, lengths, time_dim, nonlinearity, clip = others
    results = [
        OPS.layer(
            input,
            *weights[4 * i : 4 * i + 4],
            h_0[i : i + 1],
            batch_sizes,
            lengths,
            time_dim,
            nonlinearity,
            i == 1,
            clip,
        )
        for i in range(2)
    ]
    return torch.cat([output for output, _ in results], -1), torch.cat([h_n for _, h_n in results])


@pytest.mark.parametrize("time_dim", [0, 1])
def test_opcheck(time_dim):
    tensors, others = arguments(torch.float32, time_dim)
    torch.library.opcheck(OPS.both_directions, (*tensors, *others))


@pytest.mark.parametrize("needs", [(True,) * 5, (False, True, False, True, False)])
def test_opcheck_backward(needs):
    tensors, (*extents, time_dim, nonlinearity, clip) = arguments(torch.float32)
    tensors = [tensor.detach() for tensor in tensors]
    input, *weights, h_0 = tensors
    output, h_n = OPS.both_directions(*tensors, *extents, time_dim, nonlinearity, clip)
    saved = (output, input, *weights[:2], *weights[4:6], h_0, *extents)
    options = (time_dim, nonlinearity, clip, *needs)
    torch.library.opcheck(OPS.both_directions_backward, (output, h_n, *saved, *options))


def test_operations_are_counted_as_those_of_two_layers():
    tensors, others = arguments()
    counts = []
    for run in (both_directions, two_layers):
        with FlopCounterMode(display=False) as counter:
            run(*tensors, *others)[0].sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize(
    ("index", "wrong", "message"),
    [
        (5, torch.zeros(2, 4), "weight_ih"),
        (6, torch.zeros(3, 3), "the same hidden size"),
        (6, torch.zeros(2, 2, dtype=torch.float32), "dtype"),
        (7, torch.zeros(3), "bias"),
        (9, torch.zeros(1, 2, 2), "states of both directions"),
        (9, torch.zeros(2, 3, 2), "h_0"),
    ],
)
def test_the_op_refuses(index, wrong, message):
    tensors, others = arguments()
    if wrong.dtype == torch.float32 and message != "dtype":
        wrong = wrong.double()
    tensors[index] = wrong
    with pytest.raises(RuntimeError, match=message):
        both_directions(*tensors, *others)
    with pytest.raises(RuntimeError, match="a dimension of time"):
        both_directions(*arguments()[0], None, None, -1, 0, None)


def test_a_wrong_weight_of_the_second_direction_is_named():
    module = rnnfused.RNN(3, 4, 2, bidirectional=True)
    module.weight_hh_l1_reverse = torch.nn.Parameter(torch.zeros(5, 5))
    with pytest.raises(RuntimeError, match="weight_hh_l1_reverse must have shape"):
        module(torch.zeros(2, 2, 3))


def test_a_weight_without_values_is_refused():
    for name, _ in rnnfused.RNN(3, 4, bidirectional=True).named_parameters():
        module = rnnfused.RNN(3, 4, bidirectional=True)
        setattr(module, name, torch.nn.Parameter(getattr(module, name).detach().to("meta")))
        with pytest.raises(RuntimeError, match="must be on|must be torch"):
            module(torch.randn(5, 2, 3))


@pytest.mark.parametrize("index", [5, 6, 9])
def test_wrong_tensors_without_values_are_refused(index):
    tensors, others = arguments()
    tensors = [tensor.detach().to("meta") for tensor in tensors]
    tensors[index] = torch.zeros(3, 6, 6, dtype=torch.float64, device="meta")
    with pytest.raises(RuntimeError):
        OPS.both_directions(*tensors, *others)


def test_sparse_weights_run_as_two_layers():
    module = rnnfused.RNN(3, 4, bidirectional=True)
    x = torch.randn(5, 2, 3)
    expected = module(x)[0]
    module.weight_ih_l0 = torch.nn.Parameter(module.weight_ih_l0.detach().to_sparse())
    torch.testing.assert_close(module(x)[0], expected)


def test_a_traced_op_is_cast_by_autocast():
    module = rnnfused.RNN(3, 4, bidirectional=True)
    x = torch.randn(5, 2, 3)
    traced = torch.fx.experimental.proxy_tensor.make_fx(module)(x)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        got, expected = traced(x)[0], module(x)[0]
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, expected)


@pytest.mark.parametrize("needs", [(True,) * 5, (False, True, False, True, False)])
def test_other_devices_run_two_layers(needs):
    tensors, (*extents, time_dim, nonlinearity, clip) = arguments()
    tensors = [tensor.detach() for tensor in tensors]
    options = (*extents, time_dim, nonlinearity, clip)
    results = OPS.both_directions(*tensors, *options)
    for got, wanted in zip(composite.both_directions(*tensors, *options), results, strict=True):
        assert torch.equal(got, wanted)
    input, *weights, h_0 = tensors
    saved = (*results, results[0], input, *weights[:2], *weights[4:6], h_0, *options, *needs)
    expected = OPS.both_directions_backward(*saved)
    for got, wanted in zip(composite.both_directions_backward(*saved), expected, strict=True):
        assert torch.equal(got, wanted)


def test_the_two_gradients_of_the_biases_have_memory_of_their_own():
    module = rnnfused.RNN(3, 4, bidirectional=True)
    biases = [p for name, p in module.named_parameters() if "bias" in name]
    gradients = torch.autograd.grad(module(torch.randn(5, 2, 3))[0].sum(), biases)
    for one, other in (gradients[:2], gradients[2:]):
        assert torch.equal(one, other)
    assert len({gradient.data_ptr() for gradient in gradients}) == 4
