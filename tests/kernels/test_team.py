"""Threads that share the columns of every step, arriving and pausing at random."""

import pytest


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("delay_us", [0, 100])
@pytest.mark.parametrize("patience_us", [20, 500])
def test_nobody_goes_on_early(team_module, threads, delay_us, patience_us):
    for seed in range(20):
        right, _ = team_module.run(threads, 200, delay_us, patience_us, seed)
        assert right


def test_who_comes_in_time_takes_part(team_module):
    assert max(team_module.run(2, 20_000, 50, 100_000, seed)[1] for seed in range(5)) == 2
