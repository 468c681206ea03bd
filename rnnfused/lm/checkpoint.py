"""A trained model on disk: ``model.safetensors``, the weights, and ``model.json``, all the rest."""

import hashlib
import json
import os
import platform
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import rnnfused

from .atomic import replacing
from .model import CharLM, CharLMConfig
from .vocab import Vocab

WEIGHTS, RECORD = "model.safetensors", "model.json"
FORMAT = 1


class CheckpointError(ValueError):
    """A checkpoint's files are damaged, or do not belong together."""


class Checkpoint(NamedTuple):
    """What ``load_checkpoint`` returns: the model in eval mode, its vocabulary, and model.json."""

    model: CharLM
    vocab: Vocab
    record: dict


def save_checkpoint(
    folder: str | os.PathLike,
    model: CharLM,
    vocab: Vocab,
    *,
    settings: dict | None = None,
    metrics: list[dict] | None = None,
) -> None:
    """Write ``model.safetensors`` and ``model.json`` into ``folder``, which must exist.

    The record's ``"sha256"`` is the sum of weights, config and vocabulary together, which
    ``load_checkpoint`` checks. Both files are written beside their targets first and then moved
    into place, one after the other.

    Args:
        model: its parameters float32 or float64, all of the same.
        settings: how it was trained, for the record; must fit ``json.dump``.
        metrics: one dict a pass, for the record; likewise.

    Raises:
        OSError: the folder is missing or cannot be written to.
        ValueError: ``settings`` or ``metrics`` hold infinities or NaN, or the parameters are of
            other or mixed dtypes.
    """
    from safetensors.torch import save

    tensors = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    _check_dtypes(tensors)
    weights = save(tensors)
    record = {
        "format": FORMAT,
        "config": model.config.to_json(),
        "vocab": vocab.to_json(),
        "settings": settings or {},
        "metrics": metrics or [],
        "versions": {
            "rnnfused": rnnfused.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        # Ties the two files to each other.
        "sha256": _sum(model.config, vocab, weights),
    }
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    with replacing(Path(folder, WEIGHTS), Path(folder, RECORD)) as [new_weights, new_record]:
        new_weights.write_bytes(weights)
        new_record.write_text(text, encoding="utf-8")


def load_checkpoint(folder: str | os.PathLike, device: str | torch.device = "cpu") -> Checkpoint:
    """Read what ``save_checkpoint`` wrote.

    Checked are the format number, the config and the vocabulary for themselves; that weights,
    config and vocabulary together have the SHA-256 sum that was recorded with them; and that the
    weights are float32 or float64, all of the same, and fit the config. Settings, metrics and
    versions are returned as they are found. The sum shows damage and mix-ups; it is no signature,
    since whoever changes the files can record a new one.

    Raises:
        FileNotFoundError: the folder or one of its two files is missing.
        CheckpointError: one of the checks failed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    folder = Path(folder)
    for path in (folder / RECORD, folder / WEIGHTS):
        if not path.is_file():
            raise FileNotFoundError(f"no checkpoint in {str(folder)!r}: {path.name} is missing")
    record_path, weights = folder / RECORD, (folder / WEIGHTS).read_bytes()
    try:
        record = json.loads(record_path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{str(record_path)!r} is not JSON: {error}") from None
    found = record.get("format") if isinstance(record, dict) else None
    # By type as well: true and 1.0 are equal to 1 in Python.
    if type(found) is not int or found != FORMAT:
        raise CheckpointError(
            f"{str(record_path)!r} must be a checkpoint of format {FORMAT}, got format {found!r}"
        )
    try:
        config = CharLMConfig.from_json(record.get("config"))
        vocab = Vocab.from_json(record.get("vocab"))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{str(record_path)!r} is damaged: {error}") from None
    if len(vocab) != config.vocab_size:
        raise CheckpointError(
            f"{str(record_path)!r} is damaged: vocab has {len(vocab)} symbols, "
            f"but config says vocab_size={config.vocab_size}"
        )
    if _sum(config, vocab, weights) != record.get("sha256"):
        raise CheckpointError(
            f"{WEIGHTS} or {RECORD} in {str(folder)!r} is damaged, or they are not of the same "
            "run: the SHA-256 sum of weights, config and vocab is not the recorded one"
        )
    try:
        tensors = load(weights)
        _check_dtypes(tensors)
        # Without storage at first: a config that does not fit must not allocate whatever it says.
        model = CharLM(config, device="meta")
        model.load_state_dict(tensors, assign=True)
    except (SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{WEIGHTS} in {str(folder)!r} does not fit the config in {RECORD}: {error}"
        ) from None
    return Checkpoint(model.to(device).eval(), vocab, record)


def _sum(config: CharLMConfig, vocab: Vocab, weights: bytes) -> str:
    """SHA-256 over config and vocabulary as one line of canonical JSON, then the weights."""
    described = {"config": config.to_json(), "vocab": vocab.to_json()}
    line = json.dumps(described, sort_keys=True, separators=(",", ":")) + "\n"
    return hashlib.sha256(line.encode("ascii") + weights).hexdigest()


def _check_dtypes(tensors: dict[str, Tensor]) -> None:
    dtypes = {tensor.dtype for tensor in tensors.values()}
    if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:
        names = ", ".join(sorted(map(str, dtypes)))
        raise ValueError(f"weights must be float32 or float64, all of the same, got {names}")
