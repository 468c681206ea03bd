"""A run that was stopped or killed goes on to the same bits; what cannot go on is refused."""

import dataclasses
import json
import os
import random
import signal
import time

import pytest
import torch
from runs import SMALL, TEXT, TINY, contents, fork, kept, names, posix, to_format_2
from test_cli import error_of

from rnnfused.lm import (
    CheckpointError,
    TrainSettings,
    UnfinishedRunError,
    load_checkpoint,
    save_checkpoint,
    train,
)
from rnnfused.lm.checkpoint import _run_sum, load_run, saved_run
from rnnfused.lm.cli import main
from rnnfused.lm.run import Run
from rnnfused.wording import quantity

# All that a step can depend on.
EVERYTHING = dataclasses.replace(
    SMALL,
    num_layers=2,
    dropout=0.2,
    average=0.9,
    reset_probability=0.2,
    betas=(0.5, 0.9),
    epochs=4,
    save_steps=3,
    eval_steps=8,
)
RUNS = {
    "everything": EVERYTHING,
    "plain": dataclasses.replace(SMALL, save_steps=3),
    "sgd": dataclasses.replace(SMALL, optimizer="sgd", lr=0.5, schedule="constant", save_steps=4),
    "random": dataclasses.replace(
        EVERYTHING,
        sampler="random",
        reset_probability=TrainSettings.reset_probability,
        optimizer="adam",
    ),
    "bfloat16": dataclasses.replace(EVERYTHING, precision="bfloat16"),
    "embedding": dataclasses.replace(EVERYTHING, embedding_size=24, tied=True),
}


class Stop(Exception):
    """Ends a run as a crash does: nothing is saved on the way out."""


def without_times(metrics):
    timed = ("seconds", "symbols_per_second")
    return [{key: row[key] for key in row if key not in timed} for row in metrics]


def bits(folder):
    """All that a finished run leaves, but times."""
    checkpoint, tensors = load_run(folder)
    progress = checkpoint.record["progress"]
    assert progress.pop("elapsed") >= 0 and progress.pop("seconds") >= 0
    tensors |= {f"best/{name}": value for name, value in checkpoint.model.state_dict().items()}
    last = load_checkpoint(folder, which="last").model.state_dict()
    tensors |= {f"last/{name}": value for name, value in last.items()}
    return progress, without_times(checkpoint.record["metrics"]), tensors


def assert_equal_runs(folder, other):
    (progress, metrics, tensors), (others, other_metrics, other_tensors) = bits(folder), bits(other)
    assert progress == others
    assert metrics == other_metrics
    assert set(tensors) == set(other_tensors)
    different = [name for name in tensors if not torch.equal(tensors[name], other_tensors[name])]
    assert different == []


def stop_at(monkeypatch, step):
    real = Run.take_step

    def take_step(run):
        if run.progress.step == step:
            raise Stop
        return real(run)

    monkeypatch.setattr(Run, "take_step", take_step)


@pytest.mark.parametrize("between", [True, False], ids=["between epochs", "in an epoch"])
def test_the_epoch_that_goes_on_is_named(tmp_path, monkeypatch, capsys, between):
    train(TEXT, tmp_path / "whole", SMALL)
    steps = load_run(tmp_path / "whole")[0].record["progress"]["step"] // SMALL.epochs
    settings = dataclasses.replace(SMALL, save_steps=1)
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_at(patch, steps if between else steps - 1)
        train(TEXT, tmp_path / "parts", settings)
    capsys.readouterr()
    train(TEXT, tmp_path / "parts", settings, resume=True)
    step, epoch = (steps, 2) if between else (steps - 1, 1)
    assert f"goes on at step {step}, epoch {epoch}\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", RUNS)
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, monkeypatch, name):
    settings = RUNS[name]
    train(TEXT, tmp_path / "whole", settings)
    steps = load_run(tmp_path / "whole")[0].record["progress"]["step"]
    # Between two saves, and in another epoch each time.
    for step in (7, 17, steps - 1):
        with monkeypatch.context() as patch, pytest.raises(Stop):
            stop_at(patch, step)
            train(TEXT, tmp_path / "parts", settings, resume=step > 7)
        torch.rand(3)  # a new process would have other random numbers
        saved = load_run(tmp_path / "parts")[0].record["progress"]["step"]
        assert step - settings.save_steps < saved <= step
    train(TEXT, tmp_path / "parts", settings, resume=True)
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")
    assert (tmp_path / "whole" / "metrics.jsonl").read_text().count("\n") == (
        tmp_path / "parts" / "metrics.jsonl"
    ).read_text().count("\n")


@posix
def test_kills_at_random_moments_lose_at_most_one_interval(tmp_path):
    settings = dataclasses.replace(EVERYTHING, epochs=8)
    train(TEXT, tmp_path / "whole", settings)
    out, chance, kills = tmp_path / "parts", random.Random(0), 0
    for _ in range(12):
        resume = (out / "model.json").exists()
        child = fork(lambda: train(TEXT, out, settings, resume=resume))
        time.sleep(chance.uniform(0.05, 0.6))
        os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (-signal.SIGKILL, 0)
        kills += code != 0
        if code == 0:
            break
    train(TEXT, out, settings, resume=(out / "model.json").exists())
    assert kills > 3
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


def test_a_finished_run_has_nothing_left_to_do(tmp_path, capsys):
    metrics = train(TEXT, tmp_path, SMALL)
    before = contents(tmp_path)
    capsys.readouterr()
    assert train(TEXT, tmp_path, SMALL, resume=True) == metrics
    output = capsys.readouterr().out
    assert "the run is finished, since step" in output and "goes on" not in output
    assert contents(tmp_path) == before


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_at(patch, 15)
        train(TEXT, tmp_path / "run", RUNS["plain"], source="a.txt")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 25}, "hidden_size must be 24, as in the run that is resumed, got 25"),
        ({"lr": 0.01}, "lr must be 0.02, as in the run that is resumed, got 0.01"),
        ({"betas": (0.8, 0.9)}, r"betas must be \(0.9, 0.999\), as in the run that is resumed"),
        ({"epochs": 4}, "epochs must be 3, as in the run that is resumed, got 4"),
        (
            {"minutes": 1.0, "epochs": 8},
            "minutes must be None, as in the run that is resumed, got 1.0",
        ),
        ({"seed": 1}, "seed must be 0, as in the run that is resumed, got 1"),
        ({"validation_fraction": 0.2}, "validation_fraction must be 0.1, as in the run"),
    ],
)
def test_other_settings_are_named(stopped, change, message):
    before = contents(stopped)
    with pytest.raises(ValueError, match=message):
        train(TEXT, stopped, dataclasses.replace(RUNS["plain"], **change), resume=True)
    assert contents(stopped) == before


def test_settings_that_no_step_depends_on_may_change(stopped):
    settings = dataclasses.replace(RUNS["plain"], save_steps=None, save_minutes=1, patience=9)
    assert len(train(TEXT, stopped, settings, resume=True)) == 3


def test_a_constant_rate_lets_a_run_become_longer(tmp_path):
    settings = dataclasses.replace(RUNS["sgd"], epochs=2)
    train(TEXT, tmp_path / "parts", settings)
    longer = dataclasses.replace(settings, epochs=4)
    train(TEXT, tmp_path / "parts", longer, resume=True)
    train(TEXT, tmp_path / "whole", longer)
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("other", [TEXT[:-1], TEXT.replace("b", "d"), TEXT[::-1]])
def test_another_text_is_refused(stopped, other):
    need = "text must be that of the run that is resumed"
    with pytest.raises(ValueError, match=f"^{need}, 'a.txt', got a text of no file$"):
        train(other, stopped, RUNS["plain"], resume=True)
    with pytest.raises(ValueError, match=f"^{need}, but it has changed: 'a.txt'$"):
        train(other, stopped, RUNS["plain"], resume=True, source="a.txt")
    with pytest.raises(ValueError, match="text must be that of the run"):
        train(TEXT, stopped, RUNS["plain"], valid=TEXT[:100], resume=True)


def test_a_folder_without_the_state_of_a_run(tmp_path, folder):
    for convert in (lambda _: None, to_format_2):
        convert(folder)
        with pytest.raises(CheckpointError, match="holds a model that no run can go on from"):
            train(TEXT, folder, SMALL, resume=True)
    absent = tmp_path / "absent"
    with pytest.raises(FileNotFoundError, match="nothing to resume: no checkpoint in .*absent"):
        train(TEXT, absent, SMALL, resume=True)
    assert not absent.exists()


def record_of(folder):
    return json.loads((folder / "model.json").read_text())


@pytest.mark.parametrize("field", ["training", "last"])
@pytest.mark.parametrize("damage", ["truncated", "bit", "missing", "foreign"])
def test_damaged_files_of_a_run(stopped, field, damage):
    path = stopped / record_of(stopped)[field]
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "foreign":
        path.write_bytes(b"\x80\x04nonsense")
    elif damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[-1] ^= 1
        path.write_bytes(data)
    error = FileNotFoundError if damage == "missing" else CheckpointError
    with pytest.raises(error, match=r"is missing|is damaged"):
        train(TEXT, stopped, RUNS["plain"], resume=True)
    with pytest.raises(error):
        load_checkpoint(stopped, which="last")
    if record_of(stopped)["weights"] != path.name:
        load_checkpoint(stopped)  # the best model is whole


@pytest.mark.parametrize(
    "change", [{"progress": {}}, {"text": "0" * 64}, {"settings": {}}, {"metrics": []}]
)
def test_an_edited_record_of_a_run(stopped, change):
    record = record_of(stopped)
    (stopped / "model.json").write_text(json.dumps(record | change))
    with pytest.raises(CheckpointError, match="the state of the run .* is damaged"):
        load_run(stopped)


def test_nothing_is_unpickled(stopped, monkeypatch):
    import pickle

    def refuse(*_, **__):
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    assert len(train(TEXT, stopped, RUNS["plain"], resume=True)) == 3


def test_an_unfinished_run_is_not_replaced_by_accident(stopped, capsys):
    before, settings = contents(stopped), RUNS["plain"]
    reason = "holds an unfinished run, saved at step 15: resume=True goes .* overwrite=True repl"
    with pytest.raises(UnfinishedRunError, match=reason):
        train(TEXT, stopped, settings)
    with pytest.raises(ValueError, match="overwrite=True and resume=True exclude each other"):
        train(TEXT, stopped, settings, resume=True, overwrite=True)
    (stopped.parent / "a.txt").write_text(TEXT)
    command = ["train", str(stopped.parent / "a.txt"), "--out", str(stopped), *TINY]
    assert error_of(capsys, command) == (
        f"folder {str(stopped)!r} holds an unfinished run, saved at step 15: --resume goes on with "
        "it, --overwrite replaces it; or choose another folder"
    )
    assert contents(stopped) == before
    assert main([*command, "--overwrite"]) == 0
    shown = f"replaces the unfinished run in {str(stopped)!r}, saved at step 15\n"
    assert shown in capsys.readouterr().out
    # That one is finished.
    train(TEXT, stopped, dataclasses.replace(settings, epochs=1))
    assert f"replaces the finished run in {str(stopped)!r}, saved" in capsys.readouterr().out


def test_each_end_of_a_run_is_recorded(tmp_path, monkeypatch):
    def finished():
        return load_run(tmp_path)[0].record["progress"]["finished"]

    constant = dataclasses.replace(RUNS["sgd"], epochs=1)
    train(TEXT, tmp_path, constant)
    assert finished()
    # A longer run that goes on is unfinished again.
    longer = dataclasses.replace(constant, epochs=9)
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_at(patch, 17)
        train(TEXT, tmp_path, longer, resume=True)
    assert not finished()
    # It ends by the clock without another step, or by its patience after the next evaluation.
    clock = dataclasses.replace(longer, epochs=TrainSettings.epochs, minutes=1e-9, patience=1)
    train(TEXT, tmp_path, clock, resume=True)
    assert finished()


def test_the_record_of_an_earlier_version_has_no_end(tmp_path):
    train(TEXT, tmp_path, SMALL)
    record = record_of(tmp_path)
    del record["progress"]["finished"]
    data = {name: (tmp_path / record[name]).read_bytes() for name in ("last", "training")}
    record["run_sha256"] = _run_sum(record, data)
    (tmp_path / "model.json").write_text(json.dumps(record))
    with pytest.raises(UnfinishedRunError):
        train(TEXT, tmp_path, SMALL)
    # There is no step left to take, but the mark is made.
    assert len(train(TEXT, tmp_path, SMALL, resume=True)) == 3
    assert record_of(tmp_path)["progress"]["finished"] is True


def test_a_model_that_is_saved_alone_replaces_the_run(stopped, models, vocab):
    save_checkpoint(stopped, models[0], vocab)
    present = set(names(stopped)) - {"metrics.jsonl", "loss.png", "perplexity.png"}
    assert present == set(kept(stopped)) and len(present) == 2


def test_the_interval_in_minutes(tmp_path, monkeypatch):
    saves = []
    save, take_step = Run.save, Run.take_step

    def counted(run):
        saves.append(run.progress.step)
        save(run)

    def timed(run):
        run.clock -= 30  # seconds that the step seems to take
        return take_step(run)

    monkeypatch.setattr(Run, "save", counted)
    monkeypatch.setattr(Run, "take_step", timed)
    settings = TrainSettings(**(SMALL.to_json() | {"save_minutes": 2.0, "epochs": 1}))
    train(TEXT, tmp_path, settings)
    assert saves == [4, 8, 11]


def test_the_best_model_outlives_a_stop(tmp_path, monkeypatch):
    measured, values = Run.measured, iter([4.0, 3.0, 5.0, 6.0, 7.0, 8.0])

    def fake(run, part, model, batches):
        result = measured(run, part, model, batches)
        return result | {"validation_perplexity": next(values)}

    monkeypatch.setattr(Run, "measured", fake)
    settings = dataclasses.replace(SMALL, epochs=5, save_steps=3)
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_at(patch, 38)
        train(TEXT, tmp_path, settings)
    best = load_checkpoint(tmp_path).model.head.bias
    train(TEXT, tmp_path, settings, resume=True)
    assert torch.equal(load_checkpoint(tmp_path).model.head.bias, best)
    assert load_run(tmp_path)[0].record["progress"]["best"] == 3.0
    assert not torch.equal(load_checkpoint(tmp_path, which="last").model.head.bias, best)


@pytest.mark.parametrize("content", [b"{", b"hi\n", b"[1]"])
def test_a_damaged_record_is_not_replaced(tmp_path, content):
    (tmp_path / "model.json").write_bytes(content)
    with pytest.raises(UnfinishedRunError, match="may be an unfinished run: .*overwrite=True"):
        train(TEXT, tmp_path, SMALL)
    assert (tmp_path / "model.json").read_bytes() == content
    train(TEXT, tmp_path, SMALL, overwrite=True)
    assert saved_run(tmp_path).finished


def test_another_number_of_threads_is_reported(tmp_path, capsys):
    train(TEXT, tmp_path, SMALL)
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        train(TEXT, tmp_path, SMALL, resume=True)
    finally:
        torch.set_num_threads(before)
    error = capsys.readouterr().err
    assert f"the run used {quantity(before, 'thread')} and goes on with {before + 1}" in error
