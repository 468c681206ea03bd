"""Memory that a forward and a backward call save and take, in rnnfused and in nn.RNN."""

import memory
import pytest
import torch


@pytest.mark.once
@pytest.mark.parametrize("side", memory.SIDES)
def test_memory(case, side, record):
    figures = memory.saved(case, side)
    figures["peak_extra_bytes"] = memory.peak(case, side, torch.get_num_threads())
    record("memory", {"case": str(case), "side": side}, figures)
