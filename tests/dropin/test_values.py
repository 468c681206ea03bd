"""Values, gradients and second derivatives of RNN and RNNCell equal torch's, on generated cases."""

import dataclasses

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import rnnfused

pytest.importorskip("hypothesis", reason="hypothesis generates the cases")
from hypothesis import HealthCheck, given, settings  # noqa: E402 (after the check that it exists)
from hypothesis import strategies as st  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

TOLERANCE = dict(rtol=1e-9, atol=1e-11)  # float64: only the order of sums differs
LAYOUTS = ("batched", "unbatched", "packed_sorted", "packed")
STRIDES = ("contiguous", "swapped", "transposed", "strided", "offset", "repeated", "expanded")
LOSSES = ("weighted", "sum", "transposed")
OUTPUTS = (("output", "h_n"), ("output",), ("h_n",))


@dataclasses.dataclass(frozen=True)
class CellCase:
    """One comparison of cells. Each default is the plainest value."""

    batch: int | None = 3  # None: unbatched
    input_size: int = 3
    hidden_size: int = 5
    nonlinearity: str = "tanh"
    bias: bool = True
    training: bool = True
    has_h_0: bool = True
    input_strides: str = "contiguous"
    h_0_strides: str = "contiguous"
    input_needs_grad: bool = True
    h_0_needs_grad: bool = True
    frozen: bool = False  # no parameter requires a gradient
    outputs: tuple = ("output",)  # the results that get a gradient
    loss: str = "weighted"
    order: int = 1  # of the highest derivative compared
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Case(CellCase):
    """One comparison of layers."""

    batch: int = 3
    outputs: tuple = ("output", "h_n")
    time: int = 4
    num_layers: int = 1
    batch_first: bool = False
    bidirectional: bool = False
    dropout: float = 0.0
    layout: str = "batched"


def laid_out(tensor, strides):
    """Returns the values in the given strides, differentiably. Expanded: the values of the first row."""
    if strides == "swapped" and tensor.dim() > 1:  # time and batch
        return tensor.transpose(0, 1).contiguous().transpose(0, 1)
    if strides == "transposed" and tensor.dim() > 1:
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)
    if strides == "strided":
        return torch.stack([tensor, tensor + 1], -1)[..., 0]
    if strides == "offset":
        return torch.cat([tensor, tensor, tensor], -1).narrow(-1, tensor.size(-1), tensor.size(-1))
    if strides == "repeated" and tensor.size(0) > 0:  # along the first dimension
        return tensor[:1].expand_as(tensor)
    if strides == "expanded" and tensor.numel() > 0:  # along all but the features
        return tensor.flatten(0, -2)[0].expand_as(tensor) if tensor.dim() > 1 else tensor
    return tensor


def loss_of(tensor, kind, generator):
    """Returns a scalar. Each kind makes a gradient of other strides."""
    if kind == "sum":
        return tensor.sum()  # an expanded gradient
    if kind == "transposed" and tensor.dim() > 1:
        tensor = tensor.transpose(0, -1).sin()
    weights = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
    return (tensor.sin() * weights).sum()


def derivatives(module, case, outputs, leaves):
    """Returns the gradients of all leaves and parameters; for order 2, their derivatives too."""
    generator = torch.Generator().manual_seed(case.seed)
    loss = sum(loss_of(outputs[name], case.loss, generator) for name in case.outputs)
    wanted = [leaf for leaf in (*leaves, *module.parameters()) if leaf.requires_grad]
    assert loss.requires_grad == bool(wanted)
    if not wanted:
        return []
    first = torch.autograd.grad(loss, wanted, create_graph=case.order > 1, allow_unused=True)
    if case.order == 1:
        return first
    total = sum(g.sin().sum() for g in first if g is not None)
    if not (torch.is_tensor(total) and total.requires_grad):
        second = [None] * len(wanted)
    else:
        second = torch.autograd.grad(total, wanted, allow_unused=True)
    # For a constant part of the graph, one side may return None and the other zeros.
    return *first, *(torch.zeros_like(w) if g is None else g for g, w in zip(second, wanted))


def leaves_of(case, *tensors):
    needs_grad = (case.input_needs_grad, case.h_0_needs_grad)
    return [t.clone().requires_grad_(n) for t, n in zip(tensors, needs_grad)]


def built(cls, case, **options):
    torch.manual_seed(case.seed)
    module = cls(case.input_size, case.hidden_size, **options, dtype=torch.float64)
    return module.requires_grad_(not case.frozen).train(case.training)


def drawn(case):
    """Returns ``(input[, h_0])``, and the function that packs the input, or None."""
    generator = torch.Generator().manual_seed(case.seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    states = case.num_layers * (2 if case.bidirectional else 1)
    if case.layout == "unbatched":
        tensors = randn(case.time, case.input_size), randn(states, case.hidden_size)
        pack = None
    elif case.layout == "batched":
        shape = (case.batch, case.time) if case.batch_first else (case.time, case.batch)
        tensors = randn(*shape, case.input_size), randn(states, case.batch, case.hidden_size)
        pack = None
    else:
        lengths = torch.randint(1, case.time + 1, (max(case.batch, 1),), generator=generator)
        is_sorted = case.layout == "packed_sorted"
        lengths = lengths.sort(descending=True).values if is_sorted else lengths
        sequences = [randn(n, case.input_size) for n in lengths.tolist()]
        data, *rest = pack_sequence(sequences, enforce_sorted=is_sorted)
        tensors = data, randn(states, len(lengths), case.hidden_size)

        def pack(leaf):
            return PackedSequence(leaf, *rest)

    return tensors if case.has_h_0 else tensors[:1], pack


def run(cls, case):
    """Returns ``(results, gradients)`` of one class."""
    names = ("num_layers", "nonlinearity", "bias", "batch_first", "dropout", "bidirectional")
    module = built(cls, case, **{name: getattr(case, name) for name in names})
    tensors, pack = drawn(case)
    leaves = leaves_of(case, *tensors)
    strides = (case.input_strides, case.h_0_strides)
    input, *h_0 = (laid_out(leaf, how) for leaf, how in zip(leaves, strides))
    torch.manual_seed(case.seed)  # for the dropout masks
    output, h_n = module(input if pack is None else pack(input), *h_0)
    results = dict(h_n=h_n)
    if pack is not None:
        output, *rest = output
        results |= dict(zip(("batch_sizes", "sorted_indices", "unsorted_indices"), rest))
    results["output"] = output
    return results, derivatives(module, case, results, leaves)


def run_cell(cls, case):
    module = built(cls, case, bias=case.bias, nonlinearity=case.nonlinearity)
    generator = torch.Generator().manual_seed(case.seed)
    batch = () if case.batch is None else (case.batch,)
    sizes = (case.input_size, case.hidden_size)[: 2 if case.has_h_0 else 1]
    tensors = [
        torch.randn(*batch, size, generator=generator, dtype=torch.float64) for size in sizes
    ]
    leaves = leaves_of(case, *tensors)
    strides = (case.input_strides, case.h_0_strides)
    results = dict(output=module(*(laid_out(leaf, how) for leaf, how in zip(leaves, strides))))
    return results, derivatives(module, case, results, leaves)


def check_equal(got, expected):
    (got, got_grads), (expected, expected_grads) = got, expected
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert type(got[name]) is type(value), name
        if value is not None:
            torch.testing.assert_close(got[name], value, **TOLERANCE)
            assert got[name].requires_grad == value.requires_grad, name
    for a, b in zip(got_grads, expected_grads, strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            torch.testing.assert_close(a, b, **TOLERANCE)


def check_same(ours_class, case):
    """Raises AssertionError if the class differs from ``nn.RNN`` in this case."""
    check_equal(run(ours_class, case), run(torch.nn.RNN, case))


def check_same_cell(ours_class, case):
    check_equal(run_cell(ours_class, case), run_cell(torch.nn.RNNCell, case))


booleans = st.booleans()
mostly = st.sampled_from([True, True, True, False])
COMMON = dict(
    input_size=st.sampled_from([1, 2, 3, 7, 16]),
    hidden_size=st.sampled_from([1, 2, 3, 5, 8, 17, 33]),
    nonlinearity=st.sampled_from(["tanh", "relu"]),
    bias=mostly,
    training=mostly,
    has_h_0=booleans,
    input_strides=st.sampled_from(STRIDES),
    h_0_strides=st.sampled_from(STRIDES),
    input_needs_grad=mostly,
    h_0_needs_grad=mostly,
    frozen=st.sampled_from([False, False, False, True]),
    loss=st.sampled_from(LOSSES),
    order=st.sampled_from([1, 1, 2]),
    seed=st.integers(0, 3),
)


@st.composite
def cases(draw):
    num_layers = draw(st.integers(1, 3))
    # With one layer both warn about dropout; see test_errors.py.
    dropout = 0.0 if num_layers == 1 else draw(st.sampled_from([0.0, 0.4, 0.4, 1.0]))
    own = dict(
        time=st.integers(1, 7),
        batch=st.sampled_from([0, 1, 2, 3, 5, 9]),
        batch_first=booleans,
        bidirectional=booleans,
        layout=st.sampled_from(LAYOUTS),
        outputs=st.sampled_from(OUTPUTS),
    )
    values = draw(st.fixed_dictionaries(COMMON | own))
    return Case(num_layers=num_layers, dropout=dropout, **values)


generated = settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],  # an emulator is slow
)


@settings(generated, max_examples=500)
@given(case=cases())
def test_layer(case):
    check_same(rnnfused.RNN, case)


@settings(generated, max_examples=300)
@given(
    case=st.builds(CellCase, batch=st.sampled_from([None, 0, 1, 3, 8]), **COMMON),
)
def test_cell(case):
    check_same_cell(rnnfused.RNNCell, case)


# One case for each possible mistake; test_mutants.py uses them too.
FIXED = {
    "plain": Case(),
    "relu": Case(nonlinearity="relu"),
    "batch_first": Case(batch_first=True, num_layers=2),
    "both_directions": Case(bidirectional=True),
    "layers": Case(num_layers=3),
    "dropout": Case(num_layers=2, dropout=0.4),
    "dropout_in_eval": Case(num_layers=2, dropout=0.4, training=False),
    "dropout_batch_first": Case(num_layers=3, dropout=0.4, batch_first=True, bidirectional=True),
    "dropout_swapped": Case(num_layers=2, dropout=0.4, input_strides="swapped"),
    "packed": Case(layout="packed", batch=5, time=6),
    "unbatched": Case(layout="unbatched", batch_first=True),
    "strides": Case(input_strides="strided", h_0_strides="transposed"),
    "one_input": Case(input_strides="expanded", has_h_0=False),
    "one_h_0": Case(h_0_strides="expanded"),  # such as a learned state, shared by all rows
    "no_h_0": Case(has_h_0=False),
    "empty_batch": Case(batch=0),
    "only_h_n": Case(outputs=("h_n",)),
    "second_order": Case(order=2),
}


@pytest.mark.parametrize("name", FIXED)
def test_fixed_cases(name):
    check_same(rnnfused.RNN, FIXED[name])


@pytest.mark.parametrize("strides", STRIDES)
@pytest.mark.parametrize("layout", ["batched", "unbatched", "packed"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_results_are_contiguous_where_torchs_are(strides, layout, bidirectional):
    case = Case(layout=layout, bidirectional=bidirectional, input_strides=strides)
    (got, _), (expected, _) = run(rnnfused.RNN, case), run(torch.nn.RNN, case)
    for name in ("output", "h_n"):
        assert got[name].is_contiguous() or not expected[name].is_contiguous(), name
