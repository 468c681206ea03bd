"""Compiles preflight and probe, which need no torch, for the GPU of this machine or RNNFUSED_CUDA_ARCHS.

    build_probe.py preflight|probe

The probe's kernels are the objects that the library's build takes too, so that they are compiled once.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from place import BUILT, PROBE_SOURCES, ROOT


def make_compiler(build):
    """The project's compiler with nvcc, for no torch; `build` is setup.py as a module."""
    torch = build.Torch("none", Path(), "any")
    path = build.find_nvcc(torch)
    return build.Compiler(torch, path, build.choose_codes(path, for_wheel=False))


def make_preflight(compiler):
    source, target = PROBE_SOURCES / "preflight.cu", BUILT / "preflight"
    compiler.run([*compiler.nvcc.command, str(source), "-o", str(target)], target.name)


def make_probe(compiler, jobs):
    target = BUILT / "probe"
    kernels = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc" / "cuda").glob("*.cu"))
    own = [PROBE_SOURCES / "probe.cpp", PROBE_SOURCES / "reference.cpp"]

    def compile_own(source):
        # Always: these include headers of csrc/cuda, by whose dates the objects are not looked up.
        made = str(BUILT / f"{source.name}.o")
        compiler.run([*compiler.nvcc.command, "-c", str(source), "-o", made], source.name)
        return made

    with ThreadPoolExecutor(jobs) as pool:
        calls = [pool.submit(compiler.compile, kernel) for kernel in kernels]
        calls += [pool.submit(compile_own, source) for source in own]
        objects = [call.result() for call in calls]
    compiler.run([*compiler.nvcc.command, *objects, "-o", str(target)], target.name)


def main():
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT), str(ROOT / "build_tools")]
    os.environ["RNNFUSED_CUDA"] = "1"
    import setup as build

    BUILT.mkdir(parents=True, exist_ok=True)
    compiler = make_compiler(build)
    if sys.argv[1:] == ["preflight"]:
        make_preflight(compiler)
    else:
        make_probe(compiler, build.job_count())
    print(f"note: built {sys.argv[1]}")


if __name__ == "__main__":
    main()
