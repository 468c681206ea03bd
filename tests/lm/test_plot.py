"""The learning curve: drawn whatever matplotlib's settings are, and never the end of a run."""

import os
import subprocess
import sys

import matplotlib
import pytest
from test_train import SMALL, TEXT

from rnnfused.lm import train
from rnnfused.lm.plot import plot_perplexity

ROW = {"pass": 1, "train_perplexity": 3.0, "validation_perplexity": 4.0, "bigram_perplexity": 5.0}


def test_plot_needs_a_pass_and_spares_the_old_file(tmp_path):
    (tmp_path / "loss.png").write_bytes(b"old")
    with pytest.raises(ValueError, match="metrics must hold at least one pass"):
        plot_perplexity([], tmp_path / "loss.png")
    with pytest.raises(KeyError):
        plot_perplexity([{"pass": 1}], tmp_path / "loss.png")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


@pytest.mark.filterwarnings("error")
def test_the_user_s_settings_play_no_part_and_stay(tmp_path):
    plot_perplexity([ROW], tmp_path / "plain.png")
    changed = {"text.usetex": True, "font.family": ["No Such Font"], "savefig.format": "svg",
               "axes.formatter.use_mathtext": True, "figure.facecolor": "red"}  # fmt: skip
    with matplotlib.rc_context(changed):
        before = dict(matplotlib.rcParams)
        plot_perplexity([ROW], tmp_path / "again.png")
        assert dict(matplotlib.rcParams) == before
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "plain.png").read_bytes()


def test_a_plot_that_fails_is_one_warning(tmp_path, capsys, monkeypatch):
    def fail(*_):
        raise RuntimeError("no\nglyphs\x1b[2J" + "!" * 10_000)

    monkeypatch.setattr("rnnfused.lm.checkpoint.run_folder.plot_perplexity", fail)
    assert len(train(TEXT, tmp_path, SMALL)) == SMALL.passes == 3
    error = capsys.readouterr().err
    assert error.startswith(
        "rnnfused: warning: loss.png could not be drawn: RuntimeError: no glyphs"
    )
    assert error.count("\n") == 1 and len(error) < 600 and "\x1b" not in error
    monkeypatch.setattr("sys.stderr", None)
    assert len(train(TEXT, tmp_path, SMALL)) == 3
    assert capsys.readouterr().out.count("warning") == 0


@pytest.mark.parametrize("case", ["notebook", "nonsense", "broken", "unwritable"])
def test_a_run_under_settings_that_stop_matplotlib(tmp_path, case):
    (tmp_path / "book.txt").write_text(TEXT)
    (tmp_path / "matplotlibrc").write_bytes(b"font.size: \xff\xfe\n")
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | {
        "notebook": {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
        "nonsense": {"MPLBACKEND": "nonsense"},
        "broken": {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc")},
        "unwritable": {"MPLCONFIGDIR": "/proc/no/such/folder"},
    }[case]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "rnnfused.lm", "train", tmp_path / "book.txt", "--out",
         tmp_path / "run", "--hidden-size", "8", "--num-steps", "8", "--passes", "2"],
        capture_output=True, text=True, env=environment, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "pass 2/2" in done.stdout and "Traceback" not in done.stderr
    assert (tmp_path / "run" / "loss.png").exists() == (case != "broken")
    said = done.stderr.count("rnnfused: warning: loss.png could not be drawn: UnicodeDecodeError")
    assert said == done.stderr.count("rnnfused: warning") == (case == "broken")
    if case in ("notebook", "nonsense"):
        assert done.stderr == ""
