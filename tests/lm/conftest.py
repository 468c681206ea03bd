"""A small text, vocabulary and model for the language model's tests."""

import pytest
import torch

from rnnfused.lm import CharLM, CharLMConfig, Vocab, save_checkpoint

TEXT = "the quick brown fox jumps over the lazy dog.\n" * 40


@pytest.fixture(autouse=True)
def one_thread(restore_threads):
    """On tensors this small, a second thread would only wait for the first."""
    torch.set_num_threads(1)


@pytest.fixture
def text():
    return TEXT


@pytest.fixture
def vocab():
    return Vocab(TEXT)


@pytest.fixture
def model(vocab):
    torch.manual_seed(0)
    config = CharLMConfig(len(vocab), hidden_size=12, num_layers=2, dropout=0.3)
    return CharLM(config, dtype=torch.float64)


@pytest.fixture
def book(request, tmp_path):
    """The name of a file that holds the ``TEXT`` of the test's module."""
    path = tmp_path / "book.txt"
    path.write_text(request.module.TEXT, encoding="utf-8")
    return str(path)


@pytest.fixture
def models(vocab):
    """Models number 1 and 2, of one shape; the bias is the number."""
    made = []
    for value in (1.0, 2.0):
        model = CharLM(CharLMConfig(len(vocab), hidden_size=4, num_layers=1))
        torch.nn.init.constant_(model.head.bias, value)
        made.append(model)
    return made


@pytest.fixture
def folder(tmp_path, models, vocab):
    """A folder that holds the first model's checkpoint."""
    save_checkpoint(tmp_path, models[0], vocab)
    return tmp_path
