"""Copies everything as it was at one moment, while a server goes on writing: into one archive, or a folder.

What a server commits for one group of reports it commits file by file, first to the main database. So the moment is
one in which nothing was committed to any of the files that are written to: what a kill at that moment would have left,
which needs no repair. It is held by read transactions. Those of the hot segments are over in tenths of a second, so
that their logs stay short; that of the main database lasts as long as copying it. Segments that never change any more
are held by being open: retention may unlink them meanwhile.

This blocks, and closing a file that SQLite has open in the same process would end its locks: it has a process of its
own (a command, or backup_process.py), which gives way to others.
"""

import fcntl
import os
import resource
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from sparkle_lite import __version__
from sparkle_lite.db import archive, rewriting
from sparkle_lite.db.archive import BackupFile, FolderWriting, Manifest, TarWriting, Writing
from sparkle_lite.db.connection import known_version, plain_uri, refused, still_uri, sync_folder
from sparkle_lite.db.faults import BESIDE, FileFault, is_damage, place_of
from sparkle_lite.db.segments import SegmentRow, segment_path, set_aside_folder
from sparkle_lite.errors import SparkleError
from sparkle_lite.units import MIB

Stage = Literal["copying", "checking", "restoring"]

# How long a moment is waited for (s), and between two tries.
_PATIENCE_S, _AGAIN_S = 60.0, 0.003
# Pages of 4 KiB that are copied at once, and how long the rest of the machine has its turn at the most after that (s).
_PAGES, _LONGEST_PAUSE_S = 256, 0.25
# What must be free beside what is written.
_SPARE = 16 * MIB
# What is being written; a folder of it that nobody holds was left by one who was killed.
_UNREADY = ".sparkle-backup-"
_BUSY_MS = 5000
_PAGE = 4096
# How many rows a file has, by its series.
_COUNTS = {
    "main": "SELECT count(*) FROM ban",
    "snapshot": "SELECT coalesce(max(id), 0) FROM snapshot",
    "swarm": "SELECT coalesce(max(id), 0) FROM swarm",
}


class BackupProgress(NamedTuple):
    """How far a backup is: bytes done of all bytes to do, in a stage."""

    stage: Stage
    done: int
    total: int


Report = Callable[[BackupProgress], None]


class BackupOrder(NamedTuple):
    """What to back up: the main database and the folder of its segments; and where to (a new file or folder).

    `before`: an earlier backup in a folder, whose files are used again where they are the same. `now_ms` is the
    time that it bears.
    """

    database: Path
    segments: Path
    target: Path
    now_ms: int
    before: Path | None = None
    replace: bool = False


class BackupDone(NamedTuple):
    """What a backup holds; `notes` are files of the server that are not in it, or are damaged, with what is wrong."""

    manifest: Manifest
    notes: tuple[tuple[str, str], ...]


def back_up_to_file(order: BackupOrder, report: Report) -> BackupDone:
    """Write a backup as an archive, and check it; it has its name when it is whole.

    Raises SparkleError (conflict where something has that name, unless `replace`; where there is no room; where the
    main database is damaged), FileFault.
    """
    if not order.replace and os.path.lexists(order.target):
        raise SparkleError("conflict", "backup.exists", path=order.target)
    with refused("write", order.target), _unready(order.target.parent) as unready:
        part = unready / "archive"
        with moment(order) as held, archive.create_private(part) as file:
            _require_room(unready, 2 * held.bytes_to_copy() + held.bytes_to_read())
            done = _Copying(held, TarWriting(file), unready, order, report).run()
            # What is checked is what the disk gives back, not what was written.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        _check(part, report)
        _give_name(part, order)
    return done


def back_up_to_folder(order: BackupOrder, report: Report) -> BackupDone:
    """Write a backup as a folder, and check what was copied; it has its name when it is whole. Raises as the other."""
    with refused("write", order.target), _unready(order.target.parent) as unready:
        part = unready / "folder"
        part.mkdir(mode=0o700)
        with moment(order) as held:
            copying = _Copying(held, FolderWriting(part), unready, order, report)
            _require_room(unready, 2 * held.bytes_to_copy() + copying.bytes_unknown())
            done = copying.run()
        for folder in (part / archive.SEGMENTS, part):
            sync_folder(folder)
        _check(part, report, known=copying.linked)
        if os.path.lexists(order.target):
            raise SparkleError("conflict", "backup.exists", path=order.target)
        part.rename(order.target)
        sync_folder(order.target.parent)
    return done


class CheckOrder(NamedTuple):
    """Which backup to read as a whole."""

    source: Path


def check_backup(source: Path, report: Report) -> Manifest:
    """Read all of a backup and compare it with what it says of itself. Raises SparkleError, FileFault."""
    with refused("read", source):
        _check(source, report)
        with closing(archive.open_backup(source)) as backup:
            return backup.manifest


def _check(part: Path, report: Report, known: Collection[str] = ()) -> None:
    """Read back what was written, but for what was linked, which was read before."""
    with closing(archive.open_backup(part)) as written:
        files = [file for file in written.manifest.files if file.name not in known]
        meter = Meter("checking", sum(file.bytes for file in files), report)
        for file in files:
            for piece in archive.checked(written, file):
                meter.step(len(piece))


def _give_name(part: Path, order: BackupOrder) -> None:
    if order.replace:
        part.replace(order.target)
    else:
        try:
            # Unlike a rename it never replaces anything.
            order.target.hardlink_to(part)
        except FileExistsError:
            raise SparkleError("conflict", "backup.exists", path=order.target) from None
        except OSError:
            # Not every file system has links.
            part.rename(order.target)
    sync_folder(order.target.parent)


# --- Room, and what was left ------------------------------------------------------------------------------------------


def _require_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + _SPARE:
        raise SparkleError(
            "conflict", "backup.no_room", path=folder, needed=mebibytes(needed + _SPARE), free=mebibytes(free)
        )


def mebibytes(size: int) -> int:
    """Bytes as MiB, rounded up."""
    return -(-size // MIB)


@contextmanager
def _unready(parent: Path) -> Iterator[Path]:
    """A folder for what isn't whole yet, gone afterwards; those that were left by others go first."""
    if not parent.is_dir():
        raise SparkleError("not_found", "backup.no_folder", path=parent)
    discard_unready(parent)
    folder = Path(tempfile.mkdtemp(prefix=_UNREADY, dir=parent))
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            # Some network file systems lock no folder: there nobody can tell what was left, and it stays.
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder
    finally:
        os.close(held)
        shutil.rmtree(folder, ignore_errors=True)


def discard_unready(parent: Path) -> None:
    """Remove what backups have left in a folder that were killed."""
    for left in parent.glob(f"{_UNREADY}*"):
        with suppress(OSError):
            held = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(held)


# --- One moment -------------------------------------------------------------------------------------------------------


class Moment:
    """Main database and segments as they were at one moment, for as long as this is held.

    `copied` are the files that others may write to, each with a connection whose read transaction shows the moment;
    `read` those that never change any more, open. `missing` are segments without a file.
    """

    def __init__(self, main: sqlite3.Connection, now_ms: int) -> None:
        self.main = main
        self.now_ms = now_ms
        self.copied: dict[SegmentRow, sqlite3.Connection] = {}
        self.read: dict[SegmentRow, BinaryIO] = {}
        self.missing: list[SegmentRow] = []
        self.set_aside: tuple[str, ...] = ()

    def bytes_to_copy(self) -> int:
        """Bytes of the main database and of the files that others may write to."""
        return sum(map(_page_bytes, (self.main, *self.copied.values())))

    def bytes_to_read(self) -> int:
        """Bytes of the files that never change any more."""
        return sum(os.fstat(file.fileno()).st_size for file in self.read.values())


def _page_bytes(connection: sqlite3.Connection) -> int:
    (found,) = connection.execute("SELECT page_count*page_size FROM pragma_page_count, pragma_page_size").fetchone()
    return int(found)


@contextmanager
def moment(order: BackupOrder) -> Iterator[Moment]:
    """Hold everything as it is at one moment. Raises SparkleError (overloaded; conflict for a newer program)."""
    until = time.monotonic() + _PATIENCE_S
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # Each segment is a file that is held open.
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    while True:
        with ExitStack() as stack:
            held = _try_moment(order, stack, in_time=time.monotonic() < until)
            if held is not None:
                stack = stack.pop_all()
                break
        if time.monotonic() > until:
            raise SparkleError("overloaded", "backup.no_moment", retry_after=60)
        time.sleep(_AGAIN_S)
    with stack:
        yield held


def _try_moment(order: BackupOrder, stack: ExitStack, *, in_time: bool) -> Moment | None:
    """A moment, or None where something was written while it was taken. Raises FileFault."""
    try:
        with refused("read", order.database):
            return _moment_now(order, stack)
    except FileFault as fault:
        # Retention was quicker, or a file is being replaced: the catalogue says so by the next time.
        if fault.kind != "missing" or not in_time:
            raise
        return None


def _moment_now(order: BackupOrder, stack: ExitStack) -> Moment | None:
    main, looking = (_connected(order.database, stack) for _ in range(2))
    _require_known(main, "main", order.database)
    every_hot = _hot(_catalogue(looking))
    hot = [row for row in every_hot if segment_path(order.segments, row.kind, row.id).exists()]
    paths = [segment_path(order.segments, row.kind, row.id) for row in hot]
    readers = [_connected(path, stack) for path in paths]
    watchers = [_connected(path, stack) for path in paths]
    before = [_version(watcher) for watcher in watchers]
    for reader in (*readers, main):
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    held = Moment(main, order.now_ms)
    known = _catalogue(main)
    # Nobody committed to a hot segment until the moment of the main database was taken: it is theirs, too.
    if [_version(watcher) for watcher in watchers] != before or _hot(known) != every_hot:
        return None
    held.copied.update(zip(hot, readers, strict=True))
    _hold_closed(held, order, known, stack)
    if _unchanging(looking) != _unchanging(main):
        return None
    held.set_aside = _names_set_aside(order.segments)
    return held


def _hold_closed(held: Moment, order: BackupOrder, known: list[SegmentRow], stack: ExitStack) -> None:
    """Hold the segments that take no more rows."""
    rewritten = rewriting.announced(held.main)
    for row in known:
        if row in held.copied:
            continue
        path = segment_path(order.segments, row.kind, row.id)
        if rewritten is not None and rewritten.id == row.id:
            fresh = rewriting.rewritten_path(order.segments, row)
            path = fresh if fresh.exists() else path
        if not path.exists():
            held.missing.append(row)
            continue
        file = stack.enter_context(path.open("rb"))
        # Of others the indexes are being built, or the log is still there.
        reader = None if row.state == "indexed" and _is_plain(path, file) else _reader_of(path, stack)
        if reader is None:
            held.read[row] = file
        else:
            held.copied[row] = reader


def _reader_of(path: Path, stack: ExitStack) -> sqlite3.Connection | None:
    """A connection whose read transaction holds a file as it is; None where it is damaged, and is taken as it is."""
    reader = _connected(path, stack)
    try:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        return None
    return reader


def _is_plain(path: Path, file: BinaryIO) -> bool:
    """Whether a file is whole without a log, and says so (https://www.sqlite.org/fileformat.html, 1.3.3)."""
    header = os.pread(file.fileno(), 20, 0)
    return header[18:20] == b"\1\1" and not any(path.with_name(path.name + suffix).exists() for suffix in BESIDE)


def _connected(path: Path, stack: ExitStack) -> sqlite3.Connection:
    with refused("read", path):
        # Where nothing can be written beside it, SQLite needs to be told how to do without.
        uri = plain_uri(path) if os.access(path.parent, os.W_OK) else still_uri(path)
        connection = stack.enter_context(closing(sqlite3.connect(uri, uri=True, isolation_level=None)))
        connection.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
        return connection


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA data_version").fetchone()[0])


def _require_known(main: sqlite3.Connection, kind: str, path: Path) -> None:
    (version,) = main.execute("PRAGMA user_version").fetchone()
    if version > known_version(kind):
        raise SparkleError("conflict", "database.newer", path=path, version=version, known=known_version(kind))


def _catalogue(main: sqlite3.Connection) -> list[SegmentRow]:
    return [
        SegmentRow(*row) for row in main.execute(f"SELECT {', '.join(SegmentRow._fields)} FROM segment ORDER BY id")
    ]


def _hot(catalogue: Iterable[SegmentRow]) -> list[SegmentRow]:
    return [row for row in catalogue if row.state == "hot"]


def _unchanging(main: sqlite3.Connection) -> tuple[object, ...]:
    """What says which files closed segments are, and what they hold."""
    rows = [(row.id, row.rows, row.submissions) for row in _catalogue(main) if row.state != "hot"]
    return rows, rewriting.announced(main)


def _names_set_aside(folder: Path) -> tuple[str, ...]:
    away = set_aside_folder(folder)
    return tuple(sorted(path.name for path in away.iterdir() if path.is_file())) if away.is_dir() else ()


# --- Writing it -------------------------------------------------------------------------------------------------------


class Meter:
    """Counts what is done, and gives way: after each piece the rest of the machine has as long as that took."""

    def __init__(self, stage: Stage, total: int, report: Report) -> None:
        self._stage: Stage = stage
        self._total = total
        self._report = report
        self._done = 0
        self._since = time.monotonic()
        report(BackupProgress(stage, 0, total))

    def step(self, size: int) -> None:
        """So many bytes more are done."""
        self._done += size
        self._report(BackupProgress(self._stage, self._done, self._total))
        time.sleep(min(time.monotonic() - self._since, _LONGEST_PAUSE_S))
        self._since = time.monotonic()

    def begin(self) -> None:
        """Something else was done meanwhile, or nothing."""
        self._since = time.monotonic()


class _Pages:
    """Counts the pages of a database that are copied to a file, and brings them to the disk bit by bit."""

    def __init__(self, file: BinaryIO, meter: Meter | None) -> None:
        self._file = file
        self._meter = meter
        self._done = 0

    def step(self, _: int, remaining: int, total: int) -> None:
        """As sqlite3.Connection.backup tells its progress."""
        if self._meter is not None:
            os.fdatasync(self._file.fileno())
            self._meter.step((total - remaining - self._done) * _PAGE)
        self._done = total - remaining


class _Staged(NamedTuple):
    """A copy that was made: of which segment (None: the main database), where it is, and how many rows it has."""

    row: SegmentRow | None
    path: Path
    rows: int


class _Copying:
    """One moment on its way into a backup. `linked` are the files that were taken over from an earlier one."""

    def __init__(self, held: Moment, writing: Writing, unready: Path, order: BackupOrder, report: Report) -> None:
        self.linked: set[str] = set()
        self._held = held
        self._writing = writing
        self._unready = unready
        self._order = order
        self._before = _files_of(order.before)
        self._notes: list[tuple[str, str]] = []
        self._schemas = dict.fromkeys(_COUNTS, 0)
        # What is copied to a file first is read once more from there.
        self._meter = Meter("copying", 2 * held.bytes_to_copy() + held.bytes_to_read(), report)

    def bytes_unknown(self) -> int:
        """Bytes of the files that never change any more and were not in the backup before."""
        sizes = {row: os.fstat(file.fileno()).st_size for row, file in self._held.read.items()}
        return sum(size for row, size in sizes.items() if self._same_before(row) is None)

    def run(self) -> BackupDone:
        """Copy everything."""
        held = self._held
        node = "".join(*held.main.execute("SELECT coalesce(max(value), '') FROM setting WHERE name='node'"))
        # The hot ones first and at once: while they are being read their logs can't begin anew.
        hot = [self._stage(held.copied.pop(row), row, in_haste=True) for row in _hot(held.copied)]
        files = [self._add(staged) for staged in (self._stage(held.main), *hot)]
        files += [self._add(self._stage(connection, row)) for row, connection in held.copied.items()]
        files += [self._add_unchanging(row, file) for row, file in held.read.items()]
        self._notes += [(_name(row), "missing") for row in held.missing]
        manifest = Manifest(
            program=__version__,
            schemas=self._schemas,
            node=node,
            created_at=held.now_ms,
            files=tuple(files),
            set_aside=held.set_aside,
        )
        self._writing.finish(manifest)
        return BackupDone(manifest, tuple(self._notes))

    def _stage(self, source: sqlite3.Connection, row: SegmentRow | None = None, *, in_haste: bool = False) -> _Staged:
        """Copy a database that others may write to into a plain file, end its moment, and look whether it is whole."""
        path = self._unready / "copied.db"
        if row is not None:
            path = path.with_name(f"copied-{row.id}.db")
        archive.create_private(path).close()
        self._meter.begin()
        with closing(sqlite3.connect(path, isolation_level=None)) as copy, path.open("rb") as file:
            copy.execute("PRAGMA journal_mode=OFF")
            copy.execute("PRAGMA synchronous=OFF")
            pages = _Pages(file, None if in_haste else self._meter)
            source.backup(copy, pages=_PAGES, progress=pages.step)
        source.execute("ROLLBACK")
        with closing(sqlite3.connect(path, isolation_level=None)) as copy:
            # It says of itself that it has a log, as the one that it was copied from.
            copy.execute("PRAGMA journal_mode=DELETE")
            return _Staged(row, path, self._examine(copy, row))

    def _examine(self, file: sqlite3.Connection, row: SegmentRow | None) -> int:
        """How many rows a file has. A segment that is damaged is noted; a main database that is, is no backup."""
        kind = "main" if row is None else row.kind
        try:
            (version,) = file.execute("PRAGMA user_version").fetchone()
            (rows,) = file.execute(_COUNTS[kind]).fetchone()
            (found,) = file.execute(f"PRAGMA {'integrity' if row is None else 'quick'}_check(1)").fetchone()
        except sqlite3.DatabaseError as error:
            version, rows, found = 0, 0, str(error)
        if found == "ok" and row is not None and row.state != "hot" and rows != row.rows:
            found = f"{rows} rows instead of {row.rows}"
        self._schemas[kind] = max(self._schemas[kind], version)
        if found != "ok":
            reason = " ".join(str(found).split())
            if row is None:
                raise SparkleError("conflict", "backup.damaged_main", reason=reason)
            self._notes.append((_name(row), reason))
        return int(rows)

    def _add(self, staged: _Staged) -> BackupFile:
        name = archive.MAIN if staged.row is None else _name(staged.row)
        self._meter.begin()
        with staged.path.open("rb") as file:
            size, sha256 = self._writing.add(name, file, self._meter.step)
        staged.path.unlink()
        return BackupFile(name=name, bytes=size, sha256=sha256, rows=staged.rows)

    def _add_unchanging(self, row: SegmentRow, file: BinaryIO) -> BackupFile:
        """Add a file that never changes any more: as another name for it, where that can be."""
        name, same = _name(row), self._same_before(row)
        path = segment_path(self._order.segments, row.kind, row.id)
        self._meter.begin()
        is_linked = self._link(name, path, file)
        if same is not None:
            earlier = self._order.before / name if self._order.before else path
            if is_linked or self._writing.link(name, earlier):
                self.linked.add(name)
                self._meter.step(same.bytes)
                return same
        rows = row.rows
        if _is_same(path, file):
            with closing(sqlite3.connect(plain_uri(path), uri=True)) as connection:
                rows = self._examine(connection, row)
        if is_linked:
            size, sha256 = archive.digest(file, self._meter.step)
        else:
            size, sha256 = self._writing.add(name, file, self._meter.step)
        return BackupFile(name=name, bytes=size, sha256=sha256, rows=rows, source=_source(file))

    def _link(self, name: str, path: Path, file: BinaryIO) -> bool:
        if not _is_same(path, file) or not self._writing.link(name, path):
            return False
        if not _is_same(path, file):
            raise OSError(f"{path} was replaced while it was linked")
        return True

    def _same_before(self, row: SegmentRow) -> BackupFile | None:
        """What the backup before has of a file that never changes, if it is that very file."""
        file, known = self._held.read[row], self._before.get(_name(row))
        is_same = known is not None and known.source == _source(file)
        return known if is_same and known and known.bytes == os.fstat(file.fileno()).st_size else None


def _files_of(before: Path | None) -> dict[str, BackupFile]:
    """The files of an earlier backup by name; nothing where it can't be read."""
    if before is None:
        return {}
    try:
        with closing(archive.open_backup(before)) as backup:
            return {file.name: file for file in backup.manifest.files}
    except (SparkleError, OSError):
        return {}


def _name(row: SegmentRow) -> str:
    return f"{archive.SEGMENTS}/{segment_path(Path(), row.kind, row.id).name}"


def _source(file: BinaryIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_ino, status.st_mtime_ns


def _is_same(path: Path, file: BinaryIO) -> bool:
    """Whether a path still leads to a file that is open."""
    try:
        return place_of(path.stat()) == place_of(os.fstat(file.fileno()))
    except OSError:
        return False
