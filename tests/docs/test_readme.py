"""The README is short, its links lead somewhere, and its generated parts are those of the results."""

import json
import re
import shlex
import subprocess
import sys

import pytest
from forks import COMMAND, forked
from pages import FENCE, PAGES, ROOT, page_name

MAX_LINES = 150
FIRST_SCREEN = 25
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
README = ROOT / "README.md"


@pytest.fixture(scope="module")
def scripts():
    """The two generators: (report, listing)."""
    folders = [str(ROOT / "benchmarks"), str(ROOT / "docs" / "scripts")]
    sys.path[:0] = folders
    try:
        import listing
        import report

        yield report, listing
    finally:
        for folder in folders:
            sys.path.remove(folder)


def test_is_short():
    assert len(README.read_text().splitlines()) <= MAX_LINES


def test_set_up_commands_are_on_the_first_screen():
    top = "\n".join(README.read_text().splitlines()[:FIRST_SCREEN])
    assert "\nmake demo " in top and "\nmake test " in top


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page):
    prose = re.sub(r"`[^`\n]+`", "", FENCE.sub("", page.read_text()))
    targets = [target for target in LINK.findall(prose) if not re.match(r"https?:", target)]
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


def test_measured_figures_are_those_of_the_results(scripts):
    report, _ = scripts
    measured = report.load()
    for name, parts in report.PARTS.items():
        text = (ROOT / name).read_text()
        assert report.filled(text, parts, measured) == text, "run: python benchmarks/report.py"


def test_figure_shows_the_results(scripts):
    Image = pytest.importorskip("PIL.Image")
    report, _ = scripts
    with Image.open(report.FIGURE) as picture:
        shown = json.loads(picture.text["Description"])
    assert shown == report.heights(report.load().processors[0]), "run: python benchmarks/report.py"


def test_other_results_give_other_text(scripts):
    report, _ = scripts
    measured = report.load()
    processors = json.loads(json.dumps(measured.processors))
    for record in processors[0]["times"]:
        record["ratios"] = [ratio + 100 for ratio in record["ratios"]]
    learning = json.loads(json.dumps(measured.learning))
    for runs in learning.values():
        for record in runs:
            record["validation"] = [bits + 1 for bits in record["validation"]]
    for other in (measured._replace(processors=processors), measured._replace(learning=learning)):
        text = README.read_text()
        assert report.filled(text, report.PARTS["README.md"], other) != text
    with pytest.raises(ValueError, match="once"):
        report.filled("no marks", report.PARTS["README.md"], measured)


def test_language_model_prints_what_the_readme_shows(scripts, tmp_path, monkeypatch):
    _, listing = scripts
    monkeypatch.setattr(listing, "PROGRAM", forked(COMMAND))
    match = re.search(
        f"{re.escape(listing.BEGIN)}\n```sh\n(.*?)\n```\n\n```text\n(.*?)\n\n(.*?)\n```\n"
        f"{re.escape(listing.END)}",
        README.read_text(),
        re.S,
    )
    commands, training, _ = match.groups()
    assert commands.splitlines() == list(listing.COMMANDS)
    (tmp_path / "small.txt").write_text("The cat sat on the mat. The dog did not. " * 200)
    # Enough updates that no hint asks for more.
    sizes = ["--hidden-size", "8", "--batch-size", "2", "--num-steps", "16"]
    small = ["small.txt", *sizes, "--threads", "1"]
    now, sample = listing.listing(tmp_path, small)
    assert listing.shape(now) == listing.shape(training), "run: python docs/scripts/listing.py"
    assert sample.startswith("The ")
    # The other commands run as well.
    (tmp_path / "other.txt").write_text("The dog sat on the mat. " * 20)
    (tmp_path / "my.txt").write_text((tmp_path / "small.txt").read_text())
    assert "the run is finished" in listing.run(listing.COMMANDS[listing.RESUME], tmp_path)
    assert "bits per character" in listing.run(listing.COMMANDS[listing.EVAL], tmp_path)
    words = shlex.split(listing.COMMANDS[listing.TORCHRUN], comments=True)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", *words[1:]]
    options = ["--hidden-size", "8", "--epochs", "1", "--threads", "1"]
    subprocess.run([*launcher, *options], cwd=tmp_path, check=True, timeout=200)
    assert (tmp_path / "runs" / "two" / "model.json").exists()
