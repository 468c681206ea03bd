"""CUDA graphs of the loops, without a GPU: a replay runs the recorded loop again, on the captured tensors."""

import time

import pytest
import torch
from threads import run_in_threads

from rnnfused.cuda import graphs
from rnnfused.ops import stepwise


class FakeGraphs(graphs.Graphs):
    """Keeps the loop where CUDA captures it, and runs it on the graph's own memory where CUDA replays it."""

    def __init__(self):
        super().__init__(self.record, lambda: self.where, lambda: self.allowed, lambda: self.pooled)
        self.where, self.allowed, self.pooled = "here", True, False
        self.captures = self.replays = 0

    def record(self, loop):
        self.captures += 1
        loop()  # as before a capture on a GPU

        def replay():
            self.replays += 1
            loop()

        return replay


@pytest.fixture
def fake():
    return FakeGraphs()


def arguments(seed=0, steps=5, batch=3, hidden=4, batch_sizes=None, reverse=False, given=True):
    """Returns forward's arguments, the gradients for backward, and the arguments after backward's output."""
    random = torch.Generator().manual_seed(seed)

    def new(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    shape = (steps, batch) if batch_sizes is None else (int(batch_sizes.sum()),)
    weight, h_0, grad_h_n = new(hidden, hidden), new(1, batch, hidden), new(1, batch, hidden)
    rest = (weight, batch_sizes, stepwise.TANH, reverse)
    forward = (new(*shape, hidden), weight, h_0 if given else None, *rest[1:])
    gradients = (new(*shape, hidden), grad_h_n) if given else (None, None)
    return forward, gradients, rest


def check(fake, **options):
    """Asserts that both loops, run as graphs, have the bits of the plain ones. Returns their results."""
    forward, gradients, rest = arguments(**options)
    expected = stepwise.forward(*forward)
    backward = (*gradients, expected[0], *rest, None, True)
    got = stepwise.forward(*forward, run=fake.run), stepwise.backward(*backward, run=fake.run)
    torch.testing.assert_close(got, (expected, stepwise.backward(*backward)), rtol=0, atol=0)
    return got


@pytest.mark.parametrize("batch_sizes", [None, torch.tensor([3, 3, 2, 1])])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_every_call_equals_the_loop(fake, batch_sizes, reverse, given):
    for seed in range(4):
        check(fake, seed=seed, batch_sizes=batch_sizes, reverse=reverse, given=given)
    # Forward and backward are each captured once, and replayed from the second call on.
    assert (fake.captures, fake.replays) == (2, 6)


@pytest.mark.parametrize("inference", [False, True])
def test_a_weight_that_requires_gradients(fake, inference):
    """The ops run without gradients, but on the caller's parameters; a failed capture would only warn."""
    forward, gradients, rest = arguments()
    weight = forward[1].clone().requires_grad_()
    with torch.inference_mode() if inference else torch.no_grad():
        expected = stepwise.forward(*forward)
        for _ in range(3):
            output, _ = stepwise.forward(forward[0], weight, *forward[2:], run=fake.run)
            grads = stepwise.backward(
                *gradients, output, weight, *rest[1:], None, True, run=fake.run
            )
    torch.testing.assert_close(output, expected[0], rtol=0, atol=0)
    assert (fake.captures, fake.replays) == (2, 4) and not grads[0].requires_grad


def test_results_do_not_share_the_graphs_memory(fake):
    results = [check(fake, seed=seed) for seed in range(4)]
    for seed, result in enumerate(results):
        torch.testing.assert_close(result, check(FakeGraphs(), seed=seed), rtol=0, atol=0)


@pytest.mark.parametrize(
    "other",
    [
        dict(steps=6),
        dict(batch=2),
        dict(hidden=5),
        dict(reverse=True),
        dict(given=False),
        dict(batch_sizes=torch.tensor([3, 3, 3, 3, 3])),
        dict(batch_sizes=torch.tensor([3, 2])),
    ],
)
def test_other_arguments_have_another_graph(fake, other):
    for _ in range(2):
        check(fake)
        check(fake, **other)
    assert (fake.captures, fake.replays) == (4, 4)


def test_equal_row_counts_of_other_batch_sizes_have_other_graphs(fake):
    for _ in range(2):
        for sizes in ([3, 2, 1], [3, 1, 1, 1]):
            check(fake, batch_sizes=torch.tensor(sizes))
    assert fake.captures == 4


def test_another_device_or_stream_has_another_graph(fake):
    for fake.where in ("here", "there", "here", "there"):
        check(fake)
    assert fake.captures == 4


def test_inside_another_capture_the_loop_has_no_graph_of_its_own(fake):
    fake.allowed = False
    for _ in range(3):
        check(fake)
    assert fake.captures == 0


def test_a_thread_whose_tensors_go_to_a_pool_captures_nothing(fake):
    fake.pooled = True
    for _ in range(3):
        check(fake)
    assert fake.captures == 0
    fake.pooled = False
    check(fake)
    fake.pooled = True
    check(fake)
    assert (fake.captures, fake.replays) == (2, 4)


class Snapshot:
    """A probe at address 150 among these segments."""

    def __init__(self, monkeypatch, segments):
        probe = type("Probe", (), {"data_ptr": lambda self: 150})()
        monkeypatch.setattr(torch, "empty", lambda size, device: probe)
        monkeypatch.setattr(torch.cuda, "memory_snapshot", segments)


@pytest.mark.parametrize(
    ("starts", "pools", "expected"),
    [
        ([0, 100, 200], [(0, 1), (0, 0), (0, 1)], False),
        ([0, 100, 200], [(0, 0), (0, 1), (0, 0)], True),
        ([150], [(2, 0)], True),
        ([50], [(2, 0)], False),
        ([], [], False),
    ],
)
def test_a_pool_is_that_of_the_probes_segment(monkeypatch, starts, pools, expected):
    segments = [
        dict(address=start, total_size=100, segment_pool_id=pool)
        for start, pool in zip(starts, pools, strict=True)
    ]
    Snapshot(monkeypatch, lambda: segments)
    assert graphs.uses_a_pool() == expected


def test_an_allocator_without_pools(monkeypatch):
    def refuse():
        raise RuntimeError("cudaMallocAsync does not yet support snapshot")

    Snapshot(monkeypatch, refuse)
    assert not graphs.uses_a_pool()


def test_large_calls_have_no_graph(fake, monkeypatch):
    monkeypatch.setattr(graphs, "MAX_STEPS", 4)
    for _ in range(3):
        check(fake)
        check(fake, batch_sizes=torch.tensor([3, 1, 1, 1, 1]))
    monkeypatch.undo()
    monkeypatch.setattr(graphs, "MAX_BYTES", 5 * 3 * 4 * 8)
    for _ in range(3):
        check(fake)
    assert fake.captures == 0


def test_only_recently_used_graphs_are_kept(fake):
    for hidden in range(1, graphs.MAX_GRAPHS // 2 + 2):
        check(fake, hidden=hidden)
        check(fake, hidden=hidden)
    assert len(fake.graphs) == graphs.MAX_GRAPHS
    captures = fake.captures
    check(fake, hidden=2)
    assert fake.captures == captures
    for _ in range(graphs.WAITS_OF_DROPPED):
        check(fake, hidden=1)  # evicted before
    assert fake.captures == captures
    check(fake, hidden=1)
    assert fake.captures == captures + 2


def test_many_alternating_sizes_are_captured_rarely(fake):
    sizes = range(1, graphs.MAX_GRAPHS + 2)
    calls = 0
    for _ in range(100):
        for steps in sizes:
            check(fake, steps=steps)
            calls += 2
    assert fake.captures < calls / 25


def test_graphs_take_bounded_memory(fake, monkeypatch):
    for steps in (5, 6, 7):
        for _ in range(2):
            check(fake, steps=steps)
    sizes = [graph.size for graph in fake.graphs.values()]
    assert len(sizes) == 6 and sizes[0] == (5 * 3 * 4 + 4 * 4 + 2 * 3 * 4) * 8
    monkeypatch.setattr(graphs, "MAX_BYTES_OF_ALL", sum(sizes))
    for _ in range(2):
        check(fake, steps=8)
    kept = [graph.size for graph in fake.graphs.values()]
    assert len(kept) < 8 and kept[:-2] == sizes[-len(kept[:-2]) :]  # the oldest went
    assert sum(kept) <= sum(sizes)


def test_calls_made_once_evict_no_graph(fake):
    for steps in range(6, 40):
        check(fake)
        check(fake, steps=steps)
    assert fake.captures == 2


def test_a_graph_of_inference_mode_serves_outside_it(fake):
    with torch.inference_mode():
        check(fake)
        check(fake)
    check(fake)
    assert fake.captures == 2


def test_a_failed_capture_falls_back_to_the_plain_loop(fake):
    def fail(loop):
        fake.captures += 1
        raise RuntimeError("no memory")

    fake.capture = fail
    check(fake)
    with pytest.warns(UserWarning, match="could not be captured: no memory"):
        check(fake)
    check(fake)
    assert fake.captures == 2  # forward and backward, each once


def test_threads_take_turns_with_a_graph(fake):
    def work(seed):
        for _ in range(20):
            check(fake, seed=seed)

    run_in_threads(work, range(4))
    assert fake.captures == 2


def test_captures_take_turns(fake):
    """A capture clears what another one uses; each of these has its own graphs, and so its own lock."""
    at_once, most = [], []

    def capture(loop):
        at_once.append(loop)
        most.append(len(at_once))
        time.sleep(0.02)
        at_once.remove(loop)
        return loop

    def work(number):
        own = FakeGraphs()
        own.capture = capture
        for _ in range(2):
            check(own)

    run_in_threads(work, range(4))
    assert len(most) == 8 and max(most) == 1


def test_a_call_by_a_graph_alone(fake):
    forward, _, _ = arguments()
    with pytest.raises(graphs.NotCaptured):  # the first such call
        stepwise.forward(*forward, run=fake.run_captured)
    got = stepwise.forward(*forward, run=fake.run_captured)
    torch.testing.assert_close(got, stepwise.forward(*forward), rtol=0, atol=0)
    assert (fake.captures, fake.replays) == (1, 1)
