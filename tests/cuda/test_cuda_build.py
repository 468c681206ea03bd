"""The build's CUDA part: when it is built, with which nvcc, for which GPUs, and what is recompiled."""

import os
import re
import subprocess
import zipfile
from pathlib import Path

import pytest
from fake_project import CPU_SOURCES, KERNELS, REGISTER, Project, backend, make_nvcc, nvcc


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def test_with_nvcc_a_library_of_its_own_is_built(project):
    compiled, objects = project.build(cuda=True)
    assert set(compiled) == {*CPU_SOURCES, *REGISTER, *KERNELS}
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
        ("csrc/params.h", {*CPU_SOURCES, *REGISTER, *KERNELS}),
        ("csrc/cpu/team.h", set(CPU_SOURCES)),
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
        ({"RNNFUSED_CUDA_ARCHS": "75"}, KERNELS),  # no other build's, whatever GPU this machine has
        ({"NVCC_APPEND_FLAGS": "-lineinfo"}, KERNELS),
        ({"CXXFLAGS": "-g"}, {*CPU_SOURCES, *REGISTER}),
    ],
)
def test_other_options_for_nvcc_have_objects_of_their_own(project, change, compiled):
    project.build(cuda=True)
    assert set(project.build(cuda=True, **change)[0]) == compiled


def test_another_nvcc_has_objects_of_its_own(project):
    project.build(cuda=True)
    make_nvcc(project.root / "toolkit", release="13.1")
    assert set(project.build(cuda=True)[0]) == KERNELS


def test_where_nvcc_fails_the_message_names_the_way_without(project):
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
    monkeypatch.setattr(nvcc, "gpus", list)
    for name in ("RNNFUSED_CUDA", "RNNFUSED_CUDA_ARCHS", "NVCC_CCBIN"):
        monkeypatch.delenv(name, raising=False)
    return [make_nvcc(home) for home in homes]


CUDA_TORCH = backend.Torch("2.13.0+cu130", Path("/torch"), "13.0")
CPU_TORCH = backend.Torch("2.13.0+cpu", Path("/torch"), None)


def test_nvcc_is_searched_in_this_order(toolkits):
    for path in toolkits:
        assert nvcc.find_nvcc(CUDA_TORCH) == path
        os.unlink(path)
    assert nvcc.find_nvcc(CUDA_TORCH) is None


def problem_with_nvcc(monkeypatch, capsys):
    """The one-line reason for a build without CUDA; with RNNFUSED_CUDA=1 it ends the build."""
    assert nvcc.find_nvcc(CUDA_TORCH) is None
    [line] = capsys.readouterr().out.splitlines()
    problem = line.removeprefix("rnnfused: building for the CPU only: ")
    assert problem != line
    monkeypatch.setenv("RNNFUSED_CUDA", "1")
    with pytest.raises(SystemExit) as failure:
        nvcc.find_nvcc(CUDA_TORCH)
    assert str(failure.value).startswith(f"rnnfused: {problem}: ") and "\n" not in str(
        failure.value
    )
    return problem


def test_without_nvcc_the_build_goes_on_unless_cuda_is_required(toolkits, monkeypatch, capsys):
    for path in toolkits:
        os.unlink(path)
    problem = problem_with_nvcc(monkeypatch, capsys)
    assert problem == "no nvcc in CUDA_HOME, CUDA_PATH, PATH or /usr/local/cuda"


def test_an_old_nvcc_counts_as_none(toolkits, tmp_path, monkeypatch, capsys):
    make_nvcc(tmp_path / "home", release="12.4")
    assert nvcc.find_nvcc(CUDA_TORCH) == toolkits[0]
    make_nvcc(tmp_path / "home", release="12.3")
    problem = problem_with_nvcc(monkeypatch, capsys)
    assert problem == f"{toolkits[0]} is of CUDA 12.3, older than 12.4"


def test_beside_a_torch_without_cuda_it_is_built_only_on_request(toolkits, monkeypatch, capsys):
    assert nvcc.find_nvcc(CPU_TORCH) is None
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("rnnfused: building for the CPU only: torch 2.13.0+cpu has no CUDA")
    assert "RNNFUSED_CUDA=1" in line
    monkeypatch.setenv("RNNFUSED_CUDA", "1")
    assert nvcc.find_nvcc(CPU_TORCH) == toolkits[0]


def test_rnnfused_cuda_is_0_or_1(toolkits, monkeypatch, capsys):
    monkeypatch.setenv("RNNFUSED_CUDA", "0")
    assert nvcc.find_nvcc(CUDA_TORCH) is None
    assert capsys.readouterr().out == "rnnfused: building for the CPU only: RNNFUSED_CUDA=0\n"
    monkeypatch.setenv("RNNFUSED_CUDA", "yes")
    with pytest.raises(SystemExit, match=r"^rnnfused: RNNFUSED_CUDA is 'yes'"):
        nvcc.find_nvcc(CUDA_TORCH)


EVERYTHING = ["sm_80", "compute_80", "sm_86", "sm_90a", "sm_100", "sm_120"]


def reason_of_codes(capsys):
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("rnnfused: building for CUDA with ")
    return line.partition("(")[2].removesuffix(")")


def test_an_older_nvcc_compiles_for_the_gpus_that_it_knows(toolkits, tmp_path, capsys):
    assert nvcc.choose_codes(toolkits[0], for_wheel=True) == EVERYTHING
    assert reason_of_codes(capsys) == "all architectures, for a wheel"
    make_nvcc(tmp_path / "home", architectures="80 86 90")
    assert nvcc.choose_codes(toolkits[0], for_wheel=True) == EVERYTHING[:-2]


def test_rnnfused_cuda_archs_names_the_gpus(toolkits, monkeypatch, capsys):
    monkeypatch.setattr(nvcc, "gpus", lambda: [(8, 0)])
    monkeypatch.setenv("RNNFUSED_CUDA_ARCHS", "90a;120+PTX")
    for for_wheel in (False, True):
        codes = nvcc.choose_codes(toolkits[0], for_wheel)
        assert codes == ["sm_90a", "sm_120", "compute_120"]
        assert reason_of_codes(capsys) == "RNNFUSED_CUDA_ARCHS"
    monkeypatch.setenv("RNNFUSED_CUDA_ARCHS", "80 sm_90")
    with pytest.raises(SystemExit, match=r"^rnnfused: RNNFUSED_CUDA_ARCHS has 'sm_90': write it"):
        nvcc.choose_codes(toolkits[0], for_wheel=False)


@pytest.mark.parametrize(
    ("gpus", "codes"),
    [
        ([(9, 0)], ["sm_90a"]),
        ([(8, 0)], ["sm_80", "compute_80"]),
        ([(8, 6)], ["sm_86"]),
        ([(8, 9)], ["sm_86"]),  # machine code serves later minor versions
        ([(10, 3)], ["sm_100"]),
        ([(12, 1)], ["sm_120"]),
        ([(11, 0)], ["sm_80", "compute_80"]),  # by PTX
        ([(9, 1)], ["sm_80", "compute_80"]),  # code for 90a serves 9.0 alone
        ([(9, 0), (8, 6), (9, 0)], ["sm_86", "sm_90a"]),
        ([(7, 5), (9, 0)], ["sm_90a"]),
        ([(7, 5)], EVERYTHING),  # no kernel runs there: as without a GPU
        ([], EVERYTHING),
    ],
)
def test_a_build_in_place_is_for_the_gpus_of_the_machine(
    toolkits, monkeypatch, capsys, gpus, codes
):
    monkeypatch.setattr(nvcc, "gpus", lambda: gpus)
    assert nvcc.choose_codes(toolkits[0], for_wheel=False) == codes
    everything = "all architectures: nvidia-smi lists no GPU that the kernels run on"
    expected = everything if codes == EVERYTHING else "the GPUs of this machine"
    assert reason_of_codes(capsys) == expected
    assert nvcc.choose_codes(toolkits[0], for_wheel=True) == EVERYTHING


@pytest.mark.parametrize(
    ("program", "gpus"),
    [
        ("printf '9.0\\n9.0\\n'", [(9, 0), (9, 0)]),
        ("printf '10.0\\n8.6\\n'", [(10, 0), (8, 6)]),
        ("echo 'NVIDIA-SMI has failed, driver 9.0'; exit 9", []),
        (None, []),
    ],
)
def test_gpus_are_those_that_nvidia_smi_lists(tmp_path, monkeypatch, program, gpus):
    monkeypatch.setenv("PATH", str(tmp_path))
    if program:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    assert nvcc.gpus() == gpus


def gencode(command):
    return [word for word in command if word.startswith("-gencode")]


def test_nvcc_gets_the_codes(toolkits):
    command = nvcc.Nvcc(toolkits[0], ["sm_80", "compute_80", "sm_90a"], ["c++"], []).command
    assert gencode(command) == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_80,code=compute_80",
        "-gencode=arch=compute_90a,code=sm_90a",
    ]


def test_a_wheel_is_for_every_gpu_and_a_build_in_place_for_those_at_hand(project, monkeypatch):
    path = project.root / "programs"
    path.mkdir()
    (path / "nvidia-smi").write_text("#!/bin/sh\necho 9.0\n")
    (path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{path}{os.pathsep}{os.environ['PATH']}")
    compiled, _ = project.build(cuda=True)
    assert {tuple(gencode(compiled[source])) for source in KERNELS} == {
        ("-gencode=arch=compute_90a,code=sm_90a",)
    }
    notes = project.root / "calls"
    notes.unlink()
    project.run("bdist_wheel", cuda=True)
    calls = [line.split() for line in notes.read_text().splitlines()]
    calls = [call for call in calls if KERNELS & set(call)]
    assert len(calls) == len(KERNELS)
    assert all(len(gencode(call)) == len(EVERYTHING) for call in calls)


def test_nvcc_calls_the_c_compiler_of_the_rest(toolkits, monkeypatch):
    host = ["/usr/bin/ccache", "g++-12", "-m64"]
    command = nvcc.Nvcc(toolkits[0], ["sm_80"], host, ["-fpic"]).command
    assert command[:3] == [toolkits[0], "-ccbin", "g++-12"]
    assert command[-2:] == ["-Xcompiler=-m64", "-Xcompiler=-fpic"]
    monkeypatch.setenv("NVCC_CCBIN", "g++-11")
    assert nvcc.Nvcc(toolkits[0], ["sm_80"], ["c++"], []).command[2] == "g++-11"
