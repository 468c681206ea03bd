"""Waits in vain: the kernel's own watchdog ends them, and says where."""

import re

import pytest

from . import nvcc_output
from .calls import Programs, draw
from .errors import Alarm, BadAccess, BarrierMisuse, Deadlock
from .faults import CLUSTER, FLOAT, GRID, edited_programs
from .launch import is_alarmed
from .machine import Sleeper
from .small import TWO_SECONDS, run

CASES = [CLUSTER, GRID | {"architecture": "sm_90a"}]
CALL = dict(**FLOAT, steps=5, batch_sizes=(), hidden=21, teams=1)
STEP, RANK = 2, 1
EDITS = [  # in one step, one block does not do its part
    (
        "cluster_team.cuh",
        "    phase(this->me_);\n    meanwhile",
        f"    if (step != {STEP} || this->me_.rank != {RANK}) phase(this->me_);\n    meanwhile",
    ),
    (
        "grid_team.cuh",
        "if (threadIdx.x == 0) count_in(",
        f"if (threadIdx.x == 0 && (step != {STEP} || this->me_.rank != {RANK})) count_in(",
    ),
]


@pytest.fixture(scope="module")
def broken(programs, tmp_path_factory):
    """The programs of kernels that miss a signal."""
    return edited_programs(tmp_path_factory.mktemp("broken"), "float32", "sm_90a", EDITS)


@pytest.mark.parametrize("where", CASES, ids=["cluster", "grid"])
@pytest.mark.parametrize("seed", range(3))
def test_a_signal_that_never_comes_ends_by_the_alarm(broken, where, seed):
    call = draw(seed, **{**CALL, **where})
    print(call)
    with pytest.raises(Alarm) as caught:
        call.check(broken)
    exchange, blocks = call.exchange, call.blocks
    barrier = (STEP + 1) % 2 if exchange == "cluster" else 2 + RANK
    waits = caught.value.waits
    assert {rank: wait[1:] for rank, wait in waits.items()} == {
        rank: (STEP, barrier) for rank in range(blocks)
    }
    text = str(caught.value)
    assert "on cuda:0, because blocks of its kernel waited 2.00 s" in text
    sending = " sending words" if exchange == "cluster" else ""
    assert f"Its layout: {exchange} of {blocks}{sending}, {call.units()} units a block" in text
    assert f"Rank 0 of team {waits[0][0]} waited in step {STEP} for " in text


@pytest.mark.slow
def test_a_block_that_leaves_at_once_after_an_alarm_is_found(programs, tmp_path):
    """Its own bytes may then arrive in a block that has left."""
    hasty = ("cluster_team.cuh", "if (!arrived_) let_bytes_land();", "")
    found = edited_programs(tmp_path, "float32", "sm_90a", [*EDITS, hasty])
    errors = []
    for seed in range(30):
        with pytest.raises((Alarm, BadAccess)) as caught:
            draw(seed, **{**CALL, **CLUSTER}).check(found)
        errors.append(caught.type)
    assert BadAccess in errors


@pytest.mark.parametrize("where", CASES, ids=["cluster", "grid"])
@pytest.mark.parametrize("first_step", [900, 1200])
def test_a_block_that_sleeps_too_long_stops_its_team(programs, where, first_step):
    call = draw(first_step, **{**CALL, **where, "steps": 9})
    print(call)
    sleeper = Sleeper(RANK, first_step, is_alarmed)
    with pytest.raises(Alarm) as caught:
        call.check(programs("float32", "sm_90a"), sleeper=sleeper)
    # All blocks have left. Those that got the late block's part before they saw the alarm waited a step later.
    assert caught.value.waits
    assert all(wait[1] < 9 for wait in caught.value.waits.values())


def call_with_a_late_block(programs, seed):
    """A block wakes long after its team has raised the alarm; return the error."""
    late = Sleeper(RANK, 900 + 50 * seed, lambda machine: machine.now > 10**15 + 10**10)
    with pytest.raises((Alarm, BadAccess, BarrierMisuse)) as caught:
        draw(seed, **{**CALL, **CLUSTER, "steps": 9}).check(programs, sleeper=late)
    return caught.value


LAST_BARRIER = r"barrier\.cluster\.arrive\.\S+\s+barrier\.cluster\.wait\.\S+(\s*//.*\s*ret;)"
FAULTS_OF_THE_END = {
    "blocks leave alone": (LAST_BARRIER, r"\1", BadAccess, "which has left"),
    "lanes do not meet before the last barrier": (
        rf"bar\.warp\.sync\s+-1;(\s*//.*\s*{LAST_BARRIER})",
        r"\1",
        BarrierMisuse,
        "lanes that left a loop one by one did not meet",
    ),
}


@pytest.mark.parametrize("fault", FAULTS_OF_THE_END)
def test_a_fault_at_the_end_shows_where_a_block_is_late(programs, fault):
    pattern, new, error, message = FAULTS_OF_THE_END[fault]
    text, count = re.subn(pattern, new, nvcc_output.ptx_of("float32", "sm_90a"))
    assert count > 0
    changed = Programs("float32", "sm_90a", text)
    found = (call_with_a_late_block(changed, seed) for seed in range(5))
    assert any(isinstance(each, error) and message in str(each) for each in found)


def test_a_late_block_alone_is_no_fault(programs):
    for seed in range(3):
        found = call_with_a_late_block(programs("float32", "sm_90a"), seed)
        assert isinstance(found, Alarm), found


def test_a_block_that_sleeps_a_while_changes_nothing(programs):
    for where in CASES:
        call = draw(4, **{**CALL, **where})
        call.check(
            programs("float32", "sm_90a"),
            sleeper=Sleeper(RANK, 300, lambda machine: machine.now > 10**15 + 10**9),
        )


CLOCK = f"""
    {TWO_SECONDS}
    @!%p2 bra LATE;
    st.global.u32 [%rd4], %r1;
    LATE:
"""


def test_time_passes_where_nothing_else_can_happen():
    assert run(CLOCK, blocks=2)[5] == 5


def test_time_stands_still_while_a_message_is_under_way():
    body = """
        @!%p1 bra READY;
        mbarrier.init.shared::cta.b64 [%r3], 1;
        READY:
        barrier.cluster.arrive.release.aligned;
        barrier.cluster.wait.acquire.aligned;
        @!%p1 bra END;
        @!%p2 bra END;
        mov.u32 %r6, 7;
        mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r3], 4;
        add.s32 %r9, %r3, 16;
        mapa.shared::cluster.u32 %r10, %r9, 1;
        mapa.shared::cluster.u32 %r11, %r3, 1;
        st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%r10], %r6, [%r11];
        END:
    """
    end = "bar.warp.sync -1; barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;"
    how = dict(blocks=2, cluster_size=2, seeds=range(20), check_end=False)
    run(body + CLOCK + end, **how)
    with pytest.raises(BadAccess, match="which has left"):
        run(body + end, **how)


def test_a_poll_that_never_looks_at_the_time_is_still_a_deadlock():
    with pytest.raises(Deadlock):
        run(
            "AGAIN: ld.relaxed.gpu.global.u32 %r6, [%rd1]; setp.eq.s32 %p3, %r6, 0; @%p3 bra AGAIN;"
        )


@pytest.mark.parametrize(
    ("instruction", "works"),
    [
        ("st.relaxed.sys.global.u32 [%rd5], %r2;", True),
        ("ld.relaxed.sys.global.u32 %r6, [%rd5];", True),
        ("st.relaxed.gpu.global.u32 [%rd5], %r2;", False),
        ("st.global.u32 [%rd5], %r2;", False),
        ("ld.global.u32 %r6, [%rd5];", False),
    ],
)
def test_the_host_is_in_the_scope_of_the_system_alone(instruction, works):
    body = f"ld.param.u64 %rd5, [alarm]; {instruction}"
    if works:
        run(body)
    else:
        with pytest.raises(BadAccess, match="the host's memory outside of its scope"):
            run(body)


@pytest.mark.parametrize(
    ("operation", "wanted"), [("or", [[1] * 64, [0] * 64]), ("and", [[0] * 64] * 2)]
)
def test_a_barrier_counts_votes(operation, wanted):
    body = f"""
        setp.eq.s32 %p3, %r1, 40;
        @%p2 bra VOTE;
        setp.eq.s32 %p3, %r1, 99;
        VOTE:
        bar.red.{operation}.pred %p4, 0, %p3;
        selp.u32 %r6, 1, 0, %p4;
        mad.lo.s32 %r7, %r2, 64, %r1;
        mul.wide.u32 %rd5, %r7, 4;
        add.s64 %rd6, %rd1, %rd5;
        st.global.u32 [%rd6], %r6;
    """
    assert run(body, blocks=2, threads=64, out=128).reshape(2, 64).tolist() == wanted
