"""The training program, on a text small enough to be learned in a second."""

import dataclasses
import json
import math
import os

import pytest
import torch
from runs import SMALL, TEXT, contents, files, kept

from rnnfused.lm import (
    StreamBatches,
    TextError,
    TrainSettings,
    Vocab,
    evaluate_ids,
    fit_bigram,
    load_checkpoint,
    split_text,
    train,
)
from rnnfused.lm.checkpoint import lock
from rnnfused.lm.distributed import TrainingLoss
from rnnfused.lm.schedule import warmup_cosine


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_speed(metrics):
    return [
        {key: row[key] for key in row if "seconds" not in key[:7] and key != "symbols_per_second"}
        for row in metrics
    ]


def test_learns_logs_and_saves(tmp_path, capsys):
    metrics = train(TEXT, tmp_path / "new" / "run", SMALL)
    folder = tmp_path / "new" / "run"
    assert sorted(path.name for path in folder.iterdir()) == files(folder)

    assert rows(folder) == metrics
    assert [row["epoch"] for row in metrics] == [1, 2, 3]
    validation = [row["validation_perplexity"] for row in metrics]
    assert validation[0] > validation[-1]
    assert 1 < validation[-1] < 0.8 * metrics[-1]["bigram_perplexity"]
    assert all(row["symbols_per_second"] > 0 and row["seconds"] > 0 for row in metrics)

    output = capsys.readouterr().out
    for row in metrics:
        for name in ("train", "validation", "bigram"):
            assert f"{row[f'{name}_perplexity']:.3f}" in output
    assert "epoch 3/3" in output
    sample = output.partition("sample:\n")[2]
    assert sample.startswith("a") and len(sample) > 500

    png = (folder / "loss.png").read_bytes()
    assert png.startswith(b"\x89PNG") and png.endswith(b"IEND\xaeB`\x82")


def test_metrics_are_those_of_the_saved_model_over_the_same_symbols(tmp_path):
    metrics = train(TEXT, tmp_path, SMALL, source="a.txt")
    model, vocab, record = load_checkpoint(tmp_path)
    assert record["metrics"] == metrics
    others = {"source": "a.txt", "valid": None, "test": None}
    others["threads"] = torch.get_num_threads()
    assert record["settings"] == SMALL.to_json() | others

    training, validation = split_text(TEXT, 0.1)
    assert vocab == Vocab(training)
    ids = vocab.encode(validation)
    result = evaluate_ids(model, ids)
    assert result.perplexity == pytest.approx(metrics[-1]["validation_perplexity"])
    assert result.bits_per_character == pytest.approx(metrics[-1]["validation_bits_per_character"])
    batches = StreamBatches(ids, 1, len(ids) - 1)
    bigram = fit_bigram(vocab.encode(training), len(vocab)).perplexity(batches)
    assert bigram == pytest.approx(metrics[-1]["bigram_perplexity"])


def test_first_training_perplexity_is_near_that_of_guessing(tmp_path):
    # One window, so this is the untrained model's perplexity: four symbols with "<unk>".
    settings = TrainSettings(hidden_size=8, num_layers=1, num_steps=160, batch_size=4, epochs=1)
    metrics = train(TEXT, tmp_path, settings)
    assert metrics[0]["train_perplexity"] == pytest.approx(4, rel=0.2)


def test_seeded(tmp_path):
    settings = TrainSettings(**(SMALL.to_json() | {"dropout": 0.2, "epochs": 2}))
    first = without_speed(train(TEXT, tmp_path / "a", settings))
    torch.rand(5)
    assert without_speed(train(TEXT, tmp_path / "b", settings)) == first
    assert files(tmp_path / "a") == files(tmp_path / "b")
    other = TrainSettings(**(settings.to_json() | {"seed": 1}))
    assert without_speed(train(TEXT, tmp_path / "c", other)) != first


def test_state_is_carried_and_detached(tmp_path, monkeypatch):
    seen = []
    loss = TrainingLoss.forward

    def spy(model, x, y, state):
        result = loss(model, x, y, state)
        seen.append((state, result[1]))
        return result

    monkeypatch.setattr(TrainingLoss, "forward", spy)
    train(TEXT, tmp_path, TrainSettings(**(SMALL.to_json() | {"epochs": 2})))
    windows = len(seen) // 2
    assert windows > 5
    for index, (given, _) in enumerate(seen):
        if index % windows == 0:
            assert given is None
        else:
            assert torch.equal(given, seen[index - 1][1])
            assert not given.requires_grad


def test_gradients_are_clipped_and_the_learning_rate_follows_its_schedule(tmp_path, monkeypatch):
    norms, rates = [], []
    step = torch.optim.AdamW.step

    def spy(optimizer, *arguments):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(torch.nn.utils.get_total_norm(gradients).item())
        rates.append(optimizer.param_groups[0]["lr"])
        return step(optimizer, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    train(TEXT, tmp_path, TrainSettings(**(SMALL.to_json() | {"clip": 0.01, "epochs": 1})))
    assert max(norms) == pytest.approx(0.01, rel=1e-3)
    shares = [warmup_cosine(update, len(rates)) for update in range(len(rates))]
    assert rates == pytest.approx([0.02 * share for share in shares])


def test_validation_text_may_hold_unseen_symbols(tmp_path):
    metrics = train(TEXT + "!?" * 40, tmp_path, SMALL)
    assert math.isfinite(metrics[-1]["validation_perplexity"])
    assert load_checkpoint(tmp_path).vocab["!"] == 0


def test_short_validation_part_is_scored_in_fewer_streams(tmp_path):
    settings = TrainSettings(**(SMALL.to_json() | {"epochs": 1, "validation_fraction": 0.005}))
    assert len(train(TEXT, tmp_path, settings)) == 1


def test_wrong_texts_and_prefixes_are_refused_before_any_write(tmp_path):
    with pytest.raises(TextError, match="too short"):
        train("abc", tmp_path, SMALL)
    with pytest.raises(ValueError, match="batch_size=4 streams of num_steps=16 need 65"):
        train("abc" * 20, tmp_path, SMALL)
    with pytest.raises(ValueError, match="prefix .* got 'Z' at position 1"):
        train(TEXT, tmp_path, SMALL, prefix="aZ")
    for wrong in (3, None, b"x"):
        with pytest.raises(TypeError, match=f"out must be a str or a path, got {wrong}"):
            train(TEXT, wrong, SMALL)
    for wrong in ({}, None):
        with pytest.raises(TypeError, match=f"settings must be a TrainSettings, got {wrong}"):
            train(TEXT, tmp_path, wrong)
    with pytest.raises(TypeError, match="prefix must be a str or None, got 3"):
        train(TEXT, tmp_path, SMALL, prefix=3)
    for name in ("resume", "overwrite", "tensorboard", "profile_gradients"):
        with pytest.raises(TypeError, match=f"{name} must be a bool, got 'x'"):
            train(TEXT, tmp_path, SMALL, **{name: "x"})
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError):
        train(TEXT, tmp_path / "file", SMALL)


@pytest.mark.parametrize("with_locks", [True, False])
def test_an_unwritable_folder_is_reported_before_training(
    tmp_path, monkeypatch, capsys, with_locks
):
    # Some file systems refuse new files even where the permissions allow them.
    def refuse(path, flags, *arguments, **keywords):
        if flags & os.O_CREAT:
            raise FileNotFoundError(2, "No such file or directory", path)
        return real(path, flags, *arguments, **keywords)

    real = os.open
    monkeypatch.setattr(os, "open", refuse)
    if not with_locks:
        monkeypatch.setattr(lock, "fcntl", None)
    with pytest.raises(OSError, match="out folder .* cannot be written to: No such file"):
        train(TEXT, tmp_path, SMALL)
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_model_too_large_for_the_memory_leaves_no_folder(tmp_path):
    settings = TrainSettings(**(SMALL.to_json() | {"hidden_size": 2**31 - 1}))
    with pytest.raises(RuntimeError, match="allocate|Storage size calculation overflowed"):
        train(TEXT, tmp_path / "run", settings)
    assert list(tmp_path.iterdir()) == []


def test_a_closed_stderr_gets_no_progress_bar(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    assert len(train(TEXT, tmp_path, SMALL)) == SMALL.epochs


@pytest.mark.parametrize("weight_decay", [1e30, 1e308])
def test_divergence_keeps_the_last_good_files(tmp_path, weight_decay):
    train(TEXT, tmp_path, SMALL)
    before = contents(tmp_path)
    with pytest.raises(FloatingPointError):
        train(TEXT, tmp_path, TrainSettings(**(SMALL.to_json() | {"weight_decay": weight_decay})))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("moment", range(10))
def test_interrupt_at_any_write_leaves_whole_files(tmp_path, monkeypatch, moment):
    replaced = []
    replace = os.replace

    def interrupted(source, target):
        if len(replaced) == moment:
            raise KeyboardInterrupt
        replaced.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(TEXT, tmp_path, dataclasses.replace(SMALL, epochs=2))
    # An epoch makes four renames: weights, state of the run, record, metrics. Two plots follow.
    names = {path.name for path in tmp_path.iterdir()}
    if moment < 3:
        # The record was not written, so the files that it was to name were removed.
        assert names == set()
        return
    present = set(kept(tmp_path))
    if moment > 3:
        present |= {"metrics.jsonl"}
        assert len(rows(tmp_path)) == (1 if moment < 8 else 2)
    if moment > 8:
        present |= {"loss.png"}
        assert (tmp_path / "loss.png").read_bytes().endswith(b"IEND\xaeB`\x82")
    assert names == present
    record = load_checkpoint(tmp_path).record
    assert len(record["metrics"]) == (1 if moment < 7 else 2)
    assert record["progress"]["finished"] == (moment >= 7)


def test_letters_only_prepares_text_and_prefix_and_is_recorded(tmp_path, capsys):
    settings = TrainSettings(**(SMALL.to_json() | {"letters_only": True, "epochs": 1}))
    train(TEXT.upper().replace("CC", "?!C"), tmp_path, settings, prefix="A, B")
    assert "sample:\na b" in capsys.readouterr().out
    model, vocab, record = load_checkpoint(tmp_path)
    assert vocab == Vocab("abc ")
    assert record["settings"]["letters_only"] is True


def test_learning_rate_warms_up_and_decays():
    shares = [warmup_cosine(update, 100) for update in range(100)]
    assert shares[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert all(a > b for a, b in zip(shares[5:], shares[6:]))
    assert shares[5] == 1 and 0.01 < shares[-1] < 0.012
    assert warmup_cosine(52, 100) == pytest.approx(0.505, abs=0.01)
    assert warmup_cosine(0, 1) == 1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"hidden_size": 0}, ValueError, "hidden_size must be at least 1, got 0"),
        ({"num_layers": 0}, ValueError, "num_layers must be at least 1, got 0"),
        ({"num_steps": -1}, ValueError, "num_steps must be at least 1, got -1"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"passes": 0}, ValueError, "passes must be at least 1, got 0"),
        ({"passes": 2, "epochs": 3}, ValueError, "one setting; got epochs=3 and passes=2"),
        ({"hidden_size": 10**23}, ValueError, "hidden_size must be at most 2147483647, got 1000"),
        ({"num_layers": 10**9}, ValueError, "num_layers must be at most 1000, got 1000000000"),
        ({"num_steps": 2**31}, ValueError, "num_steps must be at most 2147483647"),
        ({"batch_size": 2**64}, ValueError, "batch_size must be at most 2147483647"),
        ({"epochs": 2**31}, ValueError, "epochs must be at most 2147483647"),
        ({"epochs": 1.5}, TypeError, "epochs must be an int, got 1.5"),
        ({"lr": 0}, ValueError, "lr must be above 0 and at most 1, got 0"),
        ({"lr": 1e30}, ValueError, "lr must be above 0 and at most 1, got 1e"),
        ({"lr": math.nan}, ValueError, "lr must be above 0"),
        ({"lr": "1"}, TypeError, "lr must be a float, got '1'"),
        ({"clip": -1.0}, ValueError, "clip must be finite and above 0, got -1"),
        ({"weight_decay": -1.0}, ValueError, "weight_decay must be finite and at least 0"),
        ({"dropout": 1.0}, ValueError, "dropout must lie in"),
        ({"validation_fraction": 1.0}, ValueError, "validation_fraction must lie between"),
        ({"seed": -1}, ValueError, "seed must lie in 0"),
        (
            {"device": "toaster"},
            ValueError,
            "device must be one that works here, cpu.* got 'toaster'$",
        ),
        ({"device": "meta"}, ValueError, "device must be one that works here, cpu.* got 'meta'$"),
        ({"epochs": 0}, ValueError, "epochs must be at least 1, got 0"),
        ({"eval_steps": 0}, ValueError, "eval_steps must be at least 1, got 0"),
        ({"patience": 0}, ValueError, "patience must be at least 1, got 0"),
        ({"save_steps": 1.5}, TypeError, "save_steps must be an int, got 1.5"),
        ({"save_minutes": 0}, ValueError, "save_minutes must be finite and above 0, got 0"),
        ({"minutes": 0}, ValueError, "minutes must be finite and above 0, got 0"),
        ({"minutes": "5"}, TypeError, "minutes must be a float, got '5'"),
        (
            {"optimizer": "lion"},
            ValueError,
            "optimizer must be one of sgd, adam, adamw, got 'lion'",
        ),
        ({"schedule": "step"}, ValueError, "schedule must be one of cosine, constant, got 'step'"),
        ({"precision": "int8"}, ValueError, "precision must be one of float32, bfloat16"),
        (
            {"sampler": "all"},
            ValueError,
            "sampler must be one of streams, random, uniform, got 'all'",
        ),
        ({"recurrent_init": "zero"}, ValueError, "recurrent_init must be one of uniform, orthog"),
        ({"level": "byte"}, ValueError, "level must be one of char, word, got 'byte'"),
        ({"betas": (0.9,)}, TypeError, r"betas must be two floats, got \(0.9,\)"),
        ({"betas": (0.9, 1.0)}, ValueError, r"betas must lie in \[0, 1\), got 1.0"),
        ({"average": 1.0}, ValueError, r"average must lie in \[0, 1\), got 1.0"),
        ({"reset_probability": -0.1}, ValueError, r"reset_probability must lie in \[0, 1\)"),
        ({"warmup": 1}, ValueError, r"warmup must lie in \[0, 1\), got 1"),
        ({"final_lr": 2}, ValueError, r"final_lr must lie in \[0, 1\], got 2"),
        ({"min_count": 0}, ValueError, "min_count must be at least 1, got 0"),
        ({"embedding_size": 0}, ValueError, "embedding_size must be at least 1, got 0"),
        ({"tied": True, "embedding_size": 3}, ValueError, "embedding_size must equal hidden_size"),
        ({"letters_only": 1}, TypeError, "letters_only must be a bool, got 1"),
        ({"device": None}, TypeError, "device must be a str"),
        (
            {"warmup": 0.1, "schedule": "constant"},
            ValueError,
            "^warmup must not be given with schedule='constant', where it has no effect: it needs",
        ),
        ({"final_lr": 0.1, "schedule": "constant"}, ValueError, "^final_lr must not be given with"),
        ({"betas": [0.5, 0.5], "optimizer": "sgd"}, ValueError, "^betas must not be given with"),
        ({"weight_decay": 0.1, "optimizer": "adam"}, ValueError, "^weight_decay must not be given"),
        ({"reset_probability": 0.0, "sampler": "random"}, ValueError, "^reset_probability must no"),
        (
            {"epochs": 9, "minutes": 1.5},
            ValueError,
            "^epochs must not be given with minutes=1.5, where it has no effect$",
        ),
    ],
)
def test_settings_refuse(change, error, message):
    with pytest.raises(error, match=message):
        TrainSettings(**change)


def test_recorded_settings_without_effect_become_defaults():
    # Runs of earlier versions could have them.
    old = TrainSettings().to_json() | {"optimizer": "sgd", "betas": [0.5, 0.5], "warmup": 0.25}
    assert TrainSettings.from_json(old) == TrainSettings(optimizer="sgd", warmup=0.25)
    old |= {"minutes": 2.5, "epochs": 3, "schedule": "constant"}
    expected = TrainSettings(optimizer="sgd", minutes=2.5, schedule="constant")
    assert TrainSettings.from_json(old) == expected
