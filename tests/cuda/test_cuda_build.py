"""The build's CUDA part: which nvcc it finds, what that compiles again, and how to do without it."""

import os
import re
import subprocess
import zipfile
from pathlib import Path

import pytest
from fake_project import KERNELS, REGISTER, Project, build, make_nvcc, nvcc


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def test_with_nvcc_a_library_of_its_own_is_built(project):
    compiled, objects = project.build(cuda=True)
    assert set(compiled) == {*build.LIBRARIES[0].sources, *REGISTER, *KERNELS}
    assert not any("cuda" in name for name in objects)
    link = project.links["_cuda.so"]
    assert [word.split(".")[0] for word in link if word.endswith(".o")] == [
        "build/objects/csrc/cuda/one",
        "build/objects/csrc/cuda/two",
        "build/objects/csrc/torch/register_cuda",
    ]
    assert {"-ltorch_cpu", "-lcudart_static", "-L/toolkit/lib"} < set(link)
    assert "-I/toolkit/include" in compiled["csrc/torch/register_cuda.cpp"]
    assert "-I/toolkit/include" not in compiled["csrc/torch/register.cpp"]
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
        ("csrc/params.h", {*build.LIBRARIES[0].sources, *REGISTER, *KERNELS}),
        ("csrc/cpu/team.h", set(build.LIBRARIES[0].sources)),
        ("csrc/torch/tensors.h", REGISTER),
        ("csrc/cuda/scan.cuh", {"csrc/torch/register_cuda.cpp", *KERNELS}),
    ],
)
def test_a_header_is_part_of_its_own_device(project, header, compiled):
    project.build(cuda=True)
    assert project.build(cuda=True)[0] == {}
    project.touch(header)
    assert set(project.build(cuda=True)[0]) == compiled


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
        ({"CXXFLAGS": "-g"}, {*build.LIBRARIES[0].sources, *REGISTER}),
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
