"""mbarriers: phases that end when all arrivals have come and all expected bytes have arrived."""

import numpy as np

from .errors import BarrierMisuse, Race
from .memory import BARRIER, SHARED_BASE, WRITABLE
from .races import MBARRIERS_PER_BLOCK, SCOPES, Released

MOST_BYTES = 2**20 - 1  # that the count of a phase can hold
BYTES = 8  # of an mbarrier


class Mbarrier:
    def __init__(self, machine, block, number, count):
        self.block = block
        self.expected = self.pending = count
        self.bytes = 0  # expected less arrived; below zero while the expectation is not yet known
        self.phase = 0  # phases that have ended
        self.columns = machine.threads + 3 * (block * MBARRIERS_PER_BLOCK + number)  # of clocks
        self.released, self.completed = Released(machine), Released(machine)

    def column_of_bytes(self, from_block):
        return self.columns + int(from_block != self.block)

    @property
    def column_of_creation(self):
        return self.columns + 2

    def end_phase_if_done(self):
        if self.pending or self.bytes:
            return
        self.phase += 1
        self.pending = self.expected
        self.completed.merge(self.released)
        self.released.rows.clear()


class Mbarriers:
    def __init__(self, machine):
        self.machine = machine
        self.known = {}  # (block, offset): Mbarrier
        self.count = np.zeros(machine.blocks, int)
        self.fenced = np.zeros(machine.threads, bool)
        self.awaiting = {}  # thread: what a relaxed wait saw and a fence may acquire

    def init(self, threads, addresses, counts):
        machine = self.machine
        offsets = np.broadcast_to(addresses, threads.shape).astype(np.int64) - SHARED_BASE
        # The initialisation is a write that nothing may race with.
        shared = machine.shared
        _, cells, _ = shared.located(threads, addresses, BYTES, 1, WRITABLE)
        shared.accesses.write(threads, cells)
        shared.kinds[cells] = BARRIER
        for thread, offset, count in zip(
            threads, offsets, np.broadcast_to(counts, threads.shape), strict=True
        ):
            block = machine.block[thread]
            number = self.count[block]
            if number == MBARRIERS_PER_BLOCK:
                machine.fail(BarrierMisuse, "the interpreter has no more mbarriers", thread)
            self.count[block] += 1
            barrier = Mbarrier(machine, block, number, int(count))
            self.known[block, int(offset)] = barrier
            machine.clocks.seen[thread, barrier.column_of_creation] = 1

    def fence_creation(self, threads):
        """A relaxed arrival at the cluster's barrier then tells of the barriers."""
        self.fenced[threads] = True

    def creations(self, rows, threads):
        """What clocks tell after such a fence: that barriers exist, and nothing else."""
        only = np.zeros_like(rows)
        columns = np.arange(self.machine.threads + 2, rows.shape[1], 3)
        only[:, columns] = rows[:, columns] * self.fenced[threads][:, None]
        return only

    def find(self, thread, block, offset, seen):
        """The barrier at an address, for an operation with the clock `seen`."""
        machine = self.machine
        barrier = self.known.get((block, int(offset)))
        if barrier is None:
            machine.fail(BarrierMisuse, f"no mbarrier at byte {offset} of block {block}", thread)
        if not seen[barrier.column_of_creation]:
            machine.fail(Race, "an mbarrier is used before its initialisation is known", thread)
        return barrier

    def arrive(self, threads, addresses, sizes, arrivals, scope):
        machine = self.machine
        shape = threads.shape
        columns = (np.broadcast_to(x, shape) for x in (addresses, sizes, arrivals))
        for thread, address, size, count in zip(threads, *columns, strict=True):
            one = np.array([thread])
            [row] = machine.clocks.released(one)
            block = machine.block[thread]
            barrier = self.find(thread, block, int(address) - SHARED_BASE, row)
            barrier.bytes += int(size)
            if abs(barrier.bytes) > MOST_BYTES:
                machine.fail(BarrierMisuse, f"an mbarrier expects {barrier.bytes} bytes", thread)
            barrier.pending -= int(count)
            if barrier.pending < 0:
                machine.fail(BarrierMisuse, "an mbarrier has more arrivals than it counts", thread)
            barrier.released.add(SCOPES[scope], block, row)
            barrier.end_phase_if_done()
        machine.changed()

    def try_wait(self, threads, addresses, parities, order, scope):
        """Whether the phase of this parity has ended, per thread; also false at random."""
        machine = self.machine
        seen = machine.clocks.seen
        offsets = np.broadcast_to(addresses, threads.shape).astype(np.int64) - SHARED_BASE
        parities = np.broadcast_to(parities, threads.shape)
        done = np.zeros(threads.shape, bool)
        keys = np.stack([machine.block[threads], offsets, parities.astype(np.int64)])
        for block, offset, parity in np.unique(keys, axis=1).T:
            lanes = np.flatnonzero((keys == [[block], [offset], [parity]]).all(0))
            for lane in lanes:
                barrier = self.find(threads[lane], block, offset, seen[threads[lane]])
            if barrier.phase & 1 == parity:
                continue
            passing = lanes[machine.random.random(lanes.size) < machine.poll_success]
            done[passing] = True
            visible = barrier.completed.visible(SCOPES[scope], block)
            if visible is None:
                continue
            if order == "acquire":
                machine.clocks.acquire(threads[passing], visible)
            else:
                self.awaiting.update(dict.fromkeys(threads[passing].tolist(), visible))
        machine.idle(threads[~done])
        return done

    def fence(self, threads):
        """The acquire of what relaxed waits have seen. PTX restricts it to shared memory; here it orders all."""
        for thread in threads:
            if thread in self.awaiting:
                self.machine.clocks.acquire(np.array([thread]), self.awaiting.pop(thread))

    def check_end(self):
        for (block, offset), barrier in self.known.items():
            if barrier.bytes or barrier.pending != barrier.expected:
                raise BarrierMisuse(
                    f"the mbarrier at byte {offset} of block {block} ends with "
                    f"{barrier.bytes} bytes and {barrier.pending} arrivals outstanding"
                )
