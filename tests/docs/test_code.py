"""Every block of code in the README and the documentation runs, or names commands and options that exist."""

import contextlib
import io
import re
import shlex
import shutil
import sys

import pytest
import torch
from pages import PAGES, ROOT, blocks, page_name

from rnnfused.lm.cli import main

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

WITH_PYTHON = [page for page in PAGES if any(blocks(page.read_text(), "python"))]
WITH_SHELL = [page for page in PAGES if any(blocks(page.read_text(), "sh"))]
# Programs that a reader may lack; their own options are not checked.
FOREIGN = {"apt", "uv", "git", "pre-commit"}
ASSIGNMENT = re.compile(r"[A-Z_]+=.*")


@pytest.mark.parametrize("page", WITH_PYTHON, ids=page_name)
def test_python_blocks_run_in_order(page, trained_folder, tmp_path, monkeypatch, restore_threads):
    if "runs/mine" in page.read_text():
        shutil.copytree(trained_folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the sizes are small
    namespace = {"__name__": "page"}
    for line, code in blocks(page.read_text(), "python"):
        # Newlines in front: a traceback then shows the line of the page.
        exec(compile("\n" * (line - 1) + code, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", WITH_SHELL, ids=page_name)
def test_shell_blocks_name_commands_that_exist(page):
    for line, code in blocks(page.read_text(), "sh"):
        for offset, command in enumerate(code.splitlines()):
            words = shlex.split(command, comments=True)
            while words and ASSIGNMENT.fullmatch(words[0]):
                words = words[1:]
            if words:
                problem = problem_of(*words)
                assert not problem, f"{page_name(page)}:{line + offset}: {command}: {problem}"


def problem_of(program, *arguments):
    """Why a command would not run in a checkout of the project; empty if nothing is known against it."""
    program = program.removeprefix(".venv/bin/")
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
        wanted = [word for word in arguments if not ASSIGNMENT.fullmatch(word)]
        return "".join(f"no target {word}; " for word in wanted if word not in targets)
    if program == "rnnfused":
        return problem_of_rnnfused(*arguments)
    if program == "torchrun" and "rnnfused" in arguments:
        return problem_of_rnnfused(*arguments[arguments.index("rnnfused") + 1 :])
    if program == "pip":
        return problem_of_pip(*arguments)
    if program == "python":
        scripts = [word for word in arguments if word.endswith(".py")]
        return "".join(f"no script {word}; " for word in scripts if not (ROOT / word).exists())
    if program == "source" or program in FOREIGN or (ROOT / program).exists():
        return ""
    return "" if shutil.which(program) else f"no program {program}"


def problem_of_rnnfused(subcommand, *arguments):
    """Asks the command itself which options it has."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = main([subcommand, "--help"])
        except SystemExit as end:  # as argparse ends after a help text
            code = end.code
    if code:
        return said.getvalue()
    known = set(re.findall(r"--[a-z-]+", said.getvalue()))
    used = [word for word in arguments if word.startswith("--")]
    return "".join(f"no option {word}; " for word in used if word not in known)


def problem_of_pip(*arguments):
    """The extras that it names are the project's."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    named = [name for word in arguments for name in re.findall(r"^\.\[([\w,]+)\]$", word)]
    return "".join(f"no extra {x}; " for name in named for x in name.split(",") if x not in extras)


def test_a_wrong_command_has_a_problem():
    assert problem_of("make", "demo", "ARGS=-x") == ""
    assert problem_of("make", "dinner")
    assert problem_of("rnnfused", "train", "--out", "x") == ""
    assert problem_of("rnnfused", "train", "--outt", "x")
    assert problem_of("rnnfused", "bake")
    assert problem_of("torchrun", "-m", "rnnfused", "train", "--out", "x") == ""
    assert problem_of("torchrun", "-m", "rnnfused", "train", "--outt", "x")
    assert problem_of("pip", "install", ".[lm]") == ""
    assert problem_of("pip", "install", ".[cake]")
    assert problem_of("no-such-program-here")
