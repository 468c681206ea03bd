"""Windows at random places of a text, for training without carried state."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from rnnfused.wording import quantity

from .data import check_sizes

Starts = Literal["offset", "uniform"]
# Times the epoch's number, added to the seed: close seeds share no epoch.
_EPOCH = 1_000_003


class RandomWindows:
    """Cuts ids into windows in random order; the state starts anew in each.

    The random sampling of Zhang, Lipton, Li and Smola, *Dive into Deep Learning*, section 9.3
    (https://d2l.ai/chapter_recurrent-neural-networks/language-model.html):

    - ``starts="offset"``: the text is cut, from a random offset below ``num_steps``, into adjacent
      windows, which come in random order. An epoch predicts each symbol at most once.
    - ``starts="uniform"``: each window starts anywhere, independently of the others.

    A batch is ``(x, y)``, both of shape ``(batch_size, num_steps)`` and the dtype of ``ids``; ``y``
    holds the symbol after each symbol in ``x``. ``len`` is the number of batches of an epoch. Up to
    ``batch_size`` windows that do not fill a batch are left out, other ones in each epoch.

    Seed, epoch and number determine a batch, so a run can be resumed at any::

        for x, y in windows.epoch(3, start=120):  # the rest of an epoch
            ...

    The ids may be in a mapped file. An epoch needs 8 bytes of memory per window.

    Args:
        ids: 1-D tensor of any integer dtype, on any device.
        batch_size: windows per batch, at least 1.
        num_steps: length of a window in symbols, at least 1.
        starts: ``"offset"`` or ``"uniform"``.
        seed: of the random places, 0 to 2 ** 63 - 1.

    Raises:
        TypeError: ``ids`` is not an integer tensor, or ``seed`` is not an int.
        ValueError: ``ids`` is not 1-D, or too short for one batch after any offset
            (``(batch_size + 1) * num_steps`` symbols); ``starts`` is unknown, or a number is out of
            range.
    """

    def __init__(
        self,
        ids: Tensor,
        batch_size: int,
        num_steps: int,
        *,
        starts: Starts = "offset",
        seed: int = 0,
    ):
        check_sizes(ids, batch_size, num_steps)
        if starts not in ("offset", "uniform"):
            raise ValueError(f"starts must be 'offset' or 'uniform', got {starts!r}")
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise TypeError(f"seed must be an int, got {seed!r}")
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed must lie in 0 .. 2 ** 63 - 1, got {seed}")
        # As many as fit after the largest offset.
        self._number = (len(ids) - num_steps) // num_steps
        if self._number < batch_size:
            raise ValueError(
                f"text is too short for one batch: it has {quantity(len(ids), 'symbol')}, but "
                f"batch_size={batch_size} random windows of num_steps={num_steps} need "
                f"{(batch_size + 1) * num_steps}; use a longer text, a smaller batch_size or a "
                "smaller num_steps"
            )
        self.batch_size, self.num_steps, self.starts, self.seed = (
            batch_size,
            num_steps,
            starts,
            seed,
        )
        self._ids = ids
        self._epoch, self._starts = -1, torch.empty(0, dtype=torch.long)

    @property
    def num_symbols(self) -> int:
        """Number of symbols that one epoch predicts."""
        return len(self) * self.batch_size * self.num_steps

    def __len__(self) -> int:
        return self._number // self.batch_size

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of the epoch ``number``, from the one numbered ``start``; both from 0.

        Raises:
            IndexError: ``number`` or ``start`` is below 0, or there are fewer batches.
        """
        # Before the first batch is asked for.
        self._check(number, start, len(self))
        return (self.window(number, index) for index in range(start, len(self)))

    def window(self, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """The batch ``(x, y)`` of that number, counted from 0, in ``epoch``.

        Batches of one epoch after another are fast; each change of epoch draws its places anew.

        Raises:
            IndexError: a number is below 0, or the epoch has fewer batches.
        """
        self._check(epoch, index, len(self) - 1)
        if epoch != self._epoch:
            self._starts, self._epoch = self._draw(epoch), epoch
        starts = self._starts[index * self.batch_size : (index + 1) * self.batch_size]
        places = starts.unsqueeze(1) + torch.arange(self.num_steps + 1)
        rows = self._ids[places.to(self._ids.device)]
        return rows[:, :-1], rows[:, 1:]

    def _check(self, epoch: int, index: int, most: int) -> None:
        if epoch < 0:
            raise IndexError(f"epoch must be at least 0, got {epoch}")
        if not 0 <= index <= most:
            raise IndexError(f"index must lie in 0 .. {most}, got {index}")

    def _draw(self, epoch: int) -> Tensor:
        """The starts of the windows of an epoch, int64 on the CPU."""
        generator = torch.Generator().manual_seed((self.seed + epoch * _EPOCH) % 2**63)
        if self.starts == "uniform":
            most = len(self._ids) - self.num_steps
            return torch.randint(most, (self._number,), generator=generator)
        offset = torch.randint(self.num_steps, (), generator=generator)
        order = torch.randperm(self._number, generator=generator)
        return order.mul_(self.num_steps).add_(offset)
