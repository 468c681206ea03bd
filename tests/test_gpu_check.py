"""The check of the CUDA kernels, with fake programs in place of everything that needs a GPU.

The fakes act by the stage that runs them: FAKE_FAIL and FAKE_HANG name stages.
"""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from fake_project import ROOT, Project

if not (ROOT / ".ci" / "gpu_check").is_dir():
    pytest.skip("the check is not here", allow_module_level=True)

# A hanging program only notes SIGTERM, and leaves its process id.
PLANTED = """#!/bin/sh
if [ -n "$GPU_CHECK_STAGE" ]; then
  case " $FAKE_FAIL " in *" $GPU_CHECK_STAGE "*) echo "planted failure"; exit 3 ;; esac
  case " $FAKE_HANG " in *" $GPU_CHECK_STAGE "*)
    trap 'echo "asked to end"' TERM
    echo $$ > "$FAKE_PIDS/$GPU_CHECK_STAGE"
    echo "hangs now"
    while :; do sleep 1; done ;;
  esac
fi
"""

PROGRAM = """
case "$0 $*" in
  *preflight*)
    echo '{"name": "Fake GPU", "multiprocessors": 4}'
    echo '{"cluster_blocks": 8, "shared_bytes": 9, "threads": 256, "active_clusters": 15}' ;;
  *--plans*) echo '{"plan": "cluster,8"}' ;;
  *--two-grids*) echo '{"case": "two grids", "status": "started"}'; echo '{"case": "two grids", "status": "ok"}' ;;
  *) echo '{"index": 0, "case": "none", "status": "started"}'
     echo '{"index": 0, "case": "none", "status": "ok"}' ;;
esac
"""

FAKES = {
    "nvidia-smi": """
case "$*" in
  *compute_cap*noheader) echo 9.0 ;;
  *clocks.sm,clocks.mem*) echo "1980, 2619, 350.5, [N/A]" ;;
  *) echo "Fake GPU" ;;
esac
""",
    "compute-sanitizer": 'echo "========= ERROR SUMMARY: 0 errors"',
    "ncu": 'echo "Duration 10 us"',
    "python": """
case "$*" in
  *find_spec*) echo '["xdist", "pytest_timeout"]' ;;
  *"-m pytest"*) echo "$*"; echo "==== 3 passed, 1 skipped in 0.10s ====" ;;
  *compare_cuda*)
    while [ "$1" != --out ]; do shift; done
    echo '{"row": 1}' > "$2"
    echo "note: 1 rows" ;;
  *setup.py*) echo "built the library" ;;
  *) echo '{"torch": "2.13"}' ;;
esac
""",
    "nvcc": """
case "$1" in
  --version) echo "Cuda compilation tools, release 13.0, V1"; exit ;;
  --list-gpu-arch) echo compute_90; exit ;;
esac
case "$*" in *--dryrun*) exit ;; esac
echo "$@" >> nvcc-calls
while [ $# -gt 1 ]; do
  case "$1 $2" in *.o) [ "$1" = -o ] && : > "$2" ;; "-o "*) cp "$FAKE_PROGRAM" "$2" ;; esac
  shift
done
exit 0
""",
}

STAGES = (
    "preflight build-probe plans probe two-grids build kernels benchmark-first modules "
    "sweep memcheck racecheck synccheck benchmark-rest ncu-1 ncu-2 ncu-3"
).split()
ROOTS = {"preflight", "build-probe", "build"}
OF_THE_LIBRARY = {"kernels", "modules", "benchmark-first", "benchmark-rest"}
LEAVES = [name for name in STAGES if name not in ROOTS]


def write_program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PLANTED + text)
    path.chmod(0o755)


class Check:
    """A copy of the project with the fakes, and the results of its last check."""

    def __init__(self, folder):
        self.root = Project(folder / "project").root
        shutil.copytree(ROOT / ".ci", self.root / ".ci", ignore=shutil.ignore_patterns("*.pyc"))
        (self.root / "benchmarks").mkdir()
        shutil.copy(ROOT / "benchmarks" / "gpu_state.py", self.root / "benchmarks")
        (self.root / "tests" / "cuda" / "probe").mkdir(parents=True)
        self.fakes = folder / "fakes"
        self.pids = folder / "pids"
        self.pids.mkdir()
        write_program(self.fakes / "program", PROGRAM)
        for name, text in FAKES.items():
            home = self.root / "toolkit" if name == "nvcc" else self.fakes
            write_program(home / "bin" / name, text)
        for name in ("preflight", "probe"):
            write_program(self.root / "build" / "gpu" / name, PROGRAM)
        self.logs = folder / "caller's folder" / "logs of a GPU"

    def environment(self, **changes):
        variables = {
            "PATH": f"{self.fakes}/bin:/usr/bin:/bin",
            "CUDA_HOME": str(self.root / "toolkit"),
            "CXX": str(self.root / "compiler"),
            "PYTHON": str(self.fakes / "bin" / "python"),
            "FAKE_PROGRAM": str(self.fakes / "program"),
            "FAKE_PIDS": str(self.pids),
            "LOGS": str(self.logs),
            "COMMIT": "abc",
            "PREBUILT": "1",
        }
        return {**variables, **{name: str(value) for name, value in changes.items()}}

    def start(self, *arguments, **changes):
        return subprocess.Popen(
            [sys.executable, self.root / ".ci" / "gpu_check", "--grace=0.1", *arguments],
            env=self.environment(**changes),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments, **changes):
        """Runs the check; returns its exit status and {stage: status}, after a look at folder and archive."""
        process = self.start(*arguments, **changes)
        self.output, _ = process.communicate(timeout=60)
        return process.returncode, self.look()

    def look(self):
        """Looks whether folder and archive are complete."""
        archive = self.logs.with_name(self.logs.name + ".tar.gz")
        with tarfile.open(archive) as packed:
            inside = {
                name.rpartition("/")[2]: packed.extractfile(name).read()
                for name in packed.getnames()
            }
        assert inside == {path.name: path.read_bytes() for path in self.logs.iterdir()}
        for name, content in inside.items():
            if name.endswith(".jsonl"):
                assert all(json.loads(line) for line in content.splitlines())
        summary = json.loads(inside["summary.json"])
        assert summary["commit"] == "abc"
        self.rows = {row["stage"]: row for row in summary["stages"]}
        assert all(row["log"] in inside for row in self.rows.values() if row["status"] != "skipped")
        return {name: row["status"] for name, row in self.rows.items()}

    def rows_of(self, name):
        return [json.loads(line) for line in (self.logs / name).read_text().splitlines()]

    def alive(self):
        """The stages that hung and whose processes still run."""
        states = {}
        for path in self.pids.iterdir():
            stat = Path(f"/proc/{path.read_text().strip()}/stat")
            states[path.name] = (
                stat.read_text().rpartition(")")[2].split()[0] if stat.exists() else "gone"
            )
        return [name for name, state in states.items() if state not in ("gone", "Z")]


@pytest.fixture
def check(tmp_path):
    return Check(tmp_path)


def test_every_stage_runs_in_its_order(check):
    status, stages = check.run(PREBUILT="")
    assert (status, stages) == (0, dict.fromkeys(STAGES, "ok")), check.output
    assert list(stages) == STAGES
    assert all(name in check.output for name in STAGES)
    assert (
        check.rows["preflight"]["note"] == "Fake GPU, 4 multiprocessors, active clusters of 8: 15"
    )
    assert check.rows["memcheck"]["note"] == "ERROR SUMMARY: 0 errors"
    assert check.rows["kernels"]["note"] == "3 passed, 1 skipped in 0.10s"
    words = " ".join(check.rows["kernels"]["command"])
    assert " -v " in words and " -n 4 " in words and "--timeout=15" in words
    assert " -n 8 " in " ".join(check.rows["modules"]["command"])
    assert (
        check.rows_of("benchmark-first.jsonl")
        == check.rows_of("benchmark-rest.jsonl")
        == [{"row": 1}]
    )
    [row] = check.rows_of("probe.jsonl")
    assert row | {"clocks": 0} == {
        "index": 0,
        "case": "none",
        "status": "ok",
        "commit": "abc",
        "clocks": 0,
    }
    calls = (check.root / "nvcc-calls").read_text().splitlines()
    kernels = [call for call in calls if "-c csrc/cuda/one.cu" in call]
    assert len(kernels) == 1 and "code=sm_90a" in kernels[0]  # this GPU alone


def test_stages_that_fail_stop_none_that_can_run(check):
    status, stages = check.run(FAKE_FAIL=" ".join(LEAVES))
    expected = {name: "ok" if name in ROOTS else "failed" for name in STAGES}
    assert (status, stages) == (1, expected)
    assert check.rows["kernels"]["note"] == "rc 3: planted failure"


def test_stages_that_hang_are_killed_and_the_next_one_runs(check):
    limits = [f"--limit={name}=0.15" for name in LEAVES]
    status, stages = check.run(*limits, FAKE_HANG=" ".join(LEAVES))
    expected = {name: "ok" if name in ROOTS else "timeout" for name in STAGES}
    assert (status, stages) == (1, expected)
    assert check.rows["kernels"]["note"].startswith("ended after 0 s")
    assert list(check.pids.iterdir()) and check.alive() == []


@pytest.mark.parametrize(
    ("culprit", "how", "skipped"),
    [
        ("preflight", "FAKE_HANG", set(STAGES) - {"preflight"}),
        ("build-probe", "FAKE_FAIL", set(LEAVES) - OF_THE_LIBRARY),
        ("build", "FAKE_HANG", OF_THE_LIBRARY),
    ],
)
def test_what_needs_a_stage_is_skipped_when_it_fails(check, culprit, how, skipped):
    limits = [f"--limit={culprit}=0.5"] if how == "FAKE_HANG" else []
    status, stages = check.run(*limits, **{how: culprit})
    bad = "timeout" if how == "FAKE_HANG" else "failed"
    expected = dict.fromkeys(STAGES, "ok") | {culprit: bad} | dict.fromkeys(skipped, "skipped")
    assert (status, stages) == (1, expected), check.output
    assert f"needs {culprit}, which did not succeed" in {
        check.rows[name]["note"] for name in skipped
    }
    assert check.alive() == []


def test_tools_and_plugins_that_are_not_installed_are_left_out(check):
    for name in ("compute-sanitizer", "ncu"):
        (check.fakes / "bin" / name).unlink()
    python = FAKES["python"].replace('["xdist", "pytest_timeout"]', "[]")
    write_program(check.fakes / "bin" / "python", python)
    status, stages = check.run()
    missing = {name for name, status in stages.items() if status == "skipped"}
    assert status == 0
    assert missing == {"memcheck", "racecheck", "synccheck", "ncu-1", "ncu-2", "ncu-3"}
    assert check.rows["racecheck"]["note"] == "compute-sanitizer is not installed"
    words = check.rows["kernels"]["command"]
    assert "-v" in words and "-n" not in words and "--timeout=15" not in words


def test_a_missing_python_fails_the_stages_that_need_it(check):
    status, stages = check.run(PYTHON="/no/python")
    assert status == 1 and stages["build"] == "failed" and stages["kernels"] == "skipped"
    assert stages["probe"] == stages["memcheck"] == "ok"
    assert check.rows["build"]["note"].startswith("cannot start: ")


@pytest.mark.parametrize("archs", ["", "90a"])
def test_a_machine_without_a_gpu_is_named(check, archs):
    (check.fakes / "bin" / "nvidia-smi").unlink()
    write_program(check.root / "build" / "gpu" / "preflight", "exit 2")
    status, stages = check.run(RNNFUSED_CUDA_ARCHS=archs)
    assert (status, stages["preflight"]) == (1, "failed")
    assert "no NVIDIA GPU" in check.rows["preflight"]["note"]
    assert set(stages.values()) == {"failed", "skipped"}


def test_the_deadline_holds_for_all_stages_together(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / ".ci" / "gpu_check")
    logbook = importlib.import_module("logbook").Logbook(tmp_path / "a", tmp_path / "a.tgz", {})
    runner = importlib.import_module("runner")
    wait = ["sh", "-c", "echo {seconds}; sleep 30"]
    stages = [
        runner.Stage("short", ["true"], 9, least=0.1),
        runner.Stage("reserved", wait, 9, least=0.1, reserve=0.7, margin=0),
        runner.Stage("long", wait, 9, least=0.1),
        runner.Stage("late", wait, 9, least=0.1),
    ]
    started = time.monotonic()
    status = runner.Runner(logbook, 1.2, dict(os.environ), 0.05).run_all(stages)
    assert status == 1 and 1 < time.monotonic() - started < 3
    rows = {row["stage"]: row for row in logbook.rows}
    assert [row["status"] for row in logbook.rows] == ["ok", "timeout", "timeout", "skipped"]
    assert 0 < rows["reserved"]["seconds"] < 0.7 and rows["late"]["note"] == "no time: 0 s are left"
    assert rows["reserved"]["command"][-1] == "echo 1; sleep 30"


def test_a_reader_that_leaves_does_not_end_the_check(check):
    process = check.start(FAKE_FAIL="preflight")
    process.stdout.close()
    assert process.wait(30) == 1 and list(check.look()) == STAGES


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_the_archive(check, number):
    process = check.start(FAKE_HANG="kernels")
    while not (check.pids / "kernels").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(number)
    output, _ = process.communicate(timeout=20)
    stages = check.look()
    assert process.returncode == 130, output
    assert stages["probe"] == "ok" and stages["kernels"] == "interrupted"
    assert set(list(stages.values())[7:]) == {"skipped"} and list(stages) == STAGES
    assert number.name in check.rows["kernels"]["note"] and check.alive() == []


def test_a_signal_while_a_stage_is_ended_leaves_no_process(check):
    process = check.start("--limit=kernels=0.3", "--grace=1", FAKE_HANG="kernels")
    log = check.logs / "07-kernels.log"
    while not (log.exists() and "asked to end" in log.read_text()) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=20)
    assert (process.returncode, check.alive()) == (130, []), output
    stages = check.look()
    assert (stages["kernels"], stages["benchmark-first"]) == ("timeout", "skipped")
    assert "SIGINT" in check.rows["benchmark-first"]["note"] and list(stages) == STAGES


def test_a_killed_check_leaves_the_archive_of_what_had_finished(check):
    process = check.start(FAKE_HANG="kernels")
    while not (check.pids / "kernels").exists() and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    os.killpg(int((check.pids / "kernels").read_text()), signal.SIGKILL)
    with tarfile.open(f"{check.logs}.tar.gz") as packed:
        summary = json.load(packed.extractfile("logs of a GPU/summary.json"))
        assert "logs of a GPU/probe.jsonl" in packed.getnames()
    assert [row["status"] for row in summary["stages"]] == ["ok"] * 6 + ["running"]


def test_a_second_run_replaces_the_first_and_leaves_other_files(check):
    check.run(FAKE_FAIL="preflight")
    other = check.logs / "notes.txt"
    other.write_text("mine")
    (check.logs / "99-old.log").write_text("of an earlier check")
    check.start(FAKE_FAIL="preflight").communicate(timeout=60)
    assert other.read_text() == "mine" and not (check.logs / "99-old.log").exists()
    other.unlink()
    assert list(check.look()) == STAGES


def test_only_compiling_needs_no_gpu(check):
    (check.fakes / "bin" / "nvidia-smi").unlink()
    shutil.rmtree(check.root / "build")
    status, stages = check.run("--build", RNNFUSED_CUDA_ARCHS="90a")
    assert (status, stages) == (0, dict.fromkeys(["preflight", "build-probe", "build"], "ok"))
    assert os.access(check.root / "build" / "gpu" / "probe", os.X_OK)


def test_a_limit_of_an_unknown_stage_is_refused(check):
    process = check.start("--limit=kernel=5")
    assert "--limit names no stage: kernel" in process.communicate()[0] and process.returncode == 2


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--deadline", "nan"),
        ("--deadline", "-1"),
        ("--grace", "inf"),
        ("--limit", "kernels=0"),
        ("--limit", "kernels=-5"),
        ("--limit", "kernels"),
    ],
)
def test_times_are_positive_numbers(check, option, value):
    process = check.start(f"{option}={value}")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    number = value.partition("=")[2] if option == "--limit" else value
    assert f"{option}: must be a positive number of seconds; got {number!r}" in output


def test_a_deadline_of_the_environment_is_a_positive_number(check):
    output, _ = check.start(DEADLINE="nan").communicate(timeout=60)
    assert "--deadline: must be a positive number of seconds; got 'nan'" in output


@pytest.mark.parametrize("variable", ["LOGS", "ARCHIVE"])
def test_a_place_that_cannot_be_written_is_named(check, tmp_path, variable):
    (tmp_path / "file").write_text("mine")
    path = tmp_path / "file" / "inside"
    output, _ = (process := check.start(**{variable: path})).communicate(timeout=60)
    assert process.returncode == 2 and "Traceback" not in output
    assert "gpu-check: cannot write results: " in output and str(tmp_path / "file") in output


def test_a_slow_start_counts_against_the_deadline(check):
    python = FAKES["python"].replace("*find_spec*) ", "*find_spec*) sleep 2; ")
    write_program(check.fakes / "bin" / "python", python)
    status, stages = check.run("--deadline=1.5")
    assert status == 0 and set(stages.values()) == {"skipped"}
    assert check.rows["preflight"]["note"] == "no time: 0 s are left"


def test_the_archive_goes_where_the_caller_says(check, tmp_path):
    process = check.start(ARCHIVE=tmp_path / "there" / "a.tgz", FAKE_FAIL="preflight")
    process.communicate(timeout=60)
    assert tarfile.open(tmp_path / "there" / "a.tgz").getnames()
    assert not os.path.exists(f"{check.logs}.tar.gz")
