"""Calls the raw ops with keyword arguments and defaults."""

import torch

from rnnfused.ops import NONLINEARITIES

TANH, RELU = NONLINEARITIES["tanh"], NONLINEARITIES["relu"]


def loop(*tensors, **options):
    """Runs the op ``layer`` on projections: the time loop alone. Arguments are those of :func:`loop_arguments`."""
    return torch.ops.rnnfused.layer(*loop_arguments(*tensors, **options))


def loop_arguments(
    projections,
    weight_hh,
    h_0=None,
    batch_sizes=None,
    lengths=None,
    *,
    time_dim=0,
    nonlinearity=TANH,
    reverse=False,
    state_grad_clip=None,
):
    """Returns the arguments of the op ``layer`` whose input is projections."""
    tensors = (projections, None, weight_hh, None, None, h_0, batch_sizes, lengths)
    return (*tensors, time_dim, nonlinearity, reverse, state_grad_clip)
