"""rnnfused.RNN against torch.nn.RNN and others on the CPU: ratios of median times, all sides interleaved.

    python benchmarks/compare.py --threads 1 2 --peers onnxruntime jax

A process for each number of threads, pinned to as many cores; in it ours and one peer, A B A B ..; each
comparison runs twice, and a difference smaller than that between the two is noise. The share of the peak is of
what a loop of multiply-adds reaches, measured in between. Run it on a quiet machine. Writes results/cpu.json;
report.py makes the README's table of it.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from peers import PEERS, bytes_saved, spans, torch_ways

import rnnfused

RESULTS = Path(__file__).parent / "results" / "cpu.json"
WAYS = ("forward", "forward_backward")


class Case(NamedTuple):
    num_steps: int
    batch_size: int
    input_size: int
    hidden_size: int
    tokens: bool = False  # ours takes ids, the others the same as one-hot rows

    def operations(self, way):
        """Floating-point operations of the recurrence, its projection and all gradients of parameters."""
        outputs = self.num_steps * self.batch_size * self.hidden_size
        projection = 0 if self.tokens else 2 * outputs * self.input_size
        loop = 2 * outputs * self.hidden_size
        # Backward there are the loop and a gradient for each of the two weights.
        return projection + loop if way == "forward" else 2 * projection + 3 * loop


CASES = [
    Case(32, 1, 28, 32),
    Case(32, 1024, 28, 32),
    Case(32, 1024, 28, 32, tokens=True),
    Case(35, 20, 200, 200),
    Case(64, 32, 128, 256),
    Case(64, 64, 512, 512),
    Case(100, 1, 256, 256),
    Case(512, 1, 512, 512),
    Case(128, 128, 1024, 1024),
    Case(35, 64, 256, 1024),
    Case(1000, 16, 64, 128),
    Case(180, 20, 50, 500),
    Case(180, 20, 50, 500, tokens=True),
]


def peak():
    """What this many threads reach right now, in operations a second: the best of a few short loops."""
    torch.ops.rnnfused.cpu_multiply_add(1000)
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        count = torch.ops.rnnfused.cpu_multiply_add(400_000)
        best = max(best, 2 * count / (time.perf_counter() - start))
    return best


def medians(calls, seconds):
    """Median seconds of each call, taken in turn for about that long, and the peak between them."""
    for call in calls.values():
        call()
    start = time.perf_counter()
    for call in calls.values():
        call()
    rounds = max(5, min(1000, int(seconds / (time.perf_counter() - start))))
    times = {name: [] for name in calls}
    peaks = [peak()]
    for i in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
        if i == rounds // 2:
            peaks.append(peak())
    return {name: statistics.median(taken) for name, taken in times.items()}, max(peaks)


def inputs(case):
    """The modules, ours and nn.RNN, of the same weights; the input of each, and a gradient."""
    num_steps, batch_size, input_size, hidden_size, tokens = case
    ids = torch.randint(input_size, (num_steps, batch_size))
    # One-hot where the model is the textbook's, so that the values saturate as they do there.
    is_textbook = tokens or input_size == 28
    x = F.one_hot(ids, input_size).float() if is_textbook else torch.randn(*ids.shape, input_size)
    gradient = torch.randn(num_steps, batch_size, hidden_size)
    kind = rnnfused.TokenRNN if tokens else rnnfused.RNN
    ours, theirs = kind(input_size, hidden_size), torch.nn.RNN(input_size, hidden_size)
    ours.load_state_dict(theirs.state_dict())
    return (ours, ids if tokens else x), (theirs, x), gradient


def compare(case, peers, threads, seconds):
    """Yield a row of results for each way."""
    ours, theirs, gradient = inputs(case)
    own = torch_ways(*ours, gradient)
    expected = own["forward"]()
    rows = {
        way: {**case._asdict(), "threads": threads, "way": way, "ratios": {}, "share_of_peak": []}
        for way in WAYS
    }
    for name in peers:
        peer = PEERS[name](theirs[0].state_dict(), theirs[1], gradient)
        torch.testing.assert_close(peer["forward"](), expected, rtol=1e-3, atol=1e-3)
        for way in WAYS:
            if peer[way] is None:
                continue
            runs = [medians({"ours": own[way], name: peer[way]}, seconds) for _ in range(2)]
            rows[way]["ratios"][name] = [times[name] / times["ours"] for times, _ in runs]
            if name == "nn.RNN":  # others leave threads behind that wait busily for a while
                rows[way]["share_of_peak"] = [
                    case.operations(way) / times["ours"] / top for times, top in runs
                ]
    saved = {"ours": bytes_saved(*ours), "nn.RNN": bytes_saved(*theirs)}
    for row in rows.values():
        yield {**row, "saved_for_backward": saved}


def cpu_name():
    """What the machine calls its processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def run(threads, peers, seconds):
    """All rows for this number of threads, in a process of its own."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    torch.set_num_threads(threads)
    rows = []
    for case in CASES:
        for row in compare(case, peers, threads, seconds):
            rows.append(row)
            print(
                f"{threads} {tuple(case)!s:32} {row['way']:17} {spans(row['ratios'])}   "
                f"{min(row['share_of_peak']):.0%} of peak",
                flush=True,
            )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, torch.get_num_threads()])
    parser.add_argument("--seconds", type=float, default=2, help="a measurement (default: 2)")
    others = [name for name in PEERS if name != "nn.RNN"]
    parser.add_argument("--peers", nargs="*", default=[], choices=others, help="besides nn.RNN")
    arguments = parser.parse_args()
    rows = []
    for threads in dict.fromkeys(arguments.threads):
        # Thread pools are sized once: a fresh process for each number.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            peers = ["nn.RNN", *arguments.peers]
            rows += process.submit(run, threads, peers, arguments.seconds).result()
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
