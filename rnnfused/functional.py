"""The fused recurrence as a function, for those who bring their own projections."""

import torch
from torch import Tensor

from .autocast import cast
from .autograd import layer, recurrence
from .custom_function import is_recorded
from .products import project
from .steps import past_end, with_contiguous_features, with_even_rows
from .token_lookup import check_ids, project_tokens

_DEVICES = ("cpu", "cuda", "meta")
# The 16-bit types round every state and compute in float32.
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


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
) -> tuple[Tensor, Tensor]:
    """Runs ``h_t = f(p_t + h_{t-1} W_hh^T)`` over all steps in one fused call, and BPTT in another.

    (On CUDA only where :func:`rnnfused.cuda.uses_fused_kernels` says so; else step by step.)
    Elman, "Finding Structure in Time" (1990). Differentiable any number of times in ``projections``,
    ``weight_hh`` and ``h_0``. Nothing is saved for the backward call but inputs and ``output``.
    In bfloat16 and float16 every state, and every gradient that flows back through one, is rounded;
    sums are in float32. Under :func:`torch.autocast` the arguments are cast to the region's dtype.

    Args:
        projections: (T, B, H), or (B, T, H) with ``batch_first``, or (N, H) with ``batch_sizes`` or ``lengths``;
            float32, float64, bfloat16 or float16. The projected inputs, usually
            ``x W_ih^T + b_ih + b_hh``. Both layouts run without a copy; only the last dimension must be
            contiguous, or it is copied.
        weight_hh: (H, H), same dtype and device, any strides; or (heads, H / heads, H / heads), the blocks
            of a block-diagonal matrix: each then is a recurrence of its own features alone.
        h_0: (B, H), same dtype and device. The state before the first step. None stands for zeros;
            a row's first step is then ``f(p)`` alone, whatever ``weight_hh`` holds, NaN included.
        nonlinearity: f, ``"tanh"`` or ``"relu"``.
        reverse: run from the last step to the first; h_0 then enters at a row's last step.
        batch_sizes: (T,), int64 on the CPU, positive and never increasing: ``projections`` is packed
            as in :class:`torch.nn.utils.rnn.PackedSequence`, and rows that ended cost nothing.
        lengths: (B,), int64, from 0 to T, in any order: row b ends after ``lengths[b]`` steps, and what
            ``projections`` holds there is not used. With ``projections`` (N, H) the rows have these lengths and
            lie one after another, as in a jagged nested tensor. On another device than the CPU it is copied
            there, which waits for that device.
        state_grad_clip: c, every gradient ``d_t`` that flows back through the loop is clipped to [-c, c],
            elementwise, where it enters the nonlinearity (Graves, "Generating Sequences With Recurrent
            Neural Networks", 2013). All gradients are then those of the clipped ``d_t``, which are no
            function's: second and forward-mode derivatives are refused. None: no clipping.

    Returns:
        ``(output, h_n)``: every state, shaped and laid out as ``projections``, zero past a row's end, and
        (B, H) the state after each row's last step (after its first one if ``reverse``), which of a row
        without steps is its h_0.

    Raises:
        TypeError: an argument is not a tensor (or a bool), or of an unsupported or a different dtype.
        ValueError: a shape, a device, ``batch_sizes``, ``lengths``, ``state_grad_clip`` or ``nonlinearity``
            is wrong.
        RuntimeError: (second or forward-mode derivatives) ``state_grad_clip`` is given.
        NotImplementedError: the tensors are on a device that the op does not run on.
    """
    if isinstance(projections, Tensor):
        projections, weight_hh, h_0 = cast(projections.device.type, projections, weight_hh, h_0)
    others = {"weight_hh": weight_hh} if h_0 is None else {"weight_hh": weight_hh, "h_0": h_0}
    _check_tensors("projections", projections, others)
    _check_choices(nonlinearity, batch_first, reverse, state_grad_clip)
    batch, lengths = _check_sequence(
        "projections", "H", projections, batch_first, batch_sizes, lengths
    )
    hidden = projections.size(-1)
    if hidden == 0:
        raise ValueError(
            f"projections must have at least one hidden unit, got shape {tuple(projections.shape)}"
        )
    if _hidden_size(weight_hh) != hidden:
        raise ValueError(
            f"weight_hh must be ({hidden}, {hidden}) for projections of {hidden} hidden units, "
            f"or (heads, {hidden} / heads, {hidden} / heads), got {tuple(weight_hh.shape)}"
        )
    _check_h_0(h_0, batch, hidden)
    if batch_first:
        projections = projections.transpose(0, 1)
    if batch_sizes is not None:
        batch_sizes = batch_sizes.contiguous()
    arguments = (
        with_contiguous_features(projections), weight_hh, with_contiguous_features(h_0),
        batch_sizes, lengths, nonlinearity, reverse, state_grad_clip,
    )  # fmt: skip
    output, h_n = recurrence(*arguments)
    return (output.transpose(0, 1) if batch_first else output), h_n


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
    """:func:`rnn` on ``input W_ih^T + bias``, which on the CPU the time loop can make as it goes.

    Args:
        input: (T, B, I), or (B, T, I) with ``batch_first``, or (N, I) with ``batch_sizes`` or ``lengths``.
        weight_ih: (H, I), same dtype and device. Any strides.
        weight_hh: (H, H), or (heads, H / heads, H / heads), as in :func:`rnn`.
        bias: (H,), same dtype and device; ``b_ih + b_hh``. None stands for zeros.
        h_0, nonlinearity, batch_first, reverse, batch_sizes, lengths, state_grad_clip: as in :func:`rnn`.

    Returns:
        ``(output, h_n)``, as :func:`rnn`.

    Raises:
        As :func:`rnn`, of ``input`` instead of ``projections``.
    """
    if isinstance(input, Tensor):
        input, weight_ih, weight_hh, bias, h_0 = cast(
            input.device.type, input, weight_ih, weight_hh, bias, h_0
        )
    weights = {"weight_ih": weight_ih, "weight_hh": weight_hh}
    given = {name: x for name, x in (("bias", bias), ("h_0", h_0)) if x is not None}
    _check_tensors("input", input, {**weights, **given})
    _check_choices(nonlinearity, batch_first, reverse, state_grad_clip)
    batch, lengths = _check_sequence("input", "I", input, batch_first, batch_sizes, lengths)
    hidden = _hidden_size(weight_hh)
    if hidden == 0:
        raise ValueError(
            f"weight_hh must be (H, H) or (heads, H / heads, H / heads), got {tuple(weight_hh.shape)}"
        )
    if weight_ih.shape != (hidden, input.size(-1)):
        raise ValueError(
            f"weight_ih must be (hidden, features) = ({hidden}, {input.size(-1)}), "
            f"got {tuple(weight_ih.shape)}"
        )
    if bias is not None and bias.shape != (hidden,):
        raise ValueError(f"bias must be ({hidden},), got {tuple(bias.shape)}")
    _check_h_0(h_0, batch, hidden)

    output, h_n = run_layer(
        input, weight_ih, weight_hh, bias, None, None if h_0 is None else h_0.unsqueeze(0),
        nonlinearity, batch_first, reverse, batch_sizes, lengths, state_grad_clip,
    )  # fmt: skip
    return output, h_n.squeeze(0)


def run_layer(
    input,
    weight_ih,
    weight_hh,
    bias_ih,
    bias_hh,
    h_0,
    nonlinearity,
    batch_first,
    reverse,
    batch_sizes=None,
    lengths=None,
    state_grad_clip=None,
) -> tuple[Tensor, Tensor]:
    """:func:`rnn_layer` without its checks, for the layers, which make their own.

    It takes token ids too, two biases that are added, and states (1, B, H), as those of several layers are.
    """
    is_cpu = input.is_cpu
    input, weight_ih, weight_hh, bias_ih, bias_hh, h_0 = cast(
        "cpu" if is_cpu else input.device.type, input, weight_ih, weight_hh, bias_ih, bias_hh, h_0
    )
    if batch_first:
        input = input.transpose(0, 1)
    if batch_sizes is not None:
        batch_sizes = batch_sizes.contiguous()
    is_ids = not input.is_floating_point()
    if is_ids and lengths is not None and input.dim() == 2:
        input = input.masked_fill(past_end(input, lengths), 0)  # there, ids may be anything
    options = (batch_sizes, lengths, nonlinearity, reverse, state_grad_clip)
    if is_cpu:
        input = (
            check_ids(input, weight_ih.size(1), weight_ih.device)
            if is_ids
            else with_even_rows(input)
        )
        output, h_n = layer(
            input, weight_ih, with_contiguous_features(bias_ih),
            with_contiguous_features(bias_hh), weight_hh, with_contiguous_features(h_0), *options,
        )  # fmt: skip
    else:
        bias = bias_ih if bias_hh is None else bias_ih + bias_hh
        projections = (project_tokens if is_ids else project)(input, weight_ih, bias)
        h_0 = None if h_0 is None else h_0.squeeze(0)
        output, h_n = recurrence(
            with_contiguous_features(projections),
            weight_hh,
            with_contiguous_features(h_0),
            *options,
        )
        h_n = h_n.unsqueeze(0)
    return (output.transpose(0, 1) if batch_first else output), h_n


def check_dtype(name: str, sequence: Tensor) -> None:
    """Raises TypeError or NotImplementedError for what no kernel takes."""
    if not sequence.is_cpu and sequence.device.type not in _DEVICES:
        raise NotImplementedError(
            f"{name} must be on one of the devices {', '.join(_DEVICES)}, got {sequence.device}"
        )
    if sequence.dtype not in _DTYPES:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPES)
        raise TypeError(f"{name} must be {names}, got {sequence.dtype}")


def _check_tensors(name: str, sequence: Tensor, others: dict[str, Tensor]) -> None:
    for each, value in {name: sequence, **others}.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{each} must be a Tensor, got {type(value).__name__}")
    check_dtype(name, sequence)
    for each, value in others.items():
        if value.dtype != sequence.dtype:
            raise TypeError(f"{each} must be {sequence.dtype} like {name}, got {value.dtype}")
        if value.device != sequence.device:
            raise ValueError(f"{each} must be on {sequence.device} like {name}, got {value.device}")


def _check_choices(
    nonlinearity: str, batch_first: bool, reverse: bool, state_grad_clip: float | None
) -> None:
    for name, value in {"batch_first": batch_first, "reverse": reverse}.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be a bool, got {value!r}")
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
    check_state_grad_clip(state_grad_clip)


def check_state_grad_clip(value: float | None) -> None:
    """Raises TypeError or ValueError for what is neither None nor a positive number."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise TypeError(f"state_grad_clip must be a number or None, got {value!r}")
    if value is not None and not value > 0:
        raise ValueError(f"state_grad_clip must be positive, got {value!r}")


def _hidden_size(weight_hh: Tensor) -> int:
    """The features that the matrix, or its blocks, are for; 0 if they are not square."""
    if weight_hh.dim() not in (2, 3) or weight_hh.size(-1) != weight_hh.size(-2):
        return 0
    return weight_hh.size(-1) * (weight_hh.size(0) if weight_hh.dim() == 3 else 1)


def _check_sequence(
    name: str,
    features: str,
    sequence: Tensor,
    batch_first: bool,
    batch_sizes: Tensor | None,
    lengths: Tensor | None,
) -> tuple[int, Tensor | None]:
    """The batch size and the lengths, if the sequence has the dimensions that it should have."""
    if batch_sizes is not None and lengths is not None:
        raise ValueError("batch_sizes and lengths exclude each other: packed rows have their sizes")
    if batch_sizes is not None:
        return _check_packed(name, features, sequence, batch_first, batch_sizes), None
    if lengths is not None and isinstance(sequence, Tensor) and sequence.dim() == 2:
        if batch_first:
            raise ValueError(
                f"batch_first has no meaning for {name} of shape (N, {features}) with lengths"
            )
        lengths = check_lengths(lengths, None, sequence.size(0), name)
        return lengths.size(0), lengths
    layout = f"(B, T, {features})" if batch_first else f"(T, B, {features})"
    if sequence.dim() != 3:
        raise ValueError(
            f"{name} must have 3 dimensions, {layout}, got shape {tuple(sequence.shape)}"
        )
    time, batch = sequence.shape[:2][::-1] if batch_first else sequence.shape[:2]
    if time == 0:
        raise ValueError(
            f"{name} must have at least one time step, "
            f"got shape {tuple(sequence.shape)} for {layout}"
        )
    if lengths is not None:
        lengths = check_lengths(lengths, batch, time, name)
    return batch, lengths


def check_lengths(lengths: Tensor, batch: int | None, most: int, name: str) -> Tensor:
    """The lengths as the ops take them: contiguous, on the CPU.

    Args:
        lengths: int64; (batch,), none above ``most``; or where batch is None (B,), ``most`` in all.
        name: what the sequence is called in messages.

    Raises:
        TypeError, ValueError: they are not that.
    """
    if not isinstance(lengths, Tensor):
        raise TypeError(f"lengths must be a Tensor, got {type(lengths).__name__}")
    if lengths.dtype != torch.int64:
        raise TypeError(f"lengths must be int64, got {lengths.dtype}")
    if lengths.dim() != 1 or batch not in (None, lengths.size(0)):
        expected = "(B,)" if batch is None else f"({batch},), the batch of {name}"
        raise ValueError(f"lengths must be {expected}, got shape {tuple(lengths.shape)}")
    if lengths.is_meta or is_recorded() or torch._C._functorch.is_batchedtensor(lengths):
        return lengths  # without values; the op looks at them
    lengths = lengths.cpu().contiguous()
    if batch is None:
        if lengths.numel() and int(lengths.min()) < 0 or int(lengths.sum()) != most:
            raise ValueError(
                f"lengths must be at least 0 and add up to the {most} rows of {name}, "
                f"got {lengths.tolist()}"
            )
    elif lengths.numel() and not 0 <= int(lengths.min()) <= int(lengths.max()) <= most:
        raise ValueError(
            f"lengths must be from 0 to {most}, the time steps of {name}, got {lengths.tolist()}"
        )
    return lengths


def _check_h_0(h_0: Tensor | None, batch: int, hidden: int) -> None:
    if h_0 is not None and h_0.shape != (batch, hidden):
        raise ValueError(
            f"h_0 must be (batch, hidden) = ({batch}, {hidden}), got {tuple(h_0.shape)}"
        )


def _check_packed(
    name: str, features: str, sequence: Tensor, batch_first: bool, batch_sizes: Tensor
) -> int:
    if not isinstance(batch_sizes, Tensor):
        raise TypeError(f"batch_sizes must be a Tensor, got {type(batch_sizes).__name__}")
    if batch_sizes.dtype != torch.int64:
        raise TypeError(f"batch_sizes must be int64, got {batch_sizes.dtype}")
    if batch_sizes.device.type != "cpu":
        raise ValueError(f"batch_sizes must be on the CPU, got {batch_sizes.device}")
    if batch_first:
        raise ValueError(
            "batch_first has no meaning with batch_sizes: packed data has no time axis"
        )
    if sequence.dim() != 2:
        raise ValueError(
            f"{name} must have 2 dimensions, (N, {features}), with batch_sizes, "
            f"got shape {tuple(sequence.shape)}"
        )
    sizes = batch_sizes.tolist()
    if batch_sizes.dim() != 1 or not sizes:
        raise ValueError(
            f"batch_sizes must have one dimension and a step, got shape {tuple(batch_sizes.shape)}"
        )
    if sizes[-1] < 1 or any(a < b for a, b in zip(sizes, sizes[1:], strict=False)):
        raise ValueError(f"batch_sizes must be positive and never increase, got {sizes}")
    if sum(sizes) != sequence.size(0):
        raise ValueError(
            f"batch_sizes must add up to the {sequence.size(0)} rows of {name}, got {sum(sizes)}"
        )
    return sizes[0]
