"""The yardstick: a model that knows only which symbol came last."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from rnnfused.arguments import check_ids, is_integer

from .perplexity import perplexity

ALPHAS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)

# Symbols that are counted at once, and cells of the largest full table of pairs.
_PIECE, _TABLE = 2**22, 2**22


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
        if not is_integer(ids):
            got = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
            raise TypeError(f"ids must be a tensor of integers, got {got}")
        if ids.dim() != 1 or len(ids) < 2:
            raise ValueError(
                f"ids must be 1-D with at least 2 symbols, got shape {tuple(ids.shape)}"
            )
        _check_alpha(alpha)
        self.vocab_size = vocab_size
        self.alpha = alpha
        # Seen pairs only: a full table would need V * V cells, too many for large alphabets.
        self._pairs, self._pair_counts = _count_pairs(ids, vocab_size)
        self._first_counts = torch.zeros(vocab_size, dtype=torch.long, device=ids.device)
        self._first_counts.index_add_(0, self._pairs // vocab_size, self._pair_counts)

    def _pair_keys(self, first: Tensor, second: Tensor) -> Tensor:
        return first * self.vocab_size + second

    def log_prob(self, first: Tensor, second: Tensor) -> Tensor:
        """``ln p(second | first)`` in nats, float64, of the shape of the two integer tensors.

        Raises:
            TypeError: one of the two is not an integer tensor.
            ValueError: one is on another device than the counts.
            IndexError: an id is outside the vocabulary.
        """
        # Unchecked, an id out of range would get the probability of another pair.
        first = check_ids(first, self.vocab_size, self._pairs.device, "first")
        second = check_ids(second, self.vocab_size, self._pairs.device, "second")
        keys = self._pair_keys(first, second).contiguous()
        slot = torch.searchsorted(self._pairs, keys).clamp(max=len(self._pairs) - 1)
        count = torch.where(self._pairs[slot] == keys, self._pair_counts[slot], 0).double()
        total = self._first_counts[first].double()
        return torch.log((count + self.alpha) / (total + self.alpha * self.vocab_size))

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

    Each alpha is fitted on the first nine tenths of ``ids`` and scored on the rest, so the
    validation text has no say in it; the winner is then fitted on all of ``ids``.

    Raises:
        TypeError, ValueError: as ``Bigram``, or ``alphas`` is empty.
    """
    if not alphas:
        raise ValueError("alphas must hold at least one value, got none")
    for alpha in alphas:
        _check_alpha(alpha)
    cut = len(ids) - len(ids) // 10
    if len(alphas) == 1 or not 2 <= cut < len(ids) - 1:
        return Bigram(ids, vocab_size, alphas[0])
    model = Bigram(ids[:cut], vocab_size, alphas[0])
    # Each different pair is scored once, and counts as often as it occurs.
    pairs, counts = _count_pairs(ids[cut:], vocab_size)
    first, second = pairs // vocab_size, pairs % vocab_size

    def nats(alpha: float) -> float:
        model.alpha = alpha
        return -(counts * model.log_prob(first, second)).sum().item()

    return Bigram(ids, vocab_size, min(alphas, key=nats))


def _check_alpha(alpha: float) -> None:
    if not alpha > 0:
        raise ValueError(f"alpha must be above 0, got {alpha}")


def _count_pairs(ids: Tensor, vocab_size: int) -> tuple[Tensor, Tensor]:
    """Keys ``first * vocab_size + second`` of the pairs in ``ids``, sorted, and how many of each.

    Raises:
        ValueError: an id is outside the vocabulary.
    """
    cells = vocab_size**2
    table = torch.zeros(cells if cells <= _TABLE else 0, dtype=torch.long, device=ids.device)
    pairs = counts = torch.zeros(0, dtype=torch.long, device=ids.device)
    # A piece at a time: as int64, and sorted, a large text would take many times its size.
    for start in range(0, len(ids) - 1, _PIECE):
        # torch can neither compare nor count the wider unsigned dtypes.
        piece = ids[start : start + _PIECE + 1].long()
        if int(piece.min()) < 0 or int(piece.max()) >= vocab_size:
            raise ValueError(f"ids must lie in 0 .. {vocab_size - 1}, vocab_size={vocab_size}")
        keys = piece[:-1] * vocab_size + piece[1:]
        if len(table):
            table += torch.bincount(keys, minlength=cells)
        else:
            new, of_new = torch.unique(keys, return_counts=True)
            pairs, places = torch.unique(torch.cat([pairs, new]), return_inverse=True)
            counts = torch.zeros_like(pairs).index_add_(0, places, torch.cat([counts, of_new]))
    if len(table):
        pairs = table.nonzero().squeeze(1)
        counts = table[pairs]
    return pairs, counts
