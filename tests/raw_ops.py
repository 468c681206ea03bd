"""Calls of the raw ops by the names of their arguments, for tests."""

import torch

TANH, RELU = 0, 1


def loop(*tensors, **options):
    """The op ``layer`` on projections, the time loop alone; takes what :func:`loop_arguments` does."""
    return torch.ops.rnnfused.layer(*loop_arguments(*tensors, **options))


def loop_arguments(
    projections, weight_hh, h_0=None, batch_sizes=None, lengths=None, *, time_dim=0,
    nonlinearity=TANH, reverse=False, state_grad_clip=None,
):  # fmt: skip
    """The arguments of the op ``layer`` on projections."""
    tensors = (projections, None, weight_hh, None, None, h_0, batch_sizes, lengths)
    return (*tensors, time_dim, nonlinearity, reverse, state_grad_clip)
