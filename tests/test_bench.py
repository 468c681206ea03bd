"""``rnnfused bench``, the timing that `benchmarks/` shares with it, and how its processes' records are joined."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import groupby
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rnnfused.bench import processes, timing, worker
from rnnfused.bench.processes import Figures, compare, describe, time_text
from rnnfused.bench.shape import WAYS, Shape, ways
from rnnfused.lm.cli import main

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SMALL = Shape(3, 2, 4, 5)


@pytest.fixture
def one_thread(restore_threads):
    torch.set_num_threads(1)


def test_sides_take_turns(one_thread, monkeypatch):
    monkeypatch.setattr(timing, "BLOCK_SECONDS", 0.0)
    made = []
    taken = timing.in_turn(lambda: made.append("A"), lambda: made.append("B"), 0.0)
    blocks = [side for side, _ in groupby(made)]
    assert blocks == ["A", "B"] * (len(blocks) // 2) and len(blocks) >= 2 * timing.LEAST_BLOCKS
    assert taken.ours > 0 and taken.theirs > 0 and taken.peak > 1e8


def test_a_time_is_the_median_of_blocks(one_thread, monkeypatch):
    clock = [0.0]
    durations = {"A": iter([8.0, 1.0, 5.0, 2.0]), "B": iter([1.0, 9.0, 7.0, 3.0])}

    def call(side):
        clock[0] += next(durations[side])

    monkeypatch.setattr(timing, "peak", lambda: 1.0)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(timing, "LEAST_BLOCKS", 3)
    monkeypatch.setattr(timing, "LONG_SECONDS", 100.0)
    # The first call of each side warms up. The calls are long, so that each other one is a block.
    taken = timing.in_turn(lambda: call("A"), lambda: call("B"), 0.0)
    assert taken == (2.0, 7.0, 1.0)


def test_a_call_of_seconds_is_timed_once_after_its_first_call(one_thread, monkeypatch):
    clock, made = [0.0], []

    def call(side):
        made.append(side)
        clock[0] += timing.LONG_SECONDS if side in made[:-1] else 10 * timing.LONG_SECONDS

    monkeypatch.setattr(timing, "peak", lambda: 1.0)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    taken = timing.in_turn(lambda: call("A"), lambda: call("B"), 0.3)
    assert made == ["A", "B", "A", "B"]
    assert taken == (timing.LONG_SECONDS, timing.LONG_SECONDS, 1.0)


@pytest.mark.parametrize(
    "options",
    [{}, {"ids": True}, {"num_layers": 3}, {"num_layers": 2, "bidirectional": True}],
    ids=str,
)
@pytest.mark.parametrize("way", WAYS)
def test_operations_are_those_that_torch_counts(options, way):
    shape = Shape(7, 3, 4, 5, **options)
    ours, _, gradient = shape.inputs()
    with FlopCounterMode(display=False) as counter:
        ways(ours.module, ours.input, gradient)[way]()
    counted = counter.get_total_flops()
    if way == "forward_backward":
        # The op leaves out one step's product of each loop: the gradient of the first state.
        loops = shape.num_layers * (2 if shape.bidirectional else 1)
        counted += loops * 2 * shape.batch_size * shape.hidden_size**2
    assert shape.operations(way) == counted


@pytest.mark.parametrize("options", [{}, {"ids": True}, {"dtype": "bfloat16"}], ids=str)
def test_both_sides_compute_the_same(options):
    ours, theirs, _ = Shape(3, 2, 4, 5, **options).inputs()
    tolerance = 0.05 if options.get("dtype") else 1e-5
    states = (side.module(side.input)[0] for side in (ours, theirs))
    torch.testing.assert_close(*states, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "name, value",
    [("num_steps", 0), ("hidden_size", 2**31), ("dtype", "int8"), ("batch_size", True)],
)
def test_a_wrong_shape_is_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} must .* got {value!r}"):
        Shape(**{name: value})


def test_each_process_gives_a_value():
    done = []
    found = compare(SMALL, 1, processes=2, seconds=0.001, advance=done.append)
    assert list(found) == list(WAYS) and done == [1] * 4
    for figures in found.values():
        assert len(figures.ratios) == 2 and min(figures.ours + figures.theirs + figures.peak) > 0


def test_states_that_differ_are_an_error(monkeypatch):
    wrong = torch.nn.RNN(4, 5)
    ours, theirs, gradient = SMALL.inputs()
    monkeypatch.setattr(
        Shape, "inputs", lambda self: (ours, theirs._replace(module=wrong), gradient)
    )
    with pytest.raises(ValueError, match="rnnfused and torch.nn.RNN give different states"):
        next(worker.measure(SMALL, 0.001))


@pytest.mark.parametrize(
    "code, error, message",
    [
        (f"import os; os.kill(os.getpid(), {signal.SIGKILL.value})", RuntimeError, "status -9"),
        ("raise SystemExit('no torch')", RuntimeError, "failed: no torch"),
        ("""print('{"error": "too large", "kind": "MemoryError"}')""", MemoryError, "too large"),
    ],
)
def test_a_process_that_fails_says_why(monkeypatch, code, error, message):
    monkeypatch.setattr(processes, "arguments", lambda *_: [sys.executable, "-c", code])
    with pytest.raises(error, match=message):
        compare(SMALL, 1)


def test_a_process_finds_the_modules_of_its_parent(monkeypatch, tmp_path):
    (tmp_path / "json.py").write_text("raise ImportError('not this one')")
    (tmp_path / "rnnfused").mkdir()
    monkeypatch.chdir(tmp_path)
    assert compare(SMALL, 1, processes=1, seconds=0.001)["forward"].ours


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_its_parent(sent):
    shape = f"Shape{SMALL.num_steps, SMALL.batch_size, SMALL.input_size, SMALL.hidden_size}"
    code = f"""
import subprocess
from rnnfused.bench import processes
from rnnfused.bench.shape import Shape
start = subprocess.Popen.__init__
def announced(self, *args, **keywords):
    start(self, *args, **keywords)
    print(self.pid, flush=True)
subprocess.Popen.__init__ = announced
processes.compare({shape}, 1, seconds=1000)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with parent:
        child = int(parent.stdout.readline())
        os.kill(parent.pid, sent)
        parent.wait(60)
    for _ in range(600):
        if not is_running(child):
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the measuring process goes on")


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_table():
    figures = Figures([1e-3, 2e-3, 4e-3], [2e-3, 8e-3, 12e-3], [1e9, 1e9, 1e9])
    lines = describe(Shape(1, 1, 50, 50), {"forward": figures}).splitlines()
    assert lines[0].split("   ")[-1] == "of the peak"
    assert lines[1].split() == "forward 2.00 ms 8.00 ms 3.00 (2.00 to 4.00) 0%".split()
    assert len(lines[0]) == len(lines[1])
    narrow = describe(Shape(1, 1, 50, 50, dtype="bfloat16"), {"forward": figures})
    assert "peak" not in narrow  # which is measured in float32


@pytest.mark.parametrize(
    "seconds, text",
    [
        (2.5e-7, "0.25 us"),
        (9.87e-6, "9.87 us"),
        (0.0123, "12.3 ms"),
        (0.5, "500 ms"),
        (61, "61.0 s"),
    ],
)
def test_time_text(seconds, text):
    assert time_text(seconds) == text


def test_command(capsys):
    sizes = "--num-steps 3 --batch-size 2 --input-size 4 --hidden-size 5".split()
    options = ["--processes", "1", "--seconds", "0.001", "--threads", "1"]
    assert main(["bench", *sizes, *options]) == 0
    out = capsys.readouterr().out
    assert out.startswith("RNN(4, 5) on 3 steps of 2 rows, float32, cpu\n") and "1 thread," in out
    assert "forward + backward" in out and "1 process;" in out
    assert main(["bench", *sizes, *options, "--ids", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["shape"]["ids"] is True and found["shape"]["hidden_size"] == 5
    assert len(found["seconds_per_call"]["forward_backward"]["torch.nn.RNN"]) == 1


def test_a_failed_process_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(
        processes, "arguments", lambda *_: [sys.executable, "-c", "raise SystemExit('no torch')"]
    )
    assert main(["bench"]) == 2
    assert capsys.readouterr().err.endswith(
        "rnnfused: error: a measuring process failed: no torch\n"
    )


@pytest.mark.parametrize(
    "options, message",
    [
        (["--num-steps", "0"], "--num-steps must lie in 1 .."),
        (["--processes", "0"], "--processes must be at least 1, got 0"),
        (["--seconds", "nan"], "--seconds must be positive"),
        (["--device", "nowhere"], "nowhere"),
        (["--num-steps", "2000000000", "--batch-size", "2000000000"], "out of memory"),
    ],
)
def test_wrong_options_are_one_line(options, message, capsys):
    assert main(["bench", *options]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


@pytest.fixture
def scripts(monkeypatch):
    """The modules (results, run) of the benchmarks."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import results
    import run

    return results, run


def session(results, ratio):
    made = results.Session()
    key = {"case": "35-20-200-200", "threads": 1, "way": "forward", "against": "nn.RNN"}
    made.add("times", key, {"ratios": ratio})
    return {section: list(made.records(section)) for section in results.KEYS}


def test_records_have_a_value_per_process_and_replace_older_ones(scripts, tmp_path):
    results, _ = scripts
    file = tmp_path / "cpu.json"
    assert "wrote 1 records" in results.join(file, [session(results, r) for r in (1.0, 2.0, 3.0)])
    [record] = json.loads(file.read_text())["times"]
    assert record["ratios"] == [1.0, 2.0, 3.0]
    results.join(file, [session(results, r) for r in (7.0, 8.0)])
    [record] = json.loads(file.read_text())["times"]
    assert record["ratios"] == [7.0, 8.0]
    before = file.read_text()
    assert "unchanged" in results.join(file, []) and file.read_text() == before


def test_what_needs_one_session_runs_in_the_first(scripts):
    _, run = scripts
    marks = {
        key: line[line.index("-m", 4) + 1]
        for key in ((1, True), (1, False), (2, False))
        for line in [run.command(key[0], 1, key[1], "records.json", [])]
    }
    assert marks == {
        (1, True): "",
        (1, False): "not once",
        (2, False): "not one_thread and not once",
    }


def test_a_failed_session_is_shown(scripts):
    _, run = scripts
    seen = []
    lines = "print('x.py::test_a[1] PASSED [ 50%]'); print('E  wrong'); raise SystemExit(1)"
    shown = run.run_session([sys.executable, "-c", lines], lambda *done: seen.append(done))
    assert seen == [("test_a[1]", 50)] and "wrong" in shown
    assert run.run_session([sys.executable, "-c", "raise SystemExit(5)"], None) is None


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs a system with affinities")
def test_a_benchmark_runs(scripts, tmp_path):
    _, run = scripts
    records = tmp_path / "records.json"
    line = run.command(1, 1, True, records, ["--seconds", "0.001", "-k", "fixed_cost"])
    assert run.run_session(line, lambda *_: None) is None
    times = json.loads(records.read_text())["times"]
    assert {record["against"] for record in times} == {"linear", "op", "dispatch"}
