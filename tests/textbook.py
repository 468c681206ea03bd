"""The textbook's model in plain PyTorch loops, its vocabulary, data and trainer.

Tests compare rnnfused.scratch with it.
"""

import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

TIME_MACHINE = Path(__file__).parents[2] / "shared" / "data" / "timemachine.txt"


def parity(test):
    """Marks a test that needs the textbook's data, and skips it if the file is missing."""
    missing = not TIME_MACHINE.is_file()
    skip = pytest.mark.skipif(missing, reason="no ../shared/data/timemachine.txt")
    return pytest.mark.parity(skip(test))


def rnn(inputs, W_xh, W_hh, b_h, state=None):
    """Runs the loop over inputs (num_steps, batch, I). Returns the list of states and the last state."""
    h = torch.zeros(inputs.size(1), W_hh.size(0), dtype=inputs.dtype) if state is None else state
    outputs = []
    for x in inputs:
        h = torch.tanh(x @ W_xh + h @ W_hh + b_h)
        outputs.append(h)
    return outputs, h


def language_model_loss(model, X, Y):
    """Returns the mean cross-entropy of an ``RNNLMScratch``, computed from its parameters in plain loops."""
    cell = model.rnn
    one_hot = F.one_hot(X.t(), model.vocab_size).to(cell.W_xh.dtype)
    outputs, _ = rnn(one_hot, cell.W_xh, cell.W_hh, cell.b_h)
    logits = torch.stack([h @ model.W_hq + model.b_q for h in outputs], 1)
    return F.cross_entropy(logits.reshape(-1, model.vocab_size), Y.reshape(-1))


class Vocab:
    """``vocab[token]`` and ``idx_to_token``; unknown tokens share one id, as in the textbook."""

    def __init__(self, text):
        self.idx_to_token = ["<unk>", *sorted(set(text))]
        self.token_to_idx = {token: i for i, token in enumerate(self.idx_to_token)}

    def __len__(self):
        return len(self.idx_to_token)

    def __getitem__(self, token):
        return self.token_to_idx.get(token, 0)


class TimeMachine:
    """Windows of 32 steps at every offset: 10,000 for training, the next 5,000 for validation."""

    num_train, num_val, num_steps, batch_size = 10_000, 5_000, 32, 1024

    def __init__(self):
        text = re.sub("[^A-Za-z]+", " ", TIME_MACHINE.read_text()).lower()
        self.vocab = Vocab(text)
        corpus = torch.tensor([self.vocab[character] for character in text])
        self.windows = corpus.unfold(0, self.num_steps + 1, 1)

    def batches(self, order):
        for rows in order.split(self.batch_size):
            window = self.windows[rows]
            yield window[:, :-1], window[:, 1:]

    def train_batches(self):
        return self.batches(torch.randperm(self.num_train))

    def val_batches(self):
        return self.batches(self.num_train + torch.arange(self.num_val))


class Trainer:
    """Trains a model that follows the textbook's protocol."""

    def __init__(self, max_epochs, clip, clip_gradients):
        self.max_epochs, self.clip, self.clip_gradients = max_epochs, clip, clip_gradients

    def fit(self, model, data):
        self.num_train_batches = math.ceil(data.num_train / data.batch_size)
        self.train_batch_idx = 0
        model.trainer = self
        model.board.xlim = [0, self.max_epochs]
        optimizer = model.configure_optimizers()
        for self.epoch in range(self.max_epochs):
            model.train()
            self.train_perplexity = self.run(model.training_step, data.train_batches(), optimizer)
            model.eval()
            with torch.no_grad():
                self.val_perplexity = self.run(model.validation_step, data.val_batches())

    def run(self, step, batches, optimizer=None):
        total = symbols = 0
        for batch in batches:
            loss = step(batch)
            if optimizer is not None:
                optimizer.zero_grad()
                with torch.no_grad():
                    loss.backward()
                    self.clip_gradients(self.clip, step.__self__)
                    optimizer.step()
                self.train_batch_idx += 1
            total += loss.item() * batch[-1].numel()
            symbols += batch[-1].numel()
        return math.exp(total / symbols)
