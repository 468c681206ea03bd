"""The CUDA kernels' phases, run by a host with threads in random order, against NumPy in float64."""

import re

import numpy as np
import pytest
from narrow import BFLOAT16
from recurrence_case import Case

both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
# Around the edges of a thread's units (4) and depths (8, 16, 32, 36), and of a team's blocks.
HIDDEN_SIZES = [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31, 33, 37, 63, 65, 100]


@pytest.fixture
def gpu(emulator_module):
    """A small GPU, so that a tile has several rows."""
    return emulator_module.Emulator(4, 4, 0)


@both_dtypes
@pytest.mark.parametrize("hidden", HIDDEN_SIZES)
def test_every_size(gpu, dtype, hidden):
    for batch in (1, 2, 5, 13):
        Case(3, batch, hidden, dtype).check(gpu)


@both_dtypes
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("reverse", [True, False])
@pytest.mark.parametrize("with_h_0", [True, False])
def test_every_option(gpu, dtype, relu, reverse, with_h_0):
    for steps in (1, 2, 5):
        case = Case(steps, 9, 19, dtype, relu=relu, reverse=reverse, with_h_0=with_h_0)
        case.check(gpu)


@both_dtypes
@pytest.mark.parametrize("reverse", [True, False])
@pytest.mark.parametrize("batch_sizes", [[3], [4, 4, 2, 1], [30, 30, 16, 15, 14, 13, 2], [1, 1]])
def test_rows_that_end_early(gpu, dtype, reverse, batch_sizes):
    Case(
        len(batch_sizes), batch_sizes[0], 21, dtype, reverse=reverse, batch_sizes=batch_sizes
    ).check(gpu)


# Hidden sizes that take teams of every size, without clusters and with them.
@pytest.mark.parametrize(
    ("dtype", "hidden", "blocks"),
    [
        (np.float32, 256, 2),
        (np.float32, 350, 4),
        (np.float32, 512, 8),
        (np.float32, 720, 16),
        (np.float64, 160, 2),
        (np.float64, 230, 4),
        (np.float64, 350, 8),
        (np.float64, 500, 16),
    ],
)
@pytest.mark.parametrize("clusters", [True, False])
def test_every_team(emulator_module, dtype, hidden, blocks, clusters):
    for seed in range(2):
        gpu = emulator_module.Emulator(blocks, blocks * clusters, seed)
        plan = getattr(gpu, f"plan_{np.dtype(dtype).name}")(hidden, 3)
        assert (plan.blocks, plan.exchange) == (blocks, "cluster" if clusters else "grid")
        Case(3, 3, hidden, dtype).check(gpu)


@pytest.mark.parametrize(("hidden", "blocks"), [(1000, 32), (1200, 64)])
def test_teams_that_no_cluster_holds(emulator_module, hidden, blocks):
    gpu = emulator_module.Emulator(blocks, blocks, 0)
    plan = gpu.plan_float32(hidden, 2)
    assert (plan.blocks, plan.exchange) == (blocks, "grid")
    Case(2, 2, hidden, np.float32).check(gpu)


@pytest.mark.parametrize("reverse", [True, False])
@pytest.mark.parametrize("batch_sizes", [[4, 4, 2, 1], [7, 6, 6, 1]])
def test_rows_that_end_early_in_a_grid(emulator_module, reverse, batch_sizes):
    gpu = emulator_module.Emulator(2, 0, 0)
    assert gpu.plan_float32(200, batch_sizes[0]).exchange == "grid"
    Case(4, batch_sizes[0], 200, np.float32, reverse=reverse, batch_sizes=batch_sizes).check(gpu)


@both_dtypes
def test_same_bits_in_any_order(emulator_module, dtype):
    runs = [Case(4, 7, 70, dtype).run(emulator_module.Emulator(2, 2, seed)) for seed in range(3)]
    for other in runs[1:]:
        for got, expected in zip(other, runs[0], strict=True):
            np.testing.assert_array_equal(got, expected)


def test_a_first_state_of_zeros_does_not_read_the_weight(gpu):
    case = Case(2, 3, 9, np.float32, with_h_0=False)
    case.weight[...] = np.nan
    output = case.run(gpu)[0]
    assert np.isfinite(output[0]).all() and np.isnan(output[1]).all()


# Around the edges of a word (2), of an instruction (8 rows, 16 units or values of the state), of a warp
# (32 units) and of the depths (32, 128, 256).
@pytest.mark.parametrize("hidden", [1, 2, 3, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 129])
def test_every_size_in_bfloat16(gpu, hidden):
    for batch in (1, 2, 8, 9, 40):
        BFLOAT16.check(gpu, 3, batch, hidden)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("reverse", [True, False])
@pytest.mark.parametrize("with_h_0", [True, False])
@pytest.mark.parametrize("batch_sizes", [(), [13, 13, 9, 8, 1]])
def test_every_option_in_bfloat16(gpu, relu, reverse, with_h_0, batch_sizes):
    options = dict(relu=relu, reverse=reverse, with_h_0=with_h_0, batch_sizes=batch_sizes)
    BFLOAT16.check(gpu, 5, 13, 37, **options)


@pytest.mark.parametrize(
    ("hidden", "blocks", "clusters"),
    [
        (250, 1, True),
        (300, 4, True),
        (500, 4, True),
        (501, 4, False),
        (600, 16, True),
        (1024, 16, True),
    ],
)
def test_every_team_in_bfloat16(emulator_module, hidden, blocks, clusters):
    gpu = emulator_module.Emulator(blocks, blocks * clusters, 0)
    plan = gpu.plan_bfloat16(hidden, 10)
    exchange = "none" if blocks == 1 else "cluster" if clusters else "grid"
    assert (plan.blocks, plan.exchange) == (blocks, exchange)
    BFLOAT16.check(gpu, 2, 10, hidden)


# The largest hidden size of each kind of team that the planner takes on a GPU like the H100.
@pytest.mark.parametrize(
    ("dtype", "clusters", "largest"),
    [
        ("float32", True, {"none": 160, "cluster": 720, "grid": 2048}),
        ("float64", True, {"none": 116, "cluster": 512, "grid": 1300}),
        ("bfloat16", True, {"none": 128, "cluster": 1024, "grid": 2048}),
        ("float32", False, {"none": 180, "grid": 2048}),
    ],
)
def test_plans_fit_the_machine(emulator_module, dtype, clusters, largest):
    gpu = emulator_module.Emulator(132, 132 * clusters, 0)
    words = 2 if dtype == "bfloat16" else 1
    for batch in (1, 16, 100):
        fitting = {}
        for hidden in range(1, 2100):
            plan = getattr(gpu, f"plan_{dtype}")(hidden, batch)
            if plan.blocks == 0:
                continue
            fitting[plan.exchange] = hidden
            assert 1 <= plan.threads <= (384 if words == 2 else 256) and plan.batch_tile >= 1
            assert plan.units % words == 0 and hidden <= plan.units * plan.blocks
            tiles = -(-batch // plan.batch_tile)
            assert plan.blocks == 1 or tiles * plan.blocks <= 132
        if batch == 1:
            assert set(fitting) == set(largest)
            assert all(fitting[exchange] >= least for exchange, least in largest.items()), fitting


def test_a_batch_that_no_teams_run_at_once_goes_another_way(emulator_module):
    gpu = emulator_module.Emulator(132, 132, 0)
    assert gpu.plan_float32(512, 64).exchange == "cluster"
    assert gpu.plan_float32(512, 5000).blocks == 0
    assert gpu.plan_float32(100, 5000).blocks == 1  # teams of one block take turns


def test_much_state_a_step_goes_through_global_memory(emulator_module):
    gpu = emulator_module.Emulator(132, 7 * 16, 0)
    assert gpu.plan_bfloat16(1024, 64).exchange == "cluster"
    assert gpu.plan_bfloat16(1024, 256).exchange == "grid"


def test_clusters_that_leave_multiprocessors_out_take_more_rows_each(emulator_module):
    for clusters, rows in ((8, 8), (7, 10), (5, 13)):
        gpu = emulator_module.Emulator(132, 16 * clusters, 0, "cluster,16")
        assert gpu.plan_bfloat16(1024, 64).batch_tile == rows
    # A cluster holds too few rows; through global memory, all multiprocessors take part.
    plan = emulator_module.Emulator(132, 16, 0).plan_bfloat16(1024, 64)
    assert (plan.exchange, plan.blocks, plan.batch_tile) == ("grid", 16, 8)


def test_every_block_of_a_cluster_owns_units(emulator_module):
    gpu = emulator_module.Emulator(132, 132, 0)
    for dtype in ("float32", "float64", "bfloat16"):
        for hidden in range(1, 1100):
            plan = getattr(gpu, f"plan_{dtype}")(hidden, 1)
            assert plan.exchange != "cluster" or (plan.blocks - 1) * plan.units < hidden
    with pytest.raises(RuntimeError, match="does not hold hidden_size=5 and a batch of 3 rows"):
        emulator_module.Emulator(132, 132, 0, "cluster,4").plan_float32(5, 3)
    # The blocks of a grid count steps, not bytes.
    Case(3, 2, 5, np.float32).check(emulator_module.Emulator(4, 4, 0, "grid,4"))


@pytest.mark.parametrize(
    ("forced", "expected"),
    [
        ("none", (1, "none", 1)),
        ("none,tile=2", (1, "none", 2)),
        ("cluster,2", (2, "cluster", 1)),
        ("cluster,8,tile=3", (8, "cluster", 3)),
        ("grid,2,tile=4", (2, "grid", 4)),
        ("grid,8", (8, "grid", 4)),
    ],
)
def test_a_plan_can_be_forced(emulator_module, forced, expected):
    gpu = emulator_module.Emulator(8, 8, 0, forced)
    plan = gpu.plan_float32(48, 4)
    assert (plan.blocks, plan.exchange, plan.batch_tile) == expected
    Case(3, 4, 48, np.float32).check(gpu)
    Case(4, 4, 48, np.float64, batch_sizes=[4, 4, 2, 1]).check(gpu)
    BFLOAT16.check(gpu, 3, 4, 48)


@pytest.mark.parametrize("send", ["words", "wide"])
@pytest.mark.parametrize(
    "form", ["cluster,8,send={}", "cluster,8,send={},tile=2", "cluster,8,tile=2,send={}"]
)
def test_the_way_to_send_can_be_forced(emulator_module, form, send):
    plan = emulator_module.Emulator(8, 8, 0, form.format(send)).plan_float32(256, 2)
    assert plan.blocks == 8 and plan.batch_tile == 2
    assert str(plan).endswith(" threads" if send == "words" else f" threads, {send} sends")


@pytest.mark.parametrize(
    ("forced", "hidden", "batch"),
    [
        ("cluster,8,send=wide", 250, 1),  # a part of a row that is not whole 16 bytes
        ("none", 200, 1),  # more weights than a block holds
        ("cluster,2", 1000, 1),
        ("cluster,16", 200, 1),  # more blocks than the GPU has
        ("grid,4,tile=1", 40, 3),  # three teams of four blocks do not run at once
        ("none,tile=5000", 40, 4),
    ],
)
def test_a_forced_plan_that_does_not_hold_the_call_is_refused(
    emulator_module, forced, hidden, batch
):
    gpu = emulator_module.Emulator(8, 8, 0, forced)
    with pytest.raises(RuntimeError, match=f"hold hidden_size={hidden} and a batch of {batch} "):
        gpu.plan_float32(hidden, batch)


@pytest.mark.parametrize(
    "forced",
    ["all", "none,2", "cluster", "cluster,3", "cluster,32", "grid,256", "grid,-2", "grid,1"]
    + ["grid,8,send=wide", "none,send=wide", "cluster,8,send=", "cluster,8,send=wider"]
    + ["cluster,8,", "cluster,8,tile=", "cluster,8,tile=0", "cluster,8,tile=4x", "cluster8", ",8"]
    + ["cluster, 8", " cluster,8", "cluster,+8", "grid,0008", "grid,8 ", "Cluster,8", "nonesense"]
    + ["none,tile=+4", "none,tile= 4", "none,tile=04", "none,tile=12345678"]
    + [
        "none,tile=4,tile=4",
        "cluster,8,send=wide,send=wide",
        "cluster,8,send=wide,tile=4,send=words",
    ],
)
def test_a_plan_that_is_none_is_named(emulator_module, forced):
    with pytest.raises(
        RuntimeError, match=f"RNNFUSED_CUDA_PLAN must be .*; got {re.escape(forced)}$"
    ):
        emulator_module.Emulator(8, 8, 0, forced)
