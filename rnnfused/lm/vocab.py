"""The map between characters and ids."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from rnnfused.arguments import is_integer

from .codes import pieces, to_codes, to_text
from .messages import shown

# What torch can index and look up with, narrowest first; it lacks the wider unsigned dtypes.
_DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)

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
            raise ValueError(
                f"token must be one character, got {shown(token)}; for a text use encode()"
            )
        return self.token_to_idx.get(token, 0)

    def smallest_dtype(self) -> torch.dtype:
        """The narrowest dtype that holds every id: ``torch.uint8``, ``int16`` or ``int32``."""
        fitting = (dtype for dtype in _DTYPES if len(self) - 1 <= torch.iinfo(dtype).max)
        return next(fitting)

    def encode(self, text: str, dtype: torch.dtype = torch.long) -> Tensor:
        """Ids of the characters of ``text``: shape ``(len(text),)``, 0 where unknown.

        Beside the result it needs a few megabytes, however long the text.

        Args:
            dtype: ``torch.int64``; or a narrower one for large texts, as ``smallest_dtype`` says.

        Raises:
            TypeError: ``text`` is not a ``str``.
            ValueError: ``dtype`` is not uint8, int8, int16, int32 or int64, or too narrow.
        """
        if not isinstance(text, str):
            raise TypeError(f"text must be a str, got {type(text).__name__}")
        if dtype not in _DTYPES or len(self) - 1 > torch.iinfo(dtype).max:
            raise ValueError(
                "dtype must be torch.uint8, int8, int16, int32 or int64 and hold ids up to "
                f"{len(self) - 1}, got {shown(dtype)}"
            )
        codes = to_codes("".join(self.idx_to_token[1:]))
        # Its last entry is for all characters beyond the vocabulary's.
        table = torch.zeros(int(codes.max()) + 2 if len(codes) else 1, dtype=dtype)
        table[codes.long()] = torch.arange(1, len(self), dtype=dtype)
        ids = torch.empty(len(text), dtype=dtype)
        for start, piece in pieces(text):
            codes = to_codes(piece).clamp_(max=len(table) - 1)
            torch.index_select(table, 0, codes, out=ids[start : start + len(piece)])
        return ids

    def decode(self, ids: Tensor | Iterable[int]) -> str:
        """Text of a 1-D tensor or an iterable of ids; ``"\\ufffd"`` stands for id 0.

        Raises:
            TypeError: a tensor that is not of integers.
            ValueError: a tensor that is not 1-D.
            IndexError: an id below 0 or not below ``len(self)``.
        """
        if isinstance(ids, Tensor):
            return self._decode_tensor(ids)
        ids = list(ids)
        for index in ids:
            if not 0 <= index < len(self):
                raise IndexError(f"ids must lie in 0 .. {len(self) - 1}, got {index}")
        return "".join(self.idx_to_token[index] if index else "\ufffd" for index in ids)

    def _decode_tensor(self, ids: Tensor) -> str:
        if not is_integer(ids):
            raise TypeError(f"ids must be a tensor of integers, got {ids.dtype}")
        if ids.dim() != 1:
            raise ValueError(f"ids must be 1-D, got shape {tuple(ids.shape)}")
        table = to_codes("\ufffd" + "".join(self.idx_to_token[1:]))
        texts = []
        for _, piece in pieces(ids):
            piece = piece.cpu().long()
            wrong = piece[(piece < 0) | (piece >= len(self))]
            if len(wrong):
                raise IndexError(f"ids must lie in 0 .. {len(self) - 1}, got {int(wrong[0])}")
            texts.append(to_text(table[piece]))
        return "".join(texts)

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
