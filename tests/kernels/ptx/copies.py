"""cp.async: copies from global into shared memory that are done when their thread has waited for them."""

import numpy as np

from .memory import READ_ONLY, WRITABLE
from .races import UNFINISHED


class Copies:
    """Copies in flight; a thread's copies belong to the group that it commits next."""

    def __init__(self, machine):
        self.machine = machine
        self.group = np.zeros(machine.threads, np.int64)
        self.batches = []

    def start(self, threads, to, source, size):
        machine = self.machine
        shared, memory = machine.shared, machine.global_
        first, cells, _ = shared.located(threads, to, size, 1, WRITABLE)
        source_first, source_cells, kinds = memory.located(threads, source, size, 1, READ_ONLY)
        shared.accesses.write(threads, cells)
        shared.accesses.written[cells] = UNFINISHED
        if kinds.max() > READ_ONLY:
            memory.accesses.read(threads, source_cells)
            memory.accesses.reads[source_cells, threads[:, None]] = UNFINISHED
        batch = {
            "thread": threads,
            "group": self.group[threads],
            "cells": cells,
            "source_cells": source_cells,
            "tracked": kinds.max(1) > READ_ONLY,
            "to": first * size,
            "source": source_first * size,
            "late": machine.random.random(threads.size) < 0.5,
        }
        self.batches.append(batch)
        self._copy(batch, ~batch["late"], size)
        shared.bytes[batch["to"][batch["late"]][:, None] + np.arange(size)] = 0xFF

    def _copy(self, batch, lanes, size):
        bytes_ = np.arange(size)
        data = self.machine.global_.bytes[batch["source"][lanes][:, None] + bytes_]
        self.machine.shared.bytes[batch["to"][lanes][:, None] + bytes_] = data

    def commit(self, threads):
        self.group[threads] += 1

    def wait(self, threads, pending):
        """Until at most `pending` of a thread's last groups are in flight."""
        last = np.full(self.machine.threads, -1)
        last[threads] = self.group[threads] - pending
        self._finish(lambda batch: batch["group"] < last[batch["thread"]])

    def wait_all(self, threads):
        self._finish(lambda batch: np.isin(batch["thread"], threads))

    def _finish(self, is_done):
        machine = self.machine
        own = machine.clocks.own
        batches, self.batches = self.batches, []
        for batch in batches:
            done = is_done(batch)
            size = batch["cells"].shape[1] * 2
            self._copy(batch, done & batch["late"], size)
            threads = batch["thread"][done]
            machine.shared.accesses.written[batch["cells"][done]] = own[threads][:, None]
            read = done & batch["tracked"]
            readers = batch["thread"][read][:, None]
            machine.global_.accesses.reads[batch["source_cells"][read], readers] = own[readers]
            if not done.all():
                self.batches.append({name: column[~done] for name, column in batch.items()})
