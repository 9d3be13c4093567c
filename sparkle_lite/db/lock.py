"""What keeps a second server away from a main database: locks on a file and on a folder beside it.

Not on the database itself: closing any handle on it would drop SQLite's own locks. And on two, which nobody deletes by
mistake. They end with the process, however it ends.
"""

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

from sparkle_lite.db.connection import refused
from sparkle_lite.errors import SparkleError


class ServerLock:
    """The place of a server at a main database, once it is taken."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: list[int] = []

    def take(self, *, still: bool = False) -> None:
        """Take it; `still`: on a disk that can't be written. Raises SparkleError: conflict where a server has it."""
        lock, folder = _lock_places(self._path)
        with refused("open", lock):
            if still:
                # What can't be made there nobody else can make, either.
                wanted = [(place, os.O_RDONLY) for place in (lock, folder) if place.exists()]
            else:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                folder.mkdir(mode=0o700, exist_ok=True)
                wanted = [(lock, os.O_CREAT | os.O_RDWR), (folder, os.O_RDONLY | os.O_DIRECTORY)]
            self._held += [os.open(place, flags, 0o600) for place, flags in wanted]
        for held in self._held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                # Some network file systems lock no folder; the file is locked everywhere.
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES) or held == self._held[0]:
                    self.release()
                    raise SparkleError("conflict", "database.in_use", path=self._path) from error

    def release(self) -> None:
        """Give it up; does nothing where it isn't held."""
        while self._held:
            os.close(self._held.pop())


def require_unused(path: Path) -> None:
    """Raises SparkleError: conflict where a server has a main database already."""
    for place in _lock_places(path):
        with suppress(OSError):
            lock = os.open(place, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SparkleError("conflict", "database.in_use", path=path) from None
            finally:
                os.close(lock)


def is_used(path: Path) -> bool:
    """Whether a server has a main database."""
    try:
        require_unused(path)
    except SparkleError:
        return True
    return False


def _lock_places(path: Path) -> tuple[Path, Path]:
    return path.with_name(path.name + ".lock"), segment_folder(path)


def segment_folder(path: Path) -> Path:
    """The folder of the segments of a main database."""
    return path.with_name(path.name + ".segments")
