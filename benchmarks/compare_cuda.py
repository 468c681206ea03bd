"""The CUDA loops against cuDNN's nn.RNN and others: microseconds a step and ratios of medians, interleaved.

    python benchmarks/compare_cuda.py

Times are taken with CUDA events. `steps` is our own module with the fused kernels off: one matrix product a
step, replayed as a CUDA graph. Writes results/cuda.json.
"""

import itertools
import json
import os
import statistics
from datetime import date
from functools import partial
from pathlib import Path

import torch

import rnnfused

try:  # its Elman network takes bfloat16; an optional peer
    from flashrnn import flashrnn
except ImportError:
    flashrnn = None

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
ROUNDS = 20


class FlashRNN(torch.nn.RNN):
    """flashrnn's fused Elman network behind the parameters of nn.RNN."""

    def forward(self, x):
        projections = torch.nn.functional.linear(x, self.weight_ih_l0, self.bias_ih_l0)
        states, _ = flashrnn(
            projections.transpose(0, 1)[:, :, None, None],
            self.weight_hh_l0[None, None],
            self.bias_hh_l0[None, None],
            function="elman",
            backend="cuda_fused",
        )
        return states[0, :, :, 0].transpose(0, 1), None


def forward(module, x, gradient):
    with torch.no_grad():
        module(x)


def forward_backward(module, x, gradient):
    module.zero_grad(set_to_none=True)
    module(x)[0].backward(gradient)


def medians(calls):
    """Median milliseconds of each call, taken in turn."""
    times = {name: [] for name in calls}
    for warm in range(-3, ROUNDS):
        for name, call in calls.items():
            os.environ["RNNFUSED_CUDA_FUSED"] = "steps" if name == "steps" else "1"
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            end.synchronize()
            if warm >= 0:
                times[name].append(start.elapsed_time(end))
    return {name: statistics.median(taken) for name, taken in times.items()}


def compare(shape, dtype):
    """Yield a row of results for each way."""
    num_steps, batch_size, hidden_size = shape
    kinds = {"ours": rnnfused.RNN, "cudnn": torch.nn.RNN, "steps": rnnfused.RNN}
    if flashrnn is not None and dtype == torch.bfloat16:
        kinds["flashrnn"] = FlashRNN
    modules = {name: kind(hidden_size, hidden_size, dtype=dtype) for name, kind in kinds.items()}
    for module in modules.values():
        module.load_state_dict(modules["ours"].state_dict())
    x = torch.randn(num_steps, batch_size, hidden_size, dtype=dtype)
    gradient = torch.randn_like(x)
    for way in (forward, forward_backward):
        calls = {name: partial(way, module, x, gradient) for name, module in modules.items()}
        runs = [medians(calls) for _ in range(2)]
        os.environ["RNNFUSED_CUDA_FUSED"] = "1"
        yield {
            "shape": shape,
            "dtype": str(dtype).removeprefix("torch."),
            "way": way.__name__,
            "fused": rnnfused.cuda.uses_fused_kernels(modules["ours"].weight_hh_l0, batch_size),
            "us_per_step": [1000 * run["ours"] / num_steps for run in runs],
            "ratios": {
                name: [run[name] / run["ours"] for run in runs] for name in kinds if name != "ours"
            },
        }


def main():
    torch.set_default_device("cuda")
    rows = []
    for shape, dtype in itertools.product(SHAPES, DTYPES):
        for row in compare(shape, dtype):
            rows.append(row)
            ratios = "  ".join(
                f"{name} {min(pair):.2f}-{max(pair):.2f}" for name, pair in row["ratios"].items()
            )
            print(
                f"{row['shape']!s:18} {row['dtype']:9} {row['way']:17} "
                f"{'fused' if row['fused'] else 'steps'} {max(row['us_per_step']):7.2f} us/step   {ratios}",
                flush=True,
            )
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
