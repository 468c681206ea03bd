"""Training reaches the entropy of a source that generated the text."""

import math

import pytest
from sources import embedded_reber, markov, reber

from rnnfused.lm import TrainSettings, train

SETTINGS = TrainSettings(
    hidden_size=48, num_layers=1, num_steps=32, batch_size=16, epochs=6, lr=0.02, seed=1
)


@pytest.mark.parametrize(
    "source", [markov(), reber(), embedded_reber()], ids=["markov", "reber", "embedded"]
)
def test_validation_loss_is_within_three_percent_of_the_entropy(source, tmp_path):
    text = source.text(120_000)
    training = text[: len(text) - int(len(text) * SETTINGS.validation_fraction)]
    rows = train(text, tmp_path / "run", SETTINGS)
    loss = math.log(min(row["validation_perplexity"] for row in rows))
    # Of a perfect model on exactly the held-out symbols.
    nats = source.nats(text) * len(text) - source.nats(training) * len(training)
    assert loss == pytest.approx(nats / (len(text) - len(training)), rel=0.03)
