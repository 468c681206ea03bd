"""What has been decided in this process, for a reader."""

from dataclasses import dataclass, field

from ..wording import quantity
from .loops import Loops


@dataclass(frozen=True)
class Row:
    """One choice.

    Attributes:
        device: such as ``"cuda:0 NVIDIA H100"``.
        plan: the fused plan in words; empty: none takes these calls.
        dtype: such as ``"float32"``.
        shapes: the class of shapes, and whether the loop runs forward or backward.
        self_check: ``"passed"``, ``"failed: .."``, or ``"none"``.
        medians: milliseconds of each way that was timed.
        timed_steps: how many steps these took.
        choice: the way that such calls take: ``"fused"``, ``"graphed"`` or ``"steps"``.
        reason: why nothing was timed, or empty.
    """

    device: str
    plan: str
    dtype: str
    shapes: str
    self_check: str
    medians: dict[str, float]
    timed_steps: int
    choice: str
    reason: str

    def __str__(self) -> str:
        times = ", ".join(f"{way} {taken:.3f} ms" for way, taken in self.medians.items())
        return "\n".join(
            (
                f"{self.device}: {self.shapes}: {self.choice}",
                f"  plan: {self.plan or 'none'}; self-check: {self.self_check}",
                f"  medians, {quantity(self.timed_steps, 'step')}: {times}"
                if times
                else f"  {self.reason}",
            )
        )


@dataclass(frozen=True, repr=False)
class Report:
    """The choices of this process; prints as text.

    Attributes:
        mode: how RNNFUSED_CUDA_FUSED is set: ``"auto"``, ``"0"``, ``"1"`` or ``"steps"``.
        rows: one for each class of shapes that was decided.
        turned_off: plans that are off, each as a line with its device and the reason.
    """

    mode: str
    rows: tuple[Row, ...] = ()
    turned_off: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        lines = [f"RNNFUSED_CUDA_FUSED: {self.mode}"]
        lines += [str(row) for row in self.rows] or ["nothing was decided yet"]
        lines += [f"off: {line}" for line in self.turned_off]
        return "\n".join(lines)

    __repr__ = __str__


def report_of(loops: Loops) -> Report:
    """The report on these loops."""
    decider = loops.decider

    def check_of(shape_class) -> str:
        if not shape_class.kind:
            return "none"
        reason = decider.broken.get((shape_class.device, shape_class.kind))
        if reason is not None:
            return f"failed: {reason}"
        key = (shape_class.device, shape_class.kind, shape_class.dtype)
        return "passed" if decider.checked.get(key) else "none"

    rows = tuple(
        Row(
            f"{shape_class.device} {loops.gpu.name(shape_class.device)}",
            choice.plan,
            str(shape_class.dtype).removeprefix("torch."),
            shape_class.describe(),
            check_of(shape_class),
            dict(choice.medians),
            choice.timed_steps,
            choice.way,
            choice.reason,
        )
        for shape_class, choice in list(decider.choices.items())
    )
    turned_off = tuple(
        f"{kind} on {device}: {reason}" for (device, kind), reason in list(decider.broken.items())
    )
    return Report(loops.mode(), rows, turned_off)
