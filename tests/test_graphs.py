"""The graphed loops without a GPU: what a graph records is run again on the tensors that it was captured with."""

import threading

import pytest
import torch

from rnnfused.cuda import graphs as graphed
from rnnfused.ops import stepwise


class FakeGraphs(graphed.Graphs):
    """Captures by keeping the loop, and replays by running it: on the graph's own memory, as CUDA does."""

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
def graphs():
    return FakeGraphs()


def arguments(seed=0, steps=5, batch=3, hidden=4, batch_sizes=None, reverse=False, given=True):
    """Arguments of forward, and those of backward but for the output."""
    random = torch.Generator().manual_seed(seed)

    def new(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    shape = (steps, batch) if batch_sizes is None else (int(batch_sizes.sum()),)
    weight, h_0, grad_h_n = new(hidden, hidden), new(1, batch, hidden), new(1, batch, hidden)
    rest = (weight, batch_sizes, stepwise.TANH, reverse)
    forward = (new(*shape, hidden), weight, h_0 if given else None, *rest[1:])
    gradients = (new(*shape, hidden), grad_h_n) if given else (None, None)
    return forward, gradients, rest


def check(graphs, **what):
    forward, gradients, rest = arguments(**what)
    expected = stepwise.forward(*forward)
    backward = (*gradients, expected[0], *rest, None, True)
    got = stepwise.forward(*forward, run=graphs.run), stepwise.backward(*backward, run=graphs.run)
    torch.testing.assert_close(got, (expected, stepwise.backward(*backward)), rtol=0, atol=0)
    return got


@pytest.mark.parametrize("batch_sizes", [None, torch.tensor([3, 3, 2, 1])])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_every_call_gives_what_the_loop_gives(graphs, batch_sizes, reverse, given):
    for seed in range(4):
        check(graphs, seed=seed, batch_sizes=batch_sizes, reverse=reverse, given=given)
    assert (graphs.captures, graphs.replays) == (
        2,
        6,
    )  # forward and backward, from the second call on


def test_results_are_not_the_graphs_own_memory(graphs):
    results = [check(graphs, seed=seed) for seed in range(4)]
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
def test_another_call_has_another_graph(graphs, other):
    for _ in range(2):
        check(graphs)
        check(graphs, **other)
    assert (graphs.captures, graphs.replays) == (4, 4)


def test_packed_batches_of_the_same_size_in_other_steps_have_graphs_of_their_own(graphs):
    for _ in range(2):
        for sizes in ([3, 2, 1], [3, 1, 1, 1]):
            check(graphs, batch_sizes=torch.tensor(sizes))
    assert graphs.captures == 4


def test_another_place_has_another_graph(graphs):
    for graphs.where in ("here", "there", "here", "there"):
        check(graphs)
    assert graphs.captures == 4


def test_inside_somebody_elses_capture_the_loop_is_captured_as_it_is(graphs):
    graphs.allowed = False
    for _ in range(3):
        check(graphs)
    assert graphs.captures == 0


def test_large_calls_have_no_graph(graphs, monkeypatch):
    monkeypatch.setattr(graphed, "MAX_STEPS", 4)
    for _ in range(3):
        check(graphs)
        check(graphs, batch_sizes=torch.tensor([3, 1, 1, 1, 1]))
    monkeypatch.undo()
    monkeypatch.setattr(graphed, "MAX_BYTES", 5 * 3 * 4 * 8)
    for _ in range(3):
        check(graphs)
    assert graphs.captures == 0


def test_only_the_graphs_used_last_are_kept(graphs):
    for hidden in range(1, graphed.MAX_GRAPHS // 2 + 2):
        check(graphs, hidden=hidden)
        check(graphs, hidden=hidden)
    assert len(graphs.graphs) == graphed.MAX_GRAPHS
    captures = graphs.captures
    check(graphs, hidden=2)
    assert graphs.captures == captures
    check(graphs, hidden=1)  # it had to leave
    assert graphs.captures == captures + 2


def test_calls_that_never_come_back_push_no_graph_out(graphs):
    for steps in range(6, 40):
        check(graphs)
        check(graphs, steps=steps)
    assert graphs.captures == 2


def test_a_graph_of_inference_mode_serves_outside_it(graphs):
    with torch.inference_mode():
        check(graphs)
        check(graphs)
    check(graphs)
    assert graphs.captures == 2


def test_what_cannot_be_captured_goes_step_by_step(graphs):
    def fail(loop):
        graphs.captures += 1
        raise RuntimeError("no memory")

    graphs.capture = fail
    check(graphs)
    with pytest.warns(UserWarning, match="could not be captured: no memory"):
        check(graphs)
    check(graphs)
    assert graphs.captures == 2  # forward and backward, each once


def test_threads_share_a_graph_one_after_the_other(graphs):
    failures = []

    def work(seed):
        try:
            for _ in range(20):
                check(graphs, seed=seed)
        except AssertionError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and graphs.captures == 2
