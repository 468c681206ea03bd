"""A session of the benchmarks: its threads, its options, the results that it prints and writes.

A session has one number of threads, because thread pools are sized once. The file keeps records of other numbers.
"""

import os
from pathlib import Path

import pytest
import results
import timing
import torch
from cases import CASES, WAYS
from peers import PEERS, spans

RESULTS = pytest.StashKey[results.Results]()


def pytest_addoption(parser):
    group = parser.getgroup("rnnfused")
    others = [name for name in PEERS if name != "nn.RNN"]
    group.addoption("--peers", nargs="+", default=[], choices=others, help="peers besides nn.RNN")
    group.addoption("--seconds", type=float, default=2, help="seconds per measurement (default: 2)")
    group.addoption("--threads", type=int, help="threads and cores (default: all cores)")
    group.addoption("--results", type=Path, default=results.cpu_file(), help="file of the records")


def pytest_configure(config):
    config.stash[RESULTS] = results.Results()
    # pytest-benchmark's table lacks the peers; pytest_terminal_summary prints both sides.
    config.option.benchmark_quiet = True
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        config.option.threads = config.option.threads or len(cores)
        if not 0 < config.option.threads <= len(cores):
            raise pytest.UsageError(f"--threads must be at most the {len(cores)} cores")
        os.sched_setaffinity(0, cores[: config.option.threads])
    torch.set_num_threads(config.option.threads or torch.get_num_threads())


def pytest_generate_tests(metafunc):
    values = {
        "case": CASES,
        "way": WAYS,
        "peer": ["nn.RNN", *metafunc.config.option.peers],
        "run": range(1, results.RUNS + 1),
    }
    for name, of_name in values.items():
        marks = metafunc.definition.iter_markers("parametrize")
        marked = [each for mark in marks for each in mark.args[0].split(", ")]
        if name in metafunc.fixturenames and name not in marked:
            prefix = "run" if name == "run" else ""
            metafunc.parametrize(name, of_name, ids=[f"{prefix}{value}" for value in of_name])


def pytest_collection_modifyitems(items):
    # All first runs precede all second ones, so that drift shows as their difference.
    items.sort(key=lambda item: item.callspec.params["run"])


@pytest.fixture
def record(request):
    """Records the figures of one run: ``record(section, key, figures)``."""
    session = request.config.stash[RESULTS]

    def add(section, key, figures):
        session.add(section, {**key, "threads": torch.get_num_threads()}, figures)

    return add


@pytest.fixture
def in_turn(request, benchmark, record):
    """Times rnnfused and the other side in turn, and records their ratio."""

    def compare(case, way, against, ours, theirs):
        taken = timing.in_turn(benchmark, ours, theirs, request.config.option.seconds)
        if taken is None:
            return
        figures = {
            "ratios": taken.theirs / taken.ours,
            "share_of_peak": case.operations(way) / taken.ours / taken.peak,
            "microseconds": 1e6 * taken.ours,
        }
        benchmark.extra_info.update(figures)
        record("times", {"case": str(case), "way": way, "against": against}, figures)

    return compare


def pytest_terminal_summary(terminalreporter, config):
    measured = config.stash[RESULTS]
    terminalreporter.section(f"threads: {torch.get_num_threads()}")
    lines = {}
    for row in measured.records("times"):
        lines.setdefault((row["case"], row["way"]), []).append(row)
    for (case, way), rows in lines.items():
        ratios = spans({row["against"]: row["ratios"] for row in rows})
        share = min(rows[0]["share_of_peak"])
        terminalreporter.write_line(f"{case:22} {way:17} {share:4.0%} of peak   {ratios}")
    for row in measured.records("memory"):
        extra = "  ".join("?" if x is None else f"{x / 1e6:.2f}" for x in row["peak_extra_bytes"])
        saved = f"{row['saved_tensors'][0]} tensors of {row['saved_bytes'][0] / 1e6:.2g} MB"
        terminalreporter.write_line(
            f"{row['case']:22} {row['side']:17} saves {saved}, takes {extra} MB at its highest"
        )
    if measured.measured:
        terminalreporter.write_line(measured.write(config.option.results))
