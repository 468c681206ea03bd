"""The textbook's language model: perplexity, training steps and greedy prediction on an RNN."""

from collections.abc import Collection, Mapping, Sequence, Set
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import generation
from ..arguments import check_int
from ..cross_entropy import linear_cross_entropy
from ..generation.memory import new_symbols
from ..ops.compiled import copy_of_view
from ..ops.tokens import check_ids, is_integer, project_tokens
from ..rnn import RNN
from ..special_inputs import has_hooks
from ..token_rnn import TokenRNN
from ..wording import quantity
from .board import Board
from .rnn import RNNScratch, State

_NO_TOKENS = (Set, Mapping, bytes, bytearray, memoryview)


class _Vocab(Protocol):
    idx_to_token: Sequence[str]

    def __getitem__(self, token: str, /) -> int: ...


class RNNLMScratch(nn.Module):
    """The language model: next-token logits from token ids, over any of the textbook's RNNs.

    Args:
        rnn: :class:`RNNScratch` or :class:`rnnfused.TokenRNN`, which take token ids. Or any module
            that takes one-hot inputs (num_steps, batch, V) and a state, and returns the outputs
            and the last state; outputs are (num_steps, batch, H) or a list of steps, and H is
            ``rnn.num_hiddens`` or ``rnn.hidden_size``. It must not be ``batch_first``.
        vocab_size: V, the number of tokens.
        lr: the learning rate of :meth:`configure_optimizers`.

    Attributes:
        W_hq (H, V), b_q (V,): the output layer.
        board: perplexities of the training steps and of each validation, a
            :class:`rnnfused.scratch.Board`; any object with its ``draw`` can replace it.

    Raises:
        ValueError: ``rnn`` is ``batch_first``.
    """

    def __init__(self, rnn: nn.Module, vocab_size: int, lr: float = 0.01):
        super().__init__()
        if getattr(rnn, "batch_first", False):
            raise ValueError(
                "rnn must take (num_steps, batch, ..) inputs, got one with batch_first=True"
            )
        self.rnn, self.vocab_size, self.lr = rnn, vocab_size, lr
        self.board = Board()
        self._steps = 0  # of training; the x of the board's points without a trainer
        self._validation = (0.0, 0)  # nats and symbols since the last training step
        self.init_params()

    def init_params(self) -> None:
        """Makes the output layer; a subclass may override it together with :meth:`output_layer`."""
        has_num_hiddens = hasattr(self.rnn, "num_hiddens")
        num_hiddens = getattr(self.rnn, "num_hiddens" if has_num_hiddens else "hidden_size")
        sigma = getattr(self.rnn, "sigma", 0.01)
        self.W_hq = nn.Parameter(torch.randn(num_hiddens, self.vocab_size) * sigma)
        self.b_q = nn.Parameter(torch.zeros(self.vocab_size))

    def one_hot(self, X: Tensor) -> Tensor:
        """Ids (batch, num_steps) of any integer dtype to one-hot (num_steps, batch, V), of the parameters' dtype.

        Raises:
            TypeError: the ids are not integers.
            ValueError: the ids are on another device than the model.
            IndexError: an id is outside [0, V).
        """
        weight = next(self.parameters())
        identity = torch.eye(self.vocab_size, dtype=weight.dtype, device=weight.device)
        return project_tokens(X.t() if isinstance(X, Tensor) else X, identity)

    def output_layer(self, rnn_outputs: Tensor | Sequence[Tensor]) -> Tensor:
        """Outputs of the rnn to logits.

        Args:
            rnn_outputs: (num_steps, batch, H), or a list of steps (batch, H), of the parameters' dtype.

        Returns:
            (batch, num_steps, V).

        Raises:
            RuntimeError: (torch's) another H or dtype, or an empty list.
        """
        if not isinstance(rnn_outputs, Tensor):
            rnn_outputs = torch.stack(list(rnn_outputs))
        # The addition comes last: its result is no view, and is laid out step by step.
        return (rnn_outputs @ self.W_hq).transpose(0, 1) + self.b_q

    def forward(self, X: Tensor, state: State = None) -> Tensor:
        """Ids (batch, num_steps) of any integer dtype to logits (batch, num_steps, V).

        ``state`` goes to the rnn; :class:`RNNScratch` takes it bare or as a 1-tuple.

        Raises:
            ValueError: ``X`` has a wrong shape, no step, or another device than the model.
            TypeError, IndexError: as :meth:`one_hot`.
        """
        return self.output_layer(self._run(X, state)[0])

    def _run(self, X: Tensor, state: State) -> tuple[Tensor | Sequence[Tensor], State]:
        if not is_integer(X):
            got = X.dtype if isinstance(X, Tensor) else type(X).__name__
            raise TypeError(f"X must be token ids of an integer dtype, got {got}")
        if X.dim() != 2 or X.size(1) == 0:
            raise ValueError(
                "X must be token ids (batch, num_steps) with at least one step, "
                f"got shape {tuple(X.shape)}"
            )
        takes_ids = isinstance(self.rnn, (RNNScratch, TokenRNN))
        inputs = copy_of_view(X.t()) if takes_ids else self.one_hot(X)
        is_ours = type(self.rnn).forward is RNNScratch.forward
        outputs, state = (
            self.rnn(inputs, state, stacked=True) if is_ours else self.rnn(inputs, state)
        )
        return outputs, state

    def loss(self, Y_hat: Tensor, Y: Tensor, averaged: bool = True) -> Tensor:
        """Cross-entropy, in nats, of logits (batch, num_steps, V) against ids (batch, num_steps).

        Args:
            Y_hat: (batch, num_steps, V), floating point.
            Y: (batch, num_steps), any integer dtype, values in [0, V).
            averaged: return the mean over all ids; otherwise one value per id.

        Returns:
            A 0-dim tensor, or (batch * num_steps,) if not ``averaged``, of the dtype of ``Y_hat``.

        Raises:
            TypeError, ValueError, IndexError: ``Y`` does not hold ids of this shape and vocabulary.
        """
        Y = self._checked_targets(Y, Y_hat.shape[:2], Y_hat.device)
        if not averaged:
            return F.cross_entropy(Y_hat.flatten(0, 1), Y.flatten(), reduction="none")
        # The logits are laid out step by step; flattening them in that order needs no copy.
        logits = Y_hat.transpose(0, 1).reshape(-1, self.vocab_size)
        return F.cross_entropy(logits, Y.t().reshape(-1))

    def _loss(self, batch: Sequence[Tensor]) -> Tensor:
        """The loss of ``(X, .., Y)``; one fused call unless a subclass or a hook changes a part of it."""
        *inputs, Y = batch
        if not self._is_textbook() or len(inputs) > 2:
            return self.loss(self(*inputs), Y)
        X, *state = inputs
        outputs, _ = self._run(X, state[0] if state else None)
        if not isinstance(outputs, Tensor):
            outputs = torch.stack(list(outputs))
        Y = self._checked_targets(Y, outputs.shape[1::-1], outputs.device)
        return linear_cross_entropy(outputs, self.W_hq.t(), self.b_q, Y.t())

    def _is_textbook(self) -> bool:
        """Whether loss, output layer and call are those of this class."""
        kind, own = type(self), RNNLMScratch
        return (
            kind.loss is own.loss
            and kind.output_layer is own.output_layer
            and kind.forward is own.forward
            and kind.__call__ is nn.Module.__call__
            and not (has_hooks(self) or self._backward_hooks)
        )

    def _checked_targets(self, Y: Tensor, shape: Sequence[int], device: torch.device) -> Tensor:
        """The targets as int64."""
        Y = check_ids(Y, self.vocab_size, device, "Y")
        if Y.shape != shape:
            raise ValueError(f"Y must be {tuple(shape)} like X, got {tuple(Y.shape)}")
        return Y

    def training_step(self, batch: Sequence[Tensor]) -> Tensor:
        """The loss of a batch; records its perplexity.

        Args:
            batch: ``(X, Y)``, both ids (batch, num_steps) of any integer dtype, or ``(X, state, Y)``.

        Returns:
            The mean cross-entropy in nats, a 0-dim tensor.

        Raises:
            TypeError, ValueError, IndexError: as :meth:`forward` for ``X``, as :meth:`loss` for ``Y``.
        """
        loss, Y = self._loss(batch), batch[-1]
        self._steps += 1
        self._validation = (0.0, 0)
        trainer = getattr(self, "trainer", None)
        epoch = trainer.train_batch_idx / trainer.num_train_batches if trainer else self._steps
        if Y.numel():
            self.board.draw(epoch, loss.detach().exp().item(), "train_ppl")
        return loss

    def validation_step(self, batch: Sequence[Tensor]) -> Tensor:
        """The loss, as in :meth:`training_step`; records the perplexity of the whole validation.

        A validation is every call since the last training step.

        Args:
            batch: as for :meth:`training_step`.

        Returns:
            As :meth:`training_step`.

        Raises:
            TypeError, ValueError, IndexError: as :meth:`training_step`.
        """
        loss, Y = self._loss(batch), batch[-1]
        trainer = getattr(self, "trainer", None)
        epoch = trainer.epoch + 1 if trainer else self._steps
        if not Y.numel():
            return loss
        nats, symbols = self._validation
        nats, symbols = nats + loss.item() * Y.numel(), symbols + Y.numel()
        self._validation = (nats, symbols)
        # torch's exp overflows to infinity, as in a training step; Python's raises.
        self.board.draw(epoch, torch.tensor(nats / symbols).exp().item(), "val_ppl")
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD at the learning rate ``lr``."""
        return torch.optim.SGD(self.parameters(), lr=self.lr)

    @torch.no_grad()
    def predict(
        self,
        prefix: str | Sequence[str],
        num_preds: int,
        vocab: _Vocab,
        device: str | torch.device | None = None,
    ) -> str:
        """Continues a prefix greedily: each prediction is the next input.

        Args:
            prefix: a string or a list of tokens; not empty.
            num_preds: number of tokens to add, at least 0.
            vocab: ``vocab[token]`` gives an id, ``vocab.idx_to_token[id]`` a token.
            device: of the ids; the model's by default.

        Returns:
            The prefix and the predictions, joined.

        Raises:
            TypeError: ``num_preds`` is not an int, the prefix is no string and no sequence of
                tokens, ``vocab`` is no vocabulary, or ``device`` names none.
            ValueError: the prefix is empty or has a symbol outside the vocabulary, ``vocab`` does
                not have the model's size, ``num_preds`` is negative, or ``device`` is not the
                model's.
            MemoryError: ``num_preds`` tokens do not fit in memory.
        """
        num_preds = check_int("num_preds", num_preds, 0)
        if not (hasattr(vocab, "idx_to_token") and hasattr(vocab, "__getitem__")):
            raise TypeError(
                "vocab must give an id as vocab[token] and tokens as vocab.idx_to_token, "
                f"got {type(vocab).__name__}"
            )
        if len(vocab.idx_to_token) != self.vocab_size:
            raise ValueError(
                f"vocab must be the model's, of {quantity(self.vocab_size, 'token')}, "
                f"got one of {len(vocab.idx_to_token)}"
            )
        own = next(self.parameters()).device
        _check_device(device, own)
        ids = _encode_prefix(vocab, prefix)
        new_symbols("num_preds", 1, num_preds, own)  # blames the argument, before anything is drawn
        prefix_ids = torch.tensor([ids], device=own)
        symbols = self._continue(prefix_ids, num_preds)
        return "".join(vocab.idx_to_token[i] for i in ids + symbols[0].tolist())

    def _continue(self, ids: Tensor, num_preds: int) -> Tensor:
        """The greedy continuation (batch, num_preds) of ids (batch, num_steps)."""
        kind, rnn = type(self), self.rnn
        calls = ("_run", "one_hot", "output_layer")
        if all(getattr(kind, name) is getattr(RNNLMScratch, name) for name in calls):
            if type(rnn) is RNNScratch and not has_hooks(rnn):
                rnn = rnn.as_token_rnn()
            if isinstance(rnn, (nn.RNN, RNN)) and not rnn.bidirectional:
                head = (self.W_hq.t(), self.b_q)
                return generation.generate(rnn, head, ids, num_preds, temperature=0)[0]

        def step(ids: Tensor, state: State) -> tuple[Tensor, State]:
            outputs, state = self._run(ids, state)
            return self.output_layer(outputs)[:, -1], state

        return generation.generate_by_steps(step, ids, num_preds, temperature=0)[0]


def _encode_prefix(vocab: _Vocab, prefix: str | Sequence[str]) -> list[int]:
    """The ids of a prefix whose symbols are all in the vocabulary, none as unknown."""
    # Sets have no order, and bytes hold numbers.
    if not isinstance(prefix, Collection) or isinstance(prefix, _NO_TOKENS):
        raise TypeError(f"prefix must be a str or a list of tokens, got {type(prefix).__name__}")
    if len(prefix) == 0:
        raise ValueError("prefix must not be empty: there is nothing to continue")
    ids = []
    for token in prefix:
        try:
            index = vocab[token]
            known = vocab.idx_to_token[index] == token
        # A vocabulary may look a token up in a dict or a list.
        except (LookupError, TypeError, ValueError):
            known = False
        if not known:
            raise ValueError(f"prefix has the symbol {token!r}, which is not in the vocabulary")
        ids.append(int(index))
    return ids


def _check_device(device: object, own: torch.device) -> None:
    """Validate that ``device``, unless it is None, is the model's ``own``."""
    if device is None:
        return
    if not isinstance(device, (str, int, torch.device)):
        raise TypeError(f"device must be a str or a torch.device, got {type(device).__name__}")
    try:
        given = torch.device(device)
        same = given.type == own.type and given.index in (None, own.index)
    except RuntimeError:  # no device has that name
        same = False
    if not same:
        raise ValueError(f"device must be the model's, {str(own)!r}, got {str(device)!r}")
