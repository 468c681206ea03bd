"""Sentences and tables of the results on NVIDIA GPUs: cuda.jsonl of compare_cuda.py, cuda_sweep.jsonl of the probe.

python benchmarks/cuda_report.py build/gpu-check/sweep.jsonl    makes the latter
"""

import json
import sys
from pathlib import Path

from results import CPU

RESULTS = CPU.parent / "cuda.jsonl"
SWEEP = CPU.parent / "cuda_sweep.jsonl"
WAYS = ("forward", "forward_backward")


def load():
    """Returns the rows of both files."""
    return {
        name: [json.loads(line) for line in path.read_text().splitlines()]
        for name, path in (("benchmark", RESULTS), ("sweep", SWEEP))
    }


def mean(pair):
    return sum(pair) / len(pair)


def ratio(row, peer="cudnn"):
    """How many times faster than a peer, of two runs."""
    return mean(row["ratios"][peer])


def by_case(rows):
    """Returns {(dtype, shape): {way: row}}, in the order of the file."""
    cases = {}
    for row in rows:
        cases.setdefault((row["dtype"], tuple(row["shape"])), {})[row["way"]] = row
    return cases


def dtypes(rows):
    return list(dict.fromkeys(row["dtype"] for row in rows))


def machine(rows):
    [(device, torch)] = {(row["device"], row["torch"]) for row in rows}
    return f"{device}, torch {torch}, cuDNN {rows[0]['cudnn']}"


def sentence(measured):
    """The ranges against cuDNN, for the README."""
    rows = measured["benchmark"]
    ranges = []
    for dtype in dtypes(rows):
        found = [ratio(row) for row in rows if row["dtype"] == dtype]
        ranges.append(f"{min(found):.1f} to {max(found):.1f} in {dtype}")
    return (
        f"With the fused kernels on an {machine(rows).split(',')[0]}, times faster than `torch.nn.RNN` by cuDNN, "
        f"without TF32, both ways: {', '.join(ranges)}."
    )


def table(measured):
    """Every case: microseconds per step, and how many times faster than each peer."""
    rows = measured["benchmark"]
    lines = [
        "| dtype | T, B, H | loop, us a step | whole, forward / with backward | times faster than cuDNN | than cuDNN with TF32 |",
        "|---|---|---|---|---|---|",
    ]
    for (dtype, shape), ways in by_case(rows).items():
        found = [ways[way] for way in WAYS if way in ways]
        cells = [dtype, ", ".join(map(str, shape))]
        loop = found[0]["us_per_step"].get("loop")
        cells.append(f"{mean(loop):.2f}" if loop and found[0]["fused"] else "–")
        cells.append(" / ".join(f"{mean(row['us_per_step']['ours']):.2f}" for row in found))
        for peer in ("cudnn", "cudnn_tf32"):
            values = [f"{ratio(row, peer):.1f}" for row in found if peer in row["ratios"]]
            marked = [f"**{value}**" if float(value) < 1 else value for value in values]
            cells.append(" / ".join(marked) or "–")
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        f"{machine(rows)}; means of two runs of medians; bold: rnnfused is slower. A loop of – goes step by step.",
    ]
    return "\n".join(lines)


def launches(measured):
    """The processor's time to launch a call of a fused layer, and of cuDNN's; empty where no row has it."""
    rows = [row for row in measured["benchmark"] if row["fused"] and "launch_us" in row]
    if not rows:
        return ""

    def range_of(name, way):
        found = [mean(row["launch_us"][name]) for row in rows if row["way"] == way]
        return f"{min(found):.0f} to {max(found):.0f} us"

    (of_forward, of_both), theirs = (
        [range_of(name, way) for way in WAYS] for name in ("ours", "cudnn")
    )
    return (
        f"The processor takes {of_forward} to launch a call, {of_both} with backward; for `nn.RNN` {theirs[0]} and "
        f"{theirs[1]} (medians of each case)."
    )


def estimates(measured):
    """How the planner's choices compare with the fastest plans of the sweep."""
    rows = measured["sweep"]
    calls = {}
    for row in rows:
        key = row["dtype"], row["way"], row["batch_size"], row["hidden_size"]
        calls.setdefault(key, []).append(row)
    losses = []
    for found in calls.values():
        chosen = [row["us_per_step"] for row in found if row["plan"] == ""]
        if chosen and len({row["details"] for row in found}) > 1:
            losses.append(chosen[0] / min(row["us_per_step"] for row in found))
    return (
        f"In {len(losses)} combinations of dtype, direction and shape with several plans, {len(rows)} measured calls in "
        f"all, the planner's choice takes {min(losses):.2f} to {max(losses):.2f} times as long as the fastest plan."
    )


def keep(path):
    """Makes the file of the sweep from the one that gpu-check has written."""
    keys = ("plan", "details", "dtype", "way", "batch_size", "hidden_size", "num_steps")
    keys += ("us_per_step", "estimated_us_per_step")
    rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
    timed = [{key: row[key] for key in keys} for row in rows if "us_per_step" in row]
    SWEEP.write_text("".join(json.dumps(row) + "\n" for row in timed))


if __name__ == "__main__":
    keep(sys.argv[1])
