"""The registered ops: their contract with the dispatcher, threads, and the choice of instruction set."""

import pytest
import torch
from instruction_sets import CAPABILITIES, skip_unless_here
from op_calls import CALLS, OPS, POINTS
from python_process import run_python
from raw_ops import RELU, TANH, loop, loop_arguments
from threads import run_in_threads

import rnnfused
from rnnfused import functional, ops

SIZES = torch.tensor([3, 2, 1])


def forward_arguments(*, h_0=True, batch_sizes=None, requires_grad=False, **layout):
    shape = (4, 3, 5) if batch_sizes is None else (6, 5)
    projections = torch.randn(shape)
    for name, dims in layout.items():
        projections = getattr(projections, name)(*dims).contiguous()
        projections = getattr(projections, name)(*dims)
    leaves = [projections, torch.randn(5, 5), torch.randn(1, 3, 5) if h_0 else None]
    for leaf in leaves:
        if leaf is not None:
            leaf.requires_grad_(requires_grad)
    return loop_arguments(*leaves, batch_sizes)


@pytest.mark.parametrize(
    "arguments",
    [
        forward_arguments(),
        forward_arguments(h_0=False),
        forward_arguments(requires_grad=True),
        forward_arguments(transpose=(0, 1)),
        forward_arguments(batch_sizes=SIZES),
        forward_arguments(batch_sizes=SIZES, h_0=False),
    ],
)
def test_opcheck_forward(arguments):
    torch.library.opcheck(torch.ops.rnnfused.layer, arguments)


def test_opcheck_where_the_output_cannot_keep_the_strides():
    overlapping = torch.randn(9).unfold(0, 6, 1).unsqueeze(1)
    torch.library.opcheck(
        torch.ops.rnnfused.layer,
        loop_arguments(overlapping, torch.randn(6, 6)),
        # The other checks clone the input; a clone of overlapping rows has other strides.
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.parametrize("needs_grad_h_0", [True, False])
@pytest.mark.parametrize("given", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("batch_sizes", [None, SIZES])
def test_opcheck_backward(needs_grad_h_0, given, batch_sizes):
    output, _, weight_hh, *_ = forward_arguments(batch_sizes=batch_sizes)
    grad_output = torch.randn_like(output) if given[0] else None
    grad_h_n = torch.randn(1, 3, 5) if given[1] else None
    tensors = grad_output, grad_h_n, output, weight_hh
    torch.library.opcheck(
        torch.ops.rnnfused.recurrence_backward,
        (*tensors, batch_sizes, None, RELU, True, 0.5, needs_grad_h_0),
    )


def test_a_direct_call_cannot_read_out_of_bounds():
    p, _, w, _, _, h, *_ = forward_arguments()
    f, reverse = TANH, False
    wrong = [
        (p[0], w, h, None, f, reverse),
        (p[:0], w, h, None, f, reverse),
        (p.transpose(0, 2), w, None, None, f, reverse),
        (p, w[:4], h, None, f, reverse),
        (p, w[:, :4], h, None, f, reverse),
        (p, w.double(), h, None, f, reverse),
        (p, w, h[:, :2], None, f, reverse),
        (p, w, h[0], None, f, reverse),
        (p, w, h.double(), None, f, reverse),
        (p.int(), w.int(), None, None, f, reverse),
        (p, w, h, None, 2, reverse),
        (p.flatten(0, 1), w, h, torch.tensor([3, 3, 3]), f, reverse),
        (p.flatten(0, 1), w, h, torch.tensor([3, 3, 3, 3, 3]), f, reverse),
        (p.flatten(0, 1), w, h, torch.tensor([3, 4, 5]), f, reverse),
        (p.flatten(0, 1), w, h, torch.tensor([6, 7, -1]), f, reverse),
        (p.flatten(0, 1), w, h, torch.tensor([3, 3, 3, 3]).int(), f, reverse),
        (p.flatten(0, 1), w, h, torch.tensor([]).long(), f, reverse),
    ]
    for *tensors, batch_sizes, f_, reverse_ in wrong:
        with pytest.raises(RuntimeError, match="rnnfused: "):
            loop(*tensors, batch_sizes, nonlinearity=f_, reverse=reverse_)
    rows = p.flatten(0, 1)
    for lengths in ([4, 4], [4, 4, 5], [4, -1, 4]):
        with pytest.raises(RuntimeError, match="rnnfused: lengths"):
            loop(p, w, lengths=torch.tensor(lengths))
    for lengths in ([4, 4, 3], [4, 4, 5], [13, -1], [2**62, 2**62, 12]):
        with pytest.raises(RuntimeError, match="rnnfused: lengths"):
            loop(rows, w, lengths=torch.tensor(lengths))
    for lengths in (
        torch.tensor([4.0, 4, 4]),
        torch.tensor([[4, 4, 4]]),
        torch.tensor([4] * 6)[::2],
    ):
        with pytest.raises(RuntimeError, match="rnnfused: lengths"):
            loop(p, w, lengths=lengths)
    with pytest.raises(RuntimeError, match="not both"):
        loop(rows, w, None, torch.tensor([12]), torch.tensor([12]))
    for weight in (
        torch.randn(2, 2, 2),
        torch.randn(5, 1, 2),
        torch.randn(1, 5, 5, 1),
        torch.randn(5),
    ):
        with pytest.raises(RuntimeError, match="rnnfused: weight_hh"):
            loop(p, weight)
    for grad_output in (p[:3], p.double(), p.transpose(0, 1)):
        with pytest.raises(RuntimeError, match="rnnfused: grad_output"):
            ops.recurrence_backward(grad_output, None, p, w, None, None, f, reverse, None, True)


@pytest.mark.parametrize(("batch", "hidden"), [(2, 700), (31, 200), (64, 128)])
def test_same_bits_with_any_number_of_threads(restore_threads, batch, hidden):
    projections = torch.randn(5, batch, hidden)
    weight_hh = torch.randn(hidden, hidden) / hidden**0.5
    grad_output = torch.randn_like(projections)
    results = []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        output, _ = loop(projections, weight_hh)
        arguments = (grad_output, None, output, weight_hh, None, None, TANH, False, None, True)
        results.append((output, *ops.recurrence_backward(*arguments)))
    for other in results[1:]:
        for got, expected in zip(other, results[0], strict=True):
            assert torch.equal(got, expected)


@pytest.mark.parametrize("rows", [150, 400])
def test_projections_have_the_same_bits_with_any_number_of_threads(restore_threads, rows):
    """Of fewer rows than columns, each thread makes some columns."""
    input, weight, bias = torch.randn(rows, 128), torch.randn(192, 128) / 11, torch.randn(192)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(torch.ops.rnnfused.project(input, weight, bias))
    torch.testing.assert_close(results[0], input @ weight.T + bias)
    for other in results[1:]:
        assert torch.equal(other, results[0])


def test_many_python_threads_at_once():
    projections, weight_hh = torch.randn(20, 40, 64), torch.randn(64, 64) / 8
    expected, _ = functional.rnn(projections, weight_hh)

    def work(_):
        for _ in range(20):
            assert torch.equal(functional.rnn(projections, weight_hh)[0], expected)

    run_in_threads(work, range(6))


@pytest.mark.parametrize("wanted", CAPABILITIES)
def test_environment_selects_the_instruction_set(wanted):
    skip_unless_here(wanted)
    code = (
        "import torch, rnnfused; torch.manual_seed(0); m = rnnfused.RNN(3, 40);"
        "m(torch.randn(2, 2, 3))[0].sum().backward(); print(rnnfused.cpu_capability())"
    )
    assert run_python(code, RNNFUSED_CPU_CAPABILITY=wanted).stdout.strip() == wanted


def test_unknown_instruction_set_is_an_error():
    code = "import torch, rnnfused; rnnfused.RNN(3, 4)(torch.randn(2, 2, 3))"
    result = run_python(code, RNNFUSED_CPU_CAPABILITY="avx1024")
    assert result.returncode == 1
    assert 'RNNFUSED_CPU_CAPABILITY is "avx1024"' in result.stderr


def test_capability_of_this_process():
    assert rnnfused.cpu_capability() in CAPABILITIES


def test_multiply_adds_for_benchmarks_are_counted():
    count = torch.ops.rnnfused.cpu_multiply_add(100)
    # Several independent sums of whole registers, each 100 times.
    assert count >= 100 * 4 and torch.ops.rnnfused.cpu_multiply_add(300) == 3 * count


@pytest.mark.parametrize("call, name", POINTS, ids=[f"{call}-{name}" for call, name in POINTS])
def test_an_op_explains_every_refusal_of_a_shape(call, name):
    """No message is one of torch's C interface."""
    op, arguments = getattr(OPS, call.split()[0]), CALLS[call]()
    for dims in range(5):
        for size in (0, 1, 2, 5):
            wrong = torch.ones([size] * dims).to(arguments[name].dtype)
            try:
                op(**arguments | {name: wrong})
            except RuntimeError as error:
                assert "rnnfused: " in str(error), (dims, size)
