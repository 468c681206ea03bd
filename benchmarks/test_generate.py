"""Symbols per second of rnnfused.generation.generate against the plain Python loop over nn.RNN, one row."""

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F

import rnnfused
from rnnfused.generation import generate

NUM_SYMBOLS = 1000
CHOICES = {
    "greedy": {"temperature": 0},
    "sampled": {"temperature": 0.8},
    "sampled, top-k 10": {"temperature": 0.8, "top_k": 10},
    "sampled, top-p 0.9": {"temperature": 0.8, "top_p": 0.9},
}


class Generation(NamedTuple):
    hidden_size: int
    vocab_size: int

    def __str__(self):
        return f"generate-{self.hidden_size}-{self.vocab_size}"

    def operations(self, _):
        """Returns the floating-point operations of all symbols."""
        return 2 * NUM_SYMBOLS * self.hidden_size * (self.hidden_size + self.vocab_size)


def plain_loop(rnn, head, choice):
    """The loop that a user would write: one-hot input, softmax, torch.multinomial."""
    one_hot = torch.eye(rnn.input_size)
    state = None
    index = torch.zeros(1, 1, dtype=torch.long)
    with torch.no_grad():
        for _ in range(NUM_SYMBOLS):
            output, state = rnn(one_hot[index], state)
            logits = head(output[-1])
            if choice["temperature"] == 0:
                index = logits.argmax(1, keepdim=True)
            else:
                index = torch.multinomial(F.softmax(logits / choice["temperature"], 1), 1)


@pytest.mark.one_thread
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize(
    "case", [Generation(64, 60), Generation(256, 60), Generation(512, 60)], ids=str
)
def test_generate(case, choice, in_turn):
    """The plain loop draws from all symbols whatever ``top_k`` and ``top_p`` say, which is its fastest form."""
    torch.manual_seed(0)
    theirs = torch.nn.RNN(case.vocab_size, case.hidden_size)
    head = torch.nn.Linear(case.hidden_size, case.vocab_size)
    with torch.no_grad():
        head.weight.mul_(5)  # as peaked as a trained model's logits
    ours = rnnfused.TokenRNN(case.vocab_size, case.hidden_size)
    ours.load_state_dict(theirs.state_dict())
    prefix, options = torch.zeros(1, 1, dtype=torch.long), CHOICES[choice]
    in_turn(
        case,
        "forward",
        f"plain loop, {choice}",
        lambda: generate(ours, head, prefix, NUM_SYMBOLS, seed=0, **options),
        lambda: plain_loop(theirs, head, options),
    )
