"""Puts a backup in the place of a main database and its segments. What was there is set aside, nothing is deleted.

First all of it is written beside the database, compared with the manifest and looked at, in a folder
".<name>.restoring-<any>". Nothing else is touched until then, and what is left of such a folder the next who holds the
place of the server removes. Renaming it to "<name>.restored-<time>" is the moment at which the restored state counts,
and left to whoever asked for it (`arm`): the process that stages may outlive its server. From there on whoever opens
the database (a start, a command, the next `restore`) first brings what is in the folder to its place, by renames each
of which may be the last before a kill.
"""

import itertools
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from sparkle_lite.db import archive
from sparkle_lite.db.archive import Backup, Manifest, broken
from sparkle_lite.db.backup import Meter, Report, mebibytes
from sparkle_lite.db.connection import absolute, known_version, refused, sync_folder
from sparkle_lite.db.faults import BESIDE, FileFault
from sparkle_lite.db.lock import ServerLock, segment_folder
from sparkle_lite.db.segments import KINDS, set_aside_folder
from sparkle_lite.errors import SparkleError
from sparkle_lite.units import MIB

_UNREADY, _READY, _OLD = ".restoring-", ".restored-", ".before-restore-"
# As tempfile.mkdtemp makes it.
_ANY = re.compile(r"[a-z0-9_]{8}")
_SPARE = 16 * MIB
_TIME, _STAMP = "%Y%m%d-%H%M%S", re.compile(r"[0-9]{8}-[0-9]{6}")


class RestoreOrder(NamedTuple):
    """Which backup to stage, for which main database."""

    database: Path
    source: Path


class Staged(NamedTuple):
    """A backup beside a main database, in a folder that nothing takes for more than that before `arm`.

    `left_out` are the files of its segments that are missing or damaged in it: the server names them, and serves the
    rest.
    """

    folder: Path
    manifest: Manifest
    left_out: tuple[str, ...]


class Restored(NamedTuple):
    """What was restored, and the folder in which what was there before is now; None where there was nothing."""

    staged: Staged
    old: Path | None


def restore(path: Path, source: Path, now_ms: int, report: Report) -> Restored:
    """Put a backup in the place of a main database. Raises SparkleError, and nothing is changed then.

    conflict: a server runs there, the backup is of a newer program, or there is no room; bad_request: its main database
    or its list of contents is damaged, or it is cut off.
    FileFault: it can't be read, or the place can't be written.
    """
    with _opened(source) as backup, _place(path), refused("write", path):
        discard_staged(path)
        finish(path)
        staged = _stage(path, backup, report)
        arm(path, staged, now_ms)
        return Restored(staged, finish(path))


def stage(order: RestoreOrder, report: Report) -> Staged:
    """Write a backup beside what is there, for `arm`. Raises as `restore`."""
    with _opened(order.source) as backup, refused("write", order.database):
        return _stage(order.database, backup, report)


def arm(path: Path, staged: Staged, now_ms: int) -> None:
    """From here on the next start puts what was staged in the place of what is there. Raises FileFault."""
    with refused("write", path):
        staged.folder.rename(_free_name(path, now_ms))
        sync_folder(path.parent)


def discard_staged(path: Path) -> None:
    """Remove what was staged and not armed; for whoever holds the place of the server, while nobody stages for it."""
    for folder in _folders(path, f".{path.name}{_UNREADY}", _ANY):
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _opened(source: Path) -> Iterator[Backup]:
    with refused("read", source):
        backup = archive.open_backup(source)
    with closing(backup):
        yield backup


@contextmanager
def _place(path: Path) -> Iterator[None]:
    """Hold the place of a server; where nothing comes of it, what was made for that goes again."""
    lock, made = ServerLock(path), [each for each in (segment_folder(path), path.parent) if not each.exists()]
    lock_file = None if path.with_name(path.name + ".lock").exists() else path.with_name(path.name + ".lock")
    try:
        lock.take()
    except SparkleError as error:
        if error.said.key == "database.in_use":
            raise SparkleError("conflict", "backup.in_use", path=path) from error
        raise
    try:
        yield
    except BaseException:
        if lock_file is not None:
            lock_file.unlink(missing_ok=True)
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        raise
    finally:
        lock.release()


# --- Beside the database ----------------------------------------------------------------------------------------------


def _stage(path: Path, backup: Backup, report: Report) -> Staged:
    """Write all of a backup beside a main database, and look at it."""
    needed, free = backup.manifest.bytes + _SPARE, shutil.disk_usage(path.parent).free
    if free < needed:
        sizes = {"needed": mebibytes(needed), "free": mebibytes(free)}
        raise SparkleError("conflict", "backup.no_room_to_restore", path=path.parent, **sizes)
    unready = Path(tempfile.mkdtemp(prefix=f".{path.name}{_UNREADY}", dir=path.parent))
    left_out = []
    try:
        (unready / archive.SEGMENTS).mkdir(mode=0o700)
        meter = Meter("restoring", backup.manifest.bytes, report)
        for file in backup.manifest.files:
            try:
                _write(unready / file.name, archive.checked(backup, file), meter)
            except SparkleError:
                if file.name == archive.MAIN:
                    raise
                (unready / file.name).unlink()
                left_out.append(file.name)
        _require_ours(unready, backup)
        for folder in (unready / archive.SEGMENTS, unready):
            sync_folder(folder)
    except BaseException:
        shutil.rmtree(unready, ignore_errors=True)
        raise
    return Staged(unready, backup.manifest, tuple(left_out))


def _write(path: Path, pieces: Iterator[bytes], meter: Meter) -> None:
    with archive.create_private(path) as target:
        for piece in pieces:
            target.write(piece)
            meter.step(len(piece))
        target.flush()
        os.fsync(target.fileno())


def _free_name(path: Path, now_ms: int) -> Path:
    while True:
        time = datetime.fromtimestamp(now_ms / 1000, UTC).strftime(_TIME)
        ready = path.with_name(f"{path.name}{_READY}{time}")
        if not os.path.lexists(ready) and not os.path.lexists(_old_folder(path, ready)):
            return ready
        now_ms += 1000


def _require_ours(folder: Path, backup: Backup) -> None:
    """Raises SparkleError where the files aren't those of a database that this program can open.

    A segment that was damaged before it was backed up is as it was: the server sets it aside, and serves the rest.
    """
    path = backup.path
    named: set[str] = set()
    try:
        with closing(_connected(folder / archive.MAIN)) as main:
            _require_version(main, "main", path)
            (found,) = main.execute("PRAGMA integrity_check(1)").fetchone()
            for kind, number in main.execute("SELECT kind, id FROM segment"):
                named.add(f"{archive.SEGMENTS}/{kind}-{number:08d}.db")
            main.execute("SELECT value FROM setting LIMIT 1").fetchone()
    except sqlite3.DatabaseError as error:
        found = str(error)
    if found != "ok":
        raise broken("backup.bad_main", path=path, reason=" ".join(str(found).split()))
    files = {file.name for file in backup.manifest.files} - {archive.MAIN}
    if not files <= named:
        raise broken("backup.other_files", path=path)
    for name in files:
        # One that was left out can't be opened either.
        with suppress(sqlite3.DatabaseError), closing(_connected(folder / name)) as segment:
            _require_version(segment, next(kind for kind in KINDS if f"/{kind}-" in name), path)


def _connected(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{absolute(file).as_uri()}?mode=ro&immutable=1", uri=True)
    # Whatever stands in it, nothing of it is run.
    connection.execute("PRAGMA trusted_schema=OFF")
    return connection


def _require_version(file: sqlite3.Connection, kind: str, path: Path) -> None:
    (version,) = file.execute("PRAGMA user_version").fetchone()
    if version > known_version(kind):
        raise SparkleError("conflict", "backup.newer", path=path)


# --- To its place -----------------------------------------------------------------------------------------------------


def finish(path: Path) -> Path | None:
    """Bring what was made ready to its place; the folder of what was there before, None where there was nothing.

    Does nothing where nothing is ready. For whoever holds the place of the server. Raises FileFault.
    """
    moved = None
    with refused("write", path):
        for ready in ready_folders(path):
            moved = _bring(path, ready)
    return moved


def ready_folders(path: Path) -> list[Path]:
    """What is ready to take the place of a main database."""
    return sorted(_folders(path, f"{path.name}{_READY}", _STAMP))


def _folders(path: Path, start: str, rest: re.Pattern[str]) -> list[Path]:
    """The folders beside a main database with a name of ours; nothing where nobody can look."""
    beside: list[Path] = []
    with suppress(OSError):
        beside = [each for each in path.parent.iterdir() if each.name.startswith(start)]
    named = [each for each in beside if rest.fullmatch(each.name.removeprefix(start))]
    return [each for each in named if each.is_dir() and not each.is_symlink()]


def _old_folder(path: Path, ready: Path) -> Path:
    return path.with_name(path.name + _OLD + ready.name.removeprefix(path.name + _READY))


def _bring(path: Path, ready: Path) -> Path | None:
    """One folder to its place. What of it is still there has not been brought, so what stands in its place is old."""
    old, main, inside = _old_folder(path, ready), ready / archive.MAIN, ready / archive.SEGMENTS
    old.mkdir(mode=0o700, exist_ok=True)
    if main.exists():
        # The log first: a file without its log would be taken for whole.
        for suffix in (*reversed(BESIDE), ""):
            _move(path.with_name(path.name + suffix), old)
        _move(set_aside_folder(segment_folder(path)), old)
        if inside.exists():
            with suppress(OSError):
                # An empty one is nothing: taking the place of a server makes one, after a kill even a second one.
                segment_folder(path).rmdir()
            _move(segment_folder(path), old)
            inside.rename(segment_folder(path))
        sync_folder(old)
        main.rename(path)
        sync_folder(path.parent)
    with suppress(OSError):
        ready.rmdir()
    # Somebody else's, if anything is left in it.
    _move(ready, old)
    with suppress(OSError):
        old.rmdir()
    sync_folder(path.parent)
    return old if old.exists() else None


def _move(path: Path, folder: Path) -> None:
    if not os.path.lexists(path):
        return
    names = (path.name if number == 1 else f"{path.name}.{number}" for number in itertools.count(1))
    path.rename(folder / next(name for name in names if not os.path.lexists(folder / name)))


def finish_if_free(path: Path) -> None:
    """Finish a restore that was killed, where no server is running. Blocks. Raises FileFault."""
    if not ready_folders(path):
        return
    lock = ServerLock(path)
    try:
        lock.take()
    except FileFault:
        raise
    except SparkleError:
        # A server that has staged one finishes it at its next start.
        return
    try:
        finish(path)
    finally:
        lock.release()
