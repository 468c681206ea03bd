"""The ops that programs exported by rnnfused 0.1.0 call, as calls of the present ones.

Those took the nonlinearity as a string, which torch's stable ABI leaks, and sequences as (T, B, ..) alone. Their output
has the batch outside the time in memory where the input has: compiled programs rely on its strides.
"""

import torch

from .registry import define, impl
from .schema import NONLINEARITIES
from .tokens import is_ids

define(
    "rnnfused::forward",
    "(Tensor projections, Tensor weight_hh, Tensor? h_0, Tensor? batch_sizes, Tensor? lengths, "
    "str nonlinearity, bool reverse, float? state_grad_clip) -> (Tensor output, Tensor h_n)",
)
define(
    "rnnfused::layer_forward",
    "(Tensor input, Tensor weight_ih, Tensor? bias_ih, Tensor? bias_hh, Tensor weight_hh, "
    "Tensor? h_0, Tensor? batch_sizes, Tensor? lengths, str nonlinearity, bool reverse, "
    "float? state_grad_clip) -> (Tensor output, Tensor h_n)",
)


def _number(nonlinearity):
    if nonlinearity not in NONLINEARITIES:
        raise ValueError(f"nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
    return NONLINEARITIES[nonlinearity]


@impl("rnnfused::forward", "CompositeImplicitAutograd")
def _(projections, *others):
    *tensors, nonlinearity, reverse, state_grad_clip = others
    options = (_number(nonlinearity), reverse, state_grad_clip)
    return torch.ops.rnnfused.recurrence(projections, *tensors, 0, *options)


@impl("rnnfused::layer_forward", "CompositeImplicitAutograd")
def _(input, *others):
    *tensors, nonlinearity, reverse, state_grad_clip = others
    options = (_number(nonlinearity), reverse, state_grad_clip)
    is_padded = input.dim() - (not is_ids(input)) == 2
    if is_padded and input.size(1) > 1 and input.stride(0) < input.stride(1):
        batch_first = input.transpose(0, 1)
        output, h_n = torch.ops.rnnfused.layer(batch_first, *tensors, 1, *options)
        return output.transpose(0, 1), h_n
    return torch.ops.rnnfused.layer(input, *tensors, 0, *options)
