"""Learns the temporal order of two symbols, with and without clipping: the success rate by length of the sequence.

Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks" (2013), section 4.1, after
Hochreiter and Schmidhuber, "Long short-term memory" (1997), task 6a. A sequence of T symbols has A or B at a random
step of its second tenth and of its fifth, and one of four distractors at every other step. After the last step the
model tells the order: AA, AB, BA or BB. A run succeeds when it errs on at most 1 % of unseen sequences.

The recurrent weights are drawn from N(0, 0.1^2), or scaled to a spectral radius of 0.95 ("smart tanh" there, but dense).

    python benchmarks/temporal_order.py --weights scaled --lengths 50 100 --seeds 3 --updates 400000

Every finished run is a record in results/temporal_order.json, and is not run again; report.py makes the figure and the
table of docs/language-model.md from the file.
"""

import argparse
import itertools
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from records import load, save
from tqdm import tqdm

import rnnfused

RESULTS = Path(__file__).parent / "results" / "temporal_order.json"
SYMBOLS, CLASSES = 6, 4  # A, B and the distractors; AA, AB, BA and BB
HIDDEN_SIZE, BATCH_SIZE, LEARNING_RATE, CLIP, DEVIATION = 50, 20, 0.01, 1.0, 0.1
RADIUS = 0.95
TEST_SEQUENCES, MOST_ERRORS = 10_000, 0.01
KEY = ("weights", "length", "clips", "seed")
UPDATES_BETWEEN_TESTS = 2_000


class Model(torch.nn.Module):
    """tanh units and a linear layer on the last state; weights from N(0, 0.1^2), biases zero.

    ``weights`` is "normal", or "scaled" for recurrent weights of spectral radius 0.95.
    """

    def __init__(self, weights):
        super().__init__()
        self.rnn = rnnfused.TokenRNN(SYMBOLS, HIDDEN_SIZE)
        self.head = torch.nn.Linear(HIDDEN_SIZE, CLASSES)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(0, DEVIATION) if parameter.dim() > 1 else parameter.zero_()
            if weights == "scaled":
                recurrent = self.rnn.weight_hh_l0
                recurrent *= RADIUS / torch.linalg.eigvals(recurrent).abs().max()

    def forward(self, ids):
        """Ids (T, B) to logits (B, 4)."""
        return self.head(self.rnn(ids)[1][0])


def sequences(length, count, generator):
    """Returns ids (T, count), and the classes (count,)."""
    ids = torch.randint(2, SYMBOLS, (length, count), generator=generator)
    rows, symbols = torch.arange(count), torch.randint(2, (2, count), generator=generator)
    for which, first_tenth in enumerate((1, 4)):
        begin, end = first_tenth * length // 10, (first_tenth + 1) * length // 10
        ids[torch.randint(begin, end, (count,), generator=generator), rows] = symbols[which]
    return ids, 2 * symbols[0] + symbols[1]


@torch.no_grad()
def error_rate(model, length, count, generator):
    """Returns the share of unseen sequences whose order the model mistakes."""
    ids, classes = sequences(length, count, generator)
    return (model(ids).argmax(1) != classes).float().mean().item()


def run(weights, length, clips, seed, most_updates):
    """Trains one model. Returns its record."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = Model(weights)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    started, errors, clipped = time.perf_counter(), 1.0, 0
    progress = tqdm(
        range(1, most_updates + 1),
        f"{weights} weights, T {length}, clip {clips}, seed {seed}",
        leave=False,
        disable=None,  # on a terminal only
    )
    for update in progress:
        ids, classes = sequences(length, BATCH_SIZE, generator)
        optimizer.zero_grad()
        F.cross_entropy(model(ids), classes).backward()
        if clips:
            clipped += rnnfused.clip_gradients(CLIP, model) > CLIP
        optimizer.step()
        if update % UPDATES_BETWEEN_TESTS:
            continue
        errors = error_rate(model, length, TEST_SEQUENCES // 10, generator)
        progress.set_postfix(errors=f"{errors:.1%}")
        if errors <= MOST_ERRORS:
            errors = error_rate(model, length, TEST_SEQUENCES, generator)
        if errors <= MOST_ERRORS or not all(p.isfinite().all() for p in model.parameters()):
            break
    return {
        "weights": weights,
        "length": length,
        "clips": clips,
        "seed": seed,
        "succeeds": errors <= MOST_ERRORS,
        "errors": errors,
        "updates": update,
        "most_updates": most_updates,
        "clipped_updates": int(clipped),
        "seconds": round(time.perf_counter() - started, 1),
    }


def main():
    """Makes the missing runs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--weights", nargs="+", default=["scaled", "normal"])
    parser.add_argument("--lengths", type=int, nargs="+", default=[10, 20, 30, 50, 100, 150, 200])
    parser.add_argument("--seeds", type=int, default=3, help="runs per length and way")
    parser.add_argument("--updates", type=int, default=336_000, help="the most updates of a run")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a batch of 20 rows is too small to share
    ways = itertools.product(
        range(arguments.seeds), arguments.weights, arguments.lengths, (True, False)
    )
    for seed, weights, length, clips in ways:
        records = load(RESULTS)
        key = (weights, length, clips, seed)
        enough = (r for r in records if r["most_updates"] >= arguments.updates or r["succeeds"])
        if key in {tuple(r[name] for name in KEY) for r in enough}:
            continue
        records.append(run(weights, length, clips, seed, arguments.updates))
        save(RESULTS, records, KEY)


if __name__ == "__main__":
    main()
