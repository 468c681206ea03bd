"""Tensors of ids that live in a file, so that a text larger than the memory can be trained on."""

import mmap
import os
from typing import BinaryIO

import torch
from torch import Tensor

from .reading import temporary_file, temporary_folder

# Bytes written at once.
_PIECE = 2**20


def mapped_tensor(
    size: int, dtype: torch.dtype, folder: str | os.PathLike[str] | None = None
) -> Tensor:
    """A 1-D tensor of zeros whose memory is a file without a name in ``folder``.

    The system writes its pages to the disk and reads them back as needed. The file's space is free
    again when the last tensor that shares the memory is gone, or the process ends in any way. The
    space is reserved at the start, so that a full disk is an error here and not a later crash.

    Args:
        size: number of elements, at least 1.
        folder: on a file system with room for the ids; None for the system's temporary folder.

    Raises:
        OSError: no file can be created in ``folder``, or the disk is too full; names the folder.
    """
    num_bytes = size * dtype.itemsize
    with temporary_file(folder) as file:
        try:
            _reserve(file, num_bytes)
            # Keeps a descriptor of its own.
            memory = mmap.mmap(file.fileno(), num_bytes)
        except OSError as error:
            error.filename = temporary_folder(folder)
            raise
    # The tensor keeps the mapping alive.
    return torch.frombuffer(memory, dtype=dtype)


def _reserve(file: BinaryIO, num_bytes: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, num_bytes)
        return
    for start in range(0, num_bytes, _PIECE):
        file.write(bytes(min(_PIECE, num_bytes - start)))
