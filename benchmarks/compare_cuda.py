"""The CUDA loops against cuDNN's nn.RNN and others, in microseconds per step; both sides in turn in one process.

    python benchmarks/compare_cuda.py [--rows first|rest|all] [--seconds 100] [--out rows.jsonl] [--flashrnn]

CUDA events measure the GPU's time. A short wait on the GPU comes first, so that launches are queued by then.
`launch_us` is the processor's time for a whole call, in microseconds: where it exceeds the GPU's, it is the time of a call.
`steps` is rnnfused.RNN with the fused kernels off: one matrix product per step, replayed as a CUDA graph. `loop` is the
fused loop alone, without the input projection.
rnnfused multiplies float32 in IEEE precision. So does `cudnn`; `cudnn_tf32` is cuDNN's default, TF32.

Writes a line of JSON per case and way as soon as it is measured, the most important cases first: times of both runs,
ratios, the layout of the kernels, commit and clocks. A case that fails has its error in place of the times.
"""

import argparse
import json
import statistics
import time
from datetime import date
from functools import partial
from pathlib import Path
from typing import NamedTuple

import gpu_state
import torch

import rnnfused
from rnnfused.bench.shape import ways

RESULTS = Path(__file__).parent / "results" / "cuda.jsonl"
ROUNDS = 20
WAIT_CYCLES = 6_000_000  # GPU clock cycles, about 3 ms: longer than Python needs for a call
TIME_LIMIT = 2.0  # seconds that a kernel waits for another block, far more than any case takes
MAX_DIFFERENCE = 0.1  # of a state to cuDNN's: more is no rounding


class Case(NamedTuple):
    """A call to time; the input size is the hidden size."""

    num_steps: int
    batch_size: int
    hidden_size: int
    dtype: torch.dtype

    @property
    def shape(self):
        return self[:3]


SHAPES = [
    (512, 64, 512),
    (512, 1, 512),
    (512, 16, 512),
    (1024, 64, 1024),
    (2048, 32, 256),
    (32, 1024, 32),
    (256, 256, 1024),
]
FIRST = [
    Case(512, 64, 512, torch.float32),
    Case(512, 64, 512, torch.bfloat16),
    Case(512, 1, 512, torch.float32),
]


def cases(which):
    """The cases `first`, `rest` or `all`, the most important first. float16 runs as bfloat16 does, and comes last."""
    ordered = [Case(*shape, d) for shape in SHAPES for d in (torch.float32, torch.bfloat16)]
    ordered += [Case(*shape, torch.float16) for shape in SHAPES]
    rest = [case for case in ordered if case not in FIRST]
    return {"first": FIRST, "rest": rest, "all": FIRST + rest}[which]


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


def cudnn_flags(tf32):
    """A context with cuDNN, and with TF32 or IEEE products; flags that aren't named get torch's defaults."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=tf32)


class Times(NamedTuple):
    """Milliseconds of a call."""

    gpu: float
    launch: float  # the processor's


def medians(calls):
    """Returns the median times of each call; the calls take turns."""
    times = {name: [] for name in calls}
    for warm in range(-3, ROUNDS):
        for name, call in calls.items():
            rnnfused.cuda.choice = "steps" if name == "steps" else "1"
            torch.cuda._sleep(WAIT_CYCLES)
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            with cudnn_flags(tf32=name == "cudnn_tf32"):
                start.record()
                begin = time.perf_counter()
                call()
                launch = time.perf_counter() - begin
                end.record()
            end.synchronize()
            if warm >= 0:
                times[name].append(Times(start.elapsed_time(end), 1000 * launch))
    return {name: Times(*map(statistics.median, zip(*taken))) for name, taken in times.items()}


def plan_of(weight_hh, batch_size):
    """The layout of the fused kernels in words; None where this build does not tell."""
    ops = torch.ops.rnnfused
    return ops.fused_plan(weight_hh, batch_size) if hasattr(ops, "fused_plan") else None


def difference(one, other):
    """The largest difference of two sequences of states; NaN where one has NaN."""
    return (one.double() - other.double()).abs().max().item()


class Comparison:
    """The modules and calls of a case."""

    def __init__(self, case, with_flashrnn, device="cuda"):
        self.case = case
        new = dict(device=device, dtype=case.dtype)
        kinds = {"ours": rnnfused.RNN, "cudnn": torch.nn.RNN, "steps": rnnfused.RNN}
        if case.dtype == torch.float32:
            kinds["cudnn_tf32"] = torch.nn.RNN
        if with_flashrnn and case.dtype == torch.bfloat16:
            kinds["flashrnn"] = FlashRNN
        size = case.hidden_size
        self.modules = {name: kind(size, size, **new) for name, kind in kinds.items()}
        self.ours = self.modules["ours"]
        for module in self.modules.values():
            module.load_state_dict(self.ours.state_dict())
        self.x = torch.randn(*case.shape, **new)
        gradient = torch.randn_like(self.x)
        self.ways = {name: ways(m, self.x, gradient) for name, m in self.modules.items()}

    def loop(self):
        """The fused loop alone."""
        ours = self.ours
        projections = torch.nn.functional.linear(self.x, ours.weight_ih_l0, ours.bias_ih_l0)
        weight, tanh = ours.weight_hh_l0.detach(), rnnfused.ops.NONLINEARITIES["tanh"]
        nulls = [None] * 5
        arguments = (projections.detach(), None, weight, *nulls, 0, tanh, False, None)
        return partial(rnnfused.ops.layer, *arguments)

    def check(self):
        """Returns the largest difference of a state to cuDNN's; raises ArithmeticError where it is no rounding."""
        rnnfused.cuda.choice = "1"
        with cudnn_flags(tf32=False):
            states = {name: way["forward"]() for name, way in self.ways.items()}
        worst = {
            name: difference(own, states["cudnn"])
            for name, own in states.items()
            if name != "cudnn"
        }
        for name, value in worst.items():
            if not value <= MAX_DIFFERENCE:
                raise ArithmeticError(f"a state of {name} differs from cuDNN's by {value}")
        return worst["ours"]

    def measure(self, way):
        """The times and ratios of a way, of two runs each."""
        for module in self.modules.values():
            module.train(way == "forward_backward")
        calls = {name: of_module[way] for name, of_module in self.ways.items()}
        if way == "forward":
            calls["loop"] = self.loop()
        runs = [medians(calls) for _ in range(2)]
        rnnfused.cuda.choice = "1"
        scale = 1000 / self.case.num_steps
        return {
            "us_per_step": {name: [scale * run[name].gpu for run in runs] for name in calls},
            "launch_us": {name: [1000 * run[name].launch for run in runs] for name in calls},
            "ratios": {
                name: [run[name].gpu / run["ours"].gpu for run in runs]
                for name in calls
                if name not in ("ours", "loop")
            },
        }


def rows(case, with_flashrnn, facts):
    """Yields a row of results per way; one with an error where the case fails."""
    row = {**facts, "shape": case.shape, "dtype": str(case.dtype).removeprefix("torch.")}
    try:
        comparison = Comparison(case, with_flashrnn)
        weight = comparison.ours.weight_hh_l0
        rnnfused.cuda.choice = "1"
        row["fused"] = rnnfused.cuda.uses_fused_kernels(weight, case.batch_size)
        row["plan"] = plan_of(weight, case.batch_size)
        row["difference"] = comparison.check()
        for way in ("forward", "forward_backward"):
            before = gpu_state.clocks()
            measured = comparison.measure(way)
            clocks = {"before": before, "after": gpu_state.clocks()}
            yield {**row, "way": way, **measured, "clocks": clocks}
    except (RuntimeError, ArithmeticError) as error:
        yield {**row, "error": str(error).partition("\n")[0]}


def line_of(row):
    """A row for people."""
    start = f"{row['shape']!s:18} {row['dtype']:9} "
    if "error" in row:
        return start + f"failed: {row['error']}"
    times = "  ".join(f"{name} {max(us):.2f}" for name, us in row["us_per_step"].items())
    kind = "fused" if row["fused"] else "steps"
    ratios = "  ".join(f"{n} {min(pair):.2f}-{max(pair):.2f}" for n, pair in row["ratios"].items())
    return start + f"{row['way']:17} {kind}  us/step: {times}  times faster than: {ratios}"


def run(chosen, out, seconds, with_flashrnn, facts, rows=rows, clock=time.monotonic):
    """Measures cases while there is time; returns (rows written, cases left out, rows that failed)."""
    started, longest, written, failed = clock(), 0.0, 0, 0
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w") as file:
        for index, case in enumerate(chosen):
            begun = clock()
            if begun - started + longest > seconds:
                return written, len(chosen) - index, failed
            for row in rows(case, with_flashrnn, facts):
                file.write(json.dumps(row) + "\n")
                file.flush()
                print(line_of(row), flush=True)
                written += 1
                failed += "error" in row
            longest = max(longest, clock() - begun)
    return written, 0, failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", choices=("first", "rest", "all"), default="all")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no case later")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the file of rows")
    parser.add_argument(
        "--flashrnn", action="store_true", help="also time flashrnn (it compiles first)"
    )
    options = parser.parse_args()
    if hasattr(torch.ops.rnnfused, "fused_time_limit"):
        torch.ops.rnnfused.fused_time_limit(TIME_LIMIT)
    facts = {
        "date": date.today().isoformat(),
        "commit": gpu_state.commit(),
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(),
    }
    chosen = cases(options.rows)
    written, left_out, failed = run(chosen, options.out, options.seconds, options.flashrnn, facts)
    of = f"{left_out} of {len(chosen)} cases left out"
    print(f"note: {written} rows, {failed} of them failed, {of}")
    raise SystemExit(int(failed > 0))


if __name__ == "__main__":
    main()
