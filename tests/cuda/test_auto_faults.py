"""Fused plans that are wrong, fail or hang on a fake GPU: they are found, turned off, and reported once."""

import gc
import logging
import re
import warnings
import weakref

import pytest
import torch
from fake_gpu import ALARM, PLAN, arguments, run, run_forward, ways
from threads import run_in_threads

from rnnfused.cuda.agreement import OF_CHECK, WrongResult
from rnnfused.cuda.reporting import report_of
from rnnfused.cuda.self_check import rows_of_check, self_check
from rnnfused.ops import stepwise

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def warned():
    """The texts of all warnings of the test."""
    texts = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_: texts.append(str(message))
        yield texts


def spoil(op, index, value):
    """A fault that adds a value to the last element of a result of one op."""

    def fault(name, given, results):
        if name == op:
            results[index].view(-1)[-1] += value
        return results

    return fault


OFF = (
    "rnnfused turned off the fused kernels of the plan 'cluster of 8' on cpu:0 for this process, "
    "and goes on without: "
)
ASKS = (
    ". Please report this, with the output of rnnfused.cuda.report() and `rnnfused info`: "
    "https://github.com/rnnfused/rnnfused/issues"
)


@pytest.mark.parametrize("value", [0.01, float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("op", "index", "name"),
    [
        ("forward_fused", 0, "output"),
        ("forward_fused", 1, "h_n"),
        ("backward_fused", 0, "grad_projections"),
        ("backward_fused", 1, "grad_h_0"),
    ],
)
def test_a_wrong_result_turns_the_plan_off(gpu, loops, warned, op, index, name, value):
    gpu.fault = spoil(op, index, value)
    for _ in range(3):
        assert run(loops) == ("graphed", "graphed")
        run(loops, hidden=9)
        run(loops, dtype=torch.float32)
    number = f"{value:.2g}"
    assert warned == [f"{OFF}{name} is off by {number}{ASKS}"]
    assert loops.decider.broken == {
        (torch.device("cpu:0"), "cluster of 8"): f"{name} is off by {number}"
    }


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


@pytest.mark.parametrize("fault", [lost_step, late_packed_row])
def test_faults_of_real_kinds_are_found(gpu, loops, warned, fault):
    gpu.fault = fault
    assert run(loops, dtype=torch.bfloat16) == ("graphed", "graphed")
    assert len(warned) == 1


def test_a_fault_that_short_loops_lack_is_found_in_the_timing(gpu, loops, warned):
    def fault(op, given, results):
        if results[0].size(0) > 40:
            results[0][40:] = 0
        return results

    gpu.fault = fault
    assert run(loops) == ("fused", "fused")
    assert run(loops, steps=50) == ("graphed", "graphed")
    assert len(warned) == 1 and "is off by" in warned[0]
    assert run(loops) == ("graphed", "graphed")  # those that were decided for it too
    assert len(warned) == 1


def test_a_raising_plan_is_turned_off(gpu, loops, warned):
    def fault(op, given, results):
        raise RuntimeError("rnnfused: cudaLaunchKernelExC(&config): too many resources requested")

    gpu.fault = fault
    assert run(loops) == ("graphed", "graphed")
    gpu.times["steps"] = 1
    assert run(loops, hidden=9) == ("steps", "steps")
    (text,) = warned
    assert text.startswith(f"{OFF}rnnfused: cudaLaunchKernelExC") and text.endswith(ASKS)
    assert gpu.calls["forward_fused"] == 1


def test_a_failure_keeps_no_tensor_alive(gpu, loops, warned):
    kept = []

    def fault(op, given, results):
        if loops.decider.checked:  # in the timing
            kept.append(weakref.ref(given[0]))
            raise RuntimeError("CUDA error: launch failed")
        return results

    gpu.fault = fault
    gc.disable()
    try:
        assert run_forward(loops, *arguments()[0]) == "graphed"
        assert [ref() for ref in kept] == [None]
    finally:
        gc.enable()


def hang(gpu, after=0):
    """Fused calls after the first ones leave NaN and raise the alarm."""
    count = [0]

    def fault(op, given, results):
        count[0] += 1
        if count[0] <= after:
            return results
        gpu.alarm = ALARM
        return tuple(torch.full_like(x, torch.nan) for x in results)

    gpu.fault = fault


def test_a_hanging_plan_is_turned_off(gpu, loops, warned):
    hang(gpu)
    assert run(loops) == ("graphed", "graphed")
    run(loops, hidden=9)
    assert warned == [f"{OFF}{ALARM[:-1]}{ASKS}"]
    assert gpu.alarm == "" and gpu.limits == [2.0, 20.0] * 4


@pytest.mark.parametrize("after", [4, 5, 7, 9])  # in the warm-up, in a round, in the last round
def test_a_plan_that_hangs_in_the_timing_is_turned_off(gpu, loops, warned, after):
    hang(gpu, after)
    forward, _ = arguments()
    assert run_forward(loops, *forward) == "graphed"
    (choice,) = loops.decider.choices.values()
    assert set(choice.medians) == {"steps", "graphed"}
    (text,) = warned
    assert text == f"{OFF}{ALARM[:-1]}{ASKS}" and gpu.alarm == ""
    assert gpu.limits == [2.0, 20.0]


def test_a_later_alarm_reaches_the_caller_and_turns_the_plan_off(gpu, loops, warned):
    assert run(loops) == ("fused", "fused")
    gpu.alarm = ALARM
    forward, _ = arguments()
    with pytest.raises(RuntimeError, match=f"^{re.escape(ALARM)}$"):
        loops.forward(*forward)
    assert run(loops) == ("graphed", "graphed")
    assert run(loops, hidden=9) == ("graphed", "graphed")
    assert len(warned) == 1 and warned[0] == f"{OFF}{ALARM[:-1]}{ASKS}"
    gpu.where = "cpu:1"
    assert run(loops) == ("fused", "fused")  # another device is another matter


def test_a_later_failed_launch_turns_the_calls_own_plan_off(gpu, loops, warned):
    assert run(loops) == ("fused", "fused")
    text = "rnnfused: cudaLaunchKernelExC(&config): too many resources requested for launch"

    def fault(op, given, results):
        raise RuntimeError(text)

    gpu.fault = fault
    with pytest.raises(RuntimeError, match=re.escape(text)):
        loops.backward(*arguments()[1])
    assert run(loops) == ("graphed", "graphed")
    assert warned == [f"{OFF}{text}{ASKS}"]


def test_a_plan_that_breaks_is_no_way_where_there_is_no_graph(gpu, loops, warned):
    gpu.times = {"fused": 2, "graphed": 1, "steps": 3}
    assert run(loops) == ("graphed", "graphed")
    gpu.alarm = ALARM
    with pytest.raises(RuntimeError):
        loops.forward(*arguments(steps=5)[0])
    before = gpu.calls.copy()
    run(loops, steps=4)
    assert gpu.calls == before and len(warned) == 1


def test_two_calls_that_fail_at_once_warn_once(gpu, loops, warned):
    assert run(loops) == ("fused", "fused")
    forward, _ = arguments()
    call = loops._call(forward[0], forward[1], None, False, False)
    for _ in range(2):  # the second one had begun before the first one failed
        loops.decider.blame(call, RuntimeError(ALARM))
    assert len(warned) == 1


def test_an_alarm_of_another_plan_turns_that_one_off(gpu, loops, warned):
    gpu.plan_of = lambda *key: PLAN if key[2] == 7 else "cluster of 16, 32 units a block"
    assert run(loops) == run(loops, hidden=9) == ("fused", "fused")
    gpu.alarm = ALARM
    with pytest.raises(RuntimeError, match="waited 2.00 s"):
        loops.forward(*arguments(hidden=9)[0])
    assert len(warned) == 1 and "'cluster of 8'" in warned[0]
    run(loops, hidden=9)
    run(loops, hidden=7)
    assert [choice.way for choice in loops.decider.choices.values()] == ["graphed"] * 2 + [
        "fused"
    ] * 2


def test_an_earlier_alarm_reaches_the_caller_before_a_check(gpu, loops, warned):
    assert run(loops) == ("fused", "fused")
    gpu.alarm = ALARM
    with pytest.raises(RuntimeError, match=f"^{re.escape(ALARM)}$"):
        loops.forward(*arguments(hidden=9)[0])
    assert len(warned) == 1 and warned[0].startswith(OFF)
    assert run(loops, hidden=9) == ("graphed", "graphed")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("rnnfused: h_0 must be (1, B, H)"),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: operation not permitted when stream is capturing"),
        RuntimeError("rnnfused: cudaGetLastError(): device-side assert triggered"),
        KeyboardInterrupt("Ctrl-C"),
    ],
)
def test_errors_that_blame_no_kernel_leave_the_plan_on(gpu, loops, warned, error):
    assert run(loops) == ("fused", "fused")

    def fault(op, given, results):
        raise error

    right, gpu.fault = gpu.fault, fault
    with pytest.raises(type(error), match=re.escape(str(error))):
        loops.forward(*arguments()[0])
    gpu.fault = right
    assert run(loops) == ("fused", "fused")
    assert warned == [] and loops.decider.broken == {}


def test_an_interrupted_check_decides_nothing(gpu, loops, warned):
    def fault(op, given, results):
        raise KeyboardInterrupt

    right, gpu.fault = gpu.fault, fault
    with pytest.raises(KeyboardInterrupt):
        loops.forward(*arguments()[0])
    assert loops.decider.choices == {} and gpu.limits == [2.0, 20.0]
    gpu.fault = right
    assert run(loops) == ("fused", "fused")
    assert warned == []


def test_a_forced_call_that_fails_turns_nothing_off(gpu, loops, warned):
    loops.value, gpu.alarm = "1", ALARM
    with pytest.raises(RuntimeError, match="waited 2.00 s"):
        loops.forward(*arguments()[0])
    before = gpu.calls["forward_fused"]
    run(loops)
    assert gpu.calls["forward_fused"] == before + 1 and warned == []


def test_each_kind_and_device_is_reported_once(gpu, loops, warned):
    gpu.plan_of = lambda *key: f"cluster of {2 if key[2] < 8 else 4}, 4 units a block"
    gpu.fault = spoil("forward_fused", 0, 1.0)

    def work(number):
        gpu.where = f"cpu:{number % 2}"
        for hidden in (7, 9):
            loops.forward(*arguments(hidden=hidden)[0])

    run_in_threads(work, range(8))
    assert sorted(text.partition(" for this")[0][-26:] for text in warned) == [
        f"plan 'cluster of {kind}' on cpu:{device}"[-26:] for kind in (2, 4) for device in (0, 1)
    ]


def test_graphs_that_are_wrong_are_turned_off(gpu, loops, warned, monkeypatch):
    captures = []
    # The replay does nothing.
    monkeypatch.setattr(gpu, "capture", lambda loop: lambda: captures.append(1))
    gpu.times = {"fused": 3, "graphed": 1, "steps": 2}
    assert run(loops) == run(loops, hidden=9) == ("steps", "steps")
    (text,) = warned
    assert text.startswith("rnnfused turned off CUDA graphs on cpu:0 for this process")
    gpu.times["fused"] = 1
    assert run(loops, hidden=11) == ("fused", "fused")
    assert len(captures) == 1


def test_a_failed_capture_is_only_logged(gpu, loops, warned, monkeypatch, caplog):
    def capture(loop):
        raise RuntimeError("capture failed")

    monkeypatch.setattr(gpu, "capture", capture)
    with caplog.at_level(logging.DEBUG, "rnnfused.cuda"):
        assert run(loops) == ("fused", "fused")
    assert warned == []
    assert sum("graphed failed: capture failed" in text for text in caplog.messages) == 2


def test_warnings_that_are_errors_leave_the_choice_in_order(gpu, loops):
    gpu.fault = spoil("forward_fused", 0, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="turned off"):
            loops.forward(*arguments()[0])
        assert run(loops) == ("graphed", "graphed")


def test_checks_of_large_batches_take_fewer_rows_of_the_same_plan():
    class Sizes:
        batch_size, hidden_size = 4096, 1024

    assert rows_of_check(Sizes, lambda rows: True) == 256
    assert rows_of_check(Sizes, lambda rows: rows >= 1000) == 1024
    Sizes.batch_size = 100
    assert rows_of_check(Sizes, lambda rows: True) == 100


def test_report(gpu, loops, warned):
    assert str(report_of(loops)) == "RNNFUSED_CUDA_FUSED: auto\nnothing was decided yet"
    assert run(loops) == ("fused", "fused")
    gpu.where, gpu.fault = "cpu:1", spoil("forward_fused", 0, 1.0)
    run_forward(loops, *arguments(batch=1, steps=1, dtype=torch.bfloat16)[0])
    gpu.plan_of = lambda *key: ""
    run_forward(loops, *arguments(hidden=6, heads=2, batch_sizes=torch.tensor([5, 3, 1]))[0])
    report = report_of(loops)
    assert repr(report) == str(report)
    assert (
        str(report)
        == f"""\
RNNFUSED_CUDA_FUSED: auto
cpu:0 Fake 0: forward, float64, H 7, batch 5 to 8, 2 to 7 steps: fused
  plan: {PLAN}; self-check: passed
  medians, 6 steps: steps 3.000 ms, graphed 2.000 ms, fused 1.000 ms
cpu:0 Fake 0: backward, float64, H 7, batch 5 to 8, 2 to 7 steps: fused
  plan: {PLAN}; self-check: passed
  medians, 6 steps: steps 3.000 ms, graphed 2.000 ms, fused 1.000 ms
cpu:1 Fake 1: forward, bfloat16, H 7, batch 1, 1 step: graphed
  plan: {PLAN}; self-check: failed: output is off by 1
  medians, 1 steps: steps 3.000 ms, graphed 2.000 ms
cpu:1 Fake 1: forward, float64, H 6, batch 5 to 8, 2 to 7 steps, packed, 2 heads: graphed
  plan: none; self-check: none
  medians, 3 steps: steps 3.000 ms, graphed 2.000 ms
off: cluster of 8 on cpu:1: output is off by 1"""
    )
    row = report.rows[2]
    assert (row.device, row.plan, row.dtype) == ("cpu:1 Fake 1", PLAN, "bfloat16")
    assert (row.medians, row.timed_steps, row.choice) == (
        {"steps": 3.0, "graphed": 2.0},
        1,
        "graphed",
    )
    assert ways(loops)[0] == "graphed"


def test_the_report_says_why_nothing_was_timed(gpu, loops, monkeypatch):
    monkeypatch.setattr("rnnfused.cuda.timing.MAX_BYTES", 1)
    run_forward(loops, *arguments()[0])
    assert str(report_of(loops)).endswith("\n  a timing would take too much memory")
