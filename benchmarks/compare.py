"""rnnfused.RNN against torch.nn.RNN on the CPU: ratios of median times, both sides interleaved.

    python benchmarks/compare.py --threads 1 2

One process, A B A B ..; the whole comparison runs twice, and a difference smaller than that between the
two is noise. Run it on a quiet machine. Writes results/cpu.json; report.py makes the README's table of it.
"""

import argparse
import json
import platform
import statistics
import time
from datetime import date
from pathlib import Path

import torch
import torch.nn.functional as F

import rnnfused

RESULTS = Path(__file__).parent / "results" / "cpu.json"
# num_steps, batch_size, input_size, hidden_size
SHAPES = [
    (32, 1, 28, 32),
    (32, 1024, 28, 32),
    (35, 20, 200, 200),
    (64, 64, 512, 512),
    (100, 1, 256, 256),
    (128, 128, 1024, 1024),
    (1000, 16, 64, 128),
]


def forward(module, x, gradient):
    """Time one call without gradients."""
    with torch.no_grad():
        module(x)


def forward_backward(module, x, gradient):
    """Time one call and the gradients of all parameters."""
    module.zero_grad(set_to_none=True)
    output, _ = module(x)
    output.backward(gradient)


def medians(calls, seconds):
    """Median time in seconds of each call, taken in turn for about that long."""
    for call in calls:
        call()
    start = time.perf_counter()
    for call in calls:
        call()
    rounds = max(5, min(1000, int(seconds / (time.perf_counter() - start))))
    times = [[] for _ in calls]
    for _ in range(rounds):
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


def compare(shape, step, seconds):
    """torch.nn.RNN's median time over ours."""
    num_steps, batch_size, input_size, hidden_size = shape
    ours, theirs = (kind(input_size, hidden_size) for kind in (rnnfused.RNN, torch.nn.RNN))
    ours.load_state_dict(theirs.state_dict())
    # One-hot where the model is the textbook's, so that the values saturate as they do there.
    if input_size == 28:
        x = F.one_hot(torch.randint(0, 28, (num_steps, batch_size)), 28).float()
    else:
        x = torch.randn(num_steps, batch_size, input_size)
    gradient = torch.randn(num_steps, batch_size, hidden_size)
    calls = [lambda m=m: step(m, x, gradient) for m in (theirs, ours)]
    theirs_time, ours_time = medians(calls, seconds)
    return theirs_time / ours_time


def cpu_name():
    """What the machine calls its processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, torch.get_num_threads()])
    parser.add_argument("--seconds", type=float, default=2, help="a measurement (default: 2)")
    arguments = parser.parse_args()
    rows = []
    for threads in dict.fromkeys(arguments.threads):
        torch.set_num_threads(threads)
        for shape in SHAPES:
            for step in (forward, forward_backward):
                ratios = [compare(shape, step, arguments.seconds) for _ in range(2)]
                rows.append(
                    {"shape": shape, "threads": threads, "step": step.__name__, "ratios": ratios}
                )
                print(threads, shape, step.__name__, [f"{r:.2f}" for r in ratios], flush=True)
    result = {
        "date": date.today().isoformat(),
        "cpu": cpu_name(),
        "capability": rnnfused.cpu_capability(),
        "torch": torch.__version__,
        "rnnfused": rnnfused.__version__,
        "rows": rows,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
