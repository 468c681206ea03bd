"""The kernels of csrc/cuda's own files, with every depth; slow to compile."""

import pytest

from . import nvcc_output
from .calls import Programs, draw
from .machine import load

ARCHITECTURES = ["compute_80", "sm_90a"]
DEPTHS = {
    "float32": (8, 16, 32, 36),
    "float64": (8, 16),
    "bfloat16": (32, 128, 256),
    "float16": (32, 128, 256),
}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def architecture(request):
    return request.param


@pytest.fixture(scope="module", params=list(DEPTHS))
def whole(request, programs, architecture):
    dtype = request.param
    return Programs(dtype, architecture, nvcc_output.whole_ptx_of(dtype, architecture))


@pytest.mark.slow
def test_every_instruction_is_known(whole):
    for name in whole.module.entries:
        program = load(whole.module, f"^{name}$")
        for i in range(len(program.segments)):
            program.function(i)


@pytest.mark.slow
@pytest.mark.parametrize("exchange", ["none", "cluster", "grid"])
def test_every_depth(whole, exchange):
    if exchange == "cluster" and whole.architecture == "compute_80":
        pytest.skip("no clusters before Hopper")
    for depth in DEPTHS[whole.dtype]:
        for seed in range(4):
            call = draw(
                seed,
                dtype=whole.dtype,
                architecture=whole.architecture,
                depth=depth,
                exchange=exchange,
            )
            print(call)
            call.check(whole)
