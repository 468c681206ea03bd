"""Whole numbers that come from outside, checked before torch sees them."""

from .messages import shown

# Beyond 32 bits torch fails with overflows of its own instead of with "out of memory".
MAX_COUNT = 2**31 - 1
# Layers are built one by one, so a mistyped number would fill the memory piece by piece.
MAX_LAYERS = 1000


def check_count(name: str, value: object) -> None:
    """Refuse ``value`` unless it is an int of at least 1 and at most the bound of ``name``.

    The bound is ``MAX_LAYERS`` for ``"num_layers"`` and ``MAX_COUNT`` for any other name.

    Raises:
        TypeError: ``value`` is not an int.
        ValueError: it is out of its range.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {shown(value)}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {shown(value)}")
    most = MAX_LAYERS if name == "num_layers" else MAX_COUNT
    if value > most:
        raise ValueError(f"{name} must be at most {most}, got {shown(value)}")
