"""The learning curves: independent of matplotlib's settings, and never the end of a run."""

import dataclasses
import math

import matplotlib
import pytest
from runs import SMALL, TEXT, TINY, run_command

from rnnfused.lm import train
from rnnfused.lm.checkpoint.run_folder import RunFolder
from rnnfused.lm.plot import plot_loss, plot_perplexity

ROW = {"epoch": 1, "train_perplexity": 3.0, "validation_perplexity": 4.0, "bigram_perplexity": 5.0}


def test_plot_needs_a_pass_and_keeps_the_old_file_on_errors(tmp_path):
    (tmp_path / "loss.png").write_bytes(b"old")
    with pytest.raises(ValueError, match="metrics must hold at least one evaluation"):
        plot_perplexity([], tmp_path / "loss.png")
    with pytest.raises(KeyError):
        plot_perplexity([{"epoch": 1}], tmp_path / "loss.png")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_the_loss_is_the_logarithm_of_the_perplexity(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "rnnfused.lm.plot.plot_curves",
        lambda file, curves, **labels: drawn.append((curves, labels)),
    )
    plot_perplexity([ROW], tmp_path / "perplexity.png")
    plot_loss([ROW], tmp_path / "loss.png")
    (perplexity, labels), (loss, other) = drawn
    assert perplexity == {"training": [(1, 3.0)], "validation": [(1, 4.0)]}
    assert loss == {"training": [(1, math.log(3))], "validation": [(1, math.log(4))]}
    assert labels["levels"] == {"bigram, validation": 5.0}
    assert other["levels"] == {"bigram, validation": math.log(5)}
    assert (labels["ylabel"], other["ylabel"]) == ("perplexity", "loss, nats per symbol")


@pytest.mark.filterwarnings("error")
def test_matplotlib_settings_have_no_effect(tmp_path):
    plot_perplexity([ROW], tmp_path / "plain.png")
    with matplotlib.rc_context({"text.usetex": True, "figure.facecolor": "red"}):
        plot_perplexity([ROW], tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "plain.png").read_bytes()
    plot_perplexity([ROW], tmp_path / "plain.svg")
    assert (tmp_path / "plain.svg").read_bytes().startswith(b"<?xml")


def test_a_plot_that_fails_is_one_warning(tmp_path, capsys, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no\nglyphs\x1b[2J" + "!" * 10_000)

    for name in ("plot_loss", "plot_perplexity"):
        monkeypatch.setattr(f"rnnfused.lm.checkpoint.run_folder.{name}", fail)
    assert len(train(TEXT, tmp_path, SMALL)) == SMALL.epochs == 3
    error = capsys.readouterr().err
    assert error.startswith(
        "rnnfused: warning: loss.png could not be drawn: RuntimeError: no glyphs"
    )
    assert error.count("\n") == 1 and len(error) < 600 and "\x1b" not in error
    monkeypatch.setattr("sys.stderr", None)
    assert len(train(TEXT, tmp_path, SMALL)) == 3
    assert capsys.readouterr().out.count("warning") == 0


def test_plots_take_little_of_a_run(tmp_path, monkeypatch):
    drawn, clock = [], [0.0]

    def draw(metrics, path, check):
        drawn.append((path.name, len(metrics)))
        clock[0] += 2.0  # seconds that the plot seems to take

    for name in ("plot_loss", "plot_perplexity"):
        monkeypatch.setattr(f"rnnfused.lm.checkpoint.run_folder.{name}", draw)
    train(TEXT, tmp_path / "short", dataclasses.replace(SMALL, eval_steps=2))
    assert drawn == [("loss.png", 17), ("perplexity.png", 17)]

    drawn.clear()
    monkeypatch.setattr("rnnfused.lm.checkpoint.run_folder.time.perf_counter", lambda: clock[0])
    with RunFolder(tmp_path / "long") as folder:
        for number, elapsed in enumerate(range(0, 1000, 10), 1):
            folder.draw([ROW] * number, elapsed)
        folder.draw([ROW] * number)
        folder.draw([ROW] * number)
    # The first one is taken for a second, the others for the four of the one before: 2% each.
    assert [rows for name, rows in drawn if name == "loss.png"] == [6, 41, 61, 81, 100]


@pytest.mark.parametrize("case", ["notebook", "nonsense", "broken", "unwritable"])
def test_a_run_under_settings_that_stop_matplotlib(tmp_path, monkeypatch, case):
    (tmp_path / "book.txt").write_text(TEXT)
    (tmp_path / "matplotlibrc").write_bytes(b"font.size: \xff\xfe\n")
    variable, value = {
        "notebook": ("MPLBACKEND", "module://matplotlib_inline.backend_inline"),
        "nonsense": ("MPLBACKEND", "nonsense"),
        "broken": ("MATPLOTLIBRC", str(tmp_path / "matplotlibrc")),
        "unwritable": ("MPLCONFIGDIR", "/proc/no/such/folder"),
    }[case]
    # For the process of the command, which imports matplotlib only now.
    monkeypatch.setenv(variable, value)
    arguments = ["train", tmp_path / "book.txt", "--out", tmp_path / "run"]
    done = run_command(*arguments, *TINY, "--epochs", "2")
    assert done.returncode == 0, done.stderr
    assert "epoch 2/2" in done.stdout and "Traceback" not in done.stderr
    assert (tmp_path / "run" / "loss.png").exists() == (case != "broken")
    warnings = done.stderr.count(
        "rnnfused: warning: loss.png could not be drawn: UnicodeDecodeError"
    )
    assert warnings == done.stderr.count("rnnfused: warning") == (case == "broken")
    if case in ("notebook", "nonsense"):
        assert done.stderr == ""
