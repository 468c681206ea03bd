"""One writer per folder: a lock that the system releases whenever its owner ends."""

import errno
import os
from contextlib import suppress
from pathlib import Path

from ..messages import warn

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

LOCK = ".rnnfused.lock"
# No link is followed, because release() removes the file.
_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
_held: set["FolderLock"] = set()


class FolderBusyError(OSError):
    """Another run, in this or another process, writes to the folder."""


class FolderLostError(OSError):
    """The lock was lost: its file or the folder was removed, so another run may write there."""


class FolderLock:
    """The right to write to ``folder``, from construction to ``release``; a context manager.

    It is a ``flock`` on a small file in the folder. It ends with its process, killed or not, and
    excludes threads and processes alike, whatever path they use for the folder. A forked child does
    not inherit it. Readers need no lock. On a file system without ``flock``, a warning is printed
    and the lock excludes nobody. Removing its file, or the folder, ends it: see ``check``.

    Args:
        folder: an existing folder, unless ``make``.
        make: make the folder and its parents if missing; ``release`` removes those that it made
            and that are still empty.

    Attributes:
        folder: the absolute path.
        excludes: whether it keeps other writers out.

    Raises:
        FolderBusyError: another writer holds the lock; raised at once, without waiting.
        OSError: the folder is missing, is a file, or no file can be created in it.
    """

    def __init__(self, folder: str | os.PathLike[str], *, make: bool = False):
        # The process may change its working folder later.
        self.folder = Path(os.path.abspath(folder))
        self.excludes = False
        self._path = self.folder / LOCK
        self._name = os.fspath(folder)  # for messages
        # Whether the system has no locks, so that this one excludes nobody.
        self._unsupported = False
        self._descriptor: int | None = None
        self._made: list[Path] = []  # innermost first
        _held.add(self)
        try:
            if make:
                self._make()
            self._acquire()
        except BaseException:
            self.release()
            raise

    def _make(self) -> None:
        missing = [self.folder, *self.folder.parents]
        self._made = [path for path in missing if not os.path.lexists(path)]
        self.folder.mkdir(parents=True, exist_ok=True)

    def _acquire(self) -> None:
        while self._descriptor is None:
            try:
                # Also the test that the folder takes files: os.access trusts permissions alone.
                descriptor = os.open(self._path, _FLAGS, 0o666)
            except OSError as error:
                # A lock that exists is at fault itself, if it is a folder for example.
                exists = os.path.lexists(self._path)
                place = os.path.join(self._name, LOCK) if exists else self._name
                raise OSError(error.errno, error.strerror, place) from None
            if fcntl is None:
                os.close(descriptor)
                with suppress(OSError):
                    os.unlink(self._path)
                self._unsupported = True
                return
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(descriptor)
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    raise FolderBusyError(
                        f"folder {self._name!r} is in use: another run writes there; "
                        "wait until it ends, or name another folder"
                    ) from None
                warn(
                    f"folder {self._name!r} cannot be locked ({error.strerror}): "
                    "make sure that nothing else writes there"
                )
                self._unsupported = True
                return
            # The last owner may have removed this file: a lock on it would exclude nobody.
            if self._is_ours(descriptor):
                self._descriptor, self.excludes = descriptor, True
            else:
                os.close(descriptor)

    @property
    def holds(self) -> bool:
        """Whether the folder is still this writer's, as far as the system can tell."""
        if self._descriptor is None:
            return self._unsupported and self.folder.is_dir()
        return self._is_ours(self._descriptor)

    def check(self) -> None:
        """Validate that the lock still holds; called before each rename in the folder.

        Raises:
            FolderLostError: the folder or the lock's file was removed or replaced, or the lock was
                released.
        """
        if self.holds:
            return
        if not self.folder.is_dir():
            reason = "it was removed or moved"
        elif self._descriptor is None:
            reason = "the lock was released, or this is a fork of its owner"
        else:
            reason = f"its file {LOCK} was removed or replaced, so another run may write there"
        raise FolderLostError(
            f"folder {self._name!r} is no longer locked by this run, which ends here: {reason}"
        )

    def _is_ours(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.lstat(self._path))
        except OSError:
            return False

    def release(self) -> None:
        """Let others write; further calls have no effect."""
        _held.discard(self)
        descriptor, self._descriptor = self._descriptor, None
        self.excludes = self._unsupported = False
        made, self._made = self._made, []
        if descriptor is not None:
            try:
                # Removed while still locked, so that it cannot be another owner's file.
                with suppress(OSError):
                    if self._is_ours(descriptor):
                        os.unlink(self._path)
                    else:
                        made = []  # the folder may be another owner's
            finally:
                os.close(descriptor)
        for path in made:
            with suppress(OSError):
                path.rmdir()

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def release_all() -> None:
    """Release the locks of this process, for an exit without unwinding."""
    for lock in list(_held):
        lock.release()


def _forget() -> None:
    """In a forked child: drop the parent's locks, which the parent still holds."""
    for lock in list(_held):
        descriptor, lock._descriptor = lock._descriptor, None
        lock._made, lock.excludes, lock._unsupported = [], False, False
        if descriptor is not None:
            # Closed, not unlocked: unlocking would release the parent's lock as well.
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
