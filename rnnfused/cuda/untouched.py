"""Keeps the caller's modes out of work that is not the caller's."""

from contextlib import contextmanager

import torch

from ..ops.modes import without_autocast


@contextmanager
def untouched():
    """A context without gradients, inference mode, autocast and modes of torch's functions.

    The caller's return at its end. They belong to the thread, so no other thread sees a change.
    """
    with torch._C.DisableTorchFunction(), torch.inference_mode(False), torch.no_grad():
        with without_autocast():
            yield
