"""The stage that watches the probe of the CUDA kernels, with other programs as the probe; the clocks."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from fake_project import ROOT

if not (ROOT / ".ci" / "gpu_check").is_dir():
    pytest.skip("the check is not here", allow_module_level=True)

# A probe of five calls. One hangs, one crashes, one makes the GPU unusable.
STUBBORN = """
import os, sys, time
start = int(sys.argv[sys.argv.index("--from") + 1]) if "--from" in sys.argv else 0
for index in range(start, 5):
    print('{"index": %d, "case": "c%d", "status": "started"}' % (index, index), flush=True)
    if index == 1:
        time.sleep(1000)
    if index == 2:
        os.abort()
    status = "error" if index == 3 else "ok"
    print('{"index": %d, "case": "c%d", "status": "%s"}' % (index, index, status), flush=True)
    if index == 3:
        sys.exit(4)
"""


def command(tmp_path, seconds, stall, code):
    """What runs the stage on a probe of this code; its rows go to rows.jsonl."""
    script, rows = tmp_path / "probe.py", tmp_path / "rows.jsonl"
    script.write_text(code)
    watch_probe = ROOT / ".ci" / "gpu_check" / "watch_probe.py"
    return [sys.executable, watch_probe, rows, str(seconds), str(stall), sys.executable, script]


ENVIRONMENT = {**os.environ, "COMMIT": "abc", "PATH": "/nowhere"}
ENVIRONMENT.pop("PYTHONSAFEPATH", None)  # the stage imports its neighbours


def watch(tmp_path, *given):
    """The finished stage and its rows."""
    options = dict(env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    call = subprocess.run(command(tmp_path, *given), **options)
    rows = (tmp_path / "rows.jsonl").read_text()
    return call, [json.loads(line) for line in rows.splitlines()]


def test_the_probe_goes_on_behind_calls_that_hang_or_crash(tmp_path):
    call, rows = watch(tmp_path, 30, 0.5, STUBBORN)
    assert [(row["index"], row["status"]) for row in rows] == [
        (0, "ok"),
        (1, "hang"),
        (2, "crash"),
        (3, "error"),
        (4, "ok"),
    ]
    assert {(row["commit"], row["clocks"]) for row in rows} == {("abc", None)}
    assert call.returncode == 1
    assert call.stdout.splitlines()[-1] == (
        "note: 1 crash, 1 error, 1 hang, 2 ok; c1: hang; c2: crash; c3: error"
    )


def test_the_probe_ends_in_its_time(tmp_path):
    started = time.monotonic()
    call, rows = watch(tmp_path, 1, 20, STUBBORN)
    assert time.monotonic() - started < 5 and [row["status"] for row in rows] == ["ok"]
    assert "no time" in call.stdout


def test_a_row_is_in_the_file_before_the_next_call_ends(tmp_path):
    options = dict(env=ENVIRONMENT, stdout=subprocess.DEVNULL, start_new_session=True)
    process = subprocess.Popen(command(tmp_path, 30, 30, STUBBORN), **options)
    rows = tmp_path / "rows.jsonl"
    ends = time.monotonic() + 20
    while time.monotonic() < ends and not (rows.exists() and rows.read_text()):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert [json.loads(line)["status"] for line in rows.read_text().splitlines()] == ["ok"]


@pytest.mark.parametrize(
    ("code", "note"),
    [
        ("import sys; sys.exit(2)", "no rows; the probe ended with 2"),
        ("print('no JSON')", "no rows"),
        ('print(\'{"plan": "none"}\')', "1 rows"),
    ],
)
def test_a_probe_without_calls(tmp_path, code, note):
    call, rows = watch(tmp_path, 20, 10, code)
    assert call.stdout.splitlines()[-1] == f"note: {note}"
    assert call.returncode == int(not rows)


def test_clocks_that_are_not_told_are_null():
    spec = importlib.util.spec_from_file_location("gpu_state", ROOT / "benchmarks" / "gpu_state.py")
    gpu_state = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gpu_state)
    expected = {"sm_mhz": 1980.0, "memory_mhz": 2619.0, "power_w": None, "temperature_c": 41.0}
    assert gpu_state.parse_clocks("1980, 2619, [N/A], 41") == expected
    assert gpu_state.parse_clocks("Failed to initialize NVML") is None
