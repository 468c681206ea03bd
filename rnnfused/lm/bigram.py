"""A bigram model, the baseline that a recurrent one must beat on the same symbols."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from rnnfused.arguments import value_range

from .evaluate import perplexity
from .vocab import check_ids

ALPHAS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)

# Symbols counted at once, and cells of the largest full table of pairs.
_PIECE, _TABLE = 2**20, 2**22


class Bigram:
    """Add-alpha bigram counts: ``p(b | a) = (count(a b) + alpha) / (count(a .) + alpha V)``.

    Additive smoothing, as in Chen and Goodman, *An Empirical Study of Smoothing Techniques for
    Language Modeling*, Harvard technical report TR-10-98.

    Args:
        ids: 1-D tensor of any integer dtype, at least 2 training symbols.
        vocab_size: V, the number of symbols.
        alpha: count added to every pair, above 0.

    Raises:
        TypeError: ``ids`` is not an integer tensor.
        ValueError: ``ids`` is not 1-D or shorter than 2, an id is outside the vocabulary, or
            ``alpha`` is not above 0.
    """

    def __init__(self, ids: Tensor, vocab_size: int, alpha: float):
        check_ids(ids)
        if len(ids) < 2:
            raise ValueError(f"ids must have at least 2 symbols, got shape {tuple(ids.shape)}")
        _check_alpha(alpha)
        self.vocab_size = vocab_size
        self.alpha = alpha
        # Only pairs that occur: a full table has V * V cells, too many for large alphabets.
        self._pairs, self._pair_counts = _count_pairs(ids, vocab_size)
        self._first_counts = torch.zeros(vocab_size, dtype=torch.long, device=ids.device)
        self._first_counts.index_add_(0, self._pairs // vocab_size, self._pair_counts)

    def log_prob(self, first: Tensor, second: Tensor) -> Tensor:
        """``ln p(second | first)`` of each pair.

        Args:
            first: any shape and integer dtype, each in ``0 .. V - 1``.
            second: the symbol after each of ``first``, of the same shape.

        Returns:
            Nats, float64, of that shape.

        Raises:
            TypeError: an argument is not an integer tensor.
            ValueError: an argument is on another device than the counts.
            IndexError: an id is outside the vocabulary.
        """
        first, second = self._checked(first, "first"), self._checked(second, "second")
        keys = (first * self.vocab_size + second).contiguous()
        slot = torch.searchsorted(self._pairs, keys).clamp(max=len(self._pairs) - 1)
        count = torch.where(self._pairs[slot] == keys, self._pair_counts[slot], 0).double()
        total = self._first_counts[first].double()
        return torch.log((count + self.alpha) / (total + self.alpha * self.vocab_size))

    def _checked(self, ids: Tensor, name: str) -> Tensor:
        """``ids`` as int64. An id out of range would get the probability of another pair."""
        check_ids(ids, name, dim=None)
        if ids.device != self._pairs.device:
            raise ValueError(f"{name} must be on {self._pairs.device}, got {ids.device}")
        if outside := _outside(ids, self.vocab_size):
            raise IndexError(f"{name} must lie in 0 .. {self.vocab_size - 1}, got {outside}")
        return ids.long()

    def perplexity(self, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
        """Perplexity over every symbol of ``batches``: windows ``(x, y)`` of equal shape.

        Raises:
            ValueError: ``batches`` is empty.
            TypeError, ValueError, IndexError: as ``log_prob``.
        """
        total_nats, num_symbols = 0.0, 0
        for x, y in batches:
            total_nats -= self.log_prob(x, y).sum().item()
            num_symbols += y.numel()
        return perplexity(total_nats, num_symbols)


def fit_bigram(ids: Tensor, vocab_size: int, alphas: Sequence[float] = ALPHAS) -> Bigram:
    """The bigram model of ``ids`` with the best of ``alphas``.

    Each alpha is fitted on the first nine tenths of ``ids`` and scored on the rest, so validation
    text does not affect the choice. The best one is then fitted on all of ``ids``.

    Args:
        ids: 1-D tensor of any integer dtype, at least 2 training symbols.
        vocab_size: V, the number of symbols.
        alphas: counts to try, each above 0. Of fewer than 20 ids, the first one is taken.

    Returns:
        The model, on the device of ``ids``.

    Raises:
        TypeError, ValueError: as ``Bigram``, or ``alphas`` is empty.
    """
    check_ids(ids)
    if not alphas:
        raise ValueError("alphas must hold at least one value, got none")
    for alpha in alphas:
        _check_alpha(alpha)
    cut = len(ids) - len(ids) // 10
    if len(alphas) == 1 or not 2 <= cut < len(ids) - 1:
        return Bigram(ids, vocab_size, alphas[0])
    model = Bigram(ids[:cut], vocab_size, alphas[0])
    # Each distinct pair is scored once and weighted by its count.
    pairs, counts = _count_pairs(ids[cut:], vocab_size)
    first, second = pairs // vocab_size, pairs % vocab_size

    def nats(alpha: float) -> float:
        model.alpha = alpha
        return -(counts * model.log_prob(first, second)).sum().item()

    return Bigram(ids, vocab_size, min(alphas, key=nats))


def _check_alpha(alpha: float) -> None:
    if not alpha > 0:
        raise ValueError(f"alpha must be above 0, got {alpha}")


def _outside(ids: Tensor, vocab_size: int) -> str:
    """The range of ``ids`` if it exceeds the vocabulary, else an empty string."""
    if not ids.numel():
        return ""
    low, high = value_range(ids)
    return f"values from {low} to {high}" if low < 0 or high >= vocab_size else ""


def _count_pairs(ids: Tensor, vocab_size: int) -> tuple[Tensor, Tensor]:
    """Sorted keys ``first * vocab_size + second`` of the pairs in ``ids``, and their counts.

    Raises:
        ValueError: an id is outside the vocabulary.
    """
    cells = vocab_size**2
    table = torch.zeros(cells if cells <= _TABLE else 0, dtype=torch.long, device=ids.device)
    pairs = counts = torch.zeros(0, dtype=torch.long, device=ids.device)
    # In pieces: as int64 and sorted, a large text would take many times its size.
    for start in range(0, len(ids) - 1, _PIECE):
        piece = ids[start : start + _PIECE + 1]
        if outside := _outside(piece, vocab_size):
            raise ValueError(f"ids must lie in 0 .. {vocab_size - 1}, got {outside}")
        piece = piece.long()  # torch can neither compare nor count the wider unsigned dtypes
        keys = piece[:-1] * vocab_size + piece[1:]
        if len(table):
            table += torch.bincount(keys, minlength=cells)
        else:
            new, new_counts = torch.unique(keys, return_counts=True)
            pairs, places = torch.unique(torch.cat([pairs, new]), return_inverse=True)
            counts = torch.cat([counts, new_counts])
            counts = torch.zeros_like(pairs).index_add_(0, places, counts)
    if len(table):
        pairs = table.nonzero().squeeze(1)
        counts = table[pairs]
    return pairs, counts
