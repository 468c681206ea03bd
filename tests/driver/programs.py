"""The driver's builds: with the installed kernels, for ARM, and with sanitizers; the program whose instructions count."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from compiled import compiled

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
COMPILER = shlex.split(os.environ.get("CXX", "c++"))
FLAGS = ["-std=c++17", "-g", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-fno-math-errno"]
FLAGS += ["-Wno-psabi", "-pthread"]
ARM_COMPILERS = ["aarch64-linux-gnu-g++", *(f"aarch64-linux-gnu-g++-{n}" for n in (15, 14, 13, 12))]
EMULATOR = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")


def headers_of(csrc):
    return [path for path in csrc.rglob("*.h") if path.parent.name in ("csrc", "cpu", "kernels")]


def sources_of(csrc):
    """The files of csrc/cpu but for the choice of the kernels, in whose place tables.cpp stands."""
    found = [path for path in sorted((csrc / "cpu").glob("*.cpp")) if path.name != "dispatch.cpp"]
    return [HERE / "tables.cpp", *found]


def build(name, compiler, flags, csrc=ROOT / "csrc", kernels=True):
    """The path of the driver; its kernels, which take long to compile, are those of the project in any case."""
    options = [*compiler, *FLAGS, *flags]
    own_files = [path for path in sorted(HERE.glob("*.cpp")) if path.name != "tables.cpp"]
    sources = [*own_files, *sources_of(csrc)]
    if kernels:
        own = ROOT / "csrc"
        table = own / "cpu" / "kernels" / "isa_baseline.cpp"
        command = [*options, f"-I{own}", "-c", str(table)]
        sources.append(compiled(f"{name}_kernels.o", command, [table, *headers_of(own)]))
    command = [*options, f"-I{csrc}", f"-I{HERE}", *map(str, sources)]
    return compiled(name, command, [*sources, *headers_of(csrc), *HERE.glob("*.h")])


def with_installed_kernels(*flags):
    """The driver that takes its kernels from the library."""
    options = ["-O1", "-DRNNFUSED_DRIVER_LIBRARY", "-ldl", *flags]
    return build("driver", COMPILER, options, kernels=False)


def for_counting():
    """The program of `instructions`, with the library's options; the library's kernels too."""
    program = HERE / "instructions" / "program.cpp"
    csrc = ROOT / "csrc"
    sources = [program, *sources_of(csrc)]
    options = ["-O3", "-fPIC", "-fvisibility=hidden", "-DRNNFUSED_DRIVER_LIBRARY"]
    # Bound at the start, the addresses of functions cost no call instructions.
    linked = ["-Wl,-z,now", "-ldl", f"-I{csrc}", f"-I{HERE}", *map(str, sources)]
    command = [*COMPILER, *FLAGS, *options, *linked]
    return compiled("instructions", command, [*sources, *headers_of(csrc), *HERE.glob("*.h")])


def for_arm():
    """The driver for 64-bit ARM."""
    compiler = next(filter(shutil.which, ARM_COMPILERS), None)
    if compiler is None or EMULATOR is None:
        pytest.skip("needs a cross compiler for aarch64 and qemu's user mode")
    return build("driver_arm", [compiler], ["-O2", "-static"])


def sanitized(*checks, csrc=ROOT / "csrc"):
    """The driver with sanitizers, with the kernels of AVX2 where the processor has it."""
    flag = f"-fsanitize={','.join(checks)}"
    probe = [*COMPILER, flag, "-x", "c++", "-", "-o", os.devnull]
    if subprocess.run(probe, input="int main() {}", capture_output=True, text=True).returncode != 0:
        pytest.skip(f"this compiler lacks {flag}")
    flags = ["-O1", flag, "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
    cpu = Path("/proc/cpuinfo")
    if cpu.exists() and " avx2 " in cpu.read_text():
        flags += ["-mavx2", "-mfma"]
    flags.append("-DRNNFUSED_EXACT_MEMORY")
    return build(f"driver_{'_'.join(checks)}", COMPILER, flags, csrc=csrc)
