"""The choice of a way by the user's device, without a GPU: which way is taken, when it is decided, what it leaves alone."""

import logging
import os
import threading

import pytest
import torch
from fake_gpu import PLAN, FakeGpu, arguments, new_loops, run, run_backward, run_forward, ways
from threads import run_in_threads
from torch._subclasses.fake_tensor import FakeTensorMode

from rnnfused.cuda import timing
from rnnfused.cuda.timing import measure
from rnnfused.ops import composite, stepwise

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("error::UserWarning"),  # a choice warns of no plan that works
]


@pytest.fixture
def gpu():
    return FakeGpu()


@pytest.fixture
def loops(gpu):
    return new_loops(gpu)


@pytest.fixture
def tf32():
    before = torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def work_of(gpu):
    """Everything that deciding does."""
    return gpu.timings, gpu.captures, len(gpu.limits)


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


@pytest.mark.parametrize("name", ["forward", "backward"])
def test_a_capture_before_the_choice_goes_step_by_step_and_decides_nothing(gpu, loops, name):
    forward, backward = arguments()
    run_it = run_forward if name == "forward" else run_backward
    given = forward if name == "forward" else backward
    gpu.may_measure = False
    for _ in range(3):
        assert run_it(loops, *given) is None
    assert work_of(gpu) == (0, 0, 0) and sum(gpu.calls.values()) == 0
    gpu.may_measure = True
    assert run_it(loops, *given) == "fused"
    gpu.may_measure = False  # a capture afterwards takes the kernels
    before = sum(gpu.calls.values())
    assert run_it(loops, *given) == "fused"
    assert sum(gpu.calls.values()) == before + 1


def test_a_thread_whose_tensors_go_to_a_pool_decides_without_graphs(gpu, loops):
    """As in the warm-up of ``torch.compile(mode="reduce-overhead")``, before it captures."""
    gpu.times = {"fused": 2, "graphed": 1, "steps": 3}
    forward, _ = arguments()
    gpu.may_capture = False
    assert run_forward(loops, *forward) == "fused"
    assert gpu.captures == 0
    gpu.may_measure = False  # the capture
    before = gpu.calls["forward_fused"]
    assert run_forward(loops, *forward) == "fused"
    assert gpu.calls["forward_fused"] == before + 1
    gpu.may_measure = gpu.may_capture = True
    assert run_forward(loops, *forward) == "graphed"
    assert len(loops.decider.choices) == 2


def test_a_caller_that_always_uses_a_pool_is_not_asked_for_ever(gpu, loops, monkeypatch):
    asked = []
    monkeypatch.setattr(gpu, "can_capture", lambda: asked.append(1))
    forward, _ = arguments()
    for _ in range(5):
        assert run_forward(loops, *forward) == "fused"
    assert len(asked) == 3 and gpu.timings == 2 * timing.ROUNDS


def test_fakes_and_traces_decide_nothing(gpu, loops):
    forward, backward = arguments()
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(x) if isinstance(x, torch.Tensor) else x for x in forward]
        output, _ = loops.forward(*fakes)
        assert output.shape == forward[0].shape

    def traced(projections):
        return loops.forward(projections, *forward[1:])

    traced = torch.jit.trace(traced, (forward[0],), check_trace=False)
    torch.testing.assert_close(traced(forward[0]), stepwise.forward(*forward))
    assert work_of(gpu) == (0, 0, 0) and loops.decider.choices == {}
    assert run(loops) == ("fused", "fused")


def test_deterministic_mode_goes_step_by_step(gpu, loops):
    torch.use_deterministic_algorithms(True)
    try:
        assert run(loops) == (None, None)
        assert work_of(gpu) == (0, 0, 0) and sum(gpu.calls.values()) == 0
        loops.value = "1"
        run(loops)
        assert sum(gpu.calls.values()) == 2  # forced
    finally:
        torch.use_deterministic_algorithms(False)
    loops.value = ""
    assert run(loops) == ("fused", "fused")


def test_each_setting_of_tf32_has_its_own_choice(gpu, loops, tf32):
    matmul = torch.backends.cuda.matmul
    matmul.allow_tf32 = False
    assert run(loops, dtype=torch.float32) == ("fused", "fused")
    matmul.allow_tf32 = True
    gpu.times["graphed"] = 0.5
    assert run(loops, dtype=torch.float32) == ("graphed", "graphed")
    assert run(loops, dtype=torch.float64) == ("graphed", "graphed")
    matmul.allow_tf32 = False
    before = sum(gpu.calls.values())
    run(loops, dtype=torch.float32)
    assert sum(gpu.calls.values()) == before + 2
    timings = gpu.timings
    run(loops, dtype=torch.float64)  # follows no switch
    assert gpu.timings == timings
    assert matmul.allow_tf32 is False


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


def test_may_fuse(gpu, loops):
    weight = torch.empty(4, 4)
    gpu.plan_of = lambda *key: PLAN if key[-1] <= 8 else ""
    for value, expected in (("", True), ("1", True), ("0", False), ("steps", False)):
        loops.value = value
        assert loops.may_fuse(weight, 8) == expected
        assert not loops.may_fuse(weight, 9)
        assert not loops.may_fuse(torch.empty(2, 2, 2), 8)
    assert work_of(gpu) == (0, 0, 0)


@pytest.mark.parametrize("where", ["check", "timing"])
def test_out_of_memory_means_steps_and_blames_no_plan(gpu, loops, where):
    def fault(op, given, results):
        if where == "check" or loops.decider.checked:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return results

    gpu.fault = fault
    assert run(loops) == ("steps", "steps")
    timings = gpu.timings
    assert run(loops) == ("steps", "steps")  # without another attempt
    assert gpu.timings == timings and loops.decider.broken == {}
    gpu.fault = lambda op, given, results: results
    assert run(loops, hidden=9) == ("fused", "fused")


def test_out_of_memory_of_a_graph_leaves_the_others(gpu, loops, monkeypatch):
    def capture(loop):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(gpu, "capture", capture)
    assert run(loops) == ("fused", "fused")


def test_an_error_of_the_steps_in_a_timing_is_not_the_callers(gpu, loops, monkeypatch):
    monkeypatch.setattr(gpu, "milliseconds", lambda work: (_ for _ in ()).throw(RuntimeError("x")))
    assert run(loops) == ("steps", "steps")
    (choice, _) = loops.decider.choices.values()
    assert choice.reason == "the timing failed: x"


def test_a_capture_of_another_thread_postpones_the_choice(gpu, loops):
    def fault(op, given, results):
        raise RuntimeError("operation not permitted when stream is capturing")

    gpu.fault = fault
    forward, _ = arguments()
    assert [run_forward(loops, *forward) for _ in range(3)] == [None, None, "steps"]
    assert loops.decider.broken == {}
    gpu.fault = lambda op, given, results: results
    assert run_forward(loops, *arguments(hidden=9)[0]) == "fused"


@pytest.mark.parametrize(
    ("batch", "hidden", "steps", "expected"),
    [
        (64, 512, 512, 128),
        (64, 512, 3, 3),
        (256, 1024, 512, 21),
        (65536, 32, 1024, None),
        (65536, 32, 1, 1),
    ],
)
def test_a_timing_takes_bounded_memory(gpu, loops, batch, hidden, steps, expected):
    sequence, weight = torch.empty(1, 1, 1).expand(steps, batch, hidden), torch.empty(1, 1)
    call = loops._call(sequence, weight, None, False, False)
    assert timing.timed_steps(call) == expected
    if expected:
        values = timing.SEQUENCES * expected * batch * hidden
        assert values * 4 <= timing.MAX_BYTES


def test_a_batch_too_large_to_time_goes_step_by_step(gpu, loops, monkeypatch):
    monkeypatch.setattr(timing, "MAX_BYTES", 1000)
    assert run(loops) == ("steps", "steps")
    assert gpu.timings == 0


class Watch:
    """Asserts that the caller's modes are off, and keeps what is alive of the caller's."""

    def __init__(self):
        self.calls = 0

    def __call__(self, op, given, results):
        self.calls += 1
        assert not torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        assert not any(x.is_inference() for x in given if isinstance(x, torch.Tensor))
        assert not any(x.requires_grad for x in results)
        return results


def modes():
    """What a caller may have set."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_default_device(),
        torch.get_default_dtype(),
        torch.backends.cuda.matmul.fp32_precision,
        torch.are_deterministic_algorithms_enabled(),
        torch.get_rng_state().tolist(),
    )


@pytest.mark.parametrize(
    "mode",
    [
        torch.no_grad,
        torch.enable_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: torch.device("meta"),
    ],
)
def test_the_callers_modes_and_random_numbers_stay(gpu, loops, mode):
    forward, backward = arguments()
    with mode():
        before = modes()
        call = loops._call(forward[0], forward[1], None, False, False)
        watch = gpu.fault = Watch()
        loops.decider.way(call)
        assert modes() == before and watch.calls > 5
        call = loops._call(backward[2], forward[1], None, True, False)
        loops.decider.way(call)
        assert modes() == before
    assert ways(loops) == ["fused", "fused"]  # so results were right: no autocast


def test_no_graph_of_a_timing_stays(gpu, loops):
    gpu.times["graphed"] = 0.1
    kept = loops._graphed.graphs
    forward, _ = arguments()
    assert run_forward(loops, *forward) == "graphed"
    assert (len(kept.graphs), len(kept.seen), gpu.captures) == (0, 1, 1)
    run_forward(loops, *forward)
    assert (len(kept.graphs), gpu.captures) == (1, 2)


def test_eight_threads_decide_once(gpu, loops):
    barrier = threading.Barrier(8)
    forward, backward = arguments()

    def work(number):
        barrier.wait()
        loops.forward(*forward)
        loops.backward(*backward)

    run_in_threads(work, range(8))
    assert len(loops.decider.checked) == 1 and len(loops.decider.choices) == 2
    assert gpu.timings == 2 * 3 * timing.ROUNDS
    # A check runs two variants both ways; a timing runs once more than its rounds; then the calls.
    assert gpu.calls["forward_fused"] == 2 + timing.ROUNDS + 1 + 8
    assert gpu.calls["backward_fused"] == 2 + timing.ROUNDS + 1 + 8


def test_threads_on_two_devices(gpu, loops):
    def work(number):
        gpu.where = f"cpu:{number % 2}"
        forward, backward = arguments(hidden=5 + number // 2)
        for _ in range(5):
            loops.forward(*forward)
            loops.backward(*backward)

    run_in_threads(work, range(8))
    assert len(loops.decider.checked) == 2 and len(loops.decider.choices) == 16


def test_a_call_within_a_decision_goes_step_by_step(gpu, loops, caplog):
    class Handler(logging.Handler):
        def emit(self, record):
            results.append(loops.forward(*arguments(hidden=3)[0]))

    results = []
    logger = logging.getLogger("rnnfused.cuda")
    handler = Handler()
    logger.addHandler(handler)
    try:
        with caplog.at_level(logging.DEBUG, "rnnfused.cuda"):
            assert run_forward(loops, *arguments()[0]) == "fused"
    finally:
        logger.removeHandler(handler)
    assert len(results) == 2 and len(loops.decider.choices) == 1


def test_choices_are_logged_at_debug_level(loops, caplog):
    with caplog.at_level(logging.DEBUG, "rnnfused.cuda"):
        run_forward(loops, *arguments()[0])
    check, choice = caplog.messages
    assert {record.levelname for record in caplog.records} == {"DEBUG"}
    assert check == "cpu:0: self-check of cluster of 8, torch.float64: passed"
    assert choice.startswith("cpu:0: forward, float64, H 7, batch 5 to 8, 2 to 7 steps: fused")
    assert "steps 3.000 ms, graphed 2.000 ms, fused 1.000 ms" in choice


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_child_of_a_fork_decides_although_a_thread_was_deciding(gpu, loops):
    started, go_on = threading.Event(), threading.Event()

    def fault(op, given, results):
        started.set()
        go_on.wait(60)
        return results

    gpu.fault = fault
    thread = threading.Thread(target=loops.forward, args=arguments()[0])
    thread.start()
    started.wait(60)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            gpu.fault = lambda op, given, results: results
            worker = threading.Thread(target=run, args=(loops,), daemon=True)
            worker.start()
            worker.join(30)
            code = 0 if ways(loops) == ["fused", "fused"] else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    go_on.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 0
    assert ways(loops)[0] == "fused"


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
