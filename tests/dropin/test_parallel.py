"""RNN in replicas, under DDP, in many threads at once, and after a fork."""

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist
from test_state import TOLERANCE, built, check_close, gradients, output_of, pair, sample
from threads import run_in_threads
from torch.nn.utils.rnn import pack_sequence

import rnnfused


def replica_of(module):
    """Returns a replica as ``torch.nn.parallel.replicate`` makes it, with tensors instead of parameters."""
    replica = module._replicate_for_data_parallel()
    for name, parameter in module._parameters.items():
        setattr(replica, name, None if parameter is None else parameter.clone())
    return replica


@pytest.mark.parametrize("theirs", [torch.nn.RNN, torch.nn.RNNCell])
def test_replicas_send_gradients_to_the_module(theirs):
    ours, expected = pair(theirs)
    x = sample(ours)
    output_of(ours, x)  # a call before the replication must not matter
    replica = replica_of(ours)
    assert not list(replica.parameters())
    output = output_of(replica, x)
    output.sin().sum().backward()
    got = {n: p.grad for n, p in ours.named_parameters()}
    wanted = gradients(expected, x)
    torch.testing.assert_close(output, wanted["output"], **TOLERANCE)
    check_close(got, {n: wanted[n] for n in got})


def test_replicas_of_a_layer_run_in_threads():
    ours, theirs = pair(torch.nn.RNN, 4, 5, 2, bidirectional=True)
    x = sample(ours, batch=6)
    replicas = [replica_of(ours) for _ in range(3)]
    with ThreadPoolExecutor(3) as threads:
        output = torch.cat([*threads.map(output_of, replicas, x.chunk(3, 1))], 1)
    output.sin().sum().backward()
    got = {n: p.grad for n, p in ours.named_parameters()}
    wanted = gradients(theirs, x)
    torch.testing.assert_close(output, wanted["output"], **TOLERANCE)
    check_close(got, {n: wanted[n] for n in got})


@pytest.fixture
def process_group(tmp_path):
    if not dist.is_available():
        pytest.skip("torch was built without distributed")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize(
    "options", [{}, dict(find_unused_parameters=True), dict(static_graph=True)]
)
def test_distributed_data_parallel(process_group, options):
    ours, expected = pair(torch.nn.RNN, 4, 5, 2)
    wrapped = torch.nn.parallel.DistributedDataParallel(ours, **options)
    for _ in range(2):
        ours.zero_grad()
        output_of(wrapped, sample(ours)).sin().sum().backward()
    wanted = gradients(expected, sample(expected))
    check_close(
        {n: p.grad for n, p in ours.named_parameters()},
        {n: wanted[n] for n, _ in ours.named_parameters()},
    )


def test_many_threads_on_one_module():
    module = built(rnnfused.RNN, 4, 17, 2, dtype=torch.float64)
    xs = [torch.randn(t, 3, 4, dtype=torch.float64) for t in range(1, 9)]
    packed = pack_sequence([x[:, 0] for x in xs], enforce_sorted=False)

    def work(i):
        x = xs[i].clone().requires_grad_()
        (output, h_n), (of_packed, _) = module(x), module(packed)
        loss = output.sin().sum() + h_n.sum() + of_packed.data.sum()
        # .backward() would sum all threads' gradients in .grad of the shared weights.
        return [output.detach(), *torch.autograd.grad(loss, [x, *module.parameters()])]

    expected = [work(i) for i in range(8)]

    def loop(i):
        for _ in range(10):
            torch.testing.assert_close(work(i), expected[i], **TOLERANCE)

    run_in_threads(loop, range(8))


def test_gradients_of_all_threads_add_up():
    module, x = built(rnnfused.RNN, 4, 5, dtype=torch.float64), sample(built(rnnfused.RNN, 4, 5))
    x = x.double()
    module(x)[0].sin().sum().backward()
    expected = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()

    def work(_):
        for _ in range(5):
            module(x)[0].sin().sum().backward()

    run_in_threads(work, range(8))
    for parameter, gradient in zip(module.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, 40 * gradient, **TOLERANCE)


def in_child(module, x, expected, queue):
    torch.set_num_threads(1)  # as DataLoader's workers do; torch's RNN hangs without it, too
    got = gradients(module, x)
    queue.put(all(torch.allclose(got[name], expected[name], **TOLERANCE) for name in expected))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform lacks fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("threads", [1, 2])
def test_fork_after_use(threads, restore_threads):
    torch.set_num_threads(threads)
    module = built(rnnfused.RNN, 4, 64, 2, dtype=torch.float64)
    x = torch.randn(20, 32, 4, dtype=torch.float64)
    expected = {name: value.detach() for name, value in gradients(module, x).items()}
    module.zero_grad()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=in_child, args=(module, x, expected, queue), daemon=True)
    child.start()
    try:
        assert queue.get(timeout=60)
        child.join(10)
        assert child.exitcode == 0
    finally:
        child.kill()
