"""A training run from its data on: windows, model, optimizer, loop, log."""

import copy
import dataclasses
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rnnfused.wording import quantity

from .average import WeightAverage
from .bigram import fit_bigram
from .checkpoint import CheckpointError, RunState, load_run
from .checkpoint.run_folder import RunFolder
from .corpus import Corpus
from .data import StreamBatches
from .distributed import LostWorkerError, Workers
from .evaluate import evaluate_ids
from .fingerprint import fingerprint, refusal
from .generate import generate
from .gradient_profile import gradient_profile, save_profile
from .initial import initial_model
from .interrupt import Interrupted, Interrupts
from .messages import for_stream, show, warn
from .metrics import Board, EpochBar, heading, hint, is_good, line_of, row_of
from .model import CharLM
from .optim import build_optimizer, clipped_norm
from .schedule import rate_at
from .settings import TrainSettings
from .timetable import Timetable
from .training_state import Progress, TrainingState
from .windows import windows_of

Batch = tuple[Tensor, Tensor]
Tensors = dict[str, Tensor]

# Steps in a row that are skipped before the run goes back to its last saved state.
_MOST_SKIPPED = 5
# Times that a run goes back before it ends.
_MOST_RETURNS = 8


class Run:
    """A run from its data on: windows, model, optimizer, loop, log."""

    def __init__(
        self,
        corpus: Corpus,
        settings: TrainSettings,
        workers: Workers,
        folder: RunFolder | None,
        out: Path,
        record: dict[str, Any],
    ):
        self.corpus, self.settings, self.workers = corpus, settings, workers
        self.folder, self.out, self.record = folder, out, record
        self.device = workers.device

        # ---- data: ids -> windows
        self.windows = windows_of(corpus.train.to(self.device), settings)
        self.timetable = Timetable(settings, len(self.windows))
        self.rows = workers.rows(settings.batch_size)
        self.validation = corpus.valid.to(self.device)

        # ---- model
        torch.manual_seed(settings.seed)
        self.model = initial_model(len(corpus.vocab), settings, self.device)
        if workers.rank:
            # Each worker drops features of its own.
            torch.manual_seed(settings.seed + workers.rank)
        average = WeightAverage(self.model, settings.average) if settings.average else None

        # ---- optimizer
        self.optimizer = build_optimizer(self.model, settings)
        self.state = TrainingState(self.model, self.optimizer, average, workers, settings.seed)
        self.progress = Progress()
        # What was saved last: the counters, this worker's tensors, those of all.
        self.kept: tuple[Progress, Tensors, Tensors] | None = None
        self.best = copy.deepcopy(self.state.evaluated)

        # ---- log
        self.metrics: list[dict[str, Any]] = []
        self.board: Board | None = None
        self.text = fingerprint(corpus)
        # Counts, and ids of another text would not: so that the first worker alone counts.
        self.bigram = math.nan
        if workers.is_first:
            bigram = fit_bigram(corpus.train, len(corpus.vocab))
            # Each symbol but the first, as ``evaluate_ids`` scores them.
            windows = StreamBatches(corpus.valid, 1, min(2**15, len(corpus.valid) - 1))
            self.bigram = bigram.perplexity(windows)

    def describe(self) -> None:
        """Print what is learnt, and by which model."""
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.say(heading(self.corpus, parameters, self.workers.size))
        if self.progress.finished and self.timetable.is_done(self.progress):
            self.say(f"the run is finished, since step {self.progress.step}")
        elif self.progress.step:
            is_between = self.progress.window == len(self.windows)
            epoch = self.progress.epoch + 1 + is_between
            self.say(f"goes on at step {self.progress.step}, epoch {epoch}")
        elif self.settings.minutes is None and (advice := hint(self.timetable.steps)):
            self.say(advice)

    def say(self, text: str) -> None:
        """Print a line, in the first worker."""
        if self.workers.is_first:
            show(text)

    def resume(self, out: str | os.PathLike[str]) -> None:
        """Take the state of the run that ``out`` holds."""
        checkpoint, tensors = load_run(out)
        record = checkpoint.record
        damaged = f"the state of the run in {os.fspath(out)!r} does not fit: "
        try:
            earlier = TrainSettings.from_json(record["settings"])
            progress = Progress.from_json(record["progress"])
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{damaged}{error}") from None
        self.settings.check_resumes(earlier)
        before, now = record["settings"].get("threads"), torch.get_num_threads()
        if before not in (None, now) and self.workers.is_first:
            warn(
                f"the run used {quantity(before, 'thread')} and goes on with {now}: rounding differs, which "
                "grows from step to step; --threads sets the number"
            )
        if record["text"] != self.text:
            raise ValueError(refusal(record["settings"], self.record))
        try:
            self.state.restore(self.state.own(tensors))
        except (ValueError, RuntimeError, KeyError) as error:
            raise CheckpointError(f"{damaged}{error}") from None
        self.progress, self.metrics = progress, record["metrics"]
        self.best.load_state_dict(checkpoint.model.state_dict())

    # ---- loop

    def loop(self, interrupts: Interrupts) -> None:
        """Train until the end, with evaluations and saves; see ``train`` for the errors."""
        self.interrupts = interrupts
        self.bar = EpochBar(
            len(self.windows),
            None if self.settings.minutes else self.settings.epochs,
            shown=self.workers.is_first,
        )
        self.clock = time.perf_counter() - self.progress.elapsed
        self.saved_at = self.progress.elapsed
        self.has_saved = self.progress.step > 0
        try:
            with self.workers.watched():
                self.keep()
                self.step_loss = self.workers.joined(self.model)
                while True:
                    if self.timetable.is_evaluation_due(self.progress):
                        self.evaluate()
                    if self.timetable.is_done(self.progress):
                        self.end()
                        break
                    if self.take_step():
                        self.interrupted()
                    if self.timetable.is_save_due(self.progress, self.saved_at):
                        self.save()
        except LostWorkerError as error:
            self.bar.close()
            if self.kept is None:
                raise
            if self.folder is not None and not self.has_saved:
                self.write()
            self.draw()
            raise LostWorkerError(
                f"{error} at step {self.progress.step}; {str(self.out)!r} holds the state of step "
                f"{self.kept[0].step}: start again with --resume"
            ) from None
        finally:
            self.bar.close()

    def take_step(self) -> bool:
        """Train on one window; returns whether a signal asks the run to stop."""
        start = time.perf_counter()
        progress, settings, state = self.progress, self.settings, self.state
        if progress.window == len(self.windows):
            progress.epoch, progress.window = progress.epoch + 1, 0
        if progress.window == 0:
            state.hidden = None
        x, y = self.windows.window(progress.epoch, progress.window)
        x, y = x[self.rows], y[self.rows]
        if settings.reset_probability and state.hidden is not None:
            reset = torch.rand(settings.batch_size, generator=state.resets)[self.rows]
            cold = (reset < settings.reset_probability).to(self.device)
            state.hidden = state.hidden.masked_fill(cold[:, None], 0)
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"
        ):
            loss, hidden = self.step_loss(x, y, state.hidden)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nats, stop, elapsed = self.workers.sum(
            loss.item() / self.workers.size,
            float(self.interrupts.received is not None),
            time.perf_counter() - self.clock if self.workers.is_first else 0.0,
        )
        norm = clipped_norm(self.model, settings.clip)
        rate = self.rate()
        if math.isfinite(nats) and math.isfinite(norm):
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
            if state.average is not None:
                state.average.update(self.model, progress.step)
            # The state is carried over, its gradient is not: truncated BPTT.
            state.hidden = hidden.detach() if self.windows.carries else None
            progress.nats += nats * y.numel() * self.workers.size
            progress.symbols += y.numel() * self.workers.size
            progress.clipped += norm > settings.clip
            progress.skipped_in_row = 0
        else:
            state.hidden = None
            progress.skipped += 1
            progress.skipped_in_row += 1
        progress.step, progress.window = progress.step + 1, progress.window + 1
        progress.steps, progress.elapsed = progress.steps + 1, elapsed
        progress.seconds += time.perf_counter() - start
        self.bar.show(progress, nats)
        if self.board is not None:
            self.board.add_step(progress.step, nats, norm, rate)
        if progress.skipped_in_row == _MOST_SKIPPED:
            self.go_back(f"{_MOST_SKIPPED} steps in a row had no finite loss and gradient")
        return stop > 0

    def rate(self) -> float:
        """The learning rate of the present step."""
        progress = self.progress
        share = rate_at(self.settings, progress.step, self.timetable.steps, progress.elapsed)
        return share * progress.rate_scale

    def go_back(self, reason: str) -> None:
        """Restore the last saved state with half the learning rate."""
        progress = self.progress
        if progress.returns == _MOST_RETURNS:
            self.draw()
            raise FloatingPointError(
                f"training diverged in epoch {progress.epoch + 1}, again after {_MOST_RETURNS} "
                f"returns to a saved state: {reason}; lower lr={self.settings.lr} or "
                f"clip={self.settings.clip}"
            )
        assert self.kept is not None
        earlier, tensors, _ = self.kept
        self.progress = dataclasses.replace(
            earlier,
            elapsed=progress.elapsed,
            skipped=progress.skipped,
            returns=progress.returns + 1,
            rate_scale=progress.rate_scale / 2,
        )
        self.state.restore(tensors)
        self.bar.close()
        self.say(
            f"step {progress.step}: {reason}; goes back to step {earlier.step} with a learning "
            f"rate of {self.progress.rate_scale:g} times the schedule's"
        )

    # ---- log

    def evaluate(self) -> None:
        """Measure the model, add the row, keep the model if it is the best, save."""
        self.bar.close()
        perplexity = math.nan
        measured: dict[str, float] = {}
        if self.workers.is_first:
            measured = self.measured("validation", self.state.evaluated, self.validation)
            measured["bigram_perplexity"] = self.bigram
            perplexity = measured["validation_perplexity"]
        perplexity = self.workers.from_first(perplexity)
        row = row_of(self.progress, len(self.windows), measured, self.rate())
        if not (math.isfinite(perplexity) and is_good(row)):
            self.go_back(f"validation perplexity is {perplexity}")
            return
        progress = self.progress
        if progress.best is None or perplexity < progress.best:
            progress.best, progress.stale = perplexity, 0
            self.best.load_state_dict(self.state.evaluated.state_dict())
        else:
            progress.stale += 1
        progress.start_interval()
        self.metrics.append(row)
        self.save()
        self.draw(progress.elapsed)
        if self.workers.is_first:
            show(line_of(row, self.settings, progress.elapsed))
        if self.board is not None:
            self.board.add_row(row)

    def interruptible(self, _: int) -> None:
        """End the run if there was a signal; it then evaluates when it is resumed."""
        if self.workers.size == 1 and self.interrupts.received is not None:
            self.interrupted()

    def end(self) -> None:
        """Note that the run is finished."""
        if not self.progress.finished:  # by a smaller patience than before, for example
            self.save()
        self.draw()
        if self.interrupts.received is not None:
            self.interrupted()
        if self.timetable.has_lost_patience(self.progress):
            self.say(
                f"ends after {quantity(self.progress.stale, 'evaluation')} without a new best one"
            )

    def interrupted(self) -> None:
        """Save, and end the run by ``Interrupted``."""
        self.bar.close()
        self.save()
        self.draw()
        raise Interrupted(
            f"{str(self.out)!r} holds the state of step {self.progress.step}: "
            "start again with --resume",
            self.interrupts.received or signal.SIGINT,
        )

    def measured(self, part: str, model: CharLM, ids: Tensor) -> dict[str, float]:
        """Perplexity and bits per character of ``model`` on ``"validation"`` or ``"test"``."""
        result = evaluate_ids(model, ids, advance=self.interruptible)
        if warning := result.warning():
            warn(f"{part}: {warning}")
        characters = self.corpus.num_characters["valid" if part == "validation" else "test"]
        result = result._replace(symbols_per_character=len(ids) / characters)
        return {
            f"{part}_perplexity": result.perplexity,
            f"{part}_bits_per_character": result.bits_per_character,
        }

    def keep(self) -> None:
        """Copy the state, so that the run can go back to it."""
        tensors = self.state.tensors()
        # All workers take part in this.
        whole = self.state.whole(tensors)
        self.kept = dataclasses.replace(self.progress), tensors, whole

    def save(self) -> None:
        """Keep the state, in memory and on disk."""
        self.progress.finished = self.timetable.is_finished(self.progress)
        self.keep()
        self.write()
        self.has_saved, self.saved_at = True, self.progress.elapsed

    def write(self) -> None:
        """Write the state that was kept last."""
        if self.folder is None:
            return
        assert self.kept is not None
        progress, _, tensors = self.kept
        last = self.state.evaluated
        self.folder.save(
            self.best if progress.best is not None else last,
            self.corpus.vocab,
            settings=self.record,
            metrics=self.metrics,
            run=RunState(last, tensors, progress.to_json(), self.text),
        )

    def draw(self, elapsed: float | None = None) -> None:
        """Draw the curves, in the first worker; see ``RunFolder.draw``."""
        if self.folder is not None:
            self.folder.draw(self.metrics, elapsed)

    def finish(self, prefix: str, profile_gradients: bool) -> None:
        """Test the best model, draw its gradients, print a sample."""
        if self.folder is None:
            return
        if self.corpus.test is not None:
            measured = self.measured("test", self.best, self.corpus.test.to(self.device))
            self.metrics[-1] |= measured
            self.write()
            show(
                f"test perplexity {measured['test_perplexity']:.3f}, "
                f"{measured['test_bits_per_character']:.3f} bits per character"
            )
        if profile_gradients:
            profile = gradient_profile(self.best, self.corpus.valid)
            save_profile(profile, self.folder.path, check=self.folder.check)
        seed, vocab = self.settings.seed, self.corpus.vocab
        number = 500 if vocab.level == "char" else 100
        sample = generate(self.best, vocab, prefix, number, seed=seed)
        show(f"\nsample:\n{for_stream(sample, sys.stdout)}")
