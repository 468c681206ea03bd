"""One long row as several shorter ones at once: ``chunks`` of :func:`rnnfused.functional.rnn`.

A loop over one row reads W_hh from the cache in every step, which takes longer than its multiply-adds. Several rows
share each read. So each chunk of the steps is a row, and starts some steps early, from zeros: a recurrence that forgets
its first state has then met the states of the whole sequence, but for rounding. Where two chunks meet, their states are
compared; the later chunk runs again if they differ. Nothing is compared after that: what a tolerated difference becomes
is up to the recurrence.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from . import arguments
from .ops.modes import hides_values, is_recorded, is_transformed

# The loop over (T, B, H) projections and a state (B, H) or None, to all states and the last one.
Loop = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]

# Steps of all chunks in a call, whose states are copied: few need little memory, many pack W_hh rarely.
_STEPS_PER_CALL = 3072
_LEAST_STEPS = 32  # of each chunk in a call, however many chunks there are


def check_chunks(
    chunks: object, warm_up: object, tolerance: object, *tensors: object
) -> tuple[int, int, float]:
    """The three as numbers, for a call with these tensors.

    Raises:
        TypeError, ValueError: they are not numbers in their range.
        RuntimeError: a gradient, a transform or a compiler needs the call's graph, if there are several chunks.
    """
    chunks = arguments.check_int("chunks", chunks, 1)
    warm_up = arguments.check_int("warm_up", warm_up, 0)
    number = arguments.as_float("tolerance must be a number", tolerance)
    if not number >= 0:
        raise ValueError(f"tolerance must be at least 0, and a float, got {tolerance!r}")
    if chunks > 1:
        given = [tensor for tensor in tensors if isinstance(tensor, Tensor)]
        no_values = any(tensor.is_meta or hides_values(tensor) for tensor in given)
        if is_recorded() or is_transformed() or no_values:
            raise RuntimeError(
                "chunks must be 1 in a compiled, traced or transformed call, and for tensors without values: "
                "what runs again depends on values"
            )
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given):
            raise RuntimeError(
                f"chunks must be 1 where a tensor needs a gradient, got {chunks}: "
                "call it under torch.no_grad(), or detach the tensors"
            )
    return chunks, warm_up, number


def run_in_chunks(
    loop: Loop,
    projections: Tensor,
    h_0: Tensor | None,
    chunks: int,
    warm_up: int,
    tolerance: float,
) -> tuple[Tensor, Tensor]:
    """The loop over one row, (T, 1, H), as ``chunks`` rows at once.

    Returns:
        (T, 1, H) states and (1, H) the last one: to the bit those of ``loop(projections, h_0)`` with ``tolerance`` 0.
        Otherwise the state before a chunk and the one that it assumed differ by ``tolerance`` at most.
    """
    num_steps, _, size = projections.shape
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
    for first, count in _calls(0, warm_up, chunks):
        states, state = loop(of_chunks(projections, first, count), state)
        output[first : first + count, 0] = states[:, 0]
    assumed = output.new_zeros(chunks, size) if state is None else state
    for first, count in _calls(warm_up, warm_up + length, chunks):
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
    for at, count in _calls(first, last, 1):
        states, state = loop(projections[at : at + count], state)
        met = not _differ(state, output[at + count - 1], tolerance)
        output[at : at + count] = states
        if met:
            return


def _calls(first: int, last: int, chunks: int) -> Iterator[tuple[int, int]]:
    """The first step and the number of steps of each call for steps [first, last) of so many chunks."""
    most = max(_LEAST_STEPS, _STEPS_PER_CALL // chunks)
    for at in range(first, last, most):
        yield at, min(most, last - at)


def _differ(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Whether two states differ by more than the tolerance; NaN does."""
    return not bool(((a == b) | ((a - b).abs() <= tolerance)).all())
