"""Makes the figure and the README's tables from results/cpu/*.json: no figure there is typed in by hand."""

import json
import math
import re
import statistics
from pathlib import Path

from matplotlib.figure import Figure
from peers import PEERS
from results import CPU

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
FIGURE = HERE / "results" / "cpu.png"
MARKS = "<!-- begin: benchmarks/report.py -->", "<!-- end -->"
WAYS = {"forward": "forward", "forward_backward": "forward + backward"}
NOTHING = "–"  # where a case has not been measured


def last_date(results):
    return max(record["date"] for record in results["times"])


def load():
    """The results of each processor, the last measured first."""
    files = [json.loads(path.read_text()) for path in sorted(CPU.glob("*.json"))]
    if not files:
        raise SystemExit(f"{CPU} has no results: measure some first")
    return sorted(files, key=last_date, reverse=True)


def by_case(results):
    """The comparisons by (case, threads, way), then by what with; the memory by case, then by side."""
    comparisons, memory = {}, {}
    for record in results["times"]:
        key = record["case"], record["threads"], record["way"]
        comparisons.setdefault(key, {})[record["against"]] = record
    fewest = min((record["threads"] for record in results["memory"]), default=1)
    for record in results["memory"]:
        if record["threads"] == fewest:
            memory.setdefault(record["case"], {})[record["side"]] = record
    return comparisons, memory


def columns_and_cases(comparisons):
    measured = [key for key, against in comparisons.items() if "nn.RNN" in against]
    columns = list(dict.fromkeys((threads, way) for _, threads, way in measured))
    return columns, list(dict.fromkeys(case for case, _, _ in measured))


def with_threads(way, threads):
    return f"{WAYS[way]}, {threads} thread{'s' if threads > 1 else ''}"


def least_and_most(values):
    """'a to b', or 'a' where both are the same as printed."""
    least, most = f"{min(values):.1f}", f"{max(values):.1f}"
    return least if least == most else f"{least} to {most}"


def time_cell(against):
    if "nn.RNN" not in against:
        return NOTHING
    record = against["nn.RNN"]
    return f"{min(record['ratios']):.1f} ({min(record['share_of_peak']):.0%})"


def megabytes(size):
    """To two digits, and not as a power of ten."""
    return f"{float(f'{size / 1e6:.2g}'):.9f}".rstrip("0").rstrip(".")


def memory_cells(sides):
    """What is saved, and the most that is taken: the worse run of ours, the better one of nn.RNN."""
    if len(sides) < 2:
        return [NOTHING, NOTHING]
    saved, taken = [], []
    for side, pick in (("ours", max), ("nn.RNN", min)):
        record = sides[side]
        saved.append(f"{record['saved_tensors'][0]} ({megabytes(record['saved_bytes'][0])})")
        extra = [x for x in record["peak_extra_bytes"] if x is not None]
        taken.append(megabytes(pick(extra)) if extra else NOTHING)
    return [" / ".join(saved), " / ".join(taken)]


def section(results):
    """Markdown: a row a case, a column a number of threads and a way: ratio and share of the peak; memory."""
    comparisons, memory = by_case(results)
    columns, cases = columns_and_cases(comparisons)
    dates = sorted({record["date"] for record in results["times"]})
    heads = [with_threads(way, threads) for threads, way in columns]
    heads.append("saved for backward, tensors (MB): ours / `nn.RNN`")
    heads.append("peak extra memory, MB: ours / `nn.RNN`")
    lines = [
        f"Times faster than `torch.nn.RNN`, and the share of the processor's peak ({results['cpu']}, "
        f"{results['capability']}, torch {results['torch']}, float32, "
        f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}; the worse of two runs):",
        "",
        "| T, B, I, H | " + " | ".join(heads) + " |",
        "|" + "---|" * (len(heads) + 1),
    ]
    for case in cases:
        cells = [time_cell(comparisons.get((case, *column), {})) for column in columns]
        cells += memory_cells(memory.get(case, {}))
        lines.append(f"| {case.replace('-', ', ')} | " + " | ".join(cells) + " |")
    return "\n".join(
        [
            *lines,
            *peers(comparisons),
            *bfloat16(comparisons),
            *fixed_cost(comparisons),
            *subnormal(comparisons),
            *options(comparisons),
        ]
    )


def ratios(comparisons, name):
    """The lesser ratio of each comparison with this one."""
    return [min(against[name]["ratios"]) for against in comparisons.values() if name in against]


def peers(comparisons):
    """A sentence on the others: how many times faster ours is."""
    names = {name for against in comparisons.values() for name in against}
    names = sorted(names & set(PEERS) - {"nn.RNN"})
    if not names:
        return
    spreads = []
    for name in names:
        of_name = ratios(comparisons, name)
        mean = math.exp(sum(map(math.log, of_name)) / len(of_name))
        spreads.append(f"{name} {least_and_most(of_name)} times ({mean:.1f} in the geometric mean)")
    yield ""
    yield f"Against others, over these cases and numbers of threads: {'; '.join(spreads)}."


def bfloat16(comparisons):
    """A sentence on 16-bit tensors."""
    found = {}
    for (_, _, way), against in comparisons.items():
        if "own float32" in against:
            found.setdefault(way, []).append(min(against["own float32"]["ratios"]))
    if found:
        text = ", ".join(
            f"{least_and_most(found[way])} {WAYS[way]}" for way in WAYS if way in found
        )
        yield ""
        yield (
            "In bfloat16, times faster than in float32, both ours, where B is at least 16 and H at least 256: "
            f"{text}."
        )


def fixed_cost(comparisons):
    """A sentence on a call with next to no arithmetic."""
    found = {}
    for (_, _, way), against in comparisons.items():
        if "linear" in against:
            times = [1 / ratio for ratio in against["linear"]["ratios"]]
            found.setdefault(way, []).extend(times)
    if found:
        text = ", ".join(
            f"{least_and_most(found[way])} {WAYS[way]}" for way in WAYS if way in found
        )
        yield ""
        yield (
            "The fixed cost: a call of T = B = 1, I = H = 8 takes as long as this many calls of "
            f"`torch.nn.functional.linear` of that size: {text}.{parts_of_fixed_cost(comparisons)}"
        )


def parts_of_fixed_cost(comparisons):
    """Where the time of such a forward call goes, in percent."""
    op, dispatch = (
        [statistics.median(a[part]["ratios"]) for a in comparisons.values() if part in a]
        for part in ("op", "dispatch")
    )
    if not (op and dispatch):
        return ""
    op, dispatch = statistics.median(op), statistics.median(dispatch)
    return (
        f" Of the forward call, {dispatch:.0%} is torch's way to an operator that does nothing; "
        f"{op - dispatch:.0%} more are the operator's: tensors there and back, the results' memory, "
        f"packed weights, one step; {1 - op:.0%} are Python's: the module's call, checks of arguments, parameters."
    )


def options(comparisons):
    """A sentence on what else was compared."""
    names = {
        "second order": "a gradient of a gradient next to the reference loop's",
        "own eager": "a layer under `torch.compile` next to itself without",
        "nn.RNNCell": "`RNNCell` next to torch's",
        "nn.RNN packed": "rows with `lengths` next to `nn.RNN` on the same rows packed",
        "own padded": "the same next to ours on all steps",
    }
    found = [
        f"{text} {least_and_most([r for a in comparisons.values() if name in a for r in a[name]['ratios']])}"
        for name, text in names.items()
        if any(name in against for against in comparisons.values())
    ]
    if found:
        yield ""
        yield f"Times faster, forward alone or with backward: {'; '.join(found)}."


def subnormal(comparisons):
    """A sentence on values that some processors are slow at."""
    slower = [
        ratio
        for against in comparisons.values()
        for name, record in against.items()
        if name.startswith("subnormal ")
        for ratio in record["ratios"]
    ]
    if slower:
        yield ""
        yield (
            "Subnormal weights, states, products or gradients take "
            f"at most {max(slower):.1f} times as long as normal ones."
        )


def figure(comparisons):
    """Bars of the ratios against torch.nn.RNN."""
    columns, cases = columns_and_cases(comparisons)
    picture = Figure(figsize=(10, 4), layout="constrained")
    axes = picture.add_subplot(ylabel="times faster than torch.nn.RNN")
    width = 0.8 / len(columns)
    for i, (threads, way) in enumerate(columns):
        middle = (i - (len(columns) - 1) / 2) * width
        heights = {}
        for x, case in enumerate(cases):
            against = comparisons.get((case, threads, way), {})
            if "nn.RNN" in against:
                heights[x + middle] = min(against["nn.RNN"]["ratios"])
        axes.bar(list(heights), list(heights.values()), width, label=with_threads(way, threads))
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks(range(len(cases)), [case.replace("-", "\n") for case in cases], fontsize=7)
    axes.set_xlabel("T, B, I, H")
    picture.legend(loc="outside upper center", ncols=len(columns), fontsize=8)
    picture.savefig(FIGURE, dpi=110)


def folded(results):
    """A section that opens when it is clicked."""
    summary = f"<summary>On another processor: {results['cpu']}</summary>"
    return f"<details>\n{summary}\n\n{section(results)}\n\n</details>"


def main():
    newest, *others = load()
    figure(by_case(newest)[0])
    begin, end = MARKS
    text = README.read_text()
    block = "\n\n".join([f"{begin}\n{section(newest)}", *map(folded, others)]) + f"\n{end}"
    text, found = re.subn(
        f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: block, text, flags=re.S
    )
    if found != 1:
        raise SystemExit(f"README.md must have the marks {begin} and {end} once")
    README.write_text(text)


if __name__ == "__main__":
    main()
