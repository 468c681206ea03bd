"""Makes the table and the figure of results/temporal_order.json."""

import statistics

from matplotlib.figure import Figure
from records import load
from result_tables import NOT_MEASURED
from temporal_order import RESULTS

FIGURE = RESULTS.parent.parent.parent / "docs" / "figures" / "temporal_order.png"
WEIGHTS = {"normal": "N(0, 0.1²)", "scaled": "spectral radius 0.95"}


def by_way():
    """Returns the runs by (weights, whether gradients are clipped), then by length."""
    runs_of = {}
    for record in sorted(load(RESULTS), key=lambda r: (r["weights"], r["clips"], r["length"])):
        by_length = runs_of.setdefault((record["weights"], record["clips"]), {})
        by_length.setdefault(record["length"], []).append(record)
    return runs_of


def name_of(weights, clips):
    """Names a way of training."""
    return f"{WEIGHTS[weights]}, {'clipped' if clips else 'not clipped'}"


def cell(runs):
    """'successes/runs', and the median number of updates that the successes took."""
    if not runs:
        return NOT_MEASURED
    updates = [run["updates"] for run in runs if run["succeeds"]]
    after = f", {statistics.median_low(updates):,}" if updates else ""
    return f"{len(updates)}/{len(runs)}{after}"


def table(runs_of):
    """A row per way of training, a column per length."""
    lengths = sorted({length for by_length in runs_of.values() for length in by_length})
    lines = [
        "| weights, gradients | " + " | ".join(f"T {length}" for length in lengths) + " |",
        "|---" * (1 + len(lengths)) + "|",
    ]
    for way, by_length in runs_of.items():
        cells = [cell(by_length.get(length, [])) for length in lengths]
        lines.append(f"| {name_of(*way)} | {' | '.join(cells)} |")
    failed = [
        run["updates"]
        for by_length in runs_of.values()
        for runs in by_length.values()
        for run in runs
        if not run["succeeds"]
    ]
    if failed:
        lines += ["", f"Runs that failed had at least {min(failed):,} updates."]
    return "\n".join(lines)


def draw(runs_of):
    """Writes the figure: the share of runs that succeed, by length."""
    picture = Figure(figsize=(6, 3), layout="constrained")
    axes = picture.add_subplot(xlabel="steps", ylabel="runs that succeed", ylim=(-0.05, 1.05))
    for (weights, clips), by_length in runs_of.items():
        shares = [statistics.mean(run["succeeds"] for run in runs) for runs in by_length.values()]
        style = "o-" if clips else "x--"
        axes.plot(list(by_length), shares, style, label=name_of(weights, clips))
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    picture.savefig(FIGURE, dpi=120)
