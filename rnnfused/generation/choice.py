"""How a symbol is chosen from logits: greedily, or drawn from all symbols, the likeliest k, or a nucleus."""

import math
import numbers
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..arguments import check_int


class Choice(NamedTuple):
    """How symbols are chosen; csrc/generation.h has the same fields. 0 and 1 leave out no symbol."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


def check_choice(temperature: Any, top_k: Any, top_p: Any, seed: Any) -> Choice:
    """The arguments of a caller as a :class:`Choice`. Without a seed, torch's global generator gives one.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: it is out of range.
    """
    for name, value in {"temperature": temperature, "top_p": top_p}.items():
        if name == "top_p" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(f"{name} must be a float, got {value!r}")
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be finite and at least 0, got {temperature}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must lie in (0, 1], got {top_p}")
    top_k = 0 if top_k is None else check_int("top_k", top_k, 1)
    if seed is None:
        seed = int(torch.randint(2**63 - 1, (), device="cpu")) if temperature > 0 else 0
    seed = check_int("seed", seed, 0)
    return Choice(float(temperature), top_k, 1.0 if top_p is None else float(top_p), seed)


def choose(logits: Tensor, uniforms: Tensor, choice: Choice) -> Tensor:
    """The symbol of each row. The op's arithmetic is the same, but for the last bit of an exponential.

    At temperature 0 it is the likeliest symbol, the lowest of equal ones. Else symbol i has the weight
    ``exp((z_i - max z) / temperature)``, unless it is left out: by top_k, which keeps the k likeliest, then by top_p,
    which keeps the fewest of the likeliest whose weights sum to the share p (Holtzman et al., "The Curious Case of
    Neural Text Degeneration", 2020). Of equal symbols the lower id counts as likelier. The choice is the first symbol
    whose cumulative weight, summed in float64 in the order of ids, exceeds u times the sum of all.

    Args:
        logits: (B, V), float32 or float64.
        uniforms: (B,), float64 in [0, 1).
        choice: the options.

    Returns:
        (B,), int64; -1 for a row with NaN or +inf, or with -inf alone.
    """
    greedy = logits.argmax(dim=1)  # unlike max(), the first of equal ones
    largest = logits.amax(dim=1)
    fails = logits.isnan().any(dim=1) | largest.isinf()
    if choice.temperature == 0:
        return greedy.masked_fill(fails, -1)
    # A smaller temperature would overflow to 0 / 0; at this one, all but equal logits have the weight 0.
    least = 1e-300 if logits.dtype == torch.float64 else 1e-30
    weights = ((logits - largest.unsqueeze(1)) * (1 / max(choice.temperature, least))).exp()
    weights = leave_out(weights.double(), choice)
    sums = weights.cumsum(dim=1)
    target = uniforms * sums[:, -1]
    symbols = torch.searchsorted(sums, target.unsqueeze(1), right=True).squeeze(1)
    return symbols.masked_fill(fails, -1)


def leave_out(weights: Tensor, choice: Choice) -> Tensor:
    """The weights (B, V), with zeros for the symbols that top_k and top_p leave out."""
    if choice.top_k == 0 and choice.top_p == 1:
        return weights
    likeliest, order = weights.sort(dim=1, descending=True, stable=True)
    if choice.top_k > 0:
        likeliest[:, choice.top_k :] = 0
    if choice.top_p < 1:
        sums = likeliest.cumsum(dim=1)
        reached = sums[:, :-1] >= choice.top_p * sums[:, -1:]
        likeliest[:, 1:].masked_fill_(reached, 0)
    return torch.zeros_like(weights).scatter_(1, order, likeliest)
