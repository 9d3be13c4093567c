"""What is wrong with a file of the database, in words that say which file, whose it is, and what to do.

What is told over the network names no path: `FileFault` has a sentence for whoever asked, and one for the operator, who
reads it in the log, on the command line and on the settings page.
"""

import errno
import os
import pwd
import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from sparkle_lite.errors import SparkleError
from sparkle_lite.texts import ENGLISH, Phrase, phrase

FaultKind = Literal["rights", "missing", "room", "read_only", "damaged", "busy", "disk", "other"]
Doing = Literal["open", "read", "write"]

# What SQLite keeps beside a database file.
BESIDE = ("-wal", "-shm", "-journal")
# Less free room than this, and an error of the disk is taken for a full one.
_ROOM = 128 * 1024

_BY_ERRNO: dict[int, FaultKind] = {
    errno.EACCES: "rights",
    errno.EPERM: "rights",
    errno.ENOENT: "missing",
    errno.ENOTDIR: "missing",
    errno.ELOOP: "missing",
    errno.ENOSPC: "room",
    errno.EDQUOT: "room",
    errno.EFBIG: "room",
    errno.EROFS: "read_only",
    errno.EIO: "disk",
}
_BY_CODE: dict[int, FaultKind] = {
    sqlite3.SQLITE_PERM: "rights",
    sqlite3.SQLITE_AUTH: "rights",
    sqlite3.SQLITE_READONLY: "rights",
    sqlite3.SQLITE_CANTOPEN: "rights",
    sqlite3.SQLITE_FULL: "room",
    sqlite3.SQLITE_CORRUPT: "damaged",
    sqlite3.SQLITE_NOTADB: "damaged",
    sqlite3.SQLITE_BUSY: "busy",
    sqlite3.SQLITE_LOCKED: "busy",
    sqlite3.SQLITE_PROTOCOL: "busy",
    sqlite3.SQLITE_IOERR: "disk",
}


class FileFault(SparkleError):
    """A file can't be used. `told` says it to the operator; `message` is that in English."""

    def __init__(self, doing: str, reason: str, kind: FaultKind, told: Phrase) -> None:
        super().__init__("overloaded", "database.unavailable", doing=doing, reason=reason, retry_after=30)
        self.doing, self.reason, self.kind, self.told = doing, reason, kind, told

    def __reduce__(self) -> tuple[Any, ...]:
        return FileFault, (self.doing, self.reason, self.kind, self.told)

    @property
    def message(self) -> str:
        """The operator's sentence in English."""
        return self.told.text(ENGLISH)


def fault_of(error: sqlite3.Error | OSError, doing: Doing, path: Path | None) -> FileFault:
    """What an error of the system or of SQLite means for a file (None: nobody knows which one)."""
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    if isinstance(error, OSError) and isinstance(error.filename, str | bytes):
        path = Path(os.fsdecode(error.filename))
    kind = kind_of(error)
    if path is None:
        return FileFault(doing, reason, kind, phrase("database.unavailable", doing=doing, reason=reason))
    kind = _looked_at(kind, path)
    if kind != "rights":
        return FileFault(doing, reason, kind, phrase(f"file.{kind}", path=path, reason=reason))
    culprit = forbidden(path) or path
    told = phrase("file.rights", path=culprit, reason=reason, owner=owner_of(culprit), me=_user(os.geteuid()))
    return FileFault(doing, reason, kind, told)


def kind_of(error: sqlite3.Error | OSError) -> FaultKind:
    """What kind of fault an error tells of, by its code alone."""
    if isinstance(error, OSError):
        return _BY_ERRNO.get(error.errno or 0, "other")
    return _BY_CODE.get(_code(error) & 0xFF, "other")


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error says that what is in a file is not what should be there, or can't be read from the disk."""
    code = _code(error)
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or code in (
        sqlite3.SQLITE_IOERR_READ,
        sqlite3.SQLITE_IOERR_SHORT_READ,
    )


def _code(error: sqlite3.Error) -> int:
    # An error of the driver itself has none.
    return int(getattr(error, "sqlite_errorcode", 0))


def _looked_at(kind: FaultKind, path: Path) -> FaultKind:
    """The kind, where a look at the disk tells more than the code does."""
    if kind not in ("rights", "disk", "other"):
        return kind
    try:
        disk = os.statvfs(_nearest(path))
    except OSError:
        return kind
    if disk.f_flag & os.ST_RDONLY:
        return "read_only"
    if kind == "disk" and disk.f_bavail * disk.f_frsize < _ROOM:
        return "room"
    if kind == "rights" and not _is_reachable(path):
        return "rights"
    if kind == "rights" and not path.exists():
        return "missing"
    return "other" if kind == "rights" and forbidden(path) is None else kind


def _nearest(path: Path) -> Path:
    """The path, or the folder above it that is there."""
    return next((each for each in (path, *path.parents) if _exists(each)), Path("/"))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _is_reachable(path: Path) -> bool:
    return all(_may(folder, os.X_OK) for folder in path.parents if _exists(folder))


def forbidden(path: Path) -> Path | None:
    """What of a database file this process may not use: a folder above it, itself, or what stands beside it."""
    for folder in reversed(path.parents):
        if _exists(folder) and not _may(folder, os.X_OK):
            return folder
    for name in (path, *(path.with_name(path.name + suffix) for suffix in BESIDE)):
        if _exists(name) and not _may(name, os.R_OK | os.W_OK):
            return name
    folder = _nearest(path.parent)
    return None if _may(folder, os.W_OK | os.X_OK) else folder


def _may(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def place_of(status: os.stat_result) -> tuple[int, int]:
    """Which file it is, whatever its name."""
    return status.st_dev, status.st_ino


def places_beside(path: Path) -> dict[str, tuple[int, int]]:
    """Which files SQLite keeps beside a database that is open: its log, and the memory that its processes share."""
    found = {}
    for suffix in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            found[suffix] = place_of(path.with_name(path.name + suffix).stat())
    return found


def taken_away(before: Mapping[str, tuple[int, int]], now: Mapping[str, tuple[int, int]]) -> str | None:
    """What was beside a database and is not there any more, or another; nobody takes it while the file is open."""
    return next((suffix for suffix, place in before.items() if now.get(suffix) != place), None)


def owner_of(path: Path) -> str:
    """Whose a file is: a name with its number, or "?"."""
    try:
        return _user(path.stat().st_uid)
    except OSError:
        return "?"


def _user(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
