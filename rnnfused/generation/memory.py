"""The memory of generated symbols."""

import torch
from torch import Tensor


def new_symbols(name: str, num_rows: int, num_symbols: int, device: torch.device) -> Tensor:
    """Symbols without values, (num_rows, num_symbols), int64.

    Args:
        name: the caller's argument that an error blames.

    Raises:
        MemoryError: they do not fit in memory.
    """
    try:
        return torch.empty((num_rows, num_symbols), dtype=torch.long, device=device)
    except RuntimeError:  # torch has no class of its own for a failed allocation
        raise MemoryError(
            f"{name} must be smaller: {num_rows} x {num_symbols} symbols of 8 bytes do not fit in "
            "memory"
        ) from None
