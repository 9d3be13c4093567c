"""Looking at the files of a database from outside, beside a server or without one, and never changing anything.

Everything here blocks, and belongs on a thread of its own: a disk may take its time, or not answer at all.
"""

import os
import sqlite3
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Literal, NamedTuple

from sparkle_lite.db.connection import absolute, known_version, plain_uri, refused
from sparkle_lite.db.faults import owner_of as owner_of
from sparkle_lite.db.lock import segment_folder
from sparkle_lite.db.segments import Kind, segment_path, set_aside_folder
from sparkle_lite.units import SECOND_MS

FileKind = Literal["main", "snapshot", "swarm"]

# The version of the library.
SQLITE = sqlite3.sqlite_version
# After so many steps of SQLite's machine it is asked whether there is time left.
_STEPS = 20_000
_BUSY_S = 2.0


class DatabaseFile(NamedTuple):
    """A file of the database, as the system shows it; sizes in bytes, `mode` the permissions, `owner` a user's number.

    `is_hot`: it is written to, so that a log stands beside it.
    """

    path: Path
    kind: FileKind
    is_hot: bool
    size: int
    log_size: int
    mode: int
    owner: int

    @property
    def shown_owner(self) -> str:
        """Whose it is, by name and number."""
        return owner_of(self.path)


class Room(NamedTuple):
    """What is free under a folder: bytes and names (None where the file system doesn't count them)."""

    folder: Path
    free: int
    names: int | None


class Integrity(NamedTuple):
    """What came of reading a file as a whole: the first faults, empty where it is in order; or there was no time."""

    faults: tuple[str, ...]
    is_finished: bool


def look_uri(path: Path, *, served: bool) -> str:
    """How to open a file for reading so that nothing is left behind.

    Where a server has it, its log and shared memory are there. Without one, SQLite would make both, and nobody would
    take them away; a file whose log is empty needs neither.
    """
    log = path.with_name(path.name + "-wal")
    if served or (log.exists() and log.stat().st_size):
        return plain_uri(path)
    return f"{absolute(path).as_uri()}?mode=ro&immutable=1"


def files(path: Path, *, served: bool) -> list[DatabaseFile]:
    """The main file and the segments that it names and that are there. Raises FileFault."""
    found: list[DatabaseFile] = []
    with refused("read", path):
        found += _file(path, "main", is_hot=True)
    with refused("read", path), closing(sqlite3.connect(look_uri(path, served=served), uri=True)) as main:
        rows: list[tuple[int, Kind, str]] = main.execute("SELECT id, kind, state FROM segment ORDER BY id").fetchall()
    for number, kind, state in rows:
        found += _file(segment_path(segment_folder(path), kind, number), kind, is_hot=state == "hot")
    return found


def _file(path: Path, kind: FileKind, *, is_hot: bool) -> Iterator[DatabaseFile]:
    # What is missing, the catalogue's own check tells.
    with suppress(FileNotFoundError, PermissionError):
        status = path.stat()
        log_size = 0
        with suppress(FileNotFoundError):
            log_size = path.with_name(path.name + "-wal").stat().st_size
        yield DatabaseFile(
            path=path,
            kind=kind,
            is_hot=is_hot,
            size=status.st_size,
            log_size=log_size,
            mode=stat.S_IMODE(status.st_mode),
            owner=status.st_uid,
        )


def folders(path: Path) -> list[Path]:
    """The folders that a database lives in and that are there."""
    places = (path.parent, segment_folder(path), set_aside_folder(segment_folder(path)))
    return [folder for folder in places if folder.is_dir()]


def room(folder: Path) -> Room:
    """What is free for whoever isn't root. Raises FileFault."""
    with refused("read", folder):
        disk = os.statvfs(folder)
    return Room(folder, disk.f_bavail * disk.f_frsize, disk.f_favail if disk.f_files else None)


def version(path: Path, kind: FileKind, *, served: bool) -> tuple[int, int]:
    """The schema version of a file, and the newest that this program knows. Raises FileFault."""
    with refused("read", path), closing(_connect(path, served=served)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0]), known_version(kind)


def integrity(path: Path, *, served: bool, deep: bool, until: float) -> Integrity:
    """Whether a file is in order, read as a whole; `deep`: with its indexes. `until` is of time.monotonic().

    Raises FileFault where it can't be read at all, which damage to its head is too.
    """
    pragma = "integrity_check" if deep else "quick_check"
    with refused("read", path), closing(_connect(path, served=served)) as connection:
        connection.set_progress_handler(lambda: time.monotonic() > until, _STEPS)
        try:
            rows = connection.execute(f"PRAGMA {pragma}(3)").fetchall()
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                return Integrity((), is_finished=False)
            raise
    return Integrity(tuple(" ".join(str(text).split()) for (text,) in rows if text != "ok"), is_finished=True)


def table_sizes(path: Path, *, served: bool, until: float) -> dict[str, int | None]:
    """How many rows each table of a file has; None where there was no time to count. Raises FileFault."""
    counts: dict[str, int | None] = {}
    with refused("read", path), closing(_connect(path, served=served)) as connection:
        names: Sequence[tuple[str]] = connection.execute(
            "SELECT name FROM sqlite_schema WHERE type='table' AND name NOT LIKE 'sqlite%' ORDER BY name"
        ).fetchall()
        connection.set_progress_handler(lambda: time.monotonic() > until, _STEPS)
        for (name,) in names:
            try:
                counts[name] = int(connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0])
            except sqlite3.OperationalError:
                counts[name] = None
    return counts


def senders(path: Path, since_ms: int, *, served: bool) -> set[int]:
    """The applications (row ids) of which something was stored since then. Raises FileFault."""
    sql = "SELECT DISTINCT userapp FROM submission WHERE received_at>=?"
    found: set[int] = set()
    for file in files(path, served=served):
        with refused("read", file.path), closing(_connect(file.path, served=served)) as connection:
            found.update(number for (number,) in connection.execute(sql, (since_ms,)))
    return found


def _connect(path: Path, *, served: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(look_uri(path, served=served), uri=True)
    connection.execute(f"PRAGMA busy_timeout={int(_BUSY_S * SECOND_MS)}")
    connection.execute("PRAGMA query_only=ON")
    return connection
