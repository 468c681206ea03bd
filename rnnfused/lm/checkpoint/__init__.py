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
from rnnfused.wording import quantity

from ..model import CharLM, CharLMConfig
from ..vocabulary import Vocabulary, vocabulary_from_json
from . import store
from .atomic import remove_temporaries
from .lock import FolderBusyError, FolderLock, FolderLostError
from .store import RECORD, CheckpointError

FILES = tuple(store.STEMS)

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "FolderBusyError",
    "FolderLostError",
    "RunState",
    "UnfinishedRunError",
    "load_checkpoint",
    "load_run",
    "save_checkpoint",
]


class Checkpoint(NamedTuple):
    """Result of ``load_checkpoint``: the model in eval mode, its vocabulary, and model.json."""

    model: CharLM
    vocab: Vocabulary
    record: dict[str, Any]


class RunState(NamedTuple):
    """All that a stopped run goes on from, beside settings, metrics and the best model.

    Attributes:
        last: the model of the last step, averaged if the run averages.
        tensors: weights, optimizer, hidden state, random numbers; any names, dtypes and shapes.
        progress: counters and clocks; must fit ``json.dump``.
        text: identifies text and vocabulary.
    """

    last: CharLM
    tensors: dict[str, Tensor]
    progress: dict[str, Any]
    text: str


def save_checkpoint(
    folder: str | os.PathLike[str],
    model: CharLM,
    vocab: Vocabulary,
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


class UnfinishedRunError(FileExistsError):
    """The folder holds a run that is not finished, which a new one would replace."""


class SavedRun(NamedTuple):
    """Result of ``saved_run``: the step of the last save, and whether that was the run's end."""

    step: int
    finished: bool


def saved_run(folder: str | os.PathLike[str]) -> SavedRun | None:
    """How far the run in ``folder`` went; None without a run.

    A run of an earlier version, which recorded no end, is unfinished: to refuse it loses nothing.

    Raises:
        CheckpointError: the record is damaged or foreign.
        OSError: the record cannot be read.
    """
    path = Path(folder) / store.RECORD
    if not path.is_file():  # reading a pipe would block
        return None
    progress = store.parse(path.read_bytes(), path).get("progress")
    if not isinstance(progress, dict) or not isinstance(progress.get("step"), int):
        return None
    return SavedRun(progress["step"], progress.get("finished") is True)


def describe(
    model: CharLM,
    vocab: Vocabulary,
    settings: dict[str, Any],
    metrics: list[dict[str, Any]],
    run: RunState | None = None,
) -> tuple[dict[str, bytes], str]:
    """The arguments of ``store.write``: contents by file name, and the record's text.

    Raises:
        ValueError: as ``save_checkpoint``.
    """
    weights = _weights(model)
    name = store.content_name("weights", weights)
    files = {name: weights}
    config = model.config.to_json()
    record = {
        "format": store.FORMAT,
        "weights": name,
        "config": config,
        "vocab": vocab.to_json(),
        "settings": settings,
        "metrics": metrics,
        "versions": {
            "rnnfused": rnnfused.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        # Ties weights, config and vocabulary to each other.
        "sha256": _sum(config, vocab, weights),
    }
    if run is not None:
        contents = {"last": _weights(run.last), "training": _bytes(run.tensors)}
        names = {field: store.content_name(field, data) for field, data in contents.items()}
        files |= {names[field]: data for field, data in contents.items()}
        record |= names | {"progress": run.progress, "text": run.text}
        record["run_sha256"] = _run_sum(record, contents)
    return files, json.dumps(record, indent=1, allow_nan=False) + "\n"


def _weights(model: CharLM) -> bytes:
    """The file of a model's weights."""
    tensors = model.state_dict()
    _check_dtypes(tensors)
    return _bytes(tensors)


def _bytes(tensors: dict[str, Tensor]) -> bytes:
    from safetensors.torch import save

    data: bytes = save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
    return data


def load_checkpoint(
    folder: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    *,
    which: str = "best",
) -> Checkpoint:
    """Read a checkpoint of ``save_checkpoint`` or of ``train``, or of the earlier formats 1 and 2.

    Takes no lock and never fails because of a run that writes to the folder: it returns the newest
    committed model.

    It validates the format number, the config and the vocabulary; the SHA-256 sum over weights,
    config and vocabulary together; and the weights, which must be all float32 or all float64 and
    fit the config. Settings, metrics and versions are returned unchecked. The sum detects damage
    and mix-ups. It is no signature: anyone who edits the files can record a new sum.

    Args:
        device: where the model goes.
        which: ``"best"``, the model of a run's lowest validation perplexity, or ``"last"``, that of
            its last step. A folder with one model has it as both.

    Raises:
        FileNotFoundError: the folder or one of its files is missing.
        CheckpointError: one of the checks failed.
        ValueError: ``which`` is another word.
    """
    if which not in ("best", "last"):
        raise ValueError(f"which must be 'best' or 'last', got {which!r}")
    folder = Path(folder)
    record, names, contents = store.read(folder, {"weights"} if which == "best" else FILES)
    config, vocab = _model_of(folder, record, names, contents)
    field = "weights"
    if "last" in contents:
        _check_run(folder, record, contents)
        field = "last"
    model = _built(folder, config, contents[field], names[field])
    return Checkpoint(model.to(device).eval(), vocab, record)


def load_run(folder: str | os.PathLike[str]) -> tuple[Checkpoint, dict[str, Tensor]]:
    """What a stopped run goes on from: its best model, and the tensors of its ``RunState``.

    Raises:
        FileNotFoundError, CheckpointError: as ``load_checkpoint``; the second also if the folder
            holds a model without the state of a run.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    folder = Path(folder)
    try:
        record, names, contents = store.read(folder, FILES)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"nothing to resume: {error}") from None
    config, vocab = _model_of(folder, record, names, contents)
    if "training" not in contents:
        raise CheckpointError(
            f"{str(folder)!r} holds a model that no run can go on from: save_checkpoint or an "
            "earlier version of rnnfused wrote it"
        )
    _check_run(folder, record, contents)
    best = _built(folder, config, contents["weights"], names["weights"])
    try:
        tensors: dict[str, Tensor] = load(contents["training"])
    except SafetensorError as error:
        raise CheckpointError(f"{names['training']} in {str(folder)!r}: {error}") from None
    return Checkpoint(best, vocab, record), tensors


def _model_of(
    folder: Path, record: dict[str, Any], names: dict[str, str], contents: dict[str, bytes]
) -> tuple[CharLMConfig, Vocabulary]:
    """The configuration and the vocabulary of ``record``, checked with the weights to use."""
    weights = contents["weights"]
    damaged = f"{str(folder / RECORD)!r} is damaged"
    try:
        config = CharLMConfig.from_json(record.get("config"))
        vocab = vocabulary_from_json(record.get("vocab"))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{damaged}: {error}") from None
    if len(vocab) != config.vocab_size:
        raise CheckpointError(
            f"{damaged}: vocab has {quantity(len(vocab), 'symbol')}, "
            f"but config says vocab_size={config.vocab_size}"
        )
    if _sum(record["config"], vocab, weights) != record.get("sha256"):
        raise CheckpointError(
            f"{names['weights']} or {RECORD} in {str(folder)!r} is damaged, or they are not "
            "of the same run: the SHA-256 sum of weights, config and vocab is not the recorded one"
        )
    return config, vocab


def _built(folder: Path, config: CharLMConfig, weights: bytes, name: str) -> CharLM:
    """The model of ``config`` with the weights of the file ``name``."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(weights)
        _check_dtypes(tensors)
        # Without storage at first, so that a config that does not fit cannot fill the memory.
        model = CharLM(config, device="meta")
        model.load_state_dict(tensors, assign=True)
    except (SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{name} in {str(folder)!r} does not fit the config in {RECORD}: {error}"
        ) from None
    return model


def _check_run(folder: Path, record: dict[str, Any], contents: dict[str, bytes]) -> None:
    """Validate the state of a run by its sum."""
    whole = {"last", "training"} <= contents.keys()
    if not whole or _run_sum(record, contents) != record.get("run_sha256"):
        raise CheckpointError(
            f"the state of the run in {str(folder)!r} is damaged, or its files are not of one run: "
            f"the SHA-256 sum of {record.get('last')}, {record.get('training')} and their entries "
            f"in {RECORD} is not the recorded one"
        )


def _sum(config: dict[str, Any], vocab: Vocabulary, weights: bytes) -> str:
    """SHA-256 over config and vocabulary as one line of canonical JSON, then the weights.

    Args:
        config: as recorded; an earlier version's has fewer fields.
    """
    line = _canonical({"config": config, "vocab": vocab.to_json()})
    return hashlib.sha256(line + weights).hexdigest()


def _run_sum(record: dict[str, Any], contents: dict[str, bytes]) -> str:
    """SHA-256 over a run's entries in the record, then its files."""
    fields = ("sha256", "settings", "metrics", "progress", "text")
    line = _canonical({field: record.get(field) for field in fields})
    return hashlib.sha256(line + contents["last"] + contents["training"]).hexdigest()


def _canonical(value: object) -> bytes:
    return (json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n").encode("ascii")


def _check_dtypes(tensors: dict[str, Tensor]) -> None:
    dtypes = {tensor.dtype for tensor in tensors.values()}
    if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:
        names = ", ".join(sorted(map(str, dtypes)))
        raise ValueError(f"weights must be float32 or float64, all of the same, got {names}")
