"""SQL of imported lists: those added on a page, what stands of each, how each run went, and what only supports."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from sparkle_lite.db.connection import Connection, fetch_all, fetch_one
from sparkle_lite.net import Network, network_of

Outcome = Literal["taken", "unchanged", "held", "failed"]

# Runs that are kept of each list.
KEPT_RUNS = 50


class ImportState(NamedTuple):
    """What stands of a list, of the last run that was taken over; times in ms.

    `url`, `etag` and `last_modified` are for the next question to that server, `digest` is of what was read and how.
    """

    name: str
    paused: int = 0
    by_hand: int = 0
    url: str = ""
    etag: str = ""
    last_modified: str = ""
    digest: bytes | None = None
    entries: int = 0
    asked_at: int | None = None
    good_at: int | None = None


class ImportRun(NamedTuple):
    """One run: when it began and how long it took (ms), how it went and why, and its numbers."""

    name: str
    at: int
    took: int
    outcome: Outcome
    why: Mapping[str, Any] | None
    numbers: Mapping[str, Any]


_STATE = ", ".join(ImportState._fields)


async def sources(connection: Connection) -> dict[str, Mapping[str, Any]]:
    """The settings of the lists that were added on a page, by name."""
    rows = await fetch_all(connection, "SELECT name, settings FROM import_source ORDER BY added_at, name")
    return {name: json.loads(settings) for name, settings in rows}


async def add_source(connection: Connection, name: str, settings: Mapping[str, Any], now_ms: int) -> bool:
    """Keep a list that was added on a page; whether there was none of this name."""
    cursor = await connection.execute(
        "INSERT INTO import_source (name, settings, added_at) VALUES (?,?,?) ON CONFLICT DO NOTHING",
        (name, json.dumps(settings), now_ms),
    )
    return cursor.rowcount > 0


async def delete_source(connection: Connection, name: str) -> bool:
    """Forget a list that was added on a page; whether it was there."""
    cursor = await connection.execute("DELETE FROM import_source WHERE name=?", (name,))
    return cursor.rowcount > 0


async def states(connection: Connection) -> dict[str, ImportState]:
    """What stands of every list, by name."""
    return {row[0]: ImportState._make(row) for row in await fetch_all(connection, f"SELECT {_STATE} FROM import_state")}


async def state(connection: Connection, name: str) -> ImportState:
    """What stands of a list; nothing yet where it is new."""
    row = await fetch_one(connection, f"SELECT {_STATE} FROM import_state WHERE name=?", (name,))
    return ImportState._make(row) if row else ImportState(name)


async def set_state(connection: Connection, new: ImportState) -> None:
    """Keep what stands of a list; whether it is paused stays as it is."""
    columns = [column for column in ImportState._fields if column not in ("name", "paused")]
    await connection.execute(
        f"INSERT INTO import_state ({_STATE}) VALUES ({','.join('?' * len(new))}) ON CONFLICT DO UPDATE SET"
        f" {', '.join(f'{column}=excluded.{column}' for column in columns)}",
        new,
    )


async def standing_names(connection: Connection, now_ms: int) -> set[str]:
    """The lists of which anything stands that no command brought."""
    rows = await fetch_all(
        connection,
        "SELECT s.name FROM import_state s WHERE s.by_hand=0 AND (EXISTS (SELECT 1 FROM decision d"
        " WHERE d.origin='import:' || s.name AND d.ends_at>?) OR s.name IN (SELECT name FROM import_support))",
        (now_ms,),
    )
    return {name for (name,) in rows}


async def set_paused(connection: Connection, name: str, paused: bool) -> None:
    """Whether a list is fetched by itself."""
    await connection.execute(
        "INSERT INTO import_state (name, paused) VALUES (?1,?2) ON CONFLICT DO UPDATE SET paused=?2", (name, paused)
    )


async def delete_state(connection: Connection, name: str) -> None:
    """Forget what stands of a list, and its runs."""
    await connection.execute("DELETE FROM import_state WHERE name=?", (name,))
    await connection.execute("DELETE FROM import_run WHERE name=?", (name,))


async def add_run(connection: Connection, run: ImportRun) -> None:
    """Note how a run went, and forget the oldest of the same list."""
    why = None if run.why is None else json.dumps(run.why)
    await connection.execute(
        "INSERT INTO import_run (name, at, took, outcome, why, numbers) VALUES (?,?,?,?,?,?)",
        (run.name, run.at, run.took, run.outcome, why, json.dumps(run.numbers)),
    )
    await connection.execute(
        "DELETE FROM import_run WHERE name=?1 AND id NOT IN"
        " (SELECT id FROM import_run WHERE name=?1 ORDER BY id DESC LIMIT ?2)",
        (run.name, KEPT_RUNS),
    )


async def runs(connection: Connection, name: str) -> list[ImportRun]:
    """How the last runs of a list went, newest first."""
    rows = await fetch_all(
        connection,
        "SELECT name, at, took, outcome, why, numbers FROM import_run WHERE name=? ORDER BY id DESC",
        (name,),
    )
    return [_run(row) for row in rows]


async def last_runs(connection: Connection) -> dict[str, ImportRun]:
    """How the last run of each list went, by name."""
    rows = await fetch_all(
        connection,
        "SELECT name, at, took, outcome, why, numbers FROM import_run"
        " WHERE id IN (SELECT max(id) FROM import_run GROUP BY name)",
    )
    return {row[0]: _run(row) for row in rows}


async def last_run(connection: Connection, name: str) -> ImportRun | None:
    """How the last run of one list went."""
    row = await fetch_one(
        connection,
        "SELECT name, at, took, outcome, why, numbers FROM import_run WHERE name=? ORDER BY id DESC LIMIT 1",
        (name,),
    )
    return None if row is None else _run(row)


def _run(row: Any) -> ImportRun:
    name, at, took, outcome, why, numbers = row
    return ImportRun(
        name=name,
        at=at,
        took=took,
        outcome=outcome,
        why=None if why is None else json.loads(why),
        numbers=json.loads(numbers),
    )


async def supporting(connection: Connection, name: str) -> set[Network]:
    """The networks of a list that only supports."""
    rows = await fetch_all(connection, "SELECT address, prefix FROM import_support WHERE name=?", (name,))
    return {Network(address, prefix) for address, prefix in rows}


async def change_support(
    connection: Connection, name: str, added: Iterable[Network], removed: Iterable[Network]
) -> None:
    """Change which networks a list supports."""
    await connection.executemany(
        "DELETE FROM import_support WHERE name=? AND address=? AND prefix=?", ((name, *network) for network in removed)
    )
    await connection.executemany(
        "INSERT OR IGNORE INTO import_support (name, address, prefix) VALUES (?,?,?)",
        ((name, *network) for network in added),
    )


async def supporters(connection: Connection, network: Network) -> list[str]:
    """The lists that support an address or the whole of a network, by name."""
    around = [network_of(network.address, prefix) for prefix in range(network.prefix + 1)]
    rows = await fetch_all(
        connection,
        f"SELECT DISTINCT s.name FROM (VALUES {', '.join(['(?,?)'] * len(around))}) w CROSS JOIN import_support s"
        " ON s.address=w.column1 AND s.prefix=w.column2 ORDER BY 1",
        [value for each in around for value in each],
    )
    return [name for (name,) in rows]
