"""What the choice of a way depends on: the sizes of a call, and its class of shapes."""

from typing import NamedTuple

import torch
from torch import Tensor

from . import graphs

MOST_TIMED_STEPS = 128  # longer loops take the time of so many steps in proportion


class ShapeClass(NamedTuple):
    """Calls that share one choice."""

    device: torch.device
    is_backward: bool
    dtype: torch.dtype
    precision: str  # of torch's float32 products: "tf32", or another that torch names
    hidden_size: int
    num_heads: int
    most_rows: int  # of the batch, a power of two
    steps: int  # see _coarse
    is_packed: bool
    has_clip: bool
    may_graph: bool
    kind: str  # of the fused plan, such as "cluster of 8"; empty: no plan takes the call

    def describe(self) -> str:
        """The class in words, without its device and plan."""
        least, most = self.most_rows // 2 + 1, self.most_rows
        words = [
            "backward" if self.is_backward else "forward",
            str(self.dtype).removeprefix("torch."),
            f"H {self.hidden_size}",
            f"batch {most}" if least == most else f"batch {least} to {most}",
            _steps_in_words(self.steps),
        ]
        words += ["packed"] * self.is_packed + ["state_grad_clip"] * self.has_clip
        words += [f"{self.num_heads} heads"] * (self.num_heads > 1)
        words += ["TF32 allowed"] * (self.precision == "tf32")
        words += ["without a graph"] * (not self.may_graph)
        return ", ".join(words)


class Call(NamedTuple):
    """The sizes of one call of a loop."""

    device: torch.device
    is_backward: bool
    dtype: torch.dtype
    hidden_size: int
    num_heads: int  # 1: a full weight
    batch_size: int
    num_steps: int
    num_rows: int  # of all steps
    is_packed: bool
    has_clip: bool

    @classmethod
    def of(cls, device, sequence: Tensor, weight_hh: Tensor, batch_sizes, is_backward, has_clip):
        """The call whose projections, or output, are this sequence, (T, B, H) or packed (N, H)."""
        is_packed = batch_sizes is not None
        if is_packed:
            num_rows, hidden_size = sequence.shape
            num_steps = batch_sizes.numel()
            batch_size = int(batch_sizes[0]) if num_steps else 0
        else:
            num_steps, batch_size, hidden_size = sequence.shape
            num_rows = num_steps * batch_size
        return cls(
            device,
            is_backward,
            sequence.dtype,
            hidden_size,
            weight_hh.size(0) if weight_hh.dim() == 3 else 1,
            batch_size,
            num_steps,
            num_rows,
            is_packed,
            has_clip,
        )

    def is_empty(self) -> bool:
        """Whether nothing is computed."""
        return self.num_rows == 0 or self.hidden_size == 0

    def may_fuse(self) -> bool:
        """Whether fused kernels know this kind of call. Whether a plan takes its sizes is another question."""
        return self.num_heads == 1 and not self.has_clip

    def shape_class(self, kind: str) -> ShapeClass:
        """The class of the call, whose plan is of this kind."""
        return ShapeClass(
            self.device,
            self.is_backward,
            self.dtype,
            # Read where it changes the time: products of other dtypes do not follow it.
            torch.backends.cuda.matmul.fp32_precision if self.dtype == torch.float32 else "",
            self.hidden_size,
            self.num_heads,
            1 << (self.batch_size - 1).bit_length(),
            _coarse(self.num_steps),
            self.is_packed,
            self.has_clip,
            graphs.is_small(self.num_steps, self._graph_bytes()),
            kind,
        )

    def _graph_bytes(self) -> int:
        sequences = (2 if self.is_backward else 1) * self.num_rows
        weight = self.hidden_size // self.num_heads  # rows as long as a state
        return (sequences + 2 * self.batch_size + weight) * self.hidden_size * self.dtype.itemsize


def _coarse(num_steps: int) -> int:
    """0: a single step; 1: 2 to 7 steps; 2: 8 to 31; 3: 32 to 127; 4: more."""
    return min(num_steps, MOST_TIMED_STEPS).bit_length() // 2


def _steps_in_words(coarse: int) -> str:
    if coarse == 0:
        return "1 step"
    least, end = 1 << (2 * coarse - 1), 1 << (2 * coarse + 1)
    return f"{least} steps or more" if least >= MOST_TIMED_STEPS else f"{least} to {end - 1} steps"
