"""docs/environment.md has every environment variable of the project, and no other."""

import re

from pages import ROOT

VARIABLE = re.compile(r"RNNFUSED_[A-Z_]+")
READ = re.compile(r"""(?:environ(?:\.get|\.pop)?[(\[]|getenv\()\s*["'](RNNFUSED_[A-Z_]+)""")


def read_by_the_sources():
    files = [ROOT / "setup.py", ROOT / "rnnfused_command.py"]
    for folder in ("rnnfused", "csrc", "build_tools"):
        files += [path for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES]
    return {name for path in files for name in READ.findall(path.read_text())}


SUFFIXES = {".py", ".h", ".cpp", ".cu", ".cuh"}


def test_page_has_every_variable_and_no_other():
    page = (ROOT / "docs" / "environment.md").read_text()
    in_tables = {
        name for line in page.splitlines() if line[:1] == "|" for name in VARIABLE.findall(line)
    }
    assert in_tables == read_by_the_sources()


def test_pages_name_no_variable_that_is_not_read():
    known = read_by_the_sources()
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        assert set(VARIABLE.findall(page.read_text())) <= known, page
