"""Compiles the operator library: one shared object per device, without Python's headers.

`torch.ops.load_library` opens `rnnfused/_cpu.so` and, where torch has CUDA, `rnnfused/_cuda.so`, which
then register their operators. They call only LibTorch's stable ABI, so one build serves every Python
and every later torch. pyproject.toml describes the rest of the package.
"""

import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

sys.path.insert(0, "build_tools")
from build_backend import OLDEST_TORCH, Torch, fail, find_torch, require_writable
from nvcc import Nvcc, choose_codes, find_nvcc

# Before the next import, because pip without build isolation does not read what pyproject.toml
# requires.
if [int(number) for number in re.findall(r"\d+", setuptools.__version__)[:3]] < [77, 0, 3]:
    fail(
        f"setuptools {setuptools.__version__} is too old: `pip install 'setuptools>=77.0.3'` first, "
        "or build without --no-build-isolation"
    )
from setuptools.command.bdist_wheel import bdist_wheel

FLAGS = [
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",  # fused multiply-adds are written out: one result from every compiler
    "-fno-math-errno",  # lets sqrt and friends become instructions
    "-Wall",
    "-Wextra",
    "-Icsrc",
    # Hides later additions to torch's ABI, so that the library also loads in OLDEST_TORCH.
    "-DTORCH_TARGET_VERSION=0x{:02x}{:02x}000000000000".format(*OLDEST_TORCH),
]
GCC_FLAGS = ["-fno-gnu-unique"]  # a unique symbol would prevent unloading of the library
# On ARM, GCC moves loads up before it allocates registers; a tile's sums would then spill to memory.
GCC_ARM_FLAGS = ["-fno-schedule-insns"]

AVX512 = ["-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mfma"]
# For each processor, one source per vector instruction set beyond its baseline; the library selects at the first call.
ISA_FLAGS = {
    "x86_64": {
        "csrc/cpu/kernels/isa_avx2.cpp": ["-mavx2", "-mfma"],
        "csrc/cpu/kernels/isa_avx512.cpp": AVX512,
        "csrc/cpu/kernels/isa_avx512_bf16.cpp": [*AVX512, "-mavx512bf16"],
    },
    "aarch64": {"csrc/cpu/kernels/isa_neon_bf16.cpp": ["-march=armv8.2-a+bf16"]},
}

LIBRARIES = [
    Extension(
        "rnnfused._cpu",
        # In this order: the linker keeps the first copy of an inline function that several objects
        # define, and that copy must run on a CPU with only the baseline instructions.
        sources=[
            "csrc/torch/register.cpp",
            *sorted(map(str, Path("csrc/cpu").glob("*.cpp"))),
            "csrc/cpu/kernels/isa_baseline.cpp",  # and after it those of ISA_FLAGS
        ],
        libraries=["torch_cpu"],
    ),
    Extension(  # left out where nvcc.find_nvcc returns None
        "rnnfused._cuda",
        sources=[*sorted(map(str, Path("csrc/cuda").glob("*.cu"))), "csrc/torch/register_cuda.cpp"],
        libraries=["torch_cpu"],  # without torch_cuda the library loads beside any torch
    ),
]


class Compiler:
    """Compiles and links against one torch; objects that are up to date are not compiled again."""

    def __init__(self, torch: Torch, nvcc: str | None = None, codes: list[str] | None = None):
        choices = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
        commands = [shlex.split(choice) for choice in choices]
        self.command = next((command for command in commands if shutil.which(command[0])), None)
        if self.command is None:
            names = ", ".join(choices)
            fail(f"no C++ compiler (looked for {names}): install g++, or set CXX to yours")
        self.torch = torch
        self.identity = self._ask("--version")
        self.is_clang = "clang" in self.identity
        machine = self._ask("-dumpmachine")
        processor = machine.split("-")[0].replace("arm64", "aarch64")  # Apple's name
        self.isa_flags = ISA_FLAGS.get(processor, {})
        self.is_for_macos = "apple" in machine
        self.is_for_linux = "linux" in machine
        self.host_flags = [] if self.is_clang else list(GCC_FLAGS)
        if not self.is_clang and processor == "aarch64":
            self.host_flags += GCC_ARM_FLAGS
        self.nvcc = nvcc and Nvcc(nvcc, codes, self.command, self.host_flags)

    def _ask(self, option: str) -> str:
        command = [*self.command, option]
        return subprocess.run(command, check=False, capture_output=True, text=True).stdout

    def run(self, command: list[str], product: str) -> str:
        """Run a compiler, show and return its output; a failure ends the build."""
        call = subprocess.run(
            command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        print(shlex.join(command), call.stdout, sep="\n", end="", flush=True)
        if call.returncode != 0:
            way_out = " (RNNFUSED_CUDA=0 builds without CUDA)" if self.nvcc else ""
            fail(f"could not build {product}: the compiler's message is above{way_out}")
        return call.stdout

    def flags(self, source: str) -> list[str]:
        """Return the compiler's options for `source`, the user's CXXFLAGS last."""
        return [
            *FLAGS,
            *self.host_flags,
            *self.isa_flags.get(source, []),
            "-isystem",  # not -I, which would show warnings about torch's headers
            f"{self.torch.root}/include",
            *(self.nvcc.include_flags if self.nvcc else []),
            *shlex.split(os.environ.get("CXXFLAGS", "")),
        ]

    def command_for(self, source: str) -> list[str]:
        """Return the compiler and the options for `source`."""
        if source.endswith(".cu"):  # includes nothing of torch's
            return self.nvcc.command
        return [*self.command, *self.flags(source)]

    def compile(self, source: str, threads: int = 1) -> str:
        """Return the object file of `source`; compile it unless the same command already has."""
        command = self.command_for(source)
        if source.endswith(".cu"):
            identity = self.nvcc.identity
            arguments = ["-t", str(threads)]  # this many architectures at once
        else:
            identity = f"{self.identity}\n{self.torch.version}"
            arguments = []
        key = hashlib.sha256("\n".join([identity, *command]).encode()).hexdigest()[:12]
        target = Path(f"build/objects/{source}.{key}.o")
        if not is_fresh(target, source):
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = f"{target}.{os.getpid()}"
            started = time.time()
            said = self.run([*command, *arguments, "-c", source, "-o", partial], source)
            target.with_suffix(".log").write_text(said)
            os.utime(partial, (started, started))  # an edit made meanwhile then counts as newer
            os.replace(partial, target)  # an interrupted build leaves no partial object
        return str(target)

    def link(self, objects: list[str], libraries: list[str], target: str) -> None:
        """Link object files and torch's `libraries` into a shared library."""
        # No rpath on Linux: `import torch`, which comes first, has already loaded the libraries.
        torch_libraries = [f"-L{self.torch.root}/lib", *(f"-l{name}" for name in libraries)]
        strict = ["-Wl,-z,defs"] if self.is_for_linux else []  # a missing symbol fails here
        if (
            self.is_for_macos
        ):  # what torch's own extensions do, and torch's folder beside the package
            strict = ["-Wl,-undefined,dynamic_lookup", "-Wl,-rpath,@loader_path/../torch/lib"]
        cuda = self.nvcc.link_flags if self.nvcc else []
        user = shlex.split(os.environ.get("LDFLAGS", ""))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        options = [*torch_libraries, *cuda, *strict, *user]
        self.run([*self.command, "-shared", *objects, *options, "-o", target], target)


def included_folders(source: str) -> list[str]:
    """Return the folders whose headers `source` may include; tests/test_build.py checks the rule."""
    folder = os.path.dirname(source)
    if folder == "csrc/torch":  # an op knows tensors and the one device that it is registered for
        return ["csrc", folder, "csrc/cuda" if source.endswith("_cuda.cpp") else "csrc/cpu"]
    if folder == "csrc/cpu/kernels":
        return ["csrc", "csrc/cpu", folder]
    return ["csrc", folder]


def is_fresh(target: Path, source: str) -> bool:
    """Whether `target` is newer than its source and than every header that it may include."""
    files = (path for folder in included_folders(source) for path in Path(folder).glob("*"))
    inputs = [Path(source), *(path for path in files if path.suffix in (".h", ".cuh"))]
    return target.exists() and all(path.stat().st_mtime < target.stat().st_mtime for path in inputs)


def job_count() -> int:
    """Return the number of parallel compilers: MAX_JOBS, else one per core and free gigabyte."""
    if wanted := os.environ.get("MAX_JOBS"):
        if not wanted.isdecimal() or int(wanted) == 0:
            fail(f"MAX_JOBS must be a positive number of compilers, got {wanted!r}")
        return int(wanted)
    jobs = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
        jobs = min(jobs, int(fields["MemAvailable"].split()[0]) // 1_000_000)
    return max(1, jobs)


class BuildLibraries(build_ext):
    """Builds LIBRARIES; the objects stay under build/ and serve the next build."""

    def get_ext_filename(self, fullname):
        """Return the library's plain name: it belongs to no particular Python."""
        return os.path.join(*fullname.split(".")) + ".so"

    def run(self):
        """Build the libraries for this machine; remove an earlier CUDA library if it is left out."""
        self.torch = find_torch()
        self.nvcc = find_nvcc(self.torch)
        self.codes = self.nvcc and choose_codes(self.nvcc, for_wheel=not self.inplace)
        if self.nvcc is None:
            self.extensions = [ext for ext in self.extensions if ext.name != "rnnfused._cuda"]
            for folder in [self.build_lib, *(["."] if self.inplace else [])]:
                Path(folder, "rnnfused", "_cuda.so").unlink(missing_ok=True)
        self.commands = []
        super().run()
        # For clang-tidy and editors: how each source is compiled for use in place.
        if self.inplace:
            commands = json.dumps(self.commands, indent=1)
            Path("build/compile_commands.json").write_text(commands + "\n")

    def build_extension(self, ext):
        """Compile the sources in parallel, then link them."""
        cuda = ext.name == "rnnfused._cuda"
        compiler = Compiler(self.torch, self.nvcc if cuda else None, self.codes)
        sources = ext.sources if cuda else [*ext.sources, *compiler.isa_flags]
        jobs = job_count()
        threads = max(1, jobs // len(sources))
        self.commands += [
            {
                "directory": os.getcwd(),
                "file": source,
                # clang-tidy rejects flags that only GCC has.
                "arguments": [
                    *(
                        word
                        for word in compiler.command_for(source)
                        if word not in compiler.host_flags
                    ),
                    "-c",
                    source,
                ],
            }
            for source in sources
        ]
        with ThreadPoolExecutor(jobs) as pool:
            objects = list(pool.map(lambda source: compiler.compile(source, threads), sources))
        compiler.link(objects, ext.libraries, self.get_ext_fullpath(ext.name))
        if cuda:  # for the tests: the output of nvcc for the kernels in the library
            logs = [Path(name).with_suffix(".log").read_text() for name in objects]
            Path("build/cuda.log").write_text("".join(logs))


class PlatformWheel(bdist_wheel):
    """Tags the wheel for any Python 3 on this platform."""

    def get_tag(self):
        """Return (python, abi, platform), without the interpreter that happened to build it."""
        # A Python for both of Apple's processors builds for the one that it runs on.
        system = super().get_tag()[2].replace("universal2", platform.machine())
        return ("py3", "none", system)


if __name__ == "__main__":
    require_writable(Path.cwd())
    setup(
        ext_modules=LIBRARIES,
        cmdclass={"build_ext": BuildLibraries, "bdist_wheel": PlatformWheel},
    )
