"""The benchmark of the CUDA loops, with everything that needs a GPU replaced: order, rows, failures, time."""

import importlib
import json
from pathlib import Path

import pytest
import torch
from fake_project import ROOT

import rnnfused


@pytest.fixture
def bench(monkeypatch):
    """The benchmark on the CPU. Each of its calls takes a millisecond; cuDNN's take four."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = importlib.import_module("compare_cuda")

    def medians(calls):
        for call in calls.values():
            call()
        return {name: module.Times(4.0 if name.startswith("cudnn") else 1.0, 0.1) for name in calls}

    compare = module.Comparison
    monkeypatch.setattr(module, "medians", medians)
    monkeypatch.setattr(module, "plan_of", lambda weight_hh, batch_size: "cluster of 8")
    monkeypatch.setattr(module.gpu_state, "clocks", lambda: {"sm_mhz": 1980.0})
    monkeypatch.setattr(module, "Comparison", lambda *given: compare(*given, device="cpu"))
    return module


def small(bench, dtype=torch.float32):
    return bench.Case(4, 3, 8, dtype)


def test_the_cases_that_matter_most_come_first_and_none_is_lost(bench):
    first, rest, everything = map(bench.cases, ("first", "rest", "all"))
    assert len(first) == 3 and everything == first + rest
    assert len(set(everything)) == len(everything) == 3 * len(bench.SHAPES)
    assert {case.dtype for case in rest[-len(bench.SHAPES) :]} == {torch.float16}


def test_a_row_has_both_sides_and_what_they_belong_to(bench):
    rows = list(bench.rows(small(bench), False, {"commit": "abc"}))
    assert [row["way"] for row in rows] == ["forward", "forward_backward"]
    for row in rows:
        assert row["commit"] == "abc" and row["shape"] == (4, 3, 8) and row["dtype"] == "float32"
        assert row["clocks"] == {"before": {"sm_mhz": 1980.0}, "after": {"sm_mhz": 1980.0}}
        assert row["us_per_step"]["ours"] == [250, 250] and row["us_per_step"]["cudnn"] == [
            1000,
            1000,
        ]
        assert row["launch_us"]["ours"] == [100, 100]
        assert row["ratios"] == {"cudnn": [4, 4], "cudnn_tf32": [4, 4], "steps": [1, 1]}
        assert row["difference"] < 1e-5 and row["fused"] is False and "plan" in row
        assert "cudnn 4.00-4.00" in bench.line_of(row)
    assert "loop" in rows[0]["us_per_step"]


@pytest.mark.parametrize("wrong", [float("nan"), 0.5])
def test_a_wrong_result_is_not_timed(bench, monkeypatch, wrong):
    class Wrong(rnnfused.RNN):
        def forward(self, *arguments):
            output, h_n = super().forward(*arguments)
            return output + wrong, h_n

    monkeypatch.setattr(rnnfused, "RNN", Wrong)
    [row] = bench.rows(small(bench), False, {})
    assert row["error"].startswith("a state of ours differs from cuDNN's by")
    assert "us_per_step" not in row and "failed: a state" in bench.line_of(row)


def run(bench, tmp_path, rows, seconds=100, times=(0,)):
    """Runs three cases whose clock shows `times`."""
    clock = iter([*times, *[times[-1]] * 100])
    out = tmp_path / "a folder" / "rows.jsonl"
    chosen = [small(bench, dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)]
    counts = bench.run(chosen, out, seconds, False, {}, rows=rows, clock=lambda: next(clock))
    return counts, out


def test_a_row_is_in_the_file_before_the_next_is_measured(bench, tmp_path):
    out: Path = tmp_path / "a folder" / "rows.jsonl"
    seen = []

    def rows(case, *_):
        seen.append(out.read_text().count("\n"))
        yield {"shape": case.shape, "dtype": "x", "error": "planted"}

    counts, _ = run(bench, tmp_path, rows)
    assert seen == [0, 1, 2] and counts == (3, 0, 3)
    assert all(json.loads(line)["error"] for line in out.read_text().splitlines())


def test_no_case_starts_that_would_not_end_in_time(bench, tmp_path):
    def rows(case, *_):
        yield {"shape": case.shape, "dtype": "x", "error": "planted"}

    # The first case takes 40 s and the second 50 s; a third may take as long.
    counts, _ = run(bench, tmp_path, rows, seconds=100, times=(0, 0, 40, 40, 90, 90))
    assert counts == (2, 1, 2)
