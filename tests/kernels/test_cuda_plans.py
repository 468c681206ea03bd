"""The planner's choices on GPUs that are not at hand, by the cost model of csrc/cuda/cost.h."""

import pytest
from cuda_gpus import GPUS, SHAPES, table

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


def test_no_plan_where_a_product_per_step_is_faster(h100):
    assert h100.plan("float32", 1024, 256).blocks == 0
    for dtype in DTYPES:
        for hidden in (64, 200, 512, 1024, 2000):
            for batch in (1, 8, 64, 256, 1000):
                plan = h100.plan(dtype, hidden, batch)
                assert plan.blocks == 0 or plan.estimated_us < h100.by_kernels(dtype, hidden, batch)
    # A forced plan may be slower.
    forced = h100.plan("float32", 128, 4000, "none,tile=1")
    assert forced.estimated_us > h100.by_kernels("float32", 128, 4000)


@pytest.mark.parametrize("send", ["wide", "bulk"])
def test_float64_sends_words_alone(h100, send):
    assert h100.plan("float32", 512, 16, f"cluster,16,send={send}").blocks == 16
    assert h100.plan("float64", 256, 16, "cluster,16,send=words").blocks == 16
    with pytest.raises(RuntimeError, match="hidden_size=256 .* or a way to send that its dtype"):
        h100.plan("float64", 256, 16, f"cluster,16,send={send}")


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


# Predictions of a review that counted SASS and latencies by hand, in us: another way to the same quantity.
REVIEW = {
    ("float32", (512, 1, 512)): (0.63, 0.63),
    ("bfloat16", (512, 1, 512)): (0.74, 0.74),
    ("float32", (512, 16, 512)): (0.7, 0.7),
    ("bfloat16", (512, 16, 512)): (0.74, 0.74),
    ("float32", (512, 64, 512)): (1.3, 1.7),
    ("bfloat16", (512, 64, 512)): (0.8, 0.8),
    ("float32", (1024, 64, 1024)): (6.0, 6.0),
    ("bfloat16", (1024, 64, 1024)): (1.3, 1.9),
    ("float32", (2048, 32, 256)): (0.6, 0.6),
    ("bfloat16", (2048, 32, 256)): (0.52, 0.52),
}


@pytest.mark.parametrize(("dtype", "shape"), REVIEW, ids=str)
def test_estimates_are_near_those_of_the_review(h100, dtype, shape):
    least, most = REVIEW[dtype, shape]
    assert 0.55 * least < h100.plan(dtype, shape[2], shape[1]).estimated_us < 1.8 * most


def test_the_table_has_every_shape(plans_module):
    lines = table(plans_module).splitlines()
    assert len(lines) == 2 + 2 * len(GPUS) * len(SHAPES)
    assert len({line.count("|") for line in lines}) == 1
