"""The language model stands on the package's public modules alone."""

import ast
from pathlib import Path

import rnnfused.lm

FOLDER = Path(rnnfused.lm.__file__).parent
PUBLIC = {
    "rnnfused",
    "rnnfused.arguments",  # checks of arguments, with one wording everywhere
    "rnnfused.bench.processes",  # for the command rnnfused bench
    "rnnfused.bench.shape",
    "rnnfused.functional",
    "rnnfused.generation.memory",  # the check of a number of symbols
    "rnnfused.info",
    "rnnfused.scratch",
    "rnnfused.scratch.plot",
    "rnnfused.wording",  # numbers in messages
}


def imported(path):
    """Modules outside ``rnnfused.lm`` that a file imports, by their full names."""
    package = ["rnnfused", "lm", *path.relative_to(FOLDER).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            yield ".".join([*base, *filter(None, [node.module])])


def test_only_public_modules_are_imported():
    files = [path for path in FOLDER.rglob("*.py") if path.name != "__main__.py"]
    found = {name for path in files for name in imported(path)}
    ours = {name for name in found if name.split(".")[0] == "rnnfused"}
    outside = {name for name in ours if not name.startswith("rnnfused.lm")}
    assert outside and outside <= PUBLIC
    assert "rnnfused.lm.checkpoint.atomic" in ours  # relative imports are resolved
