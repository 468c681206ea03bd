"""A layer with complex weights: a differentiable loop by steps, since no kernel takes complex numbers."""

import torch
from torch import Tensor

from .matmul import project_input, times
from .packing import PackedRows
from .schema import NONLINEARITIES, LayerArgs
from .sequence import Extents, Layout


def layer(*arguments) -> tuple[Tensor, Tensor]:
    """As the op ``rnnfused::layer``; autograd follows each step.

    Raises:
        NotImplementedError: ``state_grad_clip`` is given, which has no meaning for complex gradients.
    """
    args = LayerArgs(*arguments)
    if args.state_grad_clip is not None:
        raise NotImplementedError("state_grad_clip must be None for complex weights")
    projections = project_input(args.input, args.weight_ih, args.bias_ih)
    if args.bias_hh is not None:
        projections = projections + args.bias_hh
    extents = Extents(args.batch_sizes, args.lengths)
    layout = Layout.of(projections.dim() - 1, extents, args.time_dim)
    projections, h_0 = layout.time_major(projections), layout.loop_state(args.h_0)
    run = _run_steps if args.lengths is None else _run_with_lengths
    output, h_n = run(projections, args.weight_hh, h_0, extents, args.nonlinearity, args.reverse)
    return layout.restore(output).clone(), layout.layer_state(h_n).clone()  # no views


def _run_with_lengths(projections, weight_hh, h_0, extents, nonlinearity, reverse):
    rows = PackedRows(projections, extents.lengths)
    if rows.order.numel() == 0:
        no_rows = projections.new_empty(0, projections.size(-1))
        return torch.zeros_like(projections), rows.unsort(no_rows, h_0)
    output, h_n = _run_steps(
        rows.pack(projections), weight_hh, rows.sort(h_0), Extents(rows.batch_sizes),
        nonlinearity, reverse,
    )  # fmt: skip
    return rows.unpack(output), rows.unsort(h_n, h_0)


def _run_steps(projections, weight_hh, h_0, extents, nonlinearity, reverse):
    """The loop over (T, B, H), or over packed rows: ``(output, h_n)``."""
    activate = torch.tanh if nonlinearity == NONLINEARITIES["tanh"] else torch.relu
    is_packed = extents.batch_sizes is not None
    steps = projections.split(extents.batch_sizes.tolist()) if is_packed else projections.unbind(0)
    outputs = list(steps)
    h = h_0[:0] if h_0 is not None else projections.new_empty(0, projections.size(-1))
    for t in reversed(range(len(steps))) if reverse else range(len(steps)):
        active = steps[t].size(0)
        if h_0 is not None:  # rows at their first step
            h = torch.cat([h, h_0[h.size(0) : active]])
        known = min(h.size(0), active)
        now = torch.cat([steps[t][:known] + times(h[:known], weight_hh.mT), steps[t][known:]])
        outputs[t] = activate(now)
        h = torch.cat([outputs[t], h[active:]])
    return (torch.cat if is_packed else torch.stack)(outputs), h
