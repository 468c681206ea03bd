"""Arguments of the loops for self-checks and timings: random, and apart from the caller's tensors and seeds."""

from typing import NamedTuple

import torch
from torch import Tensor

from .calls import Call


class Sample(NamedTuple):
    """Arguments of a forward and of a backward loop, as :mod:`rnnfused.ops.stepwise` takes them."""

    forward: tuple
    backward: tuple

    def fused_backward(self, output: Tensor) -> tuple:
        """The arguments of the op ``backward_fused`` after a loop with this output."""
        *first, _, needs_h_0 = self.with_output(output).backward
        return (*first, needs_h_0)

    def with_output(self, output: Tensor) -> "Sample":
        """The sample whose backward loop comes after a loop with this output."""
        return self._replace(backward=(*self.backward[:2], output, *self.backward[3:]))


def batch_sizes(num_steps: int, rows: int) -> Tensor:
    """(T,), rows per step: all at first, about half of them at last."""
    sizes = [rows - rows // 2 * step // num_steps for step in range(num_steps)]
    return torch.tensor(sizes, device="cpu")


def sample(
    call: Call, num_steps: int, rows: int, *, nonlinearity=0, reverse=False, is_packed=None
) -> Sample:
    """Arguments for so many steps and rows, else as the call's. The weight is a contraction, so errors do not grow."""
    if is_packed is None:
        is_packed = call.is_packed
    random = torch.Generator(device=call.device).manual_seed(num_steps)
    hidden, heads = call.hidden_size, call.num_heads

    def new(*shape, scale=1.0):
        values = torch.empty(shape, device=call.device, dtype=call.dtype)
        return values.uniform_(-scale, scale, generator=random)

    sizes = batch_sizes(num_steps, rows) if is_packed else None
    sequence = (num_steps, rows, hidden) if sizes is None else (int(sizes.sum()), hidden)
    block = hidden // heads
    weight_shape = (heads, block, block) if heads > 1 else (hidden, hidden)
    weight = new(*weight_shape, scale=block**-0.5)
    options = (sizes, nonlinearity, reverse)
    return Sample(
        (new(*sequence), weight, new(1, rows, hidden), *options),
        (
            new(*sequence),
            new(1, rows, hidden),
            new(*sequence),
            weight,
            *options,
            1.0 if call.has_clip else None,
            True,
        ),
    )
