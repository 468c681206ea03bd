"""The windows of text that a run trains on, by epoch and number: any of them can be the next one."""

from torch import Tensor

from .data import StreamBatches
from .random_windows import RandomWindows
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


class ShuffledWindows(RandomWindows):
    """Windows at random places in random order; nothing is carried. See ``RandomWindows``."""

    carries = False

    def __init__(self, ids: Tensor, settings: TrainSettings):
        super().__init__(
            ids,
            settings.batch_size,
            settings.num_steps,
            starts="uniform" if settings.sampler == "uniform" else "offset",
            seed=settings.seed,
        )


Windows = StreamWindows | ShuffledWindows


def windows_of(ids: Tensor, settings: TrainSettings) -> Windows:
    """The windows of the training text.

    Args:
        ids: 1-D, of any integer dtype.

    Raises:
        ValueError: the text is too short for one window.
    """
    return (StreamWindows if settings.sampler == "streams" else ShuffledWindows)(ids, settings)
