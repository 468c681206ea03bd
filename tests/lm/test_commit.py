"""A checkpoint is one commit: crashes, readers beside a writer, a second writer."""

import errno
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from rnnfused.lm import (
    CharLM,
    CharLMConfig,
    FolderBusyError,
    load_checkpoint,
    lock,
    save_checkpoint,
    store,
    train,
)
from rnnfused.lm.lock import LOCK, FolderLock
from rnnfused.lm.results import RunFolder
from test_train import SMALL, TEXT

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and flock")


@pytest.fixture
def models(vocab):
    """Two models of one shape; the bias tells which one was loaded."""
    made = []
    for value in (1.0, 2.0):
        model = CharLM(CharLMConfig(len(vocab), hidden_size=4, num_layers=1))
        torch.nn.init.constant_(model.head.bias, value)
        made.append(model)
    return made


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
def test_an_error_at_each_step_leaves_no_litter(
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
    others = ["model-x.safetensors", "model-0123456789abcdef.bin", "other-0123456789abcdef.safetensors",
              "optimizer.safetensors", ".model.json.tmp", "model.json.bak"]  # fmt: skip
    for name in others:
        (folder / name).write_text("mine")
    (folder / "model-0123456789abcdef.safetensors").write_text("left by a crash")
    save_checkpoint(folder, models[1], vocab)
    assert names(folder) == sorted([*kept(folder), *others])


def test_beside_a_damaged_record_nothing_is_removed(folder):
    (folder / "model.json").write_text("{")
    before = names(folder)
    with RunFolder(folder):
        pass
    assert names(folder) == before


def test_a_run_clears_what_killed_runs_left(tmp_path):
    litter = [".model.json.0123abcd.tmp", ".model.safetensors.0123abcd.tmp", ".loss.png.01234567.tmp",
              ".metrics.jsonl.0123abcd.tmp", ".model-0123456789abcdef.safetensors.0123abcd.tmp",
              "model-0123456789abcdef.safetensors", LOCK]  # fmt: skip
    for name in litter:
        (tmp_path / name).write_text("x")
    (tmp_path / ".mine.0123abcd.tmp").write_text("x")
    train(TEXT, tmp_path, SMALL)
    expected = [*kept(tmp_path), "loss.png", "metrics.jsonl", ".mine.0123abcd.tmp"]
    assert names(tmp_path) == sorted(expected)


# ---- one writer


@posix
def test_a_second_writer_is_refused_and_touches_nothing(folder, models, vocab, tmp_path_factory):
    link = tmp_path_factory.mktemp("elsewhere") / "link"
    link.symlink_to(folder)
    with RunFolder(folder):
        (folder / ".loss.png.0123abcd.tmp").write_text("being written")
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        for path in (folder, link, os.path.relpath(folder)):
            with pytest.raises(FolderBusyError, match="is in use: another run writes there"):
                save_checkpoint(path, models[1], vocab)
            with pytest.raises(FolderBusyError, match="is in use: another run writes there"):
                train(TEXT, path, SMALL)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        assert loaded(folder) == 1.0
    save_checkpoint(link, models[1], vocab)
    assert loaded(folder) == 2.0


@posix
def test_a_second_command_is_refused_in_one_line(folder, tmp_path_factory):
    book = tmp_path_factory.mktemp("book") / "book.txt"
    book.write_text(TEXT)
    with RunFolder(folder):
        before = names(folder)
        done = subprocess.run(
            [sys.executable, "-m", "rnnfused.lm", "train", book, "--out", folder, "--passes", "1"],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert names(folder) == before
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert f"rnnfused: error: folder {str(folder)!r} is in use" in done.stderr


@posix
def test_two_threads_take_turns_or_are_refused(folder, models, vocab):
    refused, failed = [], []

    def save(model):
        for _ in range(30):
            try:
                save_checkpoint(folder, model, vocab)
            except FolderBusyError as error:
                refused.append(error)
            except BaseException as error:
                failed.append(error)

    threads = [threading.Thread(target=save, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert loaded(folder) in (1.0, 2.0)
    assert names(folder) == kept(folder)


@posix
def test_a_forked_child_has_not_the_lock(folder):
    ready, go = os.pipe()
    held = FolderLock(folder)
    child = fork(os.read, ready, 1)  # outlives the lock's owner
    try:
        held.release()
        with FolderLock(folder) as again:
            assert again.excludes
            # Nor does a child that ends its copy take the file or the lock away.
            assert os.waitstatus_to_exitcode(os.waitpid(fork(again.release), 0)[1]) == 0
            assert (folder / LOCK).exists()
            with pytest.raises(FolderBusyError):
                FolderLock(folder)
    finally:
        os.write(go, b"x")
        os.waitpid(child, 0)
        os.close(ready)
        os.close(go)


@posix
def test_a_lock_on_a_removed_file_is_not_taken_for_one(folder, monkeypatch):
    real, owner = lock.fcntl.flock, [FolderLock(folder)]

    def late(descriptor, operation):
        if owner:
            # Between the second one's open and its flock, the first one ends.
            owner.pop().release()
        return real(descriptor, operation)

    monkeypatch.setattr(lock.fcntl, "flock", late)
    with FolderLock(folder):
        with pytest.raises(FolderBusyError):
            FolderLock(folder)


@posix
def test_a_file_system_without_locks_is_said_and_used(folder, models, vocab, monkeypatch, capsys):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    save_checkpoint(folder, models[1], vocab)
    assert loaded(folder) == 2.0
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "cannot be locked (No locks available): make sure that nothing else writes" in error
    # Whose the temporary files are is not known then.
    (folder / ".model.json.0123abcd.tmp").write_text("another run's")
    with RunFolder(folder):
        assert (folder / ".model.json.0123abcd.tmp").exists()


def test_without_the_module_for_locks(folder, models, vocab, monkeypatch):
    monkeypatch.setattr(lock, "fcntl", None)
    save_checkpoint(folder, models[1], vocab)
    assert names(folder) == kept(folder)


def test_a_folder_without_fsync_is_used_all_the_same(folder, models, vocab, monkeypatch):
    real = os.fsync

    def files_only(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    save_checkpoint(folder, models[1], vocab)
    assert loaded(folder) == 2.0


def test_a_folder_that_was_made_for_nothing_goes_again(tmp_path):
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path / "a" / "b" / "c"):
        raise ZeroDivisionError
    assert names(tmp_path) == []
    (tmp_path / "mine").mkdir()
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path / "mine"):
        raise ZeroDivisionError
    assert names(tmp_path) == ["mine"]
    (tmp_path / "dangling").symlink_to(tmp_path / "absent")
    with pytest.raises(FileExistsError):
        RunFolder(tmp_path / "dangling")
    assert names(tmp_path) == ["dangling", "mine"]


def test_a_run_keeps_its_folder_when_the_process_changes_its_own(tmp_path, models, vocab, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    row = {"pass": 1, "train_perplexity": 2.0, "validation_perplexity": 2.0, "bigram_perplexity": 3.0}
    with RunFolder("run") as folder:
        monkeypatch.chdir(tmp_path / "elsewhere")
        folder.save(models[0], vocab, settings={}, metrics=[row])
    assert names(tmp_path / "run") == sorted([*kept(tmp_path / "run"), "loss.png", "metrics.jsonl"])
    assert names(tmp_path / "elsewhere") == []
