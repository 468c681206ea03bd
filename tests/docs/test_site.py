"""The hooks of the documentation's build: docstrings, home page, formulas."""

import sys

import pytest
from pages import ROOT

griffe = pytest.importorskip("griffe", reason="needs the extra docs")
pytest.importorskip("latex2mathml", reason="needs the extra docs")


@pytest.fixture(scope="module")
def hooks():
    sys.path.insert(0, str(ROOT / "docs" / "scripts"))
    try:
        import hooks

        yield hooks
    finally:
        sys.path.pop(0)


def test_missing_docstrings_are_found(hooks, tmp_path):
    (tmp_path / "toy.py").write_text(
        "class Base:\n    '''A.'''\n    def run(self):\n        '''B.'''\n\n\n"
        "class Child(Base):\n    '''C.'''\n    def run(self): ...\n    def stop(self): ...\n"
        "    def _private(self): ...\n\n\ndef bare(): ...\n"
    )
    toy = griffe.load("toy", search_paths=[str(tmp_path)])
    page = "# Toy\n\n::: toy.Base\n\n::: toy.Child\n\n::: toy.bare\n"
    assert list(hooks.missing_docstrings(toy, page)) == ["toy.Child.stop", "toy.bare"]


def test_home_page_links_as_seen_from_docs(hooks):
    readme = "[a](docs/faq.md) [b](LICENSE) [c](https://d2l.ai) ![d](docs/figures/speed.png)"
    assert hooks.home(readme, "https://x/y") == (
        "[a](faq.md) [b](https://x/y/blob/main/LICENSE) [c](https://d2l.ai) ![d](figures/speed.png)"
    )


def test_formulas_become_mathml(hooks):
    html = '<p><span class="arithmatex">\\(h_t &lt; 1\\)</span></p>'
    made = hooks.on_page_content(html, None, None, None)
    assert "<math" in made and "arithmatex" not in made and "<msub>" in made
