"""The ops ``torch.ops.rnnfused``: their loading, derivatives and rules for torch's transformations.

``layer`` runs the whole time loop in one call, with its input projection; ``layer_backward`` returns the gradients.
``both_directions`` is the same for a layer that also runs from the last step to the first.
``recurrence_backward`` is the backward loop alone, which every higher derivative is made of. Use them through
:func:`rnnfused.functional.rnn` and the layers, which check their arguments (:class:`LayerArgs`):

- ``weight_ih``: (H, I); or null, where ``input`` is the projections (.., H).
- ``time_dim``: the dimension of time in a sequence, 0 or 1, or -1 for a single step without that dimension
  (``recurrence_backward`` has 0). A sequence without a batch is one row.
- states: shaped as one step of the sequence, time first: (1, B, H); (1, H) without a batch; (B, H) for a single step.
- ``nonlinearity``: one of :data:`NONLINEARITIES`.
"""

from . import (  # noqa: F401 (they register ops' kernels)
    autocast,
    autograd,
    compiled,
    composite,
    cross_entropy,
    fake,
    flops,
    legacy,
    vmap,
)
from .library import (
    CUDA_LIBRARY,
    LIBRARY,
    cpu_capability,
    generate,
    has_cuda_kernels,
    layer,
    layer_backward,
    pack_generator,
    recurrence_backward,
)
from .named_arguments import LayerArgs
from .nonlinearity import NONLINEARITIES

__all__ = [
    "CUDA_LIBRARY",
    "LIBRARY",
    "NONLINEARITIES",
    "LayerArgs",
    "cpu_capability",
    "generate",
    "has_cuda_kernels",
    "layer",
    "layer_backward",
    "pack_generator",
    "recurrence_backward",
]
