"""One process of ``rnnfused bench``: ``python -m rnnfused.bench.worker JSON`` prints a line of JSON per way."""

import dataclasses
import json
import signal
import sys

import torch

from .shape import WAYS, Shape, ways
from .timing import in_turn, nothing

# bfloat16 has 8 bits; sums of another order differ by a few units in the last place, which the loop may enlarge.
TOLERANCES = {"float64": 1e-6, "float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}


def measure(shape: Shape, way: str, seconds: float) -> dict[str, float]:
    """Times both sides in this process.

    Returns:
        "ours" and "theirs", median seconds per call, and "peak", operations per second.

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
    found = in_turn(calls[0][way], calls[1][way], seconds, synchronize)
    return found._asdict()


def main() -> None:
    """Measures each way and prints its result, or the error that ended it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent reports the interrupt
    given = json.loads(sys.argv[1])
    torch.set_num_threads(given["threads"])
    shape = Shape(**given["shape"])
    for way in WAYS:
        try:
            result: dict[str, object] = dict(measure(shape, way, given["seconds"]))
        except (RuntimeError, ValueError, MemoryError, NotImplementedError) as error:
            result = {"error": str(error).partition("\n")[0], "kind": type(error).__name__}
        print(json.dumps(result), flush=True)
        if "error" in result:
            return


def arguments(shape: Shape, threads: int, seconds: float) -> list[str]:
    """Returns the command line of a process."""
    given = {"shape": dataclasses.asdict(shape), "threads": threads, "seconds": seconds}
    return [sys.executable, "-m", "rnnfused.bench.worker", json.dumps(given)]


if __name__ == "__main__":
    main()
