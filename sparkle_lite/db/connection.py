"""Opening and migrating SQLite files: the only place that knows the driver, its pragmas and its errors."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import aiosqlite

from sparkle_lite.db.keys import stable_number
from sparkle_lite.errors import SparkleError
from sparkle_lite.units import MIB

Connection = aiosqlite.Connection
Row = tuple[Any, ...]
Synchronous = Literal["full", "normal"]

# Another process (a command of the command line) holds the write lock for milliseconds; a backup's checkpoint longer.
BUSY_TIMEOUT_MS = 10_000
JOURNAL_SIZE_LIMIT = 8 * MIB


async def connect(
    path: Path,
    *,
    synchronous: Synchronous = "full",
    cache_kib: int = 8192,
    begins: Literal["IMMEDIATE"] | None = None,
    create: bool = True,
) -> Connection:
    """Open a file for writing; a new one (unless `create` is off) is readable by its owner alone.

    Transactions are explicit, unless `begins` lets the driver begin one before the first INSERT.
    Raises SparkleError where the file can't be opened.
    """
    with refused("open"):
        if create:
            _create_private(path)
        uri = f"{absolute(path).as_uri()}?mode=rw"
        connection = await aiosqlite.connect(uri, uri=True, isolation_level=begins, cached_statements=256)
        pragmas = (
            f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}",
            # Only an empty file takes this; it lets retention give space back in small steps.
            "PRAGMA auto_vacuum=INCREMENTAL",
            "PRAGMA journal_mode=WAL",
            f"PRAGMA synchronous={synchronous}",
            f"PRAGMA cache_size=-{cache_kib}",
            f"PRAGMA journal_size_limit={JOURNAL_SIZE_LIMIT}",
            "PRAGMA foreign_keys=ON",
            "PRAGMA temp_store=MEMORY",
        )
        await _prepare(connection, pragmas)
        return connection


async def connect_readonly(path: Path, *, cache_kib: int = 8192) -> Connection:
    """Open a file for reading; a write through this connection fails."""
    with refused("open"):
        connection = await aiosqlite.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None)
        pragmas = (
            f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}",
            "PRAGMA query_only=ON",
            f"PRAGMA cache_size=-{cache_kib}",
            "PRAGMA temp_store=MEMORY",
        )
        await _prepare(connection, pragmas)
        return connection


async def _prepare(connection: Connection, pragmas: Sequence[str]) -> None:
    try:
        for pragma in pragmas:
            # Some pragmas answer with a row, and are under way until it is fetched.
            await connection.execute_fetchall(pragma)
    except BaseException:
        await connection.close()
        raise


def absolute(path: Path) -> Path:
    """The path from the root on, which is what a URI needs."""
    return path.absolute()


def _create_private(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        return
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk: a new file's must survive a power failure as well as its content."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextmanager
def refused(doing: str) -> Iterator[None]:
    """Turn a refusal of the disk or of the database into a SparkleError that says what to do.

    Faults of our own SQL (sqlite3.ProgrammingError, IntegrityError) pass through: they are not the operator's.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        raise _unavailable(doing, str(error)) from error
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError | sqlite3.DataError):
            raise
        raise _unavailable(doing, str(error)) from error
    except OSError as error:
        raise _unavailable(doing, error.strerror or str(error)) from error


def _unavailable(doing: str, reason: str) -> SparkleError:
    return SparkleError("overloaded", "database.unavailable", doing=doing, reason=reason, retry_after=30)


@asynccontextmanager
async def transaction(connection: Connection) -> AsyncIterator[Connection]:
    """One immediate transaction: committed when the block ends, rolled back when it raises."""
    with refused("write"):
        await connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            await connection.commit()
        except BaseException:
            await roll_back(connection)
            raise


async def roll_back(connection: Connection) -> None:
    """End a transaction that failed; SQLite may have ended it already (disk full)."""
    if connection.in_transaction:
        with suppress(sqlite3.Error):
            await connection.rollback()


async def fetch_all(connection: Connection, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
    """All rows of a query in one call to the driver's thread."""
    with refused("read"):
        return list(await connection.execute_fetchall(sql, parameters))  # type: ignore[arg-type]


async def fetch_one(connection: Connection, sql: str, parameters: Sequence[Any] = ()) -> Row | None:
    """The first row of a query."""
    rows = await fetch_all(connection, sql, parameters)
    return rows[0] if rows else None


async def empty_log(connection: Connection) -> None:
    """Have a file as short as what it holds, and its log empty; who reads just now puts that off. No transaction."""
    await fetch_all(connection, "PRAGMA busy_timeout=50")
    try:
        await fetch_all(connection, "PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        await fetch_all(connection, f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")


def schema(name: str) -> str:
    """The text of one file of the schema folder."""
    return (resources.files("sparkle_lite.db") / "schema" / name).read_text("utf-8")


def statements(script: str) -> Iterator[str]:
    """The statements of an SQL script, one by one: executescript would commit what is open."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


async def migrate(connection: Connection, path: Path, kind: str) -> None:
    """Bring a file to this program's schema version, each step in a transaction of its own.

    `kind` names the series of schema files: main_0001.sql, main_0002.sql, ... A main database that holds data is copied
    to "<name>.before-v<N>" first. Raises SparkleError("conflict") for a file of a newer program.
    """
    steps = _steps(kind)
    version = await _version(connection)
    if version > len(steps):
        raise SparkleError("conflict", "database.newer", path=path, version=version, known=len(steps))
    if version and version < len(steps) and kind == "main":
        await _copy(connection, path.with_name(f"{path.name}.before-v{len(steps)}"))
    if version == len(steps):
        return
    await connection.create_function(
        stable_number.__name__, -1, lambda *parts: stable_number(parts), deterministic=True
    )
    # What a step sorts may be larger than memory.
    await connection.execute("PRAGMA temp_store=FILE")
    for number in range(version + 1, len(steps) + 1):
        async with transaction(connection):
            if await _version(connection) >= number:
                continue  # Another process was quicker.
            for statement in statements(steps[number - 1]):
                await connection.execute(statement)
            await connection.execute(f"PRAGMA user_version={number}")
    await connection.execute("PRAGMA temp_store=MEMORY")


def _steps(kind: str) -> list[str]:
    names = sorted(f.name for f in (resources.files("sparkle_lite.db") / "schema").iterdir())
    return [schema(name) for name in names if name.startswith(f"{kind}_0")]


async def _version(connection: Connection) -> int:
    row = await fetch_one(connection, "PRAGMA user_version")
    return int(row[0]) if row else 0


async def _copy(connection: Connection, target: Path) -> None:
    await asyncio.to_thread(target.unlink, missing_ok=True)
    copy = await connect(target)
    try:
        await connection.backup(copy)
    finally:
        await copy.close()
