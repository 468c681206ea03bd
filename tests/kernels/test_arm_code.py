"""The machine code of the products' innermost loops on 64-bit ARM: sums stay in registers, loads are few.

No ARM processor runs the tests, so their speed is judged from the code.
"""

import re
import subprocess
from typing import NamedTuple

import pytest
from compiled import ROOT
from driver.programs import arm_compiler, arm_kernels

PAGE = ROOT / "docs" / "cpu-kernel.md"
# The compiler whose counts the page gives.
COUNTED = "12"


class Loop(NamedTuple):
    """An innermost loop, and how many of its instructions there are of some kinds."""

    function: str
    instructions: int
    multiply_adds: int
    by_element: int  # multiply-adds that take the state from one element of a register
    loads: int
    on_stack: int


def innermost_loops(assembly):
    """The loops of a compiler's output without a branch inside."""
    function, start = "", {}
    lines = assembly.splitlines()
    for i, line in enumerate(lines):
        if label := re.match(r"(\S+):", line):
            if not label[1].startswith(".L"):
                function, start = label[1], {}
            start[label[1]] = i
            continue
        branch = re.match(r"\s+(?:b\.?\w\w|cbn?z|tbn?z)\s.*?(\.L\w+)$", line)
        if not branch or branch[1] not in start:
            continue
        body = lines[start[branch[1]] + 1 : i + 1]
        if any(each.startswith(".L") for each in body):
            continue
        words = [each.strip() for each in body if re.match(r"\s+[a-z]", each)]
        adds = [each for each in words if each.startswith(("fmla", "bfdot"))]
        by_element = sum(re.search(r"\.(?:[sd]|2h)\[\d\]", each) is not None for each in adds)
        loads = sum(each.startswith(("ld", "ldur")) for each in words)
        on_stack = sum("[sp" in each for each in words)
        yield Loop(function, len(words), len(adds), by_element, loads, on_stack)


def products(name):
    """The innermost loops of the product kernels of an instruction set."""
    found = list(innermost_loops(arm_kernels(name).read_text()))
    pattern = re.compile(rf"_ZN\w*\d{name}(4tile|11add_product)I")
    loops = [each for each in found if each.multiply_adds >= 8 and pattern.match(each.function)]
    assert len(loops) > 100  # dtypes, rows, vectors
    return loops


@pytest.fixture(scope="module")
def loops():
    """The innermost loops of the product kernels of the baseline."""
    return products("baseline")


def of_tile(loops, dtype, rows, vectors):
    """The loop of a tile: of several, unrolled or not, the one with the fewest instructions."""
    name = f"4tileI{dtype}Li{rows}ELi{vectors}E"
    return min(
        (loop for loop in loops if name in loop.function), key=lambda loop: loop.instructions
    )


def test_sums_stay_in_registers(loops):
    assert not [loop for loop in loops if loop.on_stack]


def test_the_state_is_an_element_of_a_register(loops):
    """A load that repeats it in all elements takes the vector unit. GCC 12 prefers that for the first row of a pointer."""
    for loop in loops:
        if loop.multiply_adds >= 16 and "11add_product" not in loop.function:
            assert loop.by_element >= loop.multiply_adds // 2, loop


def test_a_row_has_sixteen_sums(loops):
    assert of_tile(loops, "f", 1, 16).multiply_adds % 16 == 0


def test_pairs_of_bfloat16_are_elements_too():
    """Twice the products of the float32 tile, in as many instructions."""
    loops = products("neon_bf16")
    assert not [loop for loop in loops if loop.on_stack]
    [pairs, float32] = (of_tile(loops, dtype, 14, 2) for dtype in ("NS0_8Bfloat16E", "f"))
    assert pairs.multiply_adds == float32.multiply_adds == 28
    assert pairs.by_element >= 22 and pairs.instructions <= float32.instructions + 2


def test_the_page_has_the_counts(loops):
    version = subprocess.run(
        [arm_compiler(), "-dumpversion"], capture_output=True, text=True
    ).stdout
    if version.strip().split(".")[0] != COUNTED:
        pytest.skip(f"the counts are those of GCC {COUNTED}")
    for rows, vectors in ((14, 2), (8, 2), (1, 16)):
        loop = of_tile(loops, "f", rows, vectors)
        counts = loop.instructions, loop.multiply_adds, loop.loads
        line = f"| {rows} x {vectors} | {' | '.join(map(str, counts))} |"
        assert line in PAGE.read_text(), line
