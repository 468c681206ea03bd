"""The layer ``TokenRNN``: an ``RNN`` fed with token ids."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from .ops.tokens import is_integer
from .rnn import RNN


class TokenRNN(RNN):
    """An :class:`RNN` whose input is token ids: equal to ``RNN(vocab_size, ..)`` on one-hot rows.

    A one-hot row times ``W_ih`` is a column of ``W_ih``: the op looks it up, and no (T, B, V) tensor exists.
    Parameters, state dict and results are those of :class:`RNN` with ``input_size=vocab_size``.
    ``forward`` takes ids (T, B), (B, T) with ``batch_first``, (T,) unbatched, or a PackedSequence
    of ids, of any integer dtype; its other arguments and its results are those of :meth:`RNN.forward`.

    Args:
        vocab_size: V, the number of tokens.
        hidden_size: H.
        **kwargs: as for :class:`RNN`.

    Raises:
        TypeError: (forward) the ids are not integers.
        RuntimeError, ValueError: (forward) a wrong shape, or ids that are not where the weights are.
        IndexError: (forward) an id is outside [0, V); where calls are recorded or mapped, a RuntimeError.
    """

    _feature_dims = 0

    def __init__(self, vocab_size: int, hidden_size: int, *args: Any, **kwargs: Any):
        super().__init__(vocab_size, hidden_size, *args, **kwargs)

    def forward_per_sample(self, input: Tensor, hx: Tensor | None) -> tuple[Tensor, Tensor]:
        """:meth:`RNN.forward_per_sample` on the one-hot rows of ids (T, B), (B, T) or (T,), of any integer dtype."""
        TokenRNN.check_input(self, input, None)
        weight: Any = self.weight_hh_l0
        one_hot = F.one_hot(input.long(), self.input_size).to(weight.orig_weight.dtype)
        return super().forward_per_sample(one_hot, hx)

    def check_input(self, input: Tensor, batch_sizes: Tensor | None) -> None:
        if not is_integer(input):
            raise TypeError(f"input must be token ids of an integer dtype, got {input.dtype}")


TokenRNN._overrides_check_input = False  # the op checks token ids too
