"""Code in csrc/cpu/kernels is compiled once per instruction set and must define nothing that the objects share.

The linker keeps one copy of a function that several objects define. A copy with AVX-512 instructions would then run
on a processor without them.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "csrc" / "cpu" / "kernels"
OBJECTS = ROOT / "build" / "objects" / FOLDER.relative_to(ROOT)

HEADERS = sorted(FOLDER.glob("*.h"))
SOURCES = sorted(FOLDER.glob("isa_*.cpp"))


def code_of(path):
    """The code of a file, without its comments."""
    return re.sub(r"//.*", "", path.read_text())


@pytest.mark.parametrize("path", [*HEADERS, *SOURCES], ids=lambda path: path.name)
def test_no_templates_of_the_standard_library(path):
    assert "std::" not in code_of(path)
    included = set(re.findall(r"# *include *<(.*)>", code_of(path)))
    assert included <= {"cstdint", "immintrin.h", "arm_neon.h"}


@pytest.mark.parametrize("path", HEADERS, ids=lambda path: path.name)
def test_all_code_is_in_the_namespace_of_the_instruction_set(path):
    lines = [line for line in code_of(path).splitlines() if line.strip()]
    code = [line for line in lines if not line.startswith("#")]
    opening = ["namespace rnnfused {", "namespace RNNFUSED_ISA {"]
    assert [line.strip() for line in code[:2]] == opening
    # Nothing closes the namespaces before the end: only functions and types start in the first column.
    depth = 0
    for number, line in enumerate(code):
        depth += line.count("{") - line.count("}")
        assert depth >= 2 or number in (0, len(code) - 2, len(code) - 1), line
    assert depth == 0


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_a_source_defines_its_table_alone(path):
    name = path.stem.removeprefix("isa_")
    body = code_of(path).partition('#include "cpu/kernels/kernel_table.inc.h"')[2].split()
    table = f"const CpuKernels* {name}_kernels() {{ return &{name}::kKernels; }}"
    assert " ".join(body) == f"namespace rnnfused {{ {table} }}"


def global_symbols(path):
    """The names, as the linker sees them, that an object defines for other objects: weak ones included."""
    command = ["nm", "--defined-only", "--extern-only", path]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {line.split()[2] for line in answer.splitlines()}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_an_object_shares_no_symbol_with_another(path):
    objects = list(OBJECTS.glob(f"{path.name}.*.o"))
    if not shutil.which("nm") or not objects:
        pytest.skip("needs binutils, and the objects of a build in this folder")
    newest = max(objects, key=lambda path: path.stat().st_mtime)
    name = path.stem.removeprefix("isa_")
    own_namespace = f"8rnnfused{len(name)}{name}"  # rnnfused::avx2 and its like, mangled
    shared = {symbol for symbol in global_symbols(newest) if own_namespace not in symbol}
    table = f"{name}_kernels"
    assert shared == {f"_ZN8rnnfused{len(table)}{table}Ev"}
