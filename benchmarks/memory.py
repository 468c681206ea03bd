"""Memory of a forward and a backward call: the tensors saved between them, and the peak of both."""

import ctypes
import itertools
import multiprocessing
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from cases import Case, inputs

from rnnfused.bench.shape import ways

SIDES = ("ours", "nn.RNN")
CLEAR_REFS = Path("/proc/self/clear_refs")
PROCESSES = 3
# torch imports it in the first backward call, which takes longer than a measurement.
BACKWARD_IMPORTS = "torch.fx.experimental.symbolic_shapes"


def bytes_saved(module, x) -> tuple[int, int]:
    """Returns the number and bytes of tensors saved for backward, besides input and parameters.

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
        output = module(x)  # stays alive, so that no two storages share an address
    del output
    return len(saved), sum(saved.values())


def status(name):
    """Returns a size that Linux reports for this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise LookupError(name)


def peak_extra_bytes(module, x, gradient) -> int | None:
    """Returns the peak growth of this process in a forward and a backward call; None where Linux cannot tell.

    The growth is the peak of resident memory during the calls, minus resident memory before them, minus the gradients
    of the parameters. It includes the output, saved and temporary tensors, and the workspace of the op and of torch's
    libraries. It excludes the input, the parameters and the output's gradient, which exist before.
    Call it once, in a new process: memory left by an earlier call of that size would hide the growth.
    """
    if sys.platform != "linux":
        return None
    step = ways(module, x, gradient)["forward_backward"]
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)  # free memory that the process still holds would hide the growth
    try:
        CLEAR_REFS.write_text("5")  # resets VmHWM
    except OSError:
        return None
    before = status("VmRSS")
    step()
    peak = status("VmHWM")
    return peak - before - sum(p.grad.nbytes for p in module.parameters())


def saved(case, side):
    """The tensors that a side saves for backward."""
    ours, theirs, _ = inputs(case)
    tensors, size = bytes_saved(*(ours if side == "ours" else theirs))
    return {"saved_tensors": tensors, "saved_bytes": size}


def peak_here(case, side, threads):
    """Returns the peak of a side in this process, in bytes; None where the system does not tell."""
    torch.set_num_threads(threads)
    # The warm-up loads code and starts threads, which would count as growth. It is small, to leave little memory.
    warm_up = Case(2, 64, 64, 64, case.tokens)
    for each in (warm_up, case):
        # Both sides stay alive: once a large block was freed, glibc keeps others longer, and the peak of nn.RNN varies.
        ours, theirs, gradient = inputs(each)
        extra = peak_extra_bytes(*(ours if side == "ours" else theirs), gradient)
    return extra


def peak(case, side, threads):
    """The median peak of a side in ``PROCESSES`` new processes: rarely one holds many times as much in torch's tensors.

    Each is forked from a process that has imported torch.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rnnfused.bench.shape", BACKWARD_IMPORTS])
    peaks = []
    for _ in range(PROCESSES):
        with ProcessPoolExecutor(1, mp_context=context) as process:
            peaks.append(process.submit(peak_here, case, side, threads).result())
    return None if None in peaks else statistics.median(peaks)
