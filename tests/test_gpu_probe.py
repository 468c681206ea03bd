"""The probe of the CUDA kernels: its arithmetic on the host, and its verdicts on a GPU that the host imitates."""

import ctypes
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from compiled import compiled
from fake_project import ROOT, backend, nvcc
from raw_ops import RELU, TANH, loop

from rnnfused import reference

SOURCES = ROOT / "tests" / "cuda" / "probe"
COMPILER = shutil.which(os.environ.get("CXX", "c++"))
NVCC = nvcc.find_nvcc(backend.Torch("any", Path(), "any"))

needs_nvcc = pytest.mark.skipif(NVCC is None, reason="needs nvcc 12.4 or newer")


def made(name, command):
    """The file that a command makes of the probe's sources."""
    csrc = ROOT / "csrc"
    return compiled(name, command, [*SOURCES.iterdir(), *csrc.glob("*.h"), *csrc.glob("cuda/*.h")])


class Call(ctypes.Structure):
    """Call of reference.h."""

    _fields_ = [
        ("num_steps", ctypes.c_int64),
        ("batch_size", ctypes.c_int64),
        ("hidden_size", ctypes.c_int64),
        ("relu", ctypes.c_bool),
        ("reverse", ctypes.c_bool),
        ("batch_sizes", ctypes.c_void_p),
        ("step_starts", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("stored_roundoff", ctypes.c_double),
        ("stored_smallest", ctypes.c_double),
        ("sum_roundoff", ctypes.c_double),
    ]


class Verdict(ctypes.Structure):
    """Verdict of reference.h."""

    _fields_ = [
        ("checked", ctypes.c_int64),
        ("wrong", ctypes.c_int64),
        ("worst", ctypes.c_double),
        ("step", ctypes.c_int64),
        ("row", ctypes.c_int64),
        ("unit", ctypes.c_int64),
        ("got", ctypes.c_double),
        ("expected", ctypes.c_double),
    ]


ROUNDOFF = {
    torch.float32: (2.0**-24, 0, 2.0**-24),
    torch.float64: (2.0**-53, 0, 2.0**-53),
    torch.bfloat16: (2.0**-8, 0, 2.0**-24),
    torch.float16: (2.0**-11, 2.0**-24, 2.0**-24),
}


class Example:
    """Random tensors of a call in a dtype, and the results of a loop on them."""

    def __init__(self, dtype, packed=False, reverse=False, relu=False, has_states=True, hidden=37):
        torch.manual_seed(0)
        self.dtype, self.reverse, self.relu, self.hidden = dtype, reverse, relu, hidden
        self.sizes = torch.tensor([5, 5, 3, 3, 1] if packed else [4] * 6)
        rows = int(self.sizes.sum())
        self.packed = packed
        self.weight = (torch.randn(hidden, hidden) / hidden**0.5).to(dtype)
        self.projections, self.grad_output = torch.randn(2, rows, hidden).to(dtype)
        self.h_0 = self.grad_h_n = None
        if has_states:
            self.h_0, self.grad_h_n = torch.randn(2, int(self.sizes[0]), hidden).to(dtype)

    def run(self, function):
        """Sets the results by ``function(projections, weight, h_0, batch_sizes)``, which returns (output, h_n)."""
        shape = (-1, self.hidden) if self.packed else (6, 4, self.hidden)
        p = self.projections.clone().requires_grad_()
        h_0 = None if self.h_0 is None else self.h_0.clone().requires_grad_()
        sizes = self.sizes if self.packed else None
        output, h_n = function(p.view(shape), self.weight, h_0, sizes)
        h_n = h_n.reshape(-1, self.hidden)
        total = (output * self.grad_output.view(output.shape)).sum()
        total = total if self.grad_h_n is None else total + (h_n * self.grad_h_n).sum()
        self.output = output.detach().reshape(-1, self.hidden)
        self.h_n = h_n.detach()
        self.grad_projections, *rest = torch.autograd.grad(total, [p] if h_0 is None else [p, h_0])
        self.grad_h_0 = rest[0] if rest else None
        return self

    def check(self, library, forward):
        """The verdict on the results."""
        starts = torch.cumsum(self.sizes, 0) - self.sizes
        steps, rows = torch.arange(len(self.sizes)), torch.arange(int(self.sizes[0]))
        names = ["projections", "h_0", "output", "h_n"]
        if not forward:
            names = ["grad_output", "grad_h_n", "output", "grad_projections", "grad_h_0"]
        tensors = [getattr(self, name) for name in names]
        exact = [None if x is None else x.double().contiguous() for x in (*tensors, self.weight)]
        pointers = [None if x is None else x.data_ptr() for x in exact]
        call = Call(
            len(self.sizes),
            int(self.sizes[0]),
            self.hidden,
            self.relu,
            self.reverse,
            self.sizes.data_ptr(),
            starts.data_ptr(),
            pointers[-1],
            *ROUNDOFF[self.dtype],
        )
        arrays = (ctypes.c_void_p * len(tensors))(*pointers[:-1])
        verdict = Verdict()
        library.rnnfused_probe_check(
            ctypes.c_bool(forward),
            ctypes.byref(call),
            arrays,
            ctypes.c_void_p(steps.data_ptr()),
            ctypes.c_int64(len(steps)),
            ctypes.c_void_p(rows.data_ptr()),
            ctypes.c_int64(len(rows)),
            ctypes.byref(verdict),
        )
        return verdict


@pytest.fixture(scope="module")
def library():
    if COMPILER is None:
        pytest.skip("needs a C++ compiler")
    options = ["-std=c++17", "-O1", "-shared", "-fPIC", str(SOURCES / "reference.cpp")]
    return ctypes.CDLL(str(made("probe_reference.so", [COMPILER, *options])))


both_ways = pytest.mark.parametrize("forward", [True, False], ids=["forward", "backward"])
OPTIONS = [
    {},
    {"reverse": True},
    {"relu": True},
    {"has_states": False},
    {"packed": True},
    {"packed": True, "reverse": True},
    {"packed": True, "reverse": True, "relu": True, "has_states": False},
]


@both_ways
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_oracle_is_right(library, options, forward):
    example = Example(torch.float64, **options)

    def oracle(projections, weight, h_0, batch_sizes):
        kind = "relu" if example.relu else "tanh"
        given = dict(nonlinearity=kind, reverse=example.reverse, batch_sizes=batch_sizes)
        return reference.rnn(projections, weight, h_0, **given)

    verdict = example.run(oracle).check(library, forward)
    ends = 0 if not forward and example.h_0 is None else int(example.sizes[0])
    assert verdict.wrong == 0 and verdict.worst <= 1
    assert verdict.checked == (int(example.sizes.sum()) + ends) * example.hidden


def by_op(example):
    """Runs an example by the fused op, which rounds every state."""

    def run(projections, weight, h_0, batch_sizes):
        f = RELU if example.relu else TANH
        h_0 = None if h_0 is None else h_0[None]
        return loop(projections, weight, h_0, batch_sizes, nonlinearity=f, reverse=example.reverse)

    return example.run(run)


@both_ways
@pytest.mark.parametrize("dtype", ROUNDOFF)
@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[-1]], ids=str)
def test_the_cpus_loop_is_right_in_every_dtype(library, dtype, options, forward):
    verdict = by_op(Example(dtype, hidden=200, **options)).check(library, forward)
    assert verdict.wrong == 0, (verdict.worst, verdict.got, verdict.expected)


@both_ways
@pytest.mark.parametrize("dtype", ROUNDOFF)
def test_one_state_too_old_is_seen_and_placed(library, dtype, forward):
    """A block that reads one word of the state before the last makes its units wrong."""
    example = by_op(Example(dtype, hidden=200))
    name = "output" if forward else "grad_projections"
    values = getattr(example, name).view(6, 4, 200)
    source = 0 if forward else 5
    step = 2 if forward else 3
    before = values[1 if forward else 4, 2, 7].double()
    weight = example.weight.double()
    row = weight[:, 7] if forward else weight[7, :]
    h = example.output.view(6, 4, 200)[step, 2].double()
    slope = 1 - h * h
    change = (values[source, 2, 7].double() - before) * row * slope
    values[step, 2] = (values[step, 2].double() + change).to(dtype)
    verdict = example.check(library, forward)
    assert verdict.wrong > 100 if dtype is not torch.bfloat16 else verdict.wrong > 20
    assert (verdict.step, verdict.row) == (step, 2)


@both_ways
def test_nan_is_wrong(library, forward):
    example = by_op(Example(torch.float32))
    (example.h_n if forward else example.grad_h_0)[3, 5] = float("nan")
    verdict = example.check(library, forward)
    assert verdict.wrong == 1 and (verdict.row, verdict.unit) == (3, 5)
    assert verdict.worst == float("inf")


@pytest.fixture(scope="module")
def host_gpu():
    """Runs the probe on the imitated GPU; returns (exit status, rows, error output)."""
    if NVCC is None or COMPILER is None:
        pytest.skip("needs the headers of nvcc 12.4 or newer, and a C++ compiler")
    headers = nvcc.Nvcc(NVCC, ["sm_80"], [COMPILER], []).include_flags
    names = ("probe.cpp", "reference.cpp", "host_gpu.cpp")
    options = [
        "-std=c++17",
        "-O1",
        "-Icsrc",
        *(flag.replace("-I", "-isystem", 1) for flag in headers),
    ]
    sources = [str(SOURCES / name) for name in names]
    program = made("probe_on_host", [COMPILER, *options, *sources])

    def run(*arguments, fault="", plan=""):
        call = subprocess.run(
            [program, *arguments],
            env={**os.environ, "HOST_GPU_FAULT": fault, "HOST_GPU_PLAN": plan},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return call.returncode, [json.loads(line) for line in call.stdout.splitlines()], call.stderr

    return run


def finished(rows):
    return [row for row in rows if row["status"] != "started"]


def test_right_kernels_pass_and_every_call_is_announced(host_gpu):
    status, rows, _ = host_gpu("--few")
    assert status == 0
    assert [row["status"] for row in rows] == ["started", "ok"] * (len(rows) // 2)
    assert [row["case"] for row in rows[::2]] == [row["case"] for row in rows[1::2]]
    done = finished(rows)
    assert len(done) == 32 and all(row["wrong"] == 0 < row["checked"] for row in done)
    assert [row["index"] for row in done] == list(range(32))
    assert {row["dtype"] for row in done} == {"float32", "bfloat16"}


@pytest.mark.parametrize(
    ("fault", "found"),
    [("wrong", 8), ("unwritten", 8), ("sometimes unwritten", 8), ("overrun", 8), ("unstable", 1)],
)
def test_a_fault_of_one_plan_is_found_in_it_alone(host_gpu, fault, found):
    status, rows, _ = host_gpu("--few", fault=fault, plan="cluster,2")
    bad = [row for row in finished(rows) if row["status"] != "ok"]
    assert status == 1 and len(bad) >= found
    assert {row["plan"] for row in bad} == {"cluster,2"}
    expected = {"unwritten": "wrong", "sometimes unwritten": "unstable"}.get(fault, fault)
    assert expected in {row["status"] for row in bad}
    assert all(row["message"] for row in bad)


def test_a_kernel_that_gave_up_waiting_is_reported_and_the_next_one_runs(host_gpu):
    status, rows, _ = host_gpu("--few", fault="alarm", plan="cluster,2")
    given_up = [row for row in finished(rows) if row["status"] == "alarm"]
    assert status == 1 and len(finished(rows)) == 32
    assert {row["plan"] for row in given_up} == {"cluster,2"} and len(given_up) == 8
    assert "an earlier fused call stopped" in given_up[0]["message"]


def test_a_gpu_that_gave_an_error_is_used_no_more(host_gpu):
    status, rows, _ = host_gpu("--few", fault="dead", plan="cluster,8")
    assert status == 4
    assert [row["status"] for row in finished(rows)].count("error") == 1
    assert rows[-1]["status"] == "error" and "illegal memory access" in rows[-1]["message"]
    later = str(rows[-1]["index"] + 1)
    assert host_gpu("--few", "--from", later)[0] == 0


def test_cases_may_be_left_out(host_gpu):
    _, rows, _ = host_gpu("--few", "--without", "cluster")
    assert {row["plan"] for row in finished(rows)} == {"none", "grid,4"}


def test_a_plan_that_holds_no_call_is_refused(host_gpu):
    status, rows, _ = host_gpu("--only", "none/float32/full")
    assert status == 0 and [row["status"] for row in finished(rows)] == ["refused", "refused"]


def test_the_table_of_plans(host_gpu):
    status, rows, _ = host_gpu("--plans")
    assert status == 0 and len(rows) == 4 * 6 * 5
    assert {(row["hidden_size"], row["plan"]) for row in rows if row["hidden_size"] < 200} == {
        (32, "none"),
        (128, ""),
    }


@pytest.mark.parametrize(("fault", "expected"), [("", (0, "ok")), ("unstable", (1, "wrong"))])
def test_two_grids_at_once(host_gpu, fault, expected):
    status, rows, _ = host_gpu("--two-grids", "--few", fault=fault)
    assert (status, {row["status"] for row in finished(rows)}) == (expected[0], {expected[1]})
    assert len(finished(rows)) == 3


SENDS = (",send=words",)


def test_cases_go_from_the_simplest_to_the_hardest(host_gpu):
    status, rows, _ = host_gpu("--list", fault="no GPU")
    names = [row["case"].split("/") for row in rows]
    plans = list(dict.fromkeys(name[0] for name in names))
    assert status == 0
    clusters = [f"cluster,{n}{send}" for n in (2, 4, 8, 16) for send in ("", *SENDS)]
    grids = [f"grid,{n}" for n in (2, 4, 8, 16, 32, 64)]
    assert plans == ["none", *clusters, *grids, "auto"]
    ways = {tuple(name[1:]) for name in names if name[0] == "cluster,8"}
    assert len(ways) == 4 * 3 * 2
    # The table of plans, and the benchmark, have the same shapes.
    assert {name[2] for name in names if name[0] == "auto"} >= {"64x512", "256x1024", "1024x32"}


def test_the_sweep_runs_every_plan_at_a_shape_of_the_benchmark(host_gpu):
    status, rows, _ = host_gpu("--sweep", "--list", fault="no GPU")
    names = [row["case"].split("/") for row in rows]
    plans = {name[0] for name in names}
    assert status == 0 and {"auto", "none", "none,tile=4", "cluster,8,tile=2", "grid,32"} <= plans
    status, rows, _ = host_gpu("--sweep", "--only", "none/float32/1024x32")
    assert status == 0 and [row["status"] for row in finished(rows)] == ["ok", "ok"]
    assert all(
        row["estimated_us_per_step"] >= 0 and row["us_per_step"] >= 0 for row in finished(rows)
    )


@pytest.mark.parametrize("arguments", [[], ["--plans"], ["--two-grids"]], ids=str)
def test_no_gpu_is_said(host_gpu, arguments):
    status, rows, error = host_gpu(*arguments, fault="no GPU")
    assert (status, rows) == (2, [])
    assert error == "probe: no NVIDIA GPU: no CUDA-capable device is detected\n"


@pytest.mark.parametrize(
    "arguments", [["--from"], ["--from", "-1"], ["--from", "x"], ["all"]], ids=str
)
def test_wrong_arguments_are_refused(host_gpu, arguments):
    assert host_gpu(*arguments)[0] == 3


@needs_nvcc
def test_preflight_compiles_and_says_that_there_is_no_gpu():
    command = [NVCC, "-std=c++17", "-arch=sm_90", "-Icsrc", str(SOURCES / "preflight.cu")]
    program = made("preflight", command)
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    call = subprocess.run([program], env=hidden, capture_output=True, text=True)
    assert (call.returncode, call.stdout) == (2, "")
    assert call.stderr.startswith("preflight: no NVIDIA GPU: ")
