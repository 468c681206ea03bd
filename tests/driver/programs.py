"""The driver's builds: with the installed kernels, for ARM, and with sanitizers; the program whose instructions count."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from compiled import compiled
from fake_project import build as project

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


KERNELS = ROOT / "csrc" / "cpu" / "kernels" / "isa_baseline.cpp"
KERNEL_FILES = [KERNELS, *headers_of(ROOT / "csrc")]


def build(name, compiler, flags, csrc=ROOT / "csrc", kernels=()):
    """Compiles the driver and links the object files of `kernels`; returns its path."""
    options = [*compiler, *FLAGS, *flags]
    own_files = [path for path in sorted(HERE.glob("*.cpp")) if path.name != "tables.cpp"]
    sources = [*own_files, *sources_of(csrc), *kernels]
    command = [*options, f"-I{csrc}", f"-I{HERE}", *map(str, sources)]
    return compiled(name, command, [*sources, *headers_of(csrc), *HERE.glob("*.h")])


def with_installed_kernels(*flags):
    """The driver that takes its kernels from the library."""
    options = ["-O1", "-DRNNFUSED_DRIVER_LIBRARY", "-ldl", *flags]
    return build("driver", COMPILER, options)


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


def arm_compiler():
    found = next(filter(shutil.which, ARM_COMPILERS), None)
    if found is None:
        pytest.skip("needs a cross compiler for aarch64")
    return found


def arm_kernels(name="baseline"):
    """The kernels for 64-bit ARM in assembly, from the options of the project's own build."""
    source = f"csrc/cpu/kernels/isa_{name}.cpp"
    flags = [flag for flag in project.FLAGS if "TORCH" not in flag]
    flags += project.GCC_FLAGS + project.GCC_ARM_FLAGS
    flags += project.ISA_FLAGS["aarch64"].get(source, [])
    command = [arm_compiler(), *flags, "-S", str(ROOT / source)]
    return compiled(f"arm_{name}.s", command, [ROOT / source, *headers_of(ROOT / "csrc")])


def for_arm(name="baseline"):
    """The driver for 64-bit ARM."""
    if EMULATOR is None:
        pytest.skip("needs qemu's user mode")
    source = arm_kernels(name)
    march = project.ISA_FLAGS["aarch64"].get(f"csrc/cpu/kernels/isa_{name}.cpp", [])
    command = [arm_compiler(), *march, "-x", "assembler", "-c", str(source)]
    kernels = compiled(f"arm_{name}.o", command, [source])
    flags = ["-O2", "-static", f"-DRNNFUSED_DRIVER_KERNELS={name}_kernels"]
    return build(f"driver_arm_{name}", [arm_compiler()], flags, kernels=[kernels])


def sanitized(*checks, csrc=ROOT / "csrc"):
    """The driver with sanitizers, with the kernels of AVX2 where the processor has it and the sanitizers see its vectors."""
    flag = f"-fsanitize={','.join(checks)}"
    probe = [*COMPILER, flag, "-x", "c++", "-", "-o", os.devnull]
    if subprocess.run(probe, input="int main() {}", capture_output=True, text=True).returncode != 0:
        pytest.skip(f"this compiler lacks {flag}")
    flags = ["-O1", flag, "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
    cpu = Path("/proc/cpuinfo")
    # Clang's ThreadSanitizer passes over loads and stores of more than 16 bytes.
    is_blind = "thread" in checks and "clang" in COMPILER[0]
    if not is_blind and cpu.exists() and " avx2 " in cpu.read_text():
        flags += ["-mavx2", "-mfma"]
    flags.append("-DRNNFUSED_EXACT_MEMORY")
    name = f"driver_{'_'.join(checks)}"
    # The kernels are the project's, also beside another csrc.
    command = [*COMPILER, *FLAGS, *flags, f"-I{ROOT / 'csrc'}", "-c", str(KERNELS)]
    kernels = compiled(f"{name}_kernels.o", command, KERNEL_FILES)
    return build(name, COMPILER, flags, csrc=csrc, kernels=[kernels])
