"""What :func:`torch.vmap` makes of the ops: one call, in which the mapped dimension is batch rows or heads.

Where all calls share W_hh, their batches become one. Where each has its own, their features lie side by side
and W_hh is block-diagonal: a head for each call (or several, if it had heads before).
"""

import torch

from .registry import register_vmap
from .sequence import Extents, Layout, with_contiguous_features
from .tokens import is_ids

_recurrence = torch.ops.rnnfused.recurrence.default
_recurrence_backward = torch.ops.rnnfused.recurrence_backward.default


class _Rows:
    """The mapped dimension as rows of the batch."""

    def __init__(self, size, sequence_dims, batch_sizes, lengths):
        # Packed rows of all calls stay together in each step; else each call's rows stay together.
        self.size = size
        self.row_dim = 1 if batch_sizes is not None else 0
        self.sequence_dim = 1 if sequence_dims == 3 or batch_sizes is not None else 0
        self.batch_sizes = None if batch_sizes is None else batch_sizes * size
        self.lengths = None if lengths is None else lengths.flatten()

    def _fold(self, tensor, dim):
        return None if tensor is None else tensor.movedim(0, dim).flatten(dim, dim + 1)

    def _unfold(self, tensor, dim, is_outer):
        sizes = (self.size, -1) if is_outer else (-1, self.size)
        if tensor.numel() == 0:  # the size of the other dimension cannot be told
            sizes = [tensor.size(dim) // self.size if size == -1 else size for size in sizes]
        return tensor.unflatten(dim, sizes), dim if is_outer else dim + 1

    # A sequence is folded at time or batch; of packed rows the mapped dimension is the inner one.
    def fold_sequence(self, tensor):
        if self.batch_sizes is not None and tensor is not None:
            return tensor.movedim(0, 1).flatten(0, 1)
        return self._fold(tensor, self.sequence_dim)

    def unfold_sequence(self, tensor):
        if self.batch_sizes is not None:
            return self._unfold(tensor, 0, False)
        return self._unfold(tensor, self.sequence_dim, True)

    def fold_state(self, tensor):
        return None if tensor is None else tensor.movedim(0, self.row_dim).flatten(0, 1)

    def unfold_state(self, tensor):
        return self._unfold(tensor, 0, self.row_dim == 0)

    def fold_weight(self, tensor):
        return tensor[0]


class _Heads:
    """The mapped dimension as heads."""

    def __init__(self, size, batch_sizes, lengths):
        self.size = size
        self.batch_sizes, self.lengths = batch_sizes, lengths

    def _fold(self, tensor):
        return None if tensor is None else tensor.movedim(0, -2).flatten(-2)

    def _unfold(self, tensor):
        features = tensor.size(-1) // self.size
        return tensor.unflatten(-1, (self.size, features)), tensor.dim() - 1

    fold_sequence = fold_state = _fold
    unfold_sequence = unfold_state = _unfold

    def fold_weight(self, tensor):
        return tensor.flatten(0, 1) if tensor.dim() == 4 else tensor


def _mapped(info, in_dims, tensors):
    """The tensors with the mapped dimension in front; those without it are repeated by a view."""
    return [
        None
        if tensor is None
        else tensor.expand(info.batch_size, *tensor.shape)
        if dim is None
        else tensor.movedim(dim, 0)
        for tensor, dim in zip(tensors, in_dims, strict=False)
    ]


def _choose(info, sequence, weight_dim, size_dims, batch_sizes, lengths):
    if size_dims[0] is not None:
        raise NotImplementedError(
            "vmap over batch_sizes: pad the rows and map over lengths instead"
        )
    if weight_dim is None:
        return _Rows(info.batch_size, sequence.dim() - 1, batch_sizes, lengths)
    if size_dims[1] is not None:
        raise NotImplementedError("vmap over weight_hh and lengths together")
    return _Heads(info.batch_size, batch_sizes, None if lengths is None else lengths[0])


def _with_dims(*results):
    tensors, dims = zip(*results, strict=True)
    return tensors, dims


def _map_recurrence(
    info, in_dims, projections, weight_hh, h_0, batch_sizes, lengths, time_dim, *options
):
    projections, weight_hh, h_0 = _mapped(info, in_dims, (projections, weight_hh, h_0))
    extents = Extents(batch_sizes, lengths)
    (lengths,) = _mapped(info, in_dims[4:], (lengths,))
    layout = Layout.of(projections.dim() - 2, extents, time_dim, is_mapped=True)
    projections = layout.time_major(projections)
    way = _choose(info, projections, in_dims[1], in_dims[3:5], batch_sizes, lengths)
    output, h_n = _recurrence(
        with_contiguous_features(way.fold_sequence(projections)), way.fold_weight(weight_hh),
        with_contiguous_features(way.fold_state(h_0)), way.batch_sizes, way.lengths, 0, *options,
    )  # fmt: skip
    output, dim = way.unfold_sequence(output)
    return _with_dims((layout.restore(output.movedim(dim, 0)), 0), way.unfold_state(h_n))


register_vmap("rnnfused::recurrence", _map_recurrence)


@register_vmap("rnnfused::recurrence_backward")
def _(info, in_dims, grad_output, grad_h_n, output, weight_hh, batch_sizes, lengths, *options):
    grad_output, grad_h_n, output, weight_hh = _mapped(
        info, in_dims, (grad_output, grad_h_n, output, weight_hh)
    )
    (lengths,) = _mapped(info, in_dims[5:], (lengths,))
    way = _choose(info, output, in_dims[3], in_dims[4:6], batch_sizes, lengths)
    d, grad_h_0 = _recurrence_backward(
        with_contiguous_features(way.fold_sequence(grad_output)),
        with_contiguous_features(way.fold_state(grad_h_n)),
        with_contiguous_features(way.fold_sequence(output)), way.fold_weight(weight_hh),
        way.batch_sizes, way.lengths, *options,
    )  # fmt: skip
    return _with_dims(way.unfold_sequence(d), way.unfold_state(grad_h_0))


@register_vmap("rnnfused::layer")
def _(
    info, in_dims, input, weight_ih, bias_ih, bias_hh, weight_hh, h_0, batch_sizes, lengths,
    time_dim, *options,
):  # fmt: skip
    """By the projection of every call, and the op ``recurrence``."""
    input, weight_ih, bias_ih, bias_hh = _mapped(
        info, in_dims, (input, weight_ih, bias_ih, bias_hh)
    )
    (h_0,) = _mapped(info, in_dims[5:], (h_0,))
    rows_dims = input.dim() - 1 - (not is_ids(input))
    extents = Extents(batch_sizes, lengths if in_dims[7] is None or lengths is None else lengths[0])
    layout = Layout.of(rows_dims, extents, time_dim, is_mapped=True)
    rows = input.flatten(1, rows_dims) if rows_dims > 0 else input.unsqueeze(1)
    if not is_ids(input):
        projections = torch.bmm(rows, weight_ih.mT)
    else:
        columns = rows.unsqueeze(1).expand(-1, weight_ih.size(1), -1)
        projections = weight_ih.gather(2, columns).mT
    for bias in (bias_ih, bias_hh):
        if bias is not None:
            projections = projections + bias.unsqueeze(1)
    projections = layout.time_major(projections.reshape(*input.shape[: 1 + rows_dims], -1))
    (output, h_n), (output_dim, h_n_dim) = _map_recurrence(
        info, (0, in_dims[4], None if h_0 is None else 0, *in_dims[6:]),
        projections, weight_hh, layout.loop_state(h_0), batch_sizes, lengths, 0, *options,
    )  # fmt: skip
    output, h_n = output.movedim(output_dim, 0), h_n.movedim(h_n_dim, 0)
    return (layout.restore(output), layout.layer_state(h_n)), (0, 0)
