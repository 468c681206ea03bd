"""The compiled op: loads the shared libraries.

``torch.ops.rnnfused.recurrence`` runs the whole time loop in one call, and ``layer`` the loop with its input
projection; ``recurrence_backward`` and ``layer_backward`` return their gradients. Use the ops through
:func:`rnnfused.functional.rnn` and the layers, which check their arguments. Of their arguments,

- ``time_dim`` is the dimension of time in a sequence: 0, 1, or -1 where the sequence is a single step without it
  (``recurrence_backward`` lacks it: 0). A sequence without a batch is one row. A layer's states have the layers in front, of which a call is one,
  (1, batch, hidden), but for a single step; those of ``recurrence`` are (batch, hidden);
- ``nonlinearity`` is one of :data:`NONLINEARITIES`.
"""

from . import autograd, compiled, composite, fake, flops, legacy, vmap  # noqa: F401 (they register ops' kernels)
from .library import (
    CUDA_LIBRARY,
    LIBRARY,
    cpu_capability,
    has_cuda_kernels,
    layer,
    layer_backward,
    recurrence,
    recurrence_backward,
)
from .schema import NONLINEARITIES, LayerArgs, RecurrenceArgs

__all__ = [
    "CUDA_LIBRARY",
    "LIBRARY",
    "NONLINEARITIES",
    "LayerArgs",
    "RecurrenceArgs",
    "cpu_capability",
    "has_cuda_kernels",
    "layer",
    "layer_backward",
    "recurrence",
    "recurrence_backward",
]
