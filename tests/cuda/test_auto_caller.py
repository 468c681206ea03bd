"""What the choice of a way owes its caller, on a fake GPU: captures, modes, memory, threads, forks, settings."""

import logging
import os
import threading

import pytest
import torch
from fake_gpu import arguments, run, run_backward, run_forward, ways, work_of
from threads import run_in_threads
from torch._subclasses.fake_tensor import FakeTensorMode

from rnnfused.cuda import graphs, timing
from rnnfused.ops import stepwise

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("error::UserWarning"),  # a choice warns of no plan that works
]


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


@pytest.mark.filterwarnings("ignore")  # torch's, of its tracer
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


def test_a_device_with_memory_to_spare_times_more_steps_of_a_large_batch(gpu, loops, monkeypatch):
    call = loops._call(
        torch.empty(1, 1, 1).expand(512, 256, 1024), torch.empty(1, 1), None, False, False
    )
    assert timing.timed_steps(call, 2**30) == 85
    assert timing.timed_steps(call, 2**40) == 128
    monkeypatch.setattr(timing, "MAX_BYTES", 1)
    gpu.spare = 2**20
    assert run(loops) == ("fused", "fused")


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
        loops.decider.choice(call)
        assert modes() == before and watch.calls > 5
        call = loops._call(backward[2], forward[1], None, True, False)
        loops.decider.choice(call)
        assert modes() == before
    assert ways(loops) == ["fused", "fused"]  # so results were right: no autocast


def test_no_graph_of_a_timing_stays(gpu, loops):
    gpu.times["graphed"] = 0.1
    kept = loops._graphed.graphs
    forward, _ = arguments()
    assert run_forward(loops, *forward) == "graphed"
    assert not graphs.graphs.graphs and not graphs.graphs.seen  # nor among those of the process
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
