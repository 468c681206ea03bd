"""The CUDA loops against cuDNN's nn.RNN and others: microseconds per step and ratios of medians, interleaved.

    python benchmarks/compare_cuda.py [--flashrnn]

CUDA events measure the GPU's time. A short wait on the GPU comes first, so that launches are queued by then.
`steps` is rnnfused.RNN with the fused kernels off: one matrix product per step, replayed as a CUDA graph.
rnnfused multiplies float32 in IEEE precision. So does `cudnn`; `cudnn_tf32` is cuDNN's default, TF32.
Writes results/cuda.json.
"""

import argparse
import itertools
import json
import statistics
from datetime import date
from functools import partial
from pathlib import Path

import torch
from peers import spans, torch_ways

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
ROUNDS = 20


WAIT_CYCLES = 1_000_000  # GPU clock cycles, about half a millisecond


class FlashRNN(torch.nn.RNN):
    """flashrnn's fused Elman network with the parameters of nn.RNN. It takes bfloat16 alone."""

    def forward(self, x):
        from flashrnn import flashrnn

        projections = torch.nn.functional.linear(x, self.weight_ih_l0, self.bias_ih_l0)
        states, _ = flashrnn(
            projections.transpose(0, 1)[:, :, None, None],
            self.weight_hh_l0[None, None],
            self.bias_hh_l0[None, None],
            function="elman",
            backend="cuda_fused",
        )
        return states[0, :, :, 0].transpose(0, 1), None


def medians(calls):
    """Returns the median milliseconds of each call; the calls take turns."""
    times = {name: [] for name in calls}
    for warm in range(-3, ROUNDS):
        for name, call in calls.items():
            rnnfused.cuda.choice = "steps" if name == "steps" else "1"
            torch.backends.cudnn.allow_tf32 = name == "cudnn_tf32"
            torch.cuda._sleep(WAIT_CYCLES)
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            end.synchronize()
            if warm >= 0:
                times[name].append(start.elapsed_time(end))
    return {name: statistics.median(taken) for name, taken in times.items()}


def compare(shape, dtype, with_flashrnn):
    """Yields a row of results for each way."""
    num_steps, batch_size, hidden_size = shape
    new = dict(device="cuda", dtype=dtype)
    kinds = {"ours": rnnfused.RNN, "cudnn": torch.nn.RNN, "steps": rnnfused.RNN}
    if dtype == torch.float32:
        kinds["cudnn_tf32"] = torch.nn.RNN
    if with_flashrnn and dtype == torch.bfloat16:
        kinds["flashrnn"] = FlashRNN
    modules = {name: kind(hidden_size, hidden_size, **new) for name, kind in kinds.items()}
    x = torch.randn(num_steps, batch_size, hidden_size, **new)
    gradient = torch.randn_like(x)
    ours = modules["ours"]
    rnnfused.cuda.choice = "1"
    for name, module in modules.items():
        module.load_state_dict(ours.state_dict())
        if name == "flashrnn":
            torch.testing.assert_close(module(x)[0], ours(x)[0], rtol=0.1, atol=0.1)
    projections = torch.nn.functional.linear(x, ours.weight_ih_l0, ours.bias_ih_l0).detach()
    loop = partial(
        rnnfused.ops.layer,
        projections,
        None,
        ours.weight_hh_l0.detach(),
        *[None] * 5,
        0,
        rnnfused.ops.NONLINEARITIES["tanh"],
        False,
        None,
    )
    ways = {name: torch_ways(module, x, gradient) for name, module in modules.items()}
    for way in ("forward", "forward_backward"):
        for module in modules.values():
            module.train(way == "forward_backward")
        calls = {name: of_module[way] for name, of_module in ways.items()}
        if way == "forward":
            calls["loop"] = loop
        runs = [medians(calls) for _ in range(2)]
        rnnfused.cuda.choice = "1"
        peers = [name for name in kinds if name != "ours"]
        yield {
            "shape": shape,
            "dtype": str(dtype).removeprefix("torch."),
            "way": way,
            "fused": rnnfused.cuda.uses_fused_kernels(ours.weight_hh_l0, batch_size),
            "us_per_step": {
                name: [1000 * run[name] / num_steps for run in runs]
                for name in calls
                if name not in peers
            },
            "ratios": {name: [run[name] / run["ours"] for run in runs] for name in peers},
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--flashrnn", action="store_true", help="also time flashrnn (it compiles first)"
    )
    with_flashrnn = parser.parse_args().flashrnn
    rows = []
    for shape, dtype in itertools.product(SHAPES, DTYPES):
        for row in compare(shape, dtype, with_flashrnn):
            rows.append(row)
            times = "  ".join(f"{name} {max(us):.2f}" for name, us in row["us_per_step"].items())
            print(
                f"{row['shape']!s:18} {row['dtype']:9} {row['way']:17} "
                f"{'fused' if row['fused'] else 'steps'}  us/step: {times}  times faster than: {spans(row['ratios'])}",
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
