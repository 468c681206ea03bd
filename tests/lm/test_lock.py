"""The lock of a folder, and the folders that a run makes for itself."""

import errno
import os
import shutil
import threading

import pytest
from runs import (
    SMALL,
    TEXT,
    TINY,
    contents,
    files,
    fork,
    kept,
    loaded,
    names,
    posix,
    run_command,
)

from rnnfused.lm import FolderBusyError, FolderLostError, cli, save_checkpoint, train
from rnnfused.lm.checkpoint import lock, run_folder
from rnnfused.lm.checkpoint.lock import LOCK, FolderLock
from rnnfused.lm.checkpoint.run_folder import RunFolder


def row(number):
    return {
        "epoch": number,
        "train_perplexity": 2.0,
        "validation_perplexity": 2.0,
        "bigram_perplexity": 3.0,
    }


@posix
def test_a_second_writer_is_refused_and_touches_nothing(folder, models, vocab, tmp_path_factory):
    link = tmp_path_factory.mktemp("elsewhere") / "link"
    link.symlink_to(folder)
    with RunFolder(folder):
        (folder / ".loss.png.0123abcd.tmp").write_text("being written")
        before = contents(folder)
        for path in (folder, link, os.path.relpath(folder)):
            with pytest.raises(FolderBusyError, match="is in use: another run writes there"):
                save_checkpoint(path, models[1], vocab)
            with pytest.raises(FolderBusyError, match="is in use: another run writes there"):
                train(TEXT, path, SMALL)
        assert contents(folder) == before
        assert loaded(folder) == 1.0
    save_checkpoint(link, models[1], vocab)
    assert loaded(folder) == 2.0


@posix
def test_a_second_command_is_refused_in_one_line(folder, tmp_path_factory):
    book = tmp_path_factory.mktemp("book") / "book.txt"
    book.write_text(TEXT)
    with RunFolder(folder):
        before = names(folder)
        done = run_command("train", book, "--out", folder, "--passes", "1")
        assert names(folder) == before
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert f"rnnfused: error: folder {str(folder)!r} is in use" in done.stderr


@posix
def test_two_threads_alternate_or_are_refused(folder, models, vocab):
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
def test_a_forked_child_does_not_hold_the_lock(folder):
    ready, go = os.pipe()
    held = FolderLock(folder)
    child = fork(os.read, ready, 1)  # outlives the lock's owner
    try:
        held.release()
        with FolderLock(folder) as again:
            assert again.excludes
            # A child that releases its copy removes neither the file nor the lock.
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
def test_a_lock_on_a_removed_file_does_not_count(folder, monkeypatch):
    real, owner = lock.fcntl.flock, [FolderLock(folder)]

    def late(descriptor, operation):
        if owner:
            # The first owner releases between the second one's open and flock.
            owner.pop().release()
        return real(descriptor, operation)

    monkeypatch.setattr(lock.fcntl, "flock", late)
    with FolderLock(folder):
        with pytest.raises(FolderBusyError):
            FolderLock(folder)


@posix
def test_a_file_system_without_locks_gives_a_warning(folder, models, vocab, monkeypatch, capsys):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    save_checkpoint(folder, models[1], vocab)
    assert loaded(folder) == 2.0
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "cannot be locked (No locks available): make sure that nothing else writes" in error
    # Without locks, temporary files may belong to another run.
    (folder / ".model.json.0123abcd.tmp").write_text("another run's")
    with RunFolder(folder):
        assert (folder / ".model.json.0123abcd.tmp").exists()


def test_without_fcntl(folder, models, vocab, monkeypatch):
    monkeypatch.setattr(lock, "fcntl", None)
    save_checkpoint(folder, models[1], vocab)
    assert names(folder) == kept(folder)


def test_a_new_folder_is_removed_if_nothing_was_saved(tmp_path):
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
    with pytest.raises(ValueError, match="out must name a folder, got .*NUL"):
        RunFolder(f"{tmp_path}/x\0y")
    assert names(tmp_path) == ["dangling", "mine"]


def test_a_run_keeps_its_folder_when_the_working_folder_changes(
    tmp_path, models, vocab, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with RunFolder("run") as folder:
        monkeypatch.chdir(tmp_path / "elsewhere")
        folder.save(models[0], vocab, settings={}, metrics=[row(1)])
        folder.draw([row(1)])
    assert names(tmp_path / "run") == files(tmp_path / "run")
    assert names(tmp_path / "elsewhere") == []


def save(run, models, vocab, value):
    """Save the model of that number into the folder of a run."""
    model, settings = models[value - 1], {"value": float(value)}
    run.save(model, vocab, settings=settings, metrics=[row(value)])
    run.draw([row(value)])


@posix
@pytest.mark.parametrize("removed", ["lock", "folder"])
def test_a_run_that_lost_its_lock_stops_before_it_writes(tmp_path, models, vocab, removed):
    out = tmp_path / "run"
    with RunFolder(out) as first:
        if removed == "lock":
            (out / LOCK).unlink()
        else:
            out.rename(tmp_path / "moved")
            with pytest.raises(FolderLostError, match="was removed or moved"):
                save(first, models, vocab, 1)
            assert names(tmp_path) == ["moved"]
        with RunFolder(out) as second:
            save(second, models, vocab, 2)
            before = contents(out)
            with pytest.raises(FolderLostError, match="removed or replaced, so another run may"):
                save(first, models, vocab, 1)
            assert contents(out) == before
        with pytest.raises(FolderLostError, match="removed or replaced, so another run may"):
            save(first, models, vocab, 1)
    assert names(out) == files(out)
    assert loaded(out) == 2.0


@posix
@pytest.mark.parametrize("moment", range(1, 5))
def test_a_lock_that_is_lost_between_two_renames(tmp_path, models, vocab, monkeypatch, moment):
    # Renames: weights, record, metrics, two plots.
    out, real, renames = tmp_path / "run", os.replace, []
    second = []

    def replace(source, target):
        real(source, target)
        renames.append(target)
        if len(renames) == moment:
            monkeypatch.setattr(os, "replace", real)
            (out / LOCK).unlink()
            second.append(RunFolder(out))
            save(second[0], models, vocab, 2)
            second.append(contents(out))

    with RunFolder(out) as first:
        monkeypatch.setattr(os, "replace", replace)
        if moment < 5:
            with pytest.raises(FolderLostError):
                save(first, models, vocab, 1)
        else:
            save(first, models, vocab, 1)
    assert contents(out) == second[1]
    with second[0]:
        pass
    assert names(out) == files(out)
    assert loaded(out) == 2.0


@posix
def test_a_run_without_the_lock_removes_no_files_of_the_next(tmp_path, models, vocab, monkeypatch):
    out, real = tmp_path / "run", os.replace
    with RunFolder(out) as first:
        shutil.rmtree(out)

        def replace(source, target):
            real(source, target)
            # The weights have their name; the record that names them follows.
            monkeypatch.setattr(os, "replace", real)
            with pytest.raises(FolderLostError):
                save(first, models, vocab, 1)

        with RunFolder(out) as second:
            monkeypatch.setattr(os, "replace", replace)
            save(second, models, vocab, 2)
    assert loaded(out) == 2.0


@posix
def test_a_lock_that_is_lost_leaves_the_folder_that_it_made(tmp_path):
    out = tmp_path / "run"
    with RunFolder(out):
        shutil.rmtree(out)
        out.mkdir()  # another owner's, still empty
    assert names(tmp_path) == ["run"]


@posix
def test_a_command_that_lost_its_lock_ends_in_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "book.txt").write_text(TEXT)
    out, real = tmp_path / "run", run_folder.describe

    def describe(*arguments):
        (out / LOCK).unlink()
        return real(*arguments)

    monkeypatch.setattr(run_folder, "describe", describe)
    assert cli.main(["train", str(tmp_path / "book.txt"), "--out", str(out), *TINY]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"rnnfused: error: folder {str(out)!r} is no longer locked by this run" in error
    assert names(out) == []


@posix
def test_a_forked_child_cannot_save(folder, models, vocab):
    with RunFolder(folder) as run:
        child = fork(save, run, models, vocab, 2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    assert loaded(folder) == 1.0
