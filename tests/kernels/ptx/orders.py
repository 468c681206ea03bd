"""Strong accesses, which threads of other blocks may watch: acquire, release, relaxed and their fences."""

import numpy as np

from .errors import Race
from .memory import READ_ONLY, WRITABLE
from .races import SCOPES, Released

UPDATES = {
    "add": np.add,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "min": np.minimum,
    "max": np.maximum,
    "exch": lambda old, new: new,
    "cas": lambda old, compare, new: np.where(old == compare, new, old),
}


class Place:
    """The history of an address that had strong accesses."""

    def __init__(self, machine):
        self.released = Released(machine)
        self.last = {}  # (thread, whether it wrote): (its clock, scope)


class Orders:
    def __init__(self, machine):
        self.machine = machine
        self.places = {}  # first cell: Place
        self.polled = {}  # (thread, segment): the value that it read last
        self.fenced = {}  # thread: (scope, clock) of its last fence
        self.awaiting = {}  # thread: what relaxed loads saw and a fence may acquire

    def _place(self, thread, address, size, kind, scope):
        memory = self.machine.global_
        one, of_host = np.array([thread]), scope == SCOPES["sys"]
        start, cells, _ = memory.located(one, np.array([address]), size, 1, kind, of_host=of_host)
        memory.accesses.strong = self
        place = self.places.get(int(cells[0, 0]))
        if place is None:
            place = self.places[int(cells[0, 0])] = Place(self.machine)
        return place, int(start[0]), cells[0]

    def _check(self, place, cells, thread, scope, writes):
        """Report what this access conflicts with, unless both are strong in each other's scope."""
        machine = self.machine
        seen = machine.clocks.seen[thread]
        accesses = machine.global_.accesses
        if (seen[accesses.writer[cells]] < accesses.written[cells]).any():
            machine.fail(Race, "a strong access races with a write", thread)
        if writes and (accesses.reads[cells] > seen[: machine.threads]).any():
            machine.fail(Race, "a strong write races with a read", thread)
        for (other, wrote), (clock, other_scope) in place.last.items():
            if (writes or wrote) and seen[other] < clock:
                blocks = machine.block[other], machine.block[thread]
                if not all(machine.in_scope(s, *blocks) for s in (scope, other_scope)):
                    machine.fail(
                        Race,
                        "accesses race outside of each other's scope with "
                        f"{machine.name_of(other)}",
                        thread,
                    )
        place.last[thread, writes] = int(machine.clocks.own[thread]), scope

    def check_weak(self, threads, cells, writes):
        """A weak access must be ordered after strong ones that conflict."""
        machine = self.machine
        for thread, of_lane in zip(threads, cells, strict=True):
            for place in filter(None, (self.places.get(int(cell)) for cell in of_lane)):
                for (other, wrote), (clock, _) in place.last.items():
                    if (writes or wrote) and machine.clocks.seen[thread][other] < clock:
                        machine.fail(Race, "a weak access races with a strong one", thread)

    def load(self, threads, addresses, size, order, scope, segment):
        machine, scope = self.machine, SCOPES[scope]
        typed = machine.global_.typed[size]
        values = np.empty(threads.size, typed.dtype)
        addresses = np.broadcast_to(addresses, threads.shape)
        for i, thread in enumerate(threads):
            place, start, cells = self._place(thread, addresses[i], size, READ_ONLY, scope)
            self._check(place, cells, thread, scope, writes=False)
            values[i] = typed[start]
            if order == "acquire":
                self._acquire(place.released, thread, scope)
            if order == "relaxed":
                self.awaiting.setdefault(thread, Released(machine)).merge(place.released)
            if self.polled.get((thread, segment)) == values[i]:
                machine.idle(thread)
            self.polled[thread, segment] = values[i]
        return [values]

    def _acquire(self, released, thread, scope):
        visible = released.visible(scope, self.machine.block[thread])
        if visible is not None:
            self.machine.clocks.acquire(thread, visible)

    def _release(self, place, thread, order, scope):
        machine = self.machine
        block = machine.block[thread]
        if order in ("release", "acq_rel"):
            [row] = machine.clocks.released(np.array([thread]))
            place.released.add(scope, block, row)
        elif thread in self.fenced:
            fence_scope, row = self.fenced[thread]
            place.released.add(min(scope, fence_scope), block, row)

    def store(self, threads, addresses, values, size, order, scope):
        machine, scope = self.machine, SCOPES[scope]
        columns = (np.broadcast_to(x, threads.shape) for x in (addresses, values))
        for thread, address, value in zip(threads, *columns, strict=True):
            place, start, cells = self._place(thread, address, size, WRITABLE, scope)
            self._check(place, cells, thread, scope, writes=True)
            place.released = Released(machine)  # a plain store ends a release sequence
            self._release(place, thread, order, scope)
            machine.global_.typed[size][start] = value
        machine.changed()

    def update(self, threads, addresses, operation, operands, order, scope):
        """red and atom: return the old values."""
        machine, scope = self.machine, SCOPES[scope]
        operands = [np.broadcast_to(x, threads.shape) for x in operands]
        size = operands[0].dtype.itemsize
        typed = machine.global_.typed[size]
        old = np.empty(threads.size, typed.dtype)
        addresses = np.broadcast_to(addresses, threads.shape)
        for i, thread in enumerate(threads):
            place, start, cells = self._place(thread, addresses[i], size, WRITABLE, scope)
            self._check(place, cells, thread, scope, writes=True)
            if order in ("acquire", "acq_rel"):
                self._acquire(place.released, thread, scope)
            self._release(place, thread, order, scope)
            old[i] = typed[start]
            value = typed[start : start + 1].view(operands[0].dtype)
            value[:] = UPDATES[operation](value, *(x[i] for x in operands))
        machine.changed()
        return [old]

    def fence(self, threads, scope):
        machine, scope = self.machine, SCOPES[scope]
        for thread in threads:
            if thread in self.awaiting:
                self._acquire(self.awaiting.pop(thread), thread, scope)
            [row] = machine.clocks.released(np.array([thread]))
            self.fenced[thread] = scope, row
