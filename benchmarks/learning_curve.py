"""Trains the language model with its defaults and with some settings changed: bits per character by epoch and seed.

    python benchmarks/learning_curve.py tinyshakespeare.txt --seeds 3 --epochs 8

The last tenth of the text is held out. Every finished run is a record in results/learning_curve.json, and is not run
again; report.py makes the figure and the table of docs/language-model.md from the file.
"""

import argparse
import dataclasses
import math
import tempfile
from pathlib import Path

import torch
from records import load, save

from rnnfused.lm import TrainSettings, train

RESULTS = Path(__file__).parent / "results" / "learning_curve.json"
KEY = ("change", "seed")
# The settings that each candidate has in place of the defaults.
CHANGES = {
    "": {},
    "--lr 0.002": {"lr": 2e-3},
    "--lr 0.004": {"lr": 4e-3},
    "--lr 0.004 --batch-size 32 --num-steps 100": {"lr": 4e-3, "batch_size": 32, "num_steps": 100},
    "--recurrent-init uniform": {"recurrent_init": "uniform"},
    "--average 0": {"average": 0.0},
    "--reset-probability 0": {"reset_probability": 0.0},
    "--betas 0 0.9": {"betas": (0.0, 0.9)},
    "--dropout 0.1": {"dropout": 0.1},
    "--hidden-size 256 --num-layers 2": {"hidden_size": 256, "num_layers": 2},
    "--lr 0.004 --hidden-size 256 --num-layers 2": {
        "lr": 4e-3,
        "hidden_size": 256,
        "num_layers": 2,
    },
}


def bits(rows, name):
    """Returns the bits per character of each row: the base-2 logarithm of its perplexity."""
    return [round(math.log2(row[f"{name}_perplexity"]), 4) for row in rows]


def settings_of(change, seed, epochs):
    """Returns the settings of a run."""
    return dataclasses.replace(TrainSettings(seed=seed, epochs=epochs), **CHANGES[change])


def run(text, change, seed, epochs):
    """Trains one model. Returns its record."""
    settings = settings_of(change, seed, epochs)
    with tempfile.TemporaryDirectory() as folder:
        rows = train(text, folder, settings)
    return {
        "change": change,
        "seed": seed,
        "text": text.name,
        "settings": settings.to_json(),
        "training": bits(rows, "train"),
        "validation": bits(rows, "validation"),
        "bigram": bits(rows, "bigram")[0],
    }


def main():
    """Makes the missing runs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--changes", nargs="+", default=list(CHANGES), metavar="CHANGE")
    parser.add_argument("--seeds", type=int, default=3, help="runs per change")
    parser.add_argument("--epochs", type=int, default=TrainSettings.epochs)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for seed in range(arguments.seeds):
        for change in arguments.changes:
            records = load(RESULTS)
            settings = settings_of(change, seed, arguments.epochs).to_json()
            if not any(record["settings"] == settings for record in records):
                records.append(run(arguments.text, change, seed, arguments.epochs))
                save(RESULTS, records, KEY)


if __name__ == "__main__":
    main()
