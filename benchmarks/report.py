"""Writes the measured figures into README.md and docs/, from the files in results/.

Each generated part stands between the marks ``<!-- begin: benchmarks/report.py NAME -->`` and ``<!-- end -->``.
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

import accuracy_report
import coverage_report
import cuda_report
import growth_report
import learning_report
import temporal_report
from matplotlib.figure import Figure
from result_tables import (
    NOT_MEASURED,
    WAYS,
    by_case,
    least_and_most,
    ratios,
    section,
    spread_of,
    typical,
    with_threads,
)

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "cpu"
FIGURE = ROOT / "docs" / "figures" / "speed.png"
END = "<!-- end -->"

# README and figure show these alone: little and much arithmetic per step, one row and many.
HEADLINE = ("32-1-28-32", "32-1024-28-32", "35-20-200-200", "512-1-512-512", "128-128-1024-1024")
# Peer in the results: column of the README's table.
COLUMNS = {
    "nn.RNN": "`torch.nn.RNN`",
    "jax": "jax (`jit`, `lax.scan`)",
    "onnxruntime": "ONNX Runtime (forward)",
    "onednn": "oneDNN's primitive",
    "own eager": "rnnfused under `torch.compile`, against eager",
}


class Measured(NamedTuple):
    """What the generated parts are made of."""

    processors: list  # results files, the last measured first
    learning: dict  # records of learning_curve.py, by change
    accuracy: dict  # results of accuracy.py
    temporal: dict  # records of temporal_order.py, by way and length
    coverage: dict  # results of `make coverage`
    cuda: dict  # results on NVIDIA GPUs


def load():
    """Returns all results."""
    files = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    if not files:
        raise SystemExit(f"{RESULTS} has no results: run `make bench` first")
    files.sort(key=lambda results: max(r["date"] for r in results["times"]), reverse=True)
    return Measured(
        files,
        learning_report.by_change(),
        accuracy_report.load(),
        temporal_report.by_way(),
        coverage_report.load(),
        cuda_report.load(),
    )


def begin(name):
    """The mark before a generated part."""
    return f"<!-- begin: benchmarks/report.py {name} -->"


def headline_cell(comparisons, case, threads, peer):
    """'forward / forward + backward': medians; bold where the peer is faster."""
    found = [comparisons.get((case, threads, way), {}).get(peer) for way in WAYS]
    if not any(found):
        return NOT_MEASURED
    values = [f"{typical(record):.1f}" for record in found if record]
    return " / ".join(f"**{value}**" if float(value) < 1 else value for value in values)


def fewest_threads(comparisons):
    """The least number of threads measured."""
    return min(threads for _, threads, _ in comparisons)


def speed_table(measured):
    """The README's five rows, on the processor measured last, and the range on the others."""
    processors, newest = measured.processors, measured.processors[0]
    comparisons, _ = by_case(newest)
    threads = fewest_threads(comparisons)
    lines = [
        "| T, B, I, H | " + " | ".join(COLUMNS.values()) + " |",
        "|---" * (1 + len(COLUMNS)) + "|",
    ]
    for case in HEADLINE:
        cells = [headline_cell(comparisons, case, threads, peer) for peer in COLUMNS]
        lines.append(f"| {case.replace('-', ', ')} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"{newest['cpu']}, {threads} thread{'s' * (threads > 1)}, float32, torch {newest['torch']}; "
        f"medians of {spread_of(newest)}; bold: rnnfused is slower.",
    ]
    ranges = [
        f"{least_and_most(ratios(by_case(results)[0], 'nn.RNN'))} on {results['cpu']}"
        for results in processors
    ]
    lines.append(f"All cases and thread counts against `torch.nn.RNN`: {'; '.join(ranges)}.")
    return "\n".join(lines)


def full_tables(measured):
    """A section per processor."""
    return "\n\n".join(map(section, measured.processors))


def growth_sentences(measured):
    """How time and memory grow with T, on the processor measured last."""
    return growth_report.sentences(measured.processors[0])


def of(name, make):
    """Makes a generated part from one field of Measured."""
    return lambda measured: make(getattr(measured, name))


# File: the generated parts in it.
PARTS = {
    "README.md": {
        "speed": speed_table,
        "gpu": of("cuda", cuda_report.sentence),
        "learning": of("learning", learning_report.sentence),
    },
    "docs/performance.md": {
        "tables": full_tables,
        "gpu": of("cuda", cuda_report.table),
        "launches": of("cuda", cuda_report.launches),
        "growth": growth_sentences,
    },
    "docs/cuda-loop.md": {"estimates": of("cuda", cuda_report.estimates)},
    "docs/language-model.md": {
        "learning": of("learning", learning_report.table),
        "temporal order": of("temporal", temporal_report.table),
    },
    "docs/accuracy.md": {
        "tanh": of("accuracy", accuracy_report.tanh_table),
        "loops": of("accuracy", accuracy_report.loop_table),
    },
    "docs/evidence.md": {"coverage": of("coverage", coverage_report.sentences)},
}


def filled(text, parts, measured):
    """Returns the text with its generated parts made anew."""
    for name, make in parts.items():
        pattern = f"{re.escape(begin(name))}.*?{re.escape(END)}"
        block = f"{begin(name)}\n{make(measured)}\n{END}"
        text, found = re.subn(pattern, lambda _, block=block: block, text, flags=re.S)
        if found != 1:
            raise ValueError(f"the text must have {begin(name)} once, got it {found} times")
    return text


def heights(results):
    """The figure's data: for each column of bars, the ratio to nn.RNN in each headline case."""
    comparisons, _ = by_case(results)
    columns = sorted({key[1:] for key in comparisons if key[0] in HEADLINE})
    data = {}
    for threads, way in columns:
        found = [comparisons.get((case, threads, way), {}).get("nn.RNN") for case in HEADLINE]
        if all(found):
            data[with_threads(way, threads)] = [typical(record) for record in found]
    return data


def draw(results):
    """Writes the figure; its data goes into the file too, which the tests compare with the results."""
    data = heights(results)
    picture = Figure(figsize=(8, 3.4), layout="constrained")
    axes = picture.add_subplot(ylabel="times faster than torch.nn.RNN", title=results["cpu"])
    width = 0.8 / len(data)
    for i, (label, values) in enumerate(data.items()):
        offset = (i - (len(data) - 1) / 2) * width
        bars = axes.bar([x + offset for x in range(len(values))], values, width, label=label)
        axes.bar_label(bars, fmt="%.1f", fontsize=7)
    axes.axhline(1, color="black", linewidth=0.8)
    names = [dict(zip("TBIH", case.split("-"), strict=True)) for case in HEADLINE]
    ticks = ["T {T}  B {B}\nI {I}  H {H}".format_map(name) for name in names]
    axes.set_xticks(range(len(HEADLINE)), ticks, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    picture.legend(loc="outside lower center", ncols=len(data), fontsize=8, frameon=False)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(FIGURE, dpi=120, metadata={"Description": json.dumps(data)})


def main():
    """Draws the figures and fills every file in."""
    measured = load()
    draw(measured.processors[0])
    growth_report.draw(measured.processors[0])
    learning_report.draw(measured.learning)
    accuracy_report.draw(measured.accuracy)
    temporal_report.draw(measured.temporal)
    for name, parts in PARTS.items():
        path = ROOT / name
        path.write_text(filled(path.read_text(), parts, measured))


if __name__ == "__main__":
    main()
