"""Makes the figure and the README's table from results/cpu.json: no figure there is typed in by hand."""

import json
import math
import re
from pathlib import Path

from matplotlib.figure import Figure

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
FIGURE = HERE / "results" / "cpu.png"
MARKS = "<!-- begin: benchmarks/report.py -->", "<!-- end -->"
SIZES = ("num_steps", "batch_size", "input_size", "hidden_size")
WAYS = {"forward": "forward", "forward_backward": "forward + backward"}


def load():
    """The results, and its rows by (case, threads, way); a case is its sizes and whether ours takes ids."""
    results = json.loads((HERE / "results" / "cpu.json").read_text())
    rows = {}
    for row in results["rows"]:
        case = (*(row[size] for size in SIZES), row["tokens"])
        rows[case, row["threads"], row["way"]] = row
    return results, rows


def columns_and_cases(rows):
    columns = list(dict.fromkeys((threads, way) for _, threads, way in rows))
    return columns, list(dict.fromkeys(case for case, _, _ in rows))


def named(case, separator=", "):
    *sizes, tokens = case
    return separator.join(map(str, sizes)) + (separator + "ids" if tokens else "")


def table(results, rows):
    """Markdown: a row a case, a column a number of threads and a way: ratio and share of the peak."""
    columns, cases = columns_and_cases(rows)
    heads = [f"{WAYS[way]}, {n} thread{'s' if n > 1 else ''}" for n, way in columns]
    lines = [
        f"Times faster than `torch.nn.RNN`, and the share of the processor's peak ({results['cpu']}, "
        f"{results['capability']}, torch {results['torch']}, float32, {results['date']}; the worse of two "
        "runs):",
        "",
        "| T, B, I, H | " + " | ".join(heads) + " | saved for backward, MB: ours / `nn.RNN` |",
        "|" + "---|" * (len(columns) + 2),
    ]
    for case in cases:
        picked = [rows[(case, *column)] for column in columns]
        cells = [
            f"{min(row['ratios']['nn.RNN']):.1f} ({min(row['share_of_peak']):.0%})"
            for row in picked
        ]
        saved = picked[0]["saved_for_backward"]
        ours, theirs = (saved[side][1] / 1e6 for side in ("ours", "nn.RNN"))
        cells.append(f"{ours:.2g} / {theirs:.2g}")
        lines.append(f"| {named(case)} | " + " | ".join(cells) + " |")
    others = {name for row in rows.values() for name in row["ratios"]} - {"nn.RNN"}
    if others:
        lines += ["", "Against others, over these cases and numbers of threads: " + "; ".join(
            f"{name} {least:.1f} to {most:.1f} times ({mean:.1f} in the geometric mean)"
            for name, least, most, mean in map(lambda n: spread(rows, n), sorted(others))
        ) + "."]  # fmt: skip
    return "\n".join(lines)


def spread(rows, name):
    """A peer's name, and the least, the largest and the mean of how many times faster ours is."""
    ratios = [min(row["ratios"][name]) for row in rows.values() if name in row["ratios"]]
    return name, min(ratios), max(ratios), math.exp(sum(map(math.log, ratios)) / len(ratios))


def figure(results, rows):
    """Bars of the ratios against torch.nn.RNN."""
    columns, cases = columns_and_cases(rows)
    picture = Figure(figsize=(10, 4), layout="constrained")
    axes = picture.add_subplot(ylabel="times faster than torch.nn.RNN")
    width = 0.8 / len(columns)
    for i, (threads, way) in enumerate(columns):
        places = [x + (i - (len(columns) - 1) / 2) * width for x in range(len(cases))]
        heights = [min(rows[case, threads, way]["ratios"]["nn.RNN"]) for case in cases]
        plural = "s" if threads > 1 else ""
        axes.bar(places, heights, width, label=f"{WAYS[way]}, {threads} thread{plural}")
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks(range(len(cases)), [named(case, "\n") for case in cases], fontsize=7)
    axes.set_xlabel("T, B, I, H")
    axes.legend(fontsize=8)
    picture.savefig(FIGURE, dpi=110)


def main():
    results, rows = load()
    figure(results, rows)
    begin, end = MARKS
    text = README.read_text()
    block = f"{begin}\n{table(results, rows)}\n{end}"
    text, found = re.subn(
        f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: block, text, flags=re.S
    )
    if found != 1:
        raise SystemExit(f"README.md must have the marks {begin} and {end} once")
    README.write_text(text)


if __name__ == "__main__":
    main()
