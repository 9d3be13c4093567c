"""The database of one server or one command: the main file, its segments, one writer, a few readers."""

import asyncio
import functools
import itertools
import logging
import secrets
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

from sparkle_lite.db import restore, segments
from sparkle_lite.db.connection import (
    Connection,
    Row,
    Synchronous,
    connect,
    connect_readonly,
    fetch_all,
    fetch_one,
    known_version,
    merge_log,
    migrate,
    plain_uri,
    refused,
    still_uri,
    transaction,
    version_of,
)
from sparkle_lite.db.faults import BESIDE, FileFault, place_of, places_beside, taken_away
from sparkle_lite.db.lock import ServerLock, segment_folder
from sparkle_lite.errors import SparkleError
from sparkle_lite.texts import phrase
from sparkle_lite.turns import Turns

T = TypeVar("T")
S = TypeVar("S")
P = ParamSpec("P")
Command = Callable[[Connection], Awaitable[T]]

# Three connections let a slow page of the REST API leave two for everyone else.
READERS = 3
# Compressed bytes and bodies that share one transaction at the most.
GROUP_BYTES = 400_000
GROUP_BODIES = 128
# Bodies of one application in a group while others wait, and how much more than the one who has cost least somebody may
# have cost (s) to be in a group with them.
_BODIES_EACH, _APART_S = 2, 0.05

_STAMP = "database.stamp"

logger = logging.getLogger("sparkle.database")


class Database:
    """The main database: `write` runs a command in a transaction, `read` runs a query.

    A command-line process writes directly. In a server `start_writing` makes one task the owner of the connection, and
    every command waits for its turn there.
    """

    def __init__(
        self, path: Path, synchronous: Synchronous = "full", *, still: bool = False, uri: str | None = None
    ) -> None:
        """`still`: only read, on a disk that can't be written; what would write is refused.

        `uri` says how the main file is opened then, where that is known.
        """
        self.path = path
        self.segment_folder = segment_folder(path)
        self.synchronous: Synchronous = synchronous
        self.is_still = still
        # How to open the main file for reading, here and on threads.
        self.uri = uri or plain_uri(path)
        self._is_told_how = uri is not None
        # By it the files of this database's segments are told from others.
        self.stamp = 0
        self._main: Connection | None = None
        self._place: tuple[int, int] | None = None
        self._beside: Mapping[str, tuple[int, int]] = {}
        # Why nothing may be written any more.
        self.lost: FileFault | None = None
        # Whether something could not be written, and nobody has seen since that it can.
        self.is_doubted = False
        self._readers: asyncio.LifoQueue[Connection] = asyncio.LifoQueue()
        self._lock = asyncio.Lock()
        self._lock_of_server = ServerLock(path)
        self._writer: Writer[Any] | None = None

    @property
    def main(self) -> Connection:
        """The writing connection of the main database."""
        if self._main is None:
            raise RuntimeError("the database is not open")
        return self._main

    async def open(self, *, serve: bool = False) -> None:
        """Open and migrate the main database; as a server also take the lock and open the readers.

        Raises SparkleError: conflict where a new main database would stand beside the segments of another, and
        FileFault.
        """
        if serve:
            await self._take_place()
        elif not self.is_still:
            await asyncio.to_thread(restore.finish_if_free, self.path)
        try:
            if self.is_still:
                await self._open_still()
            else:
                await self._open()
            for _ in range(READERS if serve else 1):
                self._readers.put_nowait(await connect_readonly(self.path, uri=self.uri))
        except BaseException:
            await self.close()
            raise

    async def _open(self) -> None:
        with refused("open", self.path):
            is_new = not await asyncio.to_thread(_has_content, self.path)
            if is_new:
                await asyncio.to_thread(partial(_require_nothing_beside, self.path, is_new=True))
        self._main = await connect(self.path, synchronous=self.synchronous, cache_kib=16384)
        if not is_new and await version_of(self._main) == 0:
            # Begun, and nothing in it: what made it was lost with its log.
            with refused("open", self.path):
                await asyncio.to_thread(_require_nothing_beside, self.path)
        await migrate(self._main, self.path, "main")
        with refused("open", self.path):
            self._place = await asyncio.to_thread(_place, self.path)
            self._beside = await asyncio.to_thread(places_beside, self.path)
        await self._read_stamp()
        if not self.stamp:
            async with transaction(self._main) as main:
                await main.execute(
                    "INSERT OR IGNORE INTO setting VALUES (?,?)", (_STAMP, secrets.randbelow((1 << 31) - 1) + 1)
                )
            await self._read_stamp()
            await merge_log(self._main)

    async def _open_still(self) -> None:
        if not self._is_told_how:
            self.uri = await asyncio.to_thread(still_uri, self.path)
        self._main = await connect_readonly(self.path, uri=self.uri)
        version, known = await version_of(self._main), known_version("main")
        if version != known:
            raise SparkleError("conflict", "database.newer", path=self.path, version=version, known=known)
        await self._read_stamp()

    async def _read_stamp(self) -> None:
        row = await fetch_one(self.main, "SELECT value FROM setting WHERE name=?", (_STAMP,))
        self.stamp = int(row[0]) if row else 0

    def verify(self) -> None:
        """Look whether the main file is where it was with its log, and not empty. Raises FileFault; any thread.

        Only from outside: closing a file that SQLite has open, too, would end its locks.
        """
        if self._place is None:
            return
        with refused("write", self.path):
            place = _place(self.path)
            is_empty = not self.path.stat().st_size
            beside = places_beside(self.path)
        if place != self._place:
            raise FileFault("write", "replaced", "missing", phrase("file.replaced", path=self.path))
        if is_empty:
            raise FileFault("write", "emptied", "damaged", phrase("file.damaged", path=self.path, reason="emptied"))
        if gone := taken_away(self._beside, beside):
            # What is in it would be lost with this process, and others write to another one by now.
            log = self.path.with_name(self.path.name + gone)
            raise FileFault("write", "taken away", "missing", phrase("file.log_taken", path=log))

    def require_whole(self) -> None:
        """Raises FileFault where nothing may be written any more, because the main file is not what it was."""
        if self.lost is not None:
            raise self.lost

    async def require_place(self) -> None:
        """Raises FileFault where the main file is not what it was: what is committed to it now would be gone."""
        self.require_whole()
        await asyncio.to_thread(self.verify)

    async def save(self, main: Connection, fault: FileFault) -> Path | None:
        """Save what a main file held that was taken away, or its log; write nothing more to it; where it is saved.

        It takes its old place, or another name where something else stands there. None where the file is still there
        and only damaged. For the writer's task; raises FileFault where there is no room.
        """
        if fault.kind != "missing":
            self.lost = fault
            return None
        copy = self.path.with_name(f"{self.path.name}.rescue")
        with refused("write", copy):
            await asyncio.to_thread(copy.unlink, missing_ok=True)
            target = await connect(copy)
            try:
                await main.backup(target)
                await merge_log(target)
            finally:
                await target.close()
            self.lost = fault
            return await asyncio.to_thread(_settle, copy, self.path, self._place)

    async def _take_place(self) -> None:
        """Be the server of this database; a restore that waits for a start, or was killed, is finished first."""
        self._lock_of_server.take(still=self.is_still)
        if self.is_still:
            return
        await asyncio.to_thread(restore.discard_staged, self.path)
        if restore.ready_folders(self.path):
            await asyncio.to_thread(restore.finish, self.path)
            # The folder is another one now.
            self._lock_of_server.release()
            self._lock_of_server.take()

    async def close(self) -> None:
        """Close every connection; safe to call twice."""
        while not self._readers.empty():
            await self._readers.get_nowait().close()
        if self._main is not None:
            await self._main.close()
            self._main = None
        self._lock_of_server.release()

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[Connection]:
        """A reading connection of the pool, given back at the end of the block."""
        connection = await self._readers.get()
        try:
            yield connection
        finally:
            self._readers.put_nowait(connection)

    async def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """All rows of a query on the main database."""
        async with self.reader() as connection:
            return await fetch_all(connection, sql, parameters)

    def start_writing(
        self, store: Callable[[list[S]], Awaitable[list[S]]], weigh: Callable[[S], int], turns: Turns[S]
    ) -> None:
        """Let one task do all writing from now on; see Writer for the rest."""
        self._writer = Writer(self.main, store, weigh, turns)
        self._writer.start()

    async def stop_writing(self) -> None:
        """Write what is queued, then end that task."""
        if self._writer is not None:
            await self._writer.stop()
            self._writer = None

    @property
    def writer(self) -> "Writer[Any]":
        """The task that writes submissions."""
        if self._writer is None:
            raise RuntimeError("no task writes submissions here")
        return self._writer

    @property
    def is_writing(self) -> bool:
        """Whether submissions can be written."""
        return self._writer is not None and self._writer.running

    async def write(self, command: Command[T], *, alone: bool = False) -> T:
        """Run a command in one transaction, and wait for its commit; `alone`: outside of one, it makes its own.

        Where a writer runs, it is that which runs the command, whatever becomes of who asked for it.
        """
        if self.is_still:
            raise SparkleError("overloaded", "database.still", retry_after=30)
        if not alone:
            await self.require_place()
        if self._writer is not None:
            try:
                return await self._writer.write(command, alone=alone)
            except FileFault:
                self.is_doubted = True
                raise
        async with self._lock:
            if alone:
                return await command(self.main)
            async with transaction(self.main) as connection:
                return await command(connection)

    def streams(self) -> dict[segments.Kind, segments.Stream]:
        """The chains of segments, not yet opened."""
        return {
            kind: segments.Stream(self.segment_folder, kind, self.synchronous, self.stamp) for kind in segments.KINDS
        }


def is_there(path: Path) -> bool:
    """Whether there is a main database, with anything in it, once a restore that was interrupted is finished.

    Raises FileFault where that can't be seen, and SparkleError: conflict where one is missing beside its segments.
    """
    restore.finish_if_free(path)
    return is_here(path)


def is_here(path: Path) -> bool:
    """The same of the files as they are: nothing is changed."""
    with refused("open", path):
        if _has_content(path):
            return True
        _require_nothing_beside(path, is_new=True)
        return False


def _require_nothing_beside(path: Path, *, is_new: bool = False) -> None:
    """A new main database must not be made beside what belongs to another one, whose log may be there. Blocks."""
    files = [segment for segment in segment_folder(path).glob("*-????????.db") if segment.stat().st_size]
    log = path.with_name(path.name + "-wal")
    if is_new and log.exists() and log.stat().st_size:
        files.append(log)
    if files:
        raise SparkleError(
            "conflict",
            "database.main_missing",
            path=path,
            count=len(files),
            folder=files[0].parent,
            file=files[0].name,
        )


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def _settle(copy: Path, path: Path, own: tuple[int, int] | None) -> Path:
    """Give a copy the name of what was taken away, or one of its own where that is taken.

    Where the file itself (`own`) stands there still, which is not all without its log, it gives up its place.
    """
    if path.exists() and _place(path) == own:
        replaced = _free_name(path)
        replaced.hardlink_to(path)
        for suffix in BESIDE:
            # Somebody else may have made them since. They must not be taken for the copy's.
            with suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(replaced.with_name(replaced.name + suffix))
        copy.replace(path)
        return path
    place = path
    while True:
        try:
            # Unlike a rename it never replaces anything.
            place.hardlink_to(copy)
        except FileExistsError:
            place = _free_name(path)
        else:
            copy.unlink()
            break
    if place == path:
        for suffix in ("-wal", "-shm"):
            # They are of the file that is gone, and in the copy already.
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    return place


def _free_name(path: Path) -> Path:
    """A name for what has to make room for another, or for what was saved beside it."""
    names = (path.with_name(f"{path.name}.replaced-{number}") for number in itertools.count(1))
    return next(name for name in names if not name.exists() and not name.is_symlink())


def _place(path: Path) -> tuple[int, int]:
    return place_of(path.stat())


class AnnouncingDatabase:
    """A database of which somebody is told when something was written through it: `write` waits until they know.

    They are told whatever becomes of who wrote. Reading is as with the database itself. `on_commit` may be set later:
    who is told may need what writes.
    """

    def __init__(self, database: Database, on_commit: Callable[[], Awaitable[None]] | None = None) -> None:
        self.reader = database.reader
        self.on_commit = on_commit
        self._database = database
        self._writes: set[asyncio.Task[Any]] = set()

    async def merge_log(self) -> None:
        """Bring what is in the log into the file itself."""
        await self._database.write(merge_log, alone=True)

    async def write(self, command: Command[T]) -> T:
        """Run a command in one transaction, and wait for its commit and for who is told of it."""
        task = asyncio.create_task(self._write(command), name="announced write")
        self._writes.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    async def _write(self, command: Command[T]) -> T:
        result = await self._database.write(command)
        if self.on_commit is not None:
            await self.on_commit()
        return result

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._writes.discard(task)
        if not task.cancelled():
            # Whoever waited has it; where they went away, it is nobody's.
            task.exception()


class _Writable(Protocol):
    """What commands are given to."""

    async def write(self, command: Command[T]) -> T: ...


class _Stored(Protocol):
    """Whoever has a database."""

    @property
    def database(self) -> _Writable: ...


Owner = TypeVar("Owner", bound=_Stored)


def transacted(
    method: Callable[Concatenate[Owner, Connection, P], Awaitable[T]],
) -> Callable[Concatenate[Owner, P], Coroutine[Any, Any, T]]:
    """A method that is one transaction of its object's `database`: called without the connection, it runs with it.

    It runs where the database writes, not in its caller's task: a caller that goes away interrupts nothing.
    """

    @functools.wraps(method)
    async def call(self: Owner, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.database.write(lambda connection: method(self, connection, *args, **kwargs))

    return call


class Writer(Generic[S]):
    """The one task that writes: it takes what has arrived together and has it committed together.

    `store` commits a group, settles each submission's own future, and returns those it had no room for; `weigh` tells a
    submission's compressed bytes, and `turns` whose is the next one. Commands run between groups, one by one in
    transactions of their own, and one at the most where submissions wait as well: whoever changes something over and
    over holds up nobody's reports. Nothing that a requester does (going away, timing out) can interrupt a transaction.
    """

    def __init__(
        self,
        main: Connection,
        store: Callable[[list[S]], Awaitable[list[S]]],
        weigh: Callable[[S], int],
        turns: Turns[S],
    ) -> None:
        self._main = main
        self._store = store
        self._weigh = weigh
        self._submissions = turns
        self._commands: deque[tuple[Command[Any], bool, asyncio.Future[Any]]] = deque()
        self._wake = asyncio.Event()
        self._stopping = self._storing = False
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How many submissions wait for their group."""
        return len(self._submissions)

    @property
    def busy(self) -> bool:
        """Whether a new submission would have to wait for a group before its own."""
        return self._storing or bool(self._submissions)

    @property
    def running(self) -> bool:
        """Whether the task lives."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._run(), name="writer")

    async def stop(self) -> None:
        """Write what is queued, then end."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await self._task

    def submit(self, submission: S) -> None:
        """Queue a submission; its own future tells when it is committed."""
        self._submissions.put(submission)
        self._wake.set()

    async def write(self, command: Command[T], *, alone: bool = False) -> T:
        """Queue a command and wait for its commit; `alone`: outside of a transaction, it makes its own."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._commands.append((command, alone, future))
        self._wake.set()
        # A requester that goes away takes nothing with it: the command runs, and its result is nobody's.
        future.add_done_callback(lambda done: done.exception())
        return await asyncio.shield(future)

    async def _run(self) -> None:
        was_command = False
        while True:
            if self._commands and not (was_command and self._submissions):
                was_command = True
                await self._command(*self._commands.popleft())
            elif self._submissions:
                was_command = False
                self._storing = True
                rest = await self._store(self._group())
                self._storing = False
                for submission in reversed(rest):
                    self._submissions.put_back(submission)
            elif self._stopping:
                return
            else:
                self._wake.clear()
                await self._wake.wait()

    def _group(self) -> list[S]:
        # Enough to make the cost of a commit small, little enough that nobody waits long behind it.
        group: list[S] = []
        weight = 0
        for submission in self._submissions.together(_BODIES_EACH, _APART_S):
            group.append(submission)
            weight += self._weigh(submission)
            if weight >= GROUP_BYTES or len(group) == GROUP_BODIES:
                break
        return group

    async def _command(self, command: Command[Any], alone: bool, future: asyncio.Future[Any]) -> None:
        try:
            if alone:
                result = await command(self._main)
            else:
                async with transaction(self._main) as connection:
                    result = await command(connection)
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(result)
