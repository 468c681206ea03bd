"""Ctrl-C at any moment of the command: one line, exit code 130, complete files."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from forks import COMMAND, forked
from runs import TEXT, TINY, files, kept, names

from rnnfused.lm import StreamBatches, load_checkpoint
from rnnfused.lm.checkpoint.atomic import delayed_interrupt

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")

ROOT = Path(__file__).parents[2]
SHOWN = "rnnfused: interrupted\n"
# The line of a run that had begun to train.
SAVED = re.compile(
    r"rnnfused: interrupted: '.*/run' holds the state of step \d+: start again with --resume\n"
)


def start(*arguments, before="", path="", new=True, **options):
    """The command, after the code ``before``: in a new process, or in one with torch imported."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(path), str(ROOT)]))
    python = [sys.executable, "-c", before + COMMAND] if new else forked(before + COMMAND)
    return subprocess.Popen(
        [*python, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )


def end(process):
    """Exit code and stderr of the finished process."""
    try:
        _, error = process.communicate(timeout=150)
    finally:
        process.kill()
    return process.returncode, error


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(TEXT * 20)
    return path


def training(tmp_path, book, new=False, **options):
    """A training run that does not end by itself."""
    arguments = [*TINY, "--epochs", "100000", "--threads", "1"]
    return start("train", book, "--out", tmp_path / "run", *arguments, new=new, **options)


# A library that swallows exceptions, or turns them into one of its own.
SWALLOWS = """
import os, signal, time
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.1)
except BaseException:
    {then}
"""


@pytest.mark.parametrize("then", ["pass", "raise ValueError('too many values to unpack')"])
@pytest.mark.parametrize("as_module", [False, True])
def test_an_interrupt_during_an_import_is_neither_lost_nor_another_error(tmp_path, then, as_module):
    (tmp_path / "torch.py").write_text(SWALLOWS.format(then=then))
    run = "import runpy; runpy.run_module('rnnfused_command', run_name='__main__'); "
    process = start("--version", path=tmp_path, before=run if as_module else "")
    assert end(process) == (130, SHOWN)


@pytest.mark.parametrize(
    "options",
    [
        ["-m", "rnnfused"],
        ["-m", "rnnfused.lm"],
        ["-mrnnfused"],
        ["-mrnnfused.lm"],
        ["-Bmrnnfused"],
    ],
)
def test_an_interrupt_during_an_import_of_the_package_as_a_module(tmp_path, options):
    (tmp_path / "torch.py").write_text(SWALLOWS.format(then="raise"))
    # Options of Python, and arguments that look like those that it looks for.
    command = [sys.executable, "-X", "utf8", *options, "sample", "-m", "rnnfused"]
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", SHOWN)


def test_an_import_of_the_package_leaves_ctrl_c_alone(tmp_path):
    (tmp_path / "torch.py").write_text(SWALLOWS.format(then="raise SystemExit(7)"))
    (tmp_path / "other.py").write_text("import rnnfused")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    for options in (["-m", "other"], ["-mother"]):
        command = [sys.executable, *options, "rnnfused", "-mrnnfused"]
        done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, timeout=60)
        assert done.returncode == 7


# Interrupts the process at the first call of a function of the package with the given name.
WHEN = """
import os, signal, sys
import matplotlib.figure, rnnfused.lm.cli  # importing them under a profile takes many seconds
def watch(frame, event, argument):
    code = frame.f_code
    if code.co_name == "{name}" and event == "call" and "/rnnfused/lm/" in code.co_filename:
        sys.setprofile(None)
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            pass  # as a callback from C does
sys.setprofile(watch)
"""


@pytest.mark.parametrize("name", ["build_corpus", "loss", "plot_perplexity", "generate"])
def test_an_interrupt_that_would_be_swallowed_ends_the_run(tmp_path, book, name):
    run = tmp_path / "run"
    ends = name in ("plot_perplexity", "generate")  # which come at the end of a run
    if ends:
        before = WHEN.format(name=name)
        process = start("train", book, "--out", run, *TINY, before=before, new=False)
    else:
        process = training(tmp_path, book, before=WHEN.format(name=name))
    code, error = end(process)
    assert code == 130
    if name == "build_corpus":
        # Nothing was saved: the folder and its lock are removed.
        assert error == SHOWN and list(tmp_path.iterdir()) == [book]
        return
    # A finished run has nothing to go on with.
    assert error == SHOWN if name == "generate" else SAVED.fullmatch(error)
    record = load_checkpoint(run).record
    assert record["progress"]["step"] == (
        1 if name == "loss" else len(StreamBatches(ids(), 4, 8)) + (not ends)
    )
    assert names(run) == (files(run) if name != "loss" else sorted([*kept(run), "metrics.jsonl"]))


def ids():
    return torch.zeros(len(TEXT * 20) * 9 // 10, dtype=torch.uint8)


def test_an_interrupt_while_a_checkpoint_is_written_waits(tmp_path, book):
    process = training(tmp_path, book, before=WHEN.format(name="replacing"))
    code, error = end(process)
    assert code == 130 and SAVED.fullmatch(error)
    assert names(tmp_path / "run") == files(tmp_path / "run")
    load_checkpoint(tmp_path / "run")


def test_an_interrupt_during_an_evaluation_saves_the_epoch(tmp_path, book):
    process = training(tmp_path, book, before=WHEN.format(name="evaluate"))
    # The method of the run has that name too, and is called before the first batch.
    code, error = end(process)
    assert code == 130 and SAVED.fullmatch(error)
    record = load_checkpoint(tmp_path / "run").record
    progress = record["progress"]
    assert progress["evaluated"] == 0 and progress["step"] == len(StreamBatches(ids(), 4, 8))
    assert record["metrics"] == []
    out = tmp_path / "run"
    before = WHEN.format(name="take_step")
    process = start("train", "--out", out, "--resume", before=before, new=False)
    assert end(process)[0] == 130
    assert [row["epoch"] for row in load_checkpoint(out).record["metrics"]] == [1]


@pytest.mark.parametrize("delay", [0.1, 0.4, 0.8, 1.2, 1.6, 2.5, 4])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_at_any_time(tmp_path, book, delay, number):
    started = "import sys; print(flush=True); "
    process = training(tmp_path, book, before=started, new=True)
    process.stdout.readline()  # Python has started
    time.sleep(delay)
    process.send_signal(number)
    code, error = end(process)
    saved = SAVED.fullmatch(error)
    if number == signal.SIGINT:
        assert code == 130 and (saved or error == SHOWN)
    else:
        # Before the training nothing is there to be saved, and the system ends the process.
        assert (code == 143 and saved) or (code == -signal.SIGTERM and error == "")
    if saved:
        assert load_checkpoint(tmp_path / "run").record["progress"]["step"] > 0


def test_nothing_is_imported_before_the_handler_is_installed():
    # -I and -S leave out imports by site and its .pth files, which would hide some of ours.
    look = (
        "import os, sys; before = set(sys.modules); sys.path.insert(0, sys.argv[1]); "
        "import rnnfused_command; print(sorted(set(sys.modules) - before))"
    )
    command = [sys.executable, "-I", "-S", "-c", look, ROOT]
    assert subprocess.check_output(command, text=True) == "['rnnfused_command']\n"


def test_two_interrupts_at_once(tmp_path, book):
    process = training(tmp_path, book)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    code, error = end(process)
    assert code == 130 and (error == SHOWN or SAVED.fullmatch(error))


@pytest.mark.parametrize("module", ["rnnfused", "rnnfused.lm", "rnnfused_command"])
def test_as_a_module(tmp_path, book, module):
    run = f"import runpy; runpy.run_module({module!r}, run_name='__main__'); "
    process = training(tmp_path, book, before=run)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    code, error = end(process)
    assert code == 130 and SAVED.fullmatch(error)


def test_an_ignored_interrupt_stays_ignored():
    ignore = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    during = "import os; os.kill(os.getpid(), signal.SIGINT); "
    process = start("--version", before=ignore + during, new=False)
    assert end(process) == (0, "")


def test_an_interrupt_after_the_command_has_no_effect():
    late = "import atexit, os; atexit.register(os.kill, os.getpid(), 2); "
    assert end(start("--version", before=late, new=False)) == (0, "")


def test_a_file_that_reuses_the_descriptor_of_a_closed_stderr(tmp_path):
    # The file gets the free descriptor 2; the message must not go there.
    (tmp_path / "torch.py").write_text(
        "import os, signal\n"
        f"os.open({str(tmp_path / 'precious')!r}, os.O_WRONLY | os.O_CREAT)\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
    )
    process = start("--version", path=tmp_path, preexec_fn=lambda: os.close(2))
    assert process.wait(60) == 130
    assert (tmp_path / "precious").read_text() == ""


# ---- delayed_interrupt


def test_an_interrupt_is_delayed_until_the_end_of_the_block():
    done = []
    with pytest.raises(KeyboardInterrupt):
        with delayed_interrupt():
            signal.raise_signal(signal.SIGINT)
            done.append(1)
    assert done == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with delayed_interrupt():
        done.append(2)
    assert done == [1, 2]


def test_a_second_interrupt_is_not_delayed():
    done = []
    with pytest.raises(KeyboardInterrupt):
        with delayed_interrupt():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            done.append(1)
    assert done == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_delayed_interrupt_in_another_thread_has_no_effect():
    failed = []

    def work():
        try:
            with delayed_interrupt():
                pass
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failed == []
