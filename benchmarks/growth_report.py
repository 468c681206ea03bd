"""Draws time and memory against T, B and H, with the times that the machine allows."""

from cases import AXES
from matplotlib.figure import Figure
from results import CPU

FIGURE = CPU.parent.parent.parent / "docs" / "figures" / "growth.png"
WAY = "forward_backward"
SIDES = {"ours": ("rnnfused", "o-"), "nn.RNN": ("torch.nn.RNN", "s-")}
NAMES = {"T": "steps, T", "B": "rows, B", "H": "units, H"}


def points(results, section, axis, side, figure):
    """Returns sizes and values along an axis; a size without a value is left out."""
    found = {
        record["size"]: record[figure][0]
        for record in results.get(section, [])
        if (record["axis"], record["side"], record["way"]) == (axis, side, WAY)
    }
    return zip(*((x, y) for x, y in sorted(found.items()) if y), strict=True)


def limits(results, axis):
    """Returns sizes, seconds of the multiply-adds at the peak, and of reading W_hh once per step, both ways."""

    def operations(record):
        return AXES[record["axis"]][1](record["size"]).operations(WAY)

    # A busy moment lowers a measured peak, and nothing raises it.
    peak = max(operations(r) / r[f"{WAY}_at_peak"][0] for r in results["limits"])
    found = [record for record in results["limits"] if record["axis"] == axis]
    found.sort(key=lambda record: record["size"])
    # Backward reads W_hh once more.
    rows = [(r["size"], operations(r) / peak, 2 * r["reads"][0]) for r in found]
    return zip(*rows, strict=True)


def draw(results):
    """Writes the figure of a processor; nothing where growth was not measured."""
    if not results.get("growth"):
        return
    picture = Figure(figsize=(9, 5.4), layout="constrained")
    grid = picture.subplots(2, 3)
    for column, axis in enumerate(AXES):
        times, peaks = grid[0][column], grid[1][column]
        for side, (name, style) in SIDES.items():
            times.loglog(*points(results, "growth", axis, side, "seconds"), style, ms=3, label=name)
            sizes, size_bytes = points(results, "peaks", axis, side, "bytes")
            peaks.loglog(sizes, [each / 1e6 for each in size_bytes], style, ms=3)
        sizes, at_peak, reads = limits(results, axis)
        times.loglog(sizes, at_peak, "k:", label="multiply-adds at the peak")
        times.loglog(sizes, reads, "k--", lw=0.8, label="W_hh read once per step")
        times.set_title(f"against {axis}: {others(axis)}", fontsize=9)
        peaks.set_xlabel(NAMES[axis])
        for axes in (times, peaks):
            axes.spines[["top", "right"]].set_visible(False)
    grid[0][0].set_ylabel("seconds")
    grid[1][0].set_ylabel("peak extra memory, MB")
    picture.suptitle(f"{results['cpu']}, 1 thread, forward + backward", fontsize=10)
    handles, labels = grid[0][0].get_legend_handles_labels()
    picture.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(FIGURE, dpi=120)


def others(axis):
    """The sizes that stay, such as 'B 8, H 64'."""
    sizes, case_of = AXES[axis]
    case = case_of(sizes[0])
    known = {"T": case.num_steps, "B": case.batch_size, "H": case.hidden_size}
    return ", ".join(f"{name} {size}" for name, size in known.items() if name != axis)


def sentences(results):
    """Bullets: how much time and memory a step, a row or a unit takes at the largest size, beside nn.RNN."""
    if not results.get("growth"):
        return f"Growth was not measured on {results['cpu']}."
    lines = []
    for axis in AXES:
        of_side = {
            side: (
                dict(zip(*points(results, "growth", axis, side, "seconds"), strict=True)),
                dict(zip(*points(results, "peaks", axis, side, "bytes"), strict=True)),
            )
            for side in SIDES
        }
        (our_times, our_peaks), (their_times, their_peaks) = of_side.values()
        size = max(our_times)
        ratios = [their_times[each] / our_times[each] for each in our_times]
        lines.append(
            f"- {axis} from {min(our_times):,} to {size:,} ({others(axis)}): rnnfused is {min(ratios):.1f} to "
            f"{max(ratios):.1f} times faster than `nn.RNN`. At {axis} {size:,} it takes {our_times[size]:.2g} s and "
            f"{our_peaks[size] / 1e6:,.0f} MB, `nn.RNN` {their_times[size]:.2g} s and {their_peaks[size] / 1e6:,.0f} MB."
        )
    return "\n".join(lines)
