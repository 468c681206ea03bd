"""A call uses no more workers than there are processors, whatever torch.set_num_threads says."""

import os
import subprocess
from pathlib import Path

import pytest
import torch
from compiled import ROOT, compiled
from python_process import run_python

import rnnfused

COUNT = """
import torch, rnnfused
torch.set_num_threads(1)
one = torch.ops.rnnfused.cpu_multiply_add(10)
torch.set_num_threads(64)
print(torch.ops.rnnfused.cpu_multiply_add(10) // one)
"""


def workers_of_64_threads(before="", **environment):
    result = run_python(before + COUNT, **environment)
    assert result.returncode == 0, result.stderr
    return int(result.stdout)


def test_threads_share_the_processors_of_the_process():
    available = len(os.sched_getaffinity(0))
    assert 1 <= workers_of_64_threads(RNNFUSED_PROCESSORS="") <= available
    one = f"import os; os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}})\n"
    assert workers_of_64_threads(one, RNNFUSED_PROCESSORS="") == 1


@pytest.mark.skipif(os.cpu_count() < 2, reason="there is one processor")
@pytest.mark.parametrize("binding", [{"OMP_PROC_BIND": "close"}, {"GOMP_CPU_AFFINITY": "0-1"}])
def test_threads_that_openmp_pins_are_several_workers(binding):
    assert workers_of_64_threads(RNNFUSED_PROCESSORS="", **binding) >= 2


@pytest.mark.parametrize("binding", [{"OMP_PROC_BIND": "FALSE"}, {"KMP_AFFINITY": "disabled"}])
def test_threads_that_openmp_does_not_pin_have_their_affinity(binding):
    one = f"import os; os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}})\n"
    assert workers_of_64_threads(one, RNNFUSED_PROCESSORS="", **binding) == 1


def test_the_variable_replaces_their_number():
    assert workers_of_64_threads(RNNFUSED_PROCESSORS="3") == 3
    assert workers_of_64_threads(RNNFUSED_PROCESSORS="100") == 64


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "1025", "99999999999999999999"])
def test_a_wrong_variable_is_an_error(value):
    result = run_python(COUNT, RNNFUSED_PROCESSORS=value)
    assert result.returncode != 0
    assert f'RNNFUSED_PROCESSORS is "{value}", but must be a number' in result.stderr


def test_results_have_the_same_bits_with_more_threads_than_processors():
    torch.manual_seed(0)
    layer, x = rnnfused.RNN(64, 256), torch.randn(50, 3, 64)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 64):
            torch.set_num_threads(count)
            results.append(layer(x)[0])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


# /proc/self/cgroup, files of the groups, processors.
GROUPS = {
    "none": ("0::/\n", {}, 0),
    "no limit": ("0::/\n", {"cpu.max": "max 100000"}, 0),
    "one and a half": ("0::/\n", {"cpu.max": "150000 100000"}, 2),
    "less than one": ("0::/\n", {"cpu.max": "5000 100000"}, 1),
    "own group": ("0::/a/b\n", {"a/b/cpu.max": "300000 100000"}, 3),
    "a group around it has less": (
        "0::/a/b\n",
        {"a/b/cpu.max": "800000 100000", "a/cpu.max": "400000 100000", "cpu.max": "max 100000"},
        4,
    ),
    "a container sees another path": ("0::/host/a\n", {"cpu.max": "200000 100000"}, 2),
    "version 1": (
        "5:memory:/a\n4:cpu,cpuacct:/a\n",
        {"cpu/a/cpu.cfs_quota_us": "250000", "cpu/a/cpu.cfs_period_us": "100000"},
        3,
    ),
    "version 1 without a limit": (
        "4:cpu,cpuacct:/\n",
        {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
        0,
    ),
    "other controllers": ("4:cpuset:/\n", {"cpu/cpu.cfs_quota_us": "100000"}, 0),
    "nonsense": ("what\n::\n0::/\n", {"cpu.max": "many few"}, 0),
}


@pytest.mark.parametrize("name", GROUPS)
def test_quota_of_control_groups(tmp_path, name):
    groups, files, expected = GROUPS[name]
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    csrc = ROOT / "csrc"
    sources = [ROOT / "tests" / "processor_quota.cpp", csrc / "cpu" / "processors.cpp"]
    compiler = [os.environ.get("CXX", "c++"), "-std=c++17", f"-I{csrc}"]
    program = compiled(
        "processor_quota",
        [*compiler, *map(str, sources)],
        [*sources, csrc / "cpu" / "processors.h"],
    )
    output = subprocess.check_output([Path(program), groups, tmp_path], text=True)
    assert int(output) == expected
