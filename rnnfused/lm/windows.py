"""The windows of text that a run trains on, by epoch and number: any of them can be the next one."""

import torch
from torch import Tensor

from .data import StreamBatches
from .settings import TrainSettings


class StreamWindows:
    """Contiguous windows of parallel streams, as of ``StreamBatches``; the state is carried.

    ``window(epoch, index)`` returns ``(x, y)`` of shape ``(batch_size, steps)``: ids, and the symbol
    after each. ``len`` is the number of windows of an epoch.
    """

    carries = True

    def __init__(self, ids: Tensor, settings: TrainSettings):
        self._batches = StreamBatches(ids, settings.batch_size, settings.num_steps)
        self.num_symbols = self._batches.num_symbols

    def __len__(self) -> int:
        return len(self._batches)

    def window(self, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """Window ``index`` of any epoch."""
        return self._batches.window(index)


class RandomWindows:
    """Windows that do not overlap, from a random offset and in random order; nothing is carried.

    Zhang, Lipton, Li and Smola, *Dive into Deep Learning*, section 9.3. Offset and order depend on
    the seed and the epoch alone. Interface as that of ``StreamWindows``.

    Raises:
        ValueError: the text is too short for one batch.
    """

    carries = False

    def __init__(self, ids: Tensor, settings: TrainSettings):
        self._ids, self._seed = ids, settings.seed
        self._batch_size, self._num_steps = settings.batch_size, settings.num_steps
        # As many as fit after the largest offset.
        self._number = (len(ids) - self._num_steps) // self._num_steps
        if self._number < self._batch_size:
            needed = (self._batch_size + 1) * self._num_steps
            raise ValueError(
                f"text is too short for one batch: it has {len(ids)} symbols, but "
                f"batch_size={self._batch_size} random windows of num_steps={self._num_steps} "
                f"need {needed}; use a longer text, a smaller batch_size or a smaller num_steps"
            )
        self.num_symbols = len(self) * self._batch_size * self._num_steps
        self._epoch = -1

    def __len__(self) -> int:
        return self._number // self._batch_size

    def window(self, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """Window ``index`` of ``epoch``."""
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed((self._seed + 1_000_003 * epoch) % 2**63)
            offset = int(torch.randint(self._num_steps, (), generator=generator))
            order = torch.randperm(self._number, generator=generator)
            self._starts, self._epoch = offset + order * self._num_steps, epoch
        starts = self._starts[index * self._batch_size : (index + 1) * self._batch_size]
        rows = torch.stack([self._ids[i : i + self._num_steps + 1] for i in starts.tolist()])
        return rows[:, :-1], rows[:, 1:]


Windows = StreamWindows | RandomWindows


def windows_of(ids: Tensor, settings: TrainSettings) -> Windows:
    """The windows of the training text.

    Args:
        ids: 1-D, of any integer dtype.

    Raises:
        ValueError: the text is too short for one window.
    """
    return (StreamWindows if settings.sampler == "streams" else RandomWindows)(ids, settings)
