"""Stores and copies into other blocks that arrive late, in any order, and count their bytes at an mbarrier there."""

import bisect

import numpy as np

from .errors import BadAccess, BarrierMisuse
from .memory import CELL, WRITABLE
from .races import SCOPES

BULK = 16  # bytes: the unit of cp.async.bulk


class Messages:
    """Those in flight, in batches of one instruction each."""

    def __init__(self, machine):
        self.machine = machine
        self.batches = []
        self.count = 0
        self.fences = {}  # thread: its clock at each fence.proxy.async
        self.fenced = {}  # thread: what it had seen at the last one
        self.fenced_for_peers = {}  # the same, of fences that are not of its own block's memory alone

    def send(self, threads, addresses, barriers, size, values):
        machine = self.machine
        shape = threads.shape
        addresses, barriers = (np.broadcast_to(x, shape) for x in (addresses, barriers))
        width = size * len(values)
        place = self._place(threads, addresses, barriers, np.full(shape, width), width)
        data = np.stack([np.broadcast_to(value, shape) for value in values], axis=1)
        self.batches.append(
            {
                "thread": threads,
                **place,
                "source": np.full(shape, -1),
                "data": np.ascontiguousarray(data).view(np.uint8).reshape(*shape, width),
                "rows": machine.clocks.released(threads),
            }
        )
        self.count += threads.size

    def _place(self, threads, addresses, barriers, widths, alignment):
        """Where messages go; checks that they fit into the block of their mbarrier."""
        shared = self.machine.shared
        block, offset = shared.remote(threads, addresses)
        barrier_block, barrier = shared.remote(threads, barriers)
        outside = (offset < 0) | (offset + widths > shared.size) | (block != barrier_block)
        if outside.any():
            shared.fail("a message outside of its mbarrier's block", threads, addresses, outside)
        self._check_left(threads, block)
        if (offset % alignment).any():
            shared.fail("misaligned message", threads, addresses, offset % alignment)
        return {"block": block, "offset": offset, "barrier": barrier}

    def _check_left(self, threads, blocks):
        """No memory of a block, nor an mbarrier there, is there once the block has left."""
        gone = self.machine.left_blocks[blocks]
        if gone.any():
            what = f"a message to block {blocks[gone][0]}, which has left"
            self.machine.fail(BadAccess, what, threads[gone][0])

    def fence_proxy(self, threads, for_peers):
        """Asynchronous copies follow what happens before this fence, if the fence happens before them."""
        clocks = self.machine.clocks
        for thread in threads:
            self.fences.setdefault(thread, []).append(int(clocks.own[thread]))
            self.fenced[thread] = clocks.seen[thread].copy()
            if for_peers:
                self.fenced_for_peers[thread] = self.fenced[thread]
        clocks.advance(threads)

    def _read_in_order(self, thread, writers, times):
        return self._in_order(self.fenced, thread, writers, times)

    def _written_in_order(self, thread, writers, times):
        return self._in_order(self.fenced_for_peers, thread, writers, times)

    def _in_order(self, fenced, thread, writers, times):
        """Whether a fence of the writer or of the copying thread stands between writes and a copy."""
        nothing = np.zeros(self.machine.clocks.width, np.int32)
        seen = self.machine.clocks.seen[thread]
        known, which = np.unique(writers, return_inverse=True)
        last_fence = np.full(known.size, -1)  # of each writer, that the copying thread has seen
        for i, writer in enumerate(known):
            fences = self.fences.get(writer, ())
            before = bisect.bisect_left(fences, seen[writer])
            if before:
                last_fence[i] = fences[before - 1]
        return (fenced.get(thread, nothing)[writers] >= times) | (last_fence[which] >= times)

    def copy(self, threads, addresses, sources, sizes, barriers):
        """cp.async.bulk: the bytes are read when they arrive."""
        machine, shared = self.machine, self.machine.shared
        columns = (np.broadcast_to(x, threads.shape) for x in (addresses, sources, sizes, barriers))
        for thread, *values in zip(threads, *columns, strict=True):
            one = np.array([thread])
            to, source, size, barrier = (np.array([value]) for value in values)
            width = int(size[0])
            place = self._place(one, to, barrier, size.astype(np.int64), BULK)
            start = shared.offsets(one, source)
            ends = shared.offsets(one, source + np.uint32(width - 1))
            if width == 0 or width % BULK or start % BULK or (start < 0) | (ends < 0):
                shared.fail(f"bad source of {width} bytes", one, source, True)
            cells = start[:, None] // CELL + np.arange(width // CELL)
            shared.accesses.start_copy(thread, cells[0], self._read_in_order)
            target = place["offset"] + place["block"] * shared.stride
            shared.accesses.check_target(
                thread, target[0] // CELL + np.arange(width // CELL), self._written_in_order
            )
            self.batches.append(
                {
                    "thread": one,
                    **place,
                    "source": start,
                    "data": np.zeros((1, width), np.uint8),
                    "rows": machine.clocks.released(one),
                }
            )
            self.count += 1

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
        self._check_left(threads, blocks)
        width = batch["data"].shape[1]
        shared = machine.shared
        start = batch["offset"] + blocks * shared.stride
        cells = start[:, None] // CELL + np.arange(width // CELL)
        if (shared.kinds[cells] != WRITABLE).any():
            machine.fail(BarrierMisuse, "st.async into an mbarrier", threads[0])
        writers, times = self._count_bytes(batch, width)
        shared.accesses.write_later(threads, cells, rows, writers, times)
        data, source = batch["data"], batch["source"]
        if source[0] >= 0:  # batches of copies have one message each
            data = shared.bytes[source[:, None] + np.arange(width)]
            issued = rows[np.arange(threads.size), threads]
            source_cells = source[:, None] // CELL + np.arange(width // CELL)
            shared.accesses.end_copy(threads, source_cells, issued)
        shared.bytes[start[:, None] + np.arange(width)] = data

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
