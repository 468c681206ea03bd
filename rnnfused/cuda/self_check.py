"""Runs a fused plan at small sizes, forward and backward, and compares it with the step loop in float64.

The step loop follows no switch there: not TF32's, nor that of sums in float16.
"""

from contextlib import contextmanager

import torch

from ..ops import stepwise
from ..ops.nonlinearity import NONLINEARITIES
from .agreement import OF_CHECK, WrongResult, require_close
from .calls import Call
from .samples import sample

STEPS = 6
MAX_VALUES = 2**18  # of one step, where fewer rows have the same kind of plan
TIME_LIMIT = 2.0  # seconds that a kernel waits for its peers during a check
USUAL_TIME_LIMIT = 20.0  # the library's own

# A dense batch forward through time, a packed one backward.
_VARIANTS = (
    dict(nonlinearity=NONLINEARITIES["tanh"], reverse=False, is_packed=False),
    dict(nonlinearity=NONLINEARITIES["relu"], reverse=True, is_packed=True),
)


@contextmanager
def short_time_limit(gpu):
    """A context in which a kernel that hangs does so briefly."""
    gpu.set_time_limit(TIME_LIMIT)
    try:
        yield
    finally:
        gpu.set_time_limit(USUAL_TIME_LIMIT)


def rows_of_check(call: Call, is_same_plan) -> int:
    """The batch's rows, or fewer where these are many and ``is_same_plan(rows)``."""
    rows = call.batch_size
    while rows * call.hidden_size > MAX_VALUES and rows > 1 and is_same_plan(rows // 2):
        rows //= 2
    return rows


def self_check(gpu, call: Call, rows: int) -> None:
    """Runs the fused kernels that take the call with so many rows, by the short time limit.

    Raises:
        WrongResult: a result is wrong, or a kernel raised the alarm.
        RuntimeError: a launch failed.
    """
    for options in _VARIANTS:
        given = sample(call, STEPS, rows, **options)
        output, h_n = gpu.forward_fused(*given.forward)
        raise_alarm(gpu, call)
        grads = gpu.backward_fused(*given.fused_backward(output))
        raise_alarm(gpu, call)
        expected = stepwise.forward(*map(_exactly, given.forward))
        tolerance = OF_CHECK[call.dtype]
        require_close(("output", "h_n"), (output, h_n), expected, tolerance)
        # At the states that there were: a sign of relu's may differ between rounded and exact ones.
        expected = stepwise.backward(*map(_exactly, given.with_output(output).backward))
        require_close(("grad_projections", "grad_h_0"), grads, expected, tolerance)


def raise_alarm(gpu, call: Call) -> None:
    """Waits for the kernels.

    Raises:
        WrongResult: with the text of the alarm, if one was raised.
    """
    alarm = gpu.take_alarm(call.device)
    if alarm:
        raise WrongResult(alarm)


def _exactly(value):
    is_floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.double() if is_floating else value
