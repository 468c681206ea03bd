"""Small kernels for tests of the interpreter itself."""

from types import SimpleNamespace

import numpy as np

from .machine import Machine, load
from .memory import Global
from .parse import Module

HEAD = """
.version 8.0
.target sm_90a
.address_size 64
.extern .shared .align 16 .b8 memory[];
.entry test(.param .u64 out, .param .u64 in, .param .u64 alarm)
{
.reg .pred %p<9>;
.reg .b32 %r<30>;
.reg .f32 %f<9>;
.reg .b64 %rd<20>;
ld.param.u64 %rd1, [out];
ld.param.u64 %rd2, [in];
mov.u32 %r1, %tid.x;
mov.u32 %r2, %ctaid.x;
mov.u32 %r3, memory;
mul.wide.u32 %rd3, %r1, 4;
add.s64 %rd4, %rd1, %rd3;   // &out[thread]
shl.b32 %r4, %r1, 2;
add.s32 %r5, %r3, %r4;      // &memory[thread]
setp.eq.s32 %p1, %r1, 0;
setp.eq.s32 %p2, %r2, 0;
"""


# %globaltimer advances by two seconds.
TWO_SECONDS = """
    mov.u64 %rd8, %globaltimer;
    AGAIN:
    mov.u64 %rd9, %globaltimer;
    sub.s64 %rd10, %rd9, %rd8;
    setp.lt.s64 %p3, %rd10, 2000000000;
    @%p3 bra AGAIN;
"""


def run(
    body,
    *,
    blocks=1,
    threads=32,
    cluster_size=1,
    shared=1024,
    out=64,
    seeds=range(5),
    check_end=True,
):
    """Run a kernel's body with random schedules; return `out` of the last, int32 that starts as zeros."""
    program = load(Module(HEAD + body + "\nret;\n}"), "test")
    launch = SimpleNamespace(
        blocks=blocks, block_threads=threads, cluster_size=cluster_size, shared_bytes=shared
    )
    array = np.zeros(out, np.int32)
    arrays = {
        "out": (array, True),
        "in": (np.arange(64, dtype=np.int32), False),
        "alarm": (np.zeros(8, np.int32), True),  # in the host's memory
    }
    addresses = Global.addresses(arrays)
    parameters = b"".join(addresses[name].to_bytes(8, "little") for name in arrays)
    for seed in seeds:
        machine = Machine(program, launch, arrays, parameters, seed)
        machine.run()
        if check_end:
            machine.mbarriers.check_end()
    return machine.global_.contents("out", array)
