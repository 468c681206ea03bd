"""The lock of a folder, and the folders that a run makes for itself."""

import errno
import os
import threading

import pytest
from runs import SMALL, TEXT, contents, files, fork, kept, loaded, names, posix, run_command

from rnnfused.lm import FolderBusyError, save_checkpoint, train
from rnnfused.lm.checkpoint import lock
from rnnfused.lm.checkpoint.lock import LOCK, FolderLock
from rnnfused.lm.checkpoint.run_folder import RunFolder


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
    assert names(tmp_path) == ["dangling", "mine"]


def test_a_run_keeps_its_folder_when_the_working_folder_changes(
    tmp_path, models, vocab, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    row = {
        "pass": 1,
        "train_perplexity": 2.0,
        "validation_perplexity": 2.0,
        "bigram_perplexity": 3.0,
    }
    with RunFolder("run") as folder:
        monkeypatch.chdir(tmp_path / "elsewhere")
        folder.save(models[0], vocab, settings={}, metrics=[row])
    assert names(tmp_path / "run") == files(tmp_path / "run")
    assert names(tmp_path / "elsewhere") == []
