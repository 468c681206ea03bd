"""Reads PTX text: the kernels of a module, their parameters, shared variables, registers and instructions."""

import re
from dataclasses import dataclass, field
from typing import NamedTuple


class Register(NamedTuple):
    name: str


class Immediate(NamedTuple):
    text: str


class Symbol(NamedTuple):
    name: str


class Address(NamedTuple):
    base: object  # Register, Symbol or Immediate
    offset: int


class Vector(NamedTuple):
    items: tuple


class Guard(NamedTuple):
    register: Register
    negated: bool


SINK = Symbol("_")


@dataclass
class Instruction:
    opcode: str  # with its modifiers, such as "ld.global.cg.v4.u32"
    operands: list
    guard: Guard | None
    line: int

    def __str__(self):
        return f"line {self.line}: {self.opcode}"


@dataclass
class Parameter:
    offset: int
    size: int


@dataclass
class Kernel:
    name: str
    parameters: dict = field(default_factory=dict)  # name: Parameter
    parameter_bytes: int = 0
    shared: dict = field(default_factory=dict)  # name: offset of a variable of fixed size
    shared_bytes: int = 0
    dynamic_shared: dict = field(default_factory=dict)  # name: alignment, from the module
    register_types: dict = field(default_factory=dict)  # name: "pred", "b32", ...
    instructions: list = field(default_factory=list)
    labels: dict = field(default_factory=dict)  # name: index of the next instruction


TYPE_BYTES = {"8": 1, "16": 2, "32": 4, "64": 8}
VARIABLE = re.compile(
    r"\.(param|shared)(?:\s+\.align\s+(\d+))?\s+\.[busf](\d+)\s+([\w$]+)\s*(?:\[(\d*)\])?"
)
ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*\(([^)]*)\)([^{]*)\{", re.DOTALL)
REGISTERS = re.compile(r"\.reg\s+\.(\w+)\s+([%\w$]+)(?:<(\d+)>)?")
LABEL = re.compile(r"([$\w]+):(?!:)")
ADDRESS = re.compile(r"\[\s*([^+\s]+?)\s*(?:\+\s*(-?\d+))?\s*\]")
STATEMENT = re.compile(r"(?:@(!?)([%\w]+)\s+)?([a-z][\w.:]*)\s*(.*)", re.DOTALL)


def aligned(offset, alignment):
    return -(-offset // alignment) * alignment


class Module:
    """The kernels of a PTX file. A kernel is read when it is asked for."""

    def __init__(self, text):
        self.text = re.sub(r"//[^\n]*", "", text)  # comments go, line numbers stay
        self.entries = {entry[1]: entry for entry in ENTRY.finditer(self.text)}
        self.dynamic_shared = {
            match[4]: int(match[2] or 1)
            for match in VARIABLE.finditer(self.text)
            if match[1] == "shared" and match[5] == ""
        }

    def kernel(self, name):
        """Parse the kernel of this mangled name."""
        entry = self.entries[name]
        kernel = Kernel(name, dynamic_shared=self.dynamic_shared)
        for match in VARIABLE.finditer(entry[2]):
            _, alignment, bits, name, count = match.groups()
            size = TYPE_BYTES[bits] * int(count or 1)
            offset = aligned(kernel.parameter_bytes, int(alignment or TYPE_BYTES[bits]))
            kernel.parameters[name] = Parameter(offset, size)
            kernel.parameter_bytes = offset + size
        Body(kernel, self.text, entry.end()).read()
        return kernel


class Body:
    """The statements of one kernel. Braces open scopes, whose registers get names of their own."""

    def __init__(self, kernel, text, start):
        self.kernel, self.text, self.position = kernel, text, start
        self.line = text.count("\n", 0, start) + 1
        self.scopes = [{}]  # a register's name in the text: its name in the kernel
        self.families = {}  # of registers such as %r<10>: prefix: type

    def read(self):
        while self.scopes:
            self._skip_space()
            if self.text[self.position] == "{":
                self.scopes.append({})
                self._advance(1)
            elif self.text[self.position] == "}":
                self.scopes.pop()
                self._advance(1)
            elif label := LABEL.match(self.text, self.position):
                self.kernel.labels[label[1]] = len(self.kernel.instructions)
                self._advance(len(label[0]))
            else:
                end = self.text.index(";", self.position)
                line = self.line
                statement = self.text[self.position : end].strip()
                self._advance(end + 1 - self.position)
                self._statement(statement, line)

    def _skip_space(self):
        match = re.compile(r"\s*").match(self.text, self.position)
        self._advance(len(match[0]))

    def _advance(self, count):
        self.line += self.text.count("\n", self.position, self.position + count)
        self.position += count

    def _statement(self, text, line):
        if text.startswith(".reg"):
            return self._declare_registers(text)
        if text.startswith(".shared"):
            return self._declare_shared(text)
        if text.startswith((".pragma", ".loc")):
            return None
        match = STATEMENT.fullmatch(text)
        if match is None:
            raise ValueError(f"line {line}: not a PTX statement: {text!r}")
        negated, predicate, opcode, rest = match.groups()
        guard = Guard(self._register(predicate), negated == "!") if predicate else None
        operands = [self._operand(part) for part in split_operands(rest)]
        self.kernel.instructions.append(Instruction(opcode, operands, guard, line))
        return None

    def _declare_registers(self, text):
        kind, name, count = REGISTERS.fullmatch(text).groups()
        if count is not None:
            self.families[name] = kind
            return
        unique = f"{name}@{len(self.kernel.instructions)}" if len(self.scopes) > 1 else name
        self.scopes[-1][name] = unique
        self.kernel.register_types[unique] = kind

    def _declare_shared(self, text):
        _, alignment, bits, name, count = VARIABLE.fullmatch(text).groups()
        offset = aligned(self.kernel.shared_bytes, int(alignment or TYPE_BYTES[bits]))
        self.kernel.shared[name] = offset
        self.kernel.shared_bytes = offset + TYPE_BYTES[bits] * int(count or 1)

    def _register(self, name):
        for scope in reversed(self.scopes):
            if name in scope:
                return Register(scope[name])
        family = self.families.get(name.rstrip("0123456789"))
        if family is None:
            return None
        self.kernel.register_types[name] = family
        return Register(name)

    def _operand(self, text):
        if text.startswith("["):
            base, offset = ADDRESS.fullmatch(text).groups()
            return Address(self._operand(base), int(offset or 0))
        if text.startswith("{"):
            return Vector(tuple(self._operand(part) for part in split_operands(text[1:-1])))
        if re.match(r"-?\d", text):
            return Immediate(text)
        if "|" in text:
            return Vector(tuple(self._operand(part) for part in text.split("|")))
        register = self._register(text)
        if register is None:
            return Register(text) if text.startswith("%") else Symbol(text)  # %tid.x and its like
        return register


def split_operands(text):
    """Split at the commas outside of braces."""
    parts, depth, start = [], 0, 0
    for i, character in enumerate(text):
        depth += (character in "{[") - (character in "}]")
        if character == "," and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    last = text[start:].strip()
    return [*parts, last] if last else parts
