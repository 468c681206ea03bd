"""The build: the torch that it finds, the sources that it recompiles, its library and wheel."""

import ctypes
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from fake_project import CPU_SOURCES, ISA, ROOT, Project, backend, build
from setuptools import Distribution

from rnnfused.torch_version import OLDEST_TORCH


@pytest.fixture
def python(tmp_path, monkeypatch):
    """The interpreter of an empty environment."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    venv.create(tmp_path / "env", symlinks=True)
    return tmp_path / "env" / "bin" / "python"


def install_torch(python, version, about=""):
    """Put the files of a torch that the build reads into an environment."""
    [packages] = python.parent.parent.glob("lib/python3*/site-packages")
    (packages / "torch").mkdir()
    (packages / "torch" / "__init__.py").write_text("raise ImportError('the build imports me')")
    (packages / "torch" / "version.py").write_text(f"__version__ = {version!r}\n{about}")
    return packages / "torch"


def reason_of_failure(python):
    with pytest.raises(SystemExit) as failure:
        backend.find_torch(python)
    reason = str(failure.value)
    assert reason.startswith("rnnfused: ") and "\n" not in reason
    return reason


def test_torch_is_found_without_importing_it(python):
    root = install_torch(python, "2.10.0a0+git1234")
    assert backend.find_torch(python) == ("2.10.0a0+git1234", root, None)


@pytest.mark.parametrize("cuda", ["13.0", None])
def test_the_cuda_of_a_torch_is_read(python, cuda):
    about = (
        f"from typing import Optional\ncuda: Optional[str] = {cuda!r}\nhip: Optional[str] = None"
    )
    install_torch(python, "2.13.0", about)
    assert backend.find_torch(python).cuda == cuda


def test_torch_is_found_from_inside_an_isolated_build(python, tmp_path, monkeypatch):
    root = install_torch(python, "2.13.0+cpu")
    isolation = tmp_path / "isolation"  # pip's method
    isolation.mkdir()
    (isolation / "sitecustomize.py").write_text(
        "import sys; sys.path[:] = [p for p in sys.path if not p.endswith('site-packages')]"
    )
    monkeypatch.setenv("PYTHONPATH", str(isolation))
    look = "import importlib.util; print(importlib.util.find_spec('torch'))"
    assert subprocess.check_output([python, "-c", look], text=True) == "None\n"
    assert backend.find_torch(python).root == root


def test_without_torch_the_build_says_to_install_one(python):
    reason = reason_of_failure(python)
    assert "`pip install torch` first" in reason and str(python) in reason


def test_with_an_old_torch_the_build_says_to_install_a_newer(python):
    install_torch(python, "2.9.1+cpu")
    reason = reason_of_failure(python)
    assert "torch 2.9.1+cpu" in reason and "pip install 'torch>=2.10'" in reason


def test_build_and_import_need_the_same_torch():
    assert OLDEST_TORCH == backend.OLDEST_TORCH


def test_without_a_compiler_the_build_says_so(monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/c++ -m64")
    with pytest.raises(
        SystemExit, match=r"^rnnfused: no C\+\+ compiler .*/nowhere.* install g\+\+"
    ):
        build.Compiler(torch=None)


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def test_only_what_changed_is_compiled_again(project):
    compiled, _ = project.build()
    assert set(compiled) == set(CPU_SOURCES)
    assert project.build()[0] == {}
    project.touch("csrc/torch/register.cpp")
    assert set(project.build()[0]) == {"csrc/torch/register.cpp"}


@pytest.mark.parametrize(
    ("header", "compiled"),
    [
        ("csrc/params.h", set(CPU_SOURCES)),
        ("csrc/cpu/team.h", set(CPU_SOURCES)),
        ("csrc/cpu/kernels/tile.h", ISA),
        ("csrc/torch/tensors.h", {"csrc/torch/register.cpp"}),
        ("csrc/cuda/scan.cuh", set()),
    ],
)
def test_a_header_recompiles_the_sources_that_may_include_it(project, header, compiled):
    project.build()
    project.touch(header)
    assert set(project.build()[0]) == compiled


def files_included_by(path):
    """The files of csrc that a source or header includes, directly."""
    names = re.findall(r'^ *# *include *"(.*)"', path.read_text(), re.M)
    return [ROOT / "csrc" / name for name in names]


@pytest.mark.parametrize("library", build.LIBRARIES, ids=lambda library: library.name)
def test_sources_include_headers_of_their_folders_alone(library, monkeypatch):
    monkeypatch.chdir(ROOT)
    for source in library.sources:
        allowed = build.included_folders(source)
        seen, pending = set(), [ROOT / source]
        while pending:
            path = pending.pop()
            seen.add(path)
            pending += [path for path in files_included_by(path) if path not in seen]
        folders = {path.parent.relative_to(ROOT).as_posix() for path in seen}
        assert len(seen) > 1 and folders <= set(allowed), source


def test_other_options_and_compilers_have_objects_of_their_own(project):
    everything = set(project.build()[0])
    assert set(project.build(CXXFLAGS="-g")[0]) == everything
    assert project.build()[0] == {}
    project.set_compiler("g++ 13")
    assert set(project.build()[0]) == everything


def test_wide_instructions_stay_in_their_own_source_and_behind_the_baseline(project):
    compiled, objects = project.build()
    wide = {source for source, options in compiled.items() if any("-mavx" in o for o in options)}
    assert wide == {
        f"csrc/cpu/kernels/isa_{name}.cpp" for name in ("avx2", "avx512", "avx512_bf16")
    }
    baseline = len(objects) - 3
    assert ["avx" in name for name in objects] == [False] * baseline + [True] * 3


def test_other_processors_and_compilers_get_only_what_they_know(project):
    project.set_compiler("clang version 17", "aarch64-linux-gnu")
    compiled, objects = project.build()
    expected = {*build.LIBRARIES[0].sources, *build.ISA_FLAGS["aarch64"]}
    assert set(compiled) == expected and len(objects) == len(expected)
    assert "-march=armv8.2-a+bf16" in compiled["csrc/cpu/kernels/isa_neon_bf16.cpp"]
    assert sum("-march=armv8.2-a+bf16" in call for call in compiled.values()) == 1
    options = {option for call in compiled.values() for option in call}
    assert "-fno-gnu-unique" not in options and not any(o.startswith("-mavx") for o in options)
    assert "-fno-schedule-insns" not in options  # only GCC knows it
    project.set_compiler("g++ 12", "aarch64-linux-gnu")
    compiled, _ = project.build()
    assert all("-fno-schedule-insns" in call for call in compiled.values())
    project.set_compiler()
    compiled, _ = project.build()
    assert not any("-fno-schedule-insns" in call for call in compiled.values())


def test_on_a_mac_torch_is_found_beside_the_package_and_no_second_openmp_is_linked(project):
    project.set_compiler(version="Apple clang version 17", machine="arm64-apple-darwin24.0.0")
    compiled, _ = project.build()
    link = project.links["_cpu.so"]
    assert "-Wl,-undefined,dynamic_lookup" in link and "-Wl,-z,defs" not in link
    assert "-Wl,-rpath,@loader_path/../torch/lib" in link and "-ltorch_cpu" in link
    isa = {source for source in compiled if "/isa_" in source}
    assert isa == {f"csrc/cpu/kernels/isa_{name}.cpp" for name in ("baseline", "neon_bf16")}
    words = {word for call in [link, *compiled.values()] for word in call}
    assert not {word for word in words if "omp" in word or word == "-fno-gnu-unique"}


def test_an_edit_made_while_the_compiler_runs_is_compiled_next_time(project):
    edit = "sleep 0.1; touch csrc/torch/register.cpp; sleep 0.1"
    project.set_compiler(meanwhile=f'case "$*" in *"-c csrc/torch/register.cpp"*) {edit} ;; esac')
    project.build()
    assert set(project.build()[0]) == {"csrc/torch/register.cpp"}


def test_an_interrupted_compilation_leaves_no_object(project):
    compiler = project.root / "compiler"
    compiler.write_text(compiler.read_text() + "kill -9 $$\n")
    with pytest.raises(subprocess.CalledProcessError):
        project.build()
    project.set_compiler()
    assert set(project.build()[0]) == set(CPU_SOURCES)


def test_the_commands_are_written_down_for_clang_tidy(project):
    compiled, _ = project.build()
    for _ in range(2):  # the second time, nothing is compiled
        commands = json.loads((project.root / "build" / "compile_commands.json").read_text())
        assert {command["file"]: command["directory"] for command in commands} == {
            source: str(project.root.resolve()) for source in compiled
        }
        for command in commands:
            options = set(command["arguments"])
            wanted = [option for option in compiled[command["file"]] if option.startswith("-m")]
            assert {"-Icsrc", "-std=c++17", *wanted} <= options
        project.build()


def test_a_path_with_spaces(tmp_path):
    folder = tmp_path / "a path with spaces"
    project = Project(folder)
    assert set(project.build()[0]) == set(CPU_SOURCES)
    project.run("bdist_wheel", cuda=True)
    assert len(list(folder.glob("dist/*.whl"))) == 1


def obey_permissions():
    """Take from root, if this is root, the right to write where the file mode forbids it."""
    PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="the rights of root are those of Linux")
@pytest.mark.parametrize(
    "command", [[sys.executable, "setup.py", "bdist_wheel"], ["make", "build"]], ids=["pip", "make"]
)
def test_a_read_only_source_folder_is_named_in_one_line(project, command):
    shutil.copy(ROOT / "Makefile", project.root)
    folder = project.root.resolve()
    options = {"capture_output": True, "text": True, "preexec_fn": obey_permissions}
    folder.chmod(0o555)
    try:
        call = subprocess.run(command, cwd=folder, **options)
    finally:
        folder.chmod(0o755)
    [line] = [line for line in (call.stdout + call.stderr).splitlines() if "rnnfused: " in line]
    assert call.returncode != 0 and "Traceback" not in call.stderr
    assert line.startswith("rnnfused: cannot write to ") and line.endswith("build the copy")
    assert not (folder / "build").exists()


def test_max_jobs_bounds_the_compilers(monkeypatch):
    monkeypatch.setenv("MAX_JOBS", "3")
    assert build.job_count() == 3
    for wrong in ("abc", "0", "-1"):
        monkeypatch.setenv("MAX_JOBS", wrong)
        with pytest.raises(SystemExit, match=f"MAX_JOBS must be .* got '{wrong}'"):
            build.job_count()
    monkeypatch.delenv("MAX_JOBS")
    assert 1 <= build.job_count() <= os.cpu_count()


def test_wheel_serves_every_python_on_one_platform():
    wheel = build.PlatformWheel(Distribution({"ext_modules": build.LIBRARIES}))
    wheel.finalize_options()
    python, abi, platform = wheel.get_tag()
    assert (python, abi) == ("py3", "none") and platform != "any"


@pytest.mark.parametrize("machine", ["arm64", "x86_64"])
def test_wheel_of_a_python_for_both_processors_of_apple_names_one(machine, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: machine)
    command = build.PlatformWheel(Distribution())
    command.ensure_finalized()
    command.root_is_pure, command.plat_name_supplied = False, True
    command.plat_name = "macosx_11_0_universal2"
    assert command.get_tag() == ("py3", "none", f"macosx_11_0_{machine}")


def test_wheel_tells_type_checkers_that_it_is_annotated(project):
    shutil.copy(ROOT / "rnnfused" / "py.typed", project.root / "rnnfused")
    project.run("bdist_wheel")
    [wheel] = project.root.glob("dist/*.whl")
    assert "rnnfused/py.typed" in zipfile.ZipFile(wheel).namelist()


@pytest.fixture(scope="module")
def symbols():
    """The built library's dynamic symbols, as (kind, name)."""
    if sys.platform != "linux" or not shutil.which("nm"):
        pytest.skip("needs an ELF library and binutils")
    library = Path(importlib.util.find_spec("rnnfused").origin).parent / "_cpu.so"
    names = subprocess.run(["nm", "-D", library], capture_output=True, text=True, check=True).stdout
    return [line.split()[-2:] for line in names.splitlines()]


def test_library_needs_no_python_and_no_unstable_torch(symbols):
    needed = [name for kind, name in symbols if kind == "U"]
    assert any(name.startswith(("aoti_torch_", "torch_")) for name in needed)
    assert not [name for name in needed if name.startswith(("Py", "_Py"))]
    # libtorch's C++ symbols change between releases; its stable ABI consists of C functions.
    assert not [name for name in needed if re.match("_Z(T[ISV])?N?K?(2at|3c10|5torch)", name)]


def test_library_keeps_its_own_symbols_to_itself(symbols):
    own = [name for kind, name in symbols if kind != "U" and "rnnfused" in name]
    assert not [name for name in own if name.startswith("_Z")]  # the exported symbol is C
