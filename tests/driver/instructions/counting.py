"""Counts the instructions of layers with valgrind: forward and backward, float32, AVX2, one thread."""

import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import rnnfused.ops

from .. import programs

# (T, B, I, H). Valgrind takes half a microsecond for 8 multiply-adds, so larger layers have fewer steps here.
SHAPES = [
    (32, 1, 28, 32),  # the textbook's layer on a single text
    (32, 64, 28, 32),  # and on a batch
    (20, 20, 200, 200),  # the small model of Zaremba, Sutskever and Vinyals (2014)
    (4, 16, 128, 512),  # a W that exceeds L2
]
PASSES = ["forward", "backward"]
LANES = 8  # float32 values of a multiply-add


def name_of(shape):
    return "T{} B{} I{} H{}".format(*shape)


def multiply_adds(shape):
    """``{pass: vector multiply-adds}`` that the products of a layer need. The first step has no state before it."""
    steps, batch, features, hidden = shape
    input_side = steps * batch * hidden * features // LANES
    state_side = (steps - 1) * batch * hidden * hidden // LANES
    return {"forward": input_side + state_side, "backward": 2 * (input_side + state_side)}


def obstacle():
    """The reason why nothing can be counted here that compares with a figure; None without one."""
    for tool in ("valgrind", "nm", "readelf", programs.COMPILER[0]):
        if shutil.which(tool) is None:
            return f"needs {tool}"
    if platform.machine() != "x86_64":
        return "needs a processor with AVX2"
    if os.environ.get("CXXFLAGS"):
        return "needs a build without CXXFLAGS"
    strings = ["readelf", "-p", ".comment", rnnfused.ops.LIBRARY]
    if f"GCC: {_version()}" not in _output(strings):
        return f"needs a library that GCC built, the one of {programs.COMPILER[0]}"
    return None


def compiler():
    """The key of the figures: the compiler and its major version."""
    return f"gcc {_version().split()[-1].split('.')[0]}"


def count(folder):
    """``{shape: {pass: instructions}}``, by names; a reason not to, as a str, where AVX2 is missing.

    Callgrind's files stay in `folder`.
    """
    program = programs.for_counting()
    files = folder / "counts"
    options = [
        "--tool=callgrind",
        "--toggle-collect=counted",
        "--dump-after=counted",
        "--compress-strings=no",  # each file names its functions in full
        f"--callgrind-out-file={files}",
    ]
    shapes = [",".join(map(str, shape)) for shape in SHAPES]
    with tempfile.TemporaryDirectory() as stand_in:
        _build_torch(Path(stand_in))
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": stand_in,
            "RNNFUSED_LIBRARY": str(rnnfused.ops.LIBRARY),
            "RNNFUSED_CPU_CAPABILITY": "avx2",
        }
        call = subprocess.run(
            ["valgrind", *options, program, *shapes],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
    if call.returncode == 3:
        return call.stderr.strip().splitlines()[-1]
    assert call.returncode == 0, call.stderr
    return {
        name_of(shape): {each: _total(file_of(folder, shape, each)) for each in PASSES}
        for shape in SHAPES
    }


def file_of(folder, shape, each):
    """Callgrind's file of a call."""
    return folder / f"counts.{1 + SHAPES.index(shape) * len(PASSES) + PASSES.index(each)}"


def _total(path):
    return int(re.search(r"^summary: (\d+)$", path.read_text(), re.M)[1])


def functions(path):
    """``{function: instructions}`` of one of callgrind's files, without those of the functions that each calls."""
    own, function, is_call = Counter(), "", False
    for line in path.read_text().split("\n\n", 1)[1].splitlines():
        if line.startswith("fn="):
            function = line.removeprefix("fn=")
        # A place and its instructions; after calls=, the instructions of the function called.
        elif re.match(r"[\d+*-]", line):
            own[function] += 0 if is_call else int(line.split()[1])
        is_call = line.startswith("calls=")
    return own


def _version():
    """The compiler's version as GCC writes it into a library."""
    first = _output([*programs.COMPILER, "--version"]).split("\n")[0]
    return first.partition(" ")[2]


def _output(command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _build_torch(folder):
    """A library in torch's place, whose functions do nothing: under valgrind torch takes 20 s to load."""
    names = _output(["nm", "-D", "--undefined-only", rnnfused.ops.LIBRARY]).split()
    functions = [name for name in names if re.match("aoti_torch_|torch_", name)]
    text = "".join(f'extern "C" int {name}() {{ return 0; }}\n' for name in functions)
    options = ["-shared", "-fPIC", "-x", "c++", "-", "-o", str(folder / "libtorch_cpu.so")]
    subprocess.run([*programs.COMPILER, *options], input=text, text=True, check=True)
