"""The build: which torch it finds, what it compiles again, what library and wheel it makes."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from setuptools import Distribution

ROOT = Path(__file__).parent.parent


def load(path):
    """Import a file that belongs to no package; nothing is left on the module path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


backend = load(ROOT / "csrc" / "build_backend.py")
nvcc = load(ROOT / "csrc" / "nvcc.py")
build = load(ROOT / "setup.py")


@pytest.fixture
def python(tmp_path, monkeypatch):
    """The interpreter of an empty environment."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    venv.create(tmp_path / "env", symlinks=True)
    return tmp_path / "env" / "bin" / "python"


def install_torch(python, version):
    """Put what the build asks of a torch into an environment."""
    [packages] = python.parent.parent.glob("lib/python3*/site-packages")
    (packages / "torch").mkdir()
    (packages / "torch" / "__init__.py").write_text("raise ImportError('the build imports me')")
    (packages / "torch" / "version.py").write_text(f"__version__ = {version!r}")
    return packages / "torch"


def reason_of_failure(python):
    with pytest.raises(SystemExit) as failure:
        backend.find_torch(python)
    reason = str(failure.value)
    assert reason.startswith("rnnfused: ") and "\n" not in reason
    return reason


def test_torch_is_found_without_importing_it(python):
    root = install_torch(python, "2.10.0a0+git1234")
    assert backend.find_torch(python) == ("2.10.0a0+git1234", root)


def test_torch_is_found_from_inside_an_isolated_build(python, tmp_path, monkeypatch):
    root = install_torch(python, "2.13.0+cpu")
    isolation = tmp_path / "isolation"  # as pip does it
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


def test_without_a_compiler_the_build_says_so(monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/c++ -m64")
    with pytest.raises(
        SystemExit, match=r"^rnnfused: no C\+\+ compiler .*/nowhere.* install g\+\+"
    ):
        build.Compiler(torch=None)


COMPILER = """#!/bin/sh
# Answers like a compiler, notes what it is asked for, and makes an empty file of it.
case "$1" in
  --version) echo "{version}"; exit ;;
  -dumpmachine) echo "{machine}"; exit ;;
esac
echo "$@" >> calls
{meanwhile}
while [ $# -gt 1 ]; do
  [ "$1" = -o ] && : > "$2"
  shift
done
"""


NVCC = """#!/bin/sh
# Answers like nvcc, notes what it is asked for, reports a kernel, and makes an empty file.
case "$1" in
  --version) echo "Cuda compilation tools, release {release}, V1"; exit ;;
  --list-gpu-arch) printf 'compute_%s\\n' {architectures}; exit ;;
esac
case "$*" in
  *--dryrun*) printf '%s\\n' '#$ INCLUDES="-I/toolkit/include"  ' '#$ LIBRARIES=  "-L/toolkit/lib"'; exit ;;
esac
echo "$@" >> calls
echo "ptxas info : a kernel of $*"
while [ $# -gt 1 ]; do
  [ "$1" = -o ] && : > "$2"
  shift
done
exit {status}
"""


def make_nvcc(home, release="13.0", architectures="80 86 90 100", status=0):
    """Put an nvcc that only takes notes into the folder of a toolkit."""
    path = home / "bin" / "nvcc"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(NVCC.format(release=release, architectures=architectures, status=status))
    path.chmod(0o755)
    return str(path)


KERNELS = {"csrc/cuda/one.cu", "csrc/cuda/two.cu"}
SHARED = {"csrc/register.cpp", "csrc/register_cuda.cpp"}  # what includes headers of all folders


class Project:
    """A copy of the build around empty sources, with compilers that only take notes."""

    def __init__(self, root):
        self.root = root
        headers = ["csrc/recurrence.h", "csrc/cpu/tile.h", "csrc/cuda/scan.cuh"]
        sources = [*build.LIBRARIES[0].sources, *KERNELS, *SHARED, "rnnfused/__init__.py"]
        for source in [*sources, *headers]:
            (root / source).parent.mkdir(parents=True, exist_ok=True)
            (root / source).touch()
        about = ["pyproject.toml", "README.md", "LICENSE"]
        for file in ["setup.py", "csrc/build_backend.py", "csrc/nvcc.py", *about]:
            shutil.copy(ROOT / file, root / file)
        (root / "rnnfused" / "lm").mkdir()
        self.set_compiler()
        make_nvcc(root / "toolkit")

    def set_compiler(self, version="g++ 12", machine="x86_64-linux-gnu", meanwhile=""):
        compiler = self.root / "compiler"
        answers = {"version": version, "machine": machine, "meanwhile": meanwhile}
        compiler.write_text(COMPILER.format(**answers))
        compiler.chmod(0o755)

    def touch(self, file):
        newer = (self.root / "rnnfused" / "_cpu.so").stat().st_mtime + 1
        os.utime(self.root / file, (newer, newer))

    def run(self, *command, cuda=False, **environment):
        """Call setup.py; return what it said last."""
        defaults = {
            "CXX": str(self.root / "compiler"),
            "CUDA_HOME": str(self.root / "toolkit"),
            "RNNFUSED_CUDA": "1" if cuda else "0",
            "RNNFUSED_CUDA_ARCHS": "",
        }
        call = subprocess.run(
            [sys.executable, "setup.py", "--quiet", *command],
            cwd=self.root,
            env={**os.environ, **defaults, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.last_words = call.stderr.rpartition("\n")[0].rpartition("\n")[2]
        call.check_returncode()

    def build(self, **options):
        """Build in place; return each compiled source's options, and the objects of each library."""
        notes = self.root / "calls"
        notes.unlink(missing_ok=True)
        self.run("build_ext", "--inplace", **options)
        calls = [line.split() for line in notes.read_text().splitlines()]
        compiled = {call[call.index("-c") + 1]: call for call in calls if "-c" in call}
        self.links = {Path(call[-1]).name: call for call in calls if "-shared" in call}
        return compiled, [word for word in self.links["_cpu.so"] if word.endswith(".o")]

    def libraries(self):
        """The libraries that lie in the package, and in what wheels are made of."""
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*.so")}


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def test_only_what_changed_is_compiled_again(project):
    compiled, _ = project.build()
    assert set(compiled) == set(build.LIBRARIES[0].sources)
    assert project.build()[0] == {}
    project.touch("csrc/register.cpp")
    assert set(project.build()[0]) == {"csrc/register.cpp"}


def test_a_header_is_part_of_every_source(project):
    project.build()
    project.touch("csrc/cpu/tile.h")
    assert set(project.build()[0]) == set(build.LIBRARIES[0].sources)


def test_other_options_and_compilers_have_objects_of_their_own(project):
    everything = set(project.build()[0])
    assert set(project.build(CXXFLAGS="-g")[0]) == everything
    assert project.build()[0] == {}
    project.set_compiler("g++ 13")
    assert set(project.build()[0]) == everything


def test_wide_instructions_stay_in_their_own_source_and_behind_the_baseline(project):
    compiled, objects = project.build()
    wide = {source for source, options in compiled.items() if any("-mavx" in o for o in options)}
    assert wide == {"csrc/cpu/isa_avx2.cpp", "csrc/cpu/isa_avx512.cpp"}
    assert ["avx" in name for name in objects] == [False, False, False, True, True]


def test_other_processors_and_compilers_get_only_what_they_know(project):
    project.set_compiler("clang version 17", "aarch64-linux-gnu")
    compiled, objects = project.build()
    assert len(objects) == len(compiled) == 3
    options = {option for call in compiled.values() for option in call}
    assert "-fno-gnu-unique" not in options and not any(o.startswith("-mavx") for o in options)


def test_an_edit_made_while_the_compiler_runs_is_compiled_next_time(project):
    edit = "sleep 0.1; touch csrc/register.cpp; sleep 0.1"
    project.set_compiler(meanwhile=f'case "$*" in *"-c csrc/register.cpp"*) {edit} ;; esac')
    project.build()
    assert set(project.build()[0]) == {"csrc/register.cpp"}


def test_an_interrupted_compilation_leaves_no_object(project):
    compiler = project.root / "compiler"
    compiler.write_text(compiler.read_text() + "kill -9 $$\n")
    with pytest.raises(subprocess.CalledProcessError):
        project.build()
    project.set_compiler()
    assert len(project.build()[0]) == 5


def test_with_nvcc_a_library_of_its_own_is_built(project):
    compiled, objects = project.build(cuda=True)
    assert set(compiled) == {*build.LIBRARIES[0].sources, *SHARED, *KERNELS}
    assert not any("cuda" in name for name in objects)
    link = project.links["_cuda.so"]
    assert [word.split(".")[0] for word in link if word.endswith(".o")] == [
        "build/objects/csrc/cuda/one",
        "build/objects/csrc/cuda/two",
        "build/objects/csrc/register_cuda",
    ]
    assert {"-ltorch_cpu", "-lcudart_static", "-L/toolkit/lib"} < set(link)
    assert "-I/toolkit/include" in compiled["csrc/register_cuda.cpp"]
    assert "-I/toolkit/include" not in compiled["csrc/register.cpp"]
    assert (project.root / "rnnfused" / "_cuda.so").exists()


def test_without_cuda_nothing_of_it_is_left(project):
    project.build(cuda=True)
    before = project.libraries()
    compiled, _ = project.build()
    assert compiled == {} and set(project.links) == {"_cpu.so"}
    assert project.libraries() == {path for path in before if not path.endswith("_cuda.so")}
    assert len(before) == 2 * len(project.libraries()) == 4


def test_a_wheel_holds_what_was_built(project):
    for cuda, libraries in ((True, ["_cpu.so", "_cuda.so"]), (False, ["_cpu.so"])):
        project.run("bdist_wheel", cuda=cuda)
        [wheel] = project.root.glob("dist/*.whl")
        names = zipfile.ZipFile(wheel).namelist()
        assert sorted(Path(name).name for name in names if name.endswith(".so")) == libraries


@pytest.mark.parametrize(
    ("header", "compiled"),
    [
        ("csrc/recurrence.h", {*build.LIBRARIES[0].sources, *SHARED, *KERNELS}),
        ("csrc/cpu/tile.h", {*build.LIBRARIES[0].sources, *SHARED}),
        ("csrc/cuda/scan.cuh", {*SHARED, *KERNELS}),
    ],
)
def test_a_header_is_part_of_its_own_device(project, header, compiled):
    project.build(cuda=True)
    assert project.build(cuda=True)[0] == {}
    project.touch(header)
    assert set(project.build(cuda=True)[0]) == compiled


@pytest.mark.parametrize(("folder", "other"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_devices_do_not_include_each_other(folder, other):
    files = [path for path in (ROOT / "csrc" / folder).iterdir() if path.is_file()]
    assert files
    for path in files:
        assert not re.search(rf'^ *# *include *["<].*\b{other}/', path.read_text(), re.M), path


def test_what_nvcc_says_of_the_kernels_is_kept(project):
    for _ in range(2):  # the second time, it is not called
        project.build(cuda=True)
        log = (project.root / "build" / "cuda.log").read_text()
        assert all(source in log for source in KERNELS)


def test_all_nvccs_together_keep_to_the_jobs(project):
    compiled, _ = project.build(cuda=True, MAX_JOBS="7")
    threads = [call[call.index("-t") + 1] for source, call in compiled.items() if source in KERNELS]
    assert threads == ["2", "2"]  # 2 + 2, and one for the C++ compiler
    assert project.build(cuda=True, MAX_JOBS="1")[0] == {}


@pytest.mark.parametrize(
    ("change", "compiled"),
    [
        ({"RNNFUSED_CUDA_ARCHS": "90a"}, KERNELS),
        ({"NVCC_APPEND_FLAGS": "-lineinfo"}, KERNELS),
        ({"CXXFLAGS": "-g"}, {*build.LIBRARIES[0].sources, *SHARED}),
    ],
)
def test_other_options_for_nvcc_have_objects_of_their_own(project, change, compiled):
    project.build(cuda=True)
    assert set(project.build(cuda=True, **change)[0]) == compiled


def test_another_nvcc_has_objects_of_its_own(project):
    project.build(cuda=True)
    make_nvcc(project.root / "toolkit", release="13.1")
    assert set(project.build(cuda=True)[0]) == KERNELS


def test_where_nvcc_fails_the_build_says_how_to_do_without(project):
    make_nvcc(project.root / "toolkit", status=1)
    with pytest.raises(subprocess.CalledProcessError):
        project.build(cuda=True)
    assert re.match(
        r"rnnfused: could not build csrc/cuda/\w+\.cu: .*RNNFUSED_CUDA=0", project.last_words
    )
    assert project.build()


@pytest.fixture
def toolkits(tmp_path, monkeypatch):
    """A toolkit in each place where nvcc is looked for, in the order of the search."""
    homes = [tmp_path / name for name in ("home", "path", "search", "default")]
    monkeypatch.setenv("CUDA_HOME", str(homes[0]))
    monkeypatch.setenv("CUDA_PATH", str(homes[1]))
    monkeypatch.setenv("PATH", f"{homes[2]}/bin")
    monkeypatch.setattr(nvcc, "DEFAULT_NVCC", make_nvcc(homes[3]))
    for name in ("RNNFUSED_CUDA", "RNNFUSED_CUDA_ARCHS", "NVCC_CCBIN"):
        monkeypatch.delenv(name, raising=False)
    return [make_nvcc(home) for home in homes]


def test_nvcc_is_looked_for_in_this_order(toolkits):
    for path in toolkits:
        assert nvcc.find_nvcc() == path
        os.unlink(path)
    assert nvcc.find_nvcc() is None


def problem_with_nvcc(monkeypatch, capsys):
    """The one line that says why there is no nvcc; asked for, it ends the build."""
    assert nvcc.find_nvcc() is None
    [line] = capsys.readouterr().out.splitlines()
    problem = line.removesuffix(": building for the CPU only")
    assert problem != line
    monkeypatch.setenv("RNNFUSED_CUDA", "1")
    with pytest.raises(SystemExit) as failure:
        nvcc.find_nvcc()
    assert str(failure.value).startswith(f"{problem}: ") and "\n" not in str(failure.value)
    return problem


def test_without_nvcc_the_build_says_so_and_goes_on_unless_asked_for_it(
    toolkits, monkeypatch, capsys
):
    for path in toolkits:
        os.unlink(path)
    problem = problem_with_nvcc(monkeypatch, capsys)
    assert problem == "rnnfused: no nvcc in CUDA_HOME, CUDA_PATH, PATH or /usr/local/cuda"


def test_an_old_nvcc_counts_as_none(toolkits, tmp_path, monkeypatch, capsys):
    make_nvcc(tmp_path / "home", release="12.4")
    assert nvcc.find_nvcc() == toolkits[0]
    make_nvcc(tmp_path / "home", release="12.3")
    problem = problem_with_nvcc(monkeypatch, capsys)
    assert problem == f"rnnfused: {toolkits[0]} is of CUDA 12.3, older than 12.4"


def test_rnnfused_cuda_forbids_and_knows_no_third_answer(toolkits, monkeypatch, capsys):
    monkeypatch.setenv("RNNFUSED_CUDA", "0")
    assert nvcc.find_nvcc() is None
    assert capsys.readouterr().out == ""  # who forbids it needs no explanation
    monkeypatch.setenv("RNNFUSED_CUDA", "yes")
    with pytest.raises(SystemExit, match=r"^rnnfused: RNNFUSED_CUDA is 'yes'"):
        nvcc.find_nvcc()


def test_architectures_are_those_that_nvcc_knows_or_those_asked_for(
    toolkits, tmp_path, monkeypatch
):
    everything = ["sm_80", "compute_80", "sm_86", "sm_90a", "sm_100"]
    assert nvcc.codes(toolkits[0]) == everything
    command = nvcc.Nvcc(toolkits[0], ["c++"], []).command
    assert [word for word in command if word.startswith("-gencode")] == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_80,code=compute_80",
        "-gencode=arch=compute_86,code=sm_86",
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_100,code=sm_100",
    ]
    make_nvcc(tmp_path / "home", architectures="80 86 90")
    assert nvcc.codes(toolkits[0]) == everything[:-1]
    monkeypatch.setenv("RNNFUSED_CUDA_ARCHS", "90a;120+PTX")
    assert nvcc.codes(toolkits[0]) == ["sm_90a", "sm_120", "compute_120"]
    monkeypatch.setenv("RNNFUSED_CUDA_ARCHS", "80 sm_90")
    with pytest.raises(SystemExit, match=r"^rnnfused: RNNFUSED_CUDA_ARCHS has 'sm_90': say it"):
        nvcc.codes(toolkits[0])


def test_nvcc_calls_the_c_compiler_of_the_rest(toolkits, monkeypatch):
    command = nvcc.Nvcc(toolkits[0], ["/usr/bin/ccache", "g++-12", "-m64"], ["-fpic"]).command
    assert command[:3] == [toolkits[0], "-ccbin", "g++-12"]
    assert command[-2:] == ["-Xcompiler=-m64", "-Xcompiler=-fpic"]
    monkeypatch.setenv("NVCC_CCBIN", "g++-11")
    assert nvcc.Nvcc(toolkits[0], ["c++"], []).command[2] == "g++-11"


def test_max_jobs_bounds_the_compilers(monkeypatch):
    monkeypatch.setenv("MAX_JOBS", "3")
    assert build.job_count() == 3
    monkeypatch.delenv("MAX_JOBS")
    assert 1 <= build.job_count() <= os.cpu_count()


def test_wheel_serves_every_python_on_one_platform():
    wheel = build.PlatformWheel(Distribution({"ext_modules": build.LIBRARIES}))
    wheel.finalize_options()
    python, abi, platform = wheel.get_tag()
    assert (python, abi) == ("py3", "none") and platform != "any"


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
    assert not [name for name in own if name.startswith("_Z")]  # what is meant to be seen is C
