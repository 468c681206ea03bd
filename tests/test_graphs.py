"""CUDA graphs of the loops, without a GPU: a replay runs the recorded loop again, on the captured tensors."""

import pytest
import torch
from threads import run_in_threads

from rnnfused.cuda import graphs
from rnnfused.ops import stepwise


class FakeGraphs(graphs.Graphs):
    """Keeps the loop where CUDA captures it, and runs it on the graph's own memory where CUDA replays it."""

    def __init__(self):
        super().__init__(self.record, lambda: self.where, lambda: self.allowed)
        self.where, self.allowed, self.captures, self.replays = "here", True, 0, 0

    def record(self, loop):
        self.captures += 1

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
    check(fake, hidden=1)  # evicted before
    assert fake.captures == captures + 2


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
