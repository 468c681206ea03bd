"""A trained model on disk: the weights in a file named by content, ``model.json`` all the rest."""

import hashlib
import json
import os
import platform
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import rnnfused

from . import store
from .atomic import remove_temporaries
from .lock import FolderLock
from .messages import shorten, shown
from .model import CharLM, CharLMConfig
from .store import RECORD, CheckpointError
from .vocab import Vocab


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
    """Write the model into ``folder``, which must exist, as the one checkpoint there.

    The weights go into ``model-<16 hexadecimal digits of their SHA-256>.safetensors``. Then
    ``model.json``, which names that file, is renamed into place: that one rename is the commit.
    Whenever the writer is stopped or killed, ``load_checkpoint`` finds the earlier model or this
    one. The earlier model's weights are removed at the end, and what killed writers left behind.

    The record's ``"sha256"`` is the sum of weights, config and vocabulary together, which
    ``load_checkpoint`` checks.

    Args:
        model: its parameters float32 or float64, all of the same.
        settings: how it was trained, for the record; must fit ``json.dump``.
        metrics: one dict a pass, for the record; likewise.

    Raises:
        FolderBusyError: another process or thread is writing to the folder, a training run, say.
        OSError: the folder is missing or cannot be written to.
        ValueError: ``settings`` or ``metrics`` hold infinities or NaN, or the parameters are of
            other or mixed dtypes.
    """
    files, record = describe(model, vocab, settings or {}, metrics or [])
    with FolderLock(folder) as lock:
        # A file system without locks leaves open whose these files are.
        if lock.excludes:
            remove_temporaries(lock.folder, store.CHECKPOINT_FILES)
        store.write(lock.folder, files, record)


def describe(
    model: CharLM, vocab: Vocab, settings: dict, metrics: list[dict]
) -> tuple[dict[str, bytes], str]:
    """What ``store.write`` takes: contents by file name, and the record's text.

    Raises:
        ValueError: as ``save_checkpoint``.
    """
    from safetensors.torch import save

    tensors = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    _check_dtypes(tensors)
    weights = save(tensors)
    name = store.content_name("weights", weights)
    record = {
        "format": store.FORMAT,
        "weights": name,
        "config": model.config.to_json(),
        "vocab": vocab.to_json(),
        "settings": settings,
        "metrics": metrics,
        "versions": {
            "rnnfused": rnnfused.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        # Ties weights, config and vocabulary to each other.
        "sha256": _sum(model.config, vocab, weights),
    }
    return {name: weights}, json.dumps(record, indent=1, allow_nan=False) + "\n"


def load_checkpoint(folder: str | os.PathLike, device: str | torch.device = "cpu") -> Checkpoint:
    """Read what ``save_checkpoint`` wrote, or an earlier version of it (format 1).

    It takes no lock and never fails because of a run that is writing there: it gives the newest
    model that was committed.

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
    record, names, contents = store.read(folder)
    weights = contents["weights"]
    described = shown(str(folder / RECORD))
    try:
        config = CharLMConfig.from_json(record.get("config"))
        vocab = Vocab.from_json(record.get("vocab"))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{described} is damaged: {error}") from None
    if len(vocab) != config.vocab_size:
        raise CheckpointError(
            f"{described} is damaged: vocab has {len(vocab)} symbols, "
            f"but config says vocab_size={config.vocab_size}"
        )
    if _sum(config, vocab, weights) != record.get("sha256"):
        raise CheckpointError(
            f"{names['weights']} or {RECORD} in {shown(str(folder))} is damaged, or they are not "
            "of the same run: the SHA-256 sum of weights, config and vocab is not the recorded one"
        )
    try:
        tensors = load(weights)
        _check_dtypes(tensors)
        # Without storage at first: a config that does not fit must not allocate whatever it says.
        model = CharLM(config, device="meta")
        model.load_state_dict(tensors, assign=True)
    except (SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{names['weights']} in {shown(str(folder))} does not fit the config in {RECORD}: "
            f"{shorten(str(error))}"
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
