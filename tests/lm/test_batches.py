"""Windows of a text for truncated backpropagation through time."""

import pytest
import torch

from rnnfused.lm import StreamBatches


def test_layout_by_hand():
    windows = list(StreamBatches(torch.arange(12), batch_size=2, num_steps=2))
    assert [(x.tolist(), y.tolist()) for x, y in windows] == [
        ([[0, 1], [5, 6]], [[1, 2], [6, 7]]),
        ([[2, 3], [7, 8]], [[3, 4], [8, 9]]),
        ([[4], [9]], [[5], [10]]),
    ]


@pytest.mark.parametrize("length", [13, 100, 101, 127])
@pytest.mark.parametrize(("batch_size", "num_steps"), [(1, 1), (1, 12), (3, 4), (4, 3), (12, 1)])
def test_every_symbol_of_a_stream_once_in_order(length, batch_size, num_steps):
    batches = StreamBatches(torch.arange(length), batch_size, num_steps)
    windows = list(batches)
    assert len(windows) == len(batches)
    x = torch.cat([x for x, _ in windows], dim=1)
    y = torch.cat([y for _, y in windows], dim=1)
    assert torch.equal(y, x + 1)
    assert torch.equal(x.flatten(), torch.arange(x.numel()))
    assert x.numel() == batches.num_symbols
    assert length - 1 - batch_size < x.numel() <= length - 1
    assert all(window.shape == (batch_size, num_steps) for window, _ in windows[:-1])
    # A second pass is the first again.
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(windows, batches, strict=True))


def test_integer_dtypes_are_kept():
    for dtype in (torch.uint8, torch.int32, torch.int64):
        x, y = next(iter(StreamBatches(torch.arange(9, dtype=dtype), 2, 4)))
        assert x.dtype == y.dtype == dtype


def test_one_full_window_is_needed():
    assert len(StreamBatches(torch.arange(13), 3, 4)) == 1
    message = "it has 12 symbols, but batch_size=3 streams of num_steps=4 need 13"
    with pytest.raises(ValueError, match=message):
        StreamBatches(torch.arange(12), 3, 4)


def test_wrong_arguments():
    ids = torch.arange(100)
    with pytest.raises(TypeError, match="ids must be a tensor of integers, got torch.float32"):
        StreamBatches(ids.float(), 2, 2)
    with pytest.raises(TypeError, match="ids must be a tensor of integers, got torch.bool"):
        StreamBatches(ids.bool(), 2, 2)
    with pytest.raises(TypeError, match="ids must be a tensor of integers, got list"):
        StreamBatches([1, 2, 3], 1, 1)
    with pytest.raises(ValueError, match=r"ids must be 1-D, got shape \(10, 10\)"):
        StreamBatches(ids.view(10, 10), 2, 2)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        StreamBatches(ids, 0, 2)
    with pytest.raises(ValueError, match="num_steps must be at least 1, got -1"):
        StreamBatches(ids, 2, -1)
