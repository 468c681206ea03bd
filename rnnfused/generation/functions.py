"""The public functions: checks, the choice between op and loop, chunks, callbacks."""

import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..arguments import as_int, check_int
from ..ops.modes import outside_graphs
from ..ops.tokens import check_ids, is_integer, value_range
from .choice import Choice, check_choice
from .fused import Fused, Weights
from .memory import new_symbols
from .model import Head, Model, weights_of
from .steps import Step, StepByStep

# Seconds that a chunk should take. Python handles a signal only between two chunks.
_CHUNK_SECONDS = 0.02
# A chunk grows by this factor at most: the first ones may be timed badly.
_GROWTH = 4

_Callback = Callable[[Tensor], object]


@torch.no_grad()
def generate(
    rnn: nn.RNNBase,
    head: Head,
    ids: Tensor,
    num_symbols: int,
    *,
    embedding: nn.Module | Tensor | None = None,
    h_0: Tensor | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    streams: Tensor | None = None,
    first_step: int = 0,
    exclude: Iterable[int] = (),
    callback: _Callback | None = None,
    every: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Continues prefixes of token ids symbol by symbol, each the input of the next step.

    On the CPU one call of a fused op makes many symbols: a step of all layers, the head, the choice. Its weights are
    packed once. :func:`generate_by_steps`, a loop in Python, runs other devices, ``heads``, modules with hooks or of
    a subclass, and calls under autocast. Both give the same symbols, except where two floating-point numbers that decide
    differ in the last bits. Dropout is off. Logits are in float32 beside 16-bit weights. Ctrl-C is handled within
    0.1 s, unless one step takes longer.

    Args:
        rnn: :class:`rnnfused.TokenRNN`; or :class:`rnnfused.RNN` or ``torch.nn.RNN``, which read ``embedding``, or
            without one the one-hot rows of ids. tanh or ReLU, any number of layers, not bidirectional.
        head: ``nn.Linear(H, V)``, another module from (B, H) to logits (B, V), or a pair: weight (V, H) and bias
            (V,) or None.
        ids: (B, T), or (T,) unbatched, whatever ``rnn.batch_first``; any integer dtype, values in [0, V), T >= 1.
        num_symbols: n, at least 0.
        embedding: ``nn.Embedding(V, I)``, another module from ids to features, or a weight (V, I).
        h_0: (num_layers, B, H), or (num_layers, H) unbatched: the states before the prefix; zeros if None.
        temperature: divides the logits before each draw. 0 always takes the likeliest symbol, of equal ones
            the lowest.
        top_k: draw among the k likeliest symbols only; None: all.
        top_p: draw among the fewest likeliest symbols only whose probabilities, after ``top_k``, sum to p, in
            (0, 1]; None: all. Holtzman et al., "The Curious Case of Neural Text Degeneration" (2020).
        seed: 0 to 2 ** 63 - 1; None: torch's global generator gives one.
        streams: (B,), integers, at least 0: row b draws the random numbers of stream ``streams[b]``, by
            default b. A number depends on seed, stream and step alone (Philox 4x32-10; Salmon et al., "Parallel Random
            Numbers: As Easy as 1, 2, 3", 2011), so a row's text does not depend on its batch.
        first_step: the step of the first symbol, for a call that goes on where another ended.
        exclude: ids that are never chosen.
        callback: called with the new symbols, (B, k) or (k,), after every k of them; the last call may
            have fewer. What it raises ends the call.
        every: k, at least 1; None: as many as come in about 20 ms.

    Returns:
        ``(symbols, h_n)``: (B, n) or (n,), int64; and the states, shaped as ``h_0``, after all symbols but the last. A
        call goes on with ``ids=symbols[:, -1:]``, ``h_0=h_n`` and ``first_step=n``.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: a shape, a device or a value is wrong, or logits are not finite: NaN or +inf, or -inf alone.
            A single -inf is a symbol that is never chosen.
        IndexError: an id is outside [0, V).
        MemoryError: the symbols do not fit in memory.
    """
    if not isinstance(rnn, nn.RNNBase) or rnn.mode not in ("RNN_TANH", "RNN_RELU"):
        raise TypeError(f"rnn must be an RNN with tanh or relu, got {type(rnn).__name__}")
    if rnn.bidirectional:
        raise ValueError("rnn must not be bidirectional: it would read symbols before they exist")
    model = Model(rnn, head, embedding)
    ids, is_batch = _check_prefix(ids, model.vocab_size, model.device)
    h_0 = _check_h_0(h_0, rnn, ids.size(0), is_batch)
    arguments = _Arguments(
        ids, num_symbols, temperature, top_k, top_p, seed, streams, first_step, callback, every
    )
    if callback is not None and not is_batch:
        arguments.callback = lambda symbols: callback(symbols[0])
    excluded = _check_exclude(exclude, model.vocab_size)
    weights = weights_of(rnn, head, embedding, ids)
    was_training = rnn.training
    rnn.eval()  # no dropout between its layers
    try:
        if weights is None:
            step = model.step_without(excluded)
            symbols, state = _by_steps(step, model.read, h_0, arguments)
        else:
            symbols, state = _fused(weights, model.read, h_0, excluded, arguments)
    finally:
        rnn.train(was_training)
    h_n = model.zeros(ids.size(0)) if state is None else state
    return (symbols, h_n) if is_batch else (symbols[0], h_n[:, 0])


@torch.no_grad()
def generate_by_steps(
    step: Step,
    ids: Tensor,
    num_symbols: int,
    *,
    state: Any = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    streams: Tensor | None = None,
    first_step: int = 0,
    callback: _Callback | None = None,
    every: int | None = None,
) -> tuple[Tensor, Any]:
    """:func:`generate` with any model, on any device: a loop in Python, and the fused op's oracle.

    Args:
        step: ``step(ids, state) -> (logits, state)``: the logits (B, V) after the last of the ids (B, T). The first
            call reads the whole prefix, each later one the last symbol.
        ids: (B, T), the prefixes, int64; T >= 1.
        num_symbols: n, at least 0.
        state: the first call's.
        temperature: as in :func:`generate`.
        top_k: as in :func:`generate`.
        top_p: as in :func:`generate`.
        seed: as in :func:`generate`.
        streams: as in :func:`generate`.
        first_step: as in :func:`generate`.
        callback: as in :func:`generate`.
        every: as in :func:`generate`.

    Returns:
        ``(symbols, state)``: (B, n), and the last call's state; with n = 0 the state given.

    Raises:
        TypeError: as :func:`generate`, or ``step`` does not return a pair of logits and state.
        ValueError: as :func:`generate`, or the logits are not (B, V).
        MemoryError: as :func:`generate`.
    """
    if not callable(step):
        raise TypeError(f"step must be callable, got {step!r}")
    if not is_integer(ids) or ids.dim() != 2 or ids.size(1) == 0:
        got = tuple(ids.shape) if is_integer(ids) else getattr(ids, "dtype", type(ids).__name__)
        raise ValueError(f"ids must be integers of shape (B, T), T >= 1, got {got}")
    arguments = _Arguments(
        ids.long(),
        num_symbols,
        temperature,
        top_k,
        top_p,
        seed,
        streams,
        first_step,
        callback,
        every,
    )
    return _by_steps(step, None, state, arguments)


class _Arguments:
    """What both ways of generation take, after its checks."""

    def __init__(
        self,
        ids: Tensor,
        num_symbols: int,
        temperature: float,
        top_k: int | None,
        top_p: float | None,
        seed: int | None,
        streams: Tensor | None,
        first_step: int,
        callback: _Callback | None,
        every: int | None,
    ):
        self.num_symbols = check_int("num_symbols", num_symbols, 0)
        self.first_step = check_int("first_step", first_step, 0)
        self.every = None if every is None else check_int("every", every, 1)
        if callback is not None and not callable(callback):
            raise TypeError(f"callback must be callable, got {callback!r}")
        self.ids, self.callback = ids, callback
        self.choice: Choice = check_choice(temperature, top_k, top_p, seed)
        self.streams = _check_streams(streams, ids.size(0))


class _Stepper(Protocol):
    state: Any
    first_chunk: int

    def advance(self, num_symbols: int) -> Tensor: ...


def _fused(
    weights: Weights,
    read: Callable[[Tensor, Tensor | None], Tensor],
    h_0: Tensor | None,
    exclude: list[int],
    arguments: _Arguments,
) -> tuple[Tensor, Tensor]:
    """Runs the op after ``read(ids, h_0)`` has read all of the prefix but its last symbol."""
    ids, hidden = arguments.ids, weights.layers[0].weight_hh
    state = h_0
    if ids.size(1) > 1 and ids.size(0) > 0:
        state = read(ids[:, :-1], h_0)
    if state is None:
        state = hidden.new_zeros(len(weights.layers), ids.size(0), hidden.size(0))
    stepper = Fused(
        weights,
        ids[:, -1].contiguous(),
        state,
        arguments.streams,
        arguments.first_step,
        arguments.choice,
        exclude,
    )
    symbols: Tensor = _drive(stepper, arguments)
    return symbols, stepper.state


def _by_steps(
    step: Step,
    read: Callable[[Tensor, Any], Any] | None,
    state: Any,
    arguments: _Arguments,
) -> tuple[Tensor, Any]:
    ids = arguments.ids
    if arguments.num_symbols == 0 and read is not None and ids.size(1) > 1:
        state = read(ids[:, :-1], state)
    stepper = StepByStep(
        step, ids, state, arguments.streams, arguments.first_step, arguments.choice
    )
    symbols: Tensor = _drive(stepper, arguments)
    return symbols, stepper.state


@outside_graphs
def _drive(stepper: _Stepper, arguments: _Arguments) -> Tensor:
    """All symbols (B, n), in chunks that take little time, with callbacks between them."""
    total, every, callback = arguments.num_symbols, arguments.every, arguments.callback
    ids = arguments.ids
    symbols = new_symbols("num_symbols", ids.size(0), total, ids.device)
    done, reported, chunk = 0, 0, stepper.first_chunk
    while done < total:
        count = min(chunk, total - done)
        started = time.perf_counter()
        new = stepper.advance(count)
        _check_symbols(new, done)
        seconds = time.perf_counter() - started
        chunk = max(1, min(_GROWTH * count, int(count * _CHUNK_SECONDS / max(seconds, 1e-9))))
        symbols[:, done : done + count] = new
        done += count
        while callback is not None and (
            done - reported >= (every or 1) or reported < done == total
        ):
            end = min(reported + every, done) if every else done
            callback(symbols[:, reported:end].clone())  # it may write to its argument
            reported = end
    return symbols


def _check_symbols(symbols: Tensor, done: int) -> None:
    if symbols.numel() == 0 or int(symbols[:, -1].min()) >= 0:
        return
    row, symbol = (symbols < 0).nonzero()[0].tolist()
    raise ValueError(
        f"the logits of row {row} for symbol {done + symbol} are not finite; the parameters or the "
        "states are broken"
    )


def _check_prefix(ids: Tensor, vocab_size: int, device: torch.device) -> tuple[Tensor, bool]:
    """The ids as (B, T), and whether they have a batch."""
    ids = check_ids(ids, vocab_size, device)
    if ids.dim() not in (1, 2) or ids.size(-1) == 0:
        raise ValueError(
            f"ids must be (B, T), or (T,) unbatched, with T >= 1, got {tuple(ids.shape)}"
        )
    return (ids, True) if ids.dim() == 2 else (ids.unsqueeze(0), False)


def _check_h_0(
    h_0: Tensor | None, rnn: nn.RNNBase, batch_size: int, is_batch: bool
) -> Tensor | None:
    """The states as (num_layers, B, H), or None."""
    if h_0 is None:
        return None
    if not isinstance(h_0, Tensor):
        raise TypeError(f"h_0 must be a Tensor, got {type(h_0).__name__}")
    expected = (rnn.num_layers, *([batch_size] if is_batch else []), rnn.hidden_size)
    weight: Any = rnn.weight_hh_l0
    if h_0.shape != expected or h_0.dtype != weight.dtype or h_0.device != weight.device:
        raise ValueError(
            f"h_0 must be {expected}, {weight.dtype} on {weight.device} like the weights, got "
            f"{tuple(h_0.shape)}, {h_0.dtype} on {h_0.device}"
        )
    return h_0 if is_batch else h_0.unsqueeze(1)


def _check_streams(streams: Tensor | None, batch_size: int) -> Tensor:
    """The streams as int64 (B,) on the CPU."""
    if streams is None:
        return torch.arange(batch_size, device="cpu")
    if not is_integer(streams):
        raise TypeError(f"streams must be a tensor of integers, got {streams!r}")
    if streams.shape != (batch_size,):
        raise ValueError(
            f"streams must be ({batch_size},), one per row, got {tuple(streams.shape)}"
        )
    low, high = value_range(streams) if batch_size else (0, 0)
    if low < 0:
        raise ValueError(f"streams must be at least 0, got {low}")
    if high >= 2**63:
        raise ValueError(f"streams must lie in 0 .. 2 ** 63 - 1, got {high}")
    return streams.long().cpu().contiguous()


def _check_exclude(exclude: Iterable[int] | Tensor, vocab_size: int) -> list[int]:
    if isinstance(exclude, Tensor) and is_integer(exclude):
        exclude = exclude.flatten().tolist()
    if not isinstance(exclude, Iterable):
        raise TypeError(f"exclude must hold ids, got {exclude!r}")
    excluded = []
    for index in exclude:
        excluded.append(as_int("exclude must hold ids, ints", index))
        if not 0 <= excluded[-1] < vocab_size:
            raise IndexError(f"exclude must hold ids in [0, {vocab_size}), got {index}")
    if len(set(excluded)) == vocab_size:
        raise ValueError(f"exclude must leave a symbol, got every id in [0, {vocab_size})")
    return excluded
