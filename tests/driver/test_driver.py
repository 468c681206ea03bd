"""csrc/cpu without torch and Python: random calls of everything, on threads, processors and with sanitizers."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import rnnfused.ops

from . import programs

CALLS = 300
INSTRUCTION_SETS = ["default", "avx2", "avx512", "avx512_bf16"]


def run(command, calls=CALLS, seed=1, threads=1, timeout=600, more=(), **environment):
    """The finished process of a driver; `more` are its last arguments."""
    libraries = Path(torch.__file__).parent / "lib"
    known = {"RNNFUSED_LIBRARY": str(rnnfused.ops.LIBRARY), "LD_LIBRARY_PATH": str(libraries)}
    # ThreadSanitizer ignores -fno-sanitize-recover, and thousands of reports take many minutes.
    known["TSAN_OPTIONS"] = "halt_on_error=1"
    return subprocess.run(
        [*map(str, command), str(calls), str(seed), str(threads), *more],
        env={**os.environ, **known, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def results(command, **options):
    """The lines that a driver prints: a hash of each call's results."""
    process = run(command, **options)
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    assert len(lines) == options.get("calls", CALLS)
    return lines


def by_installed(name, **options):
    """The results of the installed kernels of an instruction set."""
    program = [programs.with_installed_kernels()]
    process = run(program, calls=1, RNNFUSED_CPU_CAPABILITY=name)
    if process.returncode == 3:
        pytest.skip(process.stderr.strip())
    return results(program, RNNFUSED_CPU_CAPABILITY=name, **options)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_threads_change_no_bit(name):
    alone = by_installed(name)
    for threads in (2, 3, 8):
        assert by_installed(name, threads=threads) == alone


def test_other_seeds_give_other_results():
    assert len(set(by_installed("default")) & set(by_installed("default", seed=2))) == 0


def test_avx512_gives_the_bits_of_avx2():
    assert by_installed("avx512") == by_installed("avx2")


def test_arm_gives_the_bits_of_avx2():
    expected = by_installed("avx2")
    assert results([programs.EMULATOR, programs.for_arm()]) == expected
    assert results([programs.EMULATOR, programs.for_arm()], threads=3, calls=60) == expected[:60]


def norms(command, calls=120):
    """For each layer in bfloat16, the norms of its results: of the magnitudes, and with signs."""
    process = run(command, calls=calls, more=["norms"])
    assert process.returncode == 0, process.stderr
    found = {}
    for line in process.stdout.splitlines():
        name, _, numbers = line.rpartition(":")
        found[name] = [float(number) for number in numbers.split()]
    assert len(found) > calls // 8
    return found


def test_pairs_of_bfloat16_on_arm_give_nearly_the_results_of_single_products():
    one = norms([programs.EMULATOR, programs.for_arm()])
    pairs = norms([programs.EMULATOR, programs.for_arm("neon_bf16")])
    assert one.keys() == pairs.keys() and one != pairs
    for name, expected in one.items():
        # A magnitude, then a sum with signs, which sees values in wrong places.
        for i, (a, b) in enumerate(zip(expected, pairs[name], strict=True)):
            assert abs(a - b) <= 0.02 * expected[i // 2 * 2], name


@pytest.mark.parametrize("threads", [1, 3])
def test_every_allocation_may_fail(threads):
    """The call then throws, waits for no thread that gave up, and leaves nothing that changes the next call."""
    # Without this, most memory is that of an earlier call.
    program = programs.with_installed_kernels("-DRNNFUSED_EXACT_MEMORY")
    environment = {"RNNFUSED_CPU_CAPABILITY": "default"}
    got = results([program], threads=threads, more=["fail"], **environment)
    assert got == by_installed("default")


def test_addresses_and_undefined_behaviour():
    program = programs.sanitized("address", "undefined")
    checked = results([program], threads=2)
    assert checked == results([program], threads=1)


def test_data_races():
    program = programs.sanitized("thread")
    for seed in (1, 2):
        results([program], seed=seed, threads=3)


# The sanitizers; a file of csrc/cpu, its right text, a wrong one; a word of the report.
FAULTS = [
    (
        ("address", "undefined"),
        "projected_forward.cpp",
        "Memory memory(product_of(rows, hidden, sum_bytes));",
        "Memory memory(product_of(rows, hidden, sum_bytes) - 1);",
        "AddressSanitizer",
    ),
    (
        ("address", "undefined"),
        "share.cpp",
        "Memory scratch(product_of(count, bytes));",
        "Memory scratch(product_of(count, bytes) - kCacheLine);",
        "AddressSanitizer",
    ),
    (
        ("thread",),
        "team.cpp",
        "lines_[member.number + 1].value.store(step, std::memory_order_release)",
        "lines_[member.number + 1].value.store(step, std::memory_order_relaxed)",
        "ThreadSanitizer",
    ),
    (
        ("thread",),
        "share.cpp",
        "run(scratch.get() + i * bytes, ",
        "run(scratch.get(), ",
        "ThreadSanitizer",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("checks", "file", "old", "new", "report"),
    FAULTS,
    ids=[f"{fault[0][0]}-{fault[1]}" for fault in FAULTS],
)
def test_planted_faults_are_reported(tmp_path, checks, file, old, new, report):
    csrc = tmp_path / "csrc"
    shutil.copytree(programs.ROOT / "csrc", csrc)
    path = csrc / "cpu" / file
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    process = run([programs.sanitized(*checks, csrc=csrc)], threads=3)
    assert process.returncode != 0 and report in process.stderr
