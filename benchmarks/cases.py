"""The shapes that are measured: what they are made of, and the arithmetic in them."""

from typing import NamedTuple

import torch
import torch.nn.functional as F

import rnnfused

WAYS = ("forward", "forward_backward")


class Case(NamedTuple):
    num_steps: int
    batch_size: int
    input_size: int
    hidden_size: int
    tokens: bool = False  # ours takes ids, the others the same as one-hot rows

    def __str__(self):
        return "-".join(map(str, self[:4])) + ("-ids" if self.tokens else "")

    def operations(self, way):
        """Floating-point operations of the recurrence, its projection and all gradients of parameters."""
        outputs = self.num_steps * self.batch_size * self.hidden_size
        projection = 0 if self.tokens else 2 * outputs * self.input_size
        loop = 2 * outputs * self.hidden_size
        # Backward there are the loop and a gradient for each of the two weights.
        return projection + loop if way == "forward" else 2 * projection + 3 * loop


FIXED_COST = Case(1, 1, 8, 8)  # next to no arithmetic: what a call costs by itself
SUBNORMAL = Case(35, 20, 200, 200)
SECOND_ORDER = [Case(32, 1, 28, 32), SUBNORMAL, Case(64, 32, 128, 256)]
COMPILED = [Case(32, 1, 28, 32), SUBNORMAL]
CELL = Case(1, 20, 28, 32)
LENGTHS = Case(64, 64, 128, 256)

CASES = [
    FIXED_COST,
    Case(32, 1, 28, 32),
    Case(32, 1024, 28, 32),
    Case(32, 1024, 28, 32, tokens=True),
    SUBNORMAL,
    Case(64, 32, 128, 256),
    Case(64, 64, 512, 512),
    Case(100, 1, 256, 256),
    Case(512, 1, 512, 512),
    Case(128, 128, 1024, 1024),
    Case(35, 64, 256, 1024),
    Case(200, 16, 128, 128),
    Case(1000, 16, 64, 128),
    Case(180, 20, 50, 500),
    Case(180, 20, 50, 500, tokens=True),
]

# Of large weights and batches, where arithmetic and bandwidth count.
NARROW = [c for c in CASES if c.batch_size >= 16 and c.hidden_size >= 256 and not c.tokens]


def inputs(case):
    """The modules, ours and nn.RNN, of the same weights, each with its input; and a gradient of the output."""
    num_steps, batch_size, input_size, hidden_size, tokens = case
    torch.manual_seed(0)
    ids = torch.randint(input_size, (num_steps, batch_size))
    # One-hot where the model is the textbook's, so that the values saturate as they do there.
    is_textbook = tokens or input_size == 28
    x = F.one_hot(ids, input_size).float() if is_textbook else torch.randn(*ids.shape, input_size)
    gradient = torch.randn(num_steps, batch_size, hidden_size)
    kind = rnnfused.TokenRNN if tokens else rnnfused.RNN
    ours, theirs = kind(input_size, hidden_size), torch.nn.RNN(input_size, hidden_size)
    ours.load_state_dict(theirs.state_dict())
    return (ours, ids if tokens else x), (theirs, x), gradient
