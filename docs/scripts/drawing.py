"""Draws docs/figures/cpu-kernel.svg: tile, panel, part and team. Run it after an edit."""

from pathlib import Path

TARGET = Path(__file__).parents[1] / "figures" / "cpu-kernel.svg"
WIDTH, HEIGHT = 840, 500
PLAIN, LINE = "#eceff1", "#546e7a"
MARKED, OTHER, THIRD = "#ffb74d", "#64b5f6", "#81c784"


def rectangle(x, y, width, height, fill=PLAIN, stroke=LINE):
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{fill}" stroke="{stroke}"/>'
    )


def text(x, y, words, size=13, anchor="start", weight="normal"):
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" '
        f'font-family="sans-serif" fill="#263238">{words}</text>'
    )


def grid(x, y, columns, rows, width, height, fill_of=lambda column, row: PLAIN):
    return [
        rectangle(x + c * width, y + r * height, width, height, fill_of(c, r))
        for r in range(rows)
        for c in range(columns)
    ]


def tile_and_panel(x, y):
    """state (rows x H) times packed weight (H x columns): one tile of the result, one panel of the weight."""
    marked = lambda column, row: MARKED if column == 1 else PLAIN  # noqa: E731
    return [
        text(x, y, "tile and panel: one step", 15, weight="bold"),
        *grid(x, y + 110, 1, 4, 90, 26, lambda c, r: OTHER if r == 1 else PLAIN),
        text(x + 45, y + 235, "state: rows, H values", 12, "middle"),
        *grid(x + 130, y + 30, 5, 1, 44, 70, marked),
        text(x + 240, y + 24, "W packed: H values deep, in panels of 2 vectors", 12, "middle"),
        *grid(x + 130, y + 110, 5, 4, 44, 26, lambda c, r: THIRD if (c, r) == (1, 1) else PLAIN),
        text(x + 240, y + 235, "new state: a tile stays in registers", 12, "middle"),
        text(x + 240, y + 251, "(14 rows x 2 vectors with AVX-512), then f", 12, "middle"),
    ]


def part(x, y):
    """The batch (rows) over time (steps), cut into parts."""
    shades = {0: MARKED, 1: OTHER, 2: THIRD}
    arrows = [
        f'<path d="M{x + 20} {y + 46 + 44 * r + 22} h250" stroke="{LINE}" fill="none" '
        f'stroke-width="2" marker-end="url(#head)"/>'
        for r in range(3)
    ]
    return [
        text(x, y, "rows and parts: one call", 15, weight="bold"),
        *grid(x, y + 46, 6, 3, 48, 44, lambda c, r: shades[r]),
        *arrows,
        text(x + 144, y + 36, "steps: a thread runs its rows through all of them", 12, "middle"),
        text(
            x + 144, y + 200, "Each color is a part: rows (and steps) whose gradients", 12, "middle"
        ),
        text(
            x + 144,
            y + 216,
            "stay in L2 until the products beside the loop use them.",
            12,
            "middle",
        ),
    ]


def team(x, y):
    """A few rows: members own columns of each step, and meet after it."""
    shades = [MARKED, OTHER, THIRD]
    steps = []
    for step in range(3):
        left = x + step * 150
        steps += grid(left, y + 40, 3, 1, 40, 60, lambda c, r: shades[c])
        steps.append(text(left + 60, y + 34, f"step {step}", 12, "middle"))
        steps.append(
            f'<path d="M{left + 132} {y + 30} v80" stroke="{LINE}" stroke-width="3" '
            'stroke-dasharray="6 4"/>'
        )
    return [
        text(x, y, "team: few rows, large W", 15, weight="bold"),
        *steps,
        text(x, y + 130, "Each color is a member: it owns these columns in every step.", 12),
        text(
            x,
            y + 146,
            "Dashed line: spin barrier; then every member reads the whole new state.",
            12,
        ),
    ]


def main():
    """Writes the drawing."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-label="Tile, panel, part and team of the CPU kernel">\n'
        '<defs><marker id="head" markerWidth="8" markerHeight="8" refX="6" refY="4" orient="auto">'
        f'<path d="M0 0 L8 4 L0 8 z" fill="{LINE}"/></marker></defs>'
    )
    shapes = [rectangle(0, 0, WIDTH, HEIGHT, "#ffffff", "none")]
    shapes += tile_and_panel(30, 40) + part(480, 40) + team(30, 335)
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text("\n".join([head, *shapes, "</svg>", ""]))


if __name__ == "__main__":
    main()
