"""The fused recurrence as functions: on projections, and with an input projection; and the loss of an output layer."""

from typing import Any

from torch import Tensor

from .arguments import (
    check_choices,
    check_h_0,
    check_sequence,
    check_tensors,
    explain,
    hidden_size_of,
)
from .chunks import check_chunks, run_in_chunks
from .cross_entropy import linear_cross_entropy as linear_cross_entropy
from .layers import run_layer
from .ops.autocast import cast
from .ops.autograd import layer, layer_without_step
from .ops.compiled import copy_of_view
from .ops.modes import is_transformed
from .ops.sequence import without_step
from .special_inputs import is_checked_by_op

# input, weight_ih, weight_hh, bias, h_0
_Tensors = tuple[Tensor, Tensor | None, Tensor, Tensor | None, Tensor | None]


def rnn(
    projections: Tensor,
    weight_hh: Tensor,
    h_0: Tensor | None = None,
    *,
    nonlinearity: str = "tanh",
    batch_first: bool = False,
    reverse: bool = False,
    batch_sizes: Tensor | None = None,
    lengths: Tensor | None = None,
    state_grad_clip: float | None = None,
    chunks: int = 1,
    warm_up: int = 1000,
    tolerance: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Runs ``h_t = f(p_t + h_{t-1} W_hh^T)`` over all steps in one fused call, and BPTT in another.

    Elman, "Finding Structure in Time" (1990). Differentiable any number of times in ``projections``,
    ``weight_hh`` and ``h_0``. The backward call needs ``output``, ``weight_hh`` and ``h_0`` alone. In bfloat16 and float16
    every state, and every gradient that flows back through one, is rounded; sums are in float32. Under
    :func:`torch.autocast` the arguments are cast to the region's dtype. The call is fused on the CPU, and on CUDA
    where the GPU chose that (:func:`rnnfused.cuda.report`); every other device runs it step by step.

    Args:
        projections: (T, B, H), or (B, T, H) with ``batch_first``, or (N, H) with ``batch_sizes`` or ``lengths``;
            float32, float64, bfloat16 or float16. The projected inputs, usually
            ``x W_ih^T + b_ih + b_hh``. Both layouts run without a copy, unless the features are strided.
        weight_hh: (H, H), same dtype and device, any strides; or (heads, H / heads, H / heads), the blocks
            of a block-diagonal matrix: each then is a recurrence of its own features alone.
        h_0: (B, H), same dtype and device. The state before the first step. None stands for zeros: a row's
            first step is then ``f(p)`` alone, even if ``weight_hh`` holds NaN.
        nonlinearity: f, ``"tanh"`` or ``"relu"``.
        reverse: run from the last step to the first; h_0 then enters at a row's last step.
        batch_sizes: (T,), int64 on the CPU, positive and never increasing: ``projections`` is packed
            as in :class:`torch.nn.utils.rnn.PackedSequence`. Rows that ended cost nothing.
        lengths: (B,), integers from 0 to T, in any order: row b ends after ``lengths[b]`` steps, and later values
            of ``projections`` are not used. With ``projections`` (N, H) the rows of these lengths follow one
            another, as in a jagged nested tensor. Lengths on another device are copied to the CPU, which waits
            for that device.
        state_grad_clip: c, every gradient ``d_t`` that flows back through the loop is clipped to [-c, c],
            elementwise, where it enters the nonlinearity (Graves, "Generating Sequences With Recurrent
            Neural Networks", 2013). All gradients follow from the clipped ``d_t``. They are no function's
            gradients, so second and forward-mode derivatives are refused. None: no clipping.
        chunks: K, for one long row without gradients: the steps run as K rows at once, which share each read of
            ``weight_hh``. Each but the first starts ``warm_up`` steps early, from zeros. Where two chunks meet,
            their states are compared. If they differ, the later chunk runs again from the right state, until its
            states meet those that they replace; the call then takes longer than with one chunk.
        warm_up: steps, 0 or more, which all chunks run at once; with one chunk, unused.
        tolerance: the largest difference of two values that counts as none. With 0 the result has the bits of the
            call with one chunk. But rounding keeps the states of a few hundred units apart forever: nothing is
            gained without a tolerance somewhat above the rounding, such as 1e-5 in float32. It suits a recurrence
            that forgets. A difference within it is not looked at again: it grows where the recurrence amplifies
            it, and adds up from chunk to chunk where the recurrence remembers. With one chunk, unused.

    Returns:
        ``(output, h_n)``: every state, shaped and laid out as ``projections``, zero past a row's end; and
        (B, H), the state after each row's last step (after its first one if ``reverse``). A row without steps
        has its h_0.

    Raises:
        TypeError: an argument is not a tensor (or a bool), or of an unsupported or a different dtype.
        ValueError: a shape, a device, ``batch_sizes``, ``lengths``, ``state_grad_clip`` or ``nonlinearity``
            is wrong; or there are several chunks and several rows, ``reverse``, ``batch_sizes`` or ``lengths``.
        RuntimeError: (second or forward-mode derivatives) ``state_grad_clip`` is given; or there are several chunks
            and a gradient, a transform or a compiler needs the graph, or a tensor has no values.
    """
    if type(chunks) is not int or chunks != 1:
        check_choices(nonlinearity, batch_first, reverse, state_grad_clip)
        options = check_chunks(chunks, warm_up, tolerance, projections, weight_hh, h_0)
        others = {"reverse": reverse, "batch_sizes": batch_sizes, "lengths": lengths}
        if options[0] > 1:
            return _in_chunks(
                projections, weight_hh, h_0, nonlinearity, batch_first, others, options
            )
    return _checked_layer(
        projections,
        None,
        weight_hh,
        None,
        h_0,
        nonlinearity,
        batch_first,
        reverse,
        batch_sizes,
        lengths,
        state_grad_clip,
    )


def _in_chunks(
    projections: Tensor,
    weight_hh: Tensor,
    h_0: Tensor | None,
    nonlinearity: str,
    batch_first: bool,
    others: dict[str, Any],
    options: tuple[int, int, float],
) -> tuple[Tensor, Tensor]:
    """:func:`rnn` with ``options``: chunks, the warm-up and the tolerance. ``others`` must not be used."""
    for name, value in others.items():
        if value is not None and value is not False:
            raise ValueError(f"chunks must be 1 with {name}, got {options[0]}")
    if isinstance(projections, Tensor):
        cast_to = projections.device.type
        projections, _, weight_hh, _, h_0 = cast(  # type: ignore[assignment]
            cast_to, projections, None, weight_hh, None, h_0
        )
    _check(projections, None, weight_hh, None, h_0, batch_first, None, None)
    moved = projections.transpose(0, 1) if batch_first else projections
    if moved.size(1) != 1:
        raise ValueError(
            f"chunks must be 1 for more than one row, got {options[0]} for {moved.size(1)} rows"
        )

    def loop(projections: Tensor, h_0: Tensor | None) -> tuple[Tensor, Tensor]:
        return rnn(projections, weight_hh, h_0, nonlinearity=nonlinearity)

    output, h_n = run_in_chunks(loop, moved, h_0, *options)
    return output.transpose(0, 1) if batch_first else output, h_n


def rnn_layer(
    input: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    h_0: Tensor | None = None,
    *,
    nonlinearity: str = "tanh",
    batch_first: bool = False,
    reverse: bool = False,
    batch_sizes: Tensor | None = None,
    lengths: Tensor | None = None,
    state_grad_clip: float | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`rnn` on ``input W_ih^T + bias``; the CPU's time loop can compute this projection as it runs.

    Args:
        input: (T, B, I), or (B, T, I) with ``batch_first``, or (N, I) with ``batch_sizes`` or ``lengths``.
        weight_ih: (H, I), same dtype and device. Any strides.
        weight_hh: (H, H), or (heads, H / heads, H / heads), as in :func:`rnn`.
        bias: (H,), same dtype and device; ``b_ih + b_hh``. None stands for zeros.
        h_0: (B, H), the state before the first step, as in :func:`rnn`.
        nonlinearity: ``"tanh"`` or ``"relu"``.
        batch_first: whether ``input`` is (B, T, I).
        reverse: whether to run from the last step to the first.
        batch_sizes: (T,), of a packed ``input``, as in :func:`rnn`.
        lengths: (B,), as in :func:`rnn`.
        state_grad_clip: c, as in :func:`rnn`.

    Returns:
        ``(output, h_n)``, as :func:`rnn`.

    Raises:
        TypeError: as :func:`rnn`.
        ValueError: as :func:`rnn`.
        RuntimeError: as :func:`rnn`.
    """
    if not isinstance(weight_ih, Tensor):
        raise TypeError(f"weight_ih must be a Tensor, got {type(weight_ih).__name__}")
    return _checked_layer(
        input,
        weight_ih,
        weight_hh,
        bias,
        h_0,
        nonlinearity,
        batch_first,
        reverse,
        batch_sizes,
        lengths,
        state_grad_clip,
    )


def _checked_layer(
    input: Tensor,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    bias: Tensor | None,
    h_0: Tensor | None,
    nonlinearity: str,
    batch_first: bool,
    reverse: bool,
    batch_sizes: Tensor | None,
    lengths: Tensor | None,
    state_grad_clip: float | None,
) -> tuple[Tensor, Tensor]:
    """:func:`rnn_layer`, or without ``weight_ih`` :func:`rnn`."""
    state_grad_clip = check_choices(nonlinearity, batch_first, reverse, state_grad_clip)
    is_padded = batch_sizes is None and lengths is None
    op_checks = is_padded and is_checked_by_op(input, h_0, weight_hh) and input.dim() == 3
    tensors: _Tensors = (input, weight_ih, weight_hh, bias, h_0)
    if not op_checks:
        if isinstance(input, Tensor):
            tensors = cast(input.device.type, *tensors)  # type: ignore[assignment]
        lengths = _check(*tensors, batch_first, batch_sizes, lengths)
        input, weight_ih, weight_hh, bias, h_0 = tensors
    # Without a step, states need no views, for which autograd would take time in a small call.
    has_step = not op_checks or is_transformed() or input.is_complex()
    try:
        if has_step and h_0 is not None:
            h_0 = copy_of_view(h_0.unsqueeze(0))
        output, h_n = run_layer(
            input,
            weight_ih,
            weight_hh,
            bias,
            None,
            h_0,
            nonlinearity,
            int(batch_first),
            reverse,
            batch_sizes,
            lengths,
            state_grad_clip,
            layer if has_step else layer_without_step,
        )
    except (RuntimeError, AttributeError):
        if op_checks:
            explain(_check, *tensors, batch_first, None, None)
        raise
    return output, without_step(h_n) if has_step else h_n


def _check(
    input: Tensor,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    bias: Tensor | None,
    h_0: Tensor | None,
    batch_first: bool,
    batch_sizes: Tensor | None,
    lengths: Tensor | None,
) -> Tensor | None:
    """The lengths as the op takes them, after all checks."""
    name, features = ("projections", "H") if weight_ih is None else ("input", "I")
    others = {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias": bias, "h_0": h_0}
    optional = ("weight_ih", "bias", "h_0")
    given = {key: x for key, x in others.items() if x is not None or key not in optional}
    check_tensors(name, input, given)
    batch, lengths = check_sequence(name, features, input, batch_first, batch_sizes, lengths)
    hidden, num_features = hidden_size_of(weight_hh), input.size(-1)
    if weight_ih is None and hidden != num_features:
        raise ValueError(
            f"weight_hh must be ({num_features}, {num_features}) for projections of {num_features} hidden units, "
            f"or (heads, {num_features} / heads, {num_features} / heads), got {tuple(weight_hh.shape)}"
        )
    if hidden < 0:
        raise ValueError(
            f"weight_hh must be (H, H) or (heads, H / heads, H / heads), got {tuple(weight_hh.shape)}"
        )
    if weight_ih is not None and weight_ih.shape != (hidden, num_features):
        raise ValueError(
            f"weight_ih must be (hidden, features) = ({hidden}, {num_features}), "
            f"got {tuple(weight_ih.shape)}"
        )
    if bias is not None and bias.shape != (hidden,):
        raise ValueError(f"bias must be ({hidden},), got {tuple(bias.shape)}")
    check_h_0(h_0, batch, hidden)
    return lengths
