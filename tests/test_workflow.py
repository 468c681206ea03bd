"""The workflow of GitHub Actions and the hooks of pre-commit run commands that exist; ruff formats the tree."""

import ast
import itertools
import re

import pytest
import yaml
from fake_project import ROOT, backend

if not (ROOT / ".github").is_dir():
    pytest.skip("a source distribution has no workflow", allow_module_level=True)

try:
    import tomllib
except ImportError:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())
JOBS = WORKFLOW["jobs"]
STEPS = [(name, step) for name, job in JOBS.items() for step in job["steps"]]
COMMANDS = [(name, step["run"]) for name, step in STEPS if "run" in step]


def test_the_matrix_is_complete():
    matrix = JOBS["test"]["strategy"]["matrix"]
    oldest_python = PROJECT["requires-python"].removeprefix(">=")
    oldest_torch = "torch=={}.{}.*".format(*backend.OLDEST_TORCH)
    assert set(itertools.product(*matrix.values())) == set(
        itertools.product([oldest_python, "3.14"], [oldest_torch, "torch"], ["avx2", "default"])
    )


def test_the_test_job_uses_its_matrix():
    job = JOBS["test"]
    [version] = [step["with"] for step in job["steps"] if "setup-python" in step.get("uses", "")]
    assert version["python-version"] == "${{ matrix.python }}"
    assert job["env"] == {
        "TORCH_SPEC": "${{ matrix.torch }}",
        "RNNFUSED_CPU_CAPABILITY": "${{ matrix.capability }}",
    }
    for name in ("TORCH_SPEC", "TORCH_INDEX"):  # an assignment with = would hide the environment's
        assert re.search(rf"^{name} \?=", (ROOT / "Makefile").read_text(), re.M)


def test_jobs_call_targets_that_exist():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    called = [
        (name, word)
        for name, command in COMMANDS
        for line in re.findall(r"^make (.*)", command, re.M)
        for word in line.split()
        if "=" not in word
    ]
    assert called == [
        ("lint", "lint"),
        ("test", "test"),
        ("instructions", "test"),
        ("package", "matrix"),
        ("clang", "test-clang"),
        ("wheels", "wheels"),
    ]
    assert {target for _, target in called} <= set(targets)


def test_the_wheel_is_tested_on_every_python_of_its_matrix():
    [rows] = re.findall(r"^ROWS = (.*)$", (ROOT / ".ci" / "matrix").read_text(), re.M)
    pairs = [row.split("=") for row in ast.literal_eval(rows)]
    [setup] = [
        step["with"]
        for step in JOBS["package"]["steps"]
        if "with" in step and "python-version" in step["with"]
    ]
    assert {python for python, _ in pairs} == set(setup["python-version"].split())
    oldest = [PROJECT["requires-python"].removeprefix(">="), "{}.{}".format(*backend.OLDEST_TORCH)]
    assert oldest in pairs and ["3.14", "newest"] in pairs
    assert ("package", "make matrix ARGS=--strict") in COMMANDS  # a missing Python fails


def test_the_wheels_are_for_the_oldest_python_and_leave_torch_out():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]
    oldest = "cp" + PROJECT["requires-python"].removeprefix(">=").replace(".", "")
    assert settings["build"] == [f"{oldest}-manylinux_*", f"{oldest}-macosx_*"]
    assert "--exclude libtorch_cpu.so" in settings["linux"]["repair-wheel-command"]
    assert f"torch=={'.'.join(map(str, backend.OLDEST_TORCH))}" in settings["before-test"]
    tests = re.findall(r"\{project\}/(\S+)", settings["test-command"])
    assert tests and all((ROOT / test).is_file() for test in tests)


def test_actions_are_pinned_by_major_version():
    actions = [step["uses"] for _, step in STEPS if "uses" in step]
    assert actions and all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+", action) for action in actions)


def test_hooks_run_programs_that_lint_installs():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repository in config["repos"] for hook in repository["hooks"]]
    programs = {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in hooks}
    installed = {re.split("[=<>]", line)[0] for line in PROJECT["optional-dependencies"]["lint"]}
    assert programs == {"ruff", "clang-format", "mypy"} and programs <= installed


def test_few_lines_escape_the_formatter():
    mark = "# fmt: " + "skip"
    files = [ROOT / "setup.py", ROOT / "rnnfused_command.py"]
    for folder in ("benchmarks", "build_tools", "csrc", "docs", "rnnfused", "tests"):
        files += (ROOT / folder).rglob("*.py")
    assert sum(path.read_text().count(mark) for path in files) <= 10
