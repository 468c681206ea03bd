"""The two loops of the CUDA ops: each call goes the way that the environment forces or the device decides."""

from collections.abc import Callable
from typing import NoReturn

import torch
from torch import Tensor

from ..ops import stepwise
from ..ops.modes import hides_values
from . import graphs
from .calls import Call
from .decider import Choice, Decider
from .ways import FUSED, GRAPHED, STEPS, mode_of


class Loops:
    """The loops of a process.

    Args:
        gpu: a :class:`rnnfused.cuda.gpu.Gpu`.
        value: returns the value of RNNFUSED_CUDA_FUSED.
        graphed: has ``forward``, ``backward`` and ``graphs`` of :mod:`rnnfused.cuda.graphs`.
    """

    def __init__(self, gpu, value: Callable[[], str], graphed=graphs):
        self.gpu, self._value, self._graphed = gpu, value, graphed
        self.decider = Decider(gpu)
        self._fused_on: set[torch.device] = set()  # devices that fused calls ran on

    def mode(self) -> str:
        """One of :data:`rnnfused.cuda.ways.MODES`."""
        return mode_of(self._value())

    def forward(self, projections, weight_hh, h_0, batch_sizes, nonlinearity, reverse):
        """As :func:`rnnfused.ops.stepwise.forward`."""
        arguments = (projections, weight_hh, h_0, batch_sizes, nonlinearity, reverse)
        if hides_values(weight_hh):  # a compiler or tracer looks on
            return stepwise.forward(*arguments)
        call = self._call(projections, weight_hh, batch_sizes, False, False)
        choice = self._choice(call)
        way = choice.way
        if way != FUSED:
            self._raise_earlier_alarm(call, weight_hh)
        if way == GRAPHED:
            try:
                return self._graphed.forward(*arguments, run=self._graphed.graphs.run_captured)
            except graphs.NotCaptured:
                way = choice.without(GRAPHED).way
        if way == FUSED:
            return self._fused(call, self.gpu.forward_fused, arguments)
        return stepwise.forward(*arguments)

    def backward(
        self,
        grad_output,
        grad_h_n,
        output,
        weight_hh,
        batch_sizes,
        nonlinearity,
        reverse,
        state_grad_clip,
        needs_h_0,
    ):
        """As :func:`rnnfused.ops.stepwise.backward`."""
        arguments = (grad_output, grad_h_n, output, weight_hh, batch_sizes, nonlinearity, reverse)
        if hides_values(weight_hh):
            return stepwise.backward(*arguments, state_grad_clip, needs_h_0)
        call = self._call(output, weight_hh, batch_sizes, True, state_grad_clip is not None)
        choice = self._choice(call)
        way = choice.way
        if way != FUSED:
            self._raise_earlier_alarm(call, weight_hh)
        by_steps = (*arguments, state_grad_clip, needs_h_0)
        if way == GRAPHED:
            try:
                return self._graphed.backward(*by_steps, run=self._graphed.graphs.run_captured)
            except graphs.NotCaptured:
                way = choice.without(GRAPHED).way
        if way == FUSED:
            return self._fused(call, self.gpu.backward_fused, (*arguments, needs_h_0))
        return stepwise.backward(*by_steps)

    def may_fuse(self, weight_hh: Tensor, batch_size: int) -> bool:
        """Whether a call with this weight may run as one fused kernel."""
        mode = self.mode()
        if mode in ("0", "steps") or weight_hh.dim() == 3:
            return False
        hidden_size = weight_hh.size(0)
        device = self.gpu.device_of(weight_hh)
        call = Call(
            device, False, weight_hh.dtype, hidden_size, 1, batch_size, 1, batch_size, False, False
        )
        if mode == "1":
            return bool(self.decider.plan(call))
        return self.decider.may_fuse(call)

    def _call(self, sequence, weight_hh, batch_sizes, is_backward, has_clip) -> Call:
        device = self.gpu.device_of(sequence)
        return Call.of(device, sequence, weight_hh, batch_sizes, is_backward, has_clip)

    def _choice(self, call: Call) -> Choice:
        mode = self.mode()
        if mode == "auto":
            return Choice(STEPS) if call.is_empty() else self.decider.choice(call)
        if mode == "1" and self.decider.plan(call):
            return Choice(FUSED)
        return Choice(STEPS if mode == "0" else GRAPHED)

    def _fused(self, call: Call, op, arguments):
        self._fused_on.add(call.device)
        try:
            return op(*arguments)
        except RuntimeError as error:
            self._blame(call, error)

    def _raise_earlier_alarm(self, call: Call, like: Tensor) -> None:
        """As a fused call does; no fused call may follow the one that was stopped."""
        if call.device in self._fused_on:
            alarm = self.gpu.reported_alarm(like)
            if alarm:
                self._blame(call, RuntimeError(alarm))

    def _blame(self, call: Call, error: RuntimeError) -> NoReturn:
        if self.mode() == "auto":
            self.decider.blame(call, error)
        raise error
