"""Turns a kernel into Python functions, one per segment: a run of instructions without a branch or a wait.

A segment runs for a set of threads that stand at its start. Registers are arrays with an element per thread, and a
register that no other segment uses is a local variable. A segment that waits for others is one instruction long; its
function asks the machine, which lets threads pass or parks them.
"""

import functools
import itertools

import numpy as np

from . import arithmetic, numerics, operations
from .errors import UnknownInstruction
from .memory import SHARED_BASE
from .parse import SINK, Address, Immediate, Register, Symbol, Vector, aligned

SIZES = {"pred": 1, "8": 1, "16": 2, "32": 4, "64": 8}
NUMPY_TYPES = {
    f"{kind}{size}": np.dtype(f"{kind}{size}").type
    for kind, size in [*itertools.product("ui", (1, 2, 4, 8)), ("f", 4), ("f", 8)]
}


def size_of(kind):
    return SIZES[kind.lstrip("busf") if kind != "pred" else kind]


def numpy_type(kind):
    """The NumPy type of a PTX type, by its name in the translated code."""
    if kind == "pred":
        return "pred"
    return {"s": "i", "f": "f"}.get(kind[0], "u") + str(size_of(kind))


@functools.cache
def rule_of(opcode):
    """The rule of an opcode and the parts of the opcode that it asks for, or None."""
    for pattern, emit in (*arithmetic.RULES, *operations.RULES):
        match = pattern.fullmatch(opcode)
        if match:
            return emit, match.groups()
    return None


class Segment:
    """Instructions [start, end) of a kernel. `converged`: only whole warps may run it."""

    def __init__(self, start, end, converged):
        self.start, self.end, self.converged = start, end, converged
        self.function = None


class Program:
    """A kernel as segments, and the addresses of its shared variables."""

    def __init__(self, kernel):
        self.kernel = kernel
        self.shared_addresses = {
            name: SHARED_BASE + offset for name, offset in kernel.shared.items()
        }
        self.static_shared = kernel.shared_bytes  # before the variables whose size a launch sets
        for name, alignment in kernel.dynamic_shared.items():
            self.static_shared = aligned(self.static_shared, alignment)
            self.shared_addresses[name] = SHARED_BASE + self.static_shared
        self.ids = {name: i for i, name in enumerate(kernel.register_types)}
        self.reads_clock = any(
            Register("%globaltimer") in instruction.operands for instruction in kernel.instructions
        )
        self.types = [numpy_type(kind) for kind in kernel.register_types.values()]
        self.segments = self._cut()
        self.segment_at = {segment.start: i for i, segment in enumerate(self.segments)}
        self._users = self._segments_of_registers()

    def _cut(self):
        kernel = self.kernel
        starts = {0, len(kernel.instructions), *kernel.labels.values()}
        for i, instruction in enumerate(kernel.instructions):
            if operations.ends_segment(instruction.opcode):
                starts.add(i + 1)
            if operations.waits(instruction.opcode):
                starts.update((i, i + 1))
        cuts = sorted(starts)
        segments = []
        for start, end in itertools.pairwise(cuts):
            # From a warp's first joint instruction on, its lanes stay together.
            joint = next(
                (
                    i
                    for i in range(start, end)
                    if operations.is_joint(kernel.instructions[i].opcode)
                ),
                None,
            )
            if joint is not None and joint > start:
                segments.append(Segment(start, joint, False))
                start = joint
            segments.append(Segment(start, end, joint is not None))
        return segments

    def _segments_of_registers(self):
        users = {}
        for i, segment in enumerate(self.segments):
            for instruction in self.kernel.instructions[segment.start : segment.end]:
                for register in registers_of(instruction):
                    users.setdefault(register.name, set()).add(i)
        return users

    def is_local(self, name):
        return len(self._users[name]) == 1

    def target(self, label):
        """The segment that a label names; one past the last at the kernel's end."""
        return self.segment_at.get(self.kernel.labels[label], len(self.segments))

    def function(self, index):
        """The compiled function of a segment: (machine, threads) -> None; it sets their pc."""
        segment = self.segments[index]
        if segment.function is None:
            segment.function = Translator(self, index).function()
        return segment.function

    def line(self, index):
        start = self.segments[index].start
        return self.kernel.instructions[start].line


def registers_of(instruction):
    found = [instruction.guard.register] if instruction.guard else []
    pending = list(instruction.operands)
    while pending:
        operand = pending.pop()
        if isinstance(operand, Register):
            found.append(operand)
        elif isinstance(operand, Vector):
            pending += operand.items
        elif isinstance(operand, Address):
            pending.append(operand.base)
    return found


class Translator:
    """Writes the function of one segment."""

    def __init__(self, program, index):
        self.program, self.index = program, index
        self.kernel = program.kernel
        self.lines, self.loads = [], []
        self.constants = {"np": np, "pred": np.bool_, **NUMPY_TYPES}
        self.constants |= {name: value for name, value in vars(numerics).items() if callable(value)}
        self.known, self.loaded, self.changed = set(), set(), {}
        self.guard = None

    def function(self):
        segment = self.program.segments[self.index]
        moves_on = True
        for i in range(segment.start, segment.end):
            moves_on = self._translate(self.kernel.instructions[i])
        if moves_on:
            self.emit(f"m.pc[t] = {self.index + 1}")
        # A register of this segment alone may still carry a value from one pass to the next.
        stores = [
            f"R[{i}][t] = v{i}"
            for name, i in self.changed.items()
            if name in self.loaded or not self.program.is_local(name)
        ]
        jump = self.lines.pop()  # comes last: a wait may let the threads pass
        body = [*self.loads, *self.lines, *stores, jump]
        source = "def run(m, t):\n R = m.registers\n " + "\n ".join(body)
        code = compile(source, f"{self.kernel.name[-60:]} segment {self.index}", "exec")
        exec(code, self.constants)
        return self.constants["run"]

    def _translate(self, instruction):
        """Emit an instruction; return whether the threads go on to the next one."""
        self.guard = instruction.guard
        found = rule_of(instruction.opcode)
        if found is None:
            raise UnknownInstruction(f"{instruction} {instruction.operands}")
        emit, parts = found
        self.emit(f"m.line = {instruction.line}")
        return emit(self, instruction.operands, *parts) is not operations.JUMPS

    def emit(self, line):
        self.lines.append(line)

    @staticmethod
    def is_vector(operand):
        return isinstance(operand, Vector)

    @staticmethod
    def numpy_type(kind):
        return numpy_type(kind)

    def guard_expression(self):
        value = self._variable(self.guard.register.name)
        return f"~{value}" if self.guard.negated else value

    def _variable(self, name):
        i = self.program.ids[name]
        if name not in self.known:
            self.known.add(name)
            self.loaded.add(name)
            self.loads.append(f"v{i} = R[{i}].take(t)")
        return f"v{i}"

    def _constant(self, value):
        name = f"c{len(self.constants)}"
        self.constants[name] = value
        return name

    def read(self, operand, kind):
        """An expression of an operand's value in the NumPy type of `kind`."""
        if isinstance(operand, Immediate):
            return self._constant(immediate(operand.text, kind))
        if isinstance(operand, Symbol):
            return self._constant(NUMPY_TYPES[numpy_type(kind)](self._address_of(operand.name)))
        if operand.name not in self.program.ids:
            return f"m.special({operand.name!r}, t).astype({numpy_type(kind)})"
        have = self.kernel.register_types[operand.name]
        value, wanted = self._variable(operand.name), numpy_type(kind)
        if numpy_type(have) == wanted:
            return value
        if size_of(have) == size_of(kind):
            return f"{value}.view({wanted})"
        if size_of(have) < size_of(kind):
            raise UnknownInstruction(f"a {have} register as {kind}: {operand.name}")
        return f"{value}.astype(u{size_of(kind)}).view({wanted})"

    def _address_of(self, name):
        if name in self.kernel.parameters:
            return self.kernel.parameters[name].offset
        return self.program.shared_addresses[name]

    def write(self, destination, expression, kind):
        """Assign an expression in the NumPy type of `kind` to a register, extended to its size."""
        if destination == SINK:
            return
        name = destination.name
        have = self.kernel.register_types[name]
        value = f"({expression})"
        if size_of(have) > size_of(kind):
            value = f"{value}.astype({'i' if kind[0] == 's' else 'u'}{size_of(have)})"
            kind = f"{'s' if kind[0] == 's' else 'u'}{8 * size_of(have)}"
        if size_of(have) != size_of(kind):
            raise UnknownInstruction(f"{kind} into a {have} register: {name}")
        if numpy_type(have) != numpy_type(kind):
            value = f"{value}.view({numpy_type(have)})"
        i = self.program.ids[name]
        if self.guard is not None:
            value = f"np.where({self.guard_expression()}, {value}, {self._variable(name)})"
        self.known.add(name)
        self.changed[name] = i
        self.emit(f"v{i} = {value}")

    def address(self, operand, kind):
        """An expression of an address operand."""
        base = self.read(operand.base, kind)
        if operand.offset == 0:
            return base
        return f"({base} + {self._constant(immediate(str(operand.offset), kind))})"


def immediate(text, kind):
    """The NumPy scalar of an immediate operand."""
    if text[:2] in ("0f", "0F", "0d", "0D"):
        bits = np.uint64(int(text[2:], 16))
        value = (
            bits.astype(np.uint32).view(np.float32) if text[1] in "fF" else bits.view(np.float64)
        )
        return value.astype(numpy_type(kind))
    size = size_of(kind)
    value = np.uint64(int(text, 0) % 2**64).astype(f"u{size}")
    return np.bool_(value) if kind == "pred" else value.view(numpy_type(kind))
