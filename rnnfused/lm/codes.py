"""Text as tensors of code points, a piece at a time, so that a large text needs little memory."""

import ctypes
from collections.abc import Iterator

import torch
from torch import Tensor

# Characters or ids that are converted at once.
PIECE = 2**18


def pieces(values: str | Tensor) -> Iterator[tuple[int, str | Tensor]]:
    """Slices of ``PIECE`` characters or ids, each with its start."""
    for start in range(0, len(values), PIECE):
        yield start, values[start : start + PIECE]


def to_codes(text: str) -> Tensor:
    """Code points of ``text``, int32 of shape ``(len(text),)``; lone surrogates have theirs."""
    # A bytearray, because torch warns of memory that cannot be written.
    data = bytearray(text.encode("utf-32-le", "surrogatepass"))
    return torch.frombuffer(data, dtype=torch.int32) if data else torch.empty(0, dtype=torch.int32)


def to_text(codes: Tensor) -> str:
    """The text of int32 code points of shape ``(N,)`` on the CPU; what ``to_codes`` took."""
    codes = codes.contiguous()
    # Not by way of NumPy, which sampling does without.
    data = ctypes.string_at(codes.data_ptr(), codes.nbytes) if len(codes) else b""
    return data.decode("utf-32-le", "surrogatepass")
