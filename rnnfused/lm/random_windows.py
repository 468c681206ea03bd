"""Windows at random places of a text, for training without carried state."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from .data import check_windows
from .positions import check_position

Starts = Literal["offset", "uniform"]
# Draws of a seed are hashed with the epoch's number by this prime, so that epochs differ.
_EPOCH = 1_000_003
_MOST = 2**63 - 1


class RandomWindows:
    """Cuts ids into windows in random order; the state starts anew in each.

    The random sampling of Zhang, Lipton, Li and Smola, *Dive into Deep Learning*, section 9.3
    (https://d2l.ai/chapter_recurrent-neural-networks/language-model.html). Each iteration is one
    epoch, with new random numbers.

    - ``starts="offset"``: the text is cut, from a random offset below ``num_steps``, into adjacent
      windows, which come in random order. An epoch predicts each symbol at most once.
    - ``starts="uniform"``: each window starts anywhere, independently of the others.

    Iterating yields ``(x, y)``, both of shape ``(batch_size, num_steps)`` and the dtype of ``ids``;
    ``y`` holds the symbol after each symbol in ``x``. All epochs have the same number of batches,
    which is ``len``; up to ``batch_size`` windows that do not fill a batch are left out. The ids
    may be in a mapped file; an epoch needs 8 bytes of memory per window.

    The same ``seed`` gives the same epochs. To resume in the middle of one, save ``state_dict()``
    after a batch and call ``load_state_dict`` before the next ``iter``::

        batches.load_state_dict(state)
        for x, y in batches:  # the rest of that epoch
            ...
        for x, y in batches:  # the next epoch
            ...

    Args:
        ids: 1-D tensor of any integer dtype, on any device.
        batch_size: windows per batch, at least 1.
        num_steps: length of a window in symbols, at least 1.
        starts: ``"offset"`` or ``"uniform"``.
        seed: of the random places, 0 to 2 ** 63 - 1.

    Raises:
        TypeError: ``ids`` is not an integer tensor, or a number is not an int.
        ValueError: ``ids`` is not 1-D or too short for one batch, ``starts`` is unknown, or a
            number is out of range.
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
        check_windows(ids, batch_size, num_steps)
        if starts not in ("offset", "uniform"):
            raise ValueError(f"starts must be 'offset' or 'uniform', got {starts!r}")
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise TypeError(f"seed must be an int, got {seed!r}")
        if not 0 <= seed <= _MOST:
            raise ValueError(f"seed must lie in 0 .. 2 ** 63 - 1, got {seed}")
        self.batch_size, self.num_steps, self.starts, self.seed = (
            batch_size,
            num_steps,
            starts,
            seed,
        )
        self._ids = ids
        # The highest offset leaves the fewest windows. A text of one batch has one offset only.
        fewest = (len(ids) - num_steps) // num_steps
        self._offsets = num_steps if fewest >= batch_size else 1
        self._windows = fewest if fewest >= batch_size else (len(ids) - 1) // num_steps
        self._now = self._next = (0, 0)

    @property
    def num_symbols(self) -> int:
        """Number of symbols that one epoch predicts."""
        return len(self) * self.batch_size * self.num_steps

    def __len__(self) -> int:
        return self._windows // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch, position = self._now = self._next
        self._next = (epoch + 1, 0)
        starts = self._draw(epoch)
        steps = torch.arange(self.num_steps + 1)
        while position < len(self):
            rows = starts[position * self.batch_size : (position + 1) * self.batch_size]
            windows = self._ids[(rows.unsqueeze(1) + steps).to(self._ids.device)]
            position += 1
            self._now = (epoch, position)
            yield windows[:, :-1], windows[:, 1:]

    def _draw(self, epoch: int) -> Tensor:
        """The starts of the windows of an epoch, int64 on the CPU."""
        generator = torch.Generator().manual_seed((self.seed + epoch * _EPOCH) % 2**63)
        number = len(self) * self.batch_size
        if self.starts == "uniform":
            return torch.randint(len(self._ids) - self.num_steps, (number,), generator=generator)
        offset = int(torch.randint(self._offsets, (), generator=generator))
        order = torch.randperm(self._windows, generator=generator)[:number]
        return order.mul_(self.num_steps).add_(offset)

    def state_dict(self) -> dict[str, int]:
        """The place of the latest iteration: ``"epoch"``, and ``"position"``, its batches so far.

        Both are ints, for ``json.dump``. A batch counts once it was yielded.
        """
        epoch, position = self._now
        return {"epoch": epoch, "position": position}

    def load_state_dict(self, state: object) -> None:
        """Let the next iteration go on after the place that ``state_dict`` returned.

        Ids, sizes, ``starts`` and ``seed`` must be those of the saved batches. An epoch that was
        complete is followed by the next one.

        Raises:
            ValueError: ``state`` is not such a dict, or its position is beyond the epoch's end.
        """
        state = check_position(state, {"epoch": _MOST, "position": len(self)})
        self._now = self._next = (state["epoch"], state["position"])
        if state["position"] == len(self):
            self._next = (state["epoch"] + 1, 0)
