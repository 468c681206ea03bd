"""Moving along the time axis of a sequence, padded or packed, in either direction.

A padded sequence is (T, B, H). A packed one is (N, H) with ``batch_sizes`` (T,), as in
:class:`torch.nn.utils.rnn.PackedSequence`: the rows of step 0, then those of step 1, and so on.
All of it is made of differentiable torch operations.
"""

import torch
from torch import Tensor


def new_sequence(model: Tensor) -> Tensor:
    """An empty sequence like the model; as new_sequence in csrc/tensors.h, to the strides.

    It has the model's layout where that keeps the features together, else it is contiguous.
    """
    result = torch.empty_like(model)
    if model.size(-1) > 1 and result.stride(-1) != 1:
        return model.new_empty(model.shape)
    return result


def with_contiguous_features(tensor: Tensor | None) -> Tensor | None:
    """The tensor, copied if its last dimension is strided: the one layout that the op does not take."""
    if tensor is None or tensor.is_contiguous() or tensor.stride(-1) == 1 or tensor.size(-1) == 1:
        return tensor
    return tensor.contiguous()


def with_even_rows(sequence: Tensor) -> Tensor:
    """The sequence, copied unless its rows follow each other at one distance, by time or by batch."""
    if sequence.is_contiguous():
        return sequence
    sequence = with_contiguous_features(sequence)
    if sequence.dim() == 2 or sequence.is_contiguous() or sequence.transpose(0, 1).is_contiguous():
        return sequence
    time, batch, _ = sequence.shape
    along_time, along_batch, _ = sequence.stride()
    if along_time == batch * along_batch or along_batch == time * along_time:
        return sequence
    return sequence.contiguous()


def is_batch_major(sequence: Tensor) -> bool:
    """Whether a (T, B, H) tensor lies in memory as (B, T, H) does, so that only that can be flattened."""
    return sequence.dim() == 3 and sequence.size(1) > 1 and sequence.stride(0) < sequence.stride(1)


def _packed_positions(batch_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For every packed row its step and its place in the batch; for every step its first row."""
    starts = batch_sizes.cumsum(0) - batch_sizes
    step = torch.repeat_interleave(batch_sizes)
    place = torch.arange(step.numel()) - starts[step]
    return step, place, starts


def previous(
    sequence: Tensor, first: Tensor | None, batch_sizes: Tensor | None, reverse: bool
) -> Tensor:
    """The sequence one step late: at step t the value of step t - 1 (t + 1 if ``reverse``).

    ``first`` (B, H), or zeros, stands where a row has no step before.
    """
    if batch_sizes is None:
        if first is None:
            first = sequence.new_zeros(sequence.shape[1:])
        head = first.expand(sequence.shape[1:]).unsqueeze(0)
        if is_batch_major(sequence):
            # Keep (B, T, H) memory as it is, so that the caller can still flatten it without a copy.
            shifted = [x.transpose(0, 1) for x in _shifted(sequence, head, reverse)]
            return torch.cat(shifted, 1).transpose(0, 1)
        return torch.cat(_shifted(sequence, head, reverse))
    step, place, starts = _packed_positions(batch_sizes)
    if first is None:
        first = sequence.new_zeros(int(batch_sizes[0]), sequence.size(1))
    if reverse:
        neighbour = (step + 1).clamp(max=batch_sizes.numel() - 1)
        exists = (step + 1 < batch_sizes.numel()) & (place < batch_sizes[neighbour])
    else:
        neighbour = (step - 1).clamp(min=0)
        exists = step > 0
    rows = torch.where(exists, first.size(0) + starts[neighbour] + place, place)
    return torch.cat([first, sequence]).index_select(0, rows.to(sequence.device))


def _shifted(sequence: Tensor, head: Tensor, reverse: bool) -> list[Tensor]:
    return [sequence[1:], head] if reverse else [head, sequence[:-1]]


def _last_rows(sequence: Tensor, batch_sizes: Tensor | None, reverse: bool) -> Tensor:
    if batch_sizes is None:
        return torch.tensor([0 if reverse else sequence.size(0) - 1], device=sequence.device)
    places = torch.arange(int(batch_sizes[0]))
    if reverse:
        return places.to(sequence.device)
    _, _, starts = _packed_positions(batch_sizes)
    lengths = (batch_sizes.unsqueeze(0) > places.unsqueeze(1)).sum(1)
    return (starts[lengths - 1] + places).to(sequence.device)


def take_last(sequence: Tensor, batch_sizes: Tensor | None, reverse: bool) -> Tensor:
    """(B, H): each row's value at its last step in this direction."""
    rows = sequence.index_select(0, _last_rows(sequence, batch_sizes, reverse))
    return rows.squeeze(0) if batch_sizes is None else rows


def add_to_last(
    sequence: Tensor, addend: Tensor, batch_sizes: Tensor | None, reverse: bool
) -> Tensor:
    """A copy of the sequence with ``addend`` (B, H) added at each row's last step."""
    rows = _last_rows(sequence, batch_sizes, reverse)
    return sequence.index_add(0, rows, addend.unsqueeze(0) if batch_sizes is None else addend)
