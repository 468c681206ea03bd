"""Random numbers against published values, and the distribution of what is drawn."""

import pytest
import torch
from models import by_loop, by_op, make, prefixes

from rnnfused.generation import generate
from rnnfused.generation.choice import Choice, leave_out
from rnnfused.generation.philox import philox, uniforms

# The known answers of Salmon et al.'s Random123, philox4x32 with 10 rounds: counter, key, result.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_gives_the_published_numbers(counter, key, expected):
    words = philox(tuple(torch.tensor([word]) for word in counter), key)
    assert tuple(int(word) for word in words) == expected


def test_uniforms_take_the_words_in_order():
    counter, (key_0, key_1), (high, low, _, _) = KNOWN[2]
    step, stream = counter[0] | counter[1] << 32, counter[2] | counter[3] << 32
    seed = key_0 | key_1 << 32
    # A signed step and stream of 64 bits hold these words.
    signed = [value - 2**64 if value >= 2**63 else value for value in (step, stream)]
    got = uniforms(seed, torch.tensor([signed[1]]), signed[0], 1)
    assert got.item() == ((high << 32 | low) >> 11) / 2**53


def draws_of(seed, streams, first_step, count):
    """The op's uniform numbers, to 16 bits: the places of draws among 2 ** 16 equal logits."""
    vocab = 2**16
    rnn, head, _ = make(vocab=vocab, hidden=1)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    ids = torch.zeros(len(streams), 1, dtype=torch.long)
    with by_op():
        symbols, _ = generate(
            rnn, head, ids, count, seed=seed, streams=torch.tensor(streams), first_step=first_step
        )
    return symbols


@pytest.mark.parametrize("seed", [0, 1, 2**40 + 5, 2**63 - 1])
@pytest.mark.parametrize("first_step", [0, 2**32 - 3, 2**50])
def test_the_op_draws_the_same_numbers(seed, first_step):
    streams = [0, 1, 2**32, 2**63 - 1]
    expected = (uniforms(seed, torch.tensor(streams), first_step, 6) * 2**16).long()
    assert torch.equal(draws_of(seed, streams, first_step, 6), expected)


def test_all_bits_of_the_numbers_decide():
    # Two symbols, whose border lies 2^-44 above or below the number that the op must draw.
    rnn, head, _ = make(vocab=2, hidden=1, dtype=torch.float64)
    torch.nn.init.zeros_(head.weight)
    for step in range(10):
        u = uniforms(9, torch.tensor([3]), step, 1).item()
        for border, expected in ((u + 2**-44, 0), (u - 2**-44, 1)):
            with torch.no_grad():
                head.bias.copy_(torch.tensor([border, 1 - border], dtype=torch.float64).log())
            for context in (by_op, by_loop):
                with context():
                    options = {"seed": 9, "streams": torch.tensor([3]), "first_step": step}
                    symbols, _ = generate(rnn, head, prefixes(1, 1, 2), 1, **options)
                assert symbols.item() == expected


def chi_square(counts, probabilities):
    """Pearson's statistic, in standard deviations from its mean."""
    expected = probabilities * counts.sum()
    possible = expected > 0
    assert (counts[~possible] == 0).all()
    statistic = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    freedom = int(possible.sum()) - 1
    return float((statistic - freedom) / (2 * freedom) ** 0.5)


@pytest.mark.parametrize("context", [by_op, by_loop])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0},
        {"top_k": 6},
        {"top_p": 0.6},
        {"top_k": 9, "top_p": 0.9},
    ],
)
def test_symbols_have_their_probabilities(options, context):
    vocab = 20
    rnn, head, _ = make(vocab=vocab, dtype=torch.float64)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.normal_(head.bias)
    probabilities = torch.softmax(head.bias.detach() / options.get("temperature", 1.0), 0)
    likeliest, order = probabilities.sort(descending=True)
    kept = vocab if "top_k" not in options else options["top_k"]
    likeliest[kept:] = 0
    if "top_p" in options:
        enough = (likeliest.cumsum(0) / likeliest.sum() >= options["top_p"]).nonzero()[0, 0]
        likeliest[enough + 1 :] = 0
    probabilities = torch.zeros(vocab).double().scatter(0, order, likeliest / likeliest.sum())
    with context():
        # Rows and steps alike: neither the stream nor the step may bias the draws.
        rows, steps = (200, 100) if context is by_loop else (200, 2000)
        symbols, _ = generate(rnn, head, prefixes(rows, 1, vocab), steps, seed=12, **options)
    counts = symbols.flatten().bincount(minlength=vocab).double()
    assert abs(chi_square(counts, probabilities)) < 4
    # A draw does not depend on the one before.
    repeats = (symbols[:, 1:] == symbols[:, :-1]).double().mean()
    deviation = (symbols.numel() ** -0.5) * 3
    assert abs(repeats - (probabilities**2).sum()) < deviation


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (Choice(), [0.1, 0.4, 0.2, 0.3]),
        (Choice(top_k=2), [0, 0.4, 0, 0.3]),
        (Choice(top_k=9), [0.1, 0.4, 0.2, 0.3]),
        (Choice(top_p=0.3), [0, 0.4, 0, 0]),
        (Choice(top_p=0.5), [0, 0.4, 0, 0.3]),
        (Choice(top_k=3, top_p=0.7), [0, 0.4, 0, 0.3]),
        (Choice(top_k=3, top_p=0.8), [0, 0.4, 0.2, 0.3]),
        (Choice(top_k=1, top_p=0.1), [0, 0.4, 0, 0]),
    ],
)
def test_what_is_left_out(choice, expected):
    weights = torch.tensor([[0.1, 0.4, 0.2, 0.3]], dtype=torch.float64)
    assert leave_out(weights, choice).tolist() == [expected]
