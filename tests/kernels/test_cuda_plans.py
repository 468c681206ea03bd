"""The planner's choices on GPUs that are not at hand, by the cost model of csrc/cuda/cost.h."""

import json
from pathlib import Path

import pytest
from cuda_gpus import GPUS, SHAPES, table

ROOT = Path(__file__).resolve().parents[2]
DTYPES = ["float32", "float64", "bfloat16"]


@pytest.fixture
def h100(plans_module):
    return plans_module.Gpu(**GPUS["H100"])


def with_clusters(module, name="H100", **clusters):
    blocks = {int(key[1:]): count for key, count in clusters.items()}
    return module.Gpu(**{**GPUS[name], "clusters": blocks})


def test_more_blocks_than_the_weight_needs_where_they_are_faster(h100):
    for batch in (1, 16):
        plan = h100.plan("bfloat16", 512, batch)
        small = h100.plan("bfloat16", 512, batch, "cluster,4")
        assert plan.blocks > small.blocks == 4
        assert plan.estimated_us < small.estimated_us


def test_no_plan_where_a_product_per_step_is_surely_faster(h100):
    assert h100.plan("float32", 1024, 256).blocks == 0
    for dtype in DTYPES:
        for hidden in (64, 200, 512, 1024, 2000):
            for batch in (1, 8, 64, 256, 1000):
                plan = h100.plan(dtype, hidden, batch)
                most = 2 * h100.by_kernels(dtype, hidden, batch)
                assert plan.blocks == 0 or plan.estimated_us < most
    # A forced plan may be slower.
    forced = h100.plan("float32", 128, 9000, "none,tile=1")
    assert forced.estimated_us > 2 * h100.by_kernels("float32", 128, 9000)


@pytest.mark.parametrize("dtype", DTYPES)
def test_clusters_send_16_bytes_where_their_parts_of_a_row_are_whole(h100, dtype):
    assert str(h100.plan(dtype, 256, 16, "cluster,8")).endswith(", wide sends")
    assert str(h100.plan(dtype, 256, 16, "cluster,8,send=words")).endswith(" threads")
    assert str(h100.plan(dtype, 251, 16, "cluster,8")).endswith(" threads")
    with pytest.raises(RuntimeError, match="hidden_size=251 .* or a way to send that these sizes"):
        h100.plan(dtype, 251, 16, "cluster,8,send=wide")


def test_tiles_suit_the_clusters_that_run_at_once(plans_module):
    for clusters in (16, 15, 12, 7):
        gpu = with_clusters(plans_module, b8=clusters)
        plan = gpu.plan("float32", 512, 64, "cluster,8")
        assert -(-64 // plan.batch_tile) <= clusters
    plan = with_clusters(plans_module, b8=15).plan("float32", 512, 64)
    assert (plan.exchange, plan.blocks, plan.batch_tile) == ("cluster", 8, 5)
    # Through global memory all multiprocessors take part, which is better than few clusters.
    assert with_clusters(plans_module, b8=3).plan("float32", 512, 64).exchange == "grid"


def test_fewer_clusters_are_not_expected_to_be_faster(plans_module):
    times = [
        with_clusters(plans_module, b8=count).plan("float32", 512, 64, "cluster,8").estimated_us
        for count in (16, 15, 10, 5)
    ]
    assert times == sorted(times) and times[0] < times[-1]


def test_only_gpus_with_clusters_use_them(plans_module):
    for name, description in GPUS.items():
        gpu = plans_module.Gpu(**description)
        exchanges = {
            gpu.plan(dtype, hidden, 16).exchange for dtype in DTYPES for hidden in range(8, 1200, 8)
        }
        assert ("cluster" in exchanges) == (name == "H100")
        assert "none" in exchanges and "grid" in exchanges


@pytest.mark.parametrize(
    ("dtype", "team", "hidden"),
    [("float32", "none", 180), ("float64", "none", 128), ("bfloat16", "none", 256)]
    + [
        ("float32", "cluster,8", 508),
        ("bfloat16", "cluster,16", 1024),
        ("float32", "grid,128", 2048),
    ],
)
def test_largest_weight_of_a_team(h100, dtype, team, hidden):
    assert h100.plan(dtype, hidden, 1, team).blocks > 0
    with pytest.raises(RuntimeError, match="does not hold"):
        h100.plan(dtype, 2 * hidden, 1, team)


def test_waves_and_shared_multiprocessors_cost_time(h100):
    one = h100.plan("float32", 100, 132, "none,tile=1").estimated_us
    assert h100.plan("float32", 100, 133, "none,tile=1").estimated_us == pytest.approx(2 * one)
    assert h100.plan("float32", 100, 132, "none,tile=4").estimated_us > 1.5 * one


def test_much_state_a_step_goes_through_global_memory(h100):
    small, large = h100.plan("bfloat16", 512, 16), h100.plan("bfloat16", 1024, 256)
    assert (small.exchange, large.exchange) == ("cluster", "grid")


SWEEP = ROOT / "benchmarks" / "results" / "cuda_sweep.jsonl"


def test_estimates_are_near_the_measured_times(h100):
    """Of the plans that the planner chose on an H100, forward and backward."""
    rows = [json.loads(line) for line in SWEEP.read_text().splitlines()]
    chosen = [row for row in rows if row["plan"] == ""]
    assert len(chosen) >= 20
    for row in chosen:
        plan = h100.plan(row["dtype"], row["hidden_size"], row["batch_size"])
        assert 0.45 < plan.estimated_us / row["us_per_step"] < 2, row


def test_the_planner_takes_a_plan_that_is_nearly_the_fastest(h100):
    rows = [json.loads(line) for line in SWEEP.read_text().splitlines()]
    keys = "dtype", "way", "hidden_size", "batch_size"
    by_call = {}
    for row in rows:
        by_call.setdefault(tuple(row[key] for key in keys), []).append(row)
    for call, measured in by_call.items():
        plan = str(h100.plan(call[0], call[2], call[3]))
        times = {}
        for row in measured:  # a plan may be there twice: as the planner's choice, and forced
            times.setdefault(row["details"], []).append(row["us_per_step"])
        times = {details: min(found) for details, found in times.items()}
        assert times[plan] < 1.25 * min(times.values()), (call, plan)


def test_the_table_has_every_shape(plans_module):
    lines = table(plans_module).splitlines()
    assert len(lines) == 2 + 2 * len(GPUS) * len(SHAPES)
    assert len({line.count("|") for line in lines}) == 1
