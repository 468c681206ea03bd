"""Stands for a process that ``server.py`` forks: lends it its streams, passes on signals, ends as it ends.

Arguments: the server's socket, Python code, the arguments of the code. Imports little, to start in 30 ms.
"""

import json
import os
import select
import signal
import socket
import sys


def is_open(number):
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def main(path, code, *arguments):
    streams = [number for number in range(3) if is_open(number)]
    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    request = {
        "streams": streams,
        "code": code,
        "arguments": arguments,
        "folder": os.getcwd(),
        "environment": dict(os.environ),
    }
    line = json.dumps(request).encode() + b"\n"
    connection.sendall(line[socket.send_fds(connection, [line], streams) :])
    answers = connection.makefile()
    child = int(answers.readline())
    for number in signals:
        signal.signal(number, lambda number, _: os.kill(child, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    # A signal just before a system call doesn't interrupt it: Python's handler runs at the next poll.
    while not select.select([connection], [], [], 0.1)[0]:
        pass
    code = int(answers.readline())
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


main(*sys.argv[1:])
