"""MkDocs hooks: the README is the home page, formulas become MathML, and every documented name has a docstring."""

import logging
import re
from html import unescape
from pathlib import Path

import griffe
import latex2mathml.converter

log = logging.getLogger("mkdocs.hooks.rnnfused")  # a warning here fails a strict build

ROOT = Path(__file__).parents[2]
DIRECTIVE = re.compile(r"^::: ([\w.]+)$", re.M)
LINK = re.compile(r"(\]\()(?!https?:|#)([^)]+)\)")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.S)


def home(readme, repo_url):
    """The README with its links as seen from docs/: a page there, or a file of the repository."""

    def moved(match):
        target = match[2]
        inside = target.startswith("docs/")
        return match[1] + (target[5:] if inside else f"{repo_url}/blob/main/{target}") + ")"

    return LINK.sub(moved, readme)


def missing_docstrings(package, page):
    """Names that a page documents, and public members of theirs, that lack a docstring."""
    for path in DIRECTIVE.findall(page):
        documented = package[path.removeprefix(f"{package.name}.")]
        found = documented.final_target if documented.is_alias else documented
        if not found.has_docstring:
            yield path
        if not found.is_class:
            continue
        for name, member in found.members.items():
            public = not name.startswith("_") and member.is_function and name != "extra_repr"
            inherits = any(
                name in base.members and base.members[name].has_docstring for base in found.mro()
            )
            if public and not member.is_alias and not member.has_docstring and not inherits:
                yield f"{path}.{name}"


def on_page_markdown(markdown, page, config, files):
    """Puts the README in the place of index.md, and checks the docstrings that a page asks for."""
    if page.file.src_uri == "index.md":
        return home((ROOT / "README.md").read_text(), config.repo_url)
    if DIRECTIVE.search(markdown):
        package = griffe.load("rnnfused", search_paths=[str(ROOT)])
        for name in missing_docstrings(package, markdown):
            log.warning("%s: %s has no docstring", page.file.src_uri, name)
    return markdown


def on_page_content(html, page, config, files):
    """Turns the formulas that arithmatex marked into MathML."""

    def mathml(match):
        display = "block" if match[1] == "div" else "inline"
        return latex2mathml.converter.convert(unescape(match[2]), display=display)

    return FORMULA.sub(mathml, html)
