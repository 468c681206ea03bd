"""The compiled CUDA library, without a GPU: its machine code, registers, symbols and dependencies."""

import importlib.util
import json
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PACKAGE = Path(importlib.util.find_spec("rnnfused").origin).parent
LIBRARY = PACKAGE / "_cuda.so"
LOG = ROOT / "build" / "cuda.log"
COMMANDS = ROOT / "build" / "compile_commands.json"

pytestmark = pytest.mark.skipif(
    not LIBRARY.exists(), reason="rnnfused was built without CUDA (RNNFUSED_CUDA=1 builds with it)"
)


@pytest.fixture(scope="module")
def codes():
    """What the build compiled for, as ``sm_90a`` or ``compute_80``."""
    if not COMMANDS.exists():
        pytest.skip("the library was not built in this folder, so its commands are not here")
    codes = [
        re.findall(r"-gencode=\S+,code=(\w+)", " ".join(command["arguments"]))
        for command in json.loads(COMMANDS.read_text())
        if command["file"].endswith(".cu")
    ]
    assert codes and codes[0] and all(each == codes[0] for each in codes)
    return set(codes[0])


# The output of -Xptxas=-v on one kernel for one architecture.
REPORT = re.compile(
    r"Compiling entry function '(?P<kernel>\w+)' for '(?P<code>\w+)'\n"
    r".*Function properties for (?P=kernel)\n"
    r" *(?P<stack>\d+) bytes stack frame, "
    r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads\n"
    r".*Used (?P<registers>\d+) registers"
)


@pytest.fixture(scope="module")
def reports():
    """The report of ptxas on each kernel in the library, for each architecture."""
    if not LOG.exists():
        pytest.skip("the library was not built in this folder, so nvcc's log is not here")
    log = LOG.read_text()
    reports = [match.groupdict() for match in REPORT.finditer(log)]
    assert len(reports) == log.count("Compiling entry function") > 0  # every report was parsed
    return reports


def test_every_architecture_has_every_kernel(reports, codes):
    kernels = {}
    for report in reports:
        kernels.setdefault(report["code"], set()).add(report["kernel"])
    assert set(kernels) == {code for code in codes if code.startswith("sm_")}
    assert len({frozenset(names) for names in kernels.values()}) == 1


def test_no_kernel_keeps_its_registers_in_memory(reports):
    spills = [
        "{kernel} for {code}: {registers} registers, {stack} bytes of stack, "
        "{stores} + {loads} bytes spilled".format(**report)
        for report in reports
        if any(int(report[size]) for size in ("stack", "stores", "loads"))
    ]
    assert not spills, "\n".join(spills)


def fatbins(binary):
    """Yield the codes in each fat binary in `binary`, as a set of ``sm_90a`` or ``compute_80``.

    NVIDIA does not document the format. Files of CUDA 13.0 have, all little-endian: a header of 16
    bytes (magic number, version 1, size of the header, size of the rest), then for each code a
    header and the code. That header has the kind (1 is PTX, 2 machine code), its own size at byte
    4, the size of the code at byte 8, the number of the architecture at byte 28, and flags at byte
    40, whose bit 20 is the "a" of sm_90a.
    """
    start = -1
    while (start := binary.find(b"\x50\xed\x55\xba\x01\x00\x10\x00", start + 1)) >= 0:
        begin = start + 16
        end = begin + struct.unpack_from("<Q", binary, start + 8)[0]
        held = set()
        while begin < end:
            kind, header, size = struct.unpack_from("<H2xIQ", binary, begin)
            number, flags = struct.unpack_from("<I8xQ", binary, begin + 28)
            held.add(f"{'compute' if kind == 1 else 'sm'}_{number}{'a' if flags & 1 << 20 else ''}")
            begin += header + size
        yield held


def test_library_holds_code_for_every_architecture(codes):
    held = list(fatbins(LIBRARY.read_bytes()))
    assert held == [codes] * len(list((ROOT / "csrc" / "cuda").glob("*.cu")))


LOAD = """
import sys, torch
from pathlib import Path

def maps():
    return {line.split()[-1] for line in open("/proc/self/maps") if ".so" in line}

def ops(key):
    names = (name for name in torch._C._dispatch_get_all_op_names() if name.startswith("rnnfused::"))
    return {name for name in names if torch._C._dispatch_has_kernel_for_dispatch_key(name, key)}

package = Path(sys.argv[1])
torch.ops.load_library(package / "_cpu.so")
before, on_cpu = maps(), ops("CPU")
assert not ops("CUDA")
torch.ops.load_library(package / "_cuda.so")
assert ops("CPU") == on_cpu
print(*sorted(Path(path).name for path in maps() - before), *sorted(ops("CUDA")))
h, _ = torch.ops.rnnfused.layer(torch.ones(1, 1, 1), None, torch.ones(1, 1), *[None] * 5, 0, 1, False, None)
assert h.item() == 1
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks at what a process has mapped")
def test_library_loads_where_there_may_be_no_gpu_and_brings_nothing_along():
    command = [sys.executable, "-c", LOAD, PACKAGE]
    call = subprocess.run(command, capture_output=True, text=True)
    names = (
        "backward_fused",
        "fits",
        "forward_fused",
        "fused_alarm",
        "fused_plan",
        "has_fused_alarm",
    )
    everything = " ".join(["_cuda.so", *(f"rnnfused::{name}" for name in names)]) + "\n"
    assert (call.returncode, call.stdout, call.stderr) == (0, everything, "")


@pytest.fixture(scope="module")
def symbols():
    """The library's dynamic symbols, as (kind, name)."""
    if sys.platform != "linux" or not shutil.which("nm"):
        pytest.skip("needs an ELF library and binutils")
    names = subprocess.run(["nm", "-D", LIBRARY], capture_output=True, text=True, check=True).stdout
    return [line.split()[-2:] for line in names.splitlines()]


def test_library_needs_torchs_stable_abi_and_no_library_of_cuda(symbols):
    needed = [name for kind, name in symbols if kind in "Uw"]
    assert any(name.startswith(("aoti_torch_", "torch_")) for name in needed)
    assert not [name for name in needed if name.startswith(("Py", "_Py", "cu", "__cuda"))]
    assert not [name for name in needed if re.match("_Z(T[ISV])?N?K?(2at|3c10|5torch)", name)]
    answer = subprocess.run(["readelf", "-d", LIBRARY], capture_output=True, text=True, check=True)
    libraries = re.findall(r"\(NEEDED\).*\[(.*)\]", answer.stdout)
    assert "libtorch_cpu.so" in libraries
    assert not [name for name in libraries if "cuda" in name or name.startswith("libcu")]


def test_library_keeps_its_own_symbols_and_those_of_the_cuda_runtime_to_itself(symbols):
    own = [name for kind, name in symbols if kind not in "Uw"]
    assert not [name for name in own if name.startswith("_Z") and "rnnfused" in name]
    assert not [name for name in own if name.startswith(("cu", "__cuda"))]
