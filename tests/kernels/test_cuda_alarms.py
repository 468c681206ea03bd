"""The watchdog's host side: which call reports an alarm, on which device, and what it says."""

import pytest
from threads import run_in_threads

TEXT = (
    "rnnfused: an earlier fused call stopped on cuda:1, because blocks of its kernel waited 2.50 s for each other. "
    "Its results are incomplete. Its layout: cluster of 8 sending words, 64 units a block, tile of 4 rows, depth 32, 256 threads. "
    "Rank 5 of team 0 waited in step 16 for barrier 1. Rank 2 of team 0 waited in step 17 for barrier 0. "
    "RNNFUSED_CUDA_FUSED=0 avoids the fused kernels."
)


@pytest.fixture
def alarms(alarms_module):
    yield alarms_module
    alarms_module.set_captures(False)
    for device in (0, 1):
        alarms_module.set_device(device)
        alarms_module.take_alarm()
    alarms_module.set_device(0)
    alarms_module.set_time_limit(20)


def test_the_next_call_on_the_device_reports_it_once(alarms):
    alarms.set_time_limit(2.5)
    alarms.set_device(1)
    watchdog = alarms.next_watchdog()
    assert watchdog.limit == 2_500_000_000
    watchdog.raise_alarm(2, 17, 0, 8)
    watchdog.raise_alarm(5, 16, 1, 8)
    alarms.set_device(0)
    alarms.next_watchdog()
    assert alarms.take_alarm() == ""
    alarms.set_device(1)
    with pytest.raises(RuntimeError) as caught:
        alarms.next_watchdog()
    assert str(caught.value) == TEXT
    assert alarms.take_alarm() == ""
    alarms.next_watchdog()


def test_it_can_be_taken_before_the_next_call(alarms):
    watchdog = alarms.next_watchdog()
    assert alarms.take_alarm() == ""
    watchdog.raise_alarm(0, 0, 9, 64)
    assert "waited in step 0 for rank 7" in alarms.take_alarm()
    assert alarms.take_alarm() == ""


def test_many_ranks_are_counted(alarms):
    watchdog = alarms.next_watchdog()
    for rank in range(7):
        watchdog.raise_alarm(rank, 9 - rank, 0, 8)
    text = alarms.take_alarm()
    assert text.index("Rank 6 of") < text.index("Rank 5 of") < text.index("Rank 3 of")
    assert "Rank 2" not in text and "3 more ranks waited" in text


def test_every_launch_has_its_own_number(alarms):
    numbers = [alarms.next_watchdog().launch for _ in range(5)]
    assert len(set(numbers)) == 5 and 0 not in numbers


def test_the_text_has_the_limit_of_the_launch(alarms):
    alarms.set_time_limit(2)
    watchdog = alarms.next_watchdog()
    alarms.set_time_limit(20)
    watchdog.raise_alarm(0, 0, 0, 2)
    assert "waited 2.00 s for each other" in alarms.take_alarm()


def test_a_time_limit_is_of_its_thread(alarms):
    """A capture keeps its limit for ever, so a check of another thread must not shorten it."""
    limits = []
    alarms.set_time_limit(2)
    run_in_threads(lambda _: limits.append(alarms.next_watchdog().limit), [0])
    assert limits == [20 * 10**9] and alarms.next_watchdog().limit == 2 * 10**9


def test_a_captured_launch_works_again_once_its_alarm_is_reported(alarms):
    captured = alarms.next_watchdog()
    captured.raise_alarm(0, 0, 0, 2)
    assert captured.stops() and alarms.has_alarm()
    with pytest.raises(RuntimeError, match="an earlier fused call stopped"):
        alarms.next_watchdog()
    assert not captured.stops() and not alarms.has_alarm()
    captured.raise_alarm(0, 0, 0, 2)
    assert "an earlier fused call stopped" in alarms.take_alarm()


def test_an_alarm_is_of_its_device(alarms):
    alarms.set_device(1)
    assert not alarms.has_alarm()
    alarms.next_watchdog().raise_alarm(0, 0, 0, 2)
    assert alarms.has_alarm() and alarms.has_alarm()
    alarms.set_device(0)
    assert not alarms.has_alarm()


def test_only_an_alarm_waits_for_the_device(alarms):
    alarms.next_watchdog()
    before = alarms.counts()
    watchdog = alarms.next_watchdog()
    assert alarms.take_alarm() == "" and not alarms.has_alarm() and alarms.counts() == before
    watchdog.raise_alarm(0, 0, 0, 2)
    alarms.take_alarm()
    assert alarms.counts() == (before[0], before[1] + 1)


def test_an_alarm_during_a_capture_stays(alarms):
    watchdog = alarms.next_watchdog()
    watchdog.raise_alarm(0, 0, 0, 2)
    alarms.set_captures(True)
    assert alarms.take_alarm() == alarms.take_alarm() != ""
    alarms.set_captures(False)
    assert alarms.take_alarm() != ""
    assert alarms.take_alarm() == ""


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), 1e10])
def test_a_time_limit_must_be_positive(alarms, seconds):
    with pytest.raises(RuntimeError, match="time limit must be"):
        alarms.set_time_limit(seconds)
