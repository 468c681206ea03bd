"""Entry point of the command ``rnnfused``: handles Ctrl-C from the first line on.

It is outside the package, because importing the package takes a second or two, most of it for
torch. Ctrl-C must end the command quietly during that time, too. A ``KeyboardInterrupt`` is not
reliable: inside a library's import, callback or finalizer it can be swallowed or turned into
another error.

``python -m rnnfused_command`` is the same command, for an environment without its script.
"""

import os
import sys

# Before the handler is installed, only modules that Python loads at its own start are imported:
# any other would take milliseconds, during which Ctrl-C gives a traceback. signal loads enum.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
    from types import FrameType
else:
    import _signal

# Functions that run between an interrupt and the end of the process.
_at_interrupt: "list[Callable[[], None]]" = []


def guard() -> bool:
    """Let Ctrl-C end this process as ``main`` describes; whether it does.

    It does not if SIGINT is ignored, or has a handler of somebody else.
    """
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _interrupted)
    return _signal.getsignal(_signal.SIGINT) is _interrupted


def main() -> int:
    """Run ``rnnfused.lm.cli.main`` on this process's arguments and return its exit code.

    Ctrl-C (SIGINT) ends the process at once: one line on stderr, exit code 130, no traceback. While
    a checkpoint is being written, it takes effect once the files are complete; a second Ctrl-C
    takes effect at once. After the command has finished, it has no effect. If SIGINT is ignored
    from the start (``nohup``, background jobs of a script), it stays ignored.

    Only for a process of its own, because it replaces SIGINT's handler.
    """
    guards = guard()
    try:
        from rnnfused.lm import cli
        from rnnfused.lm.checkpoint import lock

        _at_interrupt.append(lock.release_all)
        return cli.main()
    finally:
        if guards:
            # Python's exit takes a while and would report an interrupt with a traceback.
            _signal.signal(_signal.SIGINT, _signal.SIG_IGN)


def _interrupted(number: int, frame: "FrameType | None") -> None:
    """End the process from inside the signal handler, without unwinding the stack."""
    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
    for function in _at_interrupt:
        try:
            function()
        except BaseException:
            pass  # the process ends in any case
    try:
        # Not through sys.stderr, which may be inside a write; raises if stderr is closed.
        descriptor = sys.stderr.fileno()
        # The terminal's line may hold a progress bar.
        head = b"\n" if os.isatty(descriptor) else b""
        os.write(descriptor, head + b"rnnfused: interrupted\n")
    except Exception:
        pass
    os._exit(128 + _signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
