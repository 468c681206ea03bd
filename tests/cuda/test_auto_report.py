"""The report on the choices of a process, on a fake GPU."""

import pytest
import torch
from fake_gpu import PLAN, arguments, run, run_forward, spoil, ways

from rnnfused.cuda.reporting import report_of

pytestmark = pytest.mark.usefixtures("one_thread")


def test_report(gpu, loops, warned):
    assert str(report_of(loops)) == "RNNFUSED_CUDA_FUSED: auto\nnothing was decided yet"
    assert run(loops) == ("fused", "fused")
    gpu.where, gpu.fault = "cpu:1", spoil("forward_fused", 0, 1.0)
    run_forward(loops, *arguments(batch=1, steps=1, dtype=torch.bfloat16)[0])
    gpu.plan_of = lambda *key: ""
    run_forward(loops, *arguments(hidden=6, heads=2, batch_sizes=torch.tensor([5, 3, 1]))[0])
    report = report_of(loops)
    assert repr(report) == str(report)
    assert (
        str(report)
        == f"""\
RNNFUSED_CUDA_FUSED: auto
cpu:0 Fake 0: forward, float64, H 7, batch 5 to 8, 2 to 7 steps: fused
  plan: {PLAN}; self-check: passed
  medians, 6 steps: steps 3.000 ms, graphed 2.000 ms, fused 1.000 ms
cpu:0 Fake 0: backward, float64, H 7, batch 5 to 8, 2 to 7 steps: fused
  plan: {PLAN}; self-check: passed
  medians, 6 steps: steps 3.000 ms, graphed 2.000 ms, fused 1.000 ms
cpu:1 Fake 1: forward, bfloat16, H 7, batch 1, 1 step: graphed
  plan: {PLAN}; self-check: failed: output is off by 1
  medians, 1 step: steps 3.000 ms, graphed 2.000 ms
cpu:1 Fake 1: forward, float64, H 6, batch 5 to 8, 2 to 7 steps, packed, 2 heads: graphed
  plan: none; self-check: none
  medians, 3 steps: steps 3.000 ms, graphed 2.000 ms
off: cluster of 8 on cpu:1: output is off by 1"""
    )
    row = report.rows[2]
    assert (row.device, row.plan, row.dtype) == ("cpu:1 Fake 1", PLAN, "bfloat16")
    assert (row.medians, row.timed_steps, row.choice) == (
        {"steps": 3.0, "graphed": 2.0},
        1,
        "graphed",
    )
    assert ways(loops)[0] == "graphed"


def test_the_report_says_that_no_check_was_made(gpu, loops):
    def fault(op, given, results):
        raise torch.OutOfMemoryError("CUDA out of memory")

    gpu.fault = fault
    run_forward(loops, *arguments()[0])
    (row,) = report_of(loops).rows
    assert (row.self_check, row.choice) == ("none", "steps")
    assert row.reason == "the timing failed: out of memory"


def test_the_report_says_why_nothing_was_timed(gpu, loops, monkeypatch):
    monkeypatch.setattr("rnnfused.cuda.timing.MAX_BYTES", 1)
    run_forward(loops, *arguments()[0])
    assert str(report_of(loops)).endswith("\n  a timing would take too much memory")
