"""What a bug report needs to know about an installation: versions, processor, devices, build."""

import importlib.metadata
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

import torch

import rnnfused

# The libraries of the extra rnnfused[lm], and the one that runs exported models.
_LIBRARIES = ("numpy", "safetensors", "tqdm", "matplotlib", "tensorboard", "onnx")
# Environment variables of others that change how rnnfused runs; see docs/environment.md.
_VARIABLES = ("OMP_NUM_THREADS", "THP_MEM_ALLOC_ENABLE", "CUDA_VISIBLE_DEVICES")


def report() -> dict[str, Any]:
    """The description of this installation, for ``json.dump``.

    It never fails: a part that cannot be determined is described by its error's message.

    Returns:
        A dict with the keys ``rnnfused``, ``torch``, ``python``, ``system`` (str each),
        ``processor`` (str), ``instruction_set`` (str; see ``cpu_capability``), ``threads`` and
        ``cores`` (int), ``compiler`` (str, of the CPU kernels), ``cuda_kernels`` (str: whether they
        were built), ``torch_cuda`` (str or None, the version torch was
        built for), ``devices`` (list of str), ``libraries`` (versions by name; None where missing)
        and ``environment`` (values by name of ``RNNFUSED_*`` and of what torch reads).
    """
    return {
        "rnnfused": rnnfused.__version__,
        "torch": str(torch.__version__),
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": f"{platform.platform()}",
        "processor": _processor(),
        "instruction_set": _instruction_set(),
        "threads": torch.get_num_threads(),
        "cores": _cores(),
        "compiler": _compiler(),
        "cuda_kernels": _cuda_kernels(),
        "torch_cuda": torch.version.cuda,
        "devices": _devices(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "environment": {
            name: os.environ[name]
            for name in sorted(os.environ)
            if name.startswith("RNNFUSED_") or name in _VARIABLES
        },
    }


def describe(values: dict[str, Any]) -> str:
    """A ``report`` as lines of ``name: value`` for a reader."""
    libraries = [f"{name} {version or '-'}" for name, version in values["libraries"].items()]
    lines = {
        "rnnfused": values["rnnfused"],
        "torch": f"{values['torch']} (CUDA: {values['torch_cuda'] or 'no'})",
        "python": values["python"],
        "system": values["system"],
        "processor": values["processor"],
        "instruction set": values["instruction_set"],
        "threads": f"{values['threads']} of {values['cores']} cores",
        "compiled by": values["compiler"],
        "CUDA kernels": values["cuda_kernels"],
        "devices": ", ".join(values["devices"]),
        "libraries": ", ".join(libraries),
        "environment": ", ".join(f"{name}={value}" for name, value in values["environment"].items())
        or "no variables set",
    }
    width = max(map(len, lines)) + 1
    return "\n".join(f"{name + ':':{width}} {value}" for name, value in lines.items())


def _processor() -> str:
    # platform.processor() is empty on most Linux systems.
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return f"{value.strip()} ({platform.machine()})"
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _instruction_set() -> str:
    try:
        return rnnfused.cpu_capability()
    except RuntimeError as error:  # RNNFUSED_CPU_CAPABILITY names a set that is missing
        return f"error: {str(error).partition(chr(10))[0]}"


def _cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _compiler() -> str:
    # Compilers leave their name in the library's section .comment.
    try:
        data = Path(rnnfused.__file__).with_name("_cpu.so").read_bytes()
    except OSError as error:
        return f"error: {error.strerror}"
    found = set(re.findall(rb"(?:GCC: \(|clang version )[ -~]+", data))
    return ", ".join(sorted(name.decode("ascii") for name in found)) or "unknown"


def _cuda_kernels() -> str:
    if hasattr(torch.ops.rnnfused, "forward_fused"):
        return "built and loaded"
    if Path(rnnfused.__file__).with_name("_cuda.so").exists():
        return "built, but not loaded"
    return "not built"


def _devices() -> list[str]:
    devices = ["cpu"]
    try:
        for index in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(index)
            memory = gpu.total_memory / 2**30
            devices.append(
                f"cuda:{index} {gpu.name} (compute capability {gpu.major}.{gpu.minor}, "
                f"{memory:.0f} GiB)"
            )
        if torch.backends.mps.is_available():
            devices.append("mps")
    except (RuntimeError, AssertionError) as error:  # a broken driver
        devices.append(f"error: {str(error).partition(chr(10))[0]}")
    return devices


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
