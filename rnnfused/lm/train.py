"""The training program: settings, data, model, optimizer, loop, log."""

import dataclasses
import math
import os
import re
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from rnnfused import clip_gradients

from .checkpoint.run_folder import RunFolder
from .data import StreamBatches, letters_only, split_text
from .evaluate import evaluate, fit_bigram, perplexity
from .generate import encode_prefix, generate
from .messages import for_stream, show
from .model import CharLM, CharLMConfig, check_count, check_dropout
from .plot import check_installed
from .vocab import Vocab


@dataclass(frozen=True)
class TrainSettings:
    """The settings of ``train``, with defaults tuned on ``default_text()``.

    Every count is at least 1 and at most 2 ** 31 - 1; ``num_layers`` is at most 1000.

    Attributes:
        hidden_size: features of the hidden state.
        num_layers: stacked recurrent layers.
        num_steps: symbols that the gradient flows back through.
        batch_size: parallel streams.
        passes: number of passes over the training text.
        lr: the highest learning rate, above 0 and at most 1. It rises over the first twentieth of
            the updates, then falls along a cosine to a fiftieth.
        weight_decay: of AdamW, at least 0.
        clip: the highest global 2-norm of the gradients, above 0.
        dropout: probability of zeroing a feature of a layer's output, in [0, 1).
        validation_fraction: share of the text held out at its end, between 0 and 1.
        seed: fixes parameters, dropout and the sample; 0 to 2 ** 63 - 1.
        device: training device, as for ``torch.device``.
        letters_only: whether ``letters_only`` prepares the text and the prefix, in training and in
            the command ``rnnfused sample``.

    Raises:
        TypeError, ValueError: an attribute has the wrong type or is out of range.
    """

    hidden_size: int = 256
    num_layers: int = 2
    num_steps: int = 64
    batch_size: int = 16
    passes: int = 8
    lr: float = 2e-3
    weight_decay: float = 0.01
    clip: float = 1.0
    dropout: float = 0.0
    validation_fraction: float = 0.1
    seed: int = 0
    device: str = "cpu"
    letters_only: bool = False

    def __post_init__(self) -> None:
        for name in ("hidden_size", "num_layers", "num_steps", "batch_size", "passes"):
            check_count(name, getattr(self, name))
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise TypeError(f"seed must be an int, got {self.seed!r}")
        check_dropout(self.dropout)
        for name in ("lr", "weight_decay", "clip", "validation_fraction"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{name} must be a float, got {value!r}")
        if not 0 < self.lr <= 1:
            raise ValueError(f"lr must be above 0 and at most 1, got {self.lr}")
        if not 0 < self.clip < math.inf:
            raise ValueError(f"clip must be finite and above 0, got {self.clip}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be finite and at least 0, got {self.weight_decay}")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction must lie between 0 and 1, got {self.validation_fraction}"
            )
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must lie in 0 .. 2 ** 63 - 1, got {self.seed}")
        if not isinstance(self.device, str):
            raise TypeError(f"device must be a str, got {self.device!r}")
        if not isinstance(self.letters_only, bool):
            raise TypeError(f"letters_only must be a bool, got {self.letters_only!r}")
        check_device(self.device)

    def to_json(self) -> dict[str, Any]:
        """A value for ``json.dump``."""
        return dataclasses.asdict(self)


def check_device(device: str) -> torch.device:
    """The device of that name, if it works on this machine.

    Raises:
        ValueError: the device is unknown, missing, or cannot compute.
    """
    try:
        # Some devices, like "meta", allocate but hold no values: read one back.
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"device {device!r} cannot be used here: {reason}") from None
    return torch.device(device)


def train(
    text: str,
    out: str | os.PathLike[str],
    settings: TrainSettings = TrainSettings(),
    *,
    prefix: str | None = None,
    source: str = "",
) -> list[dict[str, Any]]:
    """Train a ``CharLM`` on ``text``; print a line per pass and a sample at the end.

    After each pass the folder ``out`` holds its results: ``model.json`` and the weights that it
    names (see ``load_checkpoint``), ``metrics.jsonl`` (one JSON object per pass) and ``loss.png``.
    Each file is replaced as a whole, and the model in one step. A run that is stopped or killed
    therefore damages none of them. A plot that cannot be drawn is a warning on stderr.

    The folder is locked for the whole run; its checkpoint can be loaded meanwhile. If the lock's
    file or the folder is removed, the run ends before it writes there again.

    Perplexity is ``exp`` of the mean cross-entropy in nats. Validation perplexity is measured at
    the end of a pass, over the held-out end of the text; the bigram model's is over exactly the
    same symbols. Training perplexity is the mean over the pass while the model learns, dropout
    included. Speed counts training symbols and training time only.

    Sets torch's global seed. Results repeat, except for the speed, with the same text, settings,
    versions, machine and number of threads.

    Args:
        text: the whole text; its end is held out for validation.
        out: folder for the results, made if missing. Files of an earlier run are replaced, and
            unfinished files of killed runs are removed.
        settings: hyperparameters, seed and device.
        prefix: start of the sample, prepared like the text; None for the text's first word.
        source: origin of the text, for the record.

    Returns:
        The rows of ``metrics.jsonl``: dicts with ``pass``, ``train_perplexity``,
        ``validation_perplexity``, ``bigram_perplexity``, ``symbols_per_second``, ``seconds``.

    Raises:
        TextError, ValueError: the text is too short, or ``prefix`` holds unknown symbols.
        FolderBusyError: another run writes to ``out``; raised before training.
        FolderLostError: ``out``, or the lock's file in it, was removed during the run.
        OSError: ``out`` cannot be written to; raised before training where possible.
        ModuleNotFoundError: one of the libraries of ``rnnfused[lm]`` is missing.
        FloatingPointError: training diverged; the files of the last good pass stay.
    """
    # All three here, to report a missing one before the first pass.
    check_installed()
    import safetensors.torch  # noqa: F401
    import tqdm  # noqa: F401

    if settings.letters_only:
        text, prefix = letters_only(text), None if prefix is None else letters_only(prefix)
    with RunFolder(out) as folder:
        return _train(text, folder, settings, prefix, source)


def _train(
    text: str, folder: RunFolder, settings: TrainSettings, prefix: str | None, source: str
) -> list[dict[str, Any]]:
    from tqdm import tqdm

    # ---- data: text -> ids -> windows
    train_text, validation_text = split_text(text, settings.validation_fraction)
    vocab = Vocab(train_text)
    if prefix is None:
        word = re.search(r"\S{1,20}", train_text)
        prefix = word[0] if word else train_text[:20]
    encode_prefix(vocab, prefix)
    # Stored in the narrowest dtype; each reader widens one window at a time.
    narrow = vocab.smallest_dtype()
    train_ids = vocab.encode(train_text, narrow).to(settings.device)
    validation_ids = vocab.encode(validation_text, narrow).to(settings.device)
    train_batches = StreamBatches(train_ids, settings.batch_size, settings.num_steps)
    # A short validation part gets fewer, longer streams: fewer starts from a zero state.
    validation_batches = StreamBatches(
        validation_ids,
        max(1, min(settings.batch_size, (len(validation_ids) - 1) // settings.num_steps)),
        min(settings.num_steps, len(validation_ids) - 1),
    )
    bigram_perplexity = fit_bigram(train_ids, len(vocab)).perplexity(validation_batches)

    # ---- model
    torch.manual_seed(settings.seed)
    config = CharLMConfig(
        len(vocab), settings.hidden_size, settings.num_layers, dropout=settings.dropout
    )
    model = CharLM(config, device=settings.device)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    show(
        f"text: {len(train_text):,} characters to train on, {len(validation_text):,} to validate "
        f"on, {len(vocab)} symbols; model: {parameters:,} parameters"
    )

    # ---- optimizer
    updates = settings.passes * len(train_batches)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda update: warmup_cosine(update, updates)
    )

    # ---- loop
    metrics: list[dict[str, Any]] = []
    for index in range(1, settings.passes + 1):
        start = time.perf_counter()
        state, total_nats = None, 0.0
        progress = tqdm(
            train_batches,
            f"pass {index}/{settings.passes}",
            leave=False,
            # None: on a terminal only. A closed stderr is None.
            disable=sys.stderr is None or None,
            unit="window",
        )
        for x, y in progress:
            logits, state = model(x, state)
            # The state is carried over, its gradient is not: truncated BPTT.
            state = state.detach()
            loss = F.cross_entropy(logits.flatten(0, 1), y.flatten().long())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            clip_gradients(settings.clip, model)
            optimizer.step()
            schedule.step()
            nats = loss.item()
            total_nats += nats * y.numel()
            progress.set_postfix(loss=f"{nats:.3f}", refresh=False)
        seconds = time.perf_counter() - start

        # ---- log
        row = {
            "pass": index,
            "train_perplexity": perplexity(total_nats, train_batches.num_symbols),
            "validation_perplexity": evaluate(model, validation_batches),
            "bigram_perplexity": bigram_perplexity,
            "symbols_per_second": train_batches.num_symbols / seconds,
            "seconds": seconds,
        }
        _check_converging(row, settings)
        metrics.append(row)
        record = settings.to_json() | {"source": source}
        folder.save(model, vocab, settings=record, metrics=metrics)
        show(_line(row, settings.passes))

    sample = for_stream(generate(model, vocab, prefix, 500, seed=settings.seed), sys.stdout)
    show(f"\nsample:\n{sample}")
    return metrics


def _check_converging(row: dict[str, Any], settings: TrainSettings) -> None:
    if not all(map(math.isfinite, row.values())):
        raise FloatingPointError(
            f"training diverged in pass {row['pass']}: validation perplexity is "
            f"{row['validation_perplexity']}; lower lr={settings.lr} or clip={settings.clip}"
        )


def _line(row: dict[str, Any], passes: int) -> str:
    return (
        f"pass {row['pass']}/{passes}  perplexity: training {row['train_perplexity']:.3f}, "
        f"validation {row['validation_perplexity']:.3f} (bigram {row['bigram_perplexity']:.3f})  "
        f"{row['symbols_per_second']:,.0f} symbols/s"
    )


def warmup_cosine(update: int, updates: int) -> float:
    """Learning rate at ``update``, counted from 0, of ``updates``: a share of the highest one.

    Rises linearly over the first twentieth, then falls to 1/50 along half a cosine: Loshchilov and
    Hutter, *SGDR: Stochastic Gradient Descent with Warm Restarts*, 2017, without the restarts.
    """
    warmup = max(1, updates // 20)
    if update < warmup:
        return (update + 1) / warmup
    progress = (update - warmup) / max(1, updates - warmup)
    return 0.02 + 0.98 * (1 + math.cos(math.pi * progress)) / 2
