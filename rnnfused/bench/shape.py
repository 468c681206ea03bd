"""A layer's sizes; rnnfused's module and torch.nn.RNN of these sizes; the calls that are timed."""

import dataclasses
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import rnnfused

from .timing import Call

WAYS = ("forward", "forward_backward")
DTYPES = ("float32", "float64", "bfloat16", "float16")
_SIZES = ("num_steps", "batch_size", "input_size", "hidden_size", "num_layers")


class Side(NamedTuple):
    """One side of a comparison: a module, and its input."""

    module: torch.nn.Module
    input: Tensor


@dataclasses.dataclass(frozen=True)
class Shape:
    """What is timed: ``RNN(I, H)`` on T steps of B rows.

    Attributes:
        num_steps: T.
        batch_size: B.
        input_size: I, or the number of tokens.
        hidden_size: H.
        num_layers: number of layers.
        bidirectional: whether each layer has two directions.
        nonlinearity: "tanh" or "relu".
        dtype: name of the dtype of parameters and input.
        device: the torch device of both sides.
        ids: whether rnnfused takes token ids, and torch.nn.RNN the equal one-hot rows.

    Raises:
        ValueError: a size is no positive integer, or a name is unknown.
    """

    num_steps: int = 35
    batch_size: int = 20
    input_size: int = 200
    hidden_size: int = 200
    num_layers: int = 1
    bidirectional: bool = False
    nonlinearity: str = "tanh"
    dtype: str = "float32"
    device: str = "cpu"
    ids: bool = False

    def __post_init__(self) -> None:
        for name in _SIZES:
            size = getattr(self, name)
            if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size < 2**31:
                raise ValueError(f"{name} must lie in 1 .. 2**31 - 1, got {size!r}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if self.nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity must be tanh or relu, got {self.nonlinearity!r}")

    def __str__(self) -> str:
        kind = "TokenRNN" if self.ids else "RNN"
        options = [str(self.input_size), str(self.hidden_size)]
        options += [f"num_layers={self.num_layers}"] * (self.num_layers > 1)
        options += ["bidirectional=True"] * self.bidirectional
        options += [f"nonlinearity='{self.nonlinearity}'"] * (self.nonlinearity != "tanh")
        steps = f"{self.num_steps} step{'s' * (self.num_steps > 1)}"
        rows = f"{self.batch_size} row{'s' * (self.batch_size > 1)}"
        return f"{kind}({', '.join(options)}) on {steps} of {rows}, {self.dtype}, {self.device}"

    def operations(self, way: str) -> int:
        """Returns the floating-point operations of the loops, their projections and the gradients of parameters."""
        directions = 2 if self.bidirectional else 1
        outputs = self.num_steps * self.batch_size * self.hidden_size * directions
        loops = 2 * outputs * self.hidden_size * self.num_layers
        first = 0 if self.ids else 2 * outputs * self.input_size
        others = 2 * outputs * directions * self.hidden_size * (self.num_layers - 1)
        if way == "forward":
            return first + others + loops
        # Backward adds the loop again, and a gradient for each of the two weights; and the input's, but for the first.
        return 2 * first + 3 * others + 3 * loops

    def inputs(self) -> tuple[Side, Side, Tensor]:
        """Returns rnnfused's side, that of torch.nn.RNN with equal weights, and a gradient of the output.

        Values are random, and the same in each call.
        """
        torch.manual_seed(0)
        dtype = getattr(torch, self.dtype)
        rows = self.num_steps, self.batch_size
        if self.ids:
            x = torch.randint(self.input_size, rows)
            their_x = F.one_hot(x, self.input_size).to(dtype)
        else:
            their_x = x = torch.randn(*rows, self.input_size).to(dtype)
        outputs = self.hidden_size * (2 if self.bidirectional else 1)
        gradient = torch.randn(*rows, outputs).to(self.device, dtype)
        options: dict[str, Any] = {
            "num_layers": self.num_layers,
            "bidirectional": self.bidirectional,
            "nonlinearity": self.nonlinearity,
        }
        theirs = torch.nn.RNN(self.input_size, self.hidden_size, **options).to(self.device, dtype)
        kind = rnnfused.TokenRNN if self.ids else rnnfused.RNN
        ours = kind(self.input_size, self.hidden_size, **options).to(self.device, dtype)
        ours.load_state_dict(theirs.state_dict())
        return (
            Side(ours, x.to(self.device)),
            Side(theirs, their_x.to(self.device)),
            gradient,
        )


def ways(module: torch.nn.Module, x: Tensor, gradient: Tensor, call: Any = None) -> dict[str, Call]:
    """Returns the timed calls of a module, or of a function ``call(x)`` of it, that returns its states first."""
    call = call or module

    def forward() -> Tensor:
        with torch.no_grad():
            states: Tensor = call(x)[0]
        return states

    def forward_backward() -> None:
        module.zero_grad(set_to_none=True)
        call(x)[0].backward(gradient)

    return {"forward": forward, "forward_backward": forward_backward}
