"""Runs a kernel: a pc for every thread, and a schedule drawn at random."""

import re

import numpy as np

from .barriers import Barriers
from .copies import Copies
from .errors import BadAccess, BarrierMisuse, Deadlock, ExecutionError, Race
from .mbarriers import Mbarriers
from .memory import Global, Shared
from .messages import Messages
from .orders import Orders
from .races import Clocks
from .translate import Program

WARP = 32
MOST_STEPS = 200_000  # that a launch may take; some thousands are usual
MOST_VAIN_POLLS = 50  # of all threads, without a change
MOST_LOOKS = 400  # the same, of a kernel that looks at the time
TICK = 250_000_000  # nanoseconds that pass per poll in vain, after MOST_VAIN_POLLS


class Machine:
    # Where a thread is; only running ones may be stepped.
    PARKED = {"running": 0, "block": 1, "warp": 2, "cluster": 3, "joint": 4, "left": 5}

    def __init__(self, program, launch, arrays, parameters, seed):
        """`launch` has blocks, block_threads, cluster_size and shared_bytes; `parameters` are bytes.

        `arrays` is {name: (array, whether the kernel may write it)}.
        """
        self.program, self.parameters = program, np.frombuffer(parameters, np.uint8)
        self.blocks, self.block_threads = launch.blocks, launch.block_threads
        self.cluster_size = launch.cluster_size
        self.threads = self.blocks * self.block_threads
        self.random = np.random.default_rng(seed)
        every = np.arange(self.threads)
        self.block, self.index = every // self.block_threads, every % self.block_threads
        self.lane = self.index % WARP
        warps = -(-self.block_threads // WARP)
        self.warp = self.block * warps + self.index // WARP
        self.warp_size = np.bincount(self.warp)
        self.specials = {
            "%tid.x": self.index,
            "%ctaid.x": self.block,
            "%laneid": self.lane,
            "%cluster_ctarank": self.block % self.cluster_size,
            "%ntid.x": np.full(self.threads, self.block_threads),
            "%nctaid.x": np.full(self.threads, self.blocks),
            "%cluster_nctarank": np.full(self.threads, self.cluster_size),
        }
        self.steps = 0
        self.pc = np.zeros(self.threads, np.int64)
        self.parked_at = np.zeros(self.threads, np.int8)
        self.idle_since = np.full(self.threads, -1)  # the change after which it polled in vain
        self.changes = 0
        self.line = 0
        self.now = 10**15  # nanoseconds
        self.looked = np.zeros(self.threads, np.int64)  # the time that each thread saw last
        self.sleeper = None  # Sleeper
        self.is_stopped = lambda machine: False
        self.jumps_back = np.zeros(self.threads, np.int64)  # a number for those since its lanes met
        self.left_blocks = np.zeros(self.blocks, bool)
        self.registers = [self._garbage(kind) for kind in program.types]
        self.clocks = Clocks(self)
        self.global_ = Global(self, arrays)
        self.shared = Shared(self, program.static_shared + launch.shared_bytes)
        self.barriers, self.mbarriers = Barriers(self), Mbarriers(self)
        self.messages, self.copies, self.orders = Messages(self), Copies(self), Orders(self)
        self._new_era()

    def _garbage(self, kind):
        if kind == "pred":
            return self.random.random(self.threads) < 0.5
        return np.full(self.threads * np.dtype(kind).itemsize, 0xFF, np.uint8).view(kind)

    # -- what instructions ask for

    def special(self, name, threads):
        """A special register."""
        if name == "%globaltimer":
            self.idle(threads[self.looked[threads] == self.now])
            self.looked[threads] = self.now
            return np.full(threads.size, self.now, np.uint64)
        return self.specials[name].take(threads)

    @staticmethod
    def wide(value, threads):
        return np.broadcast_to(value, threads.shape)

    @staticmethod
    def spread(values, lanes):
        """Values of the selected lanes, and anything in the others."""
        full = np.empty(lanes.shape, values.dtype)
        full[lanes] = values
        return full

    def load_parameter(self, threads, addresses, size):
        addresses = np.broadcast_to(addresses, threads.shape).astype(np.int64)
        first = addresses[0]
        if addresses.min() < 0 or addresses.max() + size > self.parameters.size:
            self.fail(BadAccess, f"parameter at byte {first}", threads[0])
        if (addresses == first).all():
            value = self.parameters[first : first + size].view(f"u{size}")[0]
            return [np.full(threads.size, value)]
        return [self.parameters[addresses[:, None] + np.arange(size)].view(f"u{size}")[:, 0]]

    def jump_back(self, threads, segment):
        """The threads begin a loop anew."""
        self.jumps_back[threads] = 31 * self.jumps_back[threads] + segment + 1  # may overflow

    def met(self, threads):
        """Whole warps have met at a barrier or in an instruction that waits for all lanes."""
        self.jumps_back[threads] = 0

    def require_converged(self, threads):
        """Whole warps execute an aligned instruction, for which a common pc is not enough.

        Hardware may run lanes that left a loop one by one apart from each other until they meet.
        """
        first = np.searchsorted(self.warp, self.warp[threads])
        apart = self.jumps_back[threads] != self.jumps_back[first]
        if apart.any():
            what = "lanes that left a loop one by one did not meet before an aligned instruction"
            self.fail(BarrierMisuse, what, threads[apart][0])

    def leave(self, threads):
        self.park(threads, "left")
        for block in np.unique(self.block[threads]):
            members = self.members(block)
            self.left_blocks[block] = (self.parked_at[members] == self.PARKED["left"]).all()

    def fail(self, error, what, thread):
        if error is Race and self.is_stopped(self):
            return  # the kernel has raised its alarm, and nobody reads what it computes
        raise error(f"line {self.line}: {what}, {self.name_of(thread)}")

    def name_of(self, thread):
        if thread >= self.threads:
            return "st.async"
        return f"thread {self.index[thread]} of block {self.block[thread]}"

    def owner(self, cells):
        """The block of a cell of shared memory."""
        return cells * 2 // self.shared.stride

    def members(self, block):
        return np.arange(block * self.block_threads, (block + 1) * self.block_threads)

    def lanes(self, warp):
        start = np.searchsorted(self.warp, warp)
        return np.arange(start, start + self.warp_size[warp])

    def in_scope(self, scope, block, other):
        """Whether a scope around a block contains another one."""
        if scope == 0:
            return block == other
        return scope > 1 or block // self.cluster_size == other // self.cluster_size

    # -- the schedule

    def park(self, threads, where):
        self.parked_at[threads] = self.PARKED[where]

    def release(self, threads, pc):
        self.parked_at[threads] = self.PARKED["running"]
        self.pc[threads] = pc

    def idle(self, threads):
        """The threads polled in vain: they poll again after the next change."""
        self.idle_since[threads] = self.changes

    def changed(self):
        self.changes += 1

    def _new_era(self):
        """Draw the manners of the next steps."""
        random = self.random
        self.era_ends = int(random.integers(20, 300))
        self.awake = np.ones(self.blocks, bool)
        if random.random() < 0.5:
            self.awake = random.random(self.blocks) < random.random()
        self.arrival = random.choice([0.0, 0.02, 0.3, 1.0])  # of a message, in one step
        self.strictness = random.choice([0.5, 0.9, 1.0])  # how often the threads behind go first
        self.whole = random.choice([0.6, 0.9, 1.0])  # how often all threads at a pc go together
        self.poll_success = random.choice([0.5, 1.0])

    def run(self):
        """Run the kernel to its end."""
        vain, last_change = 0, -1
        patience = MOST_LOOKS if self.program.reads_clock else MOST_VAIN_POLLS
        with np.errstate(all="ignore"):
            while self.steps < MOST_STEPS:
                self.steps += 1
                if self.messages.count and self.random.random() < self.arrival:
                    self.messages.deliver(self.arrival)
                self.era_ends -= 1
                if self.era_ends < 0:
                    self._new_era()
                running = self.parked_at == self.PARKED["running"]
                sleeps = self.sleeper is not None and self.sleeper.sleeps(self)
                if sleeps:
                    running &= self.block != self.sleeper.block
                able = np.flatnonzero(running & (self.idle_since < self.changes))
                awake = able[self.awake[self.block[able]]]
                if awake.size:
                    self._step(awake)
                elif able.size:
                    self._new_era()
                elif self.messages.count:
                    self.messages.deliver(self.random.choice([0.1, 0.5, 1.0]))
                elif (running.any() or sleeps) and vain < patience:  # polls may fail at random
                    vain = vain + 1 if last_change == self.changes else 0
                    self.now += TICK * (vain > MOST_VAIN_POLLS)
                    last_change = self.changes
                    self.poll_success = 1.0
                    self.idle_since[:] = -1
                elif (self.parked_at == self.PARKED["left"]).all():
                    break
                else:
                    self._deadlock()
            else:
                raise ExecutionError(f"no end after {MOST_STEPS} steps")

    def _step(self, threads):
        """Run one segment for some of the threads."""
        random = self.random
        pcs = self.pc[threads]
        pc = pcs.min() if random.random() < self.strictness else random.choice(pcs)
        threads = threads[pcs == pc]
        if random.random() >= self.whole:
            threads = self._some(threads)
        if pc >= len(self.program.segments):
            self.leave(threads)
            return
        if self.program.segments[pc].converged:
            threads = self._whole_warps(threads)
            if threads.size == 0:
                return
        self.program.function(pc)(self, threads)

    def _some(self, threads):
        """One block, one warp, or any of the threads."""
        one = self.random.choice(threads)
        way = self.random.integers(3)
        if way == 0:
            return threads[self.block[threads] == self.block[one]]
        if way == 1:
            return threads[self.warp[threads] == self.warp[one]]
        chosen = self.random.random(threads.size) < self.random.random()
        return threads[chosen] if chosen.any() else threads[:1]

    def _whole_warps(self, threads):
        """The threads whose whole warps have come to one joint instruction; the others park."""
        self.park(threads, "joint")
        pc = self.pc[threads[0]]
        waiting = np.flatnonzero((self.parked_at == self.PARKED["joint"]) & (self.pc == pc))
        complete = np.bincount(self.warp[waiting], minlength=self.warp_size.size) == self.warp_size
        passing = waiting[complete[self.warp[waiting]]]
        self.park(passing, "running")
        return passing

    def _deadlock(self):
        names = {number: name for name, number in self.PARKED.items()}
        stuck = np.stack([self.block, self.parked_at, self.pc], 1)
        places, counts = np.unique(stuck, axis=0, return_counts=True)
        lines = [
            f"{count} threads of block {block}: {names[parked]}"
            + ("" if names[parked] == "left" else f" at line {self.program.line(pc)}")
            for (block, parked, pc), count in zip(places, counts, strict=True)
        ]
        raise Deadlock("no thread can go on: " + "; ".join(lines))


class Sleeper:
    """A block that is not run between a step of the schedule and an event."""

    def __init__(self, block, first_step, is_awake):
        self.block, self.first_step, self.is_awake = block, first_step, is_awake

    def sleeps(self, machine):
        return machine.steps >= self.first_step and not self.is_awake(machine)


def load(module, pattern):
    """The program of the kernel whose name matches a pattern."""
    [name] = [name for name in module.entries if re.search(pattern, name)]
    return Program(module.kernel(name))
