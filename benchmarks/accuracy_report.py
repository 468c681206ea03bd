"""Makes the tables and the figure of results/accuracy.json."""

import json

from accuracy import HIDDEN_SIZES, RESULTS, SATURATED, STEPS
from matplotlib.figure import Figure

FIGURE = RESULTS.parent.parent.parent / "docs" / "figures" / "accuracy.png"
PEERS = {"nn.RNN": "torch.nn.RNN", "jax": "JAX", "onnxruntime": "ONNX Runtime"}


def load():
    """Returns the results."""
    return json.loads(RESULTS.read_text())


def tanh_table(results):
    """A row per instruction set: errors in ulp, and the share of 16-bit results that are not the nearest value."""
    lines = [
        "| instruction set | float32 worst | at | float32 mean | float64 worst | bfloat16 off | float16 off | odd, monotone, special values |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, found in results["tanh"].items():
        float32, float64 = found["float32"], found["float64"]
        of_both = (float32, float64)
        holds = all(part["odd"] and part["monotone"] and part["special"] for part in of_both)
        holds = (
            holds
            and float32["saturates"]
            and all(found[t]["special"] for t in ("bfloat16", "float16"))
        )
        cells = [
            f"{float32['worst_ulp']:.3f}",
            f"{float32['worst_at']:.6f}",
            f"{float32['mean_ulp']:.3f}",
            f"{float64['worst_ulp']:.3f}",
            *(f"{found[t]['not_nearest']:.2%}" for t in ("bfloat16", "float16")),
            "yes" if holds else "**no**",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    values = next(iter(results["tanh"].values()))
    lines += [
        "",
        f"float32: {values['float32']['values']:,} values, from 0 to {SATURATED}; float64: {values['float64']['values']:,} values in "
        f"{len(values['float64']['regions'])} regions; {results['cpu']}, {results['date']}.",
    ]
    return "\n".join(lines)


def loop_table(results):
    """The largest error of the states after T steps, by implementation, for the least and the largest H."""
    lines = ["| H | T | rnnfused | " + " | ".join(PEERS.values()) + " |", "|---" * 6 + "|"]
    found = {(r["implementation"], r["T"], r["H"]): r["largest"] for r in results["loops"]}
    for hidden_size in HIDDEN_SIZES:
        for steps in STEPS:
            errors = [found.get((name, steps, hidden_size)) for name in ("rnnfused", *PEERS)]
            cells = ["not installed" if error is None else f"{error:.1e}" for error in errors]
            lines.append(f"| {hidden_size} | {steps} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(results):
    """Writes the figure: the largest error of the states by number of steps, a panel per hidden size."""
    picture = Figure(figsize=(9, 2.8), layout="constrained")
    panels = picture.subplots(1, len(HIDDEN_SIZES), sharey=True)
    for axes, hidden_size in zip(panels, HIDDEN_SIZES, strict=True):
        for number, name in enumerate(("rnnfused", *PEERS)):
            points = [
                (r["T"], r["largest"])
                for r in results["loops"]
                if (r["implementation"], r["H"]) == (name, hidden_size)
            ]
            if points:
                axes.loglog(
                    *zip(*sorted(points), strict=True),
                    "o-",
                    color=f"C{number}",
                    markersize=3,
                    label=PEERS.get(name, name),
                )
        axes.set(title=f"H {hidden_size}", xlabel="steps")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("largest error of a state")
    panels[-1].legend(frameon=False, fontsize=7)
    picture.savefig(FIGURE, dpi=120)
