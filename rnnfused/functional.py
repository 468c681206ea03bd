"""The fused recurrence as a function, for those who bring their own projections."""

import torch
from torch import Tensor

from .autocast import cast
from .autograd import Layer, Recurrence
from .custom_function import run
from .products import project
from .steps import with_contiguous_features, with_even_rows
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
) -> tuple[Tensor, Tensor]:
    """Runs ``h_t = f(p_t + h_{t-1} W_hh^T)`` over all steps in one fused call, and BPTT in another.

    (On CUDA only where :func:`rnnfused.cuda.uses_fused_kernels` says so; else step by step.)
    Elman, "Finding Structure in Time" (1990). Differentiable any number of times in ``projections``,
    ``weight_hh`` and ``h_0``. Nothing is saved for the backward call but inputs and ``output``.
    In bfloat16 and float16 every state, and every gradient that flows back through one, is rounded;
    sums are in float32. Under :func:`torch.autocast` the arguments are cast to the region's dtype.

    Args:
        projections: (T, B, H), or (B, T, H) with ``batch_first``, or (N, H) with ``batch_sizes``;
            float32, float64, bfloat16 or float16. The projected inputs, usually
            ``x W_ih^T + b_ih + b_hh``. Both layouts run without a copy; only the last dimension must be
            contiguous, or it is copied.
        weight_hh: (H, H), same dtype and device. Any strides.
        h_0: (B, H), same dtype and device. The state before the first step. None stands for zeros;
            a row's first step is then ``f(p)`` alone, whatever ``weight_hh`` holds, NaN included.
        nonlinearity: f, ``"tanh"`` or ``"relu"``.
        reverse: run from the last step to the first; h_0 then enters at a row's last step.
        batch_sizes: (T,), int64 on the CPU, positive and never increasing: ``projections`` is packed
            as in :class:`torch.nn.utils.rnn.PackedSequence`, and rows that ended cost nothing.

    Returns:
        ``(output, h_n)``: every state, shaped and laid out as ``projections``, and (B, H) the state
        after each row's last step (after its first one if ``reverse``).

    Raises:
        TypeError: an argument is not a tensor (or a bool), or of an unsupported or a different dtype.
        ValueError: a shape, a device, ``batch_sizes`` or ``nonlinearity`` is wrong.
        NotImplementedError: the tensors are on a device that the op does not run on.
    """
    if isinstance(projections, Tensor):
        projections, weight_hh, h_0 = cast(projections.device.type, projections, weight_hh, h_0)
    others = {"weight_hh": weight_hh} if h_0 is None else {"weight_hh": weight_hh, "h_0": h_0}
    _check_tensors("projections", projections, others)
    _check_choices(nonlinearity, batch_first, reverse)
    batch = _check_sequence("projections", "H", projections, batch_first, batch_sizes)
    hidden = projections.size(-1)
    if hidden == 0:
        raise ValueError(
            f"projections must have at least one hidden unit, got shape {tuple(projections.shape)}"
        )
    if weight_hh.shape != (hidden, hidden):
        raise ValueError(
            f"weight_hh must be ({hidden}, {hidden}) for projections of {hidden} hidden units, "
            f"got {tuple(weight_hh.shape)}"
        )
    _check_h_0(h_0, batch, hidden)
    if batch_first:
        projections = projections.transpose(0, 1)
    if batch_sizes is not None:
        batch_sizes = batch_sizes.contiguous()
    arguments = (
        with_contiguous_features(projections), weight_hh, with_contiguous_features(h_0),
        batch_sizes, nonlinearity, reverse,
    )  # fmt: skip
    output, h_n = run(Recurrence, *arguments)
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
) -> tuple[Tensor, Tensor]:
    """:func:`rnn` on ``input W_ih^T + bias``, which on the CPU the time loop can make as it goes.

    Args:
        input: (T, B, I), or (B, T, I) with ``batch_first``, or (N, I) with ``batch_sizes``.
        weight_ih: (H, I), same dtype and device. Any strides.
        weight_hh: (H, H), as in :func:`rnn`.
        bias: (H,), same dtype and device; ``b_ih + b_hh``. None stands for zeros.
        h_0, nonlinearity, batch_first, reverse, batch_sizes: as in :func:`rnn`.

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
    _check_choices(nonlinearity, batch_first, reverse)
    batch = _check_sequence("input", "I", input, batch_first, batch_sizes)
    hidden = weight_hh.size(0) if weight_hh.dim() else 0
    if hidden == 0 or weight_hh.shape != (hidden, hidden):
        raise ValueError(f"weight_hh must be (H, H), got {tuple(weight_hh.shape)}")
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
        nonlinearity, batch_first, reverse, batch_sizes,
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
    batch_sizes,
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
    if is_cpu:
        input = (
            check_ids(input, weight_ih.size(1), weight_ih.device)
            if is_ids
            else with_even_rows(input)
        )
        output, h_n = run(
            Layer, input, weight_ih, with_contiguous_features(bias_ih),
            with_contiguous_features(bias_hh), weight_hh, with_contiguous_features(h_0),
            batch_sizes, nonlinearity, reverse,
        )  # fmt: skip
    else:
        bias = bias_ih if bias_hh is None else bias_ih + bias_hh
        projections = (project_tokens if is_ids else project)(input, weight_ih, bias)
        h_0 = None if h_0 is None else h_0.squeeze(0)
        output, h_n = run(
            Recurrence, with_contiguous_features(projections), weight_hh,
            with_contiguous_features(h_0), batch_sizes, nonlinearity, reverse,
        )  # fmt: skip
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


def _check_choices(nonlinearity: str, batch_first: bool, reverse: bool) -> None:
    for name, value in {"batch_first": batch_first, "reverse": reverse}.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be a bool, got {value!r}")
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")


def _check_sequence(
    name: str, features: str, sequence: Tensor, batch_first: bool, batch_sizes: Tensor | None
) -> int:
    """The batch size, if the sequence has the dimensions that it should have."""
    if batch_sizes is not None:
        return _check_packed(name, features, sequence, batch_first, batch_sizes)
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
    return batch


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
