"""The interpreter itself, on small kernels written for it."""

import pytest

from .errors import BadAccess, BarrierMisuse, Deadlock, Race, UnknownInstruction
from .small import TWO_SECONDS, run


def test_every_thread_has_its_own_pc():
    steps = run("""
        add.s32 %r6, %r1, 1;
        mov.u32 %r7, 0;
        NEXT:
        setp.eq.s32 %p3, %r6, 1;
        @%p3 bra DONE;
        and.b32 %r8, %r6, 1;
        setp.eq.s32 %p4, %r8, 0;
        @%p4 bra EVEN;
        mad.lo.s32 %r6, %r6, 3, 1;
        bra.uni AGAIN;
        EVEN:
        shr.s32 %r6, %r6, 1;
        AGAIN:
        add.s32 %r7, %r7, 1;
        bra.uni NEXT;
        DONE:
        st.global.u32 [%rd4], %r7;
    """)

    def collatz(n):
        return 0 if n == 1 else 1 + collatz(3 * n + 1 if n % 2 else n // 2)

    assert steps[:32].tolist() == [collatz(n + 1) for n in range(32)]


NEIGHBOUR = """
    st.shared.u32 [%r5], %r1;
    {}
    xor.b32 %r6, %r4, {};
    add.s32 %r6, %r6, %r3;
    ld.shared.u32 %r7, [%r6];
    st.global.u32 [%rd4], %r7;
"""


@pytest.mark.parametrize(
    ("barrier", "distance", "works"),
    [
        ("bar.sync 0;", 1, True),
        ("bar.sync 0;", 32, True),
        ("bar.warp.sync -1;", 1, True),
        ("bar.warp.sync -1;", 32, False),
        ("", 1, False),
        ("membar.cta;", 1, False),
    ],
)
def test_barriers_order_accesses(barrier, distance, works):
    body = NEIGHBOUR.format(barrier, 4 * distance)
    if works:
        assert run(body, threads=64).tolist() == [i ^ distance for i in range(64)]
    else:
        with pytest.raises(Race):
            run(body, threads=64)


def test_two_writes_of_one_instruction_race():
    with pytest.raises(Race, match="same write"):
        run("st.global.u32 [%rd1], %r1;")


def test_a_write_after_a_read_races():
    with pytest.raises(Race, match="write races with a read"):
        run(
            """
            @%p1 bra FIRST;
            ld.shared.u32 %r6, [%r3];
            bra.uni END;
            FIRST:
            st.shared.u32 [%r3], %r1;
            END:
        """,
            threads=2,
            seeds=range(40),
        )


# Block 0 writes out[1], then out[0]; block 1 waits for out[0] and reads out[1].
PASSING = """
    @!%p1 bra END;
    mov.u32 %r6, 7;
    @!%p2 bra WAIT;
    st.global.u32 [%rd1+4], %r6;
    {release}
    bra.uni END;
    WAIT:
    {acquire}
    setp.eq.s32 %p3, %r7, 0;
    @%p3 bra WAIT;
    {after}
    ld.global.u32 %r8, [%rd1+4];
    st.global.u32 [%rd1+8], %r8;
    END:
"""
RELAXED_STORE = "st.relaxed.gpu.global.u32 [%rd1], %r6;"
RELAXED_LOAD = "ld.relaxed.gpu.global.u32 %r7, [%rd1];"
RELEASE = "st.release.gpu.global.u32 [%rd1], %r6;"
ACQUIRE = "ld.acquire.gpu.global.u32 %r7, [%rd1];"
FENCE = "fence.acq_rel.gpu;"


@pytest.mark.parametrize(
    ("release", "acquire", "after", "works"),
    [
        (RELEASE, ACQUIRE, "", True),
        (RELEASE, RELAXED_LOAD, FENCE, True),
        (FENCE + RELAXED_STORE, ACQUIRE, "", True),
        ("membar.gl;" + RELAXED_STORE, RELAXED_LOAD, "membar.gl;", True),
        ("red.release.gpu.global.add.u32 [%rd1], 1;", ACQUIRE, "", True),
        (RELAXED_STORE, ACQUIRE, "", False),
        (RELEASE, RELAXED_LOAD, "", False),
        (RELEASE.replace("gpu", "cta"), ACQUIRE, "", False),
        (RELEASE, ACQUIRE.replace("gpu", "cta"), "", False),
        (RELEASE, RELAXED_LOAD, "fence.acq_rel.cta;", False),
        ("st.global.u32 [%rd1], %r6;", ACQUIRE, "", False),
    ],
)
def test_release_and_acquire(release, acquire, after, works):
    body = PASSING.format(release=release, acquire=acquire, after=after)
    if works:
        assert run(body, blocks=2)[2] == 7
    else:
        with pytest.raises(Race):
            run(body, blocks=2)


def test_a_cluster_is_in_the_scope_of_a_cluster():
    release, acquire = RELEASE.replace("gpu", "cluster"), ACQUIRE.replace("gpu", "cluster")
    body = PASSING.format(release=release, acquire=acquire, after="")
    assert run(body, blocks=2, cluster_size=2)[2] == 7
    with pytest.raises(Race):
        run(body, blocks=2)


@pytest.mark.parametrize(
    "body",
    [
        "@%p1 bra END; bar.sync 0; END:",
        "@%p1 bra END; bar.warp.sync -1; END:",
        "WAIT: ld.acquire.gpu.global.u32 %r6, [%rd1]; setp.eq.s32 %p3, %r6, 0; @%p3 bra WAIT;",
    ],
)
def test_a_wait_without_end_is_a_deadlock(body):
    with pytest.raises(Deadlock, match="no thread can go on"):
        run(body)


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        ("st.global.u32 [%rd4+200], %r1;", "outside of memory"),
        ("st.global.u32 [%rd4+2], %r1;", "misaligned access of 4 bytes"),
        ("st.global.u32 [%rd2], %r1;", "store to read-only memory"),
        ("ld.shared.u32 %r6, [%r5+1000];", "outside of memory"),
        ("ld.shared.v4.u32 {%r6, %r7, %r8, %r9}, [%r3+8];", "misaligned access of 16 bytes"),
        ("ld.global.nc.u32 %r6, [%rd4];", "read-only load of writable memory"),
    ],
)
def test_bad_accesses(instruction, message):
    with pytest.raises(BadAccess, match=message):
        run(instruction)


# Thread 0 of every block makes a barrier at byte 0 of shared memory; then block 0 sends 7 to byte 16 of block 1.
SENDING = """
    @!%p1 bra READY;
    mbarrier.init.shared::cta.b64 [%r3], 1;
    READY:
    {ready}
    @!%p1 bra END;
    mov.u32 %r6, 7;
    @!%p2 bra WAIT;
    add.s32 %r9, %r3, 16;
    mapa.shared::cluster.u32 %r10, %r9, 1;
    mapa.shared::cluster.u32 %r11, %r3, 1;
    st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%r10], %r6, [%r11];
    bra.uni END;
    WAIT:
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r3], {bytes};
    {wait}
    ld.shared.u32 %r12, [%r3+16];
    st.global.u32 [%rd1], %r12;
    END:
    bar.warp.sync -1;
    barrier.cluster.arrive.release.aligned;
    barrier.cluster.wait.acquire.aligned;
"""
READY = "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;"
RELAXED = "barrier.cluster.arrive.relaxed.aligned; barrier.cluster.wait.acquire.aligned;"
WAIT = """
    POLL:
    mbarrier.try_wait.parity.acquire{}.shared::cta.b64 %p3, [%r3], 0;
    @!%p3 bra POLL;
"""
IN_CLUSTER = WAIT.format(".cluster")


def send(ready=READY, size=4, wait=IN_CLUSTER):
    return run(SENDING.format(ready=ready, bytes=size, wait=wait), blocks=2, cluster_size=2)[0]


def test_bytes_arrive_at_a_barrier():
    assert send() == 7
    assert send(ready="fence.mbarrier_init.release.cluster;" + RELAXED) == 7


@pytest.mark.parametrize(
    ("change", "errors"),
    [
        (dict(wait=""), (Race, BadAccess)),  # block 1 may leave first
        (dict(wait=WAIT.format(".cta")), (Race,)),
        (dict(size=8), (Deadlock,)),
        (dict(ready=RELAXED), (Race,)),
        (dict(ready=""), (Race, BarrierMisuse)),
    ],
)
def test_bytes_that_are_not_waited_for(change, errors):
    with pytest.raises(errors):
        send(**change)


@pytest.mark.parametrize(
    ("instruction", "wanted"),
    [
        ("shfl.sync.bfly.b32 %r6, %r1, 5, 31, -1;", [i ^ 5 for i in range(32)]),
        ("shfl.sync.idx.b32 %r6, %r1, 3, 31, -1;", [3] * 32),
        ("shfl.sync.up.b32 %r6, %r1, 2, 0, -1;", [0, 1, *range(30)]),
        ("shfl.sync.down.b32 %r6|%p3, %r1, 9, 31, -1;", [*range(9, 32), *range(23, 32)]),
        ("shfl.sync.bfly.b32 %r6, %r1, 1, 0x1c1f, -1;", [i ^ 1 for i in range(32)]),
        ("vote.sync.ballot.b32 %r6, %p1, -1;", [1] * 32),
        ("vote.sync.all.pred %p3, %p1, -1; selp.u32 %r6, 1, 0, %p3;", [0] * 32),
        ("vote.sync.any.pred %p3, %p1, -1; selp.u32 %r6, 1, 0, %p3;", [1] * 32),
    ],
)
def test_lanes_exchange_values(instruction, wanted):
    body = f"@%p1 bra SOME; mov.u32 %r7, 0; SOME: {instruction} st.global.u32 [%rd4], %r6;"
    assert run(body)[:32].tolist() == wanted


@pytest.mark.parametrize(
    ("operation", "wanted"),
    [("add.u32", 2016), ("max.s32", 63), ("or.b32", 63), ("xor.b32", 0), ("and.b32", 0)],
)
def test_atomics_lose_nothing(operation, wanted):
    body = f"atom.relaxed.gpu.global.{operation} %r6, [%rd1], %r8;"
    body = "mad.lo.s32 %r8, %r2, 16, %r1;" + body
    assert run(body, blocks=4, threads=16)[0] == wanted
    assert run(body.replace("atom", "red").replace("%r6, ", ""), blocks=4, threads=16)[0] == wanted
    if operation == "add.u32":
        with pytest.raises(Race):
            run(body.replace(".gpu", ".cta"), blocks=4, threads=16)


def test_compare_and_swap_has_one_winner():
    body = """
        add.s32 %r8, %r1, 1;
        atom.relaxed.gpu.global.cas.b32 %r6, [%rd1], 0, %r8;
        setp.eq.s32 %p3, %r6, 0;
        @%p3 red.relaxed.gpu.global.add.u32 [%rd1+4], 1;
    """
    out = run(body)
    assert 1 <= out[0] <= 32 and out[1] == 1


def test_a_barrier_is_no_memory():
    with pytest.raises(BadAccess, match="access to a barrier"):
        run("mbarrier.init.shared::cta.b64 [%r3], 1; ld.shared.u32 %r6, [%r3];", threads=1)


def test_an_unknown_instruction_is_named():
    with pytest.raises(UnknownInstruction, match="brev.b32"):
        run("brev.b32 %r6, %r1;")


LATE_SEND = f"""
    @!%p2 bra END;
    {TWO_SECONDS}
    add.s32 %r9, %r3, 16;
    mapa.shared::cluster.u32 %r10, %r9, 1;
    mapa.shared::cluster.u32 %r11, %r3, 1;
"""


@pytest.mark.parametrize(
    "instruction",
    [
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%r10], %r1, [%r11];",
        "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r10], [%r9], 16, [%r11];",
    ],
)
def test_a_block_that_has_left_has_no_memory(instruction):
    with pytest.raises(BadAccess, match="block 1, which has left, thread [0-9]+ of block 0"):
        run(LATE_SEND + instruction + " END:", blocks=2, cluster_size=2)


LOOP = """
    mov.u32 %r6, 0;
    AGAIN:
    add.s32 %r6, %r6, 1;
    setp.lt.u32 %p3, %r6, {trips};
    @%p3 bra AGAIN;
    {meet}
    barrier.cluster.arrive.release{aligned};
    barrier.cluster.wait.acquire{aligned};
"""


@pytest.mark.parametrize(
    ("trips", "meet", "aligned", "works"),
    [
        ("%r1", "", ".aligned", False),
        ("%r1", "@%p1 bra ON; ON:", ".aligned", False),
        ("%r1", "", "", True),
        ("%r1", "bar.warp.sync -1;", ".aligned", True),
        ("%r1", "bar.sync 0;", ".aligned", True),
        ("%r1", "shfl.sync.idx.b32 %r7|%p4, %r6, 0, 31, -1;", ".aligned", True),
        ("%r2", "", ".aligned", True),  # a number of trips per block
        ("5", "@%p1 bra ON; mov.u32 %r7, 1; ON:", ".aligned", True),
    ],
)
def test_lanes_that_leave_a_loop_one_by_one_meet_before_an_aligned_barrier(
    trips, meet, aligned, works
):
    body = LOOP.format(trips=trips, meet=meet, aligned=aligned)
    if works:
        run(body, blocks=2, cluster_size=2)
    else:
        with pytest.raises(BarrierMisuse, match="lanes that left a loop one by one"):
            run(body, blocks=2, cluster_size=2)
