"""Perplexity and bits per character of a model on any text, in constant memory."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rnnfused.arguments import as_int
from rnnfused.wording import quantity

from .corpus import Text, encode_text
from .data import StreamBatches
from .model import CharLM, check_model
from .progress import progress_bar
from .vocab import check_ids, check_in_vocabulary
from .vocabulary import Vocabulary, check_vocabulary

# A stream is judged each time that it has read so many symbols.
STUCK_SYMBOLS = 128
# Nats per symbol above the uniform model's ln V from which on a stream counts as stuck.
STUCK_MARGIN = 1.0
# Judgements in a row that make a stream stuck; of a stream with fewer, over half. A rare passage, such as a table, ends.
_STUCK_IN_A_ROW = 16

# Of ``evaluate_ids``: symbols that a stream reads before its own, the shortest stream that is worth
# another one, and the most streams. One more stream makes an evaluation faster and starts cold.
_WARM_UP, _STREAM, _STREAMS = 256, 2**15, 16
# The most logits of one call of the model.
_LOGITS = 2**22


class StuckStream(NamedTuple):
    """A stream of an evaluation whose loss is far above the uniform model's.

    Attributes:
        stream: its number, from 0.
        windows: stretches of 128 symbols whose loss was above the limit.
        nats: mean loss per symbol of the worst of them.
    """

    stream: int
    windows: int
    nats: float


class Evaluation(NamedTuple):
    """Result of an evaluation.

    Attributes:
        nats: sum of ``-ln p(symbol)`` over the scored symbols.
        symbols: number of scored symbols, characters or words.
        unknown_symbols: those of them that the vocabulary lacks.
        streams: parallel streams that the text was read in.
        stuck_streams: see ``evaluate``.
        symbols_per_character: below 1 at word level; for ``bits_per_character``.
    """

    nats: float
    symbols: int
    unknown_symbols: int = 0
    streams: int = 1
    stuck_streams: tuple[StuckStream, ...] = ()
    symbols_per_character: float = 1.0

    @property
    def perplexity(self) -> float:
        """``exp`` of the mean loss in nats."""
        return perplexity(self.nats, self.symbols)

    @property
    def bits_per_symbol(self) -> float:
        """The mean loss in bits."""
        return self.nats / self.symbols / math.log(2)

    @property
    def bits_per_character(self) -> float:
        """The loss in bits, by the number of the text's characters."""
        return self.bits_per_symbol * self.symbols_per_character

    def warning(self) -> str:
        """A sentence about the stuck streams; empty if there are none."""
        if not self.stuck_streams:
            return ""
        stuck = len(self.stuck_streams)
        first = max(self.stuck_streams, key=lambda stream: stream.nats)
        return (
            f"{stuck} of {quantity(self.streams, 'stream')} of the evaluation "
            f"{'is' if stuck == 1 else 'are'} stuck: "
            f"stream {first.stream} has a loss of {first.nats:.2f} nats per symbol over "
            f"{STUCK_SYMBOLS} symbols, far more than a guess among all symbols. Its hidden state "
            "has saturated, or the text is of another kind than the training text"
        )

    def to_json(self) -> dict[str, Any]:
        """A value for ``json.dump``, without infinities: such a perplexity is None."""
        perplexity = self.perplexity
        return {
            "bits_per_character": self.bits_per_character,
            "bits_per_symbol": self.bits_per_symbol,
            "perplexity": perplexity if math.isfinite(perplexity) else None,
            "symbols": self.symbols,
            "unknown_symbols": self.unknown_symbols,
            "streams": self.streams,
            "stuck_streams": [
                {"stream": stuck.stream, "windows": stuck.windows, "nats_per_symbol": stuck.nats}
                for stuck in self.stuck_streams
            ],
        }


def perplexity(total_nats: float, num_symbols: int) -> float:
    """``exp(total_nats / num_symbols)``; infinite where that overflows.

    Args:
        total_nats: sum of ``-ln p(symbol)`` over the scored symbols.
        num_symbols: number of scored symbols, at least 1.

    Raises:
        ValueError: ``num_symbols`` is below 1.
    """
    if num_symbols < 1:
        raise ValueError(f"num_symbols must be at least 1, got {num_symbols}")
    try:
        return math.exp(total_nats / num_symbols)
    except OverflowError:
        return math.inf


def evaluate(
    model: CharLM, batches: Iterable[tuple[Tensor, Tensor]], state: Tensor | None = None
) -> Evaluation:
    """Loss of ``model`` over every symbol of ``batches``, dropout off, state carried over.

    A stream, that is a row of the batches, is judged every 128 symbols. It is stuck if the mean loss
    exceeds ``ln(vocab_size) + 1`` nats 16 times in a row, or over half the time in a stream of fewer
    judgements. The uniform model has ``ln(vocab_size)``; an unknown symbol counts as at most that. A
    tanh state that has saturated can keep a stream in this condition up to its end. Two such streams
    of twenty are enough to double the bits per character of a good model.

    Args:
        model: stays in the train or eval mode it was in.
        batches: consecutive windows ``(x, y)`` of shape ``(B, T)`` and any integer dtype, such as
            ``StreamBatches``; on the model's device, or moved there.
        state: ``(num_layers, B, hidden_size)`` before the first window; None for zeros.

    Returns:
        The loss in nats, summed over all symbols of ``y``, and the streams that are stuck.

    Raises:
        TypeError: ``model`` is not a ``CharLM``, or a window holds no integers.
        ValueError: ``batches`` is empty, or ``y`` has another shape than ``x``.
        IndexError: an id is outside the vocabulary.
        RuntimeError: ``state`` has another shape.
    """
    check_model(model)
    score = _Score(model)
    with _evaluating(model):
        for x, y in batches:
            state = score.add(x, y, state)
    return score.result()


def evaluate_ids(
    model: CharLM,
    ids: Tensor,
    *,
    num_streams: int | None = None,
    advance: Callable[[int], object] = lambda _: None,
) -> Evaluation:
    """Loss of ``model`` over every symbol of a text but the first, with few cold starts.

    A long text is read in parallel streams, which is faster. A stream that starts from zeros in
    the middle of a text is a *cold start*: a condition that training rarely shows to the model, and
    in which its state can saturate for good. Here one stream alone starts from zeros, at the
    beginning of the text. Each other one takes over the state of the first after 256 symbols, then
    reads the 256 symbols before its own without scoring them.

    Args:
        model: stays in the train or eval mode it was in.
        ids: 1-D tensor of any integer dtype, at least 2 symbols; may be in a mapped file.
        num_streams: None for as many as have 32,768 symbols each, 1 to 16.
        advance: called with the number of symbols after each call of the model: for a progress
            bar, or to stop by an exception.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: ``ids`` is not 1-D or too short for the streams, or ``num_streams`` is below 1.
        IndexError: an id is outside the vocabulary.
    """
    check_model(model)
    check_ids(ids)
    if len(ids) < 2:
        raise ValueError(f"ids must hold at least 2 symbols, got {len(ids)}")
    check_in_vocabulary(ids, model.config.vocab_size)
    return _evaluate_ids(model, ids, num_streams, advance)


def _evaluate_ids(
    model: CharLM, ids: Tensor, num_streams: int | None, advance: Callable[[int], object]
) -> Evaluation:
    """``evaluate_ids`` of at least two ids that are in the vocabulary."""
    number = len(ids) - 1
    if num_streams is None:
        num_streams = max(1, min(_STREAMS, number // _STREAM))
    num_streams = as_int("num_streams must be an int or None", num_streams)
    if not 1 <= num_streams <= number:
        raise ValueError(
            f"num_streams must lie in 1 .. {number}, as the text has {len(ids)} symbols, "
            f"got {num_streams}"
        )
    most = min(STUCK_SYMBOLS, _LOGITS // (num_streams * model.config.vocab_size))
    batches = StreamBatches(ids, num_streams, max(1, min(most, number // num_streams)))
    score = _Score(model)
    with _evaluating(model):
        state = None
        if num_streams > 1:
            state = _warm_states(model, ids, num_streams, batches.stream_length)
        for x, y in batches:
            state = score.add(x, y, state)
            advance(y.numel())
        # The symbols that do not fill a column of the streams.
        if batches.num_symbols < number:
            rest = ids[batches.num_symbols :].unsqueeze(0)
            assert state is not None
            score.add(rest[:, :-1], rest[:, 1:], state[:, -1:].contiguous(), stream=num_streams - 1)
            advance(rest.numel() - 1)
    return score.result()


def _warm_states(model: CharLM, ids: Tensor, num_streams: int, length: int) -> Tensor:
    """The states of streams before their first symbols: zeros for the first one.

    The stream n starts at ``n * length``.
    """
    warm_up = min(_WARM_UP, length)
    _, first = model(ids[:warm_up].unsqueeze(0).to(model.device))
    starts = torch.arange(1, num_streams).unsqueeze(1) * length
    before = ids[(starts + torch.arange(-warm_up, 0)).to(ids.device)]
    _, others = model(before.to(first.device), first.expand(-1, num_streams - 1, -1).contiguous())
    return torch.cat([torch.zeros_like(first), others], dim=1)


def evaluate_text(
    model: CharLM,
    vocab: Vocabulary,
    text: Text,
    *,
    letters_only: bool = False,
    num_streams: int | None = None,
    progress: bool | None = None,
) -> Evaluation:
    """Loss of ``model`` on a text or file of any size: see ``evaluate_ids``.

    Args:
        model: stays in the train or eval mode it was in.
        vocab: the vocabulary of its training.
        text: as for ``build_corpus``: a ``str`` is a text, a path names a UTF-8 file.
        letters_only: whether ``rnnfused.lm.letters_only`` prepares the text.
        progress: whether to show bars on stderr; None: where that is a terminal.

    Raises:
        OSError, TextError: the text cannot be read or used; see ``encode_text``.
        TypeError: an argument has the wrong type.
        ValueError: ``vocab`` does not have the model's size, or ``num_streams`` is out of range.
    """
    check_model(model)
    check_vocabulary(vocab, model.config.vocab_size)
    encoded = encode_text(text, vocab, letters_only=letters_only, progress=progress)
    ids = encoded.ids
    with progress_bar("evaluating", len(ids) - 1, "symbol", progress) as advance:
        result = _evaluate_ids(model, ids, num_streams, advance)
    return result._replace(symbols_per_character=len(ids) / encoded.num_characters)


@contextmanager
def _evaluating(model: CharLM) -> Iterator[None]:
    """A block without gradients and dropout; the model then returns to its mode."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


@dataclass
class _Stream:
    """What is known of a stream: sums since it was judged last, then numbers of judgements."""

    nats: float = 0.0
    symbols: int = 0
    judged: int = 0
    above: int = 0
    in_a_row: int = 0
    longest: int = 0
    worst: float = 0.0

    def add(self, nats: float, symbols: int, limit: float) -> None:
        """Take the loss of further symbols in, and judge it where there are enough of them."""
        self.nats, self.symbols = self.nats + nats, self.symbols + symbols
        if self.symbols < STUCK_SYMBOLS:
            return
        mean = self.nats / self.symbols
        self.judged += 1
        if mean > limit:
            self.above, self.in_a_row = self.above + 1, self.in_a_row + 1
            self.longest, self.worst = max(self.longest, self.in_a_row), max(self.worst, mean)
        else:
            self.in_a_row = 0
        self.nats, self.symbols = 0.0, 0

    def is_stuck(self) -> bool:
        return self.longest >= min(_STUCK_IN_A_ROW, self.judged // 2 + 1)


class _Score:
    """Sums of losses, in all and by stream."""

    def __init__(self, model: CharLM):
        self._model = model
        self._uniform = math.log(model.config.vocab_size)
        self._nats = 0.0
        self._symbols = self._unknown = 0
        self._streams: list[_Stream] = []

    def add(self, x: Tensor, y: Tensor, state: Tensor | None, stream: int = 0) -> Tensor:
        """Score a window whose first row is the stream of that number; return the next state."""
        device = self._model.device
        x, y = x.to(device), y.to(device)
        loss, state = self._model.loss(x, y, state, reduction="none")
        # float64: the sum over a long text would lose digits.
        loss = loss.view(y.shape).double()
        known = y != 0
        self._nats += loss.sum().item()
        self._symbols += y.numel()
        self._unknown += y.numel() - int(known.sum())
        # A model that never saw unknown symbols gives them no probability; one that often did
        # leaves little to the known ones, so that those alone would not compare with a guess.
        judged = loss.where(known, loss.clamp(max=self._uniform)).sum(1).tolist()
        while len(self._streams) < stream + len(judged):
            self._streams.append(_Stream())
        for one, nats in zip(self._streams[stream:], judged):
            one.add(nats, y.size(1), self._uniform + STUCK_MARGIN)
        return state

    def result(self) -> Evaluation:
        """The evaluation of all windows.

        Raises:
            ValueError: there was none.
        """
        if not self._symbols:
            raise ValueError("batches must hold at least one window, got none")
        stuck = tuple(
            StuckStream(number, stream.above, stream.worst)
            for number, stream in enumerate(self._streams)
            if stream.is_stuck()
        )
        return Evaluation(self._nats, self._symbols, self._unknown, len(self._streams), stuck)
