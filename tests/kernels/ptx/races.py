"""Happens-before by vector clocks, and the accesses that nothing orders.

A thread has a clock, which advances whenever it releases. `seen[i]` holds, for thread i, the latest time of every
other thread that happens before its next instruction. After the threads come the mbarriers, three columns each: the
phase until which the bytes of its own block are known to have arrived, the same for other blocks, and 1 where the
barrier is known to exist.
"""

import numpy as np

from .errors import Race

SCOPES = {"cta": 0, "cluster": 1, "gpu": 2, "sys": 3}
MBARRIERS_PER_BLOCK = 8
UNFINISHED = np.iinfo(np.int32).max  # a time that no thread has seen, so that any conflict races


class Clocks:
    def __init__(self, machine):
        self.machine = machine
        threads = machine.threads
        self.width = threads + 3 * MBARRIERS_PER_BLOCK * machine.blocks
        self.seen = np.zeros((threads, self.width), np.int32)
        self.own = np.ones(threads, np.int32)
        self.all = np.arange(threads)
        self.seen[self.all, self.all] = 1

    def advance(self, threads):
        self.own[threads] += 1
        self.seen[threads, threads] = self.own[threads]

    def released(self, threads):
        """What happens before a release by each of the threads, (threads, width)."""
        rows = self.seen[threads]
        self.advance(threads)
        return rows

    def acquire(self, threads, row):
        self.seen[threads] = np.maximum(self.seen[threads], row)

    def join(self, threads):
        """All of the threads meet at a barrier."""
        self.seen[threads] = self.seen[threads].max(0)
        self.advance(threads)


class Released:
    """What releases at one place made visible, by scope and block."""

    def __init__(self, machine):
        self.machine = machine
        self.rows = {}

    def add(self, scope, block, row):
        known = self.rows.get((scope, block))
        self.rows[scope, block] = row.copy() if known is None else np.maximum(known, row)

    def merge(self, other):
        for (scope, block), row in other.rows.items():
            self.add(scope, block, row)

    def visible(self, scope, block):
        """What an acquire at this scope in this block sees, or None."""
        rows = [
            row
            for (released_at, other), row in self.rows.items()
            if self.machine.in_scope(released_at, other, block)
            and self.machine.in_scope(scope, other, block)
        ]
        return np.maximum.reduce(rows) if rows else None


class Accesses:
    """The last write of each cell, and each thread's last read since.

    `readers` threads may read a cell: all, or those of the block that owns it.
    """

    def __init__(self, clocks, name, cells, readers):
        self.clocks, self.name, self.readers = clocks, name, readers
        self.writer = np.zeros(cells, np.int32)
        self.written = np.zeros(cells, np.int32)
        self.reads = np.zeros((cells, readers), np.int32)  # the system gives rows that are used
        self.strong = None  # orders.Orders of cells that had strong accesses

    def _check_write(self, threads, cells, seen, what):
        """No access may follow a write that it has not seen."""
        late = seen < self.written[cells]
        if late.any():
            lane, cell = np.argwhere(late)[0]
            self._fail(
                threads[lane],
                cells[lane, cell],
                f"{what} races with a write by",
                self.writer[cells[lane, cell]],
            )

    def _check_reads(self, threads, cells, seen):
        """No write may follow a read that it has not seen. `seen` is (lanes, readers)."""
        late = self.reads[cells] > seen[:, None]
        if late.any():
            lane, cell, reader = np.argwhere(late)[0]
            machine = self.clocks.machine
            if self.readers < machine.threads:
                reader += machine.owner(cells[lane, cell]) * self.readers
            self._fail(threads[lane], cells[lane, cell], "write races with a read by", reader)

    def _fail(self, thread, cell, what, other):
        machine = self.clocks.machine
        machine.fail(Race, f"{self.name} byte {2 * cell}: {what} {machine.name_of(other)}", thread)

    def _columns(self, threads, cells, rows):
        """The part of vector clocks that belongs to a space's readers."""
        machine = self.clocks.machine
        if self.readers == machine.threads:
            return rows[:, : self.readers]
        first = machine.owner(cells[:, 0]) * self.readers
        if (first == first[0]).all():
            return rows[:, first[0] : first[0] + self.readers]
        return np.take_along_axis(rows, first[:, None] + np.arange(self.readers), 1)

    def read(self, threads, cells):
        seen = self.clocks.seen
        self._check_write(threads, cells, seen[threads[:, None], self.writer[cells]], "read")
        self.reads[cells, (threads % self.readers)[:, None]] = self.clocks.own[threads][:, None]
        if self.strong is not None:
            self.strong.check_weak(threads, cells, writes=False)

    def write(self, threads, cells):
        rows = self.clocks.seen[threads]
        self._check_write(threads, cells, np.take_along_axis(rows, self.writer[cells], 1), "write")
        self._check_reads(threads, cells, self._columns(threads, cells, rows))
        self.writer[cells] = threads[:, None]
        self.written[cells] = self.clocks.own[threads][:, None]
        other = self.writer[cells] != threads[:, None]
        if other.any():
            lane, cell = np.argwhere(other)[0]
            self._fail(
                threads[lane],
                cells[lane, cell],
                "write races with the same write by",
                self.writer[cells[lane, cell]],
            )
        if self.strong is not None:
            self.strong.check_weak(threads, cells, writes=True)

    def start_copy(self, thread, cells, is_seen):
        """An asynchronous read, which no write may meet before it ends."""
        writers, times = self.writer[cells], self.written[cells]
        late = ~is_seen(thread, writers, times)
        if late.any():
            self._fail(
                thread,
                cells[late][0],
                "no proxy fence orders a copy after a write by",
                writers[late][0],
            )
        self.reads[cells, thread % self.readers] = UNFINISHED

    def check_target(self, thread, cells, is_seen):
        """An asynchronous write over ordinary ones, which a proxy fence must order before it."""
        cells = cells[self.writer[cells] < self.clocks.machine.threads]
        writers, times = self.writer[cells], self.written[cells]
        late = (times > 0) & ~is_seen(thread, writers, times)
        if late.any():
            what = "no proxy fence orders a copy over a write by"
            self._fail(thread, cells[late][0], what, writers[late][0])

    def end_copy(self, threads, cells, times):
        self.reads[cells, (threads % self.readers)[:, None]] = times[:, None]

    def write_later(self, threads, cells, rows, writers, times):
        """Asynchronous writes: `rows` are the clocks of their issue, (writer, time) their names."""
        self._check_write(
            threads, cells, np.take_along_axis(rows, self.writer[cells], 1), "st.async"
        )
        self._check_reads(threads, cells, self._columns(threads, cells, rows))
        flat = cells.ravel()
        if np.unique(flat).size < flat.size:
            values, counts = np.unique(flat, return_counts=True)
            twice = values[counts > 1][0]
            lanes = np.flatnonzero((cells == twice).any(1))
            self._fail(threads[lanes[0]], twice, "st.async races with one by", threads[lanes[1]])
        self.writer[cells] = writers[:, None]
        self.written[cells] = times[:, None]
