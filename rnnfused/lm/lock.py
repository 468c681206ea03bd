"""One writer per folder: a lock that the system releases, however its owner ends."""

import errno
import os
from contextlib import suppress
from pathlib import Path

from .messages import shown, warn

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None

LOCK = ".rnnfused.lock"
_held: set["FolderLock"] = set()


class FolderBusyError(OSError):
    """Another run, here or in another process, is writing to the folder."""


class FolderLock:
    """The right to write to ``folder``, from construction to ``release``; a context manager.

    It is a ``flock`` on a small file in the folder, so it ends with its process, killed or not, and
    holds against threads and processes alike, whatever path they call the folder by. A forked
    child does not have it. Readers need none. On a file system without ``flock``, a warning is
    printed and the lock keeps nobody out.

    Args:
        folder: an existing folder, unless ``make``.
        make: make the folder and its parents where missing; ``release`` removes those that it made
            and that are still empty.

    Attributes:
        folder: the absolute path.
        excludes: whether it keeps others out.

    Raises:
        FolderBusyError: another one holds the lock; at once, without waiting.
        OSError: the folder is missing, is a file, or no file can be created in it.
    """

    def __init__(self, folder: str | os.PathLike, *, make: bool = False):
        # The process may change its working folder meanwhile.
        self.folder = Path(os.path.abspath(folder))
        self.excludes = False
        self._path = self.folder / LOCK
        self._descriptor: int | None = None
        self._made: list[Path] = []  # innermost first
        _held.add(self)
        try:
            if make:
                self._make()
            self._acquire(folder)
        except BaseException:
            self.release()
            raise

    def _make(self) -> None:
        missing = [self.folder, *self.folder.parents]
        self._made = [path for path in missing if not os.path.lexists(path)]
        self.folder.mkdir(parents=True, exist_ok=True)

    def _acquire(self, folder: str | os.PathLike) -> None:
        if fcntl is None:
            return
        while self._descriptor is None:
            try:
                # No link is followed: the file is ours to remove.
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            except OSError as error:
                raise OSError(error.errno, error.strerror, os.fspath(folder)) from None
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    os.close(descriptor)
                    raise FolderBusyError(
                        f"folder {shown(os.fspath(folder))} is in use: another run writes there; "
                        "wait until it ends, or name another folder"
                    ) from None
                warn(
                    f"folder {shown(os.fspath(folder))} cannot be locked ({error.strerror}): "
                    "make sure that nothing else writes there"
                )
                os.close(descriptor)
                return
            # The last owner removed its file: a lock on that one would keep nobody out.
            if self._is_ours(descriptor):
                self._descriptor, self.excludes = descriptor, True
            else:
                os.close(descriptor)

    def _is_ours(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.lstat(self._path))
        except OSError:
            return False

    def release(self) -> None:
        """Let others write; once is enough."""
        _held.discard(self)
        descriptor, self._descriptor = self._descriptor, None
        self.excludes = False
        if descriptor is not None:
            try:
                # Removed while it is still held, so that nobody else's is.
                with suppress(OSError):
                    if self._is_ours(descriptor):
                        os.unlink(self._path)
            finally:
                os.close(descriptor)
        made, self._made = self._made, []
        for path in made:
            with suppress(OSError):
                path.rmdir()

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def release_all() -> None:
    """Release the locks that this process holds, for an end without unwinding."""
    for lock in list(_held):
        lock.release()


def _forget() -> None:
    """In a forked child: drop the parent's locks, which the parent goes on holding."""
    for lock in list(_held):
        descriptor, lock._descriptor = lock._descriptor, None
        lock._made, lock.excludes = [], False
        if descriptor is not None:
            # A close, no unlock: that would release the parent's as well.
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
