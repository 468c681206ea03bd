"""Forks of a process with torch imported behave as new processes of Python do."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from forks import forked

pytestmark = pytest.mark.skipif(not hasattr(socket, "send_fds"), reason="needs passed descriptors")


def run(command, redirection="", **options):
    """Exit code, stdout and stderr of the command with a redirection of bash."""
    prefix = ["bash", "-c", f'"$@" {redirection}', "bash"] if redirection else []
    done = subprocess.run([*prefix, *command], capture_output=True, text=True, **options)
    return done.returncode, done.stdout, done.stderr


def both(code, *arguments, **options):
    """Results of a new process and of a fork."""
    new = [sys.executable, "-c", code, *arguments]
    return run(new, **options), run(forked(code, *arguments), **options)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("pass", 0),
        ("import sys; sys.exit(7)", 7),
        ("import os; os._exit(8)", 8),
        ("import sys; sys.exit('words')", 1),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("import atexit, os; atexit.register(os._exit, 9)", 9),
    ],
)
def test_exit_codes(code, expected):
    new, fork = both(code)
    assert new == fork and fork[0] == expected


def test_an_exception_is_shown():
    code, _, error = run(forked("1 / 0"))
    assert code == 1 and error.endswith("ZeroDivisionError: division by zero\n")


LOOK = """
import os, sys
print(os.getcwd(), os.environ["COLOUR"], sys.argv[1:], sys.stdin.read(), sys.stdout.encoding)
print(sys.stderr.errors, sys.stdout.errors, sys.stdout.line_buffering, sys.flags.utf8_mode, file=sys.stderr)
"""


def test_folder_environment_arguments_and_input(tmp_path):
    options = {"cwd": tmp_path, "env": os.environ | {"COLOUR": "red"}, "input": "text"}
    new, fork = both(LOOK, "a b", "", **options)
    assert new == fork and fork[0] == 0 and fork[1].startswith(f"{tmp_path} red ['a b', ''] text ")


STREAMS = (
    "import sys; print([stream is None for stream in (sys.stdin, sys.stdout, sys.stderr)], file={})"
)


@pytest.mark.parametrize(
    ("redirection", "code"),
    [
        ("<&-", STREAMS.format("sys.stdout")),
        (">&-", STREAMS.format("sys.stderr")),
        ("2>&-", STREAMS.format("sys.stdout")),
        (">&- 2>&-", STREAMS.format("sys.stdout")),
        (">/dev/full", "print(1)"),
        (">/dev/full", "print(1, flush=True)"),
        ("| true; exit ${PIPESTATUS[0]}", "import time; time.sleep(0.5); print(1)"),
    ],
)
def test_streams_that_are_closed_full_or_broken(redirection, code):
    new, fork = both(code, redirection=redirection)
    assert new[:2] == fork[:2]
    # Tracebacks name other files.
    assert new[2].splitlines()[-1:] == fork[2].splitlines()[-1:]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_passed_on(number):
    code = (
        "import signal, sys, time\n"
        "signal.signal(int(sys.argv[1]), lambda number, _: sys.exit(40 + number))\n"
        "print(flush=True)\n"
        # A signal just before one sleep doesn't end it.
        "for _ in range(600): time.sleep(0.1)"
    )
    command = forked(code, str(int(number)))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.send_signal(number)
        assert process.wait(60) == 40 + number


def test_a_killed_client_ends_its_fork():
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with subprocess.Popen(forked(code), stdout=subprocess.PIPE, text=True) as process:
        child = int(process.stdout.readline())
        assert child != process.pid
        process.kill()
        # The pipe ends with its last writer.
        assert process.stdout.read() == ""
    limit = time.monotonic() + 10
    while os.path.exists(f"/proc/{child}") and time.monotonic() < limit:
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{child}")


def test_torch_is_there_and_has_begun_nothing():
    code = (
        "import sys; assert 'torch' in sys.modules and 'matplotlib' not in sys.modules\n"
        "import torch, threading; torch.set_num_threads(2)\n"
        "x = torch.ones(300, 300, requires_grad=True); (x @ x).sum().backward()\n"
        "print(x.grad[0, 0].item(), threading.active_count())"
    )
    assert run(forked(code)) == (0, "600.0 1\n", "")


def test_each_has_random_numbers_of_its_own():
    code = "import torch; print(torch.initial_seed(), torch.rand(1).item())"
    assert run(forked(code))[1] != run(forked(code))[1]
