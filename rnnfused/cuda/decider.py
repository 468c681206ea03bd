"""Lets the user's own device decide which way a call takes.

A plan is checked once, and a class of shapes is timed once. All is kept for the process. A plan that gave a wrong
result, failed or hung is off on that device from then on.
"""

import logging
import os
import threading
import warnings
import weakref
from typing import NamedTuple

import torch

from ..wording import quantity
from . import timing
from .agreement import (
    OF_TIMING,
    WrongResult,
    is_of_capture,
    is_of_kernel,
    is_of_others,
    is_out_of_memory,
)
from .calls import Call, ShapeClass
from .self_check import rows_of_check, self_check, short_time_limit
from .untouched import untouched
from .ways import FUSED, GRAPHED, STEPS

log = logging.getLogger("rnnfused.cuda")

ISSUES = "https://github.com/rnnfused/rnnfused/issues"
GRAPH = "CUDA graph"  # named as a kind of plan, where graphs give wrong results
MAX_ATTEMPTS = 3  # to decide on a class of shapes
MAX_PLANS = 4096  # remembered; a caller whose batches all differ starts anew


class Choice(NamedTuple):
    """A way, and what it was chosen by."""

    way: str
    plan: str = ""  # in words
    medians: dict[str, float] = {}  # milliseconds of each way, for ``timed_steps`` steps
    timed_steps: int = 0
    reason: str = ""  # where nothing was timed

    def describe(self) -> str:
        """The way, and the times or the reason for it."""
        times = ", ".join(f"{way} {taken:.3f} ms" for way, taken in self.medians.items())
        timed = f"{times}; {quantity(self.timed_steps, 'step')}"
        return f"{self.way} ({timed if times else self.reason})"

    def without(self, way: str) -> "Choice":
        """The choice among the other ways."""
        medians = {name: taken for name, taken in self.medians.items() if name != way}
        return self._replace(way=_fastest(medians), medians=medians)


def _fastest(medians: dict[str, float]) -> str:
    return min(medians, key=lambda way: medians[way]) if medians else STEPS


class Decider:
    """The choices of a process.

    Attributes:
        choices: the choice of each class of shapes.
        checked: by (device, kind of plan, dtype), whether the plan was right.
        broken: by (device, kind of plan), why the plan is off.
    """

    def __init__(self, gpu):
        self.gpu = gpu
        self.choices: dict[ShapeClass, Choice] = {}
        self.checked: dict[tuple[torch.device, str, torch.dtype], bool] = {}
        self.broken: dict[tuple[torch.device, str], str] = {}
        self._plans: dict[tuple, str] = {}
        self._attempts: dict[ShapeClass, int] = {}  # that left the class undecided
        self._unsaid: list[str] = []  # warnings
        self._renew_lock()
        _deciders.add(self)

    def _renew_lock(self):
        # One decision at a time, so that timings do not disturb each other.
        self._lock = threading.RLock()
        self._is_deciding = False

    def plan(self, call: Call) -> str:
        """The fused plan of a call in words; empty: none takes it."""
        if not call.may_fuse():
            return ""
        sizes = (call.device, call.dtype, call.hidden_size, call.batch_size)
        forced = self.gpu.forced_plan()
        key = (*sizes, forced)
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= MAX_PLANS:
                self._plans.clear()
            plan = self._plans[key] = _with_source(self.gpu.plan(*sizes), forced)
        return plan

    def may_fuse(self, call: Call) -> bool:
        """Whether a plan takes the call, and is not off."""
        plan = self.plan(call)
        return bool(plan) and (call.device, _kind(plan)) not in self.broken

    def choice(self, call: Call) -> Choice:
        """The choice for a call, made now if it is the first of its class.

        In a capture nothing is decided: the call goes step by step.

        Raises:
            RuntimeError: an earlier fused call of this process raised its alarm, so its results are wrong.
        """
        # A choice by time would make results vary from run to run.
        if torch.are_deterministic_algorithms_enabled() or call.dtype not in OF_TIMING:
            return Choice(STEPS)
        plan = self.plan(call)
        shape_class = call.shape_class(_kind(plan))
        choice = self.choices.get(shape_class)
        if choice is None:
            choice = self._decide(shape_class, call, plan)
        return Choice(STEPS) if choice is None else choice

    def blame(self, call: Call, error: Exception) -> None:
        """Turns off the plan that a failed fused call names, or the call's own. Errors of arguments turn off none."""
        with self._lock:
            if is_of_kernel(error):
                self._break_named(call, str(error))
        self._say()

    def _decide(self, shape_class: ShapeClass, call: Call, plan: str) -> Choice | None:
        without_graph = shape_class._replace(may_graph=False)
        if not self.gpu.can_measure(call.device):
            return self.choices.get(without_graph)
        try:
            with self._lock:
                if self._is_deciding:  # a handler of logs or signals, in the midst of a decision
                    return None
                choice = self.choices.get(shape_class)  # by another thread meanwhile
                if choice is None:
                    self._is_deciding = True
                    try:
                        with self.gpu.on(call.device), untouched():
                            choice = self._measured(shape_class, call, plan)
                    finally:
                        self._is_deciding = False
        finally:
            self._say()
        return choice

    def _measured(self, shape_class: ShapeClass, call: Call, plan: str) -> Choice | None:
        if shape_class.may_graph and not self.gpu.can_capture():
            return self._measured_without_graph(shape_class, call, plan)
        if not plan:
            choice = self._choose(shape_class, call, plan)
        else:
            self._raise_earlier_alarm(call)
            with short_time_limit(self.gpu):
                choice = self._choose(shape_class, call, plan)
        if choice is not None:
            self.choices[shape_class] = choice
            log.debug("%s: %s: %s", call.device, shape_class.describe(), choice.describe())
        return choice

    def _measured_without_graph(
        self, shape_class: ShapeClass, call: Call, plan: str
    ) -> Choice | None:
        """A choice for calls like this one and for captures; for all of the class if only such calls come."""
        without_graph = shape_class._replace(may_graph=False)
        choice = self.choices.get(without_graph) or self._measured(without_graph, call, plan)
        if choice is not None and self._is_last_attempt(shape_class):
            self.choices[shape_class] = choice
        return choice

    def _is_last_attempt(self, shape_class: ShapeClass) -> bool:
        self._attempts[shape_class] = self._attempts.get(shape_class, 0) + 1
        return self._attempts[shape_class] >= MAX_ATTEMPTS

    def _choose(self, shape_class: ShapeClass, call: Call, plan: str) -> Choice | None:
        """None: at this moment nothing can be measured."""
        ways = [STEPS]
        if shape_class.may_graph and (call.device, GRAPH) not in self.broken:
            ways.append(GRAPHED)
        try:
            if plan and self._is_right(call, plan):
                ways.append(FUSED)
            if len(ways) == 1:
                return Choice(STEPS, plan, reason="no other way takes the call")
            num_steps = timing.timed_steps(call, self.gpu.spare_bytes(call.device))
            if num_steps is None:
                return Choice(STEPS, plan, reason="a timing would take too much memory")
            medians, failures = timing.measure(self.gpu, call, num_steps, ways)
        except RuntimeError as error:
            if is_of_capture(error):
                return self._postponed(shape_class, plan)
            reason = "out of memory" if is_out_of_memory(error) else str(error)
            return Choice(STEPS, plan, reason=f"the timing failed: {reason}")
        for way, failure in failures.items():
            log.debug("%s: %s: %s failed: %s", call.device, shape_class.describe(), way, failure)
            if way == FUSED and is_of_capture(failure):
                return self._postponed(shape_class, plan)
            if way == FUSED and not is_of_others(failure):
                self._break(call.device, _kind(plan), FUSED, str(failure))
            elif isinstance(failure, WrongResult):
                self._break(call.device, GRAPH, GRAPHED, str(failure))
        return Choice(_fastest(medians), plan, medians, num_steps)

    def _postponed(self, shape_class: ShapeClass, plan: str) -> Choice | None:
        """No choice while another thread captures a graph, which forbids waiting; the step loop if that goes on."""
        if not self._is_last_attempt(shape_class):
            return None
        return Choice(STEPS, plan, reason="each timing met a capture of another thread")

    def _is_right(self, call: Call, plan: str) -> bool:
        """Whether the plan passed its self-check, which runs now if it never did."""
        kind = _kind(plan)
        if (call.device, kind) in self.broken:
            return False
        key = (call.device, kind, call.dtype)
        if key not in self.checked:
            rows = rows_of_check(
                call, lambda rows: _kind(self.plan(call._replace(batch_size=rows))) == kind
            )
            try:
                self_check(self.gpu, call, rows)
            except Exception as error:
                if is_of_others(error):
                    raise
                self._break(call.device, kind, FUSED, str(error))
                self.checked[key] = False
            else:
                self.checked[key] = True
            result = "passed" if self.checked[key] else "failed"
            log.debug("%s: self-check of %s, %s: %s", *key, result)
        return self.checked[key]

    def _raise_earlier_alarm(self, call: Call) -> None:
        alarm = self.gpu.take_alarm(call.device)
        if alarm:
            self._break_named(call, alarm)
            raise RuntimeError(alarm)

    def _break_named(self, call: Call, text: str) -> None:
        """Turns off the plans that a text names; if it names none, the call's own."""
        kinds = {
            _kind(plan) for (where, *_), plan in list(self._plans.items()) if where == call.device
        }
        named = [kind for kind in sorted(kinds) if kind and f"{kind.partition(_BY)[0]}," in text]
        for kind in named or [_kind(self.plan(call))]:
            self._break(call.device, kind, FUSED, text)

    def _break(self, device, kind: str, way: str, reason: str) -> None:
        if (device, kind) in self.broken:
            return
        self.broken[device, kind] = reason
        for shape_class, choice in list(self.choices.items()):
            of_kind = way == GRAPHED or shape_class.kind == kind
            if shape_class.device == device and of_kind and way in choice.medians:
                self.choices[shape_class] = choice.without(way)
        what = "CUDA graphs" if way == GRAPHED else f"the fused kernels of the plan {kind!r}"
        self._unsaid.append(
            f"rnnfused turned off {what} on {device} for this process, and goes on without: "
            f"{reason.rstrip('.')}. "
            f"Please report this, with the output of rnnfused.cuda.report() and `rnnfused info`: {ISSUES}"
        )

    def _say(self) -> None:
        with self._lock:
            texts, self._unsaid = self._unsaid, []
        for text in texts:  # a filter may raise
            warnings.warn(text, stacklevel=2)


_BY = " by RNNFUSED_CUDA_PLAN="


def _with_source(plan: str, forced: str) -> str:
    """The plan in words, whose kind tells the value that forces it: a check of one says nothing about another."""
    kind, comma, rest = plan.partition(", ")
    return f"{kind}{_BY}{forced}{comma}{rest}" if plan and forced else plan


def _kind(plan: str) -> str:
    """The kind of a plan in words: how many blocks, how they exchange states, and what forces it."""
    return plan.partition(", ")[0]


_deciders: weakref.WeakSet[Decider] = weakref.WeakSet()


def _renew_locks():
    for decider in list(_deciders):
        decider._renew_lock()


if hasattr(os, "register_at_fork"):  # another thread of the parent may have held a lock
    os.register_at_fork(after_in_child=_renew_locks)
