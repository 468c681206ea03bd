"""What a run reports: a heading, a row per evaluation, its line, the bar of an epoch, TensorBoard."""

import math
import sys
from pathlib import Path
from typing import Any

from rnnfused.wording import quantity

from .corpus import Corpus
from .evaluate import perplexity
from .settings import TrainSettings
from .training_state import Progress

# Steps between two points of TensorBoard's training curves.
_BOARD_STEPS = 20
# The share of unknown characters from which on it is shown; that of words always is.
_MANY_UNKNOWN = 0.001
# Up to about so many updates, twice as many lower the loss by a third of a bit per character.
_FEW_UPDATES = 1000


def heading(corpus: Corpus, num_parameters: int, num_processes: int) -> str:
    """What is learnt, and by which model: the first line that a run prints."""
    parts: list[str] = []
    for part, purpose in (("train", "train"), ("valid", "validate"), ("test", "test")):
        ids = getattr(corpus, part)
        if ids is None:
            continue
        unit = f" {'characters' if corpus.vocab.level == 'char' else 'words'}" if not parts else ""
        share = corpus.num_unknown[part] / len(ids)
        shown = corpus.vocab.level == "word" or share >= _MANY_UNKNOWN
        unknown = f" ({share:.1%} unknown)" if shown else ""
        parts.append(f"{len(ids):,}{unit} to {purpose} on{unknown}")
    processes = f"; {num_processes} processes" if num_processes > 1 else ""
    return (
        f"text: {', '.join(parts)}, {quantity(len(corpus.vocab), 'symbol')}; "
        f"model: {num_parameters:,} parameters{processes}"
    )


def hint(num_updates: int) -> str:
    """A sentence for a run of so few updates that more of them would help much; else empty."""
    if num_updates >= _FEW_UPDATES:
        return ""
    return (
        f"hint: {quantity(num_updates, 'update')} of the weights {'is' if num_updates == 1 else 'are'} "
        f"few, below {_FEW_UPDATES:,}: more epochs or "
        "smaller batches let the model learn more"
    )


def row_of(
    progress: Progress, num_windows: int, validation: dict[str, float], rate: float
) -> dict[str, Any]:
    """The row of an evaluation, for ``metrics.jsonl``.

    Args:
        progress: with the sums since the last evaluation.
        num_windows: windows of an epoch.
        validation: further entries, measured on the validation text.
        rate: the present learning rate.
    """
    epochs = progress.epoch + progress.window / num_windows
    return {
        "epoch": int(epochs) if epochs.is_integer() else epochs,
        "step": progress.step,
        "train_perplexity": perplexity(progress.nats, max(1, progress.symbols)),
        **validation,
        "learning_rate": rate,
        "clipped_share": progress.clipped / max(1, progress.steps),
        "skipped_steps": progress.skipped,
        "returns": progress.returns,
        "symbols_per_second": progress.symbols / max(1e-9, progress.seconds),
        "seconds": progress.seconds,
    }


def line_of(row: dict[str, Any], settings: TrainSettings, elapsed: float) -> str:
    """The line that a run prints for ``row``.

    Args:
        elapsed: seconds since the run's start.
    """
    epoch = row["epoch"] if isinstance(row["epoch"], int) else f"{row['epoch']:.2f}"
    if settings.minutes is None:
        head = f"epoch {epoch}/{settings.epochs}"
    else:
        head = f"epoch {epoch}, minute {elapsed / 60:.1f}/{settings.minutes:g}"
    skipped = f"  {quantity(row['skipped_steps'], 'step')} skipped" if row["skipped_steps"] else ""
    return (
        f"{head}  perplexity: training {row['train_perplexity']:.3f}, "
        f"validation {row['validation_perplexity']:.3f} (bigram {row['bigram_perplexity']:.3f})  "
        f"clipped {row['clipped_share']:.0%}{skipped}  {row['symbols_per_second']:,.0f} symbols/s"
    )


def is_good(row: dict[str, Any]) -> bool:
    """Whether every number of ``row`` is finite."""
    numbers = [value for value in row.values() if isinstance(value, (int, float))]
    return all(map(math.isfinite, numbers))


class EpochBar:
    """A progress bar per epoch on a terminal's stderr, with the loss of the last step.

    Args:
        num_windows: windows of an epoch.
        epochs: of the run; None where its length is a time.
        shown: whether this process shows it.
    """

    def __init__(self, num_windows: int, epochs: int | None, *, shown: bool):
        self._total, self._epochs, self._shown = num_windows, epochs, shown
        self._bar: Any = None
        self._epoch = -1

    def show(self, progress: Progress, nats: float) -> None:
        """Draw the state of ``progress``; ``nats`` is the last loss."""
        from tqdm import tqdm

        if self._bar is None or self._epoch != progress.epoch:
            self.close()
            number = progress.epoch + 1
            self._bar = tqdm(
                total=self._total,
                initial=progress.window - 1,
                desc=f"epoch {number}" + (f"/{self._epochs}" if self._epochs else ""),
                leave=False,
                # None: on a terminal only. A closed stderr is None.
                disable=not self._shown or sys.stderr is None or None,
                unit="window",
            )
            self._epoch = progress.epoch
        if not self._bar.disable:
            self._bar.set_postfix(loss=f"{nats:.3f}", refresh=False)
            self._bar.update()

    def close(self) -> None:
        """Remove the bar; the next ``show`` draws a new one."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Board:
    """Curves for TensorBoard in the folder ``tensorboard`` of a run.

    Args:
        folder: of the run.
        step: at which the run goes on; later points of a killed run are dropped.

    Raises:
        ModuleNotFoundError: the extra ``rnnfused[tensorboard]`` is not installed.
    """

    def __init__(self, folder: Path, step: int):
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=step)

    def add_step(self, step: int, loss: float, norm: float, rate: float) -> None:
        """Add a training step, every few steps."""
        if step % _BOARD_STEPS == 0:
            for name, value in (("loss", loss), ("gradient_norm", norm), ("learning_rate", rate)):
                self._writer.add_scalar(f"training/{name}", value, step)

    def add_row(self, row: dict[str, Any]) -> None:
        """Add the row of an evaluation."""
        for name, value in row.items():
            if isinstance(value, (int, float)):
                self._writer.add_scalar(f"evaluation/{name}", value, row["step"])
        self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
