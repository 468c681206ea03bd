"""Times of rnnfused's calls against others. Each comparison runs twice; its two sides take turns.

The ratio of a comparison is the other side's median time divided by rnnfused's.
"""

import pytest
import torch
import torch.nn.functional as F
from cases import CELL, COMPILED, FIXED_COST, LENGTHS, NARROW, SECOND_ORDER, SUBNORMAL, inputs
from peers import PEERS, torch_ways

import rnnfused
from rnnfused.ops import layer

pytestmark = pytest.mark.benchmark(disable_gc=True)  # as timing.py does for the other side


def test_peer(case, way, peer, run, in_turn):
    ours, theirs, gradient = inputs(case)
    own = torch_ways(*ours, gradient)
    other = PEERS[peer](theirs[0].state_dict(), theirs[1], gradient)
    if other[way] is None:
        pytest.skip(f"{peer} lacks {way} for this case")
    expected = own["forward"]()
    states = torch.from_dlpack(other["forward"]()).reshape(expected.shape)
    torch.testing.assert_close(states, expected, rtol=1e-3, atol=1e-3)
    in_turn(case, way, peer, own[way], other[way])


def test_fixed_cost(way, run, in_turn):
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
    in_turn(FIXED_COST, way, "linear", torch_ways(module, x, gradient)[way], other[way])


@pytest.mark.parametrize("part", ["op", "dispatch"])
def test_parts_of_fixed_cost(part, run, in_turn):
    """The op's part of a forward call, and the part of torch's dispatch to an op that does nothing."""
    (module, x), _, gradient = inputs(FIXED_COST)
    weight_ih, weight_hh, bias_ih, bias_hh = (p.detach() for p in module.parameters())

    def op():
        layer(x, weight_ih, weight_hh, bias_ih, bias_hh, None, None, None, 0, 0, False, None)

    parts = {"op": op, "dispatch": lambda: torch.ops.rnnfused.cpu_multiply_add(0)}
    in_turn(FIXED_COST, "forward", part, torch_ways(module, x, gradient)["forward"], parts[part])


@pytest.mark.parametrize("case", NARROW, ids=str)
def test_bfloat16(case, way, run, in_turn):
    """rnnfused in bfloat16 against rnnfused in float32. The share of the peak is of float32's."""
    wide, narrow = (inputs(case) for _ in range(2))
    (module, x), _, gradient = narrow
    narrow_ways = torch_ways(module.bfloat16(), x.bfloat16(), gradient.bfloat16())
    wide_ways = torch_ways(*wide[0], wide[2])
    states = narrow_ways["forward"]().float()
    torch.testing.assert_close(states, wide_ways["forward"](), rtol=0.02, atol=0.05)
    in_turn(case, way, "own float32", narrow_ways[way], wide_ways[way])


@pytest.mark.parametrize("case", SECOND_ORDER, ids=str)
def test_second_order(case, run, in_turn):
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


@pytest.mark.parametrize("case", COMPILED, ids=str)
def test_torch_compile(case, way, run, in_turn):
    """The layer under torch.compile, against the same layer in eager mode."""
    (module, x), _, gradient = inputs(case)
    compiled = torch.compile(module, fullgraph=True)
    ways = (torch_ways(each, x, gradient)[way] for each in (compiled, module))
    in_turn(case, way, "own eager", *ways)


def test_cell(way, run, in_turn):
    """One step of the cell, against nn.RNNCell."""
    _, (_, x), gradient = inputs(CELL)

    def call_of(kind):
        cell = kind(CELL.input_size, CELL.hidden_size)
        return torch_ways(cell, x[0], gradient[0], lambda x: (cell(x),))[way]

    in_turn(CELL, way, "nn.RNNCell", *map(call_of, (rnnfused.RNNCell, torch.nn.RNNCell)))


@pytest.mark.parametrize("theirs_packs", [True, False], ids=["nn.RNN packed", "own padded"])
def test_lengths(way, theirs_packs, run, in_turn):
    """Rows of random lengths, against nn.RNN on the same rows packed, and against rnnfused on all steps."""
    (ours, x), (theirs, _), gradient = inputs(LENGTHS)
    torch.manual_seed(1)
    lengths = torch.randint(1, LENGTHS.num_steps + 1, (LENGTHS.batch_size,))

    def packed(x):
        rows = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        output, _ = torch.nn.utils.rnn.pad_packed_sequence(theirs(rows)[0], total_length=len(x))
        return (output,)

    own = torch_ways(ours, x, gradient, lambda x: ours(x, lengths=lengths))[way]
    if theirs_packs:
        in_turn(LENGTHS, way, "nn.RNN packed", own, torch_ways(theirs, x, gradient, packed)[way])
    else:
        in_turn(LENGTHS, way, "own padded", own, torch_ways(ours, x, gradient)[way])


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


@pytest.mark.parametrize("kind", SCALES)
def test_subnormal(kind, way, run, in_turn):
    """rnnfused on normal values, against rnnfused on subnormal ones."""
    if kind == "gradients" and way == "forward":
        pytest.skip("a forward call has no gradients")
    normal, subnormal = (inputs(SUBNORMAL) for _ in range(2))
    (module, x), _, gradient = subnormal
    assert 0 < make_subnormal(kind, module, x, gradient) < torch.finfo(torch.float32).tiny
    calls = (torch_ways(*side[0], side[2])[way] for side in (normal, subnormal))
    in_turn(SUBNORMAL, way, f"subnormal {kind}", *calls)
