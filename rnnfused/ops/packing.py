"""Packs rows with lengths, and unpacks them again, for loops over packed rows."""

import torch
from torch import Tensor

from .sequence import is_batch_major, new_sequence


class PackedRows:
    """The order of a batch's rows when packed: the longest first; rows without a step are left out."""

    def __init__(self, sequence: Tensor, lengths: Tensor):
        """Takes a (T, B, H) sequence whose rows have these lengths, or a jagged one, (N, H)."""
        self.sequence, self.batch_size = sequence, lengths.numel()
        order = lengths.argsort(descending=True, stable=True)
        order = order[lengths[order] > 0]
        most = int(lengths.max()) if lengths.numel() else 0
        steps = torch.arange(most, device=lengths.device)
        active = steps.unsqueeze(1) < lengths[order]  # (T, B)
        self.batch_sizes = active.sum(1)
        if sequence.dim() == 3:
            places = steps.unsqueeze(1) * sequence.size(1) + order
        else:
            places = steps.unsqueeze(1) + (lengths.cumsum(0) - lengths)[order]
        self.places = places[active].to(sequence.device)
        self.order = order.to(sequence.device)

    def pack(self, sequence: Tensor | None) -> Tensor | None:
        return None if sequence is None else sequence.flatten(0, -2).index_select(0, self.places)

    def unpack(self, packed: Tensor) -> Tensor:
        """The sequence, with zeros past the rows' ends, in the memory order of the one that was packed."""
        result = packed.new_zeros(self.sequence.shape)
        result.view(-1, packed.size(-1)).index_copy_(0, self.places, packed)
        if is_batch_major(self.sequence):
            return new_sequence(self.sequence).copy_(result)
        return result

    def sort(self, state: Tensor | None) -> Tensor | None:
        return None if state is None else state.index_select(1, self.order)

    def unsort(self, state: Tensor, of_others: Tensor | None) -> Tensor:
        """The state (1, B, H); for rows without a step, that of ``of_others``, or zeros."""
        if of_others is None:
            of_others = state.new_zeros(1, self.batch_size, state.size(-1))
        return of_others.index_copy(1, self.order, state)


def forward(loop, projections, weight_hh, h_0, lengths, *options):
    """Runs a loop over packed rows on rows with lengths, (T, B, H) or jagged: ``(output, h_n)``."""
    rows = PackedRows(projections, lengths)
    if rows.order.numel() == 0:
        return torch.zeros_like(projections), rows.unsort(
            projections.new_empty(1, 0, projections.size(-1)), h_0
        )
    output, h_n = loop(
        rows.pack(projections), weight_hh, rows.sort(h_0), rows.batch_sizes, *options
    )
    return rows.unpack(output), rows.unsort(h_n, h_0)


def backward(loop, grad_output, grad_h_n, output, weight_hh, lengths, *options):
    """Runs a backward loop over packed rows on rows with lengths; the last option is ``needs_h_0``."""
    rows = PackedRows(output, lengths)
    if rows.order.numel() == 0:
        d, grad_h_0 = torch.zeros_like(output), output.new_empty(1, 0, output.size(-1))
    else:
        d, grad_h_0 = loop(
            rows.pack(grad_output),
            rows.sort(grad_h_n),
            rows.pack(output),
            weight_hh,
            rows.batch_sizes,
            *options,
        )
        d = rows.unpack(d)
    return d, rows.unsort(grad_h_0, grad_h_n) if options[-1] else grad_h_0
