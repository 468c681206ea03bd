"""The layouts of sequences and states, and steps forward and back along the time axis.

A padded sequence is (T, B, H), where ``lengths`` (B,) may end rows early. A packed one is (N, H) with ``batch_sizes``
(T,), as in :class:`torch.nn.utils.rnn.PackedSequence`: the rows of step 0, then those of step 1, and so on. A jagged
one is (N, H) with ``lengths``: the steps of row 0, then those of row 1, and so on. A state is (1, B, H), one step.
All functions are made of differentiable torch operations.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .modes import is_recorded, is_transformed


class Extents(NamedTuple):
    """Which rows take part in which steps: int64 on the CPU, at most one of the two."""

    batch_sizes: Tensor | None = None
    lengths: Tensor | None = None

    def is_padded(self) -> bool:
        """Whether every row takes part in every step."""
        return self.batch_sizes is None and self.lengths is None


class Layout(NamedTuple):
    """The layout of a layer's sequences and states, whose formulas want (T, B, ..) and (1, B, H).

    ``time_dim`` is 0, 1, or -1 for a single step without that dimension; a sequence without a batch is one row. A
    state is shaped as one step of its sequence, time first. All may have a mapped dimension in front, which stays there.
    """

    time_dim: int
    has_batch: bool
    is_flat: bool
    first_dim: int = 0

    @classmethod
    def of(cls, rows_dims: int, extents: Extents, time_dim: int, *, is_mapped: bool = False):
        """The layout of a sequence with ``rows_dims`` dimensions beside its features and a mapped one."""
        is_flat = rows_dims == 1 and not extents.is_padded()
        has_batch = is_flat or rows_dims > (time_dim >= 0)
        return cls(time_dim, has_batch, is_flat, int(is_mapped))

    def time_major(self, sequence: Tensor | None) -> Tensor | None:
        """A view of the sequence as (T, B, ..); a flat sequence as it is."""
        if sequence is None or self.is_flat or (self.time_dim == 0 and self.has_batch):
            return sequence
        first = self.first_dim
        if self.time_dim == 1:
            return sequence.transpose(first, first + 1)
        if not self.has_batch:
            sequence = sequence.unsqueeze(first + 1 if self.time_dim == 0 else first)
        return sequence if self.time_dim == 0 else sequence.unsqueeze(first)

    def restore(self, sequence: Tensor | None) -> Tensor | None:
        """The inverse of :meth:`time_major`."""
        if sequence is None or self.is_flat or (self.time_dim == 0 and self.has_batch):
            return sequence
        first = self.first_dim
        if self.time_dim == 1:
            return sequence.transpose(first, first + 1)
        sequence = sequence if self.has_batch else sequence.squeeze(first + 1)
        return sequence if self.time_dim == 0 else sequence.squeeze(first)

    def time_major_state(self, state: Tensor | None) -> Tensor | None:
        """A view of the state as (1, B, H)."""
        return state if self._has_time_major_states() else self.time_major(state)

    def restore_state(self, state: Tensor | None) -> Tensor | None:
        """The inverse of :meth:`time_major_state`."""
        return state if self._has_time_major_states() else self.restore(state)

    def _has_time_major_states(self) -> bool:
        return self.is_flat or self.time_dim == 1

    def state_shape(self, batch_size: int, hidden_size: int) -> tuple[int, ...]:
        """The shape of a state, without the mapped dimension."""
        step = (1,) if self.time_dim >= 0 else ()
        return (*step, batch_size, hidden_size) if self.has_batch else (*step, hidden_size)

    def batch_size(self, sequence: Tensor, extents: Extents) -> int:
        """The number of rows. The sizes of a packed batch are read, so they must have values."""
        if extents.lengths is not None:
            return extents.lengths.size(0)
        if extents.batch_sizes is not None:
            return int(extents.batch_sizes[0])
        return sequence.size(1 if self.time_dim == 0 else 0) if self.has_batch else 1


def new_sequence(model: Tensor) -> Tensor:
    """An uninitialised sequence with the model's layout, or contiguous where that layout strides the features.

    Its strides equal those of new_sequence in csrc/torch/tensors.h.
    """
    result = torch.empty_like(model)
    if model.size(-1) > 1 and result.stride(-1) != 1:
        return model.new_empty(model.shape)
    return result


def without_step(state: Tensor) -> Tensor:
    """The new state (1, B, H) as (B, H), which is no view: a view cannot be detached in place."""
    return state.squeeze_(0) if can_reshape(state) else state.squeeze(0).clone()


def can_reshape(tensor: Tensor) -> bool:
    """Whether a new tensor's shape may change in place: some transforms, devices and subclasses refuse it."""
    return (
        type(tensor) is Tensor
        and (tensor.is_cpu or tensor.is_cuda)
        and not (is_recorded() or is_transformed())
    )


def is_batch_major(sequence: Tensor) -> bool:
    """Whether a (T, B, H) tensor flattens without a copy only as (B, T, H)."""
    return sequence.dim() == 3 and sequence.size(1) > 1 and sequence.stride(0) < sequence.stride(1)


def past_end(sequence: Tensor, lengths: Tensor, time_dim: int = 0) -> Tensor:
    """(T, B), or (B, T): the places of a padded sequence past its rows' ends."""
    steps = torch.arange(sequence.size(time_dim), device=sequence.device)
    return steps.unsqueeze(1 - time_dim) >= lengths.to(sequence.device).unsqueeze(time_dim)


def _packed_positions(batch_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The step and the place in the batch of every packed row; the first row of every step."""
    starts = batch_sizes.cumsum(0) - batch_sizes
    step = torch.repeat_interleave(batch_sizes)
    place = torch.arange(step.numel(), device=step.device) - starts[step]
    return step, place, starts


def previous(sequence: Tensor, first: Tensor | None, extents: Extents, reverse: bool) -> Tensor:
    """The sequence one step late: at step t the value of step t - 1 (t + 1 if ``reverse``).

    ``first`` (1, B, H), or zeros, stands where a row lacks a step before. Values past a row's end are arbitrary.
    """
    if sequence.dim() == 3:
        head = sequence.new_zeros(1) if first is None else first
        head = head.expand(1, *sequence.shape[1:])
        if is_batch_major(sequence):
            # Keep (B, T, H) memory as it is, so that the caller can still flatten it without a copy.
            parts = [x.transpose(0, 1) for x in _shifted(sequence, head, reverse)]
            shifted = torch.cat(parts, 1).transpose(0, 1)
        else:
            shifted = torch.cat(_shifted(sequence, head, reverse))
        if extents.lengths is None or first is None or not reverse:
            return shifted
        steps = torch.arange(sequence.size(0), device=sequence.device).unsqueeze(1)
        is_last = steps == extents.lengths.to(sequence.device) - 1
        return torch.where(is_last.unsqueeze(-1), head, shifted)
    if first is None:
        batch_size = Layout.of(1, extents, 0).batch_size(sequence, extents)
        first = sequence.new_zeros(1, batch_size, sequence.size(1))
    rows = _rows_before(extents, reverse)
    return torch.cat([first[0], sequence]).index_select(0, rows.to(sequence.device))


def _shifted(sequence: Tensor, head: Tensor, reverse: bool) -> list[Tensor]:
    return [sequence[1:], head] if reverse else [head, sequence[:-1]]


def _rows_before(extents: Extents, reverse: bool) -> Tensor:
    """The row one step earlier, for every row of an (N, H) sequence behind B first rows."""
    batch_sizes, lengths = extents
    if batch_sizes is None:
        rows = torch.arange(int(lengths.sum()), device=lengths.device) + lengths.numel()
        rows = rows + 1 if reverse else rows - 1
        exist = lengths > 0
        ends = lengths.cumsum(0)
        rows[(ends - 1 if reverse else ends - lengths)[exist]] = exist.nonzero().squeeze(1)
        return rows
    step, place, starts = _packed_positions(batch_sizes)
    if reverse:
        neighbour = (step + 1).clamp(max=batch_sizes.numel() - 1)
        exists = (step + 1 < batch_sizes.numel()) & (place < batch_sizes[neighbour])
    else:
        neighbour = (step - 1).clamp(min=0)
        exists = step > 0
    return torch.where(exists, batch_sizes[0] + starts[neighbour] + place, place)


def _last_rows(sequence: Tensor, extents: Extents, reverse: bool) -> Tensor:
    """The position of each batch row's last step in this direction, in the (N, H) or flattened (T, B, H) sequence."""
    batch_sizes, lengths = extents
    if batch_sizes is not None:
        places = torch.arange(int(batch_sizes[0]), device=batch_sizes.device)
        if reverse:
            return places
        _, _, starts = _packed_positions(batch_sizes)
        lengths = (batch_sizes.unsqueeze(0) > places.unsqueeze(1)).sum(1)
        return starts[lengths - 1] + places
    if sequence.dim() == 2:
        ends = lengths.cumsum(0)
        return ends - lengths if reverse else ends - 1
    batch = torch.arange(sequence.size(1), device="cpu" if lengths is None else lengths.device)
    if reverse:
        return batch
    last = sequence.size(0) - 1 if lengths is None else lengths - 1
    return last * sequence.size(1) + batch


def take_last(sequence: Tensor, first: Tensor | None, extents: Extents, reverse: bool) -> Tensor:
    """(1, B, H): each row's value at its last step in this direction; ``first``, or zeros, without a step."""
    if extents.is_padded():
        return sequence[:1] if reverse else sequence[-1:]
    rows = _last_rows(sequence, extents, reverse).to(sequence.device)
    if extents.lengths is None:
        return sequence.index_select(0, rows).unsqueeze(0)
    is_empty = (extents.lengths == 0).to(sequence.device)
    flat = sequence.reshape(-1, sequence.size(-1))
    if first is None:
        first = sequence.new_zeros(1)
    if flat.size(0) == 0:
        return first.expand(1, rows.numel(), flat.size(1))
    last = flat.index_select(0, rows.clamp(0, flat.size(0) - 1)).unsqueeze(0)
    return torch.where(is_empty.unsqueeze(-1), first, last)


def add_to_last(sequence: Tensor, addend: Tensor, extents: Extents, reverse: bool) -> Tensor:
    """A copy of the sequence with ``addend`` (1, B, H) added at each row's last step, if it has one."""
    rows, addend = _last_rows(sequence, extents, reverse).to(sequence.device), addend[0]
    if extents.lengths is not None:
        exist = (extents.lengths > 0).nonzero().squeeze(1).to(sequence.device)
        rows, addend = rows[exist], addend.index_select(0, exist)
    flat = sequence.reshape(-1, sequence.size(-1))
    return flat.index_add(0, rows, addend).view(sequence.shape)
