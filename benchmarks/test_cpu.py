"""How long a call takes next to others': each comparison twice, with both sides in turn.

The ratio of a comparison is the other side's median time divided by ours.
"""

import pytest
import torch
import torch.nn.functional as F
from cases import CELL, COMPILED, FIXED_COST, LENGTHS, NARROW, SECOND_ORDER, SUBNORMAL, inputs
from peers import PEERS, torch_ways

import rnnfused
from rnnfused.ops import layer

pytestmark = pytest.mark.benchmark(disable_gc=True)  # as timing does for the other side


def test_peer(case, way, peer, run, in_turn):
    ours, theirs, gradient = inputs(case)
    own = torch_ways(*ours, gradient)
    other = PEERS[peer](theirs[0].state_dict(), theirs[1], gradient)
    if other[way] is None:
        pytest.skip(f"{peer} has no {way} here")
    expected = own["forward"]()
    states = torch.from_dlpack(other["forward"]()).reshape(expected.shape)
    torch.testing.assert_close(states, expected, rtol=1e-3, atol=1e-3)
    in_turn(case, way, peer, own[way], other[way])


def test_fixed_cost(way, run, in_turn):
    """Next to one linear, the least that a call of torch with weights costs."""
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
    """What of a forward call the op takes, and what of that is torch's way to an op that does nothing."""
    (module, x), _, gradient = inputs(FIXED_COST)
    weight_ih, weight_hh, bias_ih, bias_hh = (p.detach() for p in module.parameters())

    def op():
        layer(x, weight_ih, weight_hh, bias_ih, bias_hh, None, None, None, 0, 0, False, None)

    parts = {"op": op, "dispatch": lambda: torch.ops.rnnfused.cpu_multiply_add(0)}
    in_turn(FIXED_COST, "forward", part, torch_ways(module, x, gradient)["forward"], parts[part])


@pytest.mark.parametrize("case", NARROW, ids=str)
def test_bfloat16(case, way, run, in_turn):
    """bfloat16 tensors next to float32 ones, in calls of ours; the peak is that of float32."""
    wide, narrow = (inputs(case) for _ in range(2))
    (module, x), _, gradient = narrow
    narrow_ways = torch_ways(module.bfloat16(), x.bfloat16(), gradient.bfloat16())
    wide_ways = torch_ways(*wide[0], wide[2])
    states = narrow_ways["forward"]().float()
    torch.testing.assert_close(states, wide_ways["forward"](), rtol=0.02, atol=0.05)
    in_turn(case, way, "own float32", narrow_ways[way], wide_ways[way])


@pytest.mark.parametrize("case", SECOND_ORDER, ids=str)
def test_second_order(case, run, in_turn):
    """The gradient of a gradient, next to the reference loop's, through which autograd goes step by step."""
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
    """The layer under torch.compile, next to the same layer as it is."""
    (module, x), _, gradient = inputs(case)
    compiled = torch.compile(module, fullgraph=True)
    ways = (torch_ways(each, x, gradient)[way] for each in (compiled, module))
    in_turn(case, way, "own eager", *ways)


def test_cell(way, run, in_turn):
    """One step, next to nn.RNNCell's."""
    _, (_, x), gradient = inputs(CELL)
    cells = [
        kind(CELL.input_size, CELL.hidden_size) for kind in (rnnfused.RNNCell, torch.nn.RNNCell)
    ]

    def ways(cell):
        def forward():
            with torch.no_grad():
                return cell(x[0])

        def forward_backward():
            cell.zero_grad(set_to_none=True)
            cell(x[0]).backward(gradient[0])

        return {"forward": forward, "forward_backward": forward_backward}[way]

    in_turn(CELL, way, "nn.RNNCell", *map(ways, cells))


@pytest.mark.parametrize("theirs_packs", [True, False], ids=["nn.RNN packed", "own padded"])
def test_lengths(way, theirs_packs, run, in_turn):
    """Rows of random lengths, next to nn.RNN on the same rows packed, and to ours on all steps."""
    (ours, x), (theirs, _), gradient = inputs(LENGTHS)
    torch.manual_seed(1)
    lengths = torch.randint(1, LENGTHS.num_steps + 1, (LENGTHS.batch_size,))

    def packed(x):
        rows = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        output, _ = torch.nn.utils.rnn.pad_packed_sequence(theirs(rows)[0], total_length=len(x))
        return (output,)

    def call_with(module, call):
        def forward():
            with torch.no_grad():
                return call(x)[0]

        def forward_backward():
            module.zero_grad(set_to_none=True)
            call(x)[0].backward(gradient)

        return {"forward": forward, "forward_backward": forward_backward}[way]

    own = call_with(ours, lambda x: ours(x, lengths=lengths))
    name, other = (
        ("nn.RNN packed", call_with(theirs, packed))
        if theirs_packs
        else ("own padded", call_with(ours, ours))
    )
    in_turn(LENGTHS, way, name, own, other)


# float32's normal values end at 1.2e-38. Products: of normal weights and normal states, most of them.
SCALES = {"weights": 1e-40, "states": 1e-40, "products": 3e-37, "gradients": 1e-40}


def make_subnormal(what, module, x, gradient):
    """Scales values until these are subnormal, and returns the typical size of one."""
    scaled = {"weights": list(module.parameters()), "gradients": [gradient]}
    with torch.no_grad():
        for values in scaled.get(what, [x]):
            values *= SCALES[what]
        if what in ("states", "products"):
            module.bias_ih_l0.zero_()
            module.bias_hh_l0.zero_()
        states = module(x)[0]
        found = {
            "weights": module.weight_hh_l0,
            "states": states,
            "products": module.weight_hh_l0 * states[-1, 0],
            "gradients": gradient,
        }
    return found[what].abs().median()


@pytest.mark.parametrize("what", SCALES)
def test_subnormal(what, way, run, in_turn):
    """Subnormal values next to normal ones, in calls of ours."""
    if what == "gradients" and way == "forward":
        pytest.skip("there are none")
    normal, subnormal = (inputs(SUBNORMAL) for _ in range(2))
    (module, x), _, gradient = subnormal
    assert 0 < make_subnormal(what, module, x, gradient) < torch.finfo(torch.float32).tiny
    calls = (torch_ways(*side[0], side[2])[way] for side in (normal, subnormal))
    in_turn(SUBNORMAL, way, f"subnormal {what}", *calls)
