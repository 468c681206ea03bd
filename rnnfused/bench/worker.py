"""One process of ``rnnfused bench``, which prints a line of JSON per way. It ends when its stdin closes."""

import dataclasses
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator

import torch

from .shape import WAYS, Shape, ways
from .timing import in_turn, nothing

# bfloat16 has 8 bits; sums of another order differ by a few units in the last place, which the loop may enlarge.
TOLERANCES = {"float64": 1e-6, "float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}


def measure(shape: Shape, seconds: float) -> Iterator[dict[str, float]]:
    """Times both sides in this process.

    Yields:
        For each way "ours" and "theirs", median seconds per call, and "peak", operations per second.

    Raises:
        ValueError: the two sides give different states.
    """
    ours, theirs, gradient = shape.inputs()
    calls = [ways(side.module, side.input, gradient) for side in (ours, theirs)]
    states, expected = (call["forward"]() for call in calls)
    tolerance = TOLERANCES[shape.dtype]
    try:
        torch.testing.assert_close(states, expected, rtol=tolerance, atol=tolerance)
    except AssertionError as error:
        sentence = " ".join(str(error).split())
        raise ValueError(f"rnnfused and torch.nn.RNN give different states: {sentence}") from None
    del states, expected
    device = torch.device(shape.device)
    synchronize = nothing if device.type == "cpu" else getattr(torch, device.type).synchronize
    for way in WAYS:
        yield in_turn(calls[0][way], calls[1][way], seconds, synchronize)._asdict()


def main() -> None:
    """Measures each way and prints its result, or the error that ended it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent reports the interrupt
    threading.Thread(target=_end_with_parent, daemon=True).start()
    given = json.loads(sys.argv[1])
    torch.set_num_threads(given["threads"])
    try:
        for result in measure(Shape(**given["shape"]), given["seconds"]):
            print(json.dumps(result), flush=True)
    except (RuntimeError, ValueError, MemoryError, NotImplementedError) as error:
        text = str(error).partition("\n")[0]
        print(json.dumps({"error": text, "kind": type(error).__name__}), flush=True)


def _end_with_parent() -> None:
    """Ends this process when stdin does: however the parent ended, it wants no more figures."""
    sys.stdin.buffer.read()
    os._exit(1)


# The child finds the modules that its parent does; ``-m`` and ``-c`` alone would look in the current folder first.
_START = "import sys; sys.path[:] = sys.argv[2:]; from rnnfused.bench.worker import main; main()"


def arguments(shape: Shape, threads: int, seconds: float) -> list[str]:
    """Returns the command line of a process."""
    given = {"shape": dataclasses.asdict(shape), "threads": threads, "seconds": seconds}
    return [sys.executable, "-c", _START, json.dumps(given), *sys.path]
