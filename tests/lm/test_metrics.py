"""Rows, their lines, bars and TensorBoard's curves."""

import dataclasses
import io
import sys
import types

import pytest
from runs import SMALL, TEXT
from test_cli import error_of

from rnnfused.lm import TrainSettings, train
from rnnfused.lm.metrics import EpochBar, hint, is_good, line_of, row_of
from rnnfused.lm.training_state import Progress

VALIDATION = {"validation_perplexity": 4.0, "bigram_perplexity": 5.0}


def test_a_row_and_its_line():
    progress = Progress(epoch=1, window=5, step=15, nats=2 * 1.0986122886681098, symbols=2)
    progress.steps, progress.clipped, progress.seconds, progress.skipped = 8, 2, 0.5, 3
    row = row_of(progress, 10, VALIDATION, 0.25)
    assert row == VALIDATION | {
        "epoch": 1.5,
        "step": 15,
        "train_perplexity": pytest.approx(3.0),
        "learning_rate": 0.25,
        "clipped_share": 0.25,
        "skipped_steps": 3,
        "returns": 0,
        "symbols_per_second": 4.0,
        "seconds": 0.5,
    }
    expected = (
        "epoch 1.50/8  perplexity: training 3.000, validation 4.000 (bigram 5.000)  clipped 25%"
        "  3 steps skipped  4 symbols/s"
    )
    assert line_of(row, TrainSettings(), 90.0) == expected
    line = line_of(row | {"skipped_steps": 0, "epoch": 2}, TrainSettings(minutes=60), 90.0)
    assert line.startswith("epoch 2, minute 1.5/60  perplexity") and "skipped" not in line
    assert "  1 step skipped  " in line_of(row | {"skipped_steps": 1}, TrainSettings(), 90.0)
    assert is_good(row)
    assert not is_good(row | {"train_perplexity": float("inf")})


def test_a_run_of_few_updates_gives_a_hint(tmp_path, capsys, monkeypatch):
    assert hint(1000) == ""
    expected = (
        "hint: 33 updates of the weights are few, below 1,000: more epochs or smaller batches let "
        "the model learn more\n"
    )
    assert hint(33) + "\n" == expected
    assert hint(1).startswith("hint: 1 update of the weights is few, below 1,000: ")
    train(TEXT, tmp_path, SMALL)
    assert capsys.readouterr().out.count(expected) == 1
    # Not where it is too late, where the clock decides, or where there are enough.
    train(TEXT, tmp_path, SMALL, resume=True)
    clock = dataclasses.replace(SMALL, epochs=TrainSettings.epochs, minutes=1e-9)
    train(TEXT, tmp_path / "clock", clock)
    monkeypatch.setattr("rnnfused.lm.metrics._FEW_UPDATES", 33)
    train(TEXT, tmp_path / "enough", SMALL)
    assert "hint" not in capsys.readouterr().out


def test_a_bar_for_each_epoch_on_a_terminal(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    bar = EpochBar(10, 3, shown=True)
    progress = Progress(epoch=1, window=4, step=14)  # as after a resume
    bar.show(progress, 1.25)
    bar.close()
    text = terminal.getvalue()
    assert "epoch 2/3" in text and "3/10" in text
    terminal.truncate(0)
    hidden = EpochBar(10, None, shown=False)
    hidden.show(progress, 1.25)
    hidden.close()
    assert terminal.getvalue().strip("\0") == ""


class Writer:
    """In place of TensorBoard's, which is no requirement of the tests."""

    made: list = []

    def __init__(self, folder, purge_step):
        self.folder, self.purge_step, self.points, self.closed = folder, purge_step, [], False
        self.made.append(self)

    def add_scalar(self, name, value, step):
        self.points.append((name, value, step))

    def flush(self):
        pass

    def close(self):
        self.closed = True


def test_curves_for_tensorboard(tmp_path, monkeypatch):
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    settings = dataclasses.replace(SMALL, epochs=2)
    metrics = train(TEXT, tmp_path, settings, tensorboard=True)
    (writer,) = Writer.made
    assert writer.folder == str(tmp_path / "tensorboard") and writer.purge_step == 0
    assert writer.closed
    curve = [point[1:] for point in writer.points if point[0] == "evaluation/train_perplexity"]
    assert curve == [(row["train_perplexity"], row["step"]) for row in metrics]
    assert [p[2] for p in writer.points if p[0] == "training/loss"] == [20]
    # A resumed run drops the points of the killed one.
    train(TEXT, tmp_path, settings, tensorboard=True, resume=True)
    assert Writer.made[1].purge_step == 22


def test_real_curves(tmp_path):
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    metrics = train(TEXT, tmp_path, SMALL, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    curve = events.Scalars("evaluation/validation_perplexity")
    assert [point.step for point in curve] == [row["step"] for row in metrics]


def test_a_missing_tensorboard_names_its_extra(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    (tmp_path / "a.txt").write_text(TEXT)
    out = ["--out", str(tmp_path / "run")]
    message = error_of(capsys, ["train", str(tmp_path / "a.txt"), *out, "--tensorboard"])
    assert message.endswith("is not installed; run: pip install 'rnnfused[tensorboard]'")
    assert not (tmp_path / "run").exists()
