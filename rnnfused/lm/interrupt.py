"""Ctrl-C and SIGTERM during a run: noticed between two steps, so that the run can save first."""

import signal
import threading
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A run was interrupted by a signal, and says where it saved.

    Attributes:
        signal: the signal's number.
    """

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.signal = signal


class Interrupts:
    """Notes signals in the block instead of ending it; a context manager.

    A second Ctrl-C takes effect at once, unless ``patient``. Has no effect outside the main thread,
    which alone receives signals, or on a signal that is ignored.

    Args:
        patient: whether later signals have no effect either, as torchrun sends several.

    Attributes:
        received: number of the first signal; None before.
    """

    def __init__(self, *, patient: bool = False):
        self.received: int | None = None
        self._patient = patient
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                handler = signal.getsignal(number)
                # None: a handler that Python did not install and cannot restore.
                if handler not in (signal.SIG_IGN, None):
                    self._handlers[number] = handler
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = number
        elif not self._patient:
            self.__exit__()
            # Sent again, because a handler can also be the system's own.
            signal.raise_signal(number)
