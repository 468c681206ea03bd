"""Copies in compiled calls, because a compiler loses the version of a saved tensor behind a view.

A change in place of that view, after the call, would silently give a wrong gradient; so the compiled graph must save
no tensor that its caller can reach through a view. Seen with torch 2.13, AOTAutograd and Inductor.
"""

import torch
from torch import Tensor

from .autograd import recorded_layer
from .modes import is_compiled
from .registry import impl, register_autograd, register_fake, register_vmap

_copied = torch.ops.rnnfused.copied
impl("rnnfused::copied", "CompositeExplicitAutograd", lambda x: x.contiguous().clone())
register_fake("rnnfused::copied")(lambda x: x.new_empty(x.shape))
register_vmap("rnnfused::copied", lambda info, in_dims, x: (_copied(x), in_dims[0]))
register_autograd(
    "rnnfused::copied",
    lambda ctx, gradient: gradient,
    setup_context=lambda ctx, inputs, output: None,
)


def copy_of_view(view: Tensor) -> Tensor:
    """A contiguous copy of the view where calls are compiled, else the view."""
    return _copied(view) if is_compiled() else view


def layer(input: Tensor, *others) -> tuple[Tensor, Tensor]:
    """The op ``layer`` in a recorded call. Compiled for training, its output is a copy of the saved one."""
    if not (is_compiled() and torch.is_grad_enabled()):
        return recorded_layer(input, *others)
    output, h_n = recorded_layer(input if input.is_contiguous() else _copied(input), *others)
    return _copied(output), h_n
