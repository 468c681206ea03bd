"""The map between characters and ids."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

UNKNOWN = "<unk>"


class Vocab:
    """The characters of a text, numbered from 1 in sorted order; id 0 is ``"<unk>"``.

    Build it from the *training* part of a text only: what validation text alone contains is then
    unknown, as any new text's symbols would be, and is scored as ``"<unk>"``.

    Args:
        text: the text whose distinct characters make up the vocabulary; not empty.

    Attributes:
        idx_to_token: list of str, the token of each id.
        token_to_idx: dict from token to id.

    Raises:
        TypeError: ``text`` is not a ``str``.
        ValueError: ``text`` is empty.
    """

    idx_to_token: list[str]
    token_to_idx: dict[str, int]

    def __init__(self, text: str):
        if not isinstance(text, str):
            raise TypeError(f"text must be a str, got {type(text).__name__}")
        if not text:
            raise ValueError("text must hold at least one character, got an empty str")
        self._number([UNKNOWN, *sorted(set(text))])

    def _number(self, tokens: list[str]) -> None:
        self.idx_to_token = tokens
        self.token_to_idx = {token: index for index, token in enumerate(tokens)}

    def __len__(self) -> int:
        return len(self.idx_to_token)

    def __contains__(self, token: str) -> bool:
        return token in self.token_to_idx

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Vocab):
            return NotImplemented
        return self.idx_to_token == other.idx_to_token

    __hash__ = None

    def __getitem__(self, token: str | Sequence[str]) -> int | list[int]:
        """Id of one character, or ids of a list of them; 0 for a character it has not got.

        Raises:
            TypeError: neither a ``str`` nor a list or tuple of them.
            ValueError: a ``str`` that is not one character (``encode`` takes whole texts).
        """
        if isinstance(token, (list, tuple)):
            return [self[one] for one in token]
        if not isinstance(token, str):
            raise TypeError(f"token must be a str or a list of str, got {type(token).__name__}")
        if len(token) != 1 and token != UNKNOWN:
            raise ValueError(f"token must be one character, got {token!r}; for a text use encode()")
        return self.token_to_idx.get(token, 0)

    def encode(self, text: str) -> Tensor:
        """Ids of the characters of ``text``: int64 of shape ``(len(text),)``, 0 where unknown.

        Raises:
            TypeError: ``text`` is not a ``str``.
        """
        if not isinstance(text, str):
            raise TypeError(f"text must be a str, got {type(text).__name__}")
        get = self.token_to_idx.get
        return torch.tensor([get(character, 0) for character in text], dtype=torch.long)

    def decode(self, ids: Tensor | Iterable[int]) -> str:
        """Text of a 1-D tensor or an iterable of ids; ``"\\ufffd"`` stands for id 0.

        Raises:
            IndexError: an id below 0 or not below ``len(self)``.
        """
        ids = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        for index in ids:
            if not 0 <= index < len(self):
                raise IndexError(f"ids must lie in 0 .. {len(self) - 1}, got {index}")
        return "".join(self.idx_to_token[index] if index else "\ufffd" for index in ids)

    def to_json(self) -> list[str]:
        """A value for ``json.dump``: the tokens in the order of their ids."""
        return list(self.idx_to_token)

    @classmethod
    def from_json(cls, tokens: list[str]) -> "Vocab":
        """The vocabulary that ``to_json`` described.

        Raises:
            ValueError: not a list of ``"<unk>"`` and then distinct single characters.
        """
        if (
            not isinstance(tokens, list)
            or tokens[:1] != [UNKNOWN]
            or not all(isinstance(token, str) and len(token) == 1 for token in tokens[1:])
            or len(set(tokens)) != len(tokens)
        ):
            raise ValueError(
                f"tokens must be a list of {UNKNOWN!r} and then distinct single characters"
            )
        vocab = cls.__new__(cls)
        vocab._number(list(tokens))
        return vocab
