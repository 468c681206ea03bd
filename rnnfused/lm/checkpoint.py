"""A trained model on disk: ``model.safetensors``, the weights, and ``model.json``, all the rest."""

import hashlib
import json
import os
import platform
from pathlib import Path
from typing import NamedTuple

import torch

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

    Both are written beside their targets first and then moved into place, one after the other.

    Args:
        settings: how it was trained, for the record; must fit ``json.dump``.
        metrics: one dict a pass, for the record; likewise.

    Raises:
        OSError: the folder is missing or cannot be written to.
        ValueError: ``settings`` or ``metrics`` hold infinities or NaN.
    """
    from safetensors.torch import save

    weights = save({name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()})
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
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    with replacing(Path(folder, WEIGHTS), Path(folder, RECORD)) as [new_weights, new_record]:
        new_weights.write_bytes(weights)
        new_record.write_text(text, encoding="utf-8")


def load_checkpoint(folder: str | os.PathLike, device: str | torch.device = "cpu") -> Checkpoint:
    """Read what ``save_checkpoint`` wrote.

    Raises:
        FileNotFoundError: the folder or one of its two files is missing.
        CheckpointError: a file is damaged, or the two do not fit each other.
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
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"{str(record_path)!r} is not JSON: {error}") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else None
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
    if hashlib.sha256(weights).hexdigest() != record.get("weights_sha256"):
        raise CheckpointError(
            f"{WEIGHTS} in {str(folder)!r} is damaged, or not of the same run as {RECORD}: "
            "its SHA-256 sum is not the recorded one"
        )
    # Without storage at first: a config that does not fit must not allocate whatever it says.
    model = CharLM(config, device="meta")
    try:
        model.load_state_dict(load(weights), assign=True)
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(
            f"{WEIGHTS} in {str(folder)!r} does not fit the config in {RECORD}: {error}"
        ) from None
    return Checkpoint(model.to(device).eval(), vocab, record)
