"""Times of the language model around the recurrence: output layer with loss, and whole steps of training."""

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F

import rnnfused
from rnnfused.functional import linear_cross_entropy
from rnnfused.scratch import RNNLMScratch


class Head(NamedTuple):
    rows: int
    hidden_size: int
    vocab_size: int

    def __str__(self):
        return "head-" + "-".join(map(str, self))

    def operations(self, way):
        """Returns the floating-point operations of the products: one forward, and one for each gradient of a factor."""
        product = 2 * self.rows * self.hidden_size * self.vocab_size
        return product if way == "forward" else 3 * product


class Training(NamedTuple):
    vocab_size: int
    hidden_size: int
    batch_size: int
    num_steps: int

    def __str__(self):
        return "train-" + "-".join(map(str, self))

    def operations(self, _):
        """Returns the floating-point operations of a step on token ids."""
        rows = self.batch_size * self.num_steps
        return 3 * 2 * rows * self.hidden_size * (self.hidden_size + self.vocab_size)


HEADS = [Head(32768, 32, 28), Head(3000, 500, 50), Head(700, 200, 10000)]
TEXTBOOK, LARGE = Training(28, 32, 1024, 32), Training(50, 500, 20, 150)


@pytest.mark.parametrize("case", HEADS, ids=str)
def test_head(case, way, in_turn):
    """Against torch's linear and cross_entropy."""
    torch.manual_seed(0)
    hidden = torch.randn(case.rows, case.hidden_size, requires_grad=True)
    head = torch.nn.Linear(case.hidden_size, case.vocab_size)
    target = torch.randint(case.vocab_size, (case.rows,))

    def ours():
        return linear_cross_entropy(hidden, head.weight, head.bias, target)

    def theirs():
        return F.cross_entropy(head(hidden), target)

    torch.testing.assert_close(ours(), theirs())
    in_turn(
        case,
        way,
        "linear and cross_entropy",
        *(_ways(f, way, hidden, head) for f in (ours, theirs)),
    )


def _ways(loss, way, hidden, head):
    def forward():
        with torch.no_grad():
            loss()

    def forward_backward():
        hidden.grad = None
        head.zero_grad(set_to_none=True)
        loss().backward()

    return forward if way == "forward" else forward_backward


class _NoBoard:
    def draw(self, *_):
        pass


@pytest.mark.parametrize(
    "case, dtype",
    [(TEXTBOOK, None), (LARGE, None), (LARGE, torch.bfloat16)],
    ids=["textbook", "large", "large-bfloat16"],
)
def test_training(case, dtype, in_turn):
    """A step of the textbook's model: loss, gradients, clipping, SGD; the other side has torch.nn.RNN and one-hot rows."""
    torch.manual_seed(0)
    X, Y = torch.randint(case.vocab_size, (2, case.batch_size, case.num_steps))
    theirs = torch.nn.ModuleList(
        [
            torch.nn.RNN(case.vocab_size, case.hidden_size),
            torch.nn.Linear(case.hidden_size, case.vocab_size),
        ]
    )
    rnn = rnnfused.TokenRNN(case.vocab_size, case.hidden_size)
    rnn.load_state_dict(theirs[0].state_dict())
    ours = RNNLMScratch(rnn, case.vocab_size)
    ours.board = _NoBoard()
    with torch.no_grad():
        ours.W_hq.copy_(theirs[1].weight.t())
        ours.b_q.copy_(theirs[1].bias)

    def our_loss():
        if dtype is None:
            return ours.training_step((X, Y))
        with torch.autocast("cpu", dtype):
            return ours.training_step((X, Y))

    def their_loss():
        rows = F.one_hot(X.t(), case.vocab_size).float()
        logits = theirs[1](theirs[0](rows)[0])
        return F.cross_entropy(logits.flatten(0, 1), Y.t().reshape(-1))

    tolerance = {} if dtype is None else {"rtol": 1e-2, "atol": 1e-2}
    torch.testing.assert_close(our_loss(), their_loss(), **tolerance)

    def step(loss, model, clip):
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

        def run():
            optimizer.zero_grad()
            loss().backward()
            clip()
            optimizer.step()

        return run

    name = "nn.RNN's model" + ("" if dtype is None else ", ours in bfloat16 autocast")
    in_turn(
        case,
        "forward_backward",
        name,
        step(our_loss, ours, lambda: rnnfused.clip_gradients(1, ours)),
        step(their_loss, theirs, lambda: torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1)),
    )
