"""What a forward and a backward call keep and take, ours and nn.RNN's."""

import memory
import pytest
import torch


@pytest.mark.parametrize("side", memory.SIDES)
def test_memory(case, side, run, record):
    figures = memory.measure(case, side, torch.get_num_threads())
    record("memory", {"case": str(case), "side": side}, figures)
