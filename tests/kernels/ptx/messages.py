"""st.async: stores that arrive late, in any order, and count their bytes at an mbarrier of the receiving block."""

import numpy as np

from .errors import BadAccess, BarrierMisuse
from .memory import CELL, WRITABLE
from .races import SCOPES


class Messages:
    """Those in flight, in batches of one instruction each."""

    def __init__(self, machine):
        self.machine = machine
        self.batches = []
        self.count = 0

    def send(self, threads, addresses, barriers, size, values):
        machine = self.machine
        shape = threads.shape
        addresses, barriers = (np.broadcast_to(x, shape) for x in (addresses, barriers))
        to_block, offset = machine.shared.remote(threads, addresses)
        barrier_block, barrier = machine.shared.remote(threads, barriers)
        width = size * len(values)
        outside = (offset < 0) | (offset + width > machine.shared.size) | (to_block != barrier_block)
        if outside.any():
            machine.shared.fail("st.async outside of the block of its mbarrier", threads,
                                addresses, outside)  # fmt: skip
        if (offset % width).any():
            machine.shared.fail("misaligned st.async", threads, addresses, offset % width)
        data = np.stack([np.broadcast_to(value, shape) for value in values], axis=1)
        self.batches.append({
            "thread": threads, "block": to_block, "offset": offset, "barrier": barrier,
            "data": np.ascontiguousarray(data).view(np.uint8).reshape(*shape, width),
            "rows": machine.clocks.released(threads),
        })  # fmt: skip
        self.count += threads.size

    def deliver(self, share):
        """Let each message in flight arrive with this probability; at least one arrives."""
        machine, random = self.machine, self.machine.random
        batches, self.batches, self.count = self.batches, [], 0
        lucky = random.integers(len(batches))
        for i in random.permutation(len(batches)):
            batch = batches[i]
            size = batch["thread"].size
            arrives = random.random(size) < share
            if i == lucky and not arrives.any():
                arrives[random.integers(size)] = True
            if arrives.any():
                order = random.permutation(np.flatnonzero(arrives))
                self._arrive({name: column[order] for name, column in batch.items()})
            if not arrives.all():
                rest = np.flatnonzero(~arrives)
                self.batches.append({name: column[rest] for name, column in batch.items()})
                self.count += rest.size
        machine.changed()

    def _arrive(self, batch):
        machine = self.machine
        threads, blocks, rows = batch["thread"], batch["block"], batch["rows"]
        gone = machine.left_blocks[blocks]
        if gone.any():
            machine.fail(BadAccess, f"st.async to block {blocks[gone][0]}, which has left",
                         threads[gone][0])  # fmt: skip
        width = batch["data"].shape[1]
        shared = machine.shared
        start = batch["offset"] + blocks * shared.stride
        cells = start[:, None] // CELL + np.arange(width // CELL)
        if (shared.kinds[cells] != WRITABLE).any():
            machine.fail(BarrierMisuse, "st.async into an mbarrier", threads[0])
        writers, times = self._count_bytes(batch, width)
        shared.accesses.write_later(threads, cells, rows, writers, times)
        shared.bytes[start[:, None] + np.arange(width)] = batch["data"]

    def _count_bytes(self, batch, width):
        """Count the bytes at the barriers; return the name of each write in the clocks."""
        machine = self.machine
        threads, rows = batch["thread"], batch["rows"]
        writers, times = np.zeros(threads.size, np.int64), np.zeros(threads.size, np.int64)
        for i in range(threads.size):
            block, thread = batch["block"][i], threads[i]
            barrier = machine.mbarriers.find(thread, block, batch["barrier"][i], rows[i])
            writers[i] = column = barrier.column_of_bytes(machine.block[thread])
            times[i] = barrier.phase + 1
            row = rows[i].copy()
            row[column] = barrier.phase + 1
            barrier.released.add(SCOPES["cluster"], machine.block[thread], row)
            barrier.bytes -= width
            barrier.end_phase_if_done()
        return writers, times
