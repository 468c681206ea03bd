"""What the self-check and the timing find by their comparisons, on a fake GPU, and what they let pass."""

import pytest
import torch
from fake_gpu import arguments, run, spoil, ways

from rnnfused.cuda.agreement import OF_CHECK, WrongResult
from rnnfused.cuda.self_check import rows_of_check, self_check
from rnnfused.ops import stepwise

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("dtype", "error"),
    [
        (torch.float64, 1e-8),
        (torch.float32, 1e-3),
        (torch.float16, 0.02),
        (torch.bfloat16, 0.1),
    ],
)
def test_tolerances_suit_the_dtype(gpu, loops, warned, dtype, error):
    assert run(loops, dtype=dtype) == ("fused", "fused")
    gpu.where, gpu.fault = "cpu:1", spoil("forward_fused", 0, error)
    assert run(loops, dtype=dtype) == ("graphed", "graphed")
    assert len(warned) == 1


@pytest.mark.parametrize("dtype", OF_CHECK)
@pytest.mark.parametrize(("batch", "hidden"), [(1, 1), (3, 5), (16, 64), (2, 1024), (64, 300)])
def test_right_kernels_pass(gpu, loops, dtype, batch, hidden):
    sequence = torch.empty(6, batch, hidden, dtype=dtype)
    call = loops._call(sequence, torch.empty(hidden, hidden), None, False, False)
    self_check(gpu, call, batch)
    gpu.fault = spoil("forward_fused", 0, 2.5 * OF_CHECK[dtype])
    with pytest.raises(WrongResult):
        self_check(gpu, call, batch)


def lost_step(op, given, results):
    """The kernel misses what the last step got from the one before."""
    if op == "forward_fused" and given[3] is None:
        results[0][-1] = given[0][-1].tanh()
    return results


def late_packed_row(op, given, results):
    """The backward kernel misses grad_h_n of rows that end early."""
    if op == "backward_fused" and given[4] is not None:
        rows = int(given[4][-1])
        wrong = given[1].clone()
        wrong[:, rows:] = 0
        return stepwise.backward(given[0], wrong, *given[2:-1], None, given[-1])
    return results


def call_of(loops, dtype=torch.float64):
    sequence = torch.empty(6, 5, 7, dtype=dtype)
    return loops._call(sequence, torch.empty(7, 7), None, False, False)


@pytest.mark.parametrize(
    "fault",
    [
        lost_step,
        late_packed_row,
        *(spoil(op, index, 0.1) for op in ("forward_fused", "backward_fused") for index in (0, 1)),
    ],
)
def test_the_self_check_alone_finds_each(gpu, loops, fault):
    gpu.fault = fault
    with pytest.raises(WrongResult):
        self_check(gpu, call_of(loops), 5)


def test_the_self_check_compares_with_float64(gpu, loops, monkeypatch):
    dtypes = set()

    def recorded(loop):
        def run(*given):
            dtypes.update(x.dtype for x in given[:4] if isinstance(x, torch.Tensor))
            return loop(*given)

        return run

    right = stepwise.forward, stepwise.backward
    gpu.forward_fused = lambda *given: right[0](*given)
    gpu.backward_fused = lambda *given: right[1](*given[:-1], None, given[-1])
    monkeypatch.setattr(stepwise, "forward", recorded(right[0]))
    monkeypatch.setattr(stepwise, "backward", recorded(right[1]))
    self_check(gpu, call_of(loops, torch.bfloat16), 5)
    assert dtypes - {torch.int64} == {torch.float64}


def test_the_timing_allows_the_error_of_tf32_where_torch_may_use_it(gpu, loops, warned, tf32):
    def fault(op, given, results):
        if results[0].size(0) > 40:
            results[0].add_(0.01)
        return results

    gpu.fault = fault
    torch.backends.cuda.matmul.allow_tf32 = True
    forward, _ = arguments(steps=50, dtype=torch.float32)
    loops.forward(*forward)
    assert ways(loops) == ["fused", None] and warned == []
    torch.backends.cuda.matmul.allow_tf32 = False
    loops.forward(*forward)
    assert ways(loops) == ["graphed", None] and len(warned) == 1


@pytest.mark.parametrize("fault", [lost_step, late_packed_row])
def test_faults_of_real_kinds_are_found(gpu, loops, warned, fault):
    gpu.fault = fault
    assert run(loops, dtype=torch.bfloat16) == ("graphed", "graphed")
    assert len(warned) == 1


def test_checks_of_large_batches_take_fewer_rows_of_the_same_plan():
    class Sizes:
        batch_size, hidden_size = 4096, 1024

    assert rows_of_check(Sizes, lambda rows: True) == 256
    assert rows_of_check(Sizes, lambda rows: rows >= 1000) == 1024
    Sizes.batch_size = 100
    assert rows_of_check(Sizes, lambda rows: True) == 100
