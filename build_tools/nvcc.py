"""nvcc, the compiler of the CUDA kernels: where it is, and the options that it is given."""

import os
import re
import shlex
import shutil
import subprocess

from build_backend import fail

OLDEST_NVCC = (12, 4)  # older than the CUDA of any torch whose stable ABI csrc calls
DEFAULT_NVCC = "/usr/local/cuda/bin/nvcc"

# Machine code for what is common, and code that the driver compiles for any other GPU from sm_80 on.
ARCHITECTURES = "80+PTX 86 90a 100"

FLAGS = [
    "-std=c++17",
    "-O3",
    "-Xcompiler=-fPIC,-fvisibility=hidden",
    "-Xptxas=-v",  # reports each kernel's registers and spills: tests/cuda reads the kept log
    "-Icsrc",
]

# The CUDA runtime is linked in: users need no toolkit, and any CUDA's goes with any torch. Its symbols
# are hidden, or the dynamic linker could hand its calls to the runtime that torch has loaded.
RUNTIME = ["-lcudart_static", "-ldl", "-lrt", "-lpthread", "-Wl,--exclude-libs,ALL"]

LAUNCHERS = ("ccache", "distcc", "sccache")


def find_nvcc() -> str | None:
    """Return where nvcc is, or None, with a line that says why; RNNFUSED_CUDA insists or forbids."""
    wish = os.environ.get("RNNFUSED_CUDA", "")
    if wish not in ("", "0", "1"):
        fail(f"RNNFUSED_CUDA is {wish!r}: 0 builds without CUDA, 1 insists on it")
    if wish == "0":
        return None
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    places = [*(f"{home}/bin/nvcc" for home in homes if home), "nvcc", DEFAULT_NVCC]
    path = next(filter(None, map(shutil.which, places)), None)
    if path is None:
        problem = "no nvcc in CUDA_HOME, CUDA_PATH, PATH or /usr/local/cuda"
    elif (version := version_of(path)) < OLDEST_NVCC:
        problem = "{} is of CUDA {}.{}, older than {}.{}".format(path, *version, *OLDEST_NVCC)
    else:
        return path
    if wish == "1":
        fail(f"{problem}: RNNFUSED_CUDA=1 needs the CUDA toolkit (CUDA_HOME says where it is)")
    print(f"rnnfused: {problem}: building for the CPU only", flush=True)
    return None


def ask(command: list[str]) -> str:
    """Return all that a command says."""
    call = subprocess.run(
        command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return call.stdout


def version_of(path: str) -> tuple[int, int]:
    """Return the CUDA version of an nvcc, (0, 0) if it does not say."""
    release = re.search(r"release (\d+)\.(\d+)", ask([path, "--version"]))
    return (int(release[1]), int(release[2])) if release else (0, 0)


def codes(path: str) -> list[str]:
    """Return what to compile for: sm_XX is machine code, compute_XX is PTX."""
    wanted = os.environ.get("RNNFUSED_CUDA_ARCHS", "").strip()
    words = re.findall(r"[^\s,;]+", wanted or ARCHITECTURES)
    if not wanted:  # an older nvcc does not know the newest
        known = re.findall(r"compute_(\d+)", ask([path, "--list-gpu-arch"]))
        words = [word for word in words if re.match(r"\d+", word)[0] in known]
    result = []
    for word in words:
        parts = re.fullmatch(r"(\d+[af]?)(\+PTX)?", word)
        if not parts:
            fail(f"RNNFUSED_CUDA_ARCHS has {word!r}: say it like {ARCHITECTURES!r}")
        result += [f"sm_{parts[1]}"] + [f"compute_{parts[1]}"] * bool(parts[2])
    return result


class Nvcc:
    """Options for one nvcc, whose host compiler is the one that `host` calls."""

    def __init__(self, path: str, host: list[str], host_flags: list[str]):
        # nvcc takes one program as its host compiler; NVCC_CCBIN is its own variable for another.
        program, *rest = [word for word in host if os.path.basename(word) not in LAUNCHERS]
        command = [path, "-ccbin", os.environ.get("NVCC_CCBIN") or program]
        gencode = [f"-gencode=arch={c.replace('sm_', 'compute_')},code={c}" for c in codes(path)]
        self.command = [*command, *FLAGS, *gencode]
        self.command += [f"-Xcompiler={flag}" for flag in [*rest, *host_flags]]
        variables = [os.environ.get(f"NVCC_{end}_FLAGS", "") for end in ("PREPEND", "APPEND")]
        self.identity = "\n".join([ask([path, "--version"]), *variables])
        # Toolkits have their headers and libraries in several places; nvcc knows.
        self._settings = ask([*command, "--dryrun", "-x", "cu", os.devnull])
        self.include_flags = self._setting("INCLUDES")
        self.link_flags = [*self._setting("LIBRARIES"), *RUNTIME]

    def _setting(self, name: str) -> list[str]:
        line = re.search(rf"^#\$ {name}=(.*)$", self._settings, re.MULTILINE)
        return shlex.split(line[1]) if line else []
