"""rnnfused.RNN against torch.nn.RNN; rnnfused.TokenRNN against one-hot inputs."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

import rnnfused

pytestmark = pytest.mark.usefixtures("device")

CASES = [
    dict(num_layers=layers, bidirectional=both, batch_first=first, nonlinearity=f, bias=bias)
    for layers, both, first, f, bias in itertools.product(
        [1, 3], [False, True], [False, True], ["tanh", "relu"], [True, False]
    )
]
cases = pytest.mark.parametrize("options", CASES, ids=lambda o: "-".join(map(str, o.values())))


def pair(options, dtype=torch.float64):
    """Returns rnnfused's and torch's modules, built from the same seed."""
    torch.manual_seed(0)
    ours = rnnfused.RNN(6, 7, **options, dtype=dtype)
    torch.manual_seed(0)
    return ours, torch.nn.RNN(6, 7, **options, dtype=dtype)


def compare(ours, theirs, x, *hx):
    """Asserts that values and all gradients are equal up to rounding in float64."""
    results = []
    for module in (ours, theirs):
        # cuDNN needs contiguous states.
        given = (v if module is ours else v.contiguous() for v in (x, *hx))
        inputs = [v.detach().requires_grad_() for v in given]
        output, h_n = module(*inputs)
        (output.sin().sum() + (h_n * torch.arange(h_n.numel()).view_as(h_n)).sum()).backward()
        gradients = [v.grad for v in (*inputs, *module.parameters())]
        results.append([output, h_n, *gradients])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@cases
def test_same_parameters_for_the_same_seed(options):
    ours, theirs = pair(options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for (name, a), (other, b) in zip(
        ours.named_parameters(), theirs.named_parameters(), strict=True
    ):
        assert name == other and torch.equal(a, b)
    assert repr(ours) == repr(theirs)


@cases
def test_same_results_and_gradients(options):
    ours, theirs = pair(options)
    directions = 2 if options["bidirectional"] else 1
    h_0 = torch.randn(options["num_layers"] * directions, 3, 7, dtype=torch.float64)
    x = torch.randn((3, 5, 6) if options["batch_first"] else (5, 3, 6), dtype=torch.float64)
    compare(ours, theirs, x)
    compare(ours, theirs, x, h_0)
    compare(ours, theirs, x[0], h_0[:, 0])  # unbatched
    compare(ours, theirs, x.repeat_interleave(2, -1)[..., ::2], h_0.mT.contiguous().mT)


@cases
def test_same_on_packed_sequences(options):
    ours, theirs = pair(options)
    lengths = [3, 5, 1, 5]
    padded = pad_sequence([torch.randn(n, 6, dtype=torch.float64) for n in lengths])
    directions = 2 if options["bidirectional"] else 1
    h_0 = torch.randn(options["num_layers"] * directions, 4, 7, dtype=torch.float64)
    packed = pack_padded_sequence(padded, lengths, enforce_sorted=False)
    for hx in (None, h_0):
        (output, h_n), (expected, expected_h_n) = ours(packed, hx), theirs(packed, hx)
        torch.testing.assert_close(output.data, expected.data)
        torch.testing.assert_close(h_n, expected_h_n)
        assert torch.equal(output.unsorted_indices, expected.unsorted_indices)
        for module, data in ((ours, output.data), (theirs, expected.data)):
            module.zero_grad()
            data.sin().sum().backward()
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad)


def test_state_dict_of_layers_and_directions_both_ways():
    ours = rnnfused.RNN(6, 7, num_layers=2, bidirectional=True)
    theirs = torch.nn.RNN(6, 7, num_layers=2, bidirectional=True)
    x = torch.randn(5, 3, 6)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x)[0], theirs(x)[0])
    theirs.reset_parameters()
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(x)[0], theirs(x)[0])


def test_trains_as_torch_does():
    ours, theirs = pair({}, torch.float32)
    x, target = torch.randn(5, 3, 6), torch.randn(5, 3, 7)
    losses = []
    for module in (ours, theirs):
        optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
        losses.append([])
        for _ in range(30):
            loss = F.mse_loss(module(x)[0], target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0][-1] < 0.9 * losses[0][0]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)


def test_dropout_is_between_layers_and_only_in_training():
    module = rnnfused.RNN(6, 50, num_layers=2, dropout=0.5)
    x = torch.randn(5, 3, 6)
    torch.manual_seed(0)
    first = module(x)[0]
    torch.manual_seed(0)
    assert torch.equal(module(x)[0], first)
    assert not torch.equal(module(x)[0], first)
    module.eval()
    assert torch.equal(module(x)[0], module(x)[0])
    with pytest.warns(UserWarning, match="dropout"):
        rnnfused.RNN(6, 7, dropout=0.5)


def test_dropout_drops_the_given_share():
    module = rnnfused.RNN(2, 400, num_layers=2, dropout=0.25, nonlinearity="relu", bias=False)
    with torch.no_grad():
        module.weight_ih_l0.fill_(1)
        module.weight_ih_l1.copy_(torch.eye(400))
        for weight in (module.weight_hh_l0, module.weight_hh_l1):
            weight.zero_()
    output, _ = module(torch.ones(20, 1, 2))
    kept = output != 0
    assert 0.7 < kept.float().mean() < 0.8
    torch.testing.assert_close(output[kept], torch.full_like(output[kept], 2 / 0.75))


@pytest.mark.parametrize(
    ("x", "hx"),
    [
        (lambda: torch.randn(5), None),
        (lambda: torch.randn(5, 3, 6, 1), None),
        (lambda: torch.randn(5, 3, 7), None),
        (lambda: torch.randn(5, 3, 6).double(), None),
        (lambda: torch.ones(5, 3, 6).int(), None),
        (lambda: torch.randn(0, 3, 6), None),
        (lambda: torch.randn(5, 3, 6), lambda: torch.zeros(1, 2, 7)),
        (lambda: torch.randn(5, 3, 6), lambda: torch.zeros(2, 3, 7)),
        (lambda: torch.randn(5, 3, 6), lambda: torch.zeros(3, 7)),
        (lambda: torch.randn(5, 6), lambda: torch.zeros(1, 3, 7)),
    ],
)
def test_wrong_input_raises_torchs_exception(x, hx):
    ours, theirs = pair({}, torch.float32)
    x, hx = x(), None if hx is None else hx()
    with pytest.raises((RuntimeError, ValueError)) as expected:
        theirs(x, hx)
    with pytest.raises(expected.type):
        ours(x, hx)


@pytest.mark.parametrize("wrong", [None, [1.0], 3])
def test_an_argument_of_another_type_is_named(wrong):
    with pytest.raises(TypeError, match="input must be a Tensor or a PackedSequence"):
        rnnfused.RNN(6, 7)(wrong)
    if wrong is not None:
        with pytest.raises(TypeError, match="hx must be a Tensor"):
            rnnfused.RNN(6, 7)(torch.randn(5, 3, 6), wrong)


@pytest.mark.parametrize("hx", [torch.zeros(1, 3, 7).double(), torch.zeros(1, 3, 7, device="meta")])
def test_a_state_of_other_dtype_or_device_is_named(hx):
    with pytest.raises(RuntimeError, match="hx must be torch.float32 on"):
        rnnfused.RNN(6, 7)(torch.randn(5, 3, 6), hx)


def test_an_input_on_another_device_is_named():
    with pytest.raises(RuntimeError, match="input must be on .* got meta"):
        rnnfused.RNN(6, 7)(torch.randn(5, 3, 6, device="meta"))


def test_empty_batch():
    ours, theirs = pair({})
    compare(ours, theirs, torch.zeros(5, 0, 6, dtype=torch.float64))
    for module in (ours, theirs):
        for result in (0, 1):
            # The gradient of a sum is an expanded tensor.
            module(torch.zeros(5, 0, 6, dtype=torch.float64))[result].sum().backward()
    assert not ours.weight_hh_l0.grad.any()


def test_wrong_constructor_arguments():
    with pytest.raises(ValueError, match="'tanh' or 'relu', got 'sigmoid'"):
        rnnfused.RNN(6, 7, nonlinearity="sigmoid")
    for wrong in (dict(hidden_size=0), dict(num_layers=0), dict(dropout=2.0)):
        with pytest.raises(ValueError):
            rnnfused.RNN(**{"input_size": 6, "hidden_size": 7, **wrong})


INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16]


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("batch_first", [False, True])
def test_token_ids_equal_one_hot_rows(dtype, batch_first):
    module = rnnfused.TokenRNN(11, 7, num_layers=2, batch_first=batch_first, dtype=torch.float64)
    one_hot = torch.nn.RNN(11, 7, num_layers=2, batch_first=batch_first, dtype=torch.float64)
    one_hot.load_state_dict(module.state_dict())
    # Few ids and many take different code paths.
    for shape in ((4, 3), (1, 2)):
        ids = torch.randint(0, 11, shape).to(dtype)
        rows = F.one_hot(ids.long(), 11).double()
        results = []
        for layer, x in ((module, ids), (one_hot, rows)):
            layer.zero_grad()
            output, h_n = layer(x)
            (output.sin().sum() + h_n.sum()).backward()
            results.append([output, h_n, *(p.grad for p in layer.parameters())])
        for got, wanted in zip(*results, strict=True):
            torch.testing.assert_close(got, wanted)


def test_token_ids_unbatched_and_packed():
    module = rnnfused.TokenRNN(11, 7)
    ids = torch.randint(0, 11, (6, 2))
    output, h_n = module(ids)
    single, single_h_n = module(ids[:, 0])
    torch.testing.assert_close(single, output[:, 0])
    torch.testing.assert_close(single_h_n, h_n[:, 0])
    packed, _ = module(pack_padded_sequence(ids, [6, 6]))
    torch.testing.assert_close(packed.data.view(6, 2, 7), output)


def test_no_one_hot_tensor_is_built():
    module = rnnfused.TokenRNN(1000, 4)
    ids = torch.randint(0, 1000, (50, 40))
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            for value in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(value, torch.Tensor):
                    largest = max(largest, value.numel())
            return result

    with Watch():
        module(ids)[0].sum().backward()
    assert largest <= 50 * 40 * 4


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        (lambda: torch.tensor([[0, 11]]), IndexError, r"\[0, 11\).* from 0 to 11"),
        (lambda: torch.tensor([[-1, 3]]), IndexError, "from -1 to 3"),
        (lambda: torch.tensor([[2**64 - 1, 3]], dtype=torch.uint64), IndexError, f"to {2**64 - 1}"),
        (lambda: torch.full((40, 2), 200, dtype=torch.uint8), IndexError, "from 200 to 200"),
        (lambda: torch.randn(3, 2), TypeError, "integer dtype, got torch.float32"),
        (lambda: torch.randn(3, 11), TypeError, "integer dtype, got torch.float32"),
        (
            lambda: pack_padded_sequence(torch.randn(3, 2, 11), [3, 2]),
            TypeError,
            "integer dtype, got torch.float32",
        ),
        (lambda: torch.ones(3, 2).bool(), TypeError, "got torch.bool"),
        (lambda: torch.ones(3, 2, 11).long(), ValueError, r"got shape \(3, 2, 11\)"),
        (lambda: torch.ones(0, 2).long(), RuntimeError, "at least one time step"),
        (
            lambda: torch.ones(3, 2, device="meta").long(),
            RuntimeError,
            "input must be on .* got meta",
        ),
    ],
)
def test_wrong_ids_are_named(ids, error, message):
    with pytest.raises(error, match=message) as caught:
        rnnfused.TokenRNN(11, 7)(ids())
    assert caught.value.__cause__ is None and (
        caught.value.__context__ is None or caught.value.__suppress_context__
    )


@pytest.mark.parametrize("hidden", [7, 16, 40, 130])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_ids_equal_one_hot_rows_at_every_hidden_size(hidden, bias, dtype):
    of_ids = rnnfused.TokenRNN(11, hidden, bias=bias, dtype=dtype)
    of_rows = rnnfused.RNN(11, hidden, bias=bias, dtype=dtype)
    of_rows.load_state_dict(of_ids.state_dict())
    ids = torch.randint(11, (5, 17))
    rows = torch.nn.functional.one_hot(ids, 11).to(dtype)
    tolerance = 0.02 if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(of_ids(ids), of_rows(rows), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.uint64, torch.int32])
def test_ids_of_any_integer_dtype_with_lengths(dtype, exact):
    module = rnnfused.TokenRNN(11, 7)
    ids = torch.randint(11, (4, 3))
    lengths = [2, 4, 0]
    expected = module(ids, lengths=lengths)
    torch.testing.assert_close(module(ids.to(dtype), lengths=lengths), expected, **exact)


@pytest.mark.parametrize("batch_first", [False, True])
def test_ids_of_complex_layers(batch_first):
    module = rnnfused.TokenRNN(11, 7, dtype=torch.complex64, batch_first=batch_first)
    rows = rnnfused.RNN(11, 7, dtype=torch.complex64, batch_first=batch_first)
    rows.load_state_dict(module.state_dict())
    ids, lengths = torch.randint(11, (4, 3)), torch.tensor([2, 3, 0] + [1] * batch_first)
    past = torch.arange(3 if batch_first else 4)
    past = past >= lengths[:, None] if batch_first else past[:, None] >= lengths
    one_hot = torch.nn.functional.one_hot(ids, 11).to(torch.complex64)
    found = []
    for layer, x in ((module, ids.masked_fill(past, 99)), (rows, one_hot)):
        output, h_n = layer(x, lengths=lengths)
        (output.abs().sum() + h_n.abs().sum()).backward()
        found.append([output, h_n, *(p.grad for p in layer.parameters())])
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


def test_scripted_ids_are_integers():
    scripted = torch.jit.script(rnnfused.TokenRNN(11, 7))
    scripted(torch.randint(11, (4, 3)))
    for wrong in (torch.rand(4, 3), torch.ones(4, 3).bool()):
        with pytest.raises(Exception, match="integer dtype"):
            scripted(wrong)


def test_sizes_of_a_packed_batch_that_overflow():
    sizes = torch.tensor([2**62] * 4 + [3], device="cpu")
    packed = torch.nn.utils.rnn.PackedSequence(torch.randn(3, 3), sizes, None, None)
    with pytest.raises(RuntimeError, match="batch_sizes"):
        rnnfused.RNN(3, 4)(packed)


def test_an_attribute_replaces_a_parameter_that_is_none():
    module, plain = rnnfused.RNN(3, 4), rnnfused.RNN(3, 4)
    plain.load_state_dict(module.state_dict())
    bias = module.bias_ih_l0.detach().clone()
    module.bias_ih_l0 = None
    module.__dict__["bias_ih_l0"] = bias
    x = torch.randn(5, 2, 3)
    assert torch.equal(module(x)[0], plain(x)[0])


def test_a_subclass_can_override_check_input():
    class Strict(rnnfused.RNN):
        def check_input(self, input, batch_sizes):
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        Strict(3, 4)(torch.randn(5, 2, 3))
