"""Perplexity: the one figure by which models of a text are compared."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from .model import CharLM


def perplexity(total_nats: float, num_symbols: int) -> float:
    """``exp(total_nats / num_symbols)``; infinity where that overflows.

    Args:
        total_nats: sum over the scored symbols of ``-ln p(symbol)``.
        num_symbols: how many symbols were scored, at least 1.

    Raises:
        ValueError: ``num_symbols`` is below 1.
    """
    if num_symbols < 1:
        raise ValueError(f"num_symbols must be at least 1, got {num_symbols}")
    try:
        return math.exp(total_nats / num_symbols)
    except OverflowError:
        return math.inf


@torch.inference_mode()
def evaluate(model: CharLM, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Perplexity of ``model`` over every symbol of ``batches``, dropout off, state carried.

    Args:
        model: left in the train or eval mode it came in.
        batches: consecutive windows ``(x, y)`` of shape ``(B, T)`` and any integer dtype, as of
            ``StreamBatches``.

    Raises:
        ValueError: ``batches`` is empty.
    """
    was_training = model.training
    model.eval()
    try:
        state, total_nats, num_symbols = None, 0.0, 0
        for x, y in batches:
            logits, state = model(x, state)
            # The loss takes int64 only.
            targets = y.flatten().long()
            total_nats += F.cross_entropy(logits.flatten(0, 1), targets, reduction="sum").item()
            num_symbols += y.numel()
        return perplexity(total_nats, num_symbols)
    finally:
        model.train(was_training)
