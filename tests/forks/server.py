"""A process that has imported torch, and forks a child for each run of Python code.

Importing torch and its compiler, as its optimizers do, takes four seconds of a processor; a fork takes
50 ms. The child is a process of its own: its streams, signals, folder, environment variables and exit
code are real. What Python and torch read from the environment at their start is the server's.

``client.py`` connects, sends its streams and a request, and gets the child's id and exit code.
"""

import gc
import io
import json
import os
import select
import signal
import socket
import sys

import torch._dynamo  # noqa: F401

import rnnfused.lm.cli  # noqa: F401
import rnnfused_command  # noqa: F401


def serve(listener):
    """Return a request in each child, with its streams. The server itself exits with its parent."""
    while True:
        readable, _, _ = select.select([listener, 0], [], [])
        if 0 in readable:  # the parent closed its end, or has ended
            sys.exit()
        connection, _ = listener.accept()
        if os.fork() == 0:
            break
        connection.close()
        reap()
    listener.close()
    request, streams = receive(connection)
    # The command alone holds the pipe's end, so the pipe is closed when the command ends.
    ended, held = os.pipe()
    child = os.fork()
    if child == 0:
        connection.close()
        os.close(ended)
        return request, streams
    for descriptor in [held, *streams.values()]:
        os.close(descriptor)
    try:
        connection.sendall(b"%d\n" % child)
        connection.sendall(b"%d\n" % exit_code(child, ended, connection))
    finally:
        os._exit(0)


def reap():
    """Collect the exit codes of children that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0] != 0:
            pass
    except ChildProcessError:
        pass


def receive(connection):
    """The request, and the client's open streams: descriptors by the client's numbers."""
    line, descriptors, _, _ = socket.recv_fds(connection, 1 << 16, 3)
    while not line.endswith(b"\n"):
        line += connection.recv(1 << 16)
    request = json.loads(line)
    return request, dict(zip(request["streams"], descriptors))


def exit_code(child, ended, connection):
    """The exit code of the child, as subprocess has it; the child is killed if its client is."""
    readable, _, _ = select.select([ended, connection], [], [])
    if ended not in readable:
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def become(request, streams):
    """Take over the client's folder, environment, arguments and streams."""
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv[1:] = request["arguments"]
    torch.default_generator.seed()  # as at its start, to a number that no other process has
    for number in range(3):
        os.close(number)
        if number in streams:
            os.dup2(streams[number], number)
            os.close(streams[number])
    sys.stdin = opened(0, "r", sys.stdin.errors)
    sys.stdout = opened(1, "w", sys.stdout.errors)
    sys.stderr = opened(2, "w", sys.stderr.errors)


def opened(number, mode, errors):
    """The standard stream of that number as Python opens it at its start; None if it is closed."""
    try:
        os.fstat(number)
    except OSError:
        return None
    unbuffered = mode == "w" and bool(os.environ.get("PYTHONUNBUFFERED"))
    return io.TextIOWrapper(
        open(number, mode + "b", buffering=0 if unbuffered else -1, closefd=False),
        encoding=sys.getfilesystemencoding(),
        errors=errors,
        line_buffering=mode == "w" and (number == 2 or os.isatty(number)),
        write_through=unbuffered,
    )


if __name__ == "__main__":
    gc.freeze()  # a child need not look through what was imported
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sys.argv[1])
        listener.listen()
        print("listening", flush=True)
        request, streams = serve(listener)
    become(request, streams)
    exec(request["code"], {"__name__": "__main__"})
