"""The choice of a way by the user's device, on a fake GPU: which way is taken, and which calls share a choice."""

import logging

import pytest
import torch
from fake_gpu import PLAN, arguments, run, run_backward, run_forward, ways, work_of

from rnnfused.cuda import graphs, timing
from rnnfused.cuda.timing import measure
from rnnfused.ops import composite, stepwise

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("error::UserWarning"),  # a choice warns of no plan that works
]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ((1, 2, 3), "fused"),
        ((2, 1, 3), "graphed"),
        ((3, 2, 1), "steps"),
        ((1, 1, 1), "steps"),
    ],
)
@pytest.mark.parametrize("batch_sizes", [None, torch.tensor([5, 4, 2])])
def test_the_fastest_way_is_taken(gpu, loops, times, expected, batch_sizes):
    gpu.times = dict(zip(("fused", "graphed", "steps"), times, strict=True))
    assert run(loops, batch_sizes=batch_sizes) == (expected, expected)
    decided = work_of(gpu)
    fused = sum(gpu.calls.values())
    run(loops, batch_sizes=batch_sizes)
    assert sum(gpu.calls.values()) - fused == (2 if expected == "fused" else 0)
    # A graph is captured by the second call that takes one; else nothing more is measured.
    captures = 2 if expected == "graphed" else 0
    assert work_of(gpu) == (decided[0], decided[1] + captures, decided[2])


def test_calls_whose_sizes_do_not_come_back_take_the_next_fastest_way(gpu, loops):
    gpu.times = {"fused": 2, "graphed": 1, "steps": 3}
    run(loops, steps=2)
    for steps in (3, 4, 5):
        before = gpu.calls.copy()
        assert run(loops, steps=steps) == ("graphed", "graphed")
        assert {op: count - before[op] for op, count in gpu.calls.items()} == {
            "forward_fused": 1,
            "backward_fused": 1,
        }
    before = gpu.calls.copy()
    run(loops, steps=5)  # captured now
    assert gpu.calls == before and gpu.captures == 4


def test_without_a_graph_steps_may_be_the_next_fastest_way(gpu, loops):
    gpu.times = {"fused": 3, "graphed": 1, "steps": 2}
    run(loops, steps=2)
    before = gpu.calls.copy()
    assert run(loops, steps=3) == ("graphed", "graphed")
    assert gpu.calls == before


def test_forward_and_backward_are_decided_apart(gpu, loops):
    gpu.times = {"fused": 1, "graphed": 2, "steps": 3}
    forward, backward = arguments()
    assert run_forward(loops, *forward) == "fused"
    gpu.times = {"fused": 4, "graphed": 2, "steps": 3}
    assert run_backward(loops, *backward) == "graphed"
    assert run_forward(loops, *forward) == "fused"


def test_medians_are_of_interleaved_rounds(gpu, loops, monkeypatch):
    ran = []

    def milliseconds(work):
        gpu.ran = "steps"
        work()
        ran.append(gpu.ran)
        return {"steps": 2, "graphed": 3, "fused": [9, 1, 1, 9, 1][(len(ran) - 1) // 3]}[gpu.ran]

    monkeypatch.setattr(gpu, "milliseconds", milliseconds)
    assert run_forward(loops, *arguments()[0]) == "fused"
    assert ran == ["steps", "graphed", "fused"] * timing.ROUNDS
    (choice,) = loops.decider.choices.values()
    assert choice.medians == {"steps": 2, "graphed": 3, "fused": 1}


def test_a_long_timing_has_two_rounds(gpu, loops, monkeypatch):
    monkeypatch.setattr(timing, "ENOUGH_SECONDS", 0)
    run_forward(loops, *arguments()[0])
    assert gpu.timings == 6


@pytest.mark.parametrize(
    ("one", "other", "classes"),
    [
        (dict(batch=5), dict(batch=8), 1),
        (dict(batch=4), dict(batch=5), 2),
        (dict(batch=8), dict(batch=9), 2),
        (dict(steps=8), dict(steps=31), 1),
        (dict(steps=31), dict(steps=32), 2),
        (dict(steps=128), dict(steps=4096), 1),
        (dict(steps=128), dict(steps=4097), 2),  # too long for a graph
        (dict(steps=1), dict(steps=2), 2),
        (dict(hidden=7), dict(hidden=8), 2),
        (dict(dtype=torch.float64), dict(dtype=torch.float32), 2),
        (dict(), dict(batch_sizes=torch.tensor([5] * 6)), 2),
        (dict(hidden=6), dict(hidden=6, heads=2), 2),
        (dict(hidden=8, heads=4), dict(hidden=8, heads=2), 2),
    ],
)
def test_a_class_of_shapes_is_decided_once(gpu, loops, one, other, classes):
    run_forward(loops, *arguments(**one)[0])
    first = gpu.timings
    run_forward(loops, *arguments(**other)[0])
    assert len(loops.decider.choices) == classes
    assert (gpu.timings > first) == (classes == 2)


def test_nonlinearity_and_direction_share_a_choice(gpu, loops):
    forward, _ = arguments()
    for options in ((0, False), (1, False), (0, True)):
        run_forward(loops, *forward[:4], *options)
    assert len(loops.decider.choices) == 1


def test_a_self_check_is_made_once_per_kind_of_plan_dtype_and_device(gpu, loops):
    def checks():
        return len(loops.decider.checked)

    run(loops)
    run(loops, hidden=9)
    assert checks() == 1
    run(loops, dtype=torch.float32)
    assert checks() == 2
    gpu.where = "cpu:1"
    run(loops)
    assert checks() == 3
    gpu.plan_of = lambda *key: "grid of 4, 8 units a block"
    run(loops, hidden=11)
    assert checks() == 4
    assert all(loops.decider.checked.values())


def test_kinds_of_plans_within_a_class_are_decided_apart(gpu, loops):
    gpu.plan_of = lambda *key: "one block, 7 units" if key[-1] < 7 else ""
    assert run_forward(loops, *arguments(batch=5)[0]) == "fused"
    assert run_forward(loops, *arguments(batch=7)[0]) == "graphed"
    assert (
        run_forward(loops, *arguments(batch=6)[0]) == "graphed"
    )  # the last class that was decided
    assert len(loops.decider.choices) == 2
    assert gpu.plans == 3  # asked once for each batch


def test_the_time_limit_is_short_in_a_check_and_restored(gpu, loops):
    limits = []

    def fault(op, given, results):
        limits.append(gpu.limits[-1])
        return results

    gpu.fault = fault
    run_forward(loops, *arguments()[0])
    assert set(limits[:-1]) == {2.0} and limits[-1] == 20.0 and gpu.limits == [2.0, 20.0]
    gpu.where = "cpu:1"
    gpu.fault = lambda *_: 1 / 0
    with pytest.warns(UserWarning, match="division by zero"):
        run_forward(loops, *arguments()[0])
    assert gpu.limits == [2.0, 20.0, 2.0, 20.0]


def test_each_forced_plan_is_checked(gpu, loops):
    """Also where the variable changes during the process: the library reads it at every call."""
    gpu.plan_of = lambda *key: f"cluster of {2 if gpu.forced == 'cluster,2' else 8}, 4 units"
    for count, forced in enumerate(["", "cluster,2", "cluster,8", "cluster,8,send=words", ""]):
        gpu.forced = forced
        assert run(loops) == ("fused", "fused")
        assert len(loops.decider.checked) == min(count + 1, 4)
    assert len(loops.decider.choices) == 8 and gpu.plans == 4
    kinds = [kind for _, kind, _ in loops.decider.checked]
    assert kinds == [
        "cluster of 8",
        "cluster of 2 by RNNFUSED_CUDA_PLAN=cluster,2",
        "cluster of 8 by RNNFUSED_CUDA_PLAN=cluster,8",
        "cluster of 8 by RNNFUSED_CUDA_PLAN=cluster,8,send=words",
    ]


def test_a_setting_that_another_thread_changes_leaves_the_choice_of_a_call(
    gpu, loops, tf32, monkeypatch
):
    gpu.times = {"fused": 2, "graphed": 1, "steps": 3}
    torch.backends.cuda.matmul.allow_tf32 = False
    run(loops, steps=2, dtype=torch.float32)

    def changed(*given, run):
        torch.backends.cuda.matmul.allow_tf32 = True
        raise graphs.NotCaptured

    monkeypatch.setattr(loops._graphed, "forward", changed)
    before = gpu.calls["forward_fused"]
    loops.forward(*arguments(steps=3, dtype=torch.float32)[0])
    assert gpu.calls["forward_fused"] == before + 1


def test_devices_decide_for_themselves(gpu, loops):
    assert run(loops) == ("fused", "fused")
    gpu.where, gpu.times = "cpu:1", {"fused": 9, "graphed": 8, "steps": 7}
    assert run(loops) == ("steps", "steps")
    gpu.where = "cpu:0"
    before = sum(gpu.calls.values())
    run(loops)
    assert sum(gpu.calls.values()) == before + 2 and len(loops.decider.choices) == 4


def test_calls_without_a_fused_kernel_choose_between_graphs_and_steps(gpu, loops):
    forward, backward = arguments(hidden=6, heads=2)
    assert run_forward(loops, *forward) == run_backward(loops, *backward) == "graphed"
    _, backward = arguments(clip=0.1)
    assert run_backward(loops, *backward) == "graphed"
    gpu.has_library = False
    assert run(loops, hidden=3) == ("graphed", "graphed")
    assert sum(gpu.calls.values()) == 0 and gpu.limits == []
    gpu.times["steps"] = 1
    assert run(loops, hidden=4) == ("steps", "steps")


def test_a_call_with_one_way_is_not_timed(gpu, loops, monkeypatch):
    monkeypatch.setattr("rnnfused.cuda.graphs.MAX_STEPS", 5)
    gpu.has_library = False
    assert run_forward(loops, *arguments()[0]) == "steps"
    assert work_of(gpu) == (0, 0, 0)


def test_empty_calls_go_step_by_step(gpu, loops):
    for sizes in (dict(steps=0), dict(batch=0), dict(hidden=0)):
        if sizes.get("hidden") == 0:
            forward = (torch.empty(6, 5, 0), torch.empty(0, 0), None, None, stepwise.TANH, False)
        else:
            forward, _ = arguments(**sizes)
        output, _ = loops.forward(*forward)
        assert output.shape == forward[0].shape
    assert (work_of(gpu), gpu.plans) == ((0, 0, 0), 0)


@pytest.mark.parametrize(
    ("value", "fused", "replays"), [("0", 0, 0), ("1", 3, 0), ("steps", 0, 2), ("auto", None, 0)]
)
def test_the_variable_forces_a_way(gpu, loops, value, fused, replays):
    loops.value = value
    gpu.times = {"fused": 9, "graphed": 9, "steps": 1}
    forward, _ = arguments()
    for _ in range(3):
        loops.forward(*forward)
    if value == "auto":
        assert ways(loops) == ["steps", None]
        return
    assert gpu.calls["forward_fused"] == fused
    assert gpu.captures == (1 if replays else 0)
    assert loops.decider.choices == {} and gpu.limits == [] and gpu.timings == 0


def test_forced_fused_kernels_leave_other_calls_to_graphs(gpu, loops):
    loops.value = "1"
    gpu.plan_of = lambda *key: ""
    forward, _ = arguments()
    for _ in range(2):
        run_forward(loops, *forward)
    assert gpu.captures == 1 and sum(gpu.calls.values()) == 0


def test_an_unknown_value_is_explained(loops):
    loops.value = "yes"
    message = "RNNFUSED_CUDA_FUSED must be unset or one of auto, 0, 1, steps; got 'yes'"
    with pytest.raises(ValueError, match=message):
        loops.forward(*arguments()[0])


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_dtypes_without_kernels_go_step_by_step(gpu, loops, dtype):
    forward, _ = arguments(dtype=dtype)
    output, _ = loops.forward(*forward)
    assert output.dtype == dtype and work_of(gpu) == (0, 0, 0)


def test_may_fuse(gpu, loops):
    weight = torch.empty(4, 4)
    gpu.plan_of = lambda *key: PLAN if key[-1] <= 8 else ""
    for value, expected in (("", True), ("1", True), ("0", False), ("steps", False)):
        loops.value = value
        assert loops.may_fuse(weight, 8) == expected
        assert not loops.may_fuse(weight, 9)
        assert not loops.may_fuse(torch.empty(2, 2, 2), 8)
    assert work_of(gpu) == (0, 0, 0)


def test_choices_are_logged_at_debug_level(loops, caplog):
    with caplog.at_level(logging.DEBUG, "rnnfused.cuda"):
        run_forward(loops, *arguments()[0])
    check, choice = caplog.messages
    assert {record.levelname for record in caplog.records} == {"DEBUG"}
    assert check == "cpu:0: self-check of cluster of 8, torch.float64: passed"
    assert choice.startswith("cpu:0: forward, float64, H 7, batch 5 to 8, 2 to 7 steps: fused")
    assert "steps 3.000 ms, graphed 2.000 ms, fused 1.000 ms" in choice


def test_a_layer_with_lengths_takes_the_way_of_packed_rows(gpu, loops):
    layer = composite.layer_by(loops.forward)
    x, weight = torch.randn(6, 3, 4), torch.randn(4, 4) / 4
    lengths = torch.tensor([2, 6, 4])
    given = (x, None, weight, None, None, None, None, lengths, 0, stepwise.TANH, False, None)
    expected = torch.ops.rnnfused.layer(*given)
    torch.testing.assert_close(layer(*given), expected)
    (shape_class,) = loops.decider.choices
    assert shape_class.is_packed and ways(loops) == ["fused", None]


def test_a_timing_measures_as_many_steps_as_it_is_told(gpu, loops):
    seen = set()

    def fault(op, given, results):
        seen.add(results[0].shape)
        return results

    gpu.fault = fault
    call = loops._call(torch.empty(200, 5, 7), torch.empty(7, 7), None, False, False)
    medians, failures = measure(gpu, call, 9, ["steps", "fused"])
    assert seen == {(9, 5, 7)} and failures == {} and set(medians) == {"steps", "fused"}
