"""A copy of the build with empty sources and fake compilers. The compilers only record their calls."""

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def load(path):
    """Import a file outside any package, without a change of sys.path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


backend = load(ROOT / "build_tools" / "build_backend.py")
nvcc = load(ROOT / "build_tools" / "nvcc.py")
build = load(ROOT / "setup.py")


COMPILER = """#!/bin/sh
# Prints what a compiler would, records its arguments, and makes an empty output file.
case "$1" in
  --version) echo "{version}"; exit ;;
  -dumpmachine) echo "{machine}"; exit ;;
esac
echo "$@" >> calls
{meanwhile}
while [ $# -gt 1 ]; do
  [ "$1" = -o ] && : > "$2"
  shift
done
"""


NVCC = """#!/bin/sh
# Prints what nvcc would, records its arguments, reports a kernel, and makes an empty output file.
case "$1" in
  --version) echo "Cuda compilation tools, release {release}, V1"; exit ;;
  --list-gpu-arch) printf 'compute_%s\\n' {architectures}; exit ;;
esac
case "$*" in
  *--dryrun*) printf '%s\\n' '#$ INCLUDES="-I/toolkit/include"  ' '#$ LIBRARIES=  "-L/toolkit/lib"'; exit ;;
esac
echo "$@" >> calls
echo "ptxas info : a kernel of $*"
while [ $# -gt 1 ]; do
  [ "$1" = -o ] && : > "$2"
  shift
done
exit {status}
"""


def make_nvcc(home, release="13.0", architectures="80 86 90 100 120", status=0):
    """Put a fake nvcc into a toolkit's folder; return its path."""
    path = home / "bin" / "nvcc"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(NVCC.format(release=release, architectures=architectures, status=status))
    path.chmod(0o755)
    return str(path)


KERNELS = {"csrc/cuda/one.cu", "csrc/cuda/two.cu"}
REGISTER = {"csrc/torch/register.cpp", "csrc/torch/register_cuda.cpp"}
# What a compiler for x86-64 compiles.
CPU_SOURCES = [*build.LIBRARIES[0].sources, *build.ISA_FLAGS["x86_64"]]
ISA = {source for source in CPU_SOURCES if "/isa_" in source}


class Project:
    """A copy of the build with empty sources and fake compilers."""

    def __init__(self, root):
        self.root = root
        headers = [
            "csrc/params.h",
            "csrc/torch/tensors.h",
            "csrc/cpu/team.h",
            "csrc/cpu/kernels/tile.h",
            "csrc/cuda/scan.cuh",
        ]
        sources = [
            *CPU_SOURCES,
            *build.ISA_FLAGS["aarch64"],
            *KERNELS,
            *REGISTER,
            "rnnfused/__init__.py",
        ]
        for source in [*sources, *headers]:
            (root / source).parent.mkdir(parents=True, exist_ok=True)
            (root / source).touch()
        about = ["pyproject.toml", "README.md", "LICENSE"]
        for file in ["setup.py", "build_tools/build_backend.py", "build_tools/nvcc.py", *about]:
            (root / file).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / file, root / file)
        for package in (ROOT / "rnnfused").rglob("__init__.py"):
            (root / package.parent.relative_to(ROOT)).mkdir(exist_ok=True, parents=True)
        self.set_compiler()
        make_nvcc(root / "toolkit")

    def set_compiler(self, version="g++ 12", machine="x86_64-linux-gnu", meanwhile=""):
        compiler = self.root / "compiler"
        answers = {"version": version, "machine": machine, "meanwhile": meanwhile}
        compiler.write_text(COMPILER.format(**answers))
        compiler.chmod(0o755)

    def touch(self, file):
        newer = (self.root / "rnnfused" / "_cpu.so").stat().st_mtime + 1
        os.utime(self.root / file, (newer, newer))

    def run(self, *command, cuda=False, **environment):
        """Run setup.py. The last line of its error output becomes ``last_words``."""
        defaults = {
            "CXX": shlex.quote(str(self.root / "compiler")),
            "CUDA_HOME": str(self.root / "toolkit"),
            "RNNFUSED_CUDA": "1" if cuda else "0",
            "RNNFUSED_CUDA_ARCHS": "",
        }
        call = subprocess.run(
            [sys.executable, "setup.py", "--quiet", *command],
            cwd=self.root,
            env={**os.environ, **defaults, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.last_words = call.stderr.rpartition("\n")[0].rpartition("\n")[2]
        call.check_returncode()

    def build(self, **options):
        """Build in place; return the compiler call per source, and the objects linked into _cpu.so."""
        notes = self.root / "calls"
        notes.unlink(missing_ok=True)
        self.run("build_ext", "--inplace", **options)
        calls = [line.split() for line in notes.read_text().splitlines()]
        compiled = {call[call.index("-c") + 1]: call for call in calls if "-c" in call}
        self.links = {Path(call[-1]).name: call for call in calls if "-shared" in call}
        return compiled, [word for word in self.links["_cpu.so"] if word.endswith(".o")]

    def libraries(self):
        """The libraries in the package, and in the folder that wheels are made from."""
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*.so")}
