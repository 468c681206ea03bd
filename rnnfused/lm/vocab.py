"""The map between characters and ids, and between a text and a tensor of ids."""

import ctypes
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, TypeVar, overload

import torch
from torch import Tensor

from rnnfused.arguments import value_range

# Signed and unsigned dtypes that torch can index with, narrowest first.
_DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)

# Characters or ids converted at once, so that a large text needs little extra memory. torch does
# not divide so few among threads, which would take many times longer on a busy machine.
_PIECE = 2**15

UNKNOWN = "<unk>"


class Tokens:
    """Numbered tokens: the part that vocabularies of both levels share."""

    level: str
    idx_to_token: list[str]
    token_to_idx: dict[str, int]

    def _number(self, tokens: list[str]) -> None:
        self.idx_to_token = tokens
        self.token_to_idx = {token: index for index, token in enumerate(tokens)}

    def __len__(self) -> int:
        return len(self.idx_to_token)

    def __contains__(self, token: str) -> bool:
        return token in self.token_to_idx

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, type(self)):
            return NotImplemented
        return self.idx_to_token == other.idx_to_token

    __hash__ = None  # type: ignore[assignment]

    def smallest_dtype(self) -> torch.dtype:
        """The narrowest dtype that holds every id: ``torch.uint8``, ``int16`` or ``int32``."""
        return smallest_dtype(len(self))


class Vocab(Tokens):
    """The characters of a text, numbered from 1 in sorted order; id 0 is ``"<unk>"``.

    Build it from the *training* part of a text only. Characters that occur only in validation text
    are then unknown, as those of any new text would be, and count as ``"<unk>"``.

    Args:
        text: the text whose distinct characters form the vocabulary; not empty.

    Attributes:
        idx_to_token: list of str, the token of each id.
        token_to_idx: dict from token to id.
        level: ``"char"``; a ``WordVocab`` has ``"word"``.

    Raises:
        TypeError: ``text`` is not a ``str``.
        ValueError: ``text`` is empty.
    """

    level: Literal["char"] = "char"

    def __init__(self, text: str):
        if not isinstance(text, str):
            raise TypeError(f"text must be a str, got {type(text).__name__}")
        if not text:
            raise ValueError("text must hold at least one character, got an empty str")
        self._number([UNKNOWN, *sorted(set(text))])

    @classmethod
    def from_counts(cls, counts: Mapping[str, int], min_count: int = 1) -> "Vocab":
        """The vocabulary of the characters that occur at least ``min_count`` times.

        Args:
            counts: the number of occurrences of each character, as of ``collections.Counter``.

        Raises:
            ValueError: a key is not one character, or no character is that frequent.
        """
        tokens = frequent(counts, min_count, "character")
        return cls.from_json([UNKNOWN, *sorted(tokens)])

    def _number(self, tokens: list[str]) -> None:
        super()._number(tokens)
        # Made when first needed, by dtype.
        self._made: dict[torch.dtype, tuple[Tensor, bytes]] = {}

    @overload
    def __getitem__(self, token: str) -> int: ...
    @overload
    def __getitem__(self, token: list[str] | tuple[str, ...]) -> list[int]: ...
    def __getitem__(self, token: str | list[str] | tuple[str, ...]) -> int | list[int]:
        """Id of one character, or ids of a list of characters; 0 for an unknown one.

        Raises:
            TypeError: ``token`` is neither a ``str`` nor a list or tuple of ``str``.
            ValueError: a ``str`` is not one character; use ``encode`` for texts.
        """
        if isinstance(token, (list, tuple)):
            return [self[one] for one in token]
        if not isinstance(token, str):
            raise TypeError(f"token must be a str or a list of str, got {type(token).__name__}")
        if len(token) != 1 and token != UNKNOWN:
            raise ValueError(f"token must be one character, got {token!r}; for a text use encode()")
        return self.token_to_idx.get(token, 0)

    def split(self, text: str) -> list[str]:
        """The characters of ``text``, the strings that ``encode`` maps to ids."""
        return list(text)

    def encode(self, text: str, dtype: torch.dtype = torch.long) -> Tensor:
        """Ids of the characters of ``text``: shape ``(len(text),)``, 0 where unknown.

        Needs a few megabytes beyond the result, whatever the length of the text.

        Args:
            dtype: ``torch.int64``, or a narrower one for large texts; see ``smallest_dtype``.

        Raises:
            TypeError: ``text`` is not a ``str``.
            ValueError: ``dtype`` is not uint8, int8, int16, int32 or int64, or too narrow.
        """
        if not isinstance(text, str):
            raise TypeError(f"text must be a str, got {type(text).__name__}")
        check_dtype(dtype, len(self))
        table, ascii_table = self._tables(dtype)
        ids = torch.empty(len(text), dtype=dtype)
        for start, piece in pieces(text):
            part = ids[start : start + len(piece)]
            if dtype == torch.uint8 and piece.isascii():
                # By bytes, which is several times as fast.
                part.copy_(_to_bytes(piece, ascii_table))
            else:
                codes = _to_codes(piece).clamp_(max=len(table) - 1)
                torch.index_select(table, 0, codes, out=part)
        return ids

    def _tables(self, dtype: torch.dtype) -> tuple[Tensor, bytes]:
        """Ids by code point as a tensor of ``dtype``, and those of ASCII, modulo 256, as bytes."""
        if dtype not in self._made:
            codes = _to_codes("".join(self.idx_to_token[1:]))
            # The last entry serves every character above the vocabulary's highest code point.
            table = torch.zeros(int(codes.max()) + 2 if len(codes) else 1, dtype=dtype)
            table[codes.long()] = torch.arange(1, len(self), dtype=dtype)
            by_byte = bytes(self.token_to_idx.get(chr(code), 0) % 256 for code in range(256))
            self._made[dtype] = table, by_byte
        return self._made[dtype]

    def decode(self, ids: Tensor | Iterable[int]) -> str:
        """Text of a 1-D tensor or an iterable of ids; ``"\\ufffd"`` stands for id 0.

        Raises:
            TypeError: a tensor holds no integers.
            ValueError: a tensor is not 1-D.
            IndexError: an id is below 0, or not below ``len(self)``.
        """
        if isinstance(ids, Tensor):
            return self._decode_tensor(ids)
        ids = list(ids)
        for index in ids:
            if not 0 <= index < len(self):
                raise IndexError(f"ids must lie in 0 .. {len(self) - 1}, got {index}")
        return "".join(self.idx_to_token[index] if index else "\ufffd" for index in ids)

    def _decode_tensor(self, ids: Tensor) -> str:
        check_ids(ids)
        table = _to_codes("\ufffd" + "".join(self.idx_to_token[1:]))
        texts = []
        for _, piece in pieces(ids):
            piece = piece.cpu()
            indices = piece.long()
            wrong = ((indices < 0) | (indices >= len(self))).nonzero()
            if len(wrong):
                got = piece[int(wrong[0])].item()
                raise IndexError(f"ids must lie in 0 .. {len(self) - 1}, got {got}")
            texts.append(_to_text(table[indices]))
        return "".join(texts)

    def to_json(self) -> list[str]:
        """A value for ``json.dump``: the tokens in the order of their ids."""
        return list(self.idx_to_token)

    @classmethod
    def from_json(cls, tokens: object) -> "Vocab":
        """The vocabulary that ``to_json`` described.

        Raises:
            ValueError: ``tokens`` is not a list of ``"<unk>"`` and then distinct single characters.
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


def frequent(counts: Mapping[str, int], min_count: int, kind: str) -> list[str]:
    """The keys of ``counts`` that have at least ``min_count``.

    Raises:
        TypeError: ``min_count`` is not an int.
        ValueError: ``min_count`` is below 1, or no key has it; ``kind`` names the keys.
    """
    if isinstance(min_count, bool) or not isinstance(min_count, int):
        raise TypeError(f"min_count must be an int, got {min_count!r}")
    if min_count < 1:
        raise ValueError(f"min_count must be at least 1, got {min_count}")
    tokens = [token for token, count in counts.items() if count >= min_count]
    if not tokens:
        raise ValueError(
            f"no {kind} of the training text occurs min_count={min_count} times; "
            f"the most frequent one occurs {max(counts.values(), default=0)} times"
        )
    return tokens


def smallest_dtype(size: int) -> torch.dtype:
    """The narrowest dtype that holds the ids below ``size``: ``torch.uint8``, int16 or int32."""
    return next(dtype for dtype in _DTYPES if size - 1 <= torch.iinfo(dtype).max)


def check_dtype(dtype: torch.dtype, size: int) -> None:
    """Validate the dtype for ids below ``size``.

    Raises:
        ValueError: ``dtype`` is not uint8, int8, int16, int32 or int64, or too narrow.
    """
    if dtype not in _DTYPES or size - 1 > torch.iinfo(dtype).max:
        raise ValueError(
            "dtype must be torch.uint8, int8, int16, int32 or int64 and hold ids up to "
            f"{size - 1}, got {dtype!r}"
        )


def count_characters(texts: Iterable[str]) -> dict[str, int]:
    """The number of occurrences of each character in all of ``texts``; for large ones."""
    counts = torch.zeros(0, dtype=torch.long)
    for text in texts:
        for _, piece in pieces(text):
            # Several times as fast as collections.Counter, which makes a str of each character.
            codes = _to_bytes(piece) if piece.isascii() else _to_codes(piece)
            found = torch.bincount(codes, minlength=len(counts))
            found[: len(counts)] += counts
            counts = found
    codes = counts.nonzero().squeeze(1)
    return {chr(code): count for code, count in zip(codes.tolist(), counts[codes].tolist())}


def check_ids(ids: Tensor, name: str = "ids", *, dim: int | None = 1) -> None:
    """Validate a tensor of ids from a caller.

    Raises:
        TypeError: ``ids`` is not a tensor of integers.
        ValueError: it does not have ``dim`` dimensions; None accepts any number.
    """
    try:
        # Raises for every dtype that does not count: floating, complex and bool.
        torch.iinfo(ids.dtype)
    except (AttributeError, TypeError):
        got = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
        raise TypeError(f"{name} must be a tensor of integers, got {got}") from None
    if dim is not None and ids.dim() != dim:
        raise ValueError(f"{name} must be {dim}-D, got shape {tuple(ids.shape)}")


def check_in_vocabulary(ids: Tensor, vocab_size: int, name: str = "ids") -> None:
    """Validate the values of ids of any integer dtype.

    Raises:
        IndexError: one is outside ``0 .. vocab_size - 1``.
    """
    for _, piece in pieces(ids.flatten()):
        low, high = value_range(piece)
        if low < 0 or high >= vocab_size:
            raise IndexError(
                f"{name} must lie in 0 .. {vocab_size - 1}, the model's vocabulary, "
                f"got values from {low} to {high}"
            )


_Sliced = TypeVar("_Sliced", str, Tensor)


def pieces(values: _Sliced) -> Iterator[tuple[int, _Sliced]]:
    """Slices of 2 ** 15 characters or ids, each with its start."""
    for start in range(0, len(values), _PIECE):
        yield start, values[start : start + _PIECE]


def _to_codes(text: str) -> Tensor:
    """Code points of ``text``, int32 of shape ``(len(text),)``; lone surrogates keep theirs."""
    # A bytearray, because torch warns about read-only memory.
    data = bytearray(text.encode("utf-32-le", "surrogatepass"))
    return torch.frombuffer(data, dtype=torch.int32) if data else torch.empty(0, dtype=torch.int32)


def _to_bytes(text: str, table: bytes | None = None) -> Tensor:
    """Code points of ASCII ``text``, or what ``table`` maps them to: uint8, ``(len(text),)``."""
    data = bytearray(text, "ascii").translate(table)
    return torch.frombuffer(data, dtype=torch.uint8)


def _to_text(codes: Tensor) -> str:
    """Text of int32 code points of shape ``(N,)`` on the CPU; the inverse of ``_to_codes``."""
    codes = codes.contiguous()
    # Not through NumPy, which sampling does not need otherwise.
    data = ctypes.string_at(codes.data_ptr(), codes.nbytes) if len(codes) else b""
    return data.decode("utf-32-le", "surrogatepass")
