"""Sampling: read a prefix, then draw symbol after symbol."""

import math

import torch
from torch import Tensor

from .model import CharLM
from .vocab import Vocab


def encode_prefix(vocab: Vocab, prefix: str) -> Tensor:
    """Ids of ``prefix``, int64 of shape ``(1, len(prefix))``.

    Raises:
        TypeError: ``prefix`` is not a ``str``.
        ValueError: it is empty or holds a character that the vocabulary lacks.
    """
    if not isinstance(prefix, str):
        raise TypeError(f"prefix must be a str, got {type(prefix).__name__}")
    if not prefix:
        raise ValueError("prefix must hold at least one character, got an empty str")
    for position, character in enumerate(prefix):
        if character not in vocab:
            raise ValueError(
                f"prefix must consist of symbols of the vocabulary, got {character!r} "
                f"at position {position}"
            )
    return vocab.encode(prefix).unsqueeze(0)


@torch.inference_mode()
def generate(
    model: CharLM,
    vocab: Vocab,
    prefix: str,
    num_chars: int,
    *,
    temperature: float = 0.5,
    seed: int | None = None,
) -> str:
    """``prefix`` continued by ``num_chars`` characters.

    Dropout is off during the call; the model returns to its train or eval mode. ``"<unk>"`` is
    never drawn.

    Args:
        model: on any device.
        vocab: the vocabulary of its training.
        prefix: at least one character, each in ``vocab``.
        num_chars: number of characters to add, at least 0.
        temperature: divides the logits before each draw. Below 1 favours likely symbols, above 1
            makes the choice more uniform, and 0 always takes the most likely symbol.
        seed: makes the result repeatable, 0 to 2 ** 63 - 1; None uses torch's global generator.

    Raises:
        TypeError, ValueError: an argument has the wrong type or is out of range, ``vocab`` does
            not have the model's size, or the model's logits are not finite.
    """
    if isinstance(num_chars, bool) or not isinstance(num_chars, int):
        raise TypeError(f"num_chars must be an int, got {num_chars!r}")
    if num_chars < 0:
        raise ValueError(f"num_chars must be at least 0, got {num_chars}")
    if not (0 <= temperature < math.inf):
        raise ValueError(f"temperature must be finite and at least 0, got {temperature}")
    if seed is not None and not 0 <= seed < 2**63:
        raise ValueError(f"seed must lie in 0 .. 2 ** 63 - 1, got {seed}")
    if len(vocab) != model.config.vocab_size:
        raise ValueError(
            f"vocab must have the model's vocab_size={model.config.vocab_size}, got {len(vocab)}"
        )
    device = model.device
    ids = encode_prefix(vocab, prefix).to(device)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    was_training = model.training
    model.eval()
    try:
        added: list[int] = []
        state = None
        while len(added) < num_chars:
            # The first call reads the whole prefix, each later one the last drawn symbol.
            logits, state = model(ids, state)
            index = _draw(logits[0, -1].double().cpu(), temperature, generator)
            added.append(index)
            ids = torch.tensor([[index]], device=device)
        return prefix + vocab.decode(added)
    finally:
        model.train(was_training)


def _draw(logits: Tensor, temperature: float, generator: torch.Generator | None) -> int:
    """An id drawn by its logits, float64 of shape ``(V,)``; never id 0."""
    if not logits.isfinite().all():
        raise ValueError("model returns logits that are not finite; its parameters are broken")
    known = logits[1:]
    if temperature == 0:
        return 1 + int(known.argmax())
    # Shifting the largest logit to 0 keeps even the smallest temperature from overflowing.
    probabilities = torch.softmax((known - known.max()) / temperature, dim=0)
    return 1 + int(torch.multinomial(probabilities, 1, generator=generator))
