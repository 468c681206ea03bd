"""Ctrl-C at any moment of the command: one line, exit code 130, complete files."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from runs import TEXT, TINY

from rnnfused.lm import load_checkpoint
from rnnfused.lm.checkpoint.atomic import delayed_interrupt

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")

ROOT = Path(__file__).parents[2]
SHOWN = "rnnfused: interrupted\n"
# The script of the command, as installed.
COMMAND = "import sys; from rnnfused_command import main; sys.exit(main())"


def start(*arguments, before="", path="", **options):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(path), str(ROOT)]))
    return subprocess.Popen(
        [sys.executable, "-c", before + COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )


def end(process):
    """Exit code and stderr of the finished process."""
    try:
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, error


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(TEXT * 20)
    return path


def training(tmp_path, book, **options):
    """A training run that does not end by itself."""
    arguments = [*TINY, "--passes", "100000", "--threads", "1"]
    return start("train", book, "--out", tmp_path / "run", *arguments, **options)


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


# Interrupts the process at the first call of a function of the package with the given name.
WHEN = """
import os, signal, sys
import rnnfused.lm.cli  # importing it under a profile takes many seconds
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


@pytest.mark.parametrize("name", ["read_text", "forward", "plot_perplexity", "generate"])
def test_an_interrupt_that_would_be_swallowed_ends_the_run(tmp_path, book, name):
    process = training(tmp_path, book, before=WHEN.format(name=name))
    if name == "generate":
        process.kill()
        process.communicate()
        run = tmp_path / "run"
        process = start("train", book, "--out", run, *TINY, before=WHEN.format(name=name))
    assert end(process) == (130, SHOWN)
    if name == "plot_perplexity":
        assert len(list((tmp_path / "run").iterdir())) == 3
        load_checkpoint(tmp_path / "run")
    elif name == "generate":
        assert len(list((tmp_path / "run").iterdir())) == 4
    else:
        # Nothing was saved: the folder and its lock are removed.
        assert list(tmp_path.iterdir()) == [book]


def test_an_interrupt_while_a_checkpoint_is_written_waits(tmp_path, book):
    process = training(tmp_path, book, before=WHEN.format(name="write"))
    assert end(process) == (130, SHOWN)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    weights = load_checkpoint(tmp_path / "run").record["weights"]
    assert names == {"metrics.jsonl", "model.json", weights}


@pytest.mark.parametrize("delay", [0.1, 0.4, 0.8, 1.2, 1.6, 2.5])
def test_at_any_time(tmp_path, book, delay):
    started = "import sys; print(flush=True); "
    process = training(tmp_path, book, before=started)
    process.stdout.readline()  # Python has started
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    assert end(process) == (130, SHOWN)


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
    assert end(process) == (130, SHOWN)


@pytest.mark.parametrize("module", ["rnnfused.lm", "rnnfused_command"])
def test_as_a_module(tmp_path, book, module):
    run = f"import runpy; runpy.run_module({module!r}, run_name='__main__'); "
    process = training(tmp_path, book, before=run)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert end(process) == (130, SHOWN)


def test_an_ignored_interrupt_stays_ignored():
    ignore = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    during = "import os; os.kill(os.getpid(), signal.SIGINT); "
    process = start("--version", before=ignore + during)
    assert end(process) == (0, "")


def test_an_interrupt_after_the_command_has_no_effect():
    late = "import atexit, os; atexit.register(os.kill, os.getpid(), 2); "
    assert end(start("--version", before=late)) == (0, "")


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
