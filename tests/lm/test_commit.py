"""A checkpoint is one commit: crashes, readers beside a writer, a second writer."""

import errno
import itertools
import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from test_train import SMALL, TEXT

from rnnfused.lm import load_checkpoint, save_checkpoint, train
from rnnfused.lm.checkpoint import store
from rnnfused.lm.checkpoint.lock import LOCK
from rnnfused.lm.checkpoint.run_folder import RunFolder

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and flock")


@pytest.fixture
def folder(tmp_path, models, vocab):
    save_checkpoint(tmp_path, models[0], vocab)
    return tmp_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def kept(folder):
    """What a folder holds that only has its checkpoint."""
    record = json.loads((folder / "model.json").read_text())
    return sorted(["model.json", record["weights"]])


def loaded(folder):
    """Which of the two models loads."""
    checkpoint = load_checkpoint(folder)
    value = checkpoint.model.head.bias[0].item()
    assert checkpoint.record["settings"] in ({}, {"value": value})
    return value


def save_for_ever(folder, models, vocab, ready=None):
    while True:
        for value, model in enumerate(models, 1):
            save_checkpoint(folder, model, vocab, settings={"value": value})
        if ready is not None:
            os.write(ready, b"x")
            ready = None


def fork(function, *arguments):
    """The id of a child that runs ``function``; exit code 3 if that raises, 0 if it returns."""
    child = os.fork()
    if child == 0:
        try:
            function(*arguments)
            os._exit(0)
        except BaseException:
            os._exit(3)
    return child


@posix
def test_a_kill_at_any_moment_leaves_a_checkpoint(folder, models, vocab):
    chance = random.Random(0)
    seen = set()
    is_ready, ready = os.pipe()
    for _ in range(40):
        child = fork(save_for_ever, folder, models, vocab, ready)
        os.read(is_ready, 1)
        time.sleep(chance.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        seen.add(loaded(folder))
    os.close(is_ready)
    os.close(ready)
    assert seen == {1.0, 2.0}
    # The lock went with its owner, and the next run clears what was left behind.
    with RunFolder(folder):
        assert names(folder) == sorted([LOCK, *kept(folder)])
    assert names(folder) == kept(folder)


@posix
def test_readers_beside_a_writer_never_fail(folder, models, vocab):
    child = fork(save_for_ever, folder, models, vocab)
    try:
        seen = {loaded(folder) for _ in range(400)}
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert seen == {1.0, 2.0}


def test_weights_that_vanish_while_they_are_read(folder, models, vocab, monkeypatch):
    real, committed = store._read_file, []

    def slow(path):
        if path.suffix == ".safetensors" and len(committed) < 5:
            # A newer pass is committed after the record was read.
            committed.append(path)
            save_checkpoint(folder, models[len(committed) % 2], vocab)
        return real(path)

    monkeypatch.setattr(store, "_read_file", slow)
    assert loaded(folder) == 2.0
    assert len(committed) == 5


@posix
@pytest.mark.parametrize("format_1", [False, True])
@pytest.mark.parametrize("moment", range(11))
def test_a_crash_at_each_step(folder, models, vocab, moment, format_1):
    if format_1:
        record = json.loads((folder / "model.json").read_text())
        (folder / record.pop("weights")).rename(folder / "model.safetensors")
        (folder / "model.json").write_text(json.dumps(record | {"format": 1}))

    def save():
        steps = itertools.count()

        def crashing(real):
            return lambda *arguments, **keywords: (
                os._exit(9) if next(steps) == moment else real(*arguments, **keywords)
            )

        for name in ("fsync", "replace", "unlink"):
            setattr(os, name, crashing(getattr(os, name)))
        save_checkpoint(folder, models[1], vocab, settings={"value": 2.0})

    # fsync of both files; rename and fsync of the folder, twice; removal of what is left over.
    code = os.waitstatus_to_exitcode(os.waitpid(fork(save), 0)[1])
    assert code == 9 or (code == 0 and moment > 6)
    assert loaded(folder) == (1.0 if moment < 5 else 2.0)
    with RunFolder(folder):
        pass
    assert loaded(folder) == (1.0 if moment < 5 else 2.0)
    if format_1 and moment < 5:
        assert names(folder) == ["model.json", "model.safetensors"]
    else:
        assert names(folder) == kept(folder)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(errno.ENOSPC, "No space left")])
@pytest.mark.parametrize("moment", range(6))
def test_an_error_at_each_step_leaves_no_litter(folder, models, vocab, monkeypatch, moment, error):
    steps = []

    def failing(real):
        def step(*arguments):
            steps.append(real)
            if len(steps) == moment + 1:
                raise error
            return real(*arguments)

        return step

    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with monkeypatch.context() as patch:
        for name in ("fsync", "replace"):
            patch.setattr(os, name, failing(getattr(os, name)))
        with pytest.raises(type(error) if isinstance(error, OSError) else error):
            save_checkpoint(folder, models[1], vocab)
    assert names(folder) == kept(folder)
    if moment < 5:
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert loaded(folder) == (2.0 if moment == 5 else 1.0)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_spares_the_earlier_checkpoint(folder, models, vocab, monkeypatch):
    def full(path, data):
        with open("/dev/full", "wb") as file:
            file.write(data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(folder, models[1], vocab)
    assert names(folder) == kept(folder)
    assert loaded(folder) == 1.0


def test_the_same_model_again_keeps_its_weights(folder, models, vocab):
    before = names(folder)
    save_checkpoint(folder, models[0], vocab, settings={"value": 1.0})
    assert names(folder) == before
    assert loaded(folder) == 1.0


def test_no_files_of_others_are_removed(folder, models, vocab):
    others = ["model-x.safetensors", "model-0123456789abcdef.bin",
              "other-0123456789abcdef.safetensors", "optimizer.safetensors",
              ".model.json.tmp", "model.json.bak"]  # fmt: skip
    for name in others:
        (folder / name).write_text("mine")
    for name in ("model-0123456789abcdef.safetensors", ".model.json.0123abcd.tmp",
                 ".model-0123456789abcdef.safetensors.0123abcd.tmp"):  # fmt: skip
        (folder / name).write_text("left by a crash")
    save_checkpoint(folder, models[1], vocab)
    assert names(folder) == sorted([*kept(folder), *others])


def test_beside_a_damaged_record_nothing_is_removed(folder):
    (folder / "model.json").write_text("{")
    before = names(folder)
    with RunFolder(folder):
        pass
    assert names(folder) == before


def test_a_run_clears_what_killed_runs_left(tmp_path):
    litter = [".model.json.0123abcd.tmp", ".model.safetensors.0123abcd.tmp",
              ".loss.png.01234567.tmp", ".metrics.jsonl.0123abcd.tmp",
              ".model-0123456789abcdef.safetensors.0123abcd.tmp",
              "model-0123456789abcdef.safetensors", LOCK]  # fmt: skip
    for name in litter:
        (tmp_path / name).write_text("x")
    (tmp_path / ".mine.0123abcd.tmp").write_text("x")
    train(TEXT, tmp_path, SMALL)
    expected = [*kept(tmp_path), "loss.png", "metrics.jsonl", ".mine.0123abcd.tmp"]
    assert names(tmp_path) == sorted(expected)


def test_a_folder_without_fsync_is_used_all_the_same(folder, models, vocab, monkeypatch):
    real = os.fsync

    def files_only(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    save_checkpoint(folder, models[1], vocab)
    assert loaded(folder) == 2.0
