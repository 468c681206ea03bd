"""The command ``rnnfused``, as far as it runs before the package is imported.

It lies outside the package, because importing that takes a second or two, most of it torch's: time
in which Ctrl-C has to end the command as quietly as later. A ``KeyboardInterrupt`` would not do. It
is raised wherever Python happens to be; inside a library's import, callback or finalizer it can be
swallowed, or come out as another error.
"""

import os
import signal
import sys

# What an interrupt still does before it ends the process.
_last_acts = []


def main() -> int:
    """Run the command of this process and return its exit code, as ``rnnfused.lm.cli.main``.

    From the first line on, Ctrl-C (SIGINT) ends the process at once: one line on stderr, exit code
    130, no traceback. While a checkpoint is being written, it waits until the files are whole; a
    second one does not wait. Once the command is done, an interrupt changes nothing any more. Where
    SIGINT is ignored from the start (``nohup``, jobs in the background of a script), it stays so.

    For a process of its own: it keeps SIGINT's handler.
    """
    guards = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if guards:
        signal.signal(signal.SIGINT, _interrupted)
    try:
        from rnnfused.lm import cli
        from rnnfused.lm.checkpoint import lock

        _last_acts.append(lock.release_all)
        return cli.main()
    finally:
        if guards:
            # Python's exit takes a while, and would report an interrupt with a traceback.
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _interrupted(number, frame) -> None:
    """End the process from within a signal's handler, without unwinding what it interrupted."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for act in _last_acts:
        try:
            act()
        except BaseException:
            pass  # the end comes all the same
    try:
        # Not through sys.stderr, which may be in the middle of a write; not to a closed one.
        descriptor = sys.stderr.fileno()
        # A progress bar may stand on the terminal's line.
        head = b"\n" if os.isatty(descriptor) else b""
        os.write(descriptor, head + b"rnnfused: interrupted\n")
    except Exception:
        pass
    os._exit(128 + signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
