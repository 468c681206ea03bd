"""A checkpoint is committed as a whole: crashes, concurrent readers, errors on the way."""

import errno
import itertools
import os
import random
import signal
import time
from pathlib import Path

import pytest
from runs import (
    SMALL,
    TEXT,
    contents,
    files,
    fork,
    kept,
    loaded,
    names,
    posix,
    to_format_1,
)

from rnnfused.lm import save_checkpoint, train
from rnnfused.lm.checkpoint import store
from rnnfused.lm.checkpoint.atomic import replacing
from rnnfused.lm.checkpoint.lock import LOCK
from rnnfused.lm.checkpoint.run_folder import RunFolder


def save_forever(folder, models, vocab, ready=None):
    while True:
        for value, model in enumerate(models, 1):
            save_checkpoint(folder, model, vocab, settings={"value": value})
        if ready is not None:
            os.write(ready, b"x")
            ready = None


@posix
def test_a_kill_at_any_moment_leaves_a_checkpoint(folder, models, vocab):
    chance = random.Random(0)
    seen = set()
    is_ready, ready = os.pipe()
    for _ in range(40):
        child = fork(save_forever, folder, models, vocab, ready)
        os.read(is_ready, 1)
        time.sleep(chance.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        seen.add(loaded(folder))
    os.close(is_ready)
    os.close(ready)
    assert seen == {1.0, 2.0}
    # The lock ended with its owner, and the next run removes the unfinished files.
    with RunFolder(folder):
        assert names(folder) == sorted([LOCK, *kept(folder)])
    assert names(folder) == kept(folder)


@posix
def test_concurrent_readers_never_fail(folder, models, vocab):
    child = fork(save_forever, folder, models, vocab)
    try:
        seen = {loaded(folder) for _ in range(400)}
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert seen == {1.0, 2.0}


def test_weights_that_are_replaced_during_a_read(folder, models, vocab, monkeypatch):
    real, committed = store._read_file, []

    def slow(path):
        if path.suffix == ".safetensors" and len(committed) < 5:
            # A newer model is committed after the record was read.
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
        to_format_1(folder)

    def save():
        steps = itertools.count()

        def crashing(real):
            return lambda *arguments, **keywords: (
                os._exit(9) if next(steps) == moment else real(*arguments, **keywords)
            )

        for name in ("fsync", "replace", "unlink"):
            setattr(os, name, crashing(getattr(os, name)))
        save_checkpoint(folder, models[1], vocab, settings={"value": 2.0})

    # Steps: fsync of both files; rename and fsync of the folder, twice; removal of old files.
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
def test_an_error_at_each_step_leaves_no_files_behind(
    folder, models, vocab, monkeypatch, moment, error
):
    steps = []

    def failing(real):
        def step(*arguments):
            steps.append(real)
            if len(steps) == moment + 1:
                raise error
            return real(*arguments)

        return step

    before = contents(folder)
    with monkeypatch.context() as patch:
        for name in ("fsync", "replace"):
            patch.setattr(os, name, failing(getattr(os, name)))
        with pytest.raises(type(error) if isinstance(error, OSError) else error):
            save_checkpoint(folder, models[1], vocab)
    assert names(folder) == kept(folder)
    if moment < 5:
        assert contents(folder) == before
    assert loaded(folder) == (2.0 if moment == 5 else 1.0)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_leaves_the_earlier_checkpoint(folder, models, vocab, monkeypatch):
    def full(path, data):
        with open("/dev/full", "wb") as file:
            file.write(data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left") as failure:
        save_checkpoint(folder, models[1], vocab)
    assert failure.value.filename == str(folder)
    assert names(folder) == kept(folder)
    assert loaded(folder) == 1.0


def test_an_error_names_the_file_that_was_to_be_written(tmp_path):
    (tmp_path / "model.json").mkdir()
    for path, error in (
        (tmp_path / "model.json", IsADirectoryError),
        (tmp_path / "absent" / "model.json", FileNotFoundError),
    ):
        with pytest.raises(error) as failure, replacing(path) as [new]:
            new.write_text("{}")
        assert (failure.value.filename, failure.value.filename2) == (str(path), None)
    assert names(tmp_path) == ["model.json"]


def test_the_same_model_again_keeps_its_weights(folder, models, vocab):
    before = names(folder)
    save_checkpoint(folder, models[0], vocab, settings={"value": 1.0})
    assert names(folder) == before
    assert loaded(folder) == 1.0


def test_unrelated_files_stay(folder, models, vocab):
    others = [
        "model-x.safetensors",
        "model-0123456789abcdef.bin",
        "other-0123456789abcdef.safetensors",
        "optimizer.safetensors",
        ".model.json.tmp",
        "model.json.bak",
    ]
    for name in others:
        (folder / name).write_text("mine")
    for name in (
        "model-0123456789abcdef.safetensors",
        ".model.json.0123abcd.tmp",
        ".model-0123456789abcdef.safetensors.0123abcd.tmp",
    ):
        (folder / name).write_text("left by a crash")
    save_checkpoint(folder, models[1], vocab)
    assert names(folder) == sorted([*kept(folder), *others])


def test_nothing_is_removed_if_the_record_is_damaged(folder):
    (folder / "model.json").write_text("{")
    before = names(folder)
    with RunFolder(folder):
        pass
    assert names(folder) == before


def test_a_run_removes_the_files_of_killed_runs(tmp_path):
    left = [
        ".model.json.0123abcd.tmp",
        ".model.safetensors.0123abcd.tmp",
        ".loss.png.01234567.tmp",
        ".metrics.jsonl.0123abcd.tmp",
        ".perplexity.png.0123abcd.tmp",
        ".gradients.json.0123abcd.tmp",
        ".training-0123456789abcdef.safetensors.0123abcd.tmp",
        "training-0123456789abcdef.safetensors",
        ".model-0123456789abcdef.safetensors.0123abcd.tmp",
        "model-0123456789abcdef.safetensors",
        LOCK,
    ]
    for name in left:
        (tmp_path / name).write_text("x")
    (tmp_path / ".mine.0123abcd.tmp").write_text("x")
    train(TEXT, tmp_path, SMALL)
    assert names(tmp_path) == sorted([*files(tmp_path), ".mine.0123abcd.tmp"])


def test_a_folder_without_fsync_works(folder, models, vocab, monkeypatch):
    real = os.fsync

    def files_only(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    save_checkpoint(folder, models[1], vocab)
    assert loaded(folder) == 2.0
