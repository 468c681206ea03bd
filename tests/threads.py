"""Runs a function in several threads at once."""

import threading


def run_in_threads(work, arguments, timeout=60):
    """Calls ``work`` on each argument, each in its own thread. Raises the first error, or AssertionError if a thread hangs."""
    errors = []

    def run(argument):
        try:
            work(argument)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(each,), daemon=True) for each in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
