"""What nvcc makes of the kernels: PTX, and their launch code for the host. It is kept until a source changes."""

import functools
import hashlib
import os
import subprocess
from pathlib import Path

from fake_project import backend, nvcc

HERE = Path(__file__).parent
ROOT = HERE.parent.parent.parent
CACHE = ROOT / "build" / "test_kernels" / "ptx"
OPTIONS = [flag for flag in nvcc.FLAGS if flag.startswith(("-std=", "-O"))]
PRODUCTS = {  # dtype: its name in C++, the product of its kernels, and depths that compile soon
    "float32": ("float", "Fma", (8, 16)),
    "float64": ("double", "Fma", (8, 16)),
    "bfloat16": ("__nv_bfloat16", "Mma", (32,)),
    "float16": ("__half", "Mma", (32,)),
}
PLANNED = {
    "float32": (32,),
    "bfloat16": (128,),
}  # depths that the planner mostly picks; 8 s of nvcc each


@functools.cache
def find_nvcc():
    """The path of an nvcc that builds the kernels, or None."""
    return nvcc.find_nvcc(backend.Torch("any", Path(), "any"))


def make(name, arguments, source, csrc=ROOT / "csrc"):
    """Return the file that nvcc makes of a source with these arguments."""
    path = find_nvcc()
    key = hashlib.sha256("\n".join([*OPTIONS, *arguments, nvcc.ask([path, "--version"])]).encode())
    for file in sorted([source, *csrc.glob("*.h"), *csrc.glob("cuda/*"), *HERE.glob("*.cuh")]):
        key.update(file.read_bytes())
    stem, suffix = name.rsplit(".", 1)
    target = CACHE / f"{stem}.{key.hexdigest()[:16]}.{suffix}"
    if not target.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}.{suffix}")
        command = [path, *OPTIONS, *arguments, f"-I{csrc}", f"-I{HERE}", str(source)]
        call = subprocess.run([*command, "-o", str(partial)], capture_output=True, text=True)
        if call.returncode != 0:
            raise RuntimeError(f"nvcc could not make {name}:\n{call.stderr}")
        os.replace(partial, target)
    return target


def architecture_option(architecture):
    return f"-arch={architecture.replace('sm_', 'compute_')}"


def ptx_of(dtype, architecture, csrc=ROOT / "csrc", depths=()):
    """The PTX of a dtype's kernels, in a few depths; `architecture` is compute_80, sm_90a, ..."""
    stored, product, soonest = PRODUCTS[dtype]
    depths = depths or soonest
    separator = "\\,"  # nvcc itself splits at a bare comma
    arguments = [
        "-ptx",
        architecture_option(architecture),
        f"-DSTORED={stored}",
        f"-DPRODUCT={product}",
        f"-DDEPTHS={separator.join(map(str, depths))}",
    ]
    return make(f"{dtype}.{architecture}.ptx", arguments, HERE / "kernels.cu", csrc).read_text()


def whole_ptx_of(dtype, architecture):
    """The PTX of csrc/cuda's own file of a dtype, with all depths."""
    arguments = ["-ptx", architecture_option(architecture)]
    source = ROOT / "csrc" / "cuda" / f"{dtype}.cu"
    return make(f"whole_{dtype}.{architecture}.ptx", arguments, source).read_text()


def launch_library():
    """The path of the library that launch.cu makes."""
    return make("launch.so", ["-shared", "-Xcompiler=-fPIC"], HERE / "launch.cu")
