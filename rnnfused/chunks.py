"""One long row as several shorter ones at once: ``chunks`` of :func:`rnnfused.functional.rnn`.

A loop over one row reads W_hh from the cache in every step, which takes longer than its multiply-adds. Several rows
share each read. So each chunk of the steps is a row, and starts some steps early, from zeros: a recurrence that forgets
its first state has then met the states of the whole sequence, but for rounding. A chunk that has not runs again.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from . import arguments
from .ops.modes import is_recorded, is_transformed

# The loop over (T, B, H) projections and a state (B, H) or None, to all states and the last one.
Loop = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]

# A call's states are copied: few enough to need little memory, so many that packing W_hh again costs nothing.
_STEPS_PER_CALL = 512


def check_chunks(
    chunks: object, warm_up: object, tolerance: object, *tensors: object
) -> tuple[int, int, float | None]:
    """The three as numbers, or None for the tolerance, for a call with these tensors.

    Raises:
        TypeError, ValueError: they are not numbers in their range.
        RuntimeError: a gradient, a transform or a compiler needs the call's graph, if there are several chunks.
    """
    chunks = arguments.check_int("chunks", chunks, 1)
    warm_up = arguments.check_int("warm_up", warm_up, 0)
    if tolerance is not None:
        if isinstance(tolerance, bool) or not isinstance(tolerance, int | float):
            raise TypeError(f"tolerance must be a number or None, got {tolerance!r}")
        if not tolerance >= 0:
            raise ValueError(f"tolerance must be at least 0, got {tolerance!r}")
        tolerance = float(tolerance)
    if chunks > 1:
        if is_recorded() or is_transformed():
            raise RuntimeError(
                "chunks must be 1 in a compiled, traced or transformed call: what runs again depends on values"
            )
        given = (tensor for tensor in tensors if isinstance(tensor, Tensor))
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given):
            raise RuntimeError(
                f"chunks must be 1 where a tensor needs a gradient, got {chunks}: "
                "call it under torch.no_grad(), or detach the tensors"
            )
    return chunks, warm_up, tolerance


def run_in_chunks(
    loop: Loop,
    projections: Tensor,
    h_0: Tensor | None,
    chunks: int,
    warm_up: int,
    tolerance: float | None,
) -> tuple[Tensor, Tensor]:
    """The loop over one row, (T, 1, H), as ``chunks`` rows at once.

    Returns:
        (T, 1, H) states and (1, H) the last one, as ``loop(projections, h_0)``. At the join of two chunks, states
        differ by ``tolerance`` at most; None: by the rounding of a sum of H terms.
    """
    num_steps, _, size = projections.shape
    if tolerance is None:
        tolerance = torch.finfo(projections.dtype).eps * math.sqrt(size)
    length = (num_steps - warm_up) // chunks
    if chunks == 1 or length < 1:
        return loop(projections, h_0)
    output = projections.new_empty(num_steps, 1, size)

    def of_chunks(sequence: Tensor, first: int, count: int) -> Tensor:
        """(count, chunks, H): a view of steps [first, first + count) of all chunks; each starts `length` steps later."""
        step = sequence.stride(0)
        return sequence[first:].as_strided(
            (count, chunks, size), (step, length * step, sequence.stride(2))
        )

    # Without h_0 no chunk has a first state: the first step is f(p) even if W_hh holds NaN.
    state = None if h_0 is None else torch.cat([h_0, h_0.new_zeros(chunks - 1, size)])
    for first, count in _calls(0, warm_up):
        states, state = loop(of_chunks(projections, first, count), state)
        output[first : first + count, 0] = states[:, 0]
    assumed = output.new_zeros(chunks, size) if state is None else state
    for first, count in _calls(warm_up, warm_up + length):
        states, state = loop(of_chunks(projections, first, count), state)
        of_chunks(output, first, count).copy_(states)

    for chunk in range(1, chunks):
        start = warm_up + chunk * length
        if _differ(output[start - 1], assumed[chunk], tolerance):
            _run_again(loop, projections, output, start, start + length, tolerance)
    end = warm_up + chunks * length
    if end < num_steps:
        output[end:], _ = loop(projections[end:], output[end - 1])
    return output, output[-1].clone()


def _run_again(
    loop: Loop, projections: Tensor, output: Tensor, first: int, last: int, tolerance: float
) -> None:
    """Corrects steps [first, last) from the state before them, until the new states meet those that they replace."""
    state = output[first - 1]
    for at, count in _calls(first, last):
        states, state = loop(projections[at : at + count], state)
        met = not _differ(state, output[at + count - 1], tolerance)
        output[at : at + count] = states
        if met:
            return


def _calls(first: int, last: int) -> Iterator[tuple[int, int]]:
    """The first step and the number of steps of each call for steps [first, last)."""
    for at in range(first, last, _STEPS_PER_CALL):
        yield at, min(_STEPS_PER_CALL, last - at)


def _differ(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Whether two states differ by more than the tolerance; NaN does."""
    return not bool(((a == b) | ((a - b).abs() <= tolerance)).all())
