"""The committed figures: ``{compiler: {shape: {pass: instructions}}}``. As a program, counts them anew."""

import json
import re
import sys
from pathlib import Path

from .. import programs
from . import counting

FILE = Path(__file__).with_name("figures.json")
TOLERANCE = 0.02
RENEWAL = "make instructions"


def committed(compiler):
    """The figures of a compiler; None without any."""
    return json.loads(FILE.read_text()).get(compiler)


def differences(expected, got):
    """A line for each pass that got more or fewer instructions than the tolerance allows."""
    lines = []
    for shape, figures in got.items():
        for name, instructions in figures.items():
            figure = expected.get(shape, {}).get(name)
            if figure is None:
                lines.append(f"{shape} {name}: no figure, {instructions:,} instructions now")
            elif abs(instructions - figure) > TOLERANCE * figure:
                percent = 100 * (instructions / figure - 1)
                lines.append(
                    f"{shape} {name}: {figure:,} instructions committed, {instructions:,} now "
                    f"({percent:+.1f}%)"
                )
    return lines


def renew():
    """Count, and put the figures of this compiler into the file."""
    folder = programs.ROOT / "build" / "instructions"
    folder.mkdir(parents=True, exist_ok=True)
    reason = counting.obstacle()
    got = reason or counting.count(folder)
    if isinstance(got, str):
        sys.exit(f"instructions: {got}")
    figures = json.loads(FILE.read_text()) if FILE.exists() else {}
    figures[counting.compiler()] = got
    FILE.write_text(json.dumps(figures, indent=2) + "\n")
    for shape in counting.SHAPES:
        for each, needed in counting.multiply_adds(shape).items():
            _report(folder, shape, each, needed)


def _report(folder, shape, each, needed):
    """Print a call's instructions, those per multiply-add of its products, and the functions that have most."""
    own = counting.functions(counting.file_of(folder, shape, each))
    total = sum(own.values())
    print(
        f"{counting.name_of(shape)} {each}: {total:,} instructions for {needed:,} multiply-adds of "
        f"{counting.LANES} values, {total / needed:.2f} each"
    )
    for function, instructions in own.most_common(3):
        # Without the types of enumerations, arguments and namespaces.
        name = re.sub(r"\(rnnfused::\w+\)|^void ", "", function)
        name = re.sub(r"\(.*|rnnfused::(\w+::)?", "", name)
        print(f"  {100 * instructions / total:4.1f}%  {name}")


if __name__ == "__main__":
    renew()
