"""The choice of a way on a real GPU: right results, nothing left behind, captures and memory pools."""

import time

import pytest
import torch

from rnnfused.cuda import graphs
from rnnfused.cuda.gpu import Gpu, has_fused_kernels
from rnnfused.cuda.loops import Loops
from rnnfused.cuda.reporting import report_of
from rnnfused.ops import stepwise

if not torch.cuda.is_available() or not has_fused_kernels():
    pytest.skip("needs an NVIDIA GPU and the CUDA kernels", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("error::UserWarning")  # no plan is turned off
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10, torch.bfloat16: 0.1, torch.float16: 0.1}


@pytest.fixture
def loops():
    return Loops(Gpu(), lambda: "")


def arguments(steps=40, batch=16, hidden=256, dtype=torch.float32, batch_sizes=None):
    """Arguments of the forward and of the backward loop."""
    random = torch.Generator("cuda").manual_seed(0)

    def new(*shape):
        return torch.randn(*shape, generator=random, dtype=dtype, device="cuda")

    shape = (steps, batch) if batch_sizes is None else (int(batch_sizes.sum()),)
    weight = new(hidden, hidden) / (2 * hidden**0.5)
    options = (batch_sizes, stepwise.TANH, False)
    forward = (new(*shape, hidden), weight, new(1, batch, hidden), *options)
    output, _ = stepwise.forward(*forward)
    return forward, (
        new(*shape, hidden),
        new(1, batch, hidden),
        output,
        weight,
        *options,
        None,
        True,
    )


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("batch_sizes", [None, torch.tensor([16] * 20 + [7] * 20)])
def test_the_gpu_decides_and_results_are_right(loops, dtype, batch_sizes):
    forward, backward = arguments(dtype=dtype, batch_sizes=batch_sizes)
    for _ in range(3):
        for name, given in (("forward", forward), ("backward", backward)):
            expected = getattr(stepwise, name)(*given)
            got = getattr(loops, name)(*given)
            tolerance = TOLERANCE[dtype]
            torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)
    report = report_of(loops)
    print(report)
    assert len(report.rows) == 2 and not report.turned_off
    for row in report.rows:
        assert row.self_check == "passed" and set(row.medians) == {"steps", "graphed", "fused"}
        assert row.choice == min(row.medians, key=row.medians.get)


def test_a_choice_takes_little_time_and_leaves_the_callers_state(loops):
    forward, _ = arguments()
    Loops(Gpu(), lambda: "").forward(*forward)  # loads torch's own kernels
    torch.cuda.synchronize()
    random, stream = torch.cuda.get_rng_state(), torch.cuda.current_stream()
    kept = len(graphs.graphs.graphs)
    allocated = torch.cuda.memory_allocated()
    begin = time.perf_counter()
    results = loops.forward(*forward)
    assert time.perf_counter() - begin < 1
    own = sum(x.numel() * x.element_size() for x in results)
    assert torch.equal(torch.cuda.get_rng_state(), random)
    assert torch.cuda.current_stream() == stream and len(graphs.graphs.graphs) == kept
    assert torch.cuda.memory_allocated() <= allocated + own + 64 * 2**20  # cuBLAS's workspace


def test_a_capture_before_the_choice(loops):
    forward, _ = arguments()
    stepwise.forward(*forward)  # loads cuBLAS
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = loops.forward(*forward)
    assert report_of(loops).rows == ()
    graph.replay()
    torch.testing.assert_close(captured, loops.forward(*forward), rtol=1e-4, atol=1e-4)
    assert len(report_of(loops).rows) == 1


def test_a_memory_pool_is_seen(loops):
    assert not graphs.uses_a_pool()
    with torch.cuda.use_mem_pool(torch.cuda.MemPool()):
        assert graphs.uses_a_pool()
        loops.forward(*arguments()[0])
    assert not graphs.uses_a_pool()
    (row,) = report_of(loops).rows
    assert set(row.medians) == {"steps", "fused"}


def test_streams_and_threads(loops):
    from threads import run_in_threads

    forward, _ = arguments()
    expected = stepwise.forward(*forward)
    torch.cuda.synchronize()

    def work(_):
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(5):
                got = loops.forward(*forward)
                torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)

    run_in_threads(work, range(4))
    assert len(report_of(loops).rows) == 1
