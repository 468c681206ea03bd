"""Compiles the kernels to PTX, and the launch code for the host, with nvcc; what was compiled before is kept."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent.parent
CACHE = ROOT / "build" / "test_kernels" / "ptx"

sys.path.append(str(ROOT / "build_tools"))
import nvcc  # noqa: E402  the build's choice of nvcc

OPTIONS = ["-std=c++17", "-O3"]  # as in build_tools/nvcc.py
PRODUCTS = {
    "float32": ("float", "Fma", (8, 16)),
    "float64": ("double", "Fma", (8, 16)),
    "bfloat16": ("__nv_bfloat16", "Mma", (32,)),
    "float16": ("__half", "Mma", (32,)),
}


def find_nvcc():
    """The path of nvcc, or None."""
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    places = [*(f"{home}/bin/nvcc" for home in homes if home), "nvcc", nvcc.DEFAULT_NVCC]
    path = next(filter(None, map(shutil.which, places)), None)
    return path if path and nvcc.version_of(path) >= nvcc.OLDEST_NVCC else None


def sources(root):
    """Everything that the kernels are compiled from."""
    return sorted([*root.glob("*.h"), *root.glob("cuda/*"), *HERE.glob("*.cu*")])


def compiled(name, arguments, source, csrc=ROOT / "csrc"):
    """The file that nvcc makes of a source with these arguments, compiled unless it is there."""
    path = find_nvcc()
    command = [path, *OPTIONS, f"-I{csrc}", f"-I{HERE}", *arguments, str(source)]
    key = hashlib.sha256("\n".join([*command, str(nvcc.version_of(path))]).encode())
    for file in sources(csrc):
        key.update(file.read_bytes())
    stem, suffix = name.rsplit(".", 1)
    target = CACHE / f"{stem}.{key.hexdigest()[:16]}.{suffix}"
    if not target.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}.{suffix}")
        call = subprocess.run([*command, "-o", str(partial)], capture_output=True, text=True)
        if call.returncode != 0:
            raise RuntimeError(f"nvcc could not compile {name}:\n{call.stderr}")
        os.replace(partial, target)
    return target


def ptx_of(dtype, architecture, csrc=ROOT / "csrc"):
    """The PTX of a dtype's kernels, in a few depths; `architecture` is compute_80, sm_90a, ..."""
    stored, product, depths = PRODUCTS[dtype]
    separator = "\\,"  # nvcc itself splits at a bare comma
    arguments = [
        "-ptx",
        f"-arch={architecture.replace('sm_', 'compute_')}",
        f"-DSTORED={stored}",
        f"-DPRODUCT={product}",
        f"-DDEPTHS={separator.join(map(str, depths))}",
    ]
    name = f"{dtype}.{architecture}.ptx"
    return compiled(name, arguments, HERE / "kernels.cu", csrc).read_text()


def whole_ptx_of(dtype, architecture):
    """The PTX of csrc/cuda's own file of a dtype, with all depths."""
    arguments = ["-ptx", f"-arch={architecture.replace('sm_', 'compute_')}"]
    name = f"whole_{dtype}.{architecture}.ptx"
    return compiled(name, arguments, ROOT / "csrc" / "cuda" / f"{dtype}.cu").read_text()


def launch_library():
    """The path of the library that launch.cu makes."""
    return compiled("launch.so", ["-shared", "-Xcompiler=-fPIC"], HERE / "launch.cu")
