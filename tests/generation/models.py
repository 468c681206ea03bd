"""Small models to generate from, with logits far enough apart that rounding decides nothing."""

import contextlib

import pytest
import torch

import rnnfused
from rnnfused.generation import functions

VOCAB = 23


def make(
    *,
    layers=1,
    hidden=40,
    nonlinearity="tanh",
    features=None,
    dtype=torch.float32,
    vocab=VOCAB,
    **options,
):
    """Returns (rnn, head, embedding), the same for the same arguments."""
    torch.manual_seed(0)
    options = {"nonlinearity": nonlinearity, "dtype": dtype, **options}
    embedding = None
    if features is None:
        rnn = rnnfused.TokenRNN(vocab, hidden, layers, **options)
    else:
        rnn = rnnfused.RNN(features, hidden, layers, **options)
        embedding = torch.nn.Embedding(vocab, features, dtype=dtype)
    head = torch.nn.Linear(hidden, vocab, dtype=dtype)
    with torch.no_grad():
        head.weight.mul_(5)
    return rnn, head, embedding


def prefixes(batch, length=4, vocab=VOCAB):
    return torch.randint(vocab, (batch, length), generator=torch.Generator().manual_seed(1))


@contextlib.contextmanager
def by_loop():
    """Within it, generation runs step by step in Python."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(functions, "weights_of", lambda *_: None)
        yield


@contextlib.contextmanager
def by_op():
    """Within it, generation without the op fails."""

    def refuse(*_):
        raise AssertionError("the op was not used")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(functions, "_by_steps", refuse)
        yield


@torch.no_grad()
def raw(rnn, head, state, ids, streams, count, first_step=0, choice=(1.0, 0, 1.0, 7)):
    """Calls the op itself on a model that the fixture ``make`` has made."""
    weights = functions.weights_of(rnn, head, None, ids)
    packed = weights.pack([])
    number = rnnfused.ops.NONLINEARITIES[weights.nonlinearity]
    vocab = head.weight.size(0)
    return torch.ops.rnnfused.generate(
        packed, state, ids, streams, vocab, number, count, first_step, *choice
    )
