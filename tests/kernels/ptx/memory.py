"""Global and shared memory: bounds, alignment, and the record of who accessed what (races.py).

Memory is divided into cells of two bytes. A cell is nowhere, read-only, writable, part of an mbarrier, or in host memory
that the device has mapped.
"""

import numpy as np

from .errors import BadAccess
from .races import Accesses

CELL = 2  # bytes
NOWHERE, READ_ONLY, WRITABLE, BARRIER, MAPPED = range(5)
GLOBAL_BASE = 0x7F5000000000
ALIGNMENT = 256  # of allocations in global memory
GAP = 256  # bytes between allocations, more than any access
SHARED_BASE = 1024  # of a block's window; the system has the first kilobyte
HOST_ARRAYS = {"alarm"}  # of a launch
WINDOW = 1 << 24  # addresses of one block in its cluster's window


REFUSALS = {
    NOWHERE: "access outside of memory",
    READ_ONLY: "store to read-only memory",
    BARRIER: "access to a barrier",
    MAPPED: "access to the host's memory outside of its scope",
}


def order_of(array):
    """The dimensions of an array, outermost in memory first; it has no gaps."""
    return np.argsort([-stride for stride in array.strides], kind="stable")


class Space:
    """An array of bytes with the state of its cells."""

    def __init__(self, machine, name, size, readers):
        self.machine = machine
        self.bytes = np.full(size, 0xFF, np.uint8)  # NaN in every type
        self.typed = {n: self.bytes.view(f"u{n}") for n in (1, 2, 4, 8)}
        self.kinds = np.zeros(size // CELL + 8, np.uint8)
        self.accesses = Accesses(machine.clocks, name, size // CELL, readers)

    def fail(self, what, threads, addresses, bad):
        lane = np.flatnonzero(np.broadcast_to(bad, threads.shape))[0]
        address = np.broadcast_to(addresses, threads.shape)[lane]
        self.machine.fail(BadAccess, f"{what} at {int(address):#x}", threads[lane])

    def located(self, threads, addresses, size, count, least_kind, *, of_host=False):
        """Return the index of each lane's first element, and (lane, cell) indices; check them."""
        width = size * count
        offsets = self.offsets(threads, addresses)
        if offsets.ndim == 0:
            offsets = np.broadcast_to(offsets, threads.shape)
        outside = (offsets < 0) | (offsets > self.bytes.size - width)
        if outside.any():
            self.fail("access outside of memory", threads, addresses, outside)
        if (offsets & (width - 1)).any():
            self.fail(f"misaligned access of {width} bytes", threads, addresses, offsets % width)
        first = offsets // CELL
        cells = first[:, None] + np.arange(max(1, width // CELL))
        kinds = self.kinds[cells]
        if kinds.min() < least_kind or kinds.max() >= BARRIER:
            bad = ((kinds < least_kind) | (kinds == BARRIER)).any(1)
            if not of_host:
                bad |= (kinds == MAPPED).any(1)
            if bad.any():
                self.fail(REFUSALS[kinds[bad].min()], threads, addresses, bad)
        return offsets // size, cells, kinds

    def load(self, threads, addresses, size, count, read_only=False):
        """Return `count` rows of bits, of a lane's value each."""
        start, cells, kinds = self.located(threads, addresses, size, count, READ_ONLY)
        if kinds.max() > READ_ONLY:
            if read_only:
                self.fail("read-only load of writable memory", threads, addresses, kinds.max(1) > 1)
            self.accesses.read(threads, cells)
        typed = self.typed[size]
        return [typed[start + i] for i in range(count)]

    def store(self, threads, addresses, size, values):
        start, cells, _ = self.located(threads, addresses, size, len(values), WRITABLE)
        self.accesses.write(threads, cells)
        typed = self.typed[size]
        for i, value in enumerate(values):
            typed[start + i] = value.view(typed.dtype)


class Global(Space):
    """Global memory: copies of the arrays that a call gets, far from each other."""

    def __init__(self, machine, arrays):
        self.starts, size = self.layout(arrays)
        super().__init__(machine, "global", size, machine.threads)
        for name, (array, writable) in arrays.items():
            start, end = self.starts[name], self.starts[name] + array.nbytes
            flat = array.transpose(order_of(array)).reshape(-1)
            self.bytes[start:end] = np.ascontiguousarray(flat).view(np.uint8)
            kind = MAPPED if name in HOST_ARRAYS else WRITABLE if writable else READ_ONLY
            self.kinds[start // CELL : -(-end // CELL)] = kind

    @staticmethod
    def layout(arrays):
        """Return where each array starts, and the size of all."""
        starts, size = {}, GAP
        for name, (array, _) in arrays.items():
            starts[name] = size
            size += -(-array.nbytes // ALIGNMENT) * ALIGNMENT + GAP
        return starts, size

    @staticmethod
    def addresses(arrays):
        """Return the address that each array gets."""
        return {name: GLOBAL_BASE + start for name, start in Global.layout(arrays)[0].items()}

    def offsets(self, threads, addresses):
        return addresses.astype(np.int64) - GLOBAL_BASE

    def contents(self, name, array):
        """What an array has become."""
        start, order = self.starts[name], order_of(array)
        values = self.bytes[start : start + array.nbytes].view(array.dtype)
        return values.reshape([array.shape[i] for i in order]).transpose(np.argsort(order))


class Shared(Space):
    """The shared memory of all blocks. An address names a block's own memory, or a rank's of its cluster."""

    def __init__(self, machine, size):
        self.size = size
        self.stride = -(-size // ALIGNMENT) * ALIGNMENT + GAP
        super().__init__(machine, "shared", machine.blocks * self.stride, machine.block_threads)
        for block in range(machine.blocks):
            start = block * self.stride // CELL
            self.kinds[start : start + size // CELL] = WRITABLE

    def offsets(self, threads, addresses):
        offset = addresses.astype(np.int64) - SHARED_BASE
        # A plain access has the window of its own block.
        outside = (offset < 0) | (offset >= self.size)
        return np.where(outside, -1, offset + self.machine.block[threads] * self.stride)

    def mapped(self, threads, addresses, ranks):
        """The address in the cluster's window of a variable of another block."""
        if (ranks >= self.machine.cluster_size).any():
            bad = ranks >= self.machine.cluster_size
            self.fail("mapa to a rank outside of the cluster", threads, addresses, bad)
        return addresses % np.uint32(WINDOW) + (ranks + np.uint32(1)) * np.uint32(WINDOW)

    def remote(self, threads, addresses):
        """The block and the offset in it of addresses in the cluster's window."""
        rank = addresses.astype(np.int64) // WINDOW - 1
        first = self.machine.block[threads] // self.machine.cluster_size * self.machine.cluster_size
        block = np.where(rank < 0, self.machine.block[threads], first + rank)
        return block, addresses.astype(np.int64) % WINDOW - SHARED_BASE
