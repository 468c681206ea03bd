"""Makes the table, the sentence and the figure of results/learning_curve.json."""

import statistics
import textwrap

from learning_curve import CHANGES, RESULTS
from matplotlib.figure import Figure
from records import load
from result_tables import least_and_most

FIGURE = RESULTS.parent.parent.parent / "docs" / "figures" / "learning_curve.png"
DEFAULTS = ""


def by_change():
    """Returns the records of each change that has any, the defaults first."""
    records = load(RESULTS)
    found = {change: [r for r in records if r["change"] == change] for change in CHANGES}
    return {change: runs for change, runs in found.items() if runs}


def last(runs, name):
    """Returns the bits per character after the last epoch, of each run."""
    return [run[name][-1] for run in runs]


def table(runs_of):
    """A row per change: bits per character after the last epoch."""
    lines = ["| changed | runs | training | validation |", "|---|---|---|---|"]
    for change, runs in runs_of.items():
        name = f"`{change}`" if change else "nothing: the defaults"
        figures = [least_and_most(last(runs, part), 3) for part in ("training", "validation")]
        lines.append(f"| {name} | {len(runs)} | {' | '.join(figures)} |")
    return "\n".join(lines)


def sentence(runs_of):
    """The README's: text, epochs, seeds and result of the defaults."""
    runs = runs_of[DEFAULTS]
    epochs, bigram = len(runs[0]["validation"]), runs[0]["bigram"]
    median = statistics.median(last(runs, "validation"))
    text = (
        f"With its defaults, on nine tenths of Tiny Shakespeare, {epochs} epochs reach {median:.2f} bits per character "
        f"on the tenth that was held out (median of {len(runs)} seeds; a bigram model: {bigram:.2f})."
    )
    return textwrap.fill(text, 120)


def draw(runs_of):
    """Writes the figure: the defaults' curves, a line per seed."""
    picture = Figure(figsize=(6, 3), layout="constrained")
    axes = picture.add_subplot(xlabel="epoch", ylabel="bits per character")
    for name, style in (("training", "--"), ("validation", "-")):
        for number, run in enumerate(runs_of[DEFAULTS]):
            epochs = range(1, len(run[name]) + 1)
            axes.plot(
                epochs, run[name], style, color=f"C{number}", label=f"{name}, seed {run['seed']}"
            )
    axes.legend(frameon=False, fontsize=8, ncols=2)
    axes.spines[["top", "right"]].set_visible(False)
    picture.savefig(FIGURE, dpi=120)
