"""What a kernel can do wrong."""


class ExecutionError(Exception):
    """A kernel broke a rule of PTX, or does not end."""


class BadAccess(ExecutionError):
    """An address outside of every allocation, a misaligned one, or a store to read-only memory."""


class Race(ExecutionError):
    """Two conflicting accesses that nothing orders."""


class BarrierMisuse(ExecutionError):
    """A barrier got more arrivals or bytes than it can count, or does not exist."""


class Deadlock(ExecutionError):
    """No thread can go on, and nothing is in flight."""


class Alarm(ExecutionError):
    """A kernel's own watchdog stopped it. `waits` is {rank: (team, step, barrier)}."""

    def __init__(self, text, waits):
        super().__init__(text)
        self.waits = waits


class UnknownInstruction(ExecutionError):
    """An instruction that the interpreter does not execute."""
