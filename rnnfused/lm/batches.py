"""Windows of a text for truncated backpropagation through time."""

from collections.abc import Iterator

import torch
from torch import Tensor

from rnnfused.arguments import is_integer


class StreamBatches:
    """Cuts ids into parallel streams and walks along them window by window.

    The ids are laid out as ``batch_size`` rows of equal length, each a contiguous stretch of the
    text. Window k + 1 goes on in every row exactly where window k ended, so the hidden state
    (detached) may be carried from one to the next. Every symbol of a row is read once and every
    one predicted once in a pass; the last window may be shorter than ``num_steps``. At most
    ``batch_size - 1`` symbols at the end of the text, which fill no whole column, are left out.

    Iterating yields ``(x, y)``: views of ``ids``, both of shape ``(batch_size, steps)`` with
    ``steps <= num_steps``; ``y`` holds the symbol that follows each one in ``x``. An object may be
    iterated any number of times; ``len`` is the number of windows.

    Args:
        ids: 1-D tensor of any integer dtype, on any device.
        batch_size: number of streams, at least 1.
        num_steps: length of a window in symbols, at least 1.

    Raises:
        TypeError: ``ids`` is not an integer tensor.
        ValueError: ``ids`` is not 1-D or too short for one full window
            (``batch_size * num_steps + 1`` symbols), or a size is below 1.
    """

    def __init__(self, ids: Tensor, batch_size: int, num_steps: int):
        if not is_integer(ids):
            got = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
            raise TypeError(f"ids must be a tensor of integers, got {got}")
        if ids.dim() != 1:
            raise ValueError(f"ids must be 1-D, got shape {tuple(ids.shape)}")
        for name, value in (("batch_size", batch_size), ("num_steps", num_steps)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        needed = batch_size * num_steps + 1
        if len(ids) < needed:
            raise ValueError(
                f"text is too short for one window: it has {len(ids)} symbols, but "
                f"batch_size={batch_size} streams of num_steps={num_steps} need {needed}; use a "
                f"longer text, a smaller batch_size or a smaller num_steps"
            )
        self.num_steps = num_steps
        self.stream_length = (len(ids) - 1) // batch_size
        used = batch_size * self.stream_length
        self._inputs = ids[:used].view(batch_size, self.stream_length)
        self._targets = ids[1 : used + 1].view(batch_size, self.stream_length)

    @property
    def num_symbols(self) -> int:
        """How many symbols one pass predicts."""
        return self._targets.numel()

    def __len__(self) -> int:
        return -(-self.stream_length // self.num_steps)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(
            torch.split(self._inputs, self.num_steps, dim=1),
            torch.split(self._targets, self.num_steps, dim=1),
        )
