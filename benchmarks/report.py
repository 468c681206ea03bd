"""Makes the figure and the README's table from results/cpu.json: no figure there is typed in by hand."""

import json
import re
from pathlib import Path

from matplotlib.figure import Figure

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
FIGURE = HERE / "results" / "cpu.png"
MARKS = "<!-- begin: benchmarks/report.py -->", "<!-- end -->"
STEPS = {"forward": "forward", "forward_backward": "forward + backward"}


def load():
    """The results, and the worse of each row's two ratios by (shape, threads, step)."""
    results = json.loads((HERE / "results" / "cpu.json").read_text())
    ratios = {
        (tuple(row["shape"]), row["threads"], row["step"]): min(row["ratios"])
        for row in results["rows"]
    }
    return results, ratios


def columns_and_shapes(ratios):
    columns = list(dict.fromkeys((threads, step) for _, threads, step in ratios))
    return columns, list(dict.fromkeys(shape for shape, _, _ in ratios))


def table(results, ratios):
    """Markdown: a row a shape, a column a number of threads and a direction."""
    columns, shapes = columns_and_shapes(ratios)
    heads = [f"{STEPS[step]}, {n} thread{'s' if n > 1 else ''}" for n, step in columns]
    lines = [
        f"Times faster than `torch.nn.RNN` ({results['cpu']}, {results['capability']}, "
        f"torch {results['torch']}, float32, {results['date']}; the worse of two runs):",
        "",
        "| T, B, I, H | " + " | ".join(heads) + " |",
        "|" + "---|" * (len(columns) + 1),
    ]
    for shape in shapes:
        cells = [f"{ratios[(shape, *column)]:.1f}" for column in columns]
        lines.append(f"| {', '.join(map(str, shape))} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def figure(results, ratios):
    """Bars of the same ratios."""
    columns, shapes = columns_and_shapes(ratios)
    picture = Figure(figsize=(8, 4), layout="constrained")
    axes = picture.add_subplot(ylabel="times faster than torch.nn.RNN")
    width = 0.8 / len(columns)
    for i, (threads, step) in enumerate(columns):
        places = [x + (i - (len(columns) - 1) / 2) * width for x in range(len(shapes))]
        heights = [ratios[shape, threads, step] for shape in shapes]
        plural = "s" if threads > 1 else ""
        axes.bar(places, heights, width, label=f"{STEPS[step]}, {threads} thread{plural}")
    axes.axhline(1, color="black", linewidth=0.8)
    labels = ["T{} B{}\nI{} H{}".format(*shape) for shape in shapes]
    axes.set_xticks(range(len(shapes)), labels, fontsize=8)
    axes.legend(fontsize=8)
    picture.savefig(FIGURE, dpi=110)


def main():
    results, ratios = load()
    figure(results, ratios)
    begin, end = MARKS
    text = README.read_text()
    block = f"{begin}\n{table(results, ratios)}\n{end}"
    text, found = re.subn(
        f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: block, text, flags=re.S
    )
    if found != 1:
        raise SystemExit(f"README.md must have the marks {begin} and {end} once")
    README.write_text(text)


if __name__ == "__main__":
    main()
