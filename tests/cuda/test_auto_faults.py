"""Fused plans that are wrong, fail or hang on a fake GPU: they are found, turned off, and reported once."""

import gc
import logging
import re
import warnings
import weakref

import pytest
import torch
from fake_gpu import ALARM, PLAN, arguments, run, run_forward, spoil
from threads import run_in_threads

pytestmark = pytest.mark.usefixtures("one_thread")


OFF = (
    "rnnfused turned off the fused kernels of the plan 'cluster of 8' on cpu:0 for this process, "
    "and goes on without: "
)
LAUNCH = "rnnfused: cudaLaunchKernelEx(&config, kernel, plan)"
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


@pytest.mark.parametrize("where", ["check", "timing"])
def test_an_assert_of_the_callers_kernel_blames_no_plan(gpu, loops, warned, where):
    def fault(op, given, results):
        if where == "check" or loops.decider.checked:
            raise RuntimeError("CUDA error: device-side assert triggered")
        return results

    gpu.fault = fault
    run_forward(loops, *arguments()[0])
    assert warned == [] and loops.decider.broken == {}


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


@pytest.mark.parametrize("after", [1, 3])
def test_a_backward_kernel_that_hangs_in_the_check_is_turned_off(gpu, loops, warned, after):
    hang(gpu, after)
    assert run_forward(loops, *arguments()[0]) == "graphed"
    assert warned == [f"{OFF}{ALARM[:-1]}{ASKS}"] and gpu.alarm == ""


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


def test_an_alarm_of_a_forced_plan_turns_that_one_off(gpu, loops, warned):
    gpu.forced = "cluster,8"
    assert run(loops) == ("fused", "fused")
    gpu.alarm = ALARM
    with pytest.raises(RuntimeError, match="waited 2.00 s"):
        loops.forward(*arguments()[0])
    assert [kind for _, kind in loops.decider.broken] == [
        "cluster of 8 by RNNFUSED_CUDA_PLAN=cluster,8"
    ]
    assert run(loops) == ("graphed", "graphed") and len(warned) == 1


@pytest.mark.parametrize("times", [(1, 9, 2), (1, 2, 9)], ids=["steps", "graphed"])
@pytest.mark.parametrize("mode", ["", "1"])
def test_a_later_call_without_a_fused_kernel_raises_the_alarm(gpu, loops, warned, times, mode):
    """No fused call may come after the one that was stopped."""
    loops.value = mode
    gpu.plan_of = lambda *key: PLAN if key[2] == 7 else ""
    others = arguments(hidden=9)
    gpu.times = dict(zip(("fused", "graphed", "steps"), times, strict=True))
    for _ in range(3):
        run(loops, hidden=9)
        run(loops)
    for name, given in zip(("forward", "backward"), others, strict=True):
        gpu.alarm = ALARM
        with pytest.raises(RuntimeError, match=f"^{re.escape(ALARM)}$"):
            getattr(loops, name)(*given)
        run(loops, hidden=9)
    assert gpu.alarm == ""
    assert warned == ([] if mode else [f"{OFF}{ALARM[:-1]}{ASKS}"])


def test_a_call_in_a_capture_leaves_the_alarm_to_one_outside(gpu, loops, warned):
    gpu.plan_of = lambda *key: PLAN if key[2] == 7 else ""
    run(loops, hidden=9)
    assert run(loops) == ("fused", "fused")
    gpu.alarm, gpu.may_measure = ALARM, False
    run(loops, hidden=9)
    gpu.may_measure = True
    with pytest.raises(RuntimeError, match=f"^{re.escape(ALARM)}$"):
        run(loops, hidden=9)
    assert len(warned) == 1


def test_devices_without_fused_calls_are_not_asked_for_alarms(gpu, loops, monkeypatch):
    asked = []
    monkeypatch.setattr(gpu, "reported_alarm", lambda like: asked.append(1) or "")
    gpu.times["steps"] = 0.5
    run(loops)
    assert asked == []
    gpu.where, gpu.times["steps"] = "cpu:1", 3
    run(loops)
    loops.forward(*arguments(hidden=6, heads=2)[0])
    assert asked == [1]


def test_a_later_failed_launch_turns_the_calls_own_plan_off(gpu, loops, warned):
    assert run(loops) == ("fused", "fused")
    text = f"{LAUNCH}: too many resources requested for launch"

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
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: invalid argument"),
        RuntimeError(f"{LAUNCH}: an illegal memory access was encountered"),
        RuntimeError(f"{LAUNCH}: unspecified launch failure"),
        RuntimeError(f"{LAUNCH}: out of memory"),
        RuntimeError("rnnfused: cudaMemsetAsync(workspace, 0, bytes, stream): invalid argument"),
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
