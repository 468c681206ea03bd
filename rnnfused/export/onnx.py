"""A layer as the standard ONNX operator ``RNN``, for :func:`torch.onnx.export` with either of its exporters.

The operator (https://onnx.ai/onnx/operators/onnx__RNN.html) takes (T, B, I), weights with a dimension of
directions in front, both biases side by side, and lengths.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.nonlinearity import TANH
from ..ops.sequence import Extents, Layout
from ..ops.tokens import is_ids

VERSION = 14  # of the operator: from opset 14 on


def is_exporting() -> bool:
    """Whether calls are being recorded by ``torch.onnx.export``."""
    return torch.onnx.is_in_onnx_export()


def layer(
    input,
    weight_ih,
    weight_hh,
    bias_ih,
    bias_hh,
    h_0,
    batch_sizes,
    lengths,
    time_dim,
    nonlinearity,
    reverse,
    state_grad_clip,
) -> tuple[Tensor, Tensor]:
    """As the op ``layer``, recorded as an ONNX operator.

    Raises:
        NotImplementedError: a packed or jagged batch, for which ONNX has none.
    """
    if weight_ih is None:  # projections: the operator has an input weight
        weight_ih = torch.eye(input.size(-1), dtype=input.dtype, device=input.device)
    rows_dims = input.dim() - (not is_ids(input))
    layout = Layout.of(rows_dims, Extents(batch_sizes, lengths), time_dim)
    if layout.is_flat:
        raise NotImplementedError(
            "input must be a padded batch for export to ONNX, which has no PackedSequence "
            "or nested tensor: use lengths"
        )
    input, h_0 = layout.time_major(input), layout.time_major_state(h_0)
    if is_ids(input):
        input = F.one_hot(input, weight_ih.size(1)).to(weight_ih.dtype)
    if weight_hh.dim() == 3:
        heads, part, _ = weight_hh.shape
        sides = [(i * part, (heads - 1 - i) * part) for i in range(heads)]
        weight_hh = torch.cat([F.pad(weight_hh[i], side) for i, side in enumerate(sides)])
    biases = None
    if bias_ih is not None:
        no_bias = torch.zeros_like(bias_ih)
        biases = torch.cat([bias_ih, no_bias if bias_hh is None else bias_hh]).unsqueeze(0)
    if lengths is not None:
        lengths = lengths.int()
    attributes = {
        "activations": ["Tanh" if nonlinearity == TANH else "Relu"],
        "direction": "reverse" if reverse else "forward",
        "hidden_size": weight_hh.size(0),
    }
    tensors = (input, weight_ih.unsqueeze(0), weight_hh.unsqueeze(0), biases, lengths, h_0)
    if torch.jit.is_tracing():
        output, h_n = _Traced.apply(attributes, *tensors)
    else:
        time, batch, _ = input.shape
        hidden = weight_hh.size(0)
        output, h_n = torch.onnx.ops.symbolic_multi_out(
            "RNN",
            tensors,
            attributes,
            version=VERSION,
            dtypes=(input.dtype, input.dtype),
            shapes=((time, 1, batch, hidden), (1, batch, hidden)),
        )
    return layout.restore(output.squeeze(1)), layout.restore_state(h_n)


class _Traced(torch.autograd.Function):
    """The operator for the tracing exporter, which calls the symbol of an autograd Function."""

    @staticmethod
    def forward(ctx, attributes, input, weight_ih, weight_hh, biases, lengths, h_0):
        time, batch, _ = input.shape
        hidden = weight_hh.size(1)
        return input.new_zeros(time, 1, batch, hidden), input.new_zeros(1, batch, hidden)

    @staticmethod
    def symbolic(graph, attributes, *tensors):
        missing = graph.op("prim::Constant")
        missing.setType(torch._C.OptionalType.ofTensor())
        return graph.op(
            "RNN",
            *(missing if x is None or x.node().mustBeNone() else x for x in tensors),
            outputs=2,
            hidden_size_i=attributes["hidden_size"],
            activations_s=attributes["activations"],
            direction_s=attributes["direction"],
        )
