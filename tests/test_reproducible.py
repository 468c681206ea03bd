"""One result: outputs and gradients have the same bits for any number of threads and on every instruction set with FMA."""

import hashlib
from pathlib import Path

import pytest
import torch
from instruction_sets import best_capability, skip_unless_here
from python_process import run_python

import rnnfused

pytestmark = pytest.mark.usefixtures("restore_threads")

# T, B, I, H: one group of rows and several; groups that divide among threads and that do not; parts of rows and of
# steps; sums too large for groups; one row.
SHAPES = [
    (40, 200, 5, 16),
    (100, 64, 12, 33),
    (33, 1000, 3, 8),
    (150, 130, 3, 40),
    (600, 5, 9, 64),
    (60, 31, 64, 130),
    (3000, 1, 4, 60),
    (50, 70, 20, 480),
]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape)))
WAYS = ("dense", "batch_first", "bidirectional", "lengths", "packed", "heads", "clip", "tokens")


def results(way, shape, dtype):
    """Returns outputs, last states and all gradients of a layer used in this way."""
    steps, batch, features, hidden = shape
    generator = torch.Generator().manual_seed(0)

    def random(*size):
        return torch.randn(*size, generator=generator, dtype=dtype)

    options = {"bidirectional": way == "bidirectional", "batch_first": way == "batch_first"}
    options["state_grad_clip"] = 0.01 if way == "clip" else None
    torch.manual_seed(0)
    if way == "tokens":
        layer = rnnfused.TokenRNN(features, hidden, dtype=dtype)
        x = torch.randint(features, (steps, batch), generator=generator)
    elif way == "heads":
        return results_of_heads(random, steps, batch, hidden)
    else:
        layer = rnnfused.RNN(features, hidden, dtype=dtype, **options)
        x = random(*((batch, steps) if way == "batch_first" else (steps, batch)), features)
    states = 1 + (way == "bidirectional")
    h_0 = random(states, batch, hidden).requires_grad_()
    leaves = [*layer.parameters(), h_0]
    if way != "tokens":
        leaves.append(x.requires_grad_())
    lengths = torch.randint(1, steps + 1, (batch,), generator=generator)
    if way == "packed":
        input = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        output, h_n = layer(input, h_0)
        output = output.data
    elif way == "lengths":
        output, h_n = layer(x, h_0, lengths=lengths)
    else:
        output, h_n = layer(x, h_0)
    gradients = torch.autograd.grad(
        (output, h_n), leaves, (random(*output.shape), random(*h_n.shape))
    )
    return [output, h_n, *gradients]


def results_of_heads(random, steps, batch, size):
    """As results(), for a recurrence of four heads."""
    leaves = (
        random(steps, batch, 4 * size),
        random(4, size, size) / size**0.5,
        random(batch, 4 * size),
    )
    leaves = [leaf.requires_grad_() for leaf in leaves]
    output, h_n = rnnfused.functional.rnn(*leaves)
    gradients = random(*output.shape), random(*h_n.shape)
    return [output, h_n, *torch.autograd.grad((output, h_n), leaves, gradients)]


def digest(tensors):
    """Returns the SHA-256 of all bits."""
    whole = hashlib.sha256()
    for tensor in tensors:
        whole.update(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


@shapes
@pytest.mark.parametrize("way", WAYS)
def test_any_number_of_threads(way, shape):
    for dtype in (torch.float32, *[torch.bfloat16] * (way == "dense")):
        torch.set_num_threads(1)
        expected = results(way, shape, dtype)
        for threads in (2, 3):
            torch.set_num_threads(threads)
            for got, one in zip(results(way, shape, dtype), expected, strict=True):
                assert torch.equal(got, one)


@pytest.mark.parametrize("threads", [2, 3, 64])  # 64: the op's own threads
def test_threads_flush_subnormals_where_their_caller_does(threads):
    torch.manual_seed(0)
    layer, x = rnnfused.RNN(8, 64, bias=False), torch.randn(50, 200, 8) * 1e-38
    gradient = torch.full((50, 200, 64), 1e-38)
    x.requires_grad_()

    def small(threads):
        """The states, mostly subnormal, and the gradients of x."""
        torch.set_num_threads(threads)
        output, _ = layer(x)
        return [output, *torch.autograd.grad(output, x, gradient)]

    kept = small(threads)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormal numbers")
    try:
        expected, flushed = small(1), small(threads)
    finally:
        torch.set_flush_denormal(False)
    for got, one, other in zip(flushed, expected, kept, strict=True):
        assert torch.equal(got.view(torch.int32), one.view(torch.int32))
        assert not torch.equal(one.view(torch.int32), other.view(torch.int32))


def train(threads):
    """Returns the digest of a two-layer model's parameters after 1,000 steps of training."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    layers = rnnfused.RNN(8, 12, num_layers=2)
    head = torch.nn.Linear(12, 11)
    parameters = [*layers.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.05)
    generator = torch.Generator().manual_seed(1)
    # Just enough rows for two groups of them, and enough work for three threads.
    data = torch.randn(4, 74, 56, 8, generator=generator)
    for step in range(1000):
        x = data[step % 4]
        target = torch.randint(11, (56,), generator=generator)
        optimizer.zero_grad()
        hidden = layers(x)[0][-1]
        rnnfused.functional.linear_cross_entropy(hidden, head.weight, head.bias, target).backward()
        optimizer.step()
    return digest(parameters)


def test_training_on_any_number_of_threads():
    assert len({train(threads) for threads in (1, 2, 3)}) == 1


@pytest.mark.parametrize("capability", ["avx2", "avx512", "avx512_bf16"])
def test_training_on_each_instruction_set(capability):
    skip_unless_here(capability)
    if best_capability() == "avx2":
        pytest.skip("this machine has one instruction set with fused multiply-adds")
    code = "import test_reproducible; print(test_reproducible.train(2))"
    processes = [
        run_python(code, Path(__file__).parent, RNNFUSED_CPU_CAPABILITY=name)
        for name in ("avx2", capability)
    ]
    digests = {process.stdout for process in processes}
    assert len(digests) == 1 and all(process.returncode == 0 for process in processes)
