"""nvcc, the compiler of the CUDA kernels: whether and where to use it, and with which options."""

import os
import re
import shlex
import shutil
import subprocess

from build_backend import Torch, fail

OLDEST_NVCC = (12, 4)  # every torch that csrc supports was built with a newer CUDA
DEFAULT_NVCC = "/usr/local/cuda/bin/nvcc"

# Machine code for common GPUs, and PTX, which the driver compiles for any other GPU from sm_80 on.
ARCHITECTURES = "80+PTX 86 90a 100 120"

FLAGS = [
    "-std=c++17",
    "-O3",
    "-Xcompiler=-fPIC,-fvisibility=hidden",
    "-Xptxas=-v",  # reports each kernel's registers and spills, which tests/cuda checks
    "-Icsrc",
]

# The CUDA runtime is linked statically: users need no toolkit, and its version is independent of
# torch's. Its symbols are hidden, or the dynamic linker could bind them to torch's runtime.
RUNTIME = ["-lcudart_static", "-ldl", "-lrt", "-lpthread", "-Wl,--exclude-libs,ALL"]

LAUNCHERS = ("ccache", "distcc", "sccache")


def find_nvcc(torch: Torch) -> str | None:
    """Return the path of nvcc, or None for a build without CUDA; print the reason for None.

    By default CUDA is built where `torch` has CUDA and an nvcc is found. RNNFUSED_CUDA=1 insists
    on it, also beside a torch without CUDA; RNNFUSED_CUDA=0 leaves it out.
    """
    wish = os.environ.get("RNNFUSED_CUDA", "")
    if wish not in ("", "0", "1"):
        fail(f"RNNFUSED_CUDA is {wish!r}: 0 builds without CUDA, 1 insists on it")
    problem, path = None, None
    if wish == "0":
        problem = "RNNFUSED_CUDA=0"
    elif wish == "" and torch.cuda is None:
        problem = f"torch {torch.version} has no CUDA (RNNFUSED_CUDA=1 builds with it all the same)"
    else:
        homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
        places = [*(f"{home}/bin/nvcc" for home in homes if home), "nvcc", DEFAULT_NVCC]
        path = next(filter(None, map(shutil.which, places)), None)
        if path is None:
            problem = "no nvcc in CUDA_HOME, CUDA_PATH, PATH or /usr/local/cuda"
        elif (version := version_of(path)) < OLDEST_NVCC:
            problem = "{} is of CUDA {}.{}, older than {}.{}".format(path, *version, *OLDEST_NVCC)
        if problem and wish == "1":
            fail(f"{problem}: RNNFUSED_CUDA=1 needs the CUDA toolkit (CUDA_HOME names its folder)")
    if problem is None:
        return path
    print(f"rnnfused: building for the CPU only: {problem}", flush=True)
    return None


def ask(command: list[str]) -> str:
    """Return the output of a command, errors included."""
    call = subprocess.run(
        command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return call.stdout


def version_of(path: str) -> tuple[int, int]:
    """Return the CUDA version of an nvcc, (0, 0) if its output lacks one."""
    release = re.search(r"release (\d+)\.(\d+)", ask([path, "--version"]))
    return (int(release[1]), int(release[2])) if release else (0, 0)


def gpus() -> list[tuple[int, int]]:
    """Return the compute capability of each GPU in this machine, by nvidia-smi; [] without one."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    answer = ask([program, "--query-gpu=compute_cap", "--format=csv,noheader"])
    return [
        (int(major), int(minor)) for major, minor in re.findall(r"^(\d+)\.(\d+)$", answer, re.M)
    ]


def code_for(gpu: tuple[int, int], words: list[str]) -> str | None:
    """Return which of the architectures in `words` a GPU runs: of its own major version, else PTX."""
    best = None
    for word in words:
        digits, letter, ptx = re.fullmatch(r"(\d+)([af]?)(\+PTX)?", word).groups()
        major, minor = int(digits[:-1]), int(digits[-1])
        if major == gpu[0] and (minor == gpu[1] if letter else minor <= gpu[1]):
            best = word
        elif best is None and ptx and (major, minor) <= gpu:
            best = word
    return best


def choose_codes(path: str, for_wheel: bool) -> list[str]:
    """Return what to compile for, and print why: sm_XX is machine code, compute_XX is PTX.

    RNNFUSED_CUDA_ARCHS names the architectures. Without it, a wheel gets all of ARCHITECTURES, and
    a build in place those of this machine's GPUs, or all where it has none.
    """
    wanted = os.environ.get("RNNFUSED_CUDA_ARCHS", "").strip()
    words = re.findall(r"[^\s,;]+", wanted or ARCHITECTURES)
    for word in words:
        if not re.fullmatch(r"\d+[af]?(\+PTX)?", word):
            fail(f"RNNFUSED_CUDA_ARCHS has {word!r}: write it like {ARCHITECTURES!r}")
    if wanted:
        reason = "RNNFUSED_CUDA_ARCHS"
    else:  # an older nvcc lacks the newest architectures
        known = re.findall(r"compute_(\d+)", ask([path, "--list-gpu-arch"]))
        words = [word for word in words if re.match(r"\d+", word)[0] in known]
        present = [] if for_wheel else [code_for(gpu, words) for gpu in gpus()]
        if for_wheel:
            reason = "all architectures, for a wheel"
        elif any(present):
            words = [word for word in words if word in present]
            reason = "the GPUs of this machine"
        else:
            reason = "all architectures: nvidia-smi lists no GPU that the kernels run on"
    codes = []
    for word in words:
        number = word.removesuffix("+PTX")
        codes += [f"sm_{number}"] + [f"compute_{number}"] * (word != number)
    print(f"rnnfused: building for CUDA with {path}: {' '.join(codes)} ({reason})", flush=True)
    return codes


class Nvcc:
    """The command of one nvcc, which compiles its host code with the compiler of `host`."""

    def __init__(self, path: str, codes: list[str], host: list[str], host_flags: list[str]):
        # nvcc accepts one program as host compiler, so launchers go; NVCC_CCBIN overrides it.
        program, *rest = [word for word in host if os.path.basename(word) not in LAUNCHERS]
        command = [path, "-ccbin", os.environ.get("NVCC_CCBIN") or program]
        gencode = [f"-gencode=arch={c.replace('sm_', 'compute_')},code={c}" for c in codes]
        self.command = [*command, *FLAGS, *gencode]
        self.command += [f"-Xcompiler={flag}" for flag in [*rest, *host_flags]]
        variables = [os.environ.get(f"NVCC_{end}_FLAGS", "") for end in ("PREPEND", "APPEND")]
        self.identity = "\n".join([ask([path, "--version"]), *variables])
        # The place of headers and libraries differs between toolkits; a dry run prints it.
        self._settings = ask([*command, "--dryrun", "-x", "cu", os.devnull])
        self.include_flags = self._setting("INCLUDES")
        self.link_flags = [*self._setting("LIBRARIES"), *RUNTIME]

    def _setting(self, name: str) -> list[str]:
        line = re.search(rf"^#\$ {name}=(.*)$", self._settings, re.MULTILINE)
        return shlex.split(line[1]) if line else []
