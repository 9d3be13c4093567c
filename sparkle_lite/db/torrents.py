"""SQL of torrents: which ones are known."""

import asyncio
from typing import Any, Literal, NamedTuple

from sparkle_lite.db.conditions import FIELDS
from sparkle_lite.db.connection import Connection, fetch_all
from sparkle_lite.db.database import Database
from sparkle_lite.db.orders import Position, by_id, in_order
from sparkle_lite.errors import SparkleError

TorrentMethod = Literal["EQUALS", "CONTAINS", "STARTS_WITH"]

# Torrents are counted so far.
COUNTED = 100_000


class WantedTorrents(NamedTuple):
    """Which torrents; None asks for nothing. Sizes in bytes, inclusive."""

    identifier: str | None = None
    method: TorrentMethod = "EQUALS"
    size_from: int | None = None
    size_to: int | None = None
    private: bool | None = None


class TorrentRow(NamedTuple):
    """A torrent: 32 bytes or text as sent; private 1, public 0 or unknown -1."""

    id: int
    identifier: bytes | str
    size: int
    private: int


async def page(
    database: Database, wanted: WantedTorrents, position: Position[int], limit: int, query_ms: int
) -> list[TorrentRow]:
    """Torrents at a position (of ids), the newest first. Raises SparkleError when it takes long."""
    where, values = _condition(wanted)
    standing, key = by_id("d.id", position)
    sql = f"SELECT d.id, d.identifier, d.size, d.private FROM torrent d WHERE {where} AND {standing} LIMIT ?"
    async with database.reader() as reader:
        rows = await _in_time(reader, sql, (*values, key, limit), query_ms)
    return in_order([TorrentRow(*row) for row in rows], position)


async def count(database: Database, wanted: WantedTorrents, count_ms: int) -> tuple[int, bool]:
    """How many there are; a lower bound (and False) where there are more than are counted in the time."""
    where, values = _condition(wanted)
    sql = f"SELECT count(*) FROM (SELECT 1 FROM torrent d WHERE {where} LIMIT ?)"
    async with database.reader() as reader:
        try:
            [(number,)] = await _in_time(reader, sql, (*values, COUNTED), count_ms)
        except SparkleError:
            return 0, False
    return number, number < COUNTED


def _condition(wanted: WantedTorrents) -> tuple[str, list[Any]]:
    field = FIELDS["snapshot"]["torrent_identifier"]
    parts, values = ["TRUE"], list[Any]()
    if wanted.identifier is not None:
        if wanted.method == "EQUALS" and field.exact is not None:
            exact = field.exact(wanted.identifier)
            parts.append(exact.sql)
            values += exact.values
        elif wanted.method == "CONTAINS":
            parts.append(f"instr({field.column}, ?)>0")
            values.append(wanted.identifier)
        else:
            parts.append(f"substr({field.column}, 1, length(?))=?")
            values += [wanted.identifier] * 2
    for column, sign, value in (
        ("size", ">=", wanted.size_from),
        ("size", "<=", wanted.size_to),
        ("private", "=", wanted.private),
    ):
        if value is not None:
            parts.append(f"d.{column}{sign}?")
            values.append(int(value))
    return " AND ".join(parts), values


async def _in_time(reader: Connection, sql: str, values: Any, limit_ms: int) -> list[Any]:
    running = asyncio.ensure_future(fetch_all(reader, sql, values))
    done, _ = await asyncio.wait((running,), timeout=limit_ms / 1000)
    if not done:
        await reader.interrupt()
        await asyncio.wait((running,))
        if running.exception() is not None:
            raise SparkleError(
                "bad_request", "The query takes too long; narrow the filters.", "查询耗时过长，请增加筛选条件。"
            )
    return running.result()
