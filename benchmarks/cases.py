"""The measured shapes, their modules and inputs, and their number of operations."""

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
    tokens: bool = False  # rnnfused takes ids; peers take the same as one-hot rows

    def __str__(self):
        return "-".join(map(str, self[:4])) + ("-ids" if self.tokens else "")

    def operations(self, way):
        """Returns the floating-point operations of the loop, its projection and the gradients of parameters."""
        outputs = self.num_steps * self.batch_size * self.hidden_size
        projection = 0 if self.tokens else 2 * outputs * self.input_size
        loop = 2 * outputs * self.hidden_size
        # Backward adds the loop again, and a gradient for each of the two weights.
        return projection + loop if way == "forward" else 2 * projection + 3 * loop


FIXED_COST = Case(1, 1, 8, 8)  # almost no arithmetic: the time is a call's overhead
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

# Large weights and batches, where arithmetic and bandwidth dominate.
NARROW = [c for c in CASES if c.batch_size >= 16 and c.hidden_size >= 256 and not c.tokens]


def inputs(case):
    """Returns (module, input) of rnnfused, the same of nn.RNN with equal weights, and a gradient of the output."""
    num_steps, batch_size, input_size, hidden_size, tokens = case
    torch.manual_seed(0)
    ids = torch.randint(input_size, (num_steps, batch_size))
    # The textbook's model takes one-hot rows, which make its values saturate as in training.
    is_textbook = tokens or input_size == 28
    x = F.one_hot(ids, input_size).float() if is_textbook else torch.randn(*ids.shape, input_size)
    gradient = torch.randn(num_steps, batch_size, hidden_size)
    kind = rnnfused.TokenRNN if tokens else rnnfused.RNN
    ours, theirs = kind(input_size, hidden_size), torch.nn.RNN(input_size, hidden_size)
    ours.load_state_dict(theirs.state_dict())
    return (ours, ids if tokens else x), (theirs, x), gradient
