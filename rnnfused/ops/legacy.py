"""The ops that programs exported by rnnfused 0.1.0 call, as calls of the op ``layer``.

They take the nonlinearity as a string, which torch's stable ABI leaks, and sequences as (T, B, ..) alone. Their output
keeps the input's memory order of batch and time: compiled programs rely on its strides.
"""

import torch

from .nonlinearity import check_nonlinearity
from .registry import define, impl
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


def _options(nonlinearity, reverse, state_grad_clip):
    return check_nonlinearity(nonlinearity), reverse, state_grad_clip


@impl("rnnfused::forward", "CompositeImplicitAutograd")
def _(projections, weight_hh, h_0, batch_sizes, lengths, *options):
    h_0 = None if h_0 is None else h_0.unsqueeze(0)
    output, h_n = torch.ops.rnnfused.layer(
        projections, None, weight_hh, None, None, h_0, batch_sizes, lengths, 0, *_options(*options)
    )
    return output, h_n.squeeze(0)


@impl("rnnfused::layer_forward", "CompositeImplicitAutograd")
def _(input, weight_ih, bias_ih, bias_hh, weight_hh, h_0, batch_sizes, lengths, *options):
    tensors = (weight_ih, weight_hh, bias_ih, bias_hh, h_0, batch_sizes, lengths)
    is_padded = input.dim() - (not is_ids(input)) == 2
    if is_padded and input.size(1) > 1 and input.stride(0) < input.stride(1):
        output, h_n = torch.ops.rnnfused.layer(
            input.transpose(0, 1), *tensors, 1, *_options(*options)
        )
        return torch.ops.rnnfused.copied(output).transpose(0, 1), h_n  # a view of no saved tensor
    return torch.ops.rnnfused.layer(input, *tensors, 0, *_options(*options))
