"""A batch whose rows end at different steps runs in parts of some steps. Every row has the results that it has alone."""

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

import rnnfused
from rnnfused import functional

pytestmark = pytest.mark.usefixtures("restore_threads")

# T, B, I, H. In float64, backward runs in several parts but for the last shape. Forward, few rows and an input weight that
# does not fit beside W_hh are projected in several parts, the others step by step.
SHAPES = [
    (300, 20, 70, 64),
    (40, 150, 9, 40),
    (1200, 7, 70, 64),
    (100, 40, 300, 200),
    (12, 5, 4, 6),
]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape)))
reverses = pytest.mark.parametrize("reverse", [False, True])


class Problem:
    """A layer's tensors and rows of random lengths, one of them without a step and one as long as the sequence."""

    def __init__(self, shape, given, dtype=torch.float64):
        torch.manual_seed(0)
        steps, batch, features, hidden = shape
        self.lengths = torch.randint(1, steps + 1, (batch,))
        self.lengths[1], self.lengths[2] = steps, 0

        def random(*sizes, scale=1.0):
            return (scale * torch.randn(sizes, dtype=torch.float64)).to(dtype).requires_grad_()

        self.x, self.h_0 = random(steps, batch, features), random(batch, hidden) if given else None
        self.weights = (
            random(hidden, features, scale=features**-0.5),
            random(hidden, hidden, scale=hidden**-0.5),
            random(hidden),
        )
        self.gradients = random(steps, batch, hidden).detach(), random(batch, hidden).detach()

    def results(self, run):
        """Returns output, h_n and the gradients of x, h_0 and the weights, from run(x, h_0) -> (output, h_n)."""
        output, h_n = run(self.x, self.h_0)
        leaves = [leaf for leaf in (self.x, self.h_0, *self.weights) if leaf is not None]
        gradients = torch.autograd.grad((output, h_n), leaves, self.gradients)
        names = ["x", "h_0"][: 1 + (self.h_0 is not None)] + ["weight_ih", "weight_hh", "bias"]
        return {"output": output, "h_n": h_n, **dict(zip(names, gradients, strict=True))}

    def rows_alone(self, reverse):
        """One dense call per row, padded to a batch."""

        def run(x, h_0):
            outputs, states = [], []
            for b, length in enumerate(self.lengths.tolist()):
                first = None if h_0 is None else h_0[b : b + 1]
                hidden = self.weights[1].size(0)
                state = x.new_zeros(1, hidden) if first is None else first
                output = x.new_zeros(0, 1, hidden)
                if length:
                    row = x[:length, b : b + 1]
                    output, state = functional.rnn_layer(row, *self.weights, first, reverse=reverse)
                padding = output.new_zeros(x.size(0) - length, 1, hidden)
                outputs.append(torch.cat([output, padding]))
                states.append(state)
            return torch.cat(outputs, 1), torch.cat(states)

        return run

    def padded(self, reverse, batch_first=False):
        def run(x, h_0):
            x = x.transpose(0, 1).contiguous() if batch_first else x
            options = {"lengths": self.lengths, "reverse": reverse, "batch_first": batch_first}
            output, h_n = functional.rnn_layer(x, *self.weights, h_0, **options)
            return output.transpose(0, 1) if batch_first else output, h_n

        return run

    def one_after_another(self, reverse):
        lengths = self.lengths.tolist()

        def run(x, h_0):
            flat = torch.cat([x[:length, b] for b, length in enumerate(lengths)])
            options = {"lengths": self.lengths, "reverse": reverse}
            output, h_n = functional.rnn_layer(flat, *self.weights, h_0, **options)
            rows = output.split(lengths)
            full = [
                torch.cat([row, row.new_zeros(x.size(0) - len(row), row.size(1))]) for row in rows
            ]
            return torch.stack(full, 1), h_n

        return run


def assert_equal_to_rows(got, expected):
    """Equal to the bit where rows do not meet; sums over rows have another order."""
    for name, value in got.items():
        if name in ("output", "h_n"):
            assert torch.equal(value, expected[name]), name
        else:
            most = 1e-11 * expected[name].abs().max().item()
            torch.testing.assert_close(value, expected[name], rtol=1e-11, atol=most, msg=name)


@shapes
@reverses
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("layout", ["time first", "batch first", "one after another"])
def test_lengths_equal_rows_alone(shape, reverse, threads, given, layout):
    torch.set_num_threads(threads)
    problem = Problem(shape, given)
    if layout == "one after another":
        run = problem.one_after_another(reverse)
    else:
        run = problem.padded(reverse, layout == "batch first")
    assert_equal_to_rows(problem.results(run), problem.results(problem.rows_alone(reverse)))


@shapes
@reverses
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_states_of_other_dtypes(shape, reverse, dtype):
    problem = Problem(shape, True, dtype)
    with torch.no_grad():
        got = problem.padded(reverse)(problem.x, problem.h_0)
        expected = problem.rows_alone(reverse)(problem.x, problem.h_0)
    assert torch.equal(got[0], expected[0]) and torch.equal(got[1], expected[1])


@shapes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_packed_rows_equal_rows_with_lengths(shape, dtype):
    """A PackedSequence and lengths give the same bits, the gradients of both directions included."""
    torch.manual_seed(0)
    steps, batch, features, hidden = shape
    layer = rnnfused.RNN(features, hidden, bidirectional=True, dtype=dtype)
    x = torch.randn(steps, batch, features, dtype=dtype, requires_grad=True)
    lengths = torch.randint(1, steps + 1, (batch,)).sort(descending=True).values
    packed = pack_padded_sequence(x, lengths)
    output, h_n = layer(packed)
    gradient, gradient_n = torch.randn_like(output.data), torch.randn_like(h_n)
    leaves = [x, *layer.parameters()]
    expected = torch.autograd.grad((output.data, h_n), leaves, (gradient, gradient_n))
    padded, padded_n = layer(x[: lengths[0]], lengths=lengths)
    data = pack_padded_sequence(padded, lengths).data
    assert torch.equal(data, output.data) and torch.equal(padded_n, h_n)
    got = torch.autograd.grad((data, padded_n), leaves, (gradient, gradient_n))
    for name, value, other in zip(
        ["x", *dict(layer.named_parameters())], got, expected, strict=True
    ):
        assert torch.equal(value, other), name


@reverses
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_do_not_depend_on_threads(reverse, dtype):
    problem = Problem((300, 20, 70, 64), True, dtype)
    of_threads = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        of_threads.append(problem.results(problem.padded(reverse)))
    for other in of_threads[1:]:
        for name, value in of_threads[0].items():
            assert torch.equal(value, other[name]), name


@reverses
@pytest.mark.parametrize("heads", [1, 4])
def test_given_projections(reverse, heads):
    """With given projections the gradient is d, of one head or several."""
    torch.manual_seed(0)
    steps, batch, hidden = 200, 30, 64
    part = hidden // heads
    lengths = torch.randint(1, steps + 1, (batch,))
    projections = torch.randn(steps, batch, hidden, dtype=torch.float64, requires_grad=True)
    sizes = (hidden, hidden) if heads == 1 else (heads, part, part)
    weight = (torch.randn(sizes, dtype=torch.float64) * part**-0.5).requires_grad_()
    gradient = torch.randn(steps, batch, hidden, dtype=torch.float64)
    output, _ = functional.rnn(projections, weight, lengths=lengths, reverse=reverse)
    d, grad_weight = torch.autograd.grad(output, (projections, weight), gradient)
    expected = torch.zeros_like(weight)
    for b, length in enumerate(lengths.tolist()):
        row = projections[:length, b : b + 1].detach().requires_grad_()
        alone, _ = functional.rnn(row, weight, reverse=reverse)
        assert torch.equal(output[:length, b : b + 1], alone)
        d_alone, of_row = torch.autograd.grad(alone, (row, weight), gradient[:length, b : b + 1])
        assert torch.equal(d[:length, b : b + 1], d_alone)
        assert not d[length:, b].any()
        expected += of_row
    torch.testing.assert_close(grad_weight, expected, rtol=1e-11, atol=1e-10)
