"""The textbook's from-scratch RNN language model, on the fused op.

Names, shapes and call signatures are those of *Dive into Deep Learning*, chapter 9.5 (Zhang, Lipton, Li and
Smola, https://d2l.ai), so its trainer and its vocabulary can drive these classes.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import functional
from .board import Board
from .clip import clip_gradients
from .ops import autocast
from .ops.compiled import copy_of_view
from .ops.tokens import check_ids, is_integer, project_tokens
from .rnn import TokenRNN

__all__ = ["RNNLMScratch", "RNNScratch", "RNNScratchCell", "clip_gradients"]


class RNNScratch(nn.Module):
    """The RNN: ``H_t = tanh(X_t W_xh + H_{t-1} W_hh + b_h)`` (equation 9.4.5), all steps fused.

    Args:
        num_inputs: I, the number of inputs.
        num_hiddens: H, the number of hidden units.
        sigma: the standard deviation of the initial weights; biases start at zero.

    Attributes:
        W_xh (I, H), W_hh (H, H), b_h (H,): the parameters.
    """

    def __init__(self, num_inputs: int, num_hiddens: int, sigma: float = 0.01):
        super().__init__()
        self.num_inputs, self.num_hiddens, self.sigma = num_inputs, num_hiddens, sigma
        self.W_xh = nn.Parameter(torch.randn(num_inputs, num_hiddens) * sigma)
        self.W_hh = nn.Parameter(torch.randn(num_hiddens, num_hiddens) * sigma)
        self.b_h = nn.Parameter(torch.zeros(num_hiddens))

    def forward(
        self,
        inputs: Tensor | Iterable[Tensor],
        state: Tensor | tuple[Tensor] | None = None,
        *,
        stacked: bool = False,
    ) -> tuple[list[Tensor] | Tensor, Tensor]:
        """Runs over the outermost axis of ``inputs``.

        Args:
            inputs: (num_steps, batch, I) floating point, or (batch, I) steps one after another in a list
                or another iterable; or token ids (num_steps, batch) of any integer dtype, which stand for
                their one-hot rows.
            state: (batch, H), or (1, H) for every row the same, bare or as a 1-tuple; zeros if None.
            stacked: return the outputs as one tensor, which needs no copy of each.

        Returns:
            ``(outputs, state)``: a list of num_steps tensors (batch, H), or (num_steps, batch, H) if
            ``stacked``, and (batch, H) the last one.

        Raises:
            ValueError: a shape or a device does not fit.
            TypeError: a type or a dtype does not fit.
            IndexError: a token id is outside [0, I).
        """
        if not isinstance(inputs, Tensor):
            if not isinstance(inputs, Iterable):
                raise TypeError(f"inputs must be a Tensor or a list, got {type(inputs).__name__}")
            steps = list(inputs)
            if not steps:
                raise ValueError("inputs must have a step, got an empty list")
            if not all(isinstance(step, Tensor) for step in steps):
                raise TypeError("inputs must be a Tensor or a list of Tensors")
            inputs = torch.stack(steps)
        if is_integer(inputs):
            if inputs.dim() != 2:
                raise ValueError(
                    f"inputs of token ids must be (num_steps, batch), got {tuple(inputs.shape)}"
                )
        else:
            if inputs.dim() != 3 or inputs.size(2) != self.num_inputs:
                raise ValueError(
                    f"inputs must be (num_steps, batch, {self.num_inputs}), got {tuple(inputs.shape)}"
                )
            if inputs.dtype != self.W_xh.dtype:
                raise TypeError(
                    f"inputs must be {self.W_xh.dtype} like the weights, got {inputs.dtype}"
                )
            if inputs.device != self.W_xh.device:
                raise ValueError(
                    f"inputs must be on {self.W_xh.device} like the weights, got {inputs.device}"
                )
        if inputs.size(0) == 0:
            raise ValueError(f"inputs must have a step, got shape {tuple(inputs.shape)}")
        h_0 = _unwrap_state(state, inputs.size(1), self.num_hiddens, self.W_hh)
        outputs, last = functional.run_layer(
            inputs, self.W_xh.t(), self.W_hh.t(), self.b_h, None,
            None if h_0 is None else copy_of_view(h_0.unsqueeze(0)), "tanh", 0, False,
        )  # fmt: skip
        if not stacked:
            outputs = [copy_of_view(step) for step in torch.unbind_copy(outputs)]
        return outputs, last.squeeze(0).clone()  # no result is a view: each may be changed in place

    def extra_repr(self) -> str:
        """The sizes, for ``print``."""
        return f"{self.num_inputs}, {self.num_hiddens}"


def _unwrap_state(state, batch: int, num_hiddens: int, weight: Tensor) -> Tensor | None:
    if isinstance(state, (tuple, list)):
        if len(state) != 1:
            raise ValueError(
                f"state must be a tensor or a 1-tuple of one, got {len(state)} of them"
            )
        (state,) = state
    if state is None:
        return None
    if not isinstance(state, Tensor):
        raise TypeError(f"state must be a tensor or a 1-tuple of one, got {type(state).__name__}")
    if state.dim() != 2 or state.size(0) not in (1, batch) or state.size(1) != num_hiddens:
        raise ValueError(
            f"state must be (batch, num_hiddens) = ({batch}, {num_hiddens}), got {tuple(state.shape)}"
        )
    if state.dtype != weight.dtype and autocast.dtype_of(state) != autocast.dtype_of(weight):
        raise TypeError(f"state must be {weight.dtype} like the weights, got {state.dtype}")
    if state.device != weight.device:
        raise ValueError(f"state must be on {weight.device} like the weights, got {state.device}")
    return state.expand(batch, num_hiddens)


class RNNScratchCell(nn.Module):
    """One step: ``h' = tanh(x Wx + h Wh + b)``.

    Args:
        num_inputs: I, the number of inputs.
        num_hidden: H, the number of hidden units.
        sigma: the standard deviation of the initial weights; the bias starts at zero.

    Attributes:
        Wx (I, H), Wh (H, H), b (H,): the parameters.
    """

    def __init__(self, num_inputs: int, num_hidden: int, sigma: float = 0.01):
        super().__init__()
        self.num_inputs, self.num_hidden, self.sigma = num_inputs, num_hidden, sigma
        self.Wx = nn.Parameter(torch.randn(num_inputs, num_hidden) * sigma)
        self.Wh = nn.Parameter(torch.randn(num_hidden, num_hidden) * sigma)
        self.b = nn.Parameter(torch.zeros(num_hidden))

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        """One step from ``x`` (batch, I) and ``h`` (batch, H), zeros if None, to (batch, H).

        Raises:
            ValueError: a shape does not fit.
            TypeError: a dtype does not fit.
        """
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a Tensor, got {type(x).__name__}")
        if x.dim() != 2 or x.size(1) != self.num_inputs:
            raise ValueError(f"x must be (batch, {self.num_inputs}), got {tuple(x.shape)}")
        if x.dtype != self.Wx.dtype:
            raise TypeError(f"x must be {self.Wx.dtype} like the weights, got {x.dtype}")
        if x.device != self.Wx.device:
            raise ValueError(f"x must be on {self.Wx.device} like the weights, got {x.device}")
        h = _unwrap_state(h, x.size(0), self.num_hidden, self.Wh)
        return functional.run_layer(
            x, self.Wx.t(), self.Wh.t(), self.b, None, h, "tanh", -1, False
        )[0]

    def extra_repr(self) -> str:
        """The sizes, for ``print``."""
        return f"{self.num_inputs}, {self.num_hidden}"


class RNNLMScratch(nn.Module):
    """The language model: next-token logits from token ids, over any of the textbook's RNNs.

    Args:
        rnn: :class:`RNNScratch` or :class:`rnnfused.TokenRNN`, which look token ids up; or any module
            that takes one-hot inputs (num_steps, batch, V) and a state, and returns the outputs,
            (num_steps, batch, H) or a list of steps, and the last state. It says H as ``num_hiddens`` or ``hidden_size``.
            A ``batch_first`` one is refused.
        vocab_size: V, the number of tokens.
        lr: the learning rate of :meth:`configure_optimizers`.

    Attributes:
        W_hq (H, V), b_q (V,): the output layer.
        board: perplexities of the training steps and of each validation, as
            :class:`rnnfused.board.Board`; any object with its ``draw`` can take its place.
    """

    def __init__(self, rnn: nn.Module, vocab_size: int, lr: float = 0.01):
        super().__init__()
        if getattr(rnn, "batch_first", False):
            raise ValueError(
                "rnn must take (num_steps, batch, ..) inputs, got one with batch_first=True"
            )
        self.rnn, self.vocab_size, self.lr = rnn, vocab_size, lr
        self.board = Board()
        self._steps = 0  # of training, which count as time where no trainer does
        self._validation = (0.0, 0)  # nats and symbols since the last training step
        self.init_params()

    def init_params(self) -> None:
        """Makes the output layer; a subclass with another one overrides it and :meth:`output_layer`."""
        rnn = self.rnn
        num_hiddens = rnn.num_hiddens if hasattr(rnn, "num_hiddens") else rnn.hidden_size
        sigma = getattr(rnn, "sigma", 0.01)
        self.W_hq = nn.Parameter(torch.randn(num_hiddens, self.vocab_size) * sigma)
        self.b_q = nn.Parameter(torch.zeros(self.vocab_size))

    def one_hot(self, X: Tensor) -> Tensor:
        """Ids (batch, num_steps) of any integer dtype to one-hot (num_steps, batch, V).

        Raises:
            TypeError: the ids are not integers.
            ValueError: they are not where the model is.
            IndexError: an id is outside [0, V).
        """
        weight = next(self.parameters())
        identity = torch.eye(self.vocab_size, dtype=weight.dtype, device=weight.device)
        return project_tokens(X.t() if isinstance(X, Tensor) else X, identity)

    def output_layer(self, rnn_outputs: Tensor) -> Tensor:
        """Outputs (num_steps, batch, H), or a list of steps, to logits (batch, num_steps, V)."""
        if not isinstance(rnn_outputs, Tensor):
            rnn_outputs = torch.stack(list(rnn_outputs))
        # The addition comes last: its result is no view, and lies in memory step by step.
        return (rnn_outputs @ self.W_hq).transpose(0, 1) + self.b_q

    def forward(self, X: Tensor, state: Tensor | tuple[Tensor] | None = None) -> Tensor:
        """Ids (batch, num_steps) of any integer dtype to logits (batch, num_steps, V).

        ``state`` is what the rnn takes: :class:`RNNScratch` a state, bare or as a 1-tuple.

        Raises:
            ValueError: ``X`` has a wrong shape or no step, or is not where the model is.
            TypeError, IndexError: as :meth:`one_hot`.
        """
        return self.output_layer(self._run(X, state)[0])

    def _run(self, X: Tensor, state) -> tuple[Tensor, Tensor]:
        if not is_integer(X):
            got = X.dtype if isinstance(X, Tensor) else type(X).__name__
            raise TypeError(f"X must be token ids of an integer dtype, got {got}")
        if X.dim() != 2 or X.size(1) == 0:
            raise ValueError(
                f"X must be token ids (batch, num_steps) of a step or more, got shape {tuple(X.shape)}"
            )
        if type(self.rnn).forward is RNNScratch.forward:
            return self.rnn(copy_of_view(X.t()), state, stacked=True)
        looks_up = isinstance(self.rnn, (RNNScratch, TokenRNN))
        return self.rnn(copy_of_view(X.t()) if looks_up else self.one_hot(X), state)

    def loss(self, Y_hat: Tensor, Y: Tensor, averaged: bool = True) -> Tensor:
        """Cross-entropy, in nats, of logits (batch, num_steps, V) against ids (batch, num_steps).

        Args:
            averaged: the mean over all ids; if not, one value an id, (batch * num_steps,).

        Raises:
            TypeError, ValueError, IndexError: ``Y`` is not ids of this shape, or not of this vocabulary.
        """
        Y = check_ids(Y, self.vocab_size, Y_hat.device, "Y")
        if Y.shape != Y_hat.shape[:2]:
            raise ValueError(f"Y must be {tuple(Y_hat.shape[:2])} like X, got {tuple(Y.shape)}")
        if not averaged:
            return F.cross_entropy(Y_hat.flatten(0, 1), Y.flatten(), reduction="none")
        # The logits lie in memory step by step: flattened that way round they are not copied.
        logits = Y_hat.transpose(0, 1).reshape(-1, self.vocab_size)
        return F.cross_entropy(logits, Y.t().reshape(-1))

    def training_step(self, batch) -> Tensor:
        """The loss of ``(X, Y)``, both ids (batch, num_steps); records the perplexity ``exp(loss)``."""
        *inputs, Y = batch
        loss = self.loss(self(*inputs), Y)
        self._steps += 1
        self._validation = (0.0, 0)
        trainer = getattr(self, "trainer", None)
        epoch = trainer.train_batch_idx / trainer.num_train_batches if trainer else self._steps
        if Y.numel():
            self.board.draw(epoch, loss.detach().exp().item(), "train_ppl")
        return loss

    def validation_step(self, batch) -> Tensor:
        """The loss, as :meth:`training_step`; records the perplexity of all since the last of those."""
        *inputs, Y = batch
        loss = self.loss(self(*inputs), Y)
        trainer = getattr(self, "trainer", None)
        epoch = trainer.epoch + 1 if trainer else self._steps
        if not Y.numel():
            return loss
        nats, symbols = self._validation
        nats, symbols = nats + loss.item() * Y.numel(), symbols + Y.numel()
        self._validation = (nats, symbols)
        # torch's exp, which overflows to infinity as that of a training step does.
        self.board.draw(epoch, torch.tensor(nats / symbols).exp().item(), "val_ppl")
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD at the learning rate ``lr``."""
        return torch.optim.SGD(self.parameters(), lr=self.lr)

    @torch.no_grad()
    def predict(self, prefix, num_preds: int, vocab, device=None) -> str:
        """Continues a prefix greedily: each prediction is the next input.

        Args:
            prefix: a string, or a list of tokens; not empty.
            num_preds: how many tokens to add.
            vocab: ``vocab[token]`` gives an id, ``vocab.idx_to_token[id]`` a token.
            device: where the ids go; by default where the model is.

        Returns:
            The prefix and the predictions, joined.

        Raises:
            TypeError: ``num_preds`` is not an int.
            ValueError: the prefix is empty, one of its symbols is not in the vocabulary, the
                vocabulary is not the model's, ``num_preds`` is negative, or the model is elsewhere.
        """
        if not isinstance(num_preds, int):
            raise TypeError(f"num_preds must be an int, got {num_preds!r}")
        if num_preds < 0:
            raise ValueError(f"num_preds must not be negative, got {num_preds}")
        if len(vocab.idx_to_token) != self.vocab_size:
            raise ValueError(
                f"vocab must be the model's, of {self.vocab_size} tokens, "
                f"got one of {len(vocab.idx_to_token)}"
            )
        ids = _encode_prefix(vocab, prefix)
        device = next(self.parameters()).device if device is None else device
        state = None
        if len(ids) > 1:
            warm_up = torch.tensor([ids[:-1]], device=device)
            _, state = self._run(warm_up, state)
        for _ in range(num_preds):
            outputs, state = self._run(torch.tensor([ids[-1:]], device=device), state)
            ids.append(int(self.output_layer(outputs).argmax()))
        return "".join(vocab.idx_to_token[i] for i in ids)


def _encode_prefix(vocab, prefix) -> list[int]:
    """The ids of a prefix's symbols, each of which must be in the vocabulary itself, not as unknown."""
    if len(prefix) == 0:
        raise ValueError("prefix must not be empty: there is nothing to continue")
    ids = []
    for token in prefix:
        try:
            index = vocab[token]
            known = vocab.idx_to_token[index] == token
        except (KeyError, IndexError):
            known = False
        if not known:
            raise ValueError(f"prefix has the symbol {token!r}, which is not in the vocabulary")
        ids.append(int(index))
    return ids
