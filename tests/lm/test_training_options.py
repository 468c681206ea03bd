"""Each option of training does what it says; without it, its test fails."""

import dataclasses
import json
import math

import pytest
import torch
from runs import SMALL, TEXT

from rnnfused.lm import (
    CharLM,
    CharLMConfig,
    TrainSettings,
    build_corpus,
    evaluate_ids,
    load_checkpoint,
    train,
)
from rnnfused.lm.average import WeightAverage
from rnnfused.lm.distributed import TrainingLoss
from rnnfused.lm.metrics import heading
from rnnfused.lm.run import Run
from rnnfused.lm.schedule import rate_at, warmup_cosine
from rnnfused.lm.timetable import Timetable


def settings_of(**changes):
    return dataclasses.replace(SMALL, **changes)


@pytest.fixture
def runs(monkeypatch):
    """Every run of the test, and a list of what its steps saw: (rate, hidden before, loss)."""
    made = []
    loop = Run.loop

    def noted(run, interrupts):
        made.append(run)
        loop(run, interrupts)

    monkeypatch.setattr(Run, "loop", noted)
    return made


@pytest.fixture
def rates(monkeypatch):
    """The learning rates of all steps."""
    seen = []
    for kind in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
        monkeypatch.setattr(kind, "step", noting(kind.step, seen))
    return seen


def noting(step, seen):
    def noted(optimizer, *arguments):
        seen.append(optimizer.param_groups[0]["lr"])
        return step(optimizer, *arguments)

    return noted


# ---- model


def test_the_shape_of_the_model(tmp_path):
    shape = {
        "num_layers": 2,
        "nonlinearity": "relu",
        "embedding_size": 24,
        "tied": True,
        "dropout": 0.25,
    }
    train(TEXT, tmp_path, settings_of(**shape, epochs=1))
    config = load_checkpoint(tmp_path).model.config.to_json()
    assert {name: config[name] for name in shape} == shape
    # Each differs from its default.
    defaults = TrainSettings().to_json()
    assert all(defaults[name] != shape[name] for name in shape)


def test_orthogonal_hidden_to_hidden_weights(tmp_path, runs, monkeypatch):
    monkeypatch.setattr(Run, "take_step", lambda run: pytest.fail("no step is taken"))
    monkeypatch.setattr(Timetable, "is_done", lambda *_: True)
    monkeypatch.setattr(Run, "finish", lambda *_: None)
    for name in ("orthogonal", "uniform"):
        train(TEXT, tmp_path, settings_of(num_layers=2, recurrent_init=name))
        for layer in range(2):
            weight = getattr(runs[-1].model.rnn, f"weight_hh_l{layer}").detach()
            product = weight @ weight.t()
            near = torch.allclose(product, torch.eye(len(product)), atol=1e-5)
            assert near == (name == "orthogonal")


# ---- text


def test_validation_and_test_texts(tmp_path, capsys):
    valid, test = tmp_path / "valid.txt", tmp_path / "test.txt"
    valid.write_text(TEXT[:130])
    test.write_text("abc" * 50)
    metrics = train(TEXT, tmp_path / "run", settings_of(epochs=2), valid=valid, test=test)
    output = capsys.readouterr().out
    assert "720 characters to train on, 130 to validate on" in output
    model, vocab, record = load_checkpoint(tmp_path / "run")
    ids = vocab.encode("abc" * 50)
    expected = evaluate_ids(model, ids).perplexity
    assert metrics[-1]["test_perplexity"] == pytest.approx(expected)
    assert metrics[-1]["test_bits_per_character"] == pytest.approx(math.log2(expected))
    assert f"test perplexity {expected:.3f}" in output
    assert record["metrics"] == metrics and "test_perplexity" not in metrics[0]
    assert record["settings"]["valid"] == str(valid) and record["settings"]["test"] == str(test)


def test_words_and_their_bits_per_character(tmp_path, capsys):
    text = "one two three four. " * 60 + "once"
    settings = settings_of(level="word", min_count=2, epochs=1, num_steps=4)
    metrics = train(text, tmp_path, settings)
    vocab = load_checkpoint(tmp_path).vocab
    assert vocab.level == "word" and "two" in vocab and "once" not in vocab
    bits = math.log2(metrics[0]["validation_perplexity"])
    # Five characters a word, a space included.
    assert metrics[0]["validation_bits_per_character"] == pytest.approx(bits / 5, rel=0.05)
    output = capsys.readouterr().out
    assert "217 words to train on (0.0% unknown), 24 to validate on (4.2% unknown), 6 s" in output


def test_the_share_of_unknown_symbols_of_each_text():
    text = "one two three four\n" * 4
    corpus = build_corpus(text, valid="one five\n", test="six seven\n" * 2, level="word")
    assert heading(corpus, 1234, 3) == (
        "text: 20 words to train on (0.0% unknown), 3 to validate on (33.3% unknown), "
        "6 to test on (66.7% unknown), 6 symbols; model: 1,234 parameters; 3 processes"
    )
    # A few unknown characters are no news.
    corpus = build_corpus("abc" * 9, valid="b" * 1999 + "z", test="xyza")
    assert heading(corpus, 5, 1) == (
        "text: 27 characters to train on, 2,000 to validate on, 4 to test on (75.0% unknown), "
        "4 symbols; model: 5 parameters"
    )


def test_random_windows_carry_nothing(tmp_path, monkeypatch):
    states, starts = [], []
    loss = TrainingLoss.forward

    def spy(model, x, y, state):
        states.append(state)
        starts.append(x[:, 0].tolist())
        return loss(model, x, y, state)

    monkeypatch.setattr(TrainingLoss, "forward", spy)
    for sampler, overlap in (("random", False), ("uniform", True)):
        states.clear(), starts.clear()
        # Each symbol once in the text: a window's first one tells its place.
        settings = settings_of(sampler=sampler, epochs=2)
        train("".join(map(chr, range(0x4E00, 0x4E00 + 400))), tmp_path, settings)
        assert all(state is None for state in states) and len(states) > 8
        half = len(starts) // 2
        assert starts[:half] != starts[half:]
        places = sorted(sum(starts[:half], []))
        gaps = [b - a for a, b in zip(places, places[1:])]
        assert (min(gaps) < settings.num_steps) == overlap


# ---- carried states


def test_carried_states_are_reset_with_the_probability(tmp_path, monkeypatch):
    given, ends = [], [None]
    loss = TrainingLoss.forward

    def spy(model, x, y, state):
        result = loss(model, x, y, state)
        given.append((state, ends[-1]))
        ends.append(result[1].detach())
        return result

    monkeypatch.setattr(TrainingLoss, "forward", spy)
    train(TEXT * 4, tmp_path, settings_of(batch_size=16, epochs=6, reset_probability=0.25))
    cold = total = 0
    for state, end in given:
        if state is None:
            continue
        zeros = (state == 0).all(dim=2)[0]
        # The other streams keep theirs.
        assert torch.equal(state[:, ~zeros], end[:, ~zeros])
        cold, total = cold + int(zeros.sum()), total + len(zeros)
    assert total > 500 and 0.2 < cold / total < 0.3


# ---- optimizers and rates


@pytest.mark.parametrize(
    ("name", "kind"),
    [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)],
)
def test_the_optimizer(tmp_path, runs, name, kind):
    options = {"betas": (0.25, 0.5)} if name != "sgd" else {}
    options |= {"weight_decay": 0.125} if name == "adamw" else {}
    train(TEXT, tmp_path, settings_of(optimizer=name, epochs=1, **options))
    optimizer = runs[0].optimizer
    assert type(optimizer) is kind
    group = optimizer.param_groups[0]
    if name != "sgd":
        assert group["betas"] == (0.25, 0.5)
    assert group["weight_decay"] == (0.125 if name == "adamw" else 0)
    assert set(group["params"]) == set(runs[0].model.parameters())


def test_a_constant_rate(tmp_path, rates):
    train(TEXT, tmp_path, settings_of(schedule="constant", lr=0.01, epochs=1))
    assert len(rates) == 11 and set(rates) == {0.01}


def test_the_cosine_by_steps(tmp_path, rates):
    settings = settings_of(warmup=0.25, final_lr=0.5, lr=0.01)
    train(TEXT, tmp_path, settings)
    assert len(rates) == 33
    assert rates[:8] == pytest.approx([0.01 * (i + 1) / 8 for i in range(8)])
    assert rates[8] == 0.01 and all(a > b for a, b in zip(rates[8:], rates[9:]))
    assert 0.005 < rates[-1] < 0.0051


def test_the_cosine_by_the_clock():
    settings = TrainSettings(minutes=10, lr=1.0, optimizer="sgd")
    seconds = [0, 15, 29, 30, 315, 599, 600, 10_000]
    shares = [rate_at(settings, 5, 7, second) for second in seconds]
    assert shares[0] == 0.02 and shares[1] == pytest.approx(0.52) and shares[3] == 1
    assert shares[4] == pytest.approx((1 + 0.01) / 2, abs=0.01)
    assert shares[-2] == shares[-1] == pytest.approx(0.01)
    # Without minutes the clock has no part in it.
    steps = dataclasses.replace(settings, minutes=None)
    assert rate_at(steps, 5, 7, 0) == rate_at(steps, 5, 7, 99) == warmup_cosine(5, 7)


def test_the_end_by_the_clock(tmp_path, monkeypatch, rates, capsys):
    take_step = Run.take_step

    def timed(run):
        run.clock -= 6  # seconds that the step seems to take
        return take_step(run)

    monkeypatch.setattr(Run, "take_step", timed)
    metrics = train(TEXT, tmp_path, settings_of(minutes=2, epochs=TrainSettings.epochs))
    # Twenty steps, the last of them within an epoch of eleven.
    assert [row["step"] for row in metrics] == [11, 20]
    assert [row["epoch"] for row in metrics] == [1, pytest.approx(20 / 11)]
    output = capsys.readouterr().out
    assert "epoch 1, minute 1.1/2  perplexity" in output and "epoch 1.82, minute 2.0/2" in output
    assert rates[0] < rates[3] > rates[12] > rates[19] > 0


def test_the_share_of_clipped_steps(tmp_path, capsys):
    for clip, share in ((1e-9, 1), (1e9, 0)):
        metrics = train(TEXT, tmp_path, settings_of(clip=clip, epochs=1))
        assert metrics[0]["clipped_share"] == share
        assert f"clipped {share:.0%}" in capsys.readouterr().out


def test_bfloat16(tmp_path, monkeypatch):
    seen = []
    loss = TrainingLoss.forward

    def spy(model, x, y, state):
        result = loss(model, x, y, state)
        seen.append(model.model.hidden(x, state)[0].dtype)
        return result

    monkeypatch.setattr(TrainingLoss, "forward", spy)
    for precision, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        seen.clear()
        metrics = train(TEXT, tmp_path, settings_of(precision=precision))
        assert set(seen) == {dtype}
        assert metrics[-1]["validation_perplexity"] < 2
        # Weights and evaluation stay as they are.
        assert load_checkpoint(tmp_path).model.head.bias.dtype == torch.float32


# ---- averages


def test_the_average_of_weights_by_hand():
    torch.manual_seed(0)
    model = CharLM(CharLMConfig(5, hidden_size=3, num_layers=1))
    average = WeightAverage(model, 0.5)
    assert average.model is not model and not average.model.head.bias.requires_grad
    expected = model.head.bias.detach().clone()
    for step in range(12):
        with torch.no_grad():
            model.head.bias.add_(1)
        average.update(model, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.head.bias.detach()
        torch.testing.assert_close(average.model.head.bias, expected)


def test_the_averaged_model_is_evaluated_and_kept(tmp_path, runs):
    metrics = train(TEXT, tmp_path, settings_of(average=0.8))
    averaged = runs[0].state.average.model.state_dict()
    last = load_checkpoint(tmp_path, which="last").model
    for name, value in last.state_dict().items():
        assert torch.equal(value, averaged[name])
        assert not torch.equal(value, runs[0].model.state_dict()[name])
    assert evaluate_ids(last, runs[0].validation).perplexity == metrics[-1]["validation_perplexity"]


# ---- evaluations


def test_evaluations_every_few_steps(tmp_path):
    metrics = train(TEXT, tmp_path, settings_of(eval_steps=8))
    assert [row["step"] for row in metrics] == [8, 16, 24, 32, 33]
    assert metrics[-1]["epoch"] == 3
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == metrics


def worse_from(monkeypatch, first):
    """Measured perplexity rises from evaluation number ``first`` on."""
    measured, values = Run.measured, []

    def fake(run, part, model, batches):
        values.append(0)
        result = measured(run, part, model, batches)
        if part == "validation":
            result["validation_perplexity"] = float(abs(len(values) - first) + 2)
        return result

    monkeypatch.setattr(Run, "measured", fake)


def test_the_best_model_is_kept_beside_the_last(tmp_path, monkeypatch, runs):
    weights = []
    evaluation = Run.evaluate

    def noted(run):
        evaluation(run)
        weights.append(run.state.evaluated.head.bias.detach().clone())

    monkeypatch.setattr(Run, "evaluate", noted)
    worse_from(monkeypatch, 2)
    metrics = train(TEXT, tmp_path, settings_of(epochs=5))
    assert [row["validation_perplexity"] for row in metrics] == [3, 2, 3, 4, 5]
    assert torch.equal(load_checkpoint(tmp_path).model.head.bias, weights[1])
    assert torch.equal(load_checkpoint(tmp_path, which="last").model.head.bias, weights[4])
    assert not torch.equal(weights[1], weights[4])


def test_patience_ends_a_run_that_no_longer_improves(tmp_path, monkeypatch, capsys):
    worse_from(monkeypatch, 2)
    metrics = train(TEXT, tmp_path, settings_of(epochs=9, patience=3))
    assert len(metrics) == 5
    assert "ends after 3 evaluations without a new best one" in capsys.readouterr().out
    train(TEXT, tmp_path / "one", settings_of(epochs=9, patience=1))
    assert "ends after 1 evaluation without a new best one" in capsys.readouterr().out


def test_a_run_that_replaces_another_says_so(tmp_path, capsys):
    settings = settings_of(epochs=1)
    train(TEXT, tmp_path, settings)
    assert "replaces" not in capsys.readouterr().out
    train(TEXT, tmp_path, settings, resume=True)
    assert "replaces" not in capsys.readouterr().out
    train(TEXT, tmp_path, settings)
    shown = f"replaces the finished run in {str(tmp_path)!r}, saved at step 11\n"
    assert shown in capsys.readouterr().out


# ---- steps that fail


def failing(monkeypatch, steps, value=math.nan):
    """Losses of these calls, counted from 0, are ``value``; a returned run counts on."""
    loss, calls = TrainingLoss.forward, []

    def fake(model, x, y, state):
        result, state = loss(model, x, y, state)
        calls.append(0)
        return (result * value if len(calls) - 1 in steps else result), state

    monkeypatch.setattr(TrainingLoss, "forward", fake)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_step_that_is_not_finite_is_skipped_and_counted(tmp_path, monkeypatch, capsys, value):
    failing(monkeypatch, {4, 5, 6, 7, 20}, value)
    metrics = train(TEXT, tmp_path, SMALL)
    assert [row["skipped_steps"] for row in metrics] == [4, 5, 5]
    assert [row["returns"] for row in metrics] == [0, 0, 0]
    assert "  5 steps skipped  " in capsys.readouterr().out
    assert metrics[-1]["validation_perplexity"] < 2


def test_after_five_in_a_row_the_run_goes_back_with_half_the_rate(
    tmp_path, monkeypatch, capsys, rates, runs
):
    failing(monkeypatch, set(range(17, 22)))
    metrics = train(TEXT, tmp_path, settings_of(schedule="constant", save_steps=6))
    # Saved after steps 6, 11 and 12, of which the last is whole again after step 22.
    assert "step 22: 5 steps in a row had no finite loss and gradient; goes back to step 12" in (
        capsys.readouterr().out
    )
    assert rates == [0.02] * 17 + [0.01] * (33 - 12)
    assert metrics[-1]["returns"] == 1 and metrics[-1]["skipped_steps"] == 5
    assert [row["step"] for row in metrics] == [11, 22, 33]
    assert runs[0].progress.rate_scale == 0.5


def test_a_return_restores_the_weights_of_the_save(tmp_path, monkeypatch, runs):
    failing(monkeypatch, set(range(17, 22)))
    seen = []
    go_back = Run.go_back

    def noted(run, reason):
        go_back(run, reason)
        seen.append((run.model.head.bias.detach().clone(), run.kept[1]["model/head.bias"]))
        assert run.state.hidden is not None

    monkeypatch.setattr(Run, "go_back", noted)
    train(TEXT, tmp_path, settings_of(save_steps=6))
    assert len(seen) == 1 and torch.equal(*seen[0])


def test_divergence_without_end_ends_the_run(tmp_path, monkeypatch):
    failing(monkeypatch, range(10**6))
    with pytest.raises(FloatingPointError, match="diverged in epoch 1, again after 8 returns"):
        train(TEXT, tmp_path / "run", SMALL)
    assert not (tmp_path / "run").exists()


def test_a_skipped_step_is_never_saved(tmp_path, monkeypatch):
    failing(monkeypatch, {5, 11})
    saves = []
    save = Run.save

    def noted(run):
        saves.append(run.progress.step)
        save(run)

    monkeypatch.setattr(Run, "save", noted)
    train(TEXT, tmp_path, settings_of(save_steps=3))
    assert saves == [3, 9, 11, 15, 18, 21, 22, 24, 27, 30, 33]
