"""Extreme sizes: huge dimensions next to empty ones, more bytes than any memory has, stacks of a few pages.

Most cases run in a process of their own, because a failure crashes it or never returns.
"""

import subprocess

import pytest
import torch
from forks import forked
from python_process import run_python

import rnnfused  # noqa: F401  registers the ops

START = """
import torch
import rnnfused
from rnnfused import functional

project, sum_of_products = torch.ops.rnnfused.project, torch.ops.rnnfused.sum_of_products
huge, zeros, empty = 2**40, torch.zeros, torch.empty


def refused(call):
    try:
        call()
    except (RuntimeError, MemoryError):
        return
    raise AssertionError("not refused")


def trained(layer, input, **keywords):
    output, _ = layer(input, **keywords)
    assert output.shape == (huge, 0, 4)
    output.sum().backward()
    for parameter in layer.parameters():
        assert parameter.grad is not None and not parameter.grad.any()

"""

CASES = {
    "rows": """
assert project(empty(0, 2**58), zeros(1, 1).expand(16, 2**58), None).shape == (0, 16)
assert sum_of_products(empty(0, huge, 4), empty(0, huge, 3)).eq(0).all()
wide = 2**20
assert sum_of_products(empty(wide, wide, 0), zeros(1, 1, 3).expand(wide, wide, 3)).shape == (0, 3)
""",
    "products": """
assert project(zeros(1, 4).expand(huge, 4), empty(0, 4), None).shape == (huge, 0)
""",
    "sums": """
result = sum_of_products(empty(huge, 0, 4), empty(huge, 0, 3))
assert result.shape == (4, 3) and result.eq(0).all()
""",
    "no columns": """
assert sum_of_products(empty(huge, 1, 0), zeros(1, 1, 3).expand(huge, 1, 3)).shape == (0, 3)
assert sum_of_products(zeros(1, 1, 3).expand(huge, 1, 3), empty(huge, 1, 0)).shape == (3, 0)
""",
    "more rows than any time allows": """
for shape in ((2**60, 1, 4), (2**30, 2**30, 4)):
    rows = zeros(1, 1, 4).expand(shape)
    refused(lambda: sum_of_products(rows, rows))
""",
    "layer": "trained(rnnfused.RNN(3, 4), empty(huge, 0, 3))",
    "bfloat16": "trained(rnnfused.RNN(3, 4).bfloat16(), empty(huge, 0, 3).bfloat16())",
    "heads": "trained(rnnfused.RNN(3, 4, heads=2), empty(huge, 0, 3))",
    "lengths": "trained(rnnfused.RNN(3, 4), empty(huge, 0, 3), lengths=zeros(0).long())",
    "ids": "trained(rnnfused.TokenRNN(3, 4), empty(huge, 0).long())",
    "many heads": "functional.rnn(empty(4, 0, huge), zeros(1, 1, 1).expand(huge, 1, 1))",
    "lengths of a huge expanded output": """
output = zeros(1, 1, 1).expand(huge, 2, 4)
lengths = torch.tensor([huge, 3])
ops, weight = torch.ops.rnnfused, zeros(4, 4)
refused(lambda: ops.recurrence_backward(output, None, output, weight, None, lengths, 0, False, None, True))
refused(lambda: ops.layer(output, None, weight, None, None, None, None, lengths, 0, 0, False, None))
refused(lambda: ops.layer(output, weight, weight, None, None, None, None, lengths, 0, 0, False, None))
needs = (True,) * 5
refused(lambda: ops.layer_backward(output, None, output, output, weight, weight, None, None, lengths, 0, 0, False, None, *needs))
ids = torch.zeros(1, 1).long().expand(huge, 2)
refused(lambda: ops.layer(ids, weight, weight, None, None, None, None, None, 0, 0, False, None))
""",
    "lengths without hidden units": """
lengths = torch.tensor([huge, 3])
output, h_n = functional.rnn(empty(huge, 2, 0), empty(0, 0), lengths=lengths)
assert output.shape == (huge, 2, 0) and h_n.shape == (2, 0)
""",
}


def run(code):
    # On a busy machine, the import of torch alone takes seconds.
    return run_python(code, timeout=60, OMP_NUM_THREADS="2")


@pytest.mark.parametrize("case", CASES)
def test_returns_or_refuses(case):
    process = forked(f"{START}torch.set_num_threads(2)\n{CASES[case]}")
    result = subprocess.run(process, stderr=subprocess.PIPE, text=True, timeout=60)
    assert result.returncode == 0, result.stderr[-1000:]


@pytest.mark.parametrize("vocabulary", [2**58, 2**59 - 1])
def test_more_memory_than_any_machine_has(vocabulary):
    ids, weight_hh = torch.zeros(2, 2, dtype=torch.int64), torch.zeros(16, 16)
    # A tensor that repeats one element; the op packs all of it.
    weight_ih = torch.zeros(1, 1).expand(16, vocabulary)
    with pytest.raises(RuntimeError, match="more memory than there can be"):
        torch.ops.rnnfused.layer(ids, weight_ih, weight_hh, *[None] * 5, 0, 0, False, None)


STACK = """
import threading

import torch
import rnnfused

torch.set_num_threads({threads})
failures = []


def work(make):
    try:
        for batch, size in ((1, 32), (4, 32), (1, 256), (40, 256)):
            layer, input = make(batch, size)
            layer(input)[0].sum().backward()
    except BaseException as error:
        failures.append(error)


def inputs(dtype, batch, size):
    return torch.randn(20, batch, 28, dtype=dtype, requires_grad=True)


def layer_of(kind, dtype, **options):
    return lambda batch, size: (kind(28, size, **options).to(dtype), inputs(dtype, batch, size))


def tokens(batch, size):
    return rnnfused.TokenRNN(28, size), torch.randint(28, (20, batch))


torch.randn(1, requires_grad=True).sum().backward()
threading.stack_size(40 * 1024)
for make in {makes}:
    thread = threading.Thread(target=work, args=(make,))
    thread.start()
    thread.join()
assert not failures, failures
"""
LAYERS = [
    "layer_of(rnnfused.RNN, torch.float32)",
    "layer_of(rnnfused.RNN, torch.float64)",
    "layer_of(rnnfused.RNN, torch.bfloat16, nonlinearity='relu')",
    "layer_of(rnnfused.RNN, torch.float16, nonlinearity='relu')",
    "layer_of(rnnfused.RNN, torch.float32, heads=4)",
    "layer_of(rnnfused.RNN, torch.float32, bidirectional=True)",
    "tokens",
]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_small_stack_suffices_where_it_does_for_torch(threads):
    def run_with(makes):
        return run(STACK.format(threads=threads, makes=f"[{', '.join(makes)}]"))

    if run_with(["layer_of(torch.nn.RNN, torch.float32)"]).returncode != 0:
        pytest.skip("torch.nn.RNN needs a larger stack, too")
    result = run_with(LAYERS)
    assert result.returncode == 0, (result.returncode, result.stderr[-1000:])
