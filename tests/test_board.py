"""The board, and the plot of curves that the language model also uses."""

import pytest

from rnnfused.scratch import Board
from rnnfused.scratch.plot import _draw, plot_curves

matplotlib = pytest.importorskip("matplotlib")


@pytest.fixture
def board():
    board = Board()
    board.xlim = [0, 2]
    for epoch, perplexity in ((0.5, 20.0), (1.0, 10.0), (1.5, 7.0)):
        board.draw(epoch, perplexity, "train_ppl")
    board.draw(1, 12.0, "val_ppl")
    return board


def test_a_point_replaces_the_last_one_at_the_same_x(board):
    board.draw(1, 11.0, "val_ppl")
    board.draw(2, 9.0, "val_ppl")
    assert board.points["val_ppl"] == [(1, 11.0), (2, 9.0)]
    assert len(board.points["train_ppl"]) == 3


def test_the_figure(board):
    figure = _draw(board.points, {"bigram": 15.0}, board.xlim, xlabel="epoch", ylabel="perplexity")
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["train_ppl", "val_ppl", "bigram"]
    assert axes.lines[0].get_xydata().tolist() == [[0.5, 20.0], [1.0, 10.0], [1.5, 7.0]]
    # A single point has no line; without a marker it would be invisible.
    assert axes.lines[1].get_marker() == "o"
    assert axes.get_xlim() == (0, 2)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "perplexity")
    assert axes.get_yscale() == "log"
    figure.canvas.draw()
    labels = [text.get_text() for text in axes.get_yticklabels(which="both")]
    assert "20" in labels and not any("10^" in label for label in labels)


@pytest.mark.parametrize(
    ("name", "start"), [("a.png", b"\x89PNG"), ("a.pdf", b"%PDF"), ("a.svg", b"<?xml")]
)
def test_the_suffix_selects_the_format(board, tmp_path, name, start):
    # The user's default format must not win over the suffix.
    with matplotlib.rc_context({"savefig.format": "pdf"}):
        board.save(tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)


def test_an_unknown_suffix_is_an_error(board, tmp_path):
    with pytest.raises(ValueError, match="nonsense"):
        board.save(tmp_path / "a.nonsense")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("error")
def test_matplotlib_settings_have_no_effect_and_do_not_change(board, tmp_path):
    board.save(tmp_path / "plain.png")
    changed = {
        "text.usetex": True,
        "font.family": ["No Such Font"],
        "savefig.format": "svg",
        "axes.formatter.use_mathtext": True,
        "figure.facecolor": "red",
    }
    with matplotlib.rc_context(changed):
        before = dict(matplotlib.rcParams)
        board.save(tmp_path / "again.png")
        assert dict(matplotlib.rcParams) == before
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "plain.png").read_bytes()


def test_long_curves_have_no_markers(tmp_path):
    points = [(float(x), 2.0) for x in range(101)]
    figure = _draw({"short": points[:100], "long": points}, {}, None, xlabel="x", ylabel="y")
    assert [line.get_marker() for line in figure.axes[0].lines] == ["o", "None"]


def test_no_curves_make_an_empty_plot(tmp_path):
    plot_curves(tmp_path / "a.png", {}, xlabel="x", ylabel="y")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
