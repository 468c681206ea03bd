"""Progress bars on stderr, where that is a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(
    description: str, total: int, unit: str, progress: bool | None
) -> Iterator[Callable[[int], object]]:
    """Yield a function that advances a bar by a number of units; the bar vanishes at the end.

    Work of less than half a second shows none.

    Args:
        progress: whether to show the bar; None: where stderr is a terminal.
    """
    from tqdm import tqdm

    # A closed stderr is None.
    hidden = sys.stderr is None or (None if progress is None else not progress)
    with tqdm(
        total=total,
        desc=description,
        unit=unit,
        unit_scale=True,
        leave=False,
        delay=0.5,
        disable=hidden,
    ) as bar:
        yield bar.update
