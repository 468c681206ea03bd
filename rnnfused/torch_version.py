"""Refuses a torch that is too old, before any module reaches for a part that it lacks."""

import re

import torch

OLDEST_TORCH = (2, 10)  # as build_tools/build_backend.py has it

if tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < OLDEST_TORCH:
    _oldest = ".".join(map(str, OLDEST_TORCH))
    raise ImportError(
        f"rnnfused needs torch {_oldest} or newer, and this is torch {torch.__version__}: "
        f"pip install 'torch>={_oldest}'"
    )
