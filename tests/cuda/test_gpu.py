"""What only a GPU can show: the fused kernels against the step-by-step loop, streams, graphs, determinism."""

import pytest
import torch

from rnnfused import cuda, op, stepwise

if not torch.cuda.is_available() or not op.has_cuda_kernels():
    pytest.skip("needs an NVIDIA GPU and the CUDA kernels", allow_module_level=True)

PACKED = torch.tensor([7, 7, 4, 1])
TOLERANCE = {
    torch.float32: 3e-5,
    torch.float64: 1e-12,
    # One rounding of a state more or less, carried on.
    torch.bfloat16: 2e-2,
    torch.float16: 3e-3,
}


def arguments(steps, batch, hidden, dtype=torch.float32, packed=False, reverse=False, f="tanh"):
    """Random arguments of the ops forward and backward."""
    torch.manual_seed(0)
    batch = int(PACKED[0]) if packed else batch
    shape = (int(PACKED.sum()), hidden) if packed else (steps, batch, hidden)
    p, g = torch.randn(2, *shape, dtype=dtype, device="cuda")
    h_0, g_n = torch.randn(2, batch, hidden, dtype=dtype, device="cuda")
    weight = torch.randn(hidden, hidden, dtype=dtype, device="cuda") / hidden**0.5
    sizes = PACKED if packed else None
    return (p, weight, h_0, sizes, f, reverse), (g, g_n, weight, sizes, f, reverse, True)


def run(forward, backward, forward_arguments, backward_arguments):
    output, h_n = forward(*forward_arguments)
    g, g_n, *rest = backward_arguments
    return output, h_n, *backward(g, g_n, output, *rest)


def run_fused(*both):
    fused = torch.ops.rnnfused
    return run(fused.forward_fused, fused.backward_fused, *both)


def check(*both):
    dtype = both[0][0].dtype
    tolerance = TOLERANCE[dtype]
    expected = run(stepwise.forward, stepwise.backward, *both)
    for got, wanted in zip(run_fused(*both), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("hidden", [1, 5, 32, 33, 100, 128, 200, 256, 300, 350])
@pytest.mark.parametrize("batch", [1, 3, 16, 300])
def test_every_size(dtype, hidden, batch):
    check(*arguments(6, batch, hidden, dtype))


@pytest.mark.parametrize("batch", [1, 16, 64, 200])
def test_the_largest_cluster(batch):
    check(*arguments(20, batch, 512))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("f", ["tanh", "relu"])
@pytest.mark.parametrize("hidden", [20, 300])
def test_every_option(packed, reverse, f, hidden):
    check(*arguments(5, 7, hidden, packed=packed, reverse=reverse, f=f))


@pytest.mark.parametrize("hidden", [32, 512])
def test_a_hundred_runs_give_the_same_bits(hidden):
    both = arguments(50, 40, hidden)
    first = run_fused(*both)
    for _ in range(100):
        for got, expected in zip(run_fused(*both), first, strict=True):
            assert torch.equal(got, expected)


def test_two_streams_at_once():
    calls = [arguments(200, 64, hidden) for hidden in (256, 512)]
    expected = [run_fused(*call) for call in calls]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in calls]
    for _ in range(5):
        results = []
        for stream, call in zip(streams, calls, strict=True):
            with torch.cuda.stream(stream):
                results.append(run_fused(*call))
        torch.cuda.synchronize()
        for result, wanted in zip(results, expected, strict=True):
            for a, b in zip(result, wanted, strict=True):
                assert torch.equal(a, b)


def test_graph_capture_and_replay():
    both = arguments(30, 16, 256)
    run_fused(*both)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run_fused(*both)
    both[0][0].copy_(torch.randn_like(both[0][0]))
    graph.replay()
    for got, expected in zip(captured, run_fused(*both), strict=True):
        assert torch.equal(got, expected)


def test_the_switch(monkeypatch):
    weight = torch.randn(64, 64, device="cuda")
    monkeypatch.delenv("RNNFUSED_CUDA_FUSED", raising=False)
    assert not cuda.uses_fused_kernels(weight)
    monkeypatch.setenv("RNNFUSED_CUDA_FUSED", "1")
    assert cuda.uses_fused_kernels(weight)
    assert not cuda.uses_fused_kernels(torch.randn(3000, 3000, device="cuda"))
