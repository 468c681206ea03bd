"""Planted faults: each makes a call fail, by a wrong number, a race, a bad access, a misused barrier or a deadlock."""

import pytest

from . import nvcc_output
from .calls import draw
from .errors import BadAccess, ExecutionError
from .faults import CLUSTER, FLOAT, GRID, IN_PTX, IN_SOURCE, ONE, Fault

TRIES = 8  # calls in which a fault must show
USUAL = 8  # faults that the usual tests plant


def find(programs, call, plan=None, tries=TRIES):
    """The error of the first call that fails; None if all are right."""
    for seed in range(tries):
        drawn = draw(seed, **call)
        try:
            drawn.check(programs, plan and plan(drawn))
        except (AssertionError, ExecutionError) as error:
            print(drawn, type(error).__name__, error)
            return error
    return None


def names(faults):
    return [fault.name.replace(" ", "-") for fault in faults]


def slow_after(count, faults):
    return [
        pytest.param(fault, marks=[pytest.mark.slow] if i >= count else [])
        for i, fault in enumerate(faults)
    ]


# Every third, so that the usual tests have some of each exchange.
IN_ORDER = sorted(IN_PTX, key=lambda fault: IN_PTX.index(fault) % 3)


@pytest.mark.parametrize("fault", slow_after(USUAL, IN_ORDER), ids=names(IN_ORDER))
def test_fault_in_ptx(programs, tmp_path, fault):
    assert isinstance(find(fault.programs(tmp_path), fault.call), fault.errors)


@pytest.mark.parametrize("fault", IN_SOURCE, ids=names(IN_SOURCE))
def test_fault_in_source_has_its_text(fault):
    """The slow tests, which plant it, run seldom."""
    text = (nvcc_output.ROOT / "csrc" / "cuda" / fault.file).read_text()
    assert text.count(fault.old) == 1


@pytest.mark.slow
@pytest.mark.parametrize("fault", IN_SOURCE, ids=names(IN_SOURCE))
def test_fault_in_source(programs, tmp_path, fault):
    assert isinstance(find(fault.programs(tmp_path), fault.call), fault.errors)


@pytest.mark.parametrize("where", [ONE, CLUSTER, GRID], ids=["one", "cluster", "grid"])
def test_too_little_shared_memory(programs, where):
    def smaller(call):
        launch = call.launch()
        launch.shared_bytes -= 16
        return lambda hidden, batch: launch

    call = Fault("", where | FLOAT, "", "", ()).call
    assert isinstance(find(programs("float32", where["architecture"]), call, smaller), BadAccess)


@pytest.mark.parametrize("where", [ONE, CLUSTER, GRID], ids=["one", "cluster", "grid"])
def test_without_a_fault_the_same_calls_are_right(programs, where):
    call = Fault("", where | FLOAT, "", "", ()).call
    assert find(programs("float32", where["architecture"]), call, tries=3) is None


def test_a_cluster_with_a_block_without_units_is_never_launched():
    """It would send nothing, so its peers would not wait for it and run two steps ahead."""
    call = draw(0, **FLOAT, **GRID, hidden=5, batch=2, steps=6, teams=1)
    assert call.launch() is not None  # the blocks of a grid count steps
    call.exchange, call.architecture = "cluster", "sm_90a"
    assert call.launch() is None
