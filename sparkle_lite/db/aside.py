"""Segment files that can't be served: what is wrong with one, where it is put, and how it is known again.

A file is never deleted here. What is damaged or belongs to something else is moved to a folder beside the segments;
what is only missing, or may not be read, or was written by a newer program, stays where it is. Its row of the catalogue
waits in a table of its own until the file is right again or retention would have removed it.
"""

import sqlite3
import stat
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal, NamedTuple

from sparkle_lite.db.connection import Connection, absolute, fetch_all, fetch_one, known_version, plain_uri
from sparkle_lite.db.faults import BESIDE, fault_of, is_damage, kind_of
from sparkle_lite.db.segments import Kind, SegmentRow, columns, segment_path
from sparkle_lite.texts import ENGLISH, phrase

Reason = Literal["missing", "empty", "damaged", "foreign", "unreadable", "newer", "ahead", "unnamed"]

# What is put away; the rest can be mended where it is.
_MOVED = frozenset({"empty", "damaged", "foreign", "ahead", "unnamed"})
# The dictionaries, and the columns that refer to them.
_DICTIONARIES: Mapping[str, tuple[str, ...]] = {
    "torrent": ("torrent",),
    "client_identity": ("client",),
    "label": ("flags", "downloader"),
}


class Wrong(NamedTuple):
    """Why a file can't be served; `details` is what the system or SQLite says, or the operator's sentence."""

    reason: Reason
    details: str = ""

    @property
    def is_moved(self) -> bool:
        """Whether such a file is put into the folder of what was set aside."""
        return self.reason in _MOVED


class Belongs(NamedTuple):
    """What a segment of this database may say: the stamp of its files, and the highest id of each dictionary."""

    stamp: int
    highest: Mapping[str, int]


class AsideRow(NamedTuple):
    """A segment that can't be served: its row of the catalogue, what was wrong, its file in the folder, and since when.

    `file` is empty where the file stayed, or isn't there.
    """

    segment: SegmentRow
    wrong: Wrong
    file: str
    at: int


class SetAside(NamedTuple):
    """A file that isn't served, for the operator: its name, where it is or should be, and why.

    `rows` and `at` (ms) are None for a file that the main database never named.
    """

    name: str
    path: Path
    wrong: Wrong
    rows: int | None
    at: int | None


# --- Examining --------------------------------------------------------------------------------------------------------


def examine(
    path: Path, segment: SegmentRow, belongs: Belongs, *, deep: bool = False, uri: str | None = None
) -> Wrong | None:
    """What is wrong with the file of a segment, None where nothing is; `deep`: reading all of it. Blocks.

    Raises FileFault where that can't be judged now: no room on the disk for what SQLite needs, a lock.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return Wrong("missing")
    except OSError as error:
        return _unreadable(error, path)
    if not stat.S_ISREG(status.st_mode):
        # Who opens a pipe waits for ever.
        return Wrong("foreign")
    if not status.st_size:
        return Wrong("empty")
    # One that was becoming a plain file is rolled back first, which nobody can do who only reads.
    half = path.with_name(path.name + "-journal").exists()
    plain = f"{absolute(path).as_uri()}?mode=rw" if half else plain_uri(path)
    try:
        with closing(sqlite3.connect(uri or plain, uri=True)) as file:
            return _examine(file, segment, belongs, deep=deep)
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            return Wrong("damaged", str(error))
        fault = fault_of(error, "read", path)
        if fault.kind in ("rights", "missing"):
            return Wrong("unreadable", fault.message)
        raise fault from error


def _unreadable(error: OSError, path: Path) -> Wrong:
    if kind_of(error) in ("room", "busy", "other"):
        # Too many open files, say: nothing about the file.
        raise fault_of(error, "read", path) from error
    return Wrong("unreadable", fault_of(error, "read", path).message)


def _examine(file: sqlite3.Connection, segment: SegmentRow, belongs: Belongs, *, deep: bool) -> Wrong | None:
    file.execute("PRAGMA busy_timeout=5000")
    (stamp,), (version,) = (file.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version"))
    tables = {name for (name,) in file.execute("SELECT name FROM sqlite_schema WHERE type='table'")}
    if stamp not in (0, belongs.stamp):
        return Wrong("foreign")
    if version > known_version(segment.kind):
        return Wrong("newer")
    if not {segment.kind, "submission"} <= tables:
        return Wrong("foreign")
    (rows,) = file.execute(f"SELECT coalesce(max(id), 0) FROM {segment.kind}").fetchone()
    if segment.state != "hot" and rows != segment.rows:
        return Wrong("foreign")
    if deep and (found := file.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
        return Wrong("damaged", " ".join(str(found).split()))
    if segment.state == "hot" and _is_ahead(file, segment.kind, belongs):
        return Wrong("ahead")
    return None


def _is_ahead(file: sqlite3.Connection, kind: Kind, belongs: Belongs) -> bool:
    """Whether rows refer to dictionary entries that the main database never had: it is an older copy."""
    for dictionary, names in _DICTIONARIES.items():
        for name in set(names) & set(columns(kind)):
            (highest,) = file.execute(f"SELECT max({name}) FROM {kind}").fetchone()
            if (highest or 0) > belongs.highest[dictionary]:
                return True
    return False


async def belongs_to(main: Connection, stamp: int) -> Belongs:
    """What segments of a main database may say now."""
    highest = {}
    for dictionary in _DICTIONARIES:
        row = await fetch_one(main, f"SELECT max(id) FROM {dictionary}")
        highest[dictionary] = int(row[0] or 0) if row else 0
    return Belongs(stamp, highest)


def measure(path: Path, kind: Kind) -> tuple[int, int, int | None, int | None]:
    """What a whole file holds: rows, submissions, and when the first and the last was received (ms). Blocks."""
    with closing(sqlite3.connect(plain_uri(path), uri=True)) as file:
        counts: tuple[int, int, int | None, int | None] = file.execute(
            f"SELECT (SELECT coalesce(max(id), 0) FROM {kind}), count(*), min(received_at), max(received_at)"
            " FROM submission"
        ).fetchone()
        return counts


# --- The folder -------------------------------------------------------------------------------------------------------


def put_away(path: Path, folder: Path) -> str:
    """Move a file, with what SQLite keeps beside it, to the folder of what was set aside; its name there. Blocks.

    Raises OSError where that can't be done.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    name, number = path.name, 1
    while any((folder / f"{name}{suffix}").exists() for suffix in ("", *BESIDE)):
        number += 1
        name = f"{path.name}.{number}"
    _move(path, folder / name)
    return name


def bring_back(path: Path, place: Path) -> None:
    """Move a file out of that folder to its place. Blocks. Raises OSError."""
    _move(path, place)


def _move(path: Path, target: Path) -> None:
    # The log first: without its file it is nothing, but the file without its log would be taken for whole.
    for suffix in (*reversed(BESIDE), ""):
        source = path.with_name(path.name + suffix)
        # A link that leads nowhere is put away, too.
        if source.exists() or source.is_symlink():
            source.rename(target.with_name(target.name + suffix))


def files_in(folder: Path) -> list[Path]:
    """The files in that folder, without what SQLite keeps beside them where they are there. Blocks."""
    if not folder.is_dir():
        return []
    files = {path for path in folder.iterdir() if path.is_file()}
    beside = {
        path
        for path in files
        for s in BESIDE
        if path.name.endswith(s) and path.with_name(path.name.removesuffix(s)) in files
    }
    return sorted(files - beside)


# --- The table --------------------------------------------------------------------------------------------------------

_COLUMNS = (*SegmentRow._fields, "reason", "details", "file", "at")


async def rows(main: Connection) -> list[AsideRow]:
    """The segments of the catalogue that can't be served."""
    found = await fetch_all(main, f"SELECT {', '.join(_COLUMNS)} FROM segment_aside ORDER BY id")
    count = len(SegmentRow._fields)
    return [
        AsideRow(SegmentRow(*row[:count]), Wrong(row[count], row[count + 1]), row[count + 2], row[count + 3])
        for row in found
    ]


async def note(main: Connection, row: AsideRow) -> bool:
    """Take a segment out of the catalogue, within a transaction; False where it doesn't stand there any more."""
    gone = await main.execute("DELETE FROM segment WHERE id=?", (row.segment.id,))
    if not gone.rowcount:
        return False
    await keep(main, row)
    return True


async def keep(main: Connection, row: AsideRow) -> None:
    """Note a segment that isn't in the catalogue, within a transaction."""
    await main.execute(
        f"INSERT INTO segment_aside VALUES ({','.join('?' * len(_COLUMNS))})",
        (*row.segment, *row.wrong, row.file, row.at),
    )


async def take_back(main: Connection, segment: SegmentRow) -> bool:
    """Put a segment into the catalogue again, within a transaction; False where others have its ids by now."""
    overlap = await fetch_one(
        main,
        "SELECT 1 FROM segment WHERE kind=? AND id<>? AND first_row<? AND ?<first_row+rows",
        (segment.kind, segment.id, segment.first_row + segment.rows, segment.first_row),
    )
    if overlap:
        return False
    await drop(main, [segment.id])
    await main.execute(f"INSERT INTO segment VALUES ({','.join('?' * len(segment))})", segment)
    return True


async def drop(main: Connection, ids: Sequence[int]) -> None:
    """Forget segments that were set aside."""
    await main.executemany("DELETE FROM segment_aside WHERE id=?", [(number,) for number in ids])


async def drop_expired(main: Connection, kind: Kind, before_ms: int) -> None:
    """Forget the segments of a kind that retention would have removed by now; their files stay where they are."""
    await main.execute(
        "DELETE FROM segment_aside WHERE kind=? AND coalesce(last_received_at, at)<?",
        (kind, before_ms),
    )


def name_of(segment: SegmentRow) -> str:
    """The name of a segment's file."""
    return segment_path(Path(), segment.kind, segment.id).name


def told(wrong: Wrong) -> str:
    """What the log says of a file that is set aside."""
    said = phrase(f"aside.{wrong.reason}").text(ENGLISH)
    return f"{said} ({wrong.details})" if wrong.details else said
