"""The training program: data, model, optimiser, loop, log."""

import math
import os
import re
import sys
import time

import torch
from torch.nn import functional as F

from rnnfused import clip_gradients

from .batches import StreamBatches
from .bigram import fit_bigram
from .generate import encode_prefix, generate
from .messages import for_stream
from .model import CharLM, CharLMConfig
from .perplexity import evaluate, perplexity
from .plot import check_installed
from .results import RunFolder
from .settings import TrainSettings
from .text import letters_only, split_text
from .vocab import Vocab


def train(
    text: str,
    out: str | os.PathLike,
    settings: TrainSettings = TrainSettings(),
    *,
    prefix: str | None = None,
    source: str = "",
) -> list[dict]:
    """Train a ``CharLM`` on ``text``; print a line a pass and, at the end, a sample.

    After each pass the folder ``out`` holds, all of that pass, ``model.json`` and the weights that
    it names (see ``load_checkpoint``), ``metrics.jsonl`` (one JSON object a pass) and
    ``loss.png``. Each file is replaced whole, and the model in one step, so stopping or killing a
    run at any moment damages none of them. A plot that cannot be drawn is a warning on stderr.

    The folder is locked for the whole run. Others may load its checkpoint meanwhile.

    Perplexity is ``exp`` of the mean cross-entropy in nats. Validation perplexity is that of the
    model at the end of a pass, over the held-out end of the text; the bigram model's is over
    exactly the same symbols. Training perplexity is the mean over the pass while the model learns,
    dropout included. Speed counts training symbols only, over the training time only.

    Sets torch's global seed. The same text, settings, versions, machine and number of threads give
    the same figures but for the speed.

    Args:
        text: the whole text; its end is held out for validation.
        out: folder for the results, made if missing; the files of an earlier run are replaced, and
            what killed runs left unfinished is removed.
        settings: see there.
        prefix: what the sample begins with, prepared as the text is; None takes the text's first
            word.
        source: where the text comes from, for the record.

    Returns:
        The rows of ``metrics.jsonl``: dicts with ``pass``, ``train_perplexity``,
        ``validation_perplexity``, ``bigram_perplexity``, ``symbols_per_second``, ``seconds``.

    Raises:
        TextError, ValueError: the text is too short, or ``prefix`` holds unknown symbols.
        FolderBusyError: another run writes to ``out``; said before anything is done.
        OSError: ``out`` cannot be written to; likewise.
        ModuleNotFoundError: one of the libraries of ``rnnfused[lm]`` is missing.
        FloatingPointError: training diverged; the files of the last good pass are kept.
    """
    # All three here, so that a missing one is found now and not after the first pass.
    check_installed()
    import safetensors.torch  # noqa: F401
    import tqdm  # noqa: F401

    if settings.letters_only:
        text, prefix = letters_only(text), None if prefix is None else letters_only(prefix)
    with RunFolder(out) as folder:
        return _train(text, folder, settings, prefix, source)


def _train(
    text: str, folder: RunFolder, settings: TrainSettings, prefix: str | None, source: str
) -> list[dict]:
    from tqdm import tqdm

    # ---- data: text -> ids -> windows
    train_text, validation_text = split_text(text, settings.validation_fraction)
    vocab = Vocab(train_text)
    if prefix is None:
        word = re.search(r"\S{1,20}", train_text)
        prefix = word[0] if word else train_text[:20]
    encode_prefix(vocab, prefix)
    # As narrow as they can be; what reads them widens a window at a time.
    narrow = vocab.smallest_dtype()
    train_ids = vocab.encode(train_text, narrow).to(settings.device)
    validation_ids = vocab.encode(validation_text, narrow).to(settings.device)
    train_batches = StreamBatches(train_ids, settings.batch_size, settings.num_steps)
    # A short validation part gets fewer, longer streams, and so fewer cold starts.
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
    print(
        f"text: {len(train_text):,} characters to train on, {len(validation_text):,} to validate "
        f"on, {len(vocab)} symbols; model: {parameters:,} parameters",
        flush=True,
    )

    # ---- optimiser
    updates = settings.passes * len(train_batches)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda update: warmup_cosine(update, updates)
    )

    # ---- loop
    metrics = []
    for index in range(1, settings.passes + 1):
        start = time.perf_counter()
        state, total_nats = None, 0.0
        progress = tqdm(
            train_batches,
            f"pass {index}/{settings.passes}",
            leave=False,
            # None: on a terminal only. A closed stderr is no stream at all.
            disable=sys.stderr is None or None,
            unit="window",
        )
        for x, y in progress:
            logits, state = model(x, state)
            # The state goes on, the gradient stops: truncated backpropagation through time.
            state = state.detach()
            loss = F.cross_entropy(logits.flatten(0, 1), y.flatten().long())
            optimizer.zero_grad()
            loss.backward()
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
        print(_line(row, settings.passes), flush=True)

    sample = for_stream(generate(model, vocab, prefix, 500, seed=settings.seed), sys.stdout)
    print(f"\nsample:\n{sample}", flush=True)
    return metrics


def _check_converging(row: dict, settings: TrainSettings) -> None:
    if not all(map(math.isfinite, row.values())):
        raise FloatingPointError(
            f"training diverged in pass {row['pass']}: validation perplexity is "
            f"{row['validation_perplexity']}; lower lr={settings.lr} or clip={settings.clip}"
        )


def _line(row: dict, passes: int) -> str:
    return (
        f"pass {row['pass']}/{passes}  perplexity: training {row['train_perplexity']:.3f}, "
        f"validation {row['validation_perplexity']:.3f} (bigram {row['bigram_perplexity']:.3f})  "
        f"{row['symbols_per_second']:,.0f} symbols/s"
    )


def warmup_cosine(update: int, updates: int) -> float:
    """Share of the highest learning rate at ``update`` of ``updates``, both counted from 0.

    Rises linearly over the first twentieth, then falls to 1/50 along half a cosine: Loshchilov and
    Hutter, *SGDR: Stochastic Gradient Descent with Warm Restarts*, 2017, without the restarts.
    """
    warmup = max(1, updates // 20)
    if update < warmup:
        return (update + 1) / warmup
    progress = (update - warmup) / max(1, updates - warmup)
    return 0.02 + 0.98 * (1 + math.cos(math.pi * progress)) / 2
