"""The calls of four layers take as many instructions as committed: a guard of speed that no load of a machine disturbs."""

import pytest

from .instructions import counting, figures

FIGURES = {"T1 B2 I3 H4": {"forward": 10_000, "backward": 30_000}}


def test_calls_take_the_committed_instructions(tmp_path):
    reason = counting.obstacle()
    if reason:
        pytest.skip(reason)
    expected = figures.committed(counting.compiler())
    if expected is None:
        pytest.skip(f"{figures.FILE.name} has no figures of {counting.compiler()}")
    got = counting.count(tmp_path)
    if isinstance(got, str):
        pytest.skip(got)
    lines = figures.differences(expected, got)
    assert not lines, "\n".join([*lines, f"If the change is meant: {figures.RENEWAL}"])


@pytest.mark.parametrize("more", [201, -201])
def test_a_difference_is_named(more):
    got = {"T1 B2 I3 H4": {"forward": 10_000 + more, "backward": 30_000}}
    assert figures.differences(FIGURES, got) == [
        f"T1 B2 I3 H4 forward: 10,000 instructions committed, {10_000 + more:,} now "
        f"({more / 100:+.1f}%)"
    ]


@pytest.mark.parametrize("more", [200, -200])
def test_two_percent_are_no_difference(more):
    got = {"T1 B2 I3 H4": {"forward": 10_000 + more, "backward": 30_000 + more}}
    assert figures.differences(FIGURES, got) == []


def test_a_shape_without_a_figure_is_named():
    [line] = figures.differences(FIGURES, {"T9 B2 I3 H4": {"forward": 5_000}})
    assert line == "T9 B2 I3 H4 forward: no figure, 5,000 instructions now"


def test_without_valgrind_the_reason_says_so(monkeypatch):
    monkeypatch.setattr(counting.shutil, "which", lambda tool: None if tool == "valgrind" else tool)
    assert counting.obstacle() == "needs valgrind"


def test_another_compiler_has_no_figures():
    assert figures.committed("gcc 1") is None
