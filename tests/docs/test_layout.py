"""The files that HACKING.md and docs/ name exist."""

import re

import pytest
from pages import FENCE, PAGES, ROOT, page_name

PATH = re.compile(r"`((?:rnnfused|csrc|tests|benchmarks|docs|build_tools)/[\w./*-]+)`")


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "CHANGELOG.md"], ids=page_name)
def test_named_files_exist(page):
    names = PATH.findall(FENCE.sub("", page.read_text()))
    assert [name for name in names if not list(ROOT.glob(name.rstrip("/")))] == []


@pytest.mark.parametrize("page", ["cpu-kernel.md", "cuda-loop.md"])
def test_named_headers_exist(page):
    names = re.findall(r"`(\w+\.(?:h|cuh|cpp|cu))`", (ROOT / "docs" / page).read_text())
    known = {path.name for path in (ROOT / "csrc").rglob("*") if path.is_file()}
    assert names and set(names) <= known
