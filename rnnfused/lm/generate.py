"""Sampling: read a prefix, then draw symbol after symbol."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypedDict, overload

import torch
from torch import Tensor

from rnnfused import generation
from rnnfused.arguments import check_int
from rnnfused.generation.memory import new_symbols

from .model import CharLM, check_model
from .vocabulary import Vocabulary, check_vocabulary

if TYPE_CHECKING:  # in typing from Python 3.11 on
    from typing_extensions import Unpack


def encode_prefix(vocab: Vocabulary, prefix: str) -> Tensor:
    """Ids of ``prefix``, int64 of shape ``(1, number of its symbols)``; unknown words are ``<unk>``.

    Raises:
        TypeError: ``prefix`` is not a ``str``.
        ValueError: it is empty or holds a character that the vocabulary lacks.
    """
    if not isinstance(prefix, str):
        raise TypeError(f"prefix must be a str, got {type(prefix).__name__}")
    symbols = vocab.split(prefix)
    if not symbols:
        what = "character" if vocab.level == "char" else vocab.level
        raise ValueError(f"prefix must hold at least one {what}, got {prefix!r}")
    for position, symbol in enumerate(symbols):
        if vocab.level == "char" and symbol not in vocab:
            raise ValueError(
                f"prefix must consist of symbols of the vocabulary, got {symbol!r} "
                f"at position {position}"
            )
    return vocab.encode(prefix).unsqueeze(0)


class _Options(TypedDict, total=False):
    """The options of ``generate`` that its result's type does not depend on."""

    temperature: float
    seed: int | None
    greedy: bool
    top_k: int | None
    top_p: float | None
    first_sample: int


@overload
def generate(
    model: CharLM,
    vocab: Vocabulary,
    prefix: str,
    num_chars: int,
    *,
    num_samples: None = ...,
    callback: Callable[[str], object] | None = ...,
    **options: "Unpack[_Options]",
) -> str: ...


@overload
def generate(
    model: CharLM,
    vocab: Vocabulary,
    prefix: str,
    num_chars: int,
    *,
    num_samples: int,
    callback: Callable[[list[str]], object] | None = ...,
    **options: "Unpack[_Options]",
) -> list[str]: ...


def generate(
    model: CharLM,
    vocab: Vocabulary,
    prefix: str,
    num_chars: int,
    *,
    temperature: float = 0.5,
    seed: int | None = None,
    greedy: bool = False,
    top_k: int | None = None,
    top_p: float | None = None,
    num_samples: int | None = None,
    first_sample: int = 0,
    callback: Callable[[Any], object] | None = None,
) -> str | list[str]:
    """``prefix`` continued by ``num_chars`` symbols: characters, or words at word level.

    Dropout is off during the call; the model returns to its train or eval mode. ``"<unk>"`` is
    never drawn. On the CPU one call of a fused op makes many symbols; see
    :func:`rnnfused.generation.generate`.

    Args:
        model: on any device.
        vocab: the vocabulary of its training.
        prefix: at least one symbol; characters must be in ``vocab``. At word level the result holds
            its words joined by single spaces, with ``"<unk>"`` for those that ``vocab`` lacks.
        num_chars: number of symbols to add, at least 0.
        temperature: divides the logits before each draw. Below 1 favours likely symbols, above 1
            makes the choice more uniform, and 0 always takes the most likely symbol.
        seed: makes the result repeatable, 0 to 2 ** 63 - 1; None uses torch's global generator.
        greedy: always take the most likely symbol, whatever the temperature; not beside ``top_k``
            or ``top_p``.
        top_k: draw among this many most likely symbols only, at least 1; None: among all.
        top_p: draw among the fewest most likely symbols only whose probabilities sum to this
            share, in (0, 1]; None: among all.
        num_samples: number of texts, at least 1, drawn as one batch; None: one text.
        first_sample: number of the first text, at least 0; the numbers of all texts are below
            2 ** 63 - 1. With the same seed a text depends on its number alone, not on
            ``num_samples``.
        callback: called with each piece of text as it comes, about every 20 ms, or with a list of
            the samples' pieces. The first piece starts with the prefix; the pieces join to the
            result.

    Returns:
        The text, or with ``num_samples`` a list of that many.

    Raises:
        TypeError, ValueError: an argument has the wrong type or is out of range, ``vocab`` does
            not have the model's size, or the model's logits are not finite.
        MemoryError: the symbols do not fit in memory.
    """
    check_model(model)
    check_vocabulary(vocab, model.config.vocab_size)
    num_chars = check_int("num_chars", num_chars, 0)
    rows = 1 if num_samples is None else check_int("num_samples", num_samples, 1)
    first_sample = check_int("first_sample", first_sample, 0)
    if first_sample >= 2**63 - rows:
        raise ValueError(
            f"first_sample must be at most {2**63 - 1 - rows}, for {rows} of the 2 ** 63 - 1 texts, "
            f"got {first_sample}"
        )
    if not isinstance(greedy, bool):
        raise TypeError(f"greedy must be a bool, got {greedy!r}")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable, got {callback!r}")
    for name, value in {"top_k": top_k, "top_p": top_p}.items():
        if greedy and value is not None:
            raise ValueError(f"{name} must be None with greedy=True, got {value!r}")
    # The memory is freed at once: this names the argument before anything is drawn.
    larger = "num_chars" if num_chars >= rows else "num_samples"
    new_symbols(larger, rows, max(num_chars, 1), model.device)
    ids = encode_prefix(vocab, prefix)
    shown = prefix if vocab.level == "char" else vocab.decode(ids[0])
    texts = [_Text(vocab, shown, int(ids[0, -1])) for _ in range(rows)]

    def report(symbols: Tensor) -> None:
        pieces = [text.add(row) for text, row in zip(texts, symbols.cpu(), strict=True)]
        if callback is not None:
            callback(pieces[0] if num_samples is None else pieces)

    options: dict[str, Any] = {
        "temperature": 0.0 if greedy else temperature,
        "top_k": top_k,
        "top_p": top_p,
        "seed": seed,
        "streams": torch.arange(first_sample, first_sample + rows, device="cpu"),
        "callback": report,
    }
    _draw(model, ids.to(model.device).expand(rows, -1), num_chars, options)
    if num_chars == 0:
        report(torch.empty((rows, 0), dtype=torch.long))
    return str(texts[0]) if num_samples is None else [str(text) for text in texts]


def _draw(model: CharLM, ids: Tensor, num_symbols: int, options: dict[str, Any]) -> None:
    """Continue the prefixes (B, T); the callback in ``options`` receives the symbols."""
    unknown = [0]
    if type(model) is CharLM and not (model._forward_hooks or model._forward_pre_hooks):
        head = (model.output_weight, model.head.bias)
        generation.generate(
            model.rnn, head, ids, num_symbols, embedding=model.embedding, exclude=unknown, **options
        )
        return

    # What a subclass or a hook does is unknown.
    def step(ids: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        logits, state = model(ids, state)
        last = logits[:, -1].to(torch.float64, copy=True)  # a hook may keep the logits
        last[:, unknown] = -torch.inf
        return last, state

    was_training = model.training
    model.eval()
    try:
        generation.generate_by_steps(step, ids, num_symbols, **options)
    finally:
        model.train(was_training)


class _Text:
    """A text that grows."""

    def __init__(self, vocab: Vocabulary, start: str, last: int):
        self._vocab, self._pieces, self._last = vocab, [start], last
        self._is_new = True

    def add(self, ids: Tensor) -> str:
        """Append the symbols; the piece of text that is new, the first time with the start."""
        # The symbol before them decides whether a space comes first.
        before = self._vocab.decode([self._last])
        piece = self._vocab.decode([self._last, *ids.tolist()])[len(before) :]
        self._last = int(ids[-1]) if len(ids) else self._last
        self._pieces.append(piece)
        if self._is_new:
            self._is_new = False
            return self._pieces[0] + piece
        return piece

    def __str__(self) -> str:
        return "".join(self._pieces)
