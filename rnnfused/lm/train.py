"""The training program: text in, a trained model out."""

import os
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import get_num_threads

from .checkpoint import CheckpointError, SavedRun, UnfinishedRunError, saved_run
from .checkpoint.run_folder import RunFolder
from .corpus import Corpus, Text, build_corpus
from .data import letters_only
from .distributed import Workers
from .generate import encode_prefix
from .interrupt import Interrupts
from .metrics import Board
from .plot import check_installed
from .run import Run
from .settings import TrainSettings


def train(
    text: Text,
    out: str | os.PathLike[str],
    settings: TrainSettings = TrainSettings(),
    *,
    valid: Text | None = None,
    test: Text | None = None,
    prefix: str | None = None,
    source: str = "",
    resume: bool = False,
    overwrite: bool = False,
    tensorboard: bool = False,
    profile_gradients: bool = False,
) -> list[dict[str, Any]]:
    """Train a ``CharLM`` on ``text``; print a line per evaluation and a sample at the end.

    The folder ``out`` holds the results: ``model.json`` and the files that it names (the best
    model, the last one, and the state of the run; see ``load_checkpoint``), ``metrics.jsonl`` (one
    JSON object per evaluation), ``loss.png`` and ``perplexity.png``. Each file is replaced as a
    whole, and the checkpoint in one step. A run that is stopped or killed therefore damages none of
    them. A plot that cannot be drawn is a warning on stderr.

    The run saves at every evaluation and every ``settings.save_minutes``. Ctrl-C or SIGTERM ends it
    after the present step, with a save. With ``resume`` it goes on where it was saved, to the same
    next step bit for bit, on the same machine with the same versions and number of threads.

    The folder is locked for the whole run; its checkpoint can be loaded meanwhile. If the lock's
    file or the folder is removed, the run ends before it writes there again.

    Perplexity is ``exp`` of the mean cross-entropy in nats. Validation perplexity is over the
    validation text; the bigram model's is over exactly the same symbols. Training perplexity is the
    mean since the last evaluation while the model learns, dropout included. Speed counts training
    symbols and training time only.

    A step whose loss or gradient is not finite is skipped. After 5 in a row, the run goes back to
    its last saved state and halves the learning rate.

    Started by torchrun, the processes share every batch, and the first one prints and writes.

    Sets torch's global seed. Results repeat, except for the speed, with the same text, settings,
    versions, machine and number of threads, unless ``settings.minutes`` is given.

    Args:
        text: a text, or the path of a UTF-8 file; ``Path("-")`` is standard input. Without
            ``valid``, its end is held out for validation.
        out: folder for the results, made if missing. Files of a finished run are replaced, and
            unfinished files of killed runs are removed.
        settings: hyperparameters, seed and device.
        valid, test: as ``text``. The best model is evaluated on the test text at the end.
        prefix: start of the sample, prepared like the text; at word level, unknown words are
            ``<unk>``. None for the text's first word.
        source: origin of the text, for the record.
        resume: whether to go on from the run that ``out`` holds.
        overwrite: whether to replace a run in ``out`` that is not finished: that was stopped or
            killed before the end of its epochs, its minutes or its patience.
        tensorboard: whether to write curves for TensorBoard into ``out/tensorboard``; needs the
            extra ``rnnfused[tensorboard]``.
        profile_gradients: whether to write ``gradients.json`` and ``gradients.png`` at the end; see
            ``gradient_profile``.

    Returns:
        The rows of ``metrics.jsonl``: dicts with ``epoch``, ``step``, ``train_perplexity``,
        ``validation_perplexity``, ``bigram_perplexity``, ``learning_rate``, ``clipped_share``,
        ``skipped_steps``, ``returns``, ``symbols_per_second``, ``seconds``.

    Raises:
        TypeError: an argument has the wrong type.
        TextError, ValueError: the text is too short, ``prefix`` holds unknown characters, a resumed
            run had other settings or another text, or ``resume`` and ``overwrite`` are both given.
        FileNotFoundError: ``resume``, and ``out`` holds no checkpoint.
        CheckpointError: ``resume``, and the checkpoint is damaged or holds no state of a run.
        UnfinishedRunError: ``out`` holds an unfinished run, and neither ``resume`` nor
            ``overwrite`` is given; nothing was changed.
        FolderBusyError: another run writes to ``out``; raised before training.
        FolderLostError: ``out``, or the lock's file in it, was removed during the run.
        OSError: ``out`` cannot be written to; raised before training where possible.
        ModuleNotFoundError: one of the libraries of ``rnnfused[lm]`` is missing.
        FloatingPointError: training diverged again and again; the last good files stay.
        LostWorkerError: another process of the run ended; ``out`` holds a state to resume from.
        Interrupted: a KeyboardInterrupt; ``out`` holds a state to resume from.
    """
    _check_types(out, settings, prefix)
    for name, value in (
        ("resume", resume),
        ("overwrite", overwrite),
        ("tensorboard", tensorboard),
        ("profile_gradients", profile_gradients),
    ):
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be a bool, got {value!r}")
    if resume and overwrite:
        raise ValueError("overwrite=True and resume=True exclude each other")
    # All three here, to report a missing one before the first epoch.
    check_installed()
    import safetensors.torch  # noqa: F401
    import tqdm  # noqa: F401

    if tensorboard:
        import torch.utils.tensorboard  # noqa: F401

    if settings.letters_only and prefix is not None:
        prefix = letters_only(prefix)
    with ExitStack() as stack:
        workers = Workers(settings.device)
        workers.rows(settings.batch_size)
        stack.enter_context(workers)
        folder = stack.enter_context(RunFolder(out)) if workers.is_first else None
        earlier = None if resume else _replaced(out, overwrite)
        with workers.watched():
            workers.sum(0.0)  # the folder is there now
        # ---- data: text -> ids
        corpus = build_corpus(
            text,
            valid=valid,
            test=test,
            level=settings.level,  # type: ignore[arg-type]
            letters_only=settings.letters_only,
            min_count=settings.min_count,
            validation_fraction=settings.validation_fraction,
            folder=os.path.abspath(out),
            progress=None if workers.is_first else False,
        )
        start = _first_word(corpus) if prefix is None else prefix
        encode_prefix(corpus.vocab, start)
        record = settings.to_json() | {
            "source": source,
            "valid": _name(valid),
            "test": _name(test),
            "threads": get_num_threads(),
        }
        run = Run(corpus, settings, workers, folder, Path(out), record)
        if resume:
            run.resume(out)
        if tensorboard and folder is not None:
            run.board = Board(folder.path, run.progress.step)
            stack.callback(run.board.close)
        with Interrupts(patient=workers.size > 1) as interrupts:
            run.describe()
            if earlier is not None:
                kind = "finished" if earlier.finished else "unfinished"
                run.say(
                    f"replaces the {kind} run in {os.fspath(out)!r}, saved at step {earlier.step}"
                )
            run.loop(interrupts)
        run.finish(start, profile_gradients)
        return run.metrics


def _check_types(out: object, settings: object, prefix: object) -> None:
    if not isinstance(out, (str, os.PathLike)):
        raise TypeError(f"out must be a str or a path, got {out!r}")
    if not isinstance(settings, TrainSettings):
        raise TypeError(f"settings must be a TrainSettings, got {settings!r}")
    if prefix is not None and not isinstance(prefix, str):
        raise TypeError(f"prefix must be a str or None, got {prefix!r}")


def _replaced(out: str | os.PathLike[str], overwrite: bool) -> SavedRun | None:
    """The run that a new one in ``out`` replaces; None without one, or without a step of it.

    Raises:
        UnfinishedRunError: it is unfinished or cannot be read, and ``overwrite`` is false.
    """
    try:
        earlier = saved_run(out)
    except (CheckpointError, OSError) as error:
        if overwrite:
            return None
        raise UnfinishedRunError(
            f"folder {os.fspath(out)!r} holds a file that may be an unfinished run: {error}; "
            "overwrite=True replaces it; or choose another folder"
        ) from None
    if earlier is None or earlier.step == 0:
        return None
    if not (earlier.finished or overwrite):
        raise UnfinishedRunError(
            f"folder {os.fspath(out)!r} holds an unfinished run, saved at step {earlier.step}: "
            "resume=True goes on with it, overwrite=True replaces it; or choose another folder"
        )
    return earlier


def _first_word(corpus: Corpus) -> str:
    start = corpus.vocab.decode(corpus.train[:200])
    # A character that the vocabulary lacks starts no sample.
    word = re.search(r"[^\s\ufffd]{1,20}", start)
    return word[0] if word else start[:20]


def _name(text: Text | None) -> str | None:
    """The name of a text's file, for the record."""
    return os.fspath(text) if isinstance(text, os.PathLike) else None
