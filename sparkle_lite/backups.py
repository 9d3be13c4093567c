"""The backups of one server: made by themselves and on a page, kept and let go of, and what room they take.

One folder a backup, named by its time (UTC), in the folder of `[backup]`. What of the data never changes any more is in
all of them one file with several names (hard links), where the file system has that: the data's own file where the
backups are on the same one, else that of the backup before. So a backup takes the room of the main database and of what
came since the last.

An archive (*.tar) that somebody puts into the folder is shown and can be restored, as is the backup of another server;
it is never removed, and counts for nothing else.

Their room counts where the size is limited: the oldest go until database and backups together are within the limit. The
newest stays whatever it takes, and retention takes nothing from the database for it: what is deleted there would only
go on existing in the backup.
"""

import asyncio
import logging
import os
import re
import shutil
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from sparkle_lite.accounts.actors import Actor
from sparkle_lite.accounts.audit import Audit
from sparkle_lite.clock import JUMP_MS, Clock
from sparkle_lite.config import Config
from sparkle_lite.config.keys import BackupSection
from sparkle_lite.db import archive
from sparkle_lite.db.accounts import setting
from sparkle_lite.db.backup import BackupDone, BackupOrder, BackupProgress, CheckOrder, Stage, discard_unready
from sparkle_lite.db.connection import Connection, refused
from sparkle_lite.db.database import Database, transacted
from sparkle_lite.db.faults import place_of
from sparkle_lite.db.restore import RestoreOrder, Staged, arm, discard_staged
from sparkle_lite.errors import SparkleError
from sparkle_lite.units import DAY_S, HOUR_S
from sparkle_lite.worker_process import WorkerProcess

_NAME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}-[0-9]{6}")
_TIME = "%Y-%m-%d-%H%M%S"
# An archive that somebody put there; such a file is theirs.
_ARCHIVE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.tar")
# Gone at once for those who look, and then bit by bit.
_GOING = ".sparkle-backup-going-"
# After a failure (s).
_AGAIN_S = HOUR_S

logger = logging.getLogger("sparkle.backups")


def newest_at(folder: Path) -> int | None:
    """When (ms) the newest backup in a folder was made, by its name; None where there is none. Raises OSError."""
    times = [_time_of(each.name) for each in folder.iterdir()] if folder.is_dir() else []
    return max((time for time in times if time is not None), default=None)


def _time_of(name: str) -> int | None:
    """The time (ms) that the name of a backup is; None where it is none."""
    if _NAME.fullmatch(name):
        with suppress(ValueError):
            return int(datetime.strptime(name, _TIME).replace(tzinfo=UTC).timestamp() * 1000)
    return None


class StoredBackup(NamedTuple):
    """A backup in the folder. Times in ms; `bytes` of all its files, `own` of those that nothing else has.

    `is_brought`: somebody put it there as an archive, or it is of another server.
    """

    name: str
    created_at: int
    program: str
    files: int
    rows: int
    bytes: int
    own: int
    is_brought: bool


class Backups:
    """`progress` says how far what is being done is, None while that is nothing.

    `failure` is why the last backup could not be made, `restore_failure` why the last restore could not be had ready.
    `checked` says of those that were read again since the start when, and what was wrong; `room` are the bytes that
    backups take beside the data, as of the last look.
    """

    def __init__(self, audit: Audit, config: Callable[[], Config], clock: Clock, size: Callable[[], int]) -> None:
        """`size`: bytes of the database."""
        self.progress: BackupProgress | None = None
        self.failure: SparkleError | None = None
        self.restore_failure: SparkleError | None = None
        self.checked: dict[str, tuple[int, SparkleError | None]] = {}
        self.room = 0
        self.database: Database = audit.database
        self._audit = audit
        self._config = config
        self._clock = clock
        self._size = size
        self._failed_at = 0.0
        self._worker = WorkerProcess("sparkle_lite.db.backup_process")
        self._making = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def folder(self) -> Path:
        """Where they are."""
        return self._config().backup.path

    async def all(self) -> list[StoredBackup]:
        """Every backup in the folder, newest first."""
        async with self.database.reader() as reader:
            node = str(await setting(reader, "node") or "")
        found = await asyncio.to_thread(_stored, self.folder, self.database.segment_folder, node)
        self.room = sum(backup.own for backup in found.backups if not backup.is_brought) + found.shared
        return found.backups

    async def _ours(self) -> list[StoredBackup]:
        return [backup for backup in await self.all() if not backup.is_brought]

    async def run_due(self) -> None:
        """Make a backup when it is time, and let go of what is too old or too much; not while the clock is in doubt.

        Raises SparkleError until one is made again after a failure.
        """
        every = self._config().backup.every
        if not every or self._making.locked() or self._clock.doubt is not None:
            return
        backups, now = await self._ours(), self._clock.settled()
        # A clock that was ahead or behind has left backups of times that are far off.
        if any(abs(now - backup.created_at) < every for backup in backups):
            await self._let_go(backups)
        elif self.failure is None or time.monotonic() - self._failed_at >= min(_AGAIN_S, every / 1000):
            await self.make()
        if self.failure is not None:
            # Whoever reads of it may be anybody; the reason names places.
            raise SparkleError("internal", "backup.not_made")

    def begin(self, actor: Actor) -> None:
        """Make one in the background, unless something is being done. Raises SparkleError: forbidden."""
        self._begin(self._make_for(actor), "copying", actor)

    def begin_check(self, name: str, actor: Actor) -> None:
        """Read one as a whole in the background, unless something is being done; `checked` says how that went."""
        self._begin(self._check(name), "checking", actor)

    def begin_restore(self, name: str, actor: Actor, restart: asyncio.Event) -> None:
        """Have one ready in the background, and set an event when the next start would put it in place.

        What fails is in the log and in `restore_failure`, and changes nothing. Raises SparkleError: forbidden, conflict
        where something else is being done.
        """
        if self.progress is not None:
            raise SparkleError("conflict", "backup.busy")
        self._begin(self._restore(name, actor, restart), "restoring", actor)

    def _begin(self, work: Coroutine[Any, Any, None], stage: Stage, actor: Actor) -> None:
        if not actor.admin or self.progress is not None:
            work.close()
            actor.require_admin()
            return
        # So that whoever looks right after this sees that it has begun.
        self.progress = BackupProgress(stage, 0, 0)
        task = asyncio.create_task(work, name=f"backup: {stage}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def _make_for(self, actor: Actor) -> None:
        await self._record(actor, "BACKUP_MAKE", {})
        await self.make()

    async def _check(self, name: str) -> None:
        (await self.open(name)).close()
        failure = None
        async with self._working("checking"):
            try:
                await self._worker.ask(CheckOrder(self.folder / name), DAY_S, self._note)
            except (SparkleError, TimeoutError) as error:
                failure = _as_said(error)
                logger.error("the backup %s is not whole: %s", name, error)
            self.checked[name] = (self._clock.settled(), failure)

    async def _restore(self, name: str, actor: Actor, restart: asyncio.Event) -> None:
        (await self.open(name)).close()
        await self._record(actor, "BACKUP_RESTORE", {"backup": name})
        path, self.restore_failure = self.database.path, None
        async with self._working("restoring"):
            try:
                staged: Staged = await self._worker.ask(RestoreOrder(path, self.folder / name), DAY_S, self._note)
                await asyncio.to_thread(arm, path, staged, self._clock.settled())
            except (SparkleError, TimeoutError) as error:
                self.restore_failure = _as_said(error)
                logger.error("the backup %s could not be restored: %s", name, error)
                return
            finally:
                # Whoever was killed or has waited too long has left it.
                await asyncio.to_thread(discard_staged, path)
        for left_out in staged.left_out:
            logger.error("%s is damaged in the backup %s and left out", left_out, name)
        logger.info("the server goes down and comes up as it was in a backup", extra={"backup": name})
        restart.set()

    @asynccontextmanager
    async def _working(self, stage: Stage) -> AsyncIterator[None]:
        """One thing at a time; the process that does it goes with it."""
        async with self._making:
            self.progress = BackupProgress(stage, 0, 0)
            try:
                yield
            finally:
                await self._worker.close()
                self.progress = None

    @transacted
    async def _record(self, connection: Connection, actor: Actor, action: str, details: Mapping[str, str]) -> None:
        await self._audit.record(connection, actor, action, **details)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.progress = None
            logger.error("%s could not be done: %s", task.get_name(), error)

    async def make(self) -> bool:
        """Make a backup now; whether that went. What failed is in the log and in `failure`, and leaves nothing."""
        async with self._working("copying"):
            try:
                done = await self._made()
            except (SparkleError, TimeoutError) as error:
                self.failure = _as_said(error)
                self._failed_at = time.monotonic()
                logger.error("no backup could be made: %s", error)
                return False
        self.failure = None
        for name, why in done.notes:
            logger.error("%s is not as it should be in the database, nor in the backup: %s", name, why)
        await self._let_go(await self._ours())
        return True

    async def _made(self) -> BackupDone:
        folder, now, earlier = self.folder, self._clock.settled(), await self._ours()
        # Where a disk isn't mounted, its place must not be filled instead.
        is_default = self._config().backup.folder == BackupSection().folder
        with refused("write", folder):
            try:
                await asyncio.to_thread(folder.mkdir, mode=0o700, parents=is_default, exist_ok=True)
            except FileNotFoundError:
                raise SparkleError("not_found", "backup.no_folder", path=folder.parent) from None
        name = await asyncio.to_thread(_free_name, folder, now)
        # One that was found damaged may share what is damaged with others: then everything is read anew.
        is_doubted = any(error and earlier and at >= earlier[0].created_at for at, error in self.checked.values())
        order = BackupOrder(
            database=self.database.path,
            segments=self.database.segment_folder,
            target=folder / name,
            now_ms=now,
            before=folder / earlier[0].name if earlier and not is_doubted else None,
        )
        started = time.monotonic()
        done: BackupDone = await self._worker.ask(order, DAY_S, self._note)
        logger.info(
            "a backup is made", extra={"backup": name, "bytes": done.manifest.bytes, "s": time.monotonic() - started}
        )
        return done

    def _note(self, progress: BackupProgress) -> None:
        self.progress = progress

    # --- Letting go ---------------------------------------------------------------------------------------------------

    async def _let_go(self, backups: Sequence[StoredBackup]) -> None:
        """Remove what is more than `keep`, and the oldest while all is more than the limit of the size.

        Nothing while the clock is in doubt. One of a time that is yet to come was made before the others, by a clock
        that was ahead: it goes first.
        """
        if self._clock.doubt is not None:
            return
        config, latest = self._config(), self._clock.settled() + JUMP_MS
        left = sorted(backups, key=lambda backup: backup.created_at > latest)
        limit = config.retention.max_database_size
        while len(left) > 1:
            is_large = bool(limit) and self._size() + self.room > limit
            if len(left) <= config.backup.keep and not is_large:
                break
            oldest = left.pop()
            try:
                await asyncio.to_thread(_remove, self.folder / oldest.name)
            except OSError as error:
                logger.error("the backup %s can't be removed: %s", oldest.name, error)
                break
            logger.info("an old backup is removed", extra={"backup": oldest.name})
            # What is left takes another room now.
            await self.all()

    # --- Reading ------------------------------------------------------------------------------------------------------

    async def open(self, name: str) -> archive.Backup:
        """A backup, to be read; whoever is given it closes it. Raises SparkleError: not_found, bad_request."""
        if not _NAME.fullmatch(name) and not _ARCHIVE.fullmatch(name):
            raise SparkleError("not_found", "backup.not_there", name=name[:40])
        try:
            return await asyncio.to_thread(archive.open_backup, self.folder / name)
        except (OSError, SparkleError) as error:
            logger.error("the backup %s can't be read: %s", name, error)
            raise SparkleError("not_found", "backup.not_there", name=name) from error

    async def close(self) -> None:
        """End what is being made; nothing is left of it."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._worker.close()
        with suppress(OSError):
            await asyncio.to_thread(discard_unready, self.folder)


def _as_said(error: SparkleError | TimeoutError) -> SparkleError:
    return error if isinstance(error, SparkleError) else SparkleError("timeout", "backup.ended")


async def pieces_of(backup: archive.Backup) -> AsyncIterator[bytes]:
    """A backup as an archive, piece by piece; closes it."""
    with closing(backup):
        pieces = archive.pieces_of_archive(backup)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield piece


def _free_name(folder: Path, now_ms: int) -> str:
    while True:
        name = datetime.fromtimestamp(now_ms / 1000, UTC).strftime(_TIME)
        if not os.path.lexists(folder / name):
            return name
        now_ms += 1000


class _InFolder(NamedTuple):
    """What is in the folder; `shared` are the bytes that several backups have, and the data has not."""

    backups: list[StoredBackup]
    shared: int


def _stored(folder: Path, segments: Path, node: str) -> _InFolder:
    """What is in the folder of the server that is `node`. What isn't a backup is passed over. Blocks."""
    ours = {place_of(status) for _, status in _files_in(segments)}
    found: list[tuple[str, archive.Manifest, dict[tuple[int, int], int]]] = []
    for path in folder.iterdir() if folder.is_dir() else ():
        # A link leads to what is elsewhere, and would be removed in its place.
        if not (_NAME if path.is_dir() else _ARCHIVE).fullmatch(path.name) or (path.is_dir() and path.is_symlink()):
            continue
        try:
            with closing(archive.open_backup(path)) as backup:
                files = {place_of(status): status.st_size for _, status in _files_in(path)}
                found.append((path.name, backup.manifest, files))
        except (OSError, SparkleError) as error:
            logger.debug("%s is no backup: %s", path, error)
    used: dict[tuple[int, int], int] = {}
    for _, _, files in found:
        for place in files:
            used[place] = used.get(place, 0) + 1
    listed = [
        StoredBackup(
            name=name,
            created_at=manifest.created_at,
            program=manifest.program,
            files=len(manifest.files),
            rows=sum(file.rows for file in manifest.files),
            bytes=manifest.bytes,
            own=sum(size for place, size in files.items() if used[place] == 1 and place not in ours),
            is_brought=_NAME.fullmatch(name) is None or manifest.node != node,
        )
        for name, manifest, files in found
    ]
    every = {place: size for _, manifest, files in found if manifest.node == node for place, size in files.items()}
    shared = sum(size for place, size in every.items() if used[place] > 1 and place not in ours)
    listed.sort(key=lambda backup: (backup.created_at, backup.name), reverse=True)
    return _InFolder(listed, shared)


def _files_in(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in folder.rglob("*") if folder.is_dir() else (folder,):
        with suppress(OSError):
            status = path.lstat()
            if not path.is_dir():
                yield path, status


def _remove(path: Path) -> None:
    """Remove a backup; one in which somebody put something of theirs is left. Raises OSError. Blocks."""
    with closing(archive.open_backup(path)) as backup:
        own = {archive.MANIFEST, *(file.name for file in backup.manifest.files)}
    strangers = {str(each.relative_to(path)) for each, _ in _files_in(path)} - own
    if strangers:
        raise OSError(f"it holds what is no part of it: {min(strangers)}")
    going = path.with_name(_GOING + path.name)
    path.rename(going)
    shutil.rmtree(going)
