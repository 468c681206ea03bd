"""A session of the benchmarks: one process with one number of threads. `run.py` starts several and joins their records."""

import os
from pathlib import Path

import pytest
import results
import torch
from cases import CASES
from peers import PEERS

from rnnfused.bench import timing
from rnnfused.bench.shape import WAYS

RESULTS = pytest.StashKey[results.Session]()


def pytest_addoption(parser):
    group = parser.getgroup("rnnfused")
    others = [name for name in PEERS if name != "nn.RNN"]
    group.addoption("--peers", nargs="+", default=[], choices=others, help="peers besides nn.RNN")
    group.addoption(
        "--seconds", type=float, default=0.15, help="seconds per comparison (default: 0.15)"
    )
    group.addoption("--threads", type=int, help="threads and cores (default: all cores)")
    group.addoption("--records", type=Path, help="file of this session's records")


def pytest_configure(config):
    config.addinivalue_line("markers", "one_thread: measured in the sessions with fewest threads")
    config.addinivalue_line("markers", "once: measured in the first session only")
    config.stash[RESULTS] = results.Session()
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        config.option.threads = config.option.threads or len(cores)
        if not 0 < config.option.threads <= len(cores):
            raise pytest.UsageError(f"--threads must be at most the {len(cores)} cores")
        os.sched_setaffinity(0, cores[: config.option.threads])
    torch.set_num_threads(config.option.threads or torch.get_num_threads())


def pytest_generate_tests(metafunc):
    values = {"case": CASES, "way": WAYS, "peer": ["nn.RNN", *metafunc.config.option.peers]}
    for name, of_name in values.items():
        marks = metafunc.definition.iter_markers("parametrize")
        marked = [each for mark in marks for each in mark.args[0].split(", ")]
        if name in metafunc.fixturenames and name not in marked:
            metafunc.parametrize(name, of_name, ids=map(str, of_name))


@pytest.fixture
def record(request):
    """Records figures: ``record(section, key, figures)``."""
    session = request.config.stash[RESULTS]
    threads = request.config.option.threads or torch.get_num_threads()

    def add(section, key, figures):
        session.add(section, {**key, "threads": threads}, figures)

    return add


@pytest.fixture
def in_turn(request, record):
    """Times rnnfused and the other side in turn, and records their ratio.

    ``scale`` is how many times the work of the other side rnnfused does.
    """

    def compare(case, way, against, ours, theirs, scale=1):
        taken = timing.in_turn(ours, theirs, request.config.option.seconds)
        figures = {
            "ratios": scale * taken.theirs / taken.ours,
            "share_of_peak": case.operations(way) / taken.ours / taken.peak,
            "microseconds": 1e6 * taken.ours,
        }
        record("times", {"case": str(case), "way": way, "against": against}, figures)

    return compare


def pytest_terminal_summary(terminalreporter, config):
    session = config.stash[RESULTS]
    terminalreporter.section(f"threads: {torch.get_num_threads()}")
    for row in session.records("times"):
        terminalreporter.write_line(
            f"{row['case']:22} {row['way']:17} {row['share_of_peak'][0]:4.0%} of peak   "
            f"{row['against']} {row['ratios'][0]:.2f}"
        )
    if config.option.records:
        session.write(config.option.records)
