"""The rules of :func:`torch.vmap` for the ops: one call, in which the mapped dimension is batch rows or heads.

Where all calls share W_hh, their batches become one. Where each has its own, their features lie side by side
and W_hh is block-diagonal: a head for each call (or several, if it had heads before).
"""

import torch

from .named_arguments import LayerArgs, RecurrenceBackwardArgs
from .registry import register_vmap
from .sequence import Extents, Layout
from .tokens import is_ids


class _Rows:
    """The mapped dimension as rows of the batch."""

    def __init__(self, size, sequence_dims, batch_sizes, lengths):
        self.size = size
        self.sequence_dim = 1 if sequence_dims == 3 or batch_sizes is not None else 0
        self.batch_sizes = None if batch_sizes is None else batch_sizes * size
        self.lengths = None if lengths is None else lengths.flatten()

    # Packed rows of all calls stay together in each step; else each call's rows stay together.
    def _is_inner(self):
        return self.batch_sizes is not None

    def _fold(self, tensor, dim):
        if tensor is None:
            return None
        return tensor.movedim(0, dim + 1 if self._is_inner() else dim).flatten(dim, dim + 1)

    def _unfold(self, tensor, dim):
        sizes = [-1, self.size] if self._is_inner() else [self.size, -1]
        if tensor.numel() == 0:  # then torch cannot infer the other size
            sizes = [tensor.size(dim) // self.size if size == -1 else size for size in sizes]
        return tensor.unflatten(dim, sizes).movedim(dim + 1 if self._is_inner() else dim, 0)

    def fold_sequence(self, tensor):
        return self._fold(tensor, 0 if self._is_inner() else self.sequence_dim)

    def unfold_sequence(self, tensor):
        return self._unfold(tensor, 0 if self._is_inner() else self.sequence_dim)

    def fold_state(self, tensor):
        return self._fold(tensor, 1)

    def unfold_state(self, tensor):
        return self._unfold(tensor, 1)

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
        return tensor.unflatten(-1, (self.size, features)).movedim(-2, 0)

    fold_sequence = fold_state = _fold
    unfold_sequence = unfold_state = _unfold

    def fold_weight(self, tensor):
        return tensor.flatten(0, 1) if tensor.dim() == 4 else tensor


def _mapped(info, in_dims, tensors):
    """The tensors with the mapped dimension in front; a view repeats those that lack it."""
    return [
        None
        if tensor is None
        else tensor.expand(info.batch_size, *tensor.shape)
        if dim is None
        else tensor.movedim(dim, 0)
        for tensor, dim in zip(tensors, in_dims, strict=True)
    ]


def _choose(info, sequence, args, dims):
    """Rows or heads, for a (V, T, B, H) or flat (V, N, H) sequence."""
    if dims.batch_sizes is not None:
        raise NotImplementedError(
            "vmap over batch_sizes: pad the rows and map over lengths instead"
        )
    (lengths,) = _mapped(info, [dims.lengths], [args.lengths])
    if dims.weight_hh is None:
        return _Rows(info.batch_size, sequence.dim() - 1, args.batch_sizes, lengths)
    if dims.lengths is not None:
        raise NotImplementedError("vmap over weight_hh and lengths together")
    return _Heads(info.batch_size, args.batch_sizes, None if lengths is None else lengths[0])


def _projections(args, rows_dims):
    """The projections of every call, from mapped arguments whose input has ``rows_dims`` dimensions of rows."""
    if args.weight_ih is None:
        return args.input
    rows = args.input.flatten(1, rows_dims) if rows_dims > 0 else args.input.unsqueeze(1)
    if is_ids(args.input):
        columns = rows.unsqueeze(1).expand(-1, args.weight_ih.size(1), -1)
        projections = args.weight_ih.gather(2, columns).mT
    else:
        projections = torch.bmm(rows, args.weight_ih.mT)
    for bias in (args.bias_ih, args.bias_hh):
        if bias is not None:
            projections = projections + bias.unsqueeze(1)
    return projections.reshape(*args.input.shape[: 1 + rows_dims], -1)


@register_vmap("rnnfused::layer")
def _(info, in_dims, *arguments):
    """By the projections of every call, and one loop."""
    args, dims = LayerArgs(*arguments), LayerArgs(*in_dims)
    mapped = args._replace(
        **dict(zip(LayerArgs._fields[:6], _mapped(info, in_dims[:6], arguments[:6]), strict=True))
    )
    has_ids = args.weight_ih is not None and is_ids(args.input)
    rows_dims = mapped.input.dim() - 1 - (not has_ids)
    extents = Extents(args.batch_sizes, args.lengths if dims.lengths is None else args.lengths[0])
    layout = Layout.of(rows_dims, extents, args.time_dim, is_mapped=True)
    projections = layout.time_major(_projections(mapped, rows_dims))
    way = _choose(info, projections, args, dims)
    output, h_n = torch.ops.rnnfused.layer(
        way.fold_sequence(projections),
        None,
        way.fold_weight(mapped.weight_hh),
        None,
        None,
        way.fold_state(layout.time_major_state(mapped.h_0)),
        way.batch_sizes,
        way.lengths,
        0,
        args.nonlinearity,
        args.reverse,
        args.state_grad_clip,
    )
    output, h_n = way.unfold_sequence(output), way.unfold_state(h_n)
    return (layout.restore(output), layout.restore_state(h_n)), (0, 0)


@register_vmap("rnnfused::recurrence_backward")
def _(info, in_dims, *arguments):
    args, dims = RecurrenceBackwardArgs(*arguments), RecurrenceBackwardArgs(*in_dims)
    grad_output, grad_h_n, output, weight_hh = _mapped(info, in_dims[:4], arguments[:4])
    way = _choose(info, output, args, dims)
    d, grad_h_0 = torch.ops.rnnfused.recurrence_backward(
        way.fold_sequence(grad_output),
        way.fold_state(grad_h_n),
        way.fold_sequence(output),
        way.fold_weight(weight_hh),
        way.batch_sizes,
        way.lengths,
        args.nonlinearity,
        args.reverse,
        args.state_grad_clip,
        args.needs_h_0,
    )
    if args.needs_h_0:
        grad_h_0 = way.unfold_state(grad_h_0)
    else:
        grad_h_0 = grad_h_0.expand(info.batch_size, 0)
    return (way.unfold_sequence(d), grad_h_0), (0, 0)
