"""What only a GPU can show: the fused kernels and the graphs against the step-by-step loop, streams, captures,
determinism."""

import pytest
import torch

from rnnfused import TokenRNN, cuda
from rnnfused import ops as op
from rnnfused.cuda import graphs as graphed
from rnnfused.ops import stepwise

if not torch.cuda.is_available() or not op.has_cuda_kernels():
    pytest.skip("needs an NVIDIA GPU and the CUDA kernels", allow_module_level=True)

PACKED = torch.tensor([7, 7, 4, 1])
TOLERANCE = {
    torch.float32: 3e-5,
    torch.float64: 1e-12,
    # Every state is rounded, the expected ones are not.
    torch.bfloat16: 2e-2,
    torch.float16: 3e-3,
}


def arguments(steps, batch, hidden, dtype=torch.float32, packed=False, reverse=False, f="tanh"):
    """Random arguments of the ops forward_fused and backward_fused; stepwise.backward also takes a clip."""
    torch.manual_seed(0)
    batch = int(PACKED[0]) if packed else batch
    shape = (int(PACKED.sum()), hidden) if packed else (steps, batch, hidden)
    p, g = torch.randn(2, *shape, dtype=dtype, device="cuda")
    h_0, g_n = torch.randn(2, 1, batch, hidden, dtype=dtype, device="cuda")
    weight = torch.randn(hidden, hidden, dtype=dtype, device="cuda") / hidden**0.5
    sizes, f = PACKED if packed else None, op.NONLINEARITIES[f]
    return (p, weight, h_0, sizes, f, reverse), (g, g_n, weight, sizes, f, reverse, True)


def run(forward, backward, forward_arguments, backward_arguments):
    output, h_n = forward(*forward_arguments)
    g, g_n, *rest = backward_arguments
    return output, h_n, *backward(g, g_n, output, *rest)


def run_fused(*both):
    fused = torch.ops.rnnfused
    return run(fused.forward_fused, fused.backward_fused, *both)


def run_graphed(*both):
    return run(graphed.forward, with_clip(graphed.backward), *both)


def with_clip(backward):
    """A backward loop by steps without a state_grad_clip, the argument before the last."""
    return lambda *arguments: backward(*arguments[:-1], None, arguments[-1])


def exactly(value):
    """The value for a loop that rounds no state to 16 bits."""
    is_short = isinstance(value, torch.Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if is_short else value


def check(*both):
    results = run_fused(*both)
    dtype = both[0][0].dtype
    forward, backward = ([exactly(x) for x in each] for each in both)
    # The gradient at the states that there were: a sign of relu's may differ between rounded and exact ones.
    g, g_n, *rest = backward
    expected = (
        *stepwise.forward(*forward),
        *with_clip(stepwise.backward)(g, g_n, exactly(results[0]), *rest),
    )
    for got, wanted in zip(results, expected, strict=True):
        assert got.dtype == dtype
        tolerance = TOLERANCE[dtype]
        torch.testing.assert_close(got.to(wanted.dtype), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("hidden", [1, 5, 32, 33, 100, 128, 200, 256, 300, 350])
@pytest.mark.parametrize("batch", [1, 3, 16, 300])
def test_every_size(dtype, hidden, batch):
    check(*arguments(6, batch, hidden, dtype))


# Teams of every kind on a large GPU: clusters of 4, 8 and 16, and through global memory.
@pytest.mark.parametrize(
    ("dtype", "hidden"),
    [
        (torch.float32, 512),
        (torch.float32, 700),
        (torch.float32, 1024),
        (torch.float32, 2000),
        (torch.float64, 500),
        (torch.float64, 1024),
        (torch.bfloat16, 512),
        (torch.bfloat16, 1024),
        (torch.float16, 1024),
        (torch.bfloat16, 2000),
    ],
)
@pytest.mark.parametrize("batch", [1, 16, 64, 256])
def test_large_teams(dtype, hidden, batch):
    both = arguments(8, batch, hidden, dtype)
    if not torch.ops.rnnfused.fits(both[0][1], batch):
        pytest.skip("this GPU does not hold that at once")
    check(*both)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("f", ["tanh", "relu"])
@pytest.mark.parametrize("hidden", [20, 300, 1024])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_option(packed, reverse, f, hidden, dtype):
    check(*arguments(5, 7, hidden, dtype, packed=packed, reverse=reverse, f=f))


@pytest.mark.parametrize("hidden", [32, 512, 1024])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_hundred_runs_give_the_same_bits(hidden, dtype):
    both = arguments(50, 40, hidden, dtype)
    first = run_fused(*both)
    for _ in range(100):
        for got, expected in zip(run_fused(*both), first, strict=True):
            assert torch.equal(got, expected)


def run_by_steps(*both):
    return run(stepwise.forward, with_clip(stepwise.backward), *both)


@pytest.mark.parametrize(
    ("way", "expected_way", "sizes"),
    [
        (run_fused, run_fused, [(200, 64, 256), (200, 64, 512), (200, 64, 1024)]),
        (run_graphed, run_by_steps, [(100, 16, 200), (100, 16, 200)]),
    ],
)
def test_streams_at_once(way, expected_way, sizes):
    calls = [arguments(*size) for size in sizes]
    expected = [expected_way(*call) for call in calls]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in calls]
    for _ in range(5):
        results = []
        for stream, call in zip(streams, calls, strict=True):
            with torch.cuda.stream(stream):
                results.append(way(*call))
        torch.cuda.synchronize()
        for result, wanted in zip(results, expected, strict=True):
            for a, b in zip(result, wanted, strict=True):
                assert torch.equal(a, b)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("hidden", [100, 256, 512, 1024])
def test_graph_capture_and_replay(hidden, packed):
    both = arguments(30, 16, hidden, packed=packed)
    run_fused(*both)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run_fused(*both)
    both[0][0].copy_(torch.randn_like(both[0][0]))
    graph.replay()
    for got, expected in zip(captured, run_fused(*both), strict=True):
        assert torch.equal(got, expected)


def test_graph_capture_of_a_training_step_on_token_ids(monkeypatch):
    monkeypatch.setattr(cuda, "choice", "1")
    torch.manual_seed(0)
    model = TokenRNN(20, 64, device="cuda")
    ids = torch.randint(20, (12, 5), device="cuda")

    def step():
        model.zero_grad(set_to_none=False)
        output, _ = model(ids)
        output.square().sum().backward()
        return output

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    ids.copy_(torch.randint(20, (12, 5), device="cuda"))
    graph.replay()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    torch.testing.assert_close(captured, step())
    torch.testing.assert_close(gradients, [parameter.grad for parameter in model.parameters()])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_graphed_steps(packed, reverse, dtype):
    for _ in range(4):
        both = arguments(9, 6, 100, dtype, packed=packed, reverse=reverse)
        expected = run_by_steps(*both)
        got = run_graphed(*both)
        for a, b in zip(got, expected, strict=True):
            assert torch.equal(a, b)


def test_fused_float32_does_not_follow_the_tf32_switch_and_steps_do(tf32):
    both = arguments(4, 64, 512)
    exact = run_fused(*both)
    torch.backends.cuda.matmul.allow_tf32 = True
    for got, expected in zip(run_fused(*both), exact, strict=True):
        assert torch.equal(got, expected)
    rounded = [run_graphed(*both) for _ in range(3)][-1]
    torch.backends.cuda.matmul.allow_tf32 = False
    ieee = [run_graphed(*both) for _ in range(3)][-1]
    assert not torch.equal(rounded[0], ieee[0])
    torch.testing.assert_close(ieee[0], exact[0], rtol=3e-5, atol=3e-4)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("hidden", [64, 512])
def test_a_call_runs_on_its_tensors_gpu(hidden):
    both = arguments(5, 7, hidden)
    there = [[x.to("cuda:1") if isinstance(x, torch.Tensor) else x for x in each] for each in both]
    for _ in range(3):
        for way in (run_fused, run_graphed):
            for got, expected in zip(way(*there), way(*both), strict=True):
                assert got.device == torch.device("cuda:1")
                assert torch.equal(got.to("cuda:0"), expected)


def test_the_switch(monkeypatch):
    weight = torch.randn(64, 64, device="cuda")
    for choice in ("0", "steps"):
        monkeypatch.setattr(cuda, "choice", choice)
        assert not cuda.uses_fused_kernels(weight, 1)
    for choice in ("", "1"):
        monkeypatch.setattr(cuda, "choice", choice)
        assert cuda.uses_fused_kernels(weight, 1)
        assert not cuda.uses_fused_kernels(torch.randn(5000, 5000, device="cuda"), 1)
