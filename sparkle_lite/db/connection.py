"""Opening and migrating SQLite files: the only place that knows the driver, its pragmas and its errors."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

import aiosqlite

from sparkle_lite.db.faults import BESIDE, Doing, fault_of
from sparkle_lite.db.keys import stable_number
from sparkle_lite.errors import SparkleError
from sparkle_lite.units import MIB

Connection = aiosqlite.Connection
Row = tuple[Any, ...]
Synchronous = Literal["full", "normal"]

# Another process (a command of the command line) holds the write lock for milliseconds; a backup's checkpoint longer.
BUSY_TIMEOUT_MS = 10_000
JOURNAL_SIZE_LIMIT = 8 * MIB

# Which file a connection is to, for what is said of its errors.
_files: WeakKeyDictionary[Connection, Path] = WeakKeyDictionary()


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
    Raises FileFault where the file can't be opened.
    """
    with refused("open", path):
        if create:
            _create_private(path)
        is_empty = _is_empty(path)
        connection = await _opened(f"{absolute(path).as_uri()}?mode=rw", path, begins, cached_statements=256)
        pragmas = (
            f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}",
            # Only an empty file takes this; it lets retention give space back in small steps. Others must not be asked:
            # SQLite would write to each that is opened.
            *(["PRAGMA auto_vacuum=INCREMENTAL"] if is_empty else []),
            "PRAGMA journal_mode=WAL",
            f"PRAGMA synchronous={synchronous}",
            f"PRAGMA cache_size=-{cache_kib}",
            f"PRAGMA journal_size_limit={JOURNAL_SIZE_LIMIT}",
            "PRAGMA foreign_keys=ON",
            "PRAGMA temp_store=MEMORY",
        )
        await _prepare(connection, pragmas)
        return connection


async def connect_readonly(path: Path, *, cache_kib: int = 8192, uri: str | None = None) -> Connection:
    """Open a file for reading; a write through this connection fails. `uri` says how, where not in the plain way."""
    with refused("open", path):
        connection = await _opened(uri or plain_uri(path), path, None, cached_statements=128)
        pragmas = (
            f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}",
            "PRAGMA query_only=ON",
            f"PRAGMA cache_size=-{cache_kib}",
            "PRAGMA temp_store=MEMORY",
        )
        await _prepare(connection, pragmas)
        return connection


async def _opened(uri: str, path: Path, begins: Literal["IMMEDIATE"] | None, *, cached_statements: int) -> Connection:
    failures: list[sqlite3.Error] = []

    def connector() -> sqlite3.Connection:
        try:
            return sqlite3.connect(uri, uri=True, isolation_level=begins, cached_statements=cached_statements)
        except sqlite3.Error as error:
            # The driver leaves the thread of a connection that failed to itself, which then speaks to a loop that may
            # be gone; one that is open can be closed.
            failures.append(error)
            return sqlite3.connect(":memory:")

    connection = await aiosqlite.Connection(connector, 64)
    if failures:
        await connection.close()
        raise failures[0]
    _files[connection] = path
    return connection


def plain_uri(path: Path) -> str:
    """How a file is opened for reading where others may write to it."""
    return f"{absolute(path).as_uri()}?mode=ro"


def still_uri(path: Path) -> str:
    """How a file is opened for reading on a disk that takes no byte, not even the shared memory that SQLite wants.

    Either this process alone has the file, with that memory in its own; or the memory is there still; or the file is
    whole without a log and nobody can write to it. Raises FileFault where none of that goes.
    """
    ways = ["mode=rw&vfs=unix-excl", "mode=ro"]
    log = path.with_name(path.name + "-wal")
    if not log.exists() or not log.stat().st_size:
        ways.append("mode=ro&immutable=1")
    failure: sqlite3.Error | None = None
    for way in ways:
        uri = f"{absolute(path).as_uri()}?{way}"
        try:
            connection = sqlite3.connect(uri, uri=True)
            try:
                connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
            finally:
                connection.close()
        except sqlite3.Error as error:
            failure = failure or error
        else:
            return uri
    assert failure
    raise fault_of(failure, "open", path)


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


def _is_empty(path: Path) -> bool:
    return not path.stat().st_size


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk: a new file's must survive a power failure as well as its content."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def remove_file(path: Path) -> None:
    """Remove a database file with everything that SQLite keeps beside it."""
    for suffix in ("", *BESIDE):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


@contextmanager
def refused(doing: Doing, at: Connection | Path | None = None) -> Iterator[None]:
    """Turn a refusal of the disk or of the database into a FileFault that says what to do with the file.

    Faults of our own SQL (sqlite3.ProgrammingError, IntegrityError) pass through: they are not the operator's.
    """
    try:
        yield
    except (sqlite3.DatabaseError, OSError) as error:
        if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError | sqlite3.DataError):
            raise
        raise fault_of(error, doing, at if isinstance(at, Path) or at is None else _files.get(at)) from error


@asynccontextmanager
async def transaction(connection: Connection) -> AsyncIterator[Connection]:
    """One immediate transaction: committed when the block ends, rolled back when it raises."""
    with refused("write", connection):
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
    with refused("read", connection):
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


async def merge_log(connection: Connection) -> None:
    """Bring what is in the log into the file itself, as far as readers let it: a log can get lost by itself."""
    await fetch_all(connection, "PRAGMA wal_checkpoint(TRUNCATE)")


def known_version(kind: str) -> int:
    """The newest schema version of a series that this program knows."""
    return len(_steps(kind))


async def migrate(connection: Connection, path: Path, kind: str) -> None:
    """Bring a file to this program's schema version, all steps in one transaction: what fails leaves it as it was.

    `kind` names the series of schema files: main_0001.sql, main_0002.sql, ... A main database that holds data is copied
    to "<name>.before-v<N>" first. Raises SparkleError("conflict") for a file of a newer program, and FileFault.
    """
    steps = _steps(kind)
    version = await version_of(connection)
    if version > len(steps):
        raise SparkleError("conflict", "database.newer", path=path, version=version, known=len(steps))
    if version == len(steps):
        return
    await connection.create_function(
        stable_number.__name__, -1, lambda *parts: stable_number(parts), deterministic=True
    )
    # What a step sorts may be larger than memory.
    await connection.execute("PRAGMA temp_store=FILE")
    async with transaction(connection):
        # Another process may have been quicker.
        version = await version_of(connection)
        if 0 < version < len(steps) and kind == "main":
            await _copy(path, path.with_name(f"{path.name}.before-v{len(steps)}"))
        for step in steps[version:]:
            for statement in statements(step):
                await connection.execute(statement)
        await connection.execute(f"PRAGMA user_version={len(steps)}")
    await connection.execute("PRAGMA temp_store=MEMORY")
    await merge_log(connection)


def _steps(kind: str) -> list[str]:
    names = sorted(f.name for f in (resources.files("sparkle_lite.db") / "schema").iterdir())
    return [schema(name) for name in names if name.startswith(f"{kind}_0")]


async def version_of(connection: Connection) -> int:
    """The schema version of a file; 0 for a new one."""
    row = await fetch_one(connection, "PRAGMA user_version")
    return int(row[0]) if row else 0


async def _copy(path: Path, target: Path) -> None:
    """Copy what a database has committed to a file, which has its name only when it is whole. Raises FileFault."""
    unready = target.with_name(f"{target.name}.new")
    with refused("write", unready):
        await asyncio.to_thread(remove_file, unready)
        # A connection that is about to write can't be copied from.
        source = await connect_readonly(path)
        try:
            copy = await connect(unready)
            try:
                await source.backup(copy)
                await merge_log(copy)
            finally:
                await copy.close()
        except BaseException:
            await asyncio.to_thread(remove_file, unready)
            raise
        finally:
            await source.close()
        await asyncio.to_thread(unready.replace, target)
        await asyncio.to_thread(sync_folder, target.parent)
