"""Times of rnnfused's calls against others. The two sides of a comparison take turns.

The ratio of a comparison is the other side's median time divided by rnnfused's.
"""

from functools import partial

import pytest
import steppers
import torch
import torch.nn.functional as F
from cases import (
    BOTH_DIRECTIONS,
    CHUNKS,
    COMPILED,
    CROWD,
    CROWDED,
    FIXED_COST,
    LENGTHS,
    LONG,
    NARROW,
    PACKED,
    PREPARED,
    SECOND_ORDER,
    STEPS,
    SUBNORMAL,
    Case,
    inputs,
)
from peers import PEERS

import rnnfused
from rnnfused.bench.shape import ways
from rnnfused.ops import layer
from rnnfused.scratch import RNNScratch


def test_peer(case, way, peer, in_turn):
    ours, theirs, gradient = inputs(case)
    own = ways(*ours, gradient)
    other = PEERS[peer](theirs[0].state_dict(), theirs[1], gradient)
    if other[way] is None:
        pytest.skip(f"{peer} lacks {way} for this case")
    if way == "forward":
        expected = own[way]()
        states = torch.from_dlpack(other[way]()).reshape(expected.shape)
        torch.testing.assert_close(states, expected, rtol=1e-3, atol=1e-3)
    in_turn(case, way, peer, own[way], other[way])


@pytest.mark.one_thread
def test_fixed_cost(way, in_turn):
    """Against one linear, the cheapest call in torch that has weights."""
    (module, x), _, gradient = inputs(FIXED_COST)
    linear = torch.nn.Linear(FIXED_COST.input_size, FIXED_COST.hidden_size)

    def forward():
        with torch.no_grad():
            return F.linear(x, linear.weight, linear.bias)

    def forward_backward():
        linear.zero_grad(set_to_none=True)
        F.linear(x, linear.weight, linear.bias).backward(gradient)

    other = {"forward": forward, "forward_backward": forward_backward}
    in_turn(FIXED_COST, way, "linear", ways(module, x, gradient)[way], other[way])


@pytest.mark.one_thread
@pytest.mark.parametrize("part", ["op", "dispatch"])
def test_parts_of_fixed_cost(part, in_turn):
    """The op's part of a forward call, and the part of torch's dispatch to an op that does nothing."""
    (module, x), _, gradient = inputs(FIXED_COST)
    weight_ih, weight_hh, bias_ih, bias_hh = (p.detach() for p in module.parameters())

    def op():
        layer(x, weight_ih, weight_hh, bias_ih, bias_hh, None, None, None, 0, 0, False, None)

    parts = {"op": op, "dispatch": lambda: torch.ops.rnnfused.cpu_multiply_add(0)}
    in_turn(FIXED_COST, "forward", part, ways(module, x, gradient)["forward"], parts[part])


@pytest.mark.one_thread
@pytest.mark.parametrize("case", NARROW, ids=str)
def test_bfloat16(case, way, in_turn):
    """rnnfused in bfloat16 against rnnfused in float32. The share of the peak is of float32's."""
    wide, narrow = (inputs(case) for _ in range(2))
    (module, x), _, gradient = narrow
    narrow_ways = ways(module.bfloat16(), x.bfloat16(), gradient.bfloat16())
    wide_ways = ways(*wide[0], wide[2])
    states = narrow_ways["forward"]().float()
    torch.testing.assert_close(states, wide_ways["forward"](), rtol=0.02, atol=0.05)
    in_turn(case, way, "own float32", narrow_ways[way], wide_ways[way])


@pytest.mark.one_thread
@pytest.mark.parametrize("case", SECOND_ORDER, ids=str)
def test_second_order(case, in_turn):
    """The gradient of a gradient, against the reference loop, which autograd differentiates step by step."""
    (module, x), _, gradient = inputs(case)
    leaves = [x.requires_grad_(), *module.parameters()]

    def loop(x):
        bias = module.bias_ih_l0 + module.bias_hh_l0
        return rnnfused.reference.rnn(F.linear(x, module.weight_ih_l0, bias), module.weight_hh_l0)

    def twice(call):
        def run():
            loss = (call(x)[0] * gradient).sum()
            gradients = torch.autograd.grad(loss, leaves, create_graph=True)
            return torch.autograd.grad(sum(g.pow(2).sum() for g in gradients), leaves)

        return run

    ours, theirs = twice(module), twice(loop)
    for got, expected in zip(ours(), theirs(), strict=True):
        assert (got - expected).norm() < 1e-3 * expected.norm()
    in_turn(case, "forward_backward", "second order", ours, theirs)


@pytest.mark.one_thread
@pytest.mark.parametrize("case", COMPILED, ids=str)
def test_torch_compile(case, way, in_turn):
    """The layer under torch.compile, against the same layer in eager mode."""
    (module, x), _, gradient = inputs(case)
    compiled = torch.compile(module, fullgraph=True)
    calls = (ways(each, x, gradient)[way] for each in (compiled, module))
    in_turn(case, way, "own eager", *calls)


@pytest.mark.one_thread
def test_torch_compile_of_linear(way, in_turn):
    """One linear under torch.compile, against itself in eager mode: the compiler's cost without a loop."""
    case = COMPILED[0]
    (_, x), _, gradient = inputs(case)
    linear = torch.nn.Linear(case.input_size, case.hidden_size)
    calls = (
        ways(linear, x, gradient, lambda x, call=call: (call(x),))[way]
        for call in (torch.compile(linear), linear)
    )
    in_turn(case, way, "linear eager", *calls)


@pytest.mark.one_thread
def test_chunks(in_turn):
    """One long row in chunks, against the same row in one; torch's initial weights, which forget."""
    weight_hh = torch.nn.RNN(1, LONG.hidden_size).weight_hh_l0.detach()
    projections = torch.randn(LONG.num_steps, 1, LONG.hidden_size)

    def call(chunks, steps=LONG.num_steps):
        options = {"chunks": chunks, "tolerance": 1e-5}
        return partial(rnnfused.functional.rnn, projections[:steps], weight_hh, **options)

    first = [call(chunks, LONG.num_steps // 10)()[0] for chunks in (CHUNKS, 1)]
    torch.testing.assert_close(*first, rtol=0, atol=1e-5)
    in_turn(LONG, "forward", "own whole row", call(CHUNKS), call(1))


@pytest.mark.one_thread
@pytest.mark.parametrize("case", STEPS, ids=str)
def test_cell(case, way, in_turn):
    """One step of the cell, against nn.RNNCell."""
    _, (_, x), gradient = inputs(case)

    def call_of(kind):
        cell = kind(case.input_size, case.hidden_size)
        return ways(cell, x[0], gradient[0], lambda x: (cell(x),))[way]

    in_turn(case, way, "nn.RNNCell", *map(call_of, (rnnfused.RNNCell, torch.nn.RNNCell)))


@pytest.mark.one_thread
@pytest.mark.parametrize("tokens", [False, True], ids=["features", "ids"])
@pytest.mark.parametrize("case", [*STEPS, Case(1, 1, 1000, 512)], ids=str)
def test_one_step_of_a_layer(case, tokens, way, in_turn):
    """A call of one step of RNN or TokenRNN, against nn.RNN on the same features or on one-hot rows."""
    case = case._replace(tokens=tokens)
    ours, theirs, gradient = inputs(case)
    calls = (ways(*side, gradient)[way] for side in (ours, theirs))
    in_turn(case, way, "nn.RNN one step", *calls)


@pytest.mark.one_thread
@pytest.mark.parametrize("case", STEPS, ids=str)
def test_textbook_step(case, way, in_turn):
    """One step of RNNScratch with a state, against the textbook's two products and tanh."""
    _, (_, x), gradient = inputs(case)
    state = torch.randn(case.batch_size, case.hidden_size)

    class Textbook(RNNScratch):
        def forward(self, inputs, state):
            outputs, (h,) = [], state
            for x in inputs:
                h = torch.tanh(torch.matmul(x, self.W_xh) + torch.matmul(h, self.W_hh) + self.b_h)
                outputs.append(h)
            return outputs, h

    def call_of(kind):
        rnn = kind(case.input_size, case.hidden_size)
        return ways(rnn, x, gradient[0], lambda x: rnn(x, (state,))[0])[way]

    in_turn(case, way, "textbook's step", *map(call_of, (RNNScratch, Textbook)))


@pytest.mark.one_thread
@pytest.mark.parametrize("kind", steppers.PEERS)
@pytest.mark.parametrize("case", PREPARED, ids=str)
def test_prepared_step(case, kind, in_turn):
    """One step after the other from packed weights, against peers; all carry a state."""
    if kind != "nn.RNN":
        pytest.importorskip(kind)
    _, (module, x), _ = inputs(case)
    ours, theirs = (
        make(module.state_dict(), x) for make in (steppers.prepared, steppers.PEERS[kind])
    )
    for _ in range(3):
        torch.testing.assert_close(ours(), torch.from_dlpack(theirs()).reshape(1, -1))
    in_turn(case, "forward", f"{kind} step", ours, theirs)


@pytest.mark.parametrize("theirs_packs", [True, False], ids=["nn.RNN packed", "own padded"])
def test_lengths(way, theirs_packs, in_turn):
    """Rows of random lengths, against nn.RNN on the same rows packed, and against rnnfused on all steps."""
    (ours, x), (theirs, _), gradient = inputs(LENGTHS)
    lengths = random_lengths(LENGTHS)
    own = ways(ours, x, gradient, lambda x: ours(x, lengths=lengths))[way]
    if theirs_packs:
        packed = ways(theirs, x, gradient, partial(call_packed, theirs, lengths))
        in_turn(LENGTHS, way, "nn.RNN packed", own, packed[way])
    else:
        in_turn(LENGTHS, way, "own padded", own, ways(ours, x, gradient)[way])


@pytest.mark.one_thread
@pytest.mark.parametrize(
    "kind",
    # nn.RNN's backward takes quadratic time here.
    ["own dense", pytest.param("nn.RNN dense", marks=pytest.mark.once)],
)
@pytest.mark.parametrize("case", PACKED, ids=str)
def test_cost_of_lengths(case, kind, way, in_turn):
    """Rows of random lengths, against a dense call of as many tokens; in rnnfused, and packed in nn.RNN."""
    is_ours = kind == "own dense"
    lengths = random_lengths(case)
    tokens = int(lengths.sum())
    # As many rows, of the mean length; the rest of a division is in the ratio.
    steps = round(tokens / case.batch_size)
    ours, theirs, gradient = inputs(case)
    module, x = ours if is_ours else theirs
    call = partial(module, lengths=lengths) if is_ours else partial(call_packed, module, lengths)
    ragged = ways(module, x, gradient, call)[way]
    dense = ways(module, x[:steps].contiguous(), gradient[:steps].contiguous())[way]
    in_turn(case, way, kind, ragged, dense, scale=tokens / (steps * case.batch_size))


@pytest.mark.parametrize("against", ["nn.RNN both directions", "own directions"])
@pytest.mark.parametrize("case", BOTH_DIRECTIONS, ids=str)
def test_both_directions(case, against, way, in_turn):
    """A bidirectional layer of few rows, against nn.RNN, and against rnnfused's directions one after the other."""
    ours, theirs, gradient = inputs(case)
    other, call = theirs, None
    if against == "own directions":
        other, call = ours, partial(one_after_the_other, ours[0])
    calls = ways(*ours, gradient)[way], ways(*other, gradient, call)[way]
    if way == "forward":
        torch.testing.assert_close(calls[0](), calls[1](), rtol=1e-3, atol=1e-3)
    in_turn(case, way, against, *calls)


def one_after_the_other(module, x):
    """The directions of a module as layers of their own; their states side by side."""
    outputs = []
    for end in ("l0", "l0_reverse"):
        weights = [getattr(module, f"{name}_{end}") for name in ("weight_ih", "weight_hh")]
        bias = getattr(module, f"bias_ih_{end}") + getattr(module, f"bias_hh_{end}")
        reverse = end == "l0_reverse"
        outputs.append(rnnfused.functional.rnn_layer(x, *weights, bias, reverse=reverse)[0])
    return (torch.cat(outputs, -1),)


@pytest.mark.parametrize("against", ["nn.RNN crowded", "own threads"])
@pytest.mark.parametrize("case", CROWDED, ids=str)
def test_more_threads_than_cores(case, against, way, in_turn):
    """Many more threads than cores, against nn.RNN with as many, and against rnnfused with a thread per core."""
    ours, theirs, gradient = inputs(case)
    threads = torch.get_num_threads()

    def with_threads(count, call):
        def run():
            torch.set_num_threads(count)
            try:
                return call()
            finally:
                torch.set_num_threads(threads)

        return run

    own, other = (ways(*side, gradient)[way] for side in (ours, theirs))
    if against == "own threads":
        in_turn(case, way, against, with_threads(CROWD, own), own)
    else:
        in_turn(case, way, against, *(with_threads(CROWD, call) for call in (own, other)))


def random_lengths(case):
    """Lengths (B,) from 1 to T; the longest row has T steps."""
    torch.manual_seed(1)
    lengths = torch.randint(1, case.num_steps + 1, (case.batch_size,))
    lengths[0] = case.num_steps
    return lengths


def call_packed(module, lengths, x):
    """The call of nn.RNN that takes padded rows, and gives padded rows."""
    rows = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    output, _ = torch.nn.utils.rnn.pad_packed_sequence(module(rows)[0], total_length=len(x))
    return (output,)


# float32's normal values end at 1.2e-38. "products": most products of normal weights and states are subnormal.
SCALES = {"weights": 1e-40, "states": 1e-40, "products": 3e-37, "gradients": 1e-40}


def make_subnormal(kind, module, x, gradient):
    """Scales the values of this kind until they are subnormal, and returns their median size."""
    scaled = {"weights": list(module.parameters()), "gradients": [gradient]}
    with torch.no_grad():
        for values in scaled.get(kind, [x]):
            values *= SCALES[kind]
        if kind in ("states", "products"):
            module.bias_ih_l0.zero_()
            module.bias_hh_l0.zero_()
        states = module(x)[0]
        found = {
            "weights": module.weight_hh_l0,
            "states": states,
            "products": module.weight_hh_l0 * states[-1, 0],
            "gradients": gradient,
        }
    return found[kind].abs().median()


@pytest.mark.one_thread
@pytest.mark.parametrize("kind", SCALES)
def test_subnormal(kind, way, in_turn):
    """rnnfused on normal values, against rnnfused on subnormal ones."""
    if kind == "gradients" and way == "forward":
        pytest.skip("a forward call has no gradients")
    normal, subnormal = (inputs(SUBNORMAL) for _ in range(2))
    (module, x), _, gradient = subnormal
    assert 0 < make_subnormal(kind, module, x, gradient) < torch.finfo(torch.float32).tiny
    calls = (ways(*side[0], side[2])[way] for side in (normal, subnormal))
    in_turn(SUBNORMAL, way, f"subnormal {kind}", *calls)
