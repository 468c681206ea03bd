"""The bigram baseline, against counts made by hand."""

import math
import sys

import pytest
import torch

from rnnfused.lm import Bigram, StreamBatches, fit_bigram


def test_bigram_probabilities_by_hand():
    # a a b a b c: the pairs aa ab ba ab bc, so after a: one a, two b; after b: one a, one c.
    bigram = Bigram(torch.tensor([0, 0, 1, 0, 1, 2]), vocab_size=3, alpha=0.5)
    first = torch.arange(3).repeat_interleave(3).view(3, 3)
    second = torch.arange(3).repeat(3).view(3, 3)
    expected = torch.tensor(
        [
            [1.5 / 4.5, 2.5 / 4.5, 0.5 / 4.5],
            [1.5 / 3.5, 0.5 / 3.5, 1.5 / 3.5],
            [1 / 3, 1 / 3, 1 / 3],
        ],
        dtype=torch.float64,
    )
    torch.testing.assert_close(bigram.log_prob(first, second).exp(), expected)


def test_bigram_perplexity_by_hand_over_windows():
    bigram = Bigram(torch.tensor([0, 0, 1, 0, 1, 2]), vocab_size=3, alpha=0.5)
    # Two streams, 0 1 2 and 2 0 0: scored are 01, 12 and 20, 00; p = 2.5/4.5 1.5/3.5 1/3 1.5/4.5.
    batches = StreamBatches(torch.tensor([0, 1, 2, 0, 0]), batch_size=2, num_steps=1)
    product = (2.5 / 4.5) * (1.5 / 3.5) * (1 / 3) * (1.5 / 4.5)
    assert bigram.perplexity(batches) == pytest.approx(product ** (-1 / 4))


def test_bigram_probabilities_sum_to_one():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(50, (2000,), generator=generator, dtype=torch.int32)
    bigram = fit_bigram(ids, 50)
    first = torch.arange(50).repeat_interleave(50).view(50, 50)
    sums = bigram.log_prob(first, torch.arange(50).expand(50, 50)).exp().sum(1)
    torch.testing.assert_close(sums, torch.ones(50, dtype=torch.float64))


def test_alpha_is_chosen_on_the_end_of_the_training_ids():
    # A fixed cycle: less smoothing is better.
    assert fit_bigram(torch.arange(1000) % 10, 10, alphas=(1.0, 0.1, 0.01)).alpha == 0.01
    # Noise: repeated pairs are chance, so strong smoothing is better.
    noise = torch.randint(100, (1000,), generator=torch.Generator().manual_seed(0))
    assert fit_bigram(noise, 100, alphas=(0.01, 10.0, 0.1)).alpha == 10.0
    # The best alpha is then fitted on all ids, including the held-out end.
    best = fit_bigram(noise, 100, alphas=(0.01, 10.0, 0.1))
    expected = Bigram(noise, 100, 10.0).log_prob(noise[:-1], noise[1:])
    assert torch.equal(best.log_prob(noise[:-1], noise[1:]), expected)
    # Too short for a held-out end: the first alpha.
    assert fit_bigram(torch.tensor([0, 1]), 2, alphas=(0.3, 0.1)).alpha == 0.3


def test_a_large_alphabet_needs_no_large_table():
    ids = torch.tensor([0, 999_999, 0, 999_999])
    bigram = Bigram(ids, vocab_size=1_000_000, alpha=1.0)
    assert bigram.log_prob(ids[:1], ids[1:2]).item() == pytest.approx(math.log(3 / 1_000_002))


@pytest.mark.parametrize("table", [2**22, 0])
def test_bigram_counts_in_pieces(monkeypatch, table):
    ids = torch.randint(30, (1000,), generator=torch.Generator().manual_seed(1))
    counts = torch.zeros(30, 30, dtype=torch.float64)
    for first, second in zip(ids[:-1].tolist(), ids[1:].tolist()):
        counts[first, second] += 1
    first = torch.arange(30).repeat_interleave(30)
    second = torch.arange(30).repeat(30)
    expected = (counts + 0.5) / (counts.sum(1, keepdim=True) + 15)
    module = sys.modules[Bigram.__module__]
    monkeypatch.setattr(module, "_TABLE", table)
    for piece in (1, 7, 998, 999, 1000, 2**22):
        monkeypatch.setattr(module, "_PIECE", piece)
        given = Bigram(ids, 30, 0.5).log_prob(first, second).exp()
        torch.testing.assert_close(given.view(30, 30), expected)
        for wrong in (-1, 30):
            with pytest.raises(ValueError, match=r"ids must lie in 0 .. 29"):
                Bigram(torch.cat([ids, torch.tensor([wrong])]), 30, 0.5)


def test_a_fit_counts_once_for_all_alphas(monkeypatch):
    counted = []
    real = torch.bincount
    monkeypatch.setattr(
        torch, "bincount", lambda ids, **k: counted.append(len(ids)) or real(ids, **k)
    )
    fit_bigram(torch.arange(1000) % 10, 10)
    assert sum(counted) == 899 + 99 + 999


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.uint32])
def test_bigram_of_any_integer_dtype(dtype):
    ids = torch.tensor([0, 0, 1, 0, 1, 2])
    expected = Bigram(ids, 3, 0.5)
    narrow = Bigram(ids.to(dtype), 3, 0.5)
    first, second = ids[:-1], ids[1:]
    for bigram in (expected, narrow):
        given = bigram.log_prob(first.to(dtype), second.to(dtype))
        assert torch.equal(given, expected.log_prob(first, second))


@pytest.mark.parametrize("wrong", [-1, 3, 7])
def test_bigram_refuses_ids_out_of_range(wrong):
    bigram = Bigram(torch.tensor([0, 1, 2]), 3, alpha=1)
    good, bad = torch.tensor([0]), torch.tensor([wrong])
    with pytest.raises(IndexError, match="first must lie in 0 .. 2, got"):
        bigram.log_prob(bad, good)
    with pytest.raises(IndexError, match="second must lie in 0 .. 2, got"):
        bigram.log_prob(good, bad)


def test_fitting_names_ids_that_are_no_tensor():
    with pytest.raises(TypeError, match="ids must be a tensor of integers, got int"):
        fit_bigram(3, 3)


def test_ids_beyond_int64_are_shown_as_given():
    far = torch.tensor([1, 2**64 - 1], dtype=torch.uint64)
    values = f"got values from 1 to {2**64 - 1}"
    with pytest.raises(IndexError, match=values):
        Bigram(torch.tensor([0, 1, 2]), 3, alpha=1).log_prob(far, far)
    with pytest.raises(ValueError, match=values):
        Bigram(far, 3, alpha=1)


def test_bigram_refuses_wrong_arguments():
    ids = torch.tensor([0, 1, 2])
    with pytest.raises(TypeError, match="ids must be a tensor of integers, got torch.float32"):
        Bigram(ids.float(), 3, alpha=1)
    with pytest.raises(TypeError, match="ids must be a tensor of integers, got list"):
        Bigram([0, 1, 2], 3, alpha=1)
    with pytest.raises(TypeError, match="second must be a tensor of integers, got torch.float32"):
        Bigram(ids, 3, alpha=1).log_prob(ids, ids.float())
    with pytest.raises(ValueError, match="alpha must be above 0, got 0"):
        Bigram(ids, 3, alpha=0)
    with pytest.raises(ValueError, match=r"ids must lie in 0 .. 1"):
        Bigram(ids, 2, alpha=1)
    with pytest.raises(ValueError, match=r"at least 2 symbols, got shape \(1,\)"):
        Bigram(ids[:1], 3, alpha=1)
    with pytest.raises(ValueError, match="alpha must be above 0, got -1"):
        fit_bigram(ids, 3, alphas=(1, -1))
    with pytest.raises(ValueError, match="alphas must hold at least one"):
        fit_bigram(ids, 3, alphas=())
    with pytest.raises(ValueError, match="num_symbols"):
        Bigram(ids, 3, alpha=1).perplexity([])
