"""The project's pages, and the code in them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / name
    for name in ("README.md", "HACKING.md", "CONTRIBUTING.md", "CHANGELOG.md")
    if (ROOT / name).exists()
] + sorted((ROOT / "docs").rglob("*.md"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def page_name(path):
    """A page's path in the project."""
    return str(path.relative_to(ROOT))


def blocks(text, language):
    """(line, code) of each fenced block of a language."""
    for match in FENCE.finditer(text):
        if match[1] == language:
            yield text.count("\n", 0, match.start()) + 2, match[2]
