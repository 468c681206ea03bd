"""The op ``linear_cross_entropy``: its gradients, its rules for compilers and counters, and its form on other devices.

The CPU's kernel makes the loss and its gradients in one pass, so that the logits never exist as a whole. The gradients
wait for the backward call, which scales them. Higher derivatives are torch's own, of :func:`by_torch`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .matmul import sum_dtype
from .modes import below_autograd, hides_values, is_differentiated, is_recorded
from .named_arguments import CrossEntropyArgs
from .registry import impl, register_autograd, register_fake

REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}
_NONE, _MEAN = REDUCTIONS["none"], REDUCTIONS["mean"]

_op = torch.ops.rnnfused.linear_cross_entropy
_below_autograd = below_autograd(_op.default)


def by_torch(hidden, weight, bias, target, reduction, ignore_index, label_smoothing) -> Tensor:
    """The loss as torch's own two calls make it, in float32 or wider: on any device, differentiable to any order."""
    logits = F.linear(hidden, weight, bias)
    names = {number: name for name, number in REDUCTIONS.items()}
    return F.cross_entropy(
        logits.to(sum_dtype(logits.dtype)),
        target,
        ignore_index=ignore_index,
        reduction=names[reduction],
        label_smoothing=label_smoothing,
    )


def _scaled(gradient: Tensor | None, scale: Tensor) -> Tensor | None:
    return None if gradient is None else gradient * scale.to(gradient.dtype)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, target, *options):
        reduction = options[0]
        # With a loss per row, the gradients depend on those that arrive.
        needs = [needed and reduction != _NONE for needed in ctx.needs_input_grad[:3]]
        loss, *gradients = _below_autograd(hidden, weight, bias, target, None, *options, *needs)
        ctx.save_for_backward(hidden, weight, bias, target, *gradients)
        ctx.options = options
        return loss

    @staticmethod
    def backward(ctx, grad_loss):
        hidden, weight, bias, target, *gradients = ctx.saved_tensors
        needs = ctx.needs_input_grad[:3]
        if is_differentiated():
            gradients = _differentiable(
                grad_loss, (hidden, weight, bias), needs, target, ctx.options
            )
        elif ctx.options[0] == _NONE:
            _, *gradients = _below_autograd(
                hidden, weight, bias, target, grad_loss, *ctx.options, *needs
            )
        elif hides_values(grad_loss) or grad_loss.item() != 1:
            gradients = [_scaled(gradient, grad_loss) for gradient in gradients]
        wanted = (x if needed else None for x, needed in zip(gradients, needs, strict=True))
        return (*wanted, None, None, None, None)


def _differentiable(grad_loss, inputs, needs, target, options):
    """The gradients with a graph of their own."""
    with torch.enable_grad():
        loss = by_torch(*inputs, target, *options)
    needed = [x for x, needs_it in zip(inputs, needs, strict=True) if needs_it]
    gradients = iter(torch.autograd.grad(loss, needed, grad_loss, create_graph=True))
    return [next(gradients) if needs_it else None for needs_it in needs]


def linear_cross_entropy(
    hidden, weight, bias, target, reduction, ignore_index, label_smoothing
) -> Tensor:
    """The op's loss, with gradients: (rows, H), (V, H), (V,) or None, int64 (rows,) -> () or (rows,)."""
    options = (reduction, ignore_index, label_smoothing)
    if is_recorded():
        has_graph = torch.is_grad_enabled()
        needs = [has_graph and x is not None and x.requires_grad for x in (hidden, weight, bias)]
        return _op(hidden, weight, bias, target, None, *options, *needs)[0]
    if is_differentiated():
        return _LinearCrossEntropy.apply(hidden, weight, bias, target, *options)
    return _below_autograd(hidden, weight, bias, target, None, *options, False, False, False)[0]


def _save_recorded(ctx, inputs, output):
    args = CrossEntropyArgs(*inputs)
    ctx.save_for_backward(args.hidden, args.weight, args.bias, args.target, *output[1:])
    ctx.options = (args.reduction, args.ignore_index, args.label_smoothing)
    ctx.needs = (args.needs_hidden, args.needs_weight, args.needs_bias)


def _backward_of_recorded(ctx, grad_loss, *_):
    hidden, weight, bias, target, *gradients = ctx.saved_tensors
    if ctx.options[0] == _NONE:
        _, *gradients = _op(
            hidden, weight, bias, target, grad_loss.contiguous(), *ctx.options, *ctx.needs
        )
    else:
        gradients = [_scaled(gradient, grad_loss) for gradient in gradients]
    wanted = (x if needed else None for x, needed in zip(gradients, ctx.needs, strict=True))
    return tuple(CrossEntropyArgs(*wanted))


register_autograd(
    "rnnfused::linear_cross_entropy", _backward_of_recorded, setup_context=_save_recorded
)


def _result_shapes(args: CrossEntropyArgs):
    rows, hidden_size = args.hidden.shape
    num_classes = args.weight.size(0)
    loss = (rows,) if args.reduction == _NONE else ()
    return (
        loss,
        (rows, hidden_size) if args.needs_hidden else (0,),
        (num_classes, hidden_size) if args.needs_weight else (0,),
        (num_classes,) if args.needs_bias else (0,),
    )


@register_fake("rnnfused::linear_cross_entropy")
def _(*arguments):
    args = CrossEntropyArgs(*arguments)
    hidden, weight = args.hidden, args.weight
    loss, *shapes = _result_shapes(args)
    gradients = [hidden.new_empty(shape) for shape in shapes]
    if args.needs_weight and weight.stride(0) == 1 and weight.stride(1) != 1:
        gradients[1] = hidden.new_empty(weight.shape[::-1]).t()
    return hidden.new_empty(loss, dtype=sum_dtype(hidden.dtype)), *gradients


def _on_any_device(*arguments):
    """The op of torch's operations, for programs that were recorded on the CPU and moved."""
    args = CrossEntropyArgs(*arguments)
    hidden, weight, smoothing = args.hidden, args.weight, args.label_smoothing
    dtype, num_classes = sum_dtype(hidden.dtype), weight.size(0)
    log_p = F.linear(hidden, weight, args.bias).to(dtype).log_softmax(-1)
    counts = args.target != args.ignore_index
    target = args.target.where(counts, 0).unsqueeze(-1)
    losses = (smoothing - 1) * log_p.gather(1, target).squeeze(-1)
    losses = (losses - smoothing * log_p.mean(-1)).where(counts, 0)
    scales = counts.to(dtype)
    if args.reduction == _MEAN:
        scales = (scales / counts.sum()).where(counts, 0)
    elif args.row_scales is not None:
        scales = scales * args.row_scales
    loss = losses if args.reduction == _NONE else losses.sum()
    if args.reduction == _MEAN:
        loss = loss / counts.sum()
    d = log_p.exp() - smoothing / num_classes
    d = d.scatter_add(1, target, d.new_full(target.shape, smoothing - 1))
    d = (d * scales.unsqueeze(-1)).where(counts.unsqueeze(-1), 0).to(hidden.dtype)
    empty = hidden.new_empty(0)
    return (
        loss,
        d @ weight if args.needs_hidden else empty,
        d.t() @ hidden if args.needs_weight else empty.clone(),
        d.sum(0) if args.needs_bias else empty.clone(),
    )


impl("rnnfused::linear_cross_entropy", "CompositeExplicitAutograd", _on_any_device)
