"""Asynchronous copies on the interpreter: cp.async, and cp.async.bulk between blocks."""

import pytest

from .errors import BadAccess, Deadlock, Race
from .small import run

# Each thread copies 16 bytes of `in` into shared memory and stores the first word of its own, or of another thread.
COPY = """
    shl.b32 %r6, %r1, 4;
    cvt.u64.u32 %rd5, %r6;
    add.s64 %rd6, %rd2, %rd5;
    add.s32 %r7, %r3, %r6;
    cp.async.cg.shared.global [%r7], [%rd6], 16;
    {wait}
    xor.b32 %r8, %r1, {distance};
    shl.b32 %r8, %r8, 4;
    add.s32 %r8, %r8, %r3;
    ld.shared.u32 %r9, [%r8];
    st.global.u32 [%rd4], %r9;
"""
ALL, GROUP = "cp.async.wait_all;", "cp.async.commit_group; cp.async.wait_group 0;"


@pytest.mark.parametrize("wait", [ALL, GROUP])
@pytest.mark.parametrize("distance", [0, 1])
def test_a_copy_is_there_after_the_wait(wait, distance):
    barrier = "bar.sync 0;" if distance else ""
    out = run(COPY.format(wait=wait + barrier, distance=distance), threads=16)
    assert out[:16].tolist() == [4 * (i ^ distance) for i in range(16)]


@pytest.mark.parametrize(
    ("wait", "distance"),
    [
        ("", 0),
        ("cp.async.commit_group; cp.async.wait_group 1;", 0),
        ("cp.async.wait_group 0;", 0),  # the copy is in no group yet
        ("bar.sync 0;" + ALL, 1),
        (ALL, 1),
    ],
)
def test_a_copy_that_is_not_waited_for_races(wait, distance):
    with pytest.raises(Race):
        run(COPY.format(wait=wait, distance=distance), threads=16)


# Block 0 fills 16 bytes and sends them to block 1, whose thread 0 waits for them.
SEND = """
    setp.ge.u32 %p3, %r1, 4;
    @%p3 bra FILLED;
    st.shared.u32 [%r5+64], %r1;
    FILLED:
    {target}
    {fence}
    @!%p1 bra READY;
    mbarrier.init.shared::cta.b64 [%r3], 1;
    READY:
    bar.sync 0;
    {late_fence}
    barrier.cluster.arrive.release.aligned;
    barrier.cluster.wait.acquire.aligned;
    @!%p1 bra END;
    @!%p2 bra WAIT;
    {before}
    add.s32 %r9, %r3, 64;
    add.s32 %r10, %r3, {to};
    mapa.shared::cluster.u32 %r10, %r10, 1;
    mapa.shared::cluster.u32 %r11, %r3, 1;
    cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r10], [%r9], 16, [%r11];
    {after}
    bra.uni END;
    WAIT:
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r3], {expected};
    POLL:
    mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p4, [%r3], 0;
    @!%p4 bra POLL;
    ld.shared.v4.u32 {{%r12, %r13, %r14, %r15}}, [%r3+128];
    st.global.v4.u32 [%rd1], {{%r12, %r13, %r14, %r15}};
    END:
    bar.warp.sync -1;
    barrier.cluster.arrive.release.aligned;
    barrier.cluster.wait.acquire.aligned;
"""
RIGHT = dict(
    target="",
    before="",
    fence="",
    late_fence="fence.proxy.async.shared::cta;",
    after="",
    to=128,
    expected=16,
)


# Every block fills where a copy goes to, before the barrier.
TARGET = """
    @%p3 bra CLEARED;
    st.shared.u32 [%r5+128], %r1;
    CLEARED:
"""


OWN_LATE = "@!%p2 bra NEXT; fence.proxy.async.shared::cta; NEXT:"  # of the sender alone


def send(**changes):
    body = SEND.format(**{**RIGHT, **changes})
    return run(body, blocks=2, cluster_size=2, seeds=range(12))[:4].tolist()


def test_a_bulk_copy_arrives_at_its_barrier():
    assert send() == [0, 1, 2, 3]
    assert send(late_fence="", fence="fence.proxy.async;") == [0, 1, 2, 3]
    assert send(target=TARGET) == [0, 1, 2, 3]
    assert send(target=TARGET, late_fence=OWN_LATE, before="fence.proxy.async;") == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (dict(late_fence=""), Race),
        (
            dict(target=TARGET, late_fence=OWN_LATE),
            Race,
        ),
        # A fence of the sender's own memory orders no writes to the receiver's.
        (dict(target=TARGET, late_fence=OWN_LATE, before="fence.proxy.async.shared::cta;"), Race),
        (dict(after="st.shared.u32 [%r9], %r1;"), Race),
        (dict(expected=32), Deadlock),
        (dict(to=120), BadAccess),
        (dict(to=1020), BadAccess),
    ],
)
def test_a_wrong_bulk_copy_is_found(changes, error):
    with pytest.raises(error):
        send(**changes)
