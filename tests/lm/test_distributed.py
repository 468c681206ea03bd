"""Two processes of torchrun on the CPU: the curve of one process, one writer, a lost worker."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from forks import forked
from runs import TEXT, files, names

from rnnfused.lm import load_checkpoint
from rnnfused.lm.checkpoint import load_run
from rnnfused.lm.cli import main
from rnnfused.lm.distributed import Workers

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or os.name != "posix", reason="needs torch.distributed"
)

OPTIONS = (
    "--hidden-size 12 --num-layers 2 --num-steps 8 --batch-size 4 --lr 0.02 --seed 3 "
    "--reset-probability 0.2 --average 0.9 --threads 1"
).split()


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def start(*arguments, processes=2):
    """torchrun with the command ``rnnfused train``; its workers are forks of a process with torch imported."""
    run = ["torch.distributed.run", "--nproc-per-node", str(processes)]
    address = ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    worker = forked("import runpy; runpy.run_module('rnnfused', run_name='__main__')", "train")
    return subprocess.Popen(
        [sys.executable, "-m", *run, *address, "--no-python", *worker, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def end(process):
    """Exit code, stdout and stderr."""
    try:
        out, error = process.communicate(timeout=150)
    finally:
        # torchrun's workers too, should they hang.
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return process.returncode, out, error


def workers_of(process):
    """Process ids of the workers by rank."""
    found = {}
    for name in os.listdir("/proc"):
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                variables = file.read().split(b"\0")
            with open(f"/proc/{name}/stat") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        ranks = [value for value in variables if value.startswith(b"RANK=")]
        if parent == process.pid and ranks:
            found[int(ranks[0][5:])] = int(name)
    return found


def has_ended(number):
    """Whether the process has ended; its parent may not have asked."""
    with open(f"/proc/{number}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "Z"


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(TEXT * 4)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The text of a run of two processes, its folder and its output."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "book.txt").write_text(TEXT * 4)
    options = [*OPTIONS, "--epochs", 3, "--schedule", "constant"]
    code, output, error = end(start(folder / "book.txt", "--out", folder / "run", *options))
    assert code == 0, error
    return folder / "book.txt", folder / "run", output


def test_two_processes_give_the_curve_of_one(tmp_path, whole):
    book, folder, output = whole
    assert names(folder) == files(folder)
    options = [*OPTIONS, "--epochs", "3", "--schedule", "constant"]
    assert main(["train", str(book), "--out", str(tmp_path), *options]) == 0
    one, two = (
        [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
        for place in (tmp_path, folder)
    )
    assert len(one) == len(two) == 3
    for row, other in zip(one, two):
        for name in ("train_perplexity", "validation_perplexity"):
            assert other[name] == pytest.approx(row[name], rel=1e-4), name
        assert (row["step"], row["clipped_share"]) == (other["step"], other["clipped_share"])
    assert one[-1]["validation_perplexity"] < one[0]["validation_perplexity"] < 4
    # The first process alone prints.
    assert output.count("epoch 1/3") == output.count("sample:") == 1
    assert "parameters; 2 processes" in output


def test_a_run_of_two_processes_is_resumed_by_two_and_by_one(tmp_path, whole, capsys):
    book, folder, _ = whole
    parts = tmp_path / "parts"
    options = [*OPTIONS, "--epochs", 1, "--schedule", "constant"]
    assert end(start(book, "--out", parts, *options))[0] == 0
    code, _, error = end(start("--out", parts, "--resume", "--epochs", 3))
    assert code == 0, error
    tensors, others = load_run(folder)[1], load_run(parts)[1]
    assert tensors["random/cpu"].shape[0] == 2
    assert [name for name in tensors if not torch.equal(tensors[name], others[name])] == []
    assert main(["train", "--out", str(parts), "--resume", "--epochs", "4"]) == 0
    assert "epoch 4/4" in capsys.readouterr().out


@pytest.mark.skipif(not os.path.exists("/proc/self/environ"), reason="needs /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_lost_worker_ends_the_run_with_a_state_that_resumes(tmp_path, book, rank):
    out = tmp_path / "run"
    process = start(book, "--out", out, *OPTIONS, "--epochs", 100_000, "--save-steps", 5)
    limit = time.monotonic() + 100
    while not (out / "model.json").exists():
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.05)
    workers = workers_of(process)
    # torchrun sleeps meanwhile: it would end the other worker, perhaps before that has reported the loss.
    os.kill(process.pid, signal.SIGSTOP)
    try:
        os.kill(workers[rank], signal.SIGKILL)
        while not has_ended(workers[1 - rank]):
            assert time.monotonic() < limit
            time.sleep(0.05)
    finally:
        os.kill(process.pid, signal.SIGCONT)
    code, _, error = end(process)
    assert code != 0
    if rank == 1:
        found = [line for line in error.splitlines() if line.startswith("rnnfused: error: ")]
        assert len(found) == 1 and "worker 0 of 2 lost contact with another worker" in found[0]
        assert f"{str(out)!r} holds the state of step" in found[0]
    step = load_checkpoint(out).record["progress"]["step"]
    assert step > 0
    if rank == 0:
        return
    process = start("--out", out, "--resume")
    limit = time.monotonic() + 100
    while load_checkpoint(out).record["progress"]["step"] <= step:
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.05)
    # Ctrl-C: all processes get the signal, and torchrun passes it on.
    os.killpg(process.pid, signal.SIGINT)
    code, output, error = end(process)
    assert "goes on at step" in output
    assert "rnnfused: interrupted" in error and "start again with --resume" in error
    assert load_checkpoint(out).record["progress"]["step"] > step


def test_a_worker_that_is_lost_before_the_first_save(tmp_path, book, capsys):
    out = tmp_path / "run"
    book.write_text(TEXT * 200)
    process = start(book, "--out", out, *OPTIONS, "--epochs", 1, "--num-steps", 1)
    process.stdout.readline()
    time.sleep(5)
    assert process.poll() is None
    os.kill(workers_of(process)[1], signal.SIGKILL)
    code, _, error = end(process)
    assert code != 0 and "holds the state of step 0" in error, error
    assert load_checkpoint(out).record["progress"]["step"] == 0
    _, tensors = load_run(out)
    assert tensors["random/cpu"].shape[0] == 2 and "hidden" not in tensors


def test_errors_are_one_line_of_the_first_process(tmp_path, book, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    arguments = ["train", str(book), "--out", str(tmp_path / "run"), *OPTIONS, "--batch-size", "3"]
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert main(arguments) == 2
        reason = "--batch-size must be a multiple of the number of processes, 2, got 3"
        expected = f"rnnfused: error: {reason}\n" if rank == "0" else ""
        assert capsys.readouterr().err == expected


def test_one_process_needs_no_torchrun(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with Workers("cpu") as workers:
        assert (workers.rank, workers.size, workers.is_first) == (0, 1, True)
        assert workers.rows(5) == slice(0, 5)
        assert workers.sum(1.5, 2.0) == [1.5, 2.0]
        tensor = torch.ones(2)
        assert workers.gathered(tensor, 0) is tensor
        with pytest.raises(RuntimeError, match="gloo"), workers.watched():
            raise RuntimeError("gloo is no worker's fault here")
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(ValueError, match="RANK in the environment must be a number, got 'first'"):
        Workers()


def test_a_gpu_for_each_worker(monkeypatch):
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert Workers("cuda").device == torch.device("cuda", 1)
    assert Workers("cuda:0").device == torch.device("cuda", 0)
    assert Workers("cpu").device == torch.device("cpu")
    assert Workers("cpu").rows(8) == slice(6, 8)
