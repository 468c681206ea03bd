"""Runs a layer, in one direction or in both, after all checks: chooses the op, and casts and converts for it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .export import onnx
from .ops import compiled, complex, matmul
from .ops.autocast import cast
from .ops.autograd import layer, sum_given
from .ops.both_directions import both_directions
from .ops.compiled import copy_of_view
from .ops.modes import is_any_autocast_active, is_recorded, is_transformed
from .ops.nonlinearity import check_nonlinearity
from .ops.sequence import past_end
from .ops.tokens import check_ids
from .special_inputs import PLAIN_WEIGHTS

# The weights of one direction: W_ih, W_hh, b_ih, b_hh.
DirectionWeights = Sequence[Any]


def run_layer(
    input: Tensor,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    h_0: Tensor | None,
    nonlinearity: str,
    time_dim: int,
    reverse: bool,
    batch_sizes: Tensor | None = None,
    lengths: Tensor | None = None,
    state_grad_clip: float | None = None,
    run: Callable[..., tuple[Tensor, Tensor]] = layer,
) -> tuple[Tensor, Tensor]:
    """Runs the op ``layer`` of :mod:`rnnfused.ops` without checks: casts for autocast, routes exports and complex weights.

    Differs from the op in two arguments: the nonlinearity is a name, and token ids may be of any integer dtype. No
    result is a view, so autograd detects a change in place. ``run`` is the op of a real call that nothing records.
    """
    number = check_nonlinearity(nonlinearity)
    ids = input
    has_ids = not (input.is_floating_point() or input.is_complex())
    if has_ids:
        input = _ids_of_op(input, lengths, time_dim)
    if is_any_autocast_active():
        input, weight_ih, weight_hh, bias_ih, bias_hh, h_0 = cast(  # type: ignore[assignment]
            input.device.type, input, weight_ih, weight_hh, bias_ih, bias_hh, h_0
        )
    if matmul.HAS_ACCELERATE and weight_ih is not None and not (has_ids or is_recorded()):
        if matmul.suits_accelerate(input, input.numel() * weight_ih.size(0)):
            input = matmul.project(input, weight_ih, sum_given(bias_ih, bias_hh))
            weight_ih = bias_ih = bias_hh = None
    arguments = (
        input,
        weight_ih,
        weight_hh,
        bias_ih,
        bias_hh,
        h_0,
        None if batch_sizes is None else batch_sizes.contiguous(),
        lengths,
        time_dim,
        number,
        reverse,
        state_grad_clip,
    )
    if weight_hh.is_complex():
        return complex.layer(*arguments)
    if is_recorded():
        return onnx.layer(*arguments) if onnx.is_exporting() else compiled.layer(*arguments)
    return _with_ids_explained(ids.dtype, layer, *arguments) if has_ids else run(*arguments)


def run_both_directions(
    input: Tensor,
    first: DirectionWeights,
    second: DirectionWeights,
    h_0: Tensor | None,
    nonlinearity: str,
    time_dim: int,
    batch_sizes: Tensor | None,
    lengths: Tensor | None,
    state_grad_clip: float | None,
) -> tuple[Tensor, Tensor]:
    """:func:`run_layer` in both directions; the second runs from the last step to the first.

    Returns:
        ``(output, h_n)``: the features of both directions side by side, (.., 2 H); and their states, (2, ..), as h_0.
    """
    if not _runs_as_one_op(input, first, second, h_0):
        outputs, states = [], []
        for direction, weights in enumerate((first, second)):
            state = None if h_0 is None else copy_of_view(h_0[direction : direction + 1])
            options = (nonlinearity, time_dim, direction == 1)
            extents = (batch_sizes, lengths)
            output, h_n = run_layer(input, *weights, state, *options, *extents, state_grad_clip)  # type: ignore[call-arg]
            outputs.append(output)
            states.append(h_n)
        return torch.cat(outputs, -1), torch.cat(states)
    ids = input
    has_ids = not input.is_floating_point()
    if has_ids:
        input = _ids_of_op(input, lengths, time_dim)
    arguments = (
        input,
        *first,
        *second,
        h_0,
        None if batch_sizes is None else batch_sizes.contiguous(),
        lengths,
        time_dim,
        check_nonlinearity(nonlinearity),
        state_grad_clip,
    )
    if has_ids:
        return _with_ids_explained(ids.dtype, both_directions, *arguments)
    return both_directions(*arguments)


def _runs_as_one_op(
    input: Tensor, first: DirectionWeights, second: DirectionWeights, h_0: Tensor | None
) -> bool:
    """Whether the op ``both_directions`` takes the call: ordinary tensors on the CPU that nothing records or transforms."""
    if is_recorded() or is_transformed() or is_any_autocast_active():
        return False
    if matmul.HAS_ACCELERATE:
        features = max(input.size(-1), 1) if input.is_floating_point() else 1
        hidden_size = first[0].size(0)
        work = input.numel() // features * hidden_size * max(features, hidden_size)
        if matmul.suits_accelerate(first[0], work):
            return False
    return (
        input.is_cpu
        and type(input) is Tensor
        and (h_0 is None or type(h_0) is Tensor)
        and PLAIN_WEIGHTS.issuperset(map(type, first))
        and PLAIN_WEIGHTS.issuperset(map(type, second))
        and not first[1].is_complex()
    )


def _ids_of_op(ids: Tensor, lengths: Tensor | None, time_dim: int) -> Tensor:
    """Token ids as the op takes them."""
    ids = ids.long()
    if lengths is not None and ids.dim() == 2:  # past a row's end, ids may be anything
        ids = ids.masked_fill(past_end(ids, lengths, time_dim), 0)
    return ids


def _with_ids_explained(
    dtype: torch.dtype,
    run: Callable[..., tuple[Tensor, Tensor]],
    ids: Any,
    weight_ih: Any,
    *others: Any,
) -> tuple[Tensor, Tensor]:
    """The op ``run`` of token ids, given as ``dtype``. The op validates them; Python reads them again to explain a refusal."""
    try:
        return run(ids, weight_ih, *others)
    except (RuntimeError, IndexError):
        try:
            given = ids.view(torch.uint64) if dtype is torch.uint64 else ids
            check_ids(given, weight_ih.size(-1), weight_ih.device, "token ids in the input")
        except (ValueError, IndexError) as explanation:
            raise explanation from None
        raise
