"""A trained model on disk: weights in a file named by content, all the rest in ``model.json``."""

import hashlib
import json
import os
import platform
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import rnnfused

from ..model import CharLM, CharLMConfig
from ..vocab import Vocab
from . import store
from .atomic import remove_temporaries
from .lock import FolderBusyError, FolderLock, FolderLostError
from .store import RECORD, CheckpointError

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "FolderBusyError",
    "FolderLostError",
    "load_checkpoint",
    "save_checkpoint",
]


class Checkpoint(NamedTuple):
    """Result of ``load_checkpoint``: the model in eval mode, its vocabulary, and model.json."""

    model: CharLM
    vocab: Vocab
    record: dict[str, Any]


def save_checkpoint(
    folder: str | os.PathLike[str],
    model: CharLM,
    vocab: Vocab,
    *,
    settings: dict[str, Any] | None = None,
    metrics: list[dict[str, Any]] | None = None,
) -> None:
    """Write the model into the existing ``folder`` as its only checkpoint.

    The weights go into ``model-<16 hexadecimal digits of their SHA-256>.safetensors``. Then
    ``model.json``, which names that file, is renamed into place: that one rename is the commit.
    Whenever the writer is stopped or killed, ``load_checkpoint`` finds the earlier model or this
    one. At the end, the earlier model's weights and the files of killed writers are removed.

    The record's ``"sha256"`` is the sum over weights, config and vocabulary together;
    ``load_checkpoint`` verifies it.

    Args:
        model: its parameters are all float32 or all float64.
        settings: training settings, for the record; must fit ``json.dump``.
        metrics: one dict per pass, for the record; must fit ``json.dump``.

    Raises:
        FolderBusyError: another process or thread, such as a training run, writes to the folder.
        FolderLostError: the folder, or the lock's file in it, was removed meanwhile.
        OSError: the folder is missing or cannot be written to.
        ValueError: ``settings`` or ``metrics`` hold infinities or NaN, or the parameters have
            other or mixed dtypes.
    """
    files, record = describe(model, vocab, settings or {}, metrics or [])
    with FolderLock(folder) as lock:
        # Without locks, the temporary files may belong to a running process.
        if lock.excludes:
            remove_temporaries(lock.folder, store.CHECKPOINT_FILES)
        store.write(lock, files, record)


def describe(
    model: CharLM, vocab: Vocab, settings: dict[str, Any], metrics: list[dict[str, Any]]
) -> tuple[dict[str, bytes], str]:
    """The arguments of ``store.write``: contents by file name, and the record's text.

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


def load_checkpoint(
    folder: str | os.PathLike[str], device: str | torch.device = "cpu"
) -> Checkpoint:
    """Read a checkpoint of ``save_checkpoint``, or of its earlier format 1.

    Takes no lock and never fails because of a run that writes to the folder: it returns the newest
    committed model.

    It validates the format number, the config and the vocabulary; the SHA-256 sum over weights,
    config and vocabulary together; and the weights, which must be all float32 or all float64 and
    fit the config. Settings, metrics and versions are returned unchecked. The sum detects damage
    and mix-ups. It is no signature: anyone who edits the files can record a new sum.

    Raises:
        FileNotFoundError: the folder or one of its two files is missing.
        CheckpointError: one of the checks failed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    folder = Path(folder)
    record, names, contents = store.read(folder)
    weights = contents["weights"]
    damaged = f"{str(folder / RECORD)!r} is damaged"
    try:
        config = CharLMConfig.from_json(record.get("config"))
        vocab = Vocab.from_json(record.get("vocab"))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{damaged}: {error}") from None
    if len(vocab) != config.vocab_size:
        raise CheckpointError(
            f"{damaged}: vocab has {len(vocab)} symbols, "
            f"but config says vocab_size={config.vocab_size}"
        )
    if _sum(config, vocab, weights) != record.get("sha256"):
        raise CheckpointError(
            f"{names['weights']} or {RECORD} in {str(folder)!r} is damaged, or they are not "
            "of the same run: the SHA-256 sum of weights, config and vocab is not the recorded one"
        )
    try:
        tensors = load(weights)
        _check_dtypes(tensors)
        # Without storage at first, so that a config that does not fit cannot fill the memory.
        model = CharLM(config, device="meta")
        model.load_state_dict(tensors, assign=True)
    except (SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{names['weights']} in {str(folder)!r} does not fit the config in {RECORD}: {error}"
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
