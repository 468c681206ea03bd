"""The memory that a forward and a backward call take: what is kept between them, and the most that both need."""

import ctypes
import itertools
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from cases import Case, inputs
from peers import torch_ways

SIDES = ("ours", "nn.RNN")
CLEAR_REFS = Path("/proc/self/clear_refs")


def bytes_saved(module, x) -> tuple[int, int]:
    """Tensors that a forward call saves for the backward one, besides input and parameters, and their bytes.

    Views of one memory count as one tensor.
    """
    known = {t.untyped_storage().data_ptr() for t in itertools.chain([x], module.parameters())}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = module(x)  # kept, so that no two storages have one address
    del output
    return len(saved), sum(saved.values())


def status(name):
    """A size that Linux reports of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise LookupError(name)


def peak_extra_bytes(module, x, gradient) -> int | None:
    """By how much this process grows at its highest in a forward and a backward call; None where none says.

    Resident memory at its highest during the calls, less what was resident before, less the gradients of the
    parameters that the calls leave. So it counts the output, all that is saved or in passing, and the scratch of
    the op and of torch's libraries; not the input, the parameters and the output's gradient, which were there.
    To be called once, in a new process: memory that an earlier call of that size left behind would not count.
    """
    if sys.platform != "linux":
        return None
    step = torch_ways(module, x, gradient)["forward_backward"]
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(
            0
        )  # free memory that the process still holds would hide as much of the growth
    try:
        CLEAR_REFS.write_text("5")  # the highest starts anew
    except OSError:
        return None
    before = status("VmRSS")
    step()
    highest = status("VmHWM")
    return highest - before - sum(p.grad.nbytes for p in module.parameters())


def measure_here(case, side, threads):
    """Both figures of a side, in this process."""
    torch.set_num_threads(threads)
    # Loads code and starts threads, which would count as growth; small enough to leave little memory behind.
    warm_up = Case(2, 64, 64, 64, case.tokens)
    for each in (warm_up, case):
        ours, theirs, gradient = inputs(each)
        module, x = ours if side == "ours" else theirs
        extra = peak_extra_bytes(module, x, gradient)
    tensors, size = bytes_saved(module, x)
    return {"saved_tensors": tensors, "saved_bytes": size, "peak_extra_bytes": extra}


def measure(case, side, threads):
    """Both figures of a side, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(measure_here, case, side, threads).result()
