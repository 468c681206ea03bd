"""Windows at random places of a text."""

import itertools

import pytest
import torch

from rnnfused.lm import RandomWindows


@pytest.mark.parametrize("length", [40, 41, 44, 45, 59, 60, 61])
@pytest.mark.parametrize("starts", ["offset", "uniform"])
def test_shapes_and_targets(length, starts):
    ids = torch.arange(100, 100 + length)
    windows = RandomWindows(ids, batch_size=3, num_steps=5, starts=starts)
    for epoch in range(20):
        batches = list(windows.epoch(epoch))
        assert len(batches) == len(windows) == (length - 5) // 5 // 3
        assert sum(y.numel() for _, y in batches) == windows.num_symbols
        for x, y in batches:
            assert x.shape == y.shape == (3, 5)
            assert torch.equal(y, x + 1)
            assert torch.equal(x, x[:, :1] + torch.arange(5))


def test_an_epoch_has_each_symbol_at_most_once():
    windows = RandomWindows(torch.arange(1000), batch_size=4, num_steps=7)
    offsets = set()
    for epoch in range(100):
        starts = torch.cat([x[:, 0] for x, _ in windows.epoch(epoch)])
        assert len(starts) == len(starts.unique()) == 140
        [offset] = (starts % 7).unique().tolist()
        offsets.add(offset)
        assert starts.tolist() != sorted(starts.tolist())
    assert offsets == set(range(7))


def test_uniform_starts_are_everywhere():
    windows = RandomWindows(torch.arange(21), batch_size=4, num_steps=4, starts="uniform")
    starts = torch.cat([x[:, 0] for epoch in range(300) for x, _ in windows.epoch(epoch)])
    counts = torch.bincount(starts)
    # 17 places: the last window ends at the last symbol.
    assert len(counts) == 17
    assert counts.min() > 0.6 * len(starts) / 17 and counts.max() < 1.4 * len(starts) / 17


@pytest.mark.parametrize("starts", ["offset", "uniform"])
def test_seed_epoch_and_number_determine_a_batch(starts):
    ids = torch.arange(300)

    def made(seed=0):
        return RandomWindows(ids, 4, 5, starts=starts, seed=seed)

    def flat(batches):
        return [x.tolist() for x, _ in batches]

    all_epochs = [flat(made().epoch(number)) for number in range(3)]
    assert all(a != b for a, b in itertools.combinations(all_epochs, 2))
    assert flat(made(seed=1).epoch(0)) != all_epochs[0]
    # Resumed in the middle, in a new process.
    assert flat(made().epoch(2, start=3)) == all_epochs[2][3:]
    assert flat(made().epoch(2, start=len(made()))) == []
    windows = made()
    for epoch, index in ((2, 1), (0, 2), (2, 0)):
        assert windows.window(epoch, index)[0].tolist() == all_epochs[epoch][index]
    # Two epochs at the same time.
    mixed = list(zip(windows.epoch(0), windows.epoch(1)))
    assert flat(one for one, _ in mixed) == all_epochs[0]
    assert flat(other for _, other in mixed) == all_epochs[1]


def test_any_integer_dtype():
    for dtype in (torch.uint8, torch.int16, torch.int64):
        x, y = RandomWindows(torch.arange(30, dtype=dtype), 2, 4).window(0, 0)
        assert x.dtype == y.dtype == dtype


def test_wrong_arguments():
    ids = torch.arange(100)
    RandomWindows(ids[:20], 4, 4)
    with pytest.raises(ValueError, match="it has 19 symbols, but batch_size=4 .* need 20"):
        RandomWindows(ids[:19], 4, 4)
    with pytest.raises(ValueError, match="it has 1 symbol, but batch_size=1 .* need 2"):
        RandomWindows(ids[:1], 1, 1)
    with pytest.raises(ValueError, match="starts must be 'offset' or 'uniform', got 'all'"):
        RandomWindows(ids, 2, 2, starts="all")
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        RandomWindows(ids, 2, 0)
    with pytest.raises(TypeError, match="ids must be a tensor of integers"):
        RandomWindows(ids.float(), 2, 2)
    with pytest.raises(TypeError, match="seed must be an int, got 1.5"):
        RandomWindows(ids, 2, 2, seed=1.5)
    for seed in (-1, 2**63):
        with pytest.raises(ValueError, match="seed must lie in"):
            RandomWindows(ids, 2, 2, seed=seed)
    windows = RandomWindows(ids, 2, 2)
    for epoch, index in ((0, -1), (0, len(windows)), (-1, 0)):
        with pytest.raises(IndexError):
            windows.window(epoch, index)
    with pytest.raises(IndexError):
        windows.epoch(0, start=len(windows) + 1)
