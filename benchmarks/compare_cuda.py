"""The CUDA loops against cuDNN's nn.RNN: microseconds a step and ratios of medians, sides interleaved.

    RNNFUSED_CUDA_FUSED=1 python benchmarks/compare_cuda.py

Times are taken with CUDA events. Where no fused kernel takes a shape it says so and times the loop of one
matrix product a step. Writes results/cuda.json.
"""

import itertools
import json
import statistics
from datetime import date
from pathlib import Path

import torch

import rnnfused

RESULTS = Path(__file__).parent / "results" / "cuda.json"
# num_steps, batch_size, hidden_size; the input size is the hidden size.
SHAPES = [
    (512, 1, 512),
    (512, 16, 512),
    (512, 64, 512),
    (2048, 32, 256),
    (32, 1024, 32),
    (1024, 64, 1024),
    (256, 256, 1024),
]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def forward(module, x, gradient):
    with torch.no_grad():
        module(x)


def forward_backward(module, x, gradient):
    module.zero_grad(set_to_none=True)
    module(x)[0].backward(gradient)


def medians(calls, rounds):
    """Median milliseconds of each call, taken in turn."""
    times = [[] for _ in calls]
    for warm in range(rounds + 2):
        for call, taken in zip(calls, times, strict=True):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            end.synchronize()
            if warm >= 2:
                taken.append(start.elapsed_time(end))
    return [statistics.median(taken) for taken in times]


def main():
    torch.set_default_device("cuda")
    rows = []
    for (num_steps, batch_size, hidden_size), dtype in itertools.product(SHAPES, DTYPES):
        ours, cudnn = (
            kind(hidden_size, hidden_size, dtype=dtype) for kind in (rnnfused.RNN, torch.nn.RNN)
        )
        ours.load_state_dict(cudnn.state_dict())
        x = torch.randn(num_steps, batch_size, hidden_size, dtype=dtype)
        gradient = torch.randn_like(x)
        fused = rnnfused.cuda.uses_fused_kernels(ours.weight_hh_l0)
        for step in (forward, forward_backward):
            calls = [lambda m=m: step(m, x, gradient) for m in (cudnn, ours)]
            pairs = [medians(calls, 20) for _ in range(2)]
            row = {
                "shape": (num_steps, batch_size, hidden_size),
                "dtype": str(dtype).removeprefix("torch."),
                "step": step.__name__,
                "fused": fused,
                "us_per_step": [1000 * ours_ms / num_steps for _, ours_ms in pairs],
                "ratios": [cudnn_ms / ours_ms for cudnn_ms, ours_ms in pairs],
            }
            rows.append(row)
            print(*row.values(), flush=True)
    result = {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(),
        "rows": rows,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
