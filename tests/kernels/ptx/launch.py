"""Calls the kernels on the interpreter, with the plans and arguments of csrc/cuda's own launch code."""

import ctypes
import functools

import numpy as np

from . import nvcc_output
from .errors import Alarm
from .machine import Machine
from .memory import Global

EXCHANGES = {"none": 0, "cluster": 1, "grid": 2}
SENDS = {"words": 0, "wide": 1}
DTYPES = {"float32": 0, "float64": 1, "bfloat16": 2, "float16": 3}
SHARED_LIMIT = 226 * 1024
MOST_RANKS = 128  # of a team
TIME_LIMIT = 2 * 10**9  # nanoseconds
LAUNCH = 7  # any number but 0


class Request(ctypes.Structure):
    _fields_ = [
        ("dtype", ctypes.c_int32),
        ("depth", ctypes.c_int32),
        ("blocks", ctypes.c_int32),
        ("exchange", ctypes.c_int32),
        ("send", ctypes.c_int32),
        ("unused", ctypes.c_int32),
        ("hidden_size", ctypes.c_int64),
        ("batch_size", ctypes.c_int64),
        ("teams", ctypes.c_int64),
        ("shared_limit", ctypes.c_int64),
    ]


class Launch(ctypes.Structure):
    _fields_ = [
        ("blocks", ctypes.c_int32),
        ("block_threads", ctypes.c_int32),
        ("cluster_size", ctypes.c_int32),
        ("cooperative", ctypes.c_int32),
        ("shared_bytes", ctypes.c_int64),
        ("workspace_bytes", ctypes.c_int64),
        ("batch_tile", ctypes.c_int32),
        ("plan_bytes", ctypes.c_int32),
        ("plan", ctypes.c_char * 256),  # more than a Plan has
    ]


class View(ctypes.Structure):
    """A SequenceOf or a ConstMatrix of params.h: a pointer and two strides."""

    _fields_ = [("data", ctypes.c_void_p), ("first", ctypes.c_int64), ("second", ctypes.c_int64)]


class State(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("batch_stride", ctypes.c_int64)]


class Call(ctypes.Structure):
    _fields_ = [
        ("dtype", ctypes.c_int32),
        ("nonlinearity", ctypes.c_int32),
        ("num_steps", ctypes.c_int64),
        ("batch_size", ctypes.c_int64),
        ("hidden_size", ctypes.c_int64),
        ("reverse", ctypes.c_int64),
        ("batch_sizes", ctypes.c_void_p),
        ("step_starts", ctypes.c_void_p),
        ("weight_hh", View),
        ("input", View),
        ("output", View),
        ("initial", State),
        ("result", View),
        ("last", State),
    ]


@functools.cache
def library():
    library = ctypes.CDLL(str(nvcc_output.launch_library()))
    library.make_launch.restype = ctypes.c_bool
    library.write_watchdog.argtypes = (
        ctypes.c_uint64,
        ctypes.c_uint64,
        ctypes.c_uint64,
        ctypes.c_char_p,
    )
    return library


def is_alarmed(machine):
    """Whether a kernel has raised its alarm."""
    start = machine.global_.starts["alarm"]
    return machine.global_.typed[8][start // 8] != 0


def make_launch(dtype, depth, exchange, blocks, hidden, batch, teams=1, send="words"):
    """The launch of a plan for teams of this many blocks; None if the plan does not fit."""
    request = Request(
        DTYPES[dtype],
        depth,
        blocks,
        EXCHANGES[exchange],
        SENDS[send],
        0,
        hidden,
        batch,
        teams,
        SHARED_LIMIT,
    )
    launch = Launch()
    fits = library().make_launch(ctypes.byref(request), ctypes.byref(launch))
    return launch if fits else None


class Kernels:
    """The interface of Case.run, in one plan; the kernels of one dtype and architecture.

    `program(direction)` returns the translated kernel of this plan's depth and exchange.
    """

    def __init__(self, program, dtype, plan, seed):
        self.program, self.dtype, self.plan, self.seed = program, dtype, plan, seed
        self.left_out = set()
        self.sleeper = None

    def leave_out(self, name):
        """Pass null for grad_output, grad_h_n or grad_h_0."""
        self.left_out.add(name)

    def forward(self, projections, weight, h_0, output, h_n, batch_sizes, relu, reverse, _):
        inputs = {"input": projections, "initial": h_0}
        self._run(
            "Forward", inputs, weight, {"result": output, "last": h_n}, batch_sizes, relu, reverse
        )

    def backward(
        self,
        grad_output,
        grad_h_n,
        output,
        weight,
        grad_projections,
        grad_h_0,
        batch_sizes,
        relu,
        reverse,
        _,
    ):
        grad_output = None if "grad_output" in self.left_out else grad_output
        grad_h_n = None if "grad_h_n" in self.left_out else grad_h_n
        grad_h_0 = None if "grad_h_0" in self.left_out else grad_h_0
        inputs = {"input": grad_output, "initial": grad_h_n, "output": output}
        results = {"result": grad_projections, "last": grad_h_0}
        self._run("Backward", inputs, weight, results, batch_sizes, relu, reverse)

    def _run(self, direction, inputs, weight, results, batch_sizes, relu, reverse):
        sequence = results["result"]
        packed = len(batch_sizes) > 0
        steps = len(batch_sizes) if packed else sequence.shape[0]
        batch = batch_sizes[0] if packed else sequence.shape[1]
        launch = self.plan(sequence.shape[-1], batch)
        given = {**inputs, "weight_hh": weight}
        if packed:
            given["batch_sizes"] = np.array(batch_sizes, np.int64)
            given["step_starts"] = np.cumsum([0, *batch_sizes[:-1]], dtype=np.int64)
        arrays = {name: (array, False) for name, array in given.items() if array is not None}
        for name, array in results.items():
            if array is not None:
                array.view(np.uint8)[...] = 0xFF  # NaN
                arrays[name] = array, True
        if launch.workspace_bytes:
            assert launch.cooperative, "blocks that wait for each other must all run"
            arrays["workspace"] = np.zeros(launch.workspace_bytes, np.uint8), True
        arrays["alarm"] = np.zeros(library().alarm_bytes(), np.uint8), True
        addresses = Global.addresses(arrays)
        call = Call(DTYPES[self.dtype], int(relu), steps, batch, sequence.shape[-1], int(reverse))
        for name, (array, _) in arrays.items():
            if name not in ("workspace", "alarm"):
                setattr(call, name, self._view(name, array, addresses[name]))
        step = ctypes.create_string_buffer(1024)
        size = library().write_step(ctypes.byref(call), direction == "Forward", step)
        parts = [
            step.raw[:size],
            bytes(launch)[Launch.plan.offset :][: launch.plan_bytes],
            addresses.get("workspace", 0).to_bytes(8, "little"),
        ]
        watchdog = ctypes.create_string_buffer(64)
        size = library().write_watchdog(addresses["alarm"], TIME_LIMIT, LAUNCH, watchdog)
        parts.append(watchdog.raw[:size])
        program = self.program(direction)
        machine = Machine(program, launch, arrays, self._arguments(program, parts), self.seed)
        machine.sleeper, machine.is_stopped = self.sleeper, is_alarmed
        machine.run()
        self._check_alarm(machine)
        machine.mbarriers.check_end()
        for name, array in results.items():
            if array is not None:
                array[...] = machine.global_.contents(name, array)

    @staticmethod
    def _check_alarm(machine):
        """Raise Alarm with csrc/cuda's own text, if the kernel raised one."""
        if not is_alarmed(machine):
            return
        alarm = machine.global_.contents("alarm", np.zeros(library().alarm_bytes(), np.uint8))
        text, waits = ctypes.create_string_buffer(4096), (ctypes.c_int64 * (3 * MOST_RANKS))()
        library().read_alarm(alarm.tobytes(), text, len(text), waits)
        places = np.array(waits).reshape(MOST_RANKS, 3)
        known = {rank: tuple(map(int, x)) for rank, x in enumerate(places) if x[1] >= 0}
        raise Alarm(text.value.decode(), known)

    @staticmethod
    def _view(name, array, address):
        if array.ndim == 1:
            return address
        strides = [stride // array.itemsize for stride in array.strides]
        if name in ("initial", "last"):
            return State(address, strides[0])
        # The rows of a packed batch, (N, H), are as far apart in time as in a batch.
        is_packed = array.ndim == 2 and name != "weight_hh"
        return View(address, strides[0], strides[0 if is_packed else 1])

    @staticmethod
    def _arguments(program, parts):
        """The parameters of a launch, each where the kernel has it."""
        kernel = program.kernel
        arguments = bytearray(kernel.parameter_bytes)
        for part, parameter in zip(parts, kernel.parameters.values(), strict=True):
            assert len(part) == parameter.size, "launch.cu has other arguments than the kernel"
            arguments[parameter.offset : parameter.offset + parameter.size] = part
        return bytes(arguments)
