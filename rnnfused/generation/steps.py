"""Generation as a Python loop over any model, on any device: the oracle of the fused op."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..wording import quantity
from .choice import Choice, choose
from .philox import uniforms

# (ids (B, T), state) -> (logits (B, V) of the last step, state)
Step = Callable[[Tensor, Any], tuple[Tensor, Any]]

# Devices on which all operations of a choice exist, in float64.
_CHOOSING = ("cpu", "cuda")


class StepByStep:
    """Continues prefixes by calling a model for every symbol.

    Args:
        step: the model.
        ids: (B, T), int64, the prefixes.
        state: the model's state before them.
        streams: (B,), int64 on the CPU, the random numbers of each row.
        first_step: number of the first symbol in its stream.
        choice: how to choose.

    Attributes:
        state: the model's state after all symbols but the last.
        first_chunk: how many symbols surely take little time.
    """

    first_chunk = 1

    def __init__(
        self, step: Step, ids: Tensor, state: Any, streams: Tensor, first_step: int, choice: Choice
    ):
        self._step, self._ids, self.state = step, ids, state
        self._streams, self._next_step, self._choice = streams, first_step, choice

    def advance(self, num_symbols: int) -> Tensor:
        """The next symbols, (B, num_symbols); -1 from a symbol on whose logits allow no choice."""
        draws = uniforms(self._choice.seed, self._streams, self._next_step, num_symbols)
        if self._ids.device.type in _CHOOSING:
            draws = draws.to(self._ids.device)
        symbols = self._ids.new_empty((self._ids.size(0), num_symbols))
        has_ended = torch.zeros_like(self._ids[:, 0], dtype=torch.bool)
        for i in range(num_symbols):
            logits, self.state = _check_result(self._step(self._ids, self.state), len(self._ids))
            chosen = choose(logits.to(draws.device), draws[:, i], self._choice).to(symbols.device)
            has_ended |= chosen < 0
            symbols[:, i] = chosen.masked_fill(has_ended, -1)
            self._ids = chosen.clamp(min=0).unsqueeze(1)
        self._next_step += num_symbols
        return symbols


def _check_result(result: Any, batch_size: int) -> tuple[Tensor, Any]:
    """The logits and the state that a step returned."""
    if not (isinstance(result, (tuple, list)) and len(result) == 2):
        got = quantity(len(result), "value") if isinstance(result, (tuple, list)) else _name(result)
        raise TypeError(f"step must return a pair (logits, state), got {got}")
    logits, state = result
    if not isinstance(logits, Tensor):
        raise TypeError(f"step must return logits as a Tensor, got {_name(logits)}")
    if logits.dim() != 2 or logits.size(0) != batch_size or logits.size(1) == 0:
        raise ValueError(
            f"step must return logits ({batch_size}, V) of the last symbol, got {tuple(logits.shape)}"
        )
    return logits, state


def _name(value: object) -> str:
    return type(value).__name__
