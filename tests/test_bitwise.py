"""Bitwise reproducibility: a sequence's results depend on the sequence and the weights alone."""

import threading

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence, unpack_sequence

import rnnfused
from rnnfused import functional

pytestmark = pytest.mark.usefixtures("restore_threads")

# T, B, I, H: tile edges; work for one thread and for several; weights larger than L2; and few rows, where threads share
# the columns of each step.
SHAPES = [
    (3, 2, 1, 1),
    (1, 15, 5, 7),
    (6, 14, 28, 32),
    (20, 31, 28, 65),
    (5, 29, 40, 100),
    (8, 13, 3, 200),
    (3, 33, 300, 450),
    (2, 4, 33, 700),
    (70, 1, 9, 256),
    (40, 5, 12, 310),
    (50, 12, 6, 384),
]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape)))
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def layer_runner(shape, dtype):
    """Returns a function of row numbers that runs rnnfused.RNN on them: states, h_n, gradient of the input."""
    steps, batch, features, hidden = shape
    layer = rnnfused.RNN(features, hidden, dtype=dtype)
    x = torch.randn(steps, batch, features, dtype=dtype)
    gradient = torch.randn(steps, batch, hidden, dtype=dtype)

    def run(rows):
        input = x[:, rows].requires_grad_()
        output, h_n = layer(input)
        output.backward(gradient[:, rows])
        return output, h_n[0], input.grad

    return run


def function_runner(shape, dtype):
    """As layer_runner, for functional.rnn: states, h_n, gradients of the projections and of h_0."""
    steps, batch, _, hidden = shape
    weight_hh = torch.randn(hidden, hidden, dtype=dtype) / hidden**0.5
    projections, gradient = torch.randn(2, steps, batch, hidden, dtype=dtype)
    h_0 = torch.randn(batch, hidden, dtype=dtype)

    def run(rows):
        leaves = projections[:, rows].requires_grad_(), h_0[rows].requires_grad_()
        output, h_n = functional.rnn(leaves[0], weight_hh, leaves[1])
        output.backward(gradient[:, rows])
        return output, h_n, *(leaf.grad for leaf in leaves)

    return run


both_runners = pytest.mark.parametrize("runner", [layer_runner, function_runner])


def assert_rows_equal(got, whole, rows):
    """Asserts that ``got`` has the bits of these rows of ``whole``. The batch is the second-last dimension."""
    for values, expected in zip(got, whole, strict=True):
        assert torch.equal(values, expected[..., rows, :])


def parts(batch):
    """Yields lists of row numbers: single rows, subsets, permutations, repetitions."""
    everything = list(range(batch))
    yield from ([0], [batch - 1], everything[: batch // 2], everything[1::2], everything[::-1])
    yield torch.randperm(batch).tolist()
    yield [batch // 2] * 3 + everything + [0] * 16


@shapes
@both_dtypes
@both_runners
def test_independent_of_batch_and_threads(runner, shape, dtype):
    torch.manual_seed(0)
    run = runner(shape, dtype)
    torch.set_num_threads(1)
    whole = run(list(range(shape[1])))
    for threads in (1, 2, 3, 4):
        torch.set_num_threads(threads)
        assert_rows_equal(run(list(range(shape[1]))), whole, list(range(shape[1])))
        for rows in parts(shape[1]):
            assert_rows_equal(run(rows), whole, rows)


@both_runners
@pytest.mark.parametrize("shape", [(60, 31, 64, 130), (150, 2, 64, 260)])
def test_independent_of_concurrent_calls(runner, shape):
    torch.manual_seed(0)
    torch.set_num_threads(2)
    run, other = runner(shape, torch.float32), runner((70, 40, 90, 150), torch.float32)
    rows = list(range(shape[1]))
    whole = run(rows)
    stop = threading.Event()

    def work():
        while not stop.is_set():
            other(list(range(40)))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(100):
            assert_rows_equal(run(rows), whole, rows)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize(("hidden", "count"), [(7, 18), (64, 18), (450, 18), (450, 5)])
@both_dtypes
def test_independent_of_other_lengths_in_a_packed_batch(hidden, count, dtype):
    torch.manual_seed(0)
    layer = rnnfused.RNN(11, hidden, bidirectional=True, dtype=dtype)
    lengths = [3, 9, 1, 9, 5, 4, 8, 2, 9, 1, 6, 7, 7, 2, 9, 9, 3, 4][:count]
    alone = [torch.randn(n, 11, dtype=dtype, requires_grad=True) for n in lengths]
    gradients = [torch.randn(n, 2 * hidden, dtype=dtype) for n in lengths]
    together = [x.detach().clone().requires_grad_() for x in alone]
    packed, h_n = layer(pack_sequence(together, enforce_sorted=False))
    torch.autograd.backward(unpack_sequence(packed), gradients)
    for i, output in enumerate(unpack_sequence(packed)):
        expected, expected_h_n = layer(alone[i])
        expected.backward(gradients[i])
        assert torch.equal(output, expected)
        assert torch.equal(h_n[:, i], expected_h_n)
        assert torch.equal(together[i].grad, alone[i].grad)


@shapes
def test_independent_of_the_layout(shape):
    torch.manual_seed(0)
    steps, batch, features, hidden = shape
    layer = rnnfused.RNN(features, hidden)
    batch_first = rnnfused.RNN(features, hidden, batch_first=True)
    batch_first.load_state_dict(layer.state_dict())
    x, gradient = torch.randn(steps, batch, features), torch.randn(steps, batch, hidden)
    first, second = x.clone().requires_grad_(), x.transpose(0, 1).contiguous().requires_grad_()
    output, other = layer(first)[0], batch_first(second)[0]
    output.backward(gradient)
    other.backward(gradient.transpose(0, 1))
    assert torch.equal(output, other.transpose(0, 1))
    assert torch.equal(first.grad, second.grad.transpose(0, 1))


@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
def test_on_every_instruction_set(capability, run_on_capability):
    names = "test_independent_of_batch_and_threads and 50-12-6-384"
    run_on_capability(capability, names, timeout=300)
