"""Whether the disk takes what is written: tried, not waited for until a client's report is refused."""

import asyncio
import errno
import os
import time
from collections.abc import Mapping
from pathlib import Path

from sparkle_lite.db.connection import Connection, fetch_all, fetch_one, refused, transaction
from sparkle_lite.db.database import Database
from sparkle_lite.db.faults import FileFault
from sparkle_lite.db.segments import Kind, Stream, file_size
from sparkle_lite.errors import SparkleError
from sparkle_lite.texts import ENGLISH
from sparkle_lite.units import MIB

# What a trial writes, and what must fit before a server that only reads begins to write.
_BLOCK, _ROOM_TO_START = 64 * 1024, MIB
# A trial is believed for so long (s), and one that commits something, where nothing speaks against it.
_FRESH_S, _COMMITTED_S = 1.0, 10.0
# The writer answers within a group; a disk that takes longer takes no submissions either.
_PATIENCE_S = 5.0


class Disk:
    """The disk under one server. `failure` says why nothing can be written, without paths; None where it can."""

    def __init__(self, database: Database, streams: Mapping[Kind, Stream]) -> None:
        self.failure: str | None = None
        self._database = database
        self._streams = streams
        self._trying = asyncio.Lock()
        self._tried_at = self._committed_at = float("-inf")

    async def probe(self, *, by_commit: bool = True) -> None:
        """Try to write, unless that was tried a moment ago; `by_commit`: in the database itself, not only beside it."""
        async with self._trying:
            now = time.monotonic()
            if now - self._tried_at < _FRESH_S and not self._database.is_doubted:
                return
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    await self._try(by_commit=by_commit)
            except SparkleError as error:
                self.failure = error.text(ENGLISH)
            except TimeoutError:
                self.failure = "the disk does not answer"
            else:
                self.failure = None
            self._tried_at = time.monotonic()

    async def _try(self, *, by_commit: bool) -> None:
        database = self._database
        database.require_whole()
        await asyncio.to_thread(database.verify)
        await asyncio.to_thread(self._try_beside, _BLOCK)
        is_due = time.monotonic() - self._committed_at >= _COMMITTED_S
        if database.is_doubted or self.failure is not None or (by_commit and is_due):
            await database.write(self._commit, alone=True)
            database.is_doubted = False
            self._committed_at = time.monotonic()

    async def can_start(self) -> bool:
        """Whether there is room enough for a server that writes."""
        try:
            await asyncio.to_thread(self._try_beside, _ROOM_TO_START)
        except FileFault:
            return False
        return True

    def _try_beside(self, size: int) -> None:
        """Write as far behind the beginning as the largest of the files reaches: limits may be on that too."""
        database, largest = self._database, 0
        paths = [database.path, *(stream.path(stream.hot.id) for stream in self._streams.values() if stream.hot)]
        for path in paths:
            largest = max(largest, file_size(path))
        for folder in {path.parent for path in paths if path.parent.exists()}:
            with refused("write", folder):
                _write(folder, largest, size)

    async def _commit(self, main: Connection) -> None:
        """Write the same as stands there to each file, and commit it."""
        async with transaction(main):
            await _write_version(main)
        for stream in self._streams.values():
            connection = stream.connection
            with refused("write", connection):
                try:
                    await connection.execute("BEGIN IMMEDIATE")
                    await _write_version(connection)
                    await connection.commit()
                finally:
                    await stream.roll_back()


async def _write_version(connection: Connection) -> None:
    row = await fetch_one(connection, "PRAGMA user_version")
    await fetch_all(connection, f"PRAGMA user_version={int(row[0]) if row else 0}")


def _write(folder: Path, offset: int, size: int) -> None:
    try:
        file = os.open(folder, getattr(os, "O_TMPFILE", os.O_CREAT) | os.O_RDWR, 0o600)
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EOPNOTSUPP, errno.ENOENT):
            raise
        # Not every file system has files without a name.
        name = folder / ".sparkle-probe"
        file = os.open(name, os.O_CREAT | os.O_RDWR | os.O_TRUNC, 0o600)
        name.unlink()
    try:
        # It is gone before the system has brought it to the disk, which needs to be asked only whether there is room.
        if os.pwrite(file, bytes(size), offset) < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    finally:
        os.close(file)
