"""Pages of what was stored, by any filter and in any order. What can be asked stands in conditions.py.

Bans and client identities are tables of the main database. Snapshots and cumulative rows are a chain of segments, read
on threads of our own: one function walks many files, where one await for each statement would cost ten times as much.
SQLite works without the interpreter lock, so ingestion goes on meanwhile. Every query has a deadline, past which it is
an error and never part of an answer.
"""

import asyncio
import json
import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from sparkle_lite.db import segments
from sparkle_lite.db.conditions import FIELDS, Condition, Query, Table, condition, joined
from sparkle_lite.db.connection import Row, refused
from sparkle_lite.db.database import Database
from sparkle_lite.db.faults import fault_of
from sparkle_lite.db.keeper import Keeper
from sparkle_lite.db.observed import Discovered, Observed, ObservedSwarm, discovered, observed
from sparkle_lite.db.orders import MAIN_TABLES, NEWEST, Key, Mark, behind, cursor, marks, order_fields, read_cursor
from sparkle_lite.db.readers import Gone, Reader, ReaderPool, is_interrupted
from sparkle_lite.db.segments import Kind, SegmentRow, Stream
from sparkle_lite.errors import SparkleError
from sparkle_lite.turns import Owner
from sparkle_lite.units import INT64_MAX

# Cumulative rows looked at in one step at the most, and what a count of them may remember (64 MB).
_CHUNK = 5_000
_COUNTED_PAGES = 16_384
# Of so many bans that an index finds, the newest are found sooner by looking through all from the newest on.
_COMMON = 5_000
# How long a page that took long to find is counted even so.
_LEAST_COUNT_MS = 5
# How often a query begins anew when a segment vanishes under it.
_ATTEMPTS = 3

_Found = tuple[list[Any], int, bool, str | None, str | None]


class Page(NamedTuple):
    """Rows in order; `total` counts all that match, as a lower bound unless `exact`.

    `next` and `previous` are the cursors of the pages around, where there are any.
    """

    rows: list[Observed]
    total: int
    exact: bool
    next: str | None
    previous: str | None


class Discoveries(NamedTuple):
    """Client identities in order, like a Page."""

    rows: list[Discovered]
    total: int
    exact: bool
    next: str | None
    previous: str | None


class _Source(NamedTuple):
    """A segment, or the main database; `low` and `high` bound the numbers of its rows that can match.

    `timely`: all of those were received within the query's range.
    """

    segment: SegmentRow | None
    low: int
    high: int
    timely: bool

    @property
    def first(self) -> int:
        """The public id of the row with the number 1."""
        return self.segment.first_row if self.segment else 1

    @property
    def has_indexes(self) -> bool:
        """Whether more than a row's number is indexed."""
        return self.segment is None or self.segment.state == "indexed"


class _Version(NamedTuple):
    """The version of a key that counts in one segment: its public id, and since when it is evidence (ms).

    `first_time_seen` is the smallest of all versions there.
    """

    id: int
    at: int
    first_time_seen: int | None


class Search:
    """Reads for people: one thread for pages that cost next to nothing, two for queries that may scan.

    What clients ask has a thread of its own, so that no person's search holds it up.
    """

    def __init__(self, database: Database, streams: Mapping[Kind, Stream], keeper: Keeper | None = None) -> None:
        """`keeper` is told of segments that can't be read."""
        self._database = database
        self._streams = streams
        self._keeper = keeper
        self._quick = ReaderPool("search-quick", 1, database)
        self._scan = ReaderPool("search-scan", 2, database)
        self._clients = ReaderPool("search-clients", 1, database)
        self._pools = (self._quick, self._scan, self._clients)

    async def close(self) -> None:
        """Stop what runs, and close every connection."""
        for pool in self._pools:
            await asyncio.to_thread(pool.close)

    async def tidy(self) -> None:
        """Let go of the files of segments that are no more."""
        for pool in self._pools:
            await pool.tidy()

    async def page(self, query: Query, query_ms: int, count_ms: int, *, hurry: bool = False) -> Page:
        """One page of observations, found within `query_ms` and counted within `count_ms` more.

        With `hurry` it is counted within what finding it has left of `count_ms`, or some milliseconds.
        Raises SparkleError: bad_request when it takes longer or for a cursor that is none, too_many when whoever asks
        has two searches under way already, overloaded when too many queries wait.
        """
        return Page(*await self._find(query, query_ms, count_ms, hurry))

    async def discoveries(self, query: Query, query_ms: int, count_ms: int, *, hurry: bool = False) -> Discoveries:
        """One page of client identities, in the same way."""
        return Discoveries(*await self._find(query, query_ms, count_ms, hurry))

    async def rows(self, asker: int, sql: str, values: Sequence[Any], limit_ms: int) -> list[Row]:
        """Rows of the main database for a person (row id). Raises as `page` does."""

        def work(reader: Reader) -> list[Row]:
            reader.until(limit_ms)
            with refused("read"), _in_time(), reader.snapshot():
                return reader.main(sql, values)

        return await self._scan.run(Owner(asker), work)

    async def _find(self, query: Query, query_ms: int, count_ms: int, hurry: bool) -> _Found:
        pool = self._quick if query.is_quick() else self._scan
        if query.is_client:
            pool = self._clients
        for _ in range(_ATTEMPTS):
            chain = await self._chain(query.table)
            work = partial(_page, query=query, chain=chain, query_ms=query_ms, count_ms=count_ms, hurry=hurry)
            try:
                return await pool.run(query.asker, work)
            except Gone as gone:
                # Retention may unlink a segment between the look into the catalogue and its opening.
                if self._keeper and not await self._keeper.suspect(gone.segment.id) and gone.error:
                    # The segment is right, so it is the main database that isn't.
                    raise fault_of(gone.error, "read", self._database.path) from gone
        raise SparkleError("overloaded", "query.changing", retry_after=1)

    async def _chain(self, table: Table) -> list[SegmentRow]:
        """The segments of a table in ascending order, the hot one with the rows that are committed in it."""
        if table in MAIN_TABLES:
            return []
        stream = self._streams["swarm" if table == "swarm" else "snapshot"]
        while True:
            async with self._database.reader() as connection:
                chain = await segments.catalogue(connection, "kind=?", (stream.kind,))
            if self._keeper:
                chain = [segment for segment in chain if segment.id not in self._keeper.skipped]
            hot = stream.hot
            if hot is None or not chain or chain[-1].state != "hot" or chain[-1].id > hot.id:
                # Rolled this very moment: nobody has written to the new one yet.
                return chain
            if chain[-1].id == hot.id:
                chain[-1] = chain[-1]._replace(
                    rows=stream.rows,
                    first_received_at=stream.first_received_at,
                    last_received_at=stream.last_received_at,
                )
                return chain


def _page(
    reader: Reader, query: Query, chain: Sequence[SegmentRow], query_ms: int, count_ms: int, hurry: bool
) -> _Found:
    """One page, on the reader's thread."""
    started = time.monotonic()
    mark = read_cursor(query) if (query.after, query.before) != (None, None) else None
    backwards = query.before is not None
    reader.until(query_ms)
    with refused("read", reader.path), _in_time(), reader.snapshot():
        work = _Work(reader, query, chain, mark.key if mark else None)
        work.prepare()
        keys = work.keys()
        more = len(keys) > query.limit
        keys = keys[: query.limit]
        if backwards:
            keys.reverse()
        rows = work.rows(keys)
        if mark is not None:
            total, exact = mark.total, mark.exact
        elif not more and (rows or not query.offset):
            # The last page, so everything has been passed.
            total, exact = query.offset + len(rows), True
        else:
            spent = int((time.monotonic() - started) * 1000) if hurry else 0
            reader.until(max(count_ms - spent, min(count_ms, _LEAST_COUNT_MS)))
            total, exact = work.total()
            total = total if exact else max(total, query.offset + len(rows) + more)
    # Where a cursor led from another page, that page is on the other side.
    following = cursor(query, Mark(keys[-1], total, exact)) if keys and (more or backwards) else None
    has_previous = more if backwards else mark is not None or query.offset > 0
    previous = cursor(query, Mark(keys[0], total, exact)) if keys and has_previous else None
    return rows, total, exact, following, previous


@contextmanager
def _in_time() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if not is_interrupted(error):
            raise
        raise SparkleError("bad_request", "query.too_slow") from None


class _Work:
    """One query on one thread."""

    def __init__(self, reader: Reader, query: Query, chain: Sequence[SegmentRow], last: Key | None) -> None:
        self._reader = reader
        self._query = query
        self._chain = [segment for segment in chain if segment.rows]
        self._last = last
        self._is_chain = query.table not in MAIN_TABLES
        self._fields = order_fields(query)
        # A page before another is found by walking the order backwards from there.
        backwards = query.before is not None
        self._descending = query.descending != backwards
        self._ids_descending = not backwards if self._fields else self._descending
        self._where = Condition("TRUE")
        # The index by which the newest bans are looked through where an index finds too many to sort.
        self._walks_by = ""
        self._sources: list[_Source] = []
        self._counts: dict[int, int] = {}
        # By segment and key; None where a segment has nothing of a key.
        self._known: dict[int, dict[int, _Version | None]] = {}

    def prepare(self) -> None:
        """Look up what the filters mean, and where rows of the time range stand."""
        query = self._query

        def find_ids(sql: str, values: Sequence[Any]) -> list[int]:
            return [row[0] for row in self._reader.main(sql, values)]

        wanted = joined([condition(query.table, one, find_ids, query.viewer) for one in query.filters], query.any_of)
        always = [condition(query.table, one, find_ids, query.viewer) for one in query.always]
        parts = [part for part in (wanted, *always) if part.sql != "TRUE"]
        if not self._is_chain:
            parts += self._received(FIELDS[query.table][NEWEST[query.table]].column)
            self._sources = [_Source(None, 0, INT64_MAX, True)]
        else:
            self._sources = [source for segment in self._chain if (source := self._in_range(segment))]
        self._where = joined(parts, any_of=False)
        if query.table == "ban" and not query.order and self._where.indexed and len(parts) == 1:
            sql = f"SELECT count(*) FROM (SELECT 1 FROM m.ban s WHERE {self._where.sql} LIMIT {_COMMON})"
            if self._reader.main(sql, self._where.values)[0][0] == _COMMON:
                self._walks_by = " INDEXED BY ban_received"

    def _received(self, column: str) -> list[Condition]:
        query = self._query
        limits = ((">=", query.time_from), ("<=", query.time_to))
        return [Condition(f"{column}{sign}?", (limit,)) for sign, limit in limits if limit is not None]

    def _in_range(self, segment: SegmentRow) -> _Source | None:
        """What of a segment can have been received in the query's time range."""
        low, high = self._query.time_from, self._query.time_to
        if self._last is not None and self._query.order == ("insert_time",) and self._fields:
            low, high = (self._last.values[0], high) if not self._descending else (low, self._last.values[0])
        first, last = segment.first_received_at or 0, segment.last_received_at or 0
        if (low is not None and last < low) or (high is not None and first > high):
            return None
        if (low is None or low <= first) and (high is None or high >= last):
            return _Source(segment, 1, segment.rows, True)
        # Rows stand in the order of their submissions, one after the other without a gap.
        sql = (
            "WITH range AS (SELECT (SELECT min(id) FROM submission WHERE received_at>=?1) AS low,"
            " (SELECT max(id) FROM submission WHERE received_at<=?2) AS high)"
            " SELECT (SELECT coalesce(sum(rows), 0) FROM submission WHERE id<range.low),"
            " (SELECT coalesce(sum(rows), 0) FROM submission WHERE id<=range.high),"
            " (SELECT count(*) FROM submission WHERE id BETWEEN range.low AND range.high"
            " AND received_at NOT BETWEEN ?1 AND ?2) FROM range"
        )
        limits = (-1 if low is None else low, INT64_MAX if high is None else high)
        before, end, strangers = self._reader.fetch(segment, sql, limits)[0]
        return _Source(segment, before + 1, min(end, segment.rows), not strangers)

    # --- The page -----------------------------------------------------------------------------------------------------

    def keys(self) -> list[Key]:
        """The page's rows in order, and one more if there is one; backwards for the page before another."""
        query = self._query
        wanted = query.limit + 1
        if not self._is_chain:
            return self._select(self._sources[0], wanted, query.offset, self._last)
        if query.table == "swarm":
            return self._counting(wanted + query.offset)[query.offset :]
        if self._walks_in_time():
            return self._walk(wanted)
        return self._best(wanted + query.offset)[query.offset :]

    def _walks_in_time(self) -> bool:
        """Whether the order goes through the segments one by one: by id, or by the time of receipt."""
        return not self._fields or self._query.order == ("insert_time",)

    def _sources_in_order(self) -> Iterator[_Source]:
        backwards = self._descending or not self._walks_in_time()
        return reversed(self._sources) if backwards else iter(self._sources)

    def _walk(self, wanted: int) -> list[Key]:
        found: list[Key] = []
        skip = self._query.offset
        for source in self._sources_in_order():
            if skip and (count := self._count(source)) <= skip:
                skip -= count
                continue
            found += self._select(source, wanted - len(found), skip, self._last)
            skip = 0
            if len(found) >= wanted:
                break
        return found

    def _best(self, wanted: int) -> list[Key]:
        """The first rows of every segment, of which the first of all are kept."""
        best: list[Key] = []
        for source in self._sources_in_order():
            bar = best[-1] if len(best) == wanted else None
            best = self._sorted(best + self._select(source, wanted, 0, self._last, bar))[:wanted]
        return best

    def _sorted(self, keys: list[Key]) -> list[Key]:
        keys.sort(key=lambda key: key.id, reverse=self._ids_descending)
        if self._fields:
            keys.sort(key=lambda key: key.values, reverse=self._descending)
        return keys

    def _counting(self, wanted: int) -> list[Key]:
        """Cumulative rows: of the versions of a key only one counts, wherever in the chain it stands."""
        best: list[Key] = []
        for source in self._sources_in_order():
            bar = best[-1] if len(best) == wanted and self._fields else None
            best = self._sorted(best + list(islice(self._current(source, wanted, bar), wanted)))[:wanted]
            if len(best) == wanted and self._walks_in_time():
                break
        return best

    def _current(self, source: _Source, wanted: int, bar: Key | None = None) -> Iterator[Key]:
        """A segment's rows that no other version replaces, in order, and none that are worse than `bar`."""
        last, size = self._last, min(wanted, _CHUNK)
        while True:
            keys = self._select(source, size, 0, last, bar)
            yield from self._unreplaced(source, keys)
            if len(keys) < size:
                return
            last, size = keys[-1], min(2 * size, _CHUNK)

    def _unreplaced(self, source: _Source, keys: Sequence[Key]) -> list[Key]:
        """Those rows of a segment that no other version of their keys replaces, there or in another segment."""
        if source.segment is None or not keys:
            return []
        mine = self._versions(source.segment, {key.version for key in keys})
        left = {key.version: mine[key.version].at for key in keys if mine[key.version].id == key.id}
        place = self._chain.index(source.segment)
        # The next segment comes first: what is still being reported is found there.
        for segment in self._chain[place + 1 :]:
            if not left:
                break
            for version, found in self._versions(segment, left).items():
                if found.at >= left[version]:
                    del left[version]
        # An older segment replaces only what reached us late, or with a wrong time: nothing in it is evidence for a
        # time after its last receipt.
        for segment in reversed(self._chain[:place]):
            until = segment.last_received_at or 0
            late = [version for version, at in left.items() if at < until]
            for version, found in self._versions(segment, late).items():
                if found.at > left[version]:
                    del left[version]
        return [key for key in keys if key.version in left and mine[key.version].id == key.id]

    def _versions(self, segment: SegmentRow, versions: Collection[int]) -> dict[int, _Version]:
        """What a segment has of some keys."""
        known = self._known.setdefault(segment.id, {})
        unknown = [version for version in versions if version not in known]
        if unknown:
            sql = "SELECT version_key, row, at, first_time_seen FROM {}"
            sql += " WHERE version_key IN (SELECT value FROM json_each(?))"
            values = (json.dumps(unknown),)
            if segment.state == "indexed":
                found = self._reader.fetch(segment, sql.format("version"), values)
            else:
                with self._reader.scratch() as memory:
                    found = memory.execute(sql.format(self._reader.versions(memory, segment)), values).fetchall()
            known |= dict.fromkeys(unknown)
            for version, row, at, first in found:
                known[version] = _Version(segment.first_row + row - 1, at, first)
        return {version: one for version in versions if (one := known[version])}

    def _select(self, source: _Source, limit: int, offset: int, last: Key | None, bar: Key | None = None) -> list[Key]:
        """Rows of one source in order: those behind `last`, and none that are worse than `bar`."""
        query = self._query
        orders = [order for field in self._fields for order in field.orders(query.viewer)]
        direction, of_ids = ("DESC" if each else "ASC" for each in (self._descending, self._ids_descending))
        head = ", ".join(["s.id", "s.version_key" if query.table == "swarm" else "0", *orders])
        by_address = not offset and self._walks_addresses(source)
        text, values, attached = self._from(source, orders, last, bar, by_address=by_address)
        by = "".join(f"{order} {direction}, " for order in orders[by_address:])
        found: list[Row] = []
        for part in self._families(last, bar) if by_address else (Condition("TRUE"),):
            sql = f"SELECT {head}{text} AND {part.sql} ORDER BY {by}s.id {of_ids} LIMIT ? OFFSET ?"
            given = (*values, *part.values, limit - len(found), offset)
            found += self._reader.fetch(source.segment, sql, given, attached=attached)
        return [Key(row[2:], source.first + row[0] - 1, row[1]) for row in found]

    def _walks_addresses(self, source: _Source) -> bool:
        """Whether the order begins with the address and all rows of a source are wanted, so that an index has it."""
        whole = source.segment is None or (source.timely and source.high - source.low + 1 == source.segment.rows)
        first = self._fields[0] if self._fields else None
        is_address = first is not None and first.kind == "address"
        return is_address and whole and source.has_indexes and self._where.sql == "TRUE"

    def _families(self, last: Key | None, bar: Key | None) -> list[Condition]:
        """The families of addresses in order, each as a range of the index, between `last` and `bar`."""
        beyond, within = ("<=", ">=") if self._descending else (">=", "<=")
        parts = []
        for size in (16, 4) if self._descending else (4, 16):
            ends = [(sign, key.values[:2]) for sign, key in ((beyond, last), (within, bar)) if key is not None]
            if all((size <= there) if sign == "<=" else (size >= there) for sign, (there, _) in ends):
                ranges = [(f" AND s.peer_ip{sign}?", address) for sign, (there, address) in ends if there == size]
                sql = f"length(s.peer_ip)={size}" + "".join(text for text, _ in ranges)
                parts.append(Condition(sql, tuple(address for _, address in ranges)))
        return parts

    def _from(
        self,
        source: _Source,
        orders: Sequence[str] = (),
        last: Key | None = None,
        bar: Key | None = None,
        *,
        by_address: bool = False,
    ) -> tuple[str, tuple[Any, ...], bool]:
        """FROM and WHERE of one source with their values, and whether the main database has to be attached."""
        descending = self._descending
        parts = [self._where] if self._where.sql != "TRUE" else []
        if self._is_chain and not source.timely:
            parts += self._received("sub.received_at")
        low, high = source.low, source.high
        if last is not None and not orders:
            local = last.id - source.first + 1
            low, high = (low, min(high, local - 1)) if descending else (max(low, local + 1), high)
        elif last is not None:
            local = last.id - source.first + 1
            parts.append(behind(orders, last.values, local, descending=descending, ids_descending=self._ids_descending))
        if bar is not None:
            parts.append(Condition(f"({', '.join(orders)}){'>=' if descending else '<='}({marks(orders)})", bar.values))
        wanted = joined(parts, any_of=False)
        where, values = wanted.sql, wanted.values
        if self._is_chain or (low, high) != (source.low, source.high):
            # SQLite would take a range of ids for better than any other index.
            number = "+s.id" if by_address or (wanted.indexed and source.has_indexes) else "s.id"
            where, values = f"({where}) AND {number} BETWEEN ? AND ?", (*values, low, high)
        index = f" INDEXED BY {self._query.table}_peer_ip" if by_address else self._walks_by if orders else ""
        text = f" FROM {self._table} s{index}"
        if any("sub." in part for part in (wanted.sql, *orders)):
            text += f" CROSS JOIN {self._table.removesuffix('ban') if not self._is_chain else ''}submission sub"
            text += " ON sub.id=s.submission"
        attached = wanted.attached or any("m." in order for order in orders)
        return f"{text} WHERE ({where})", values, attached

    # --- The total ----------------------------------------------------------------------------------------------------

    def total(self) -> tuple[int, bool]:
        """How many rows match; a lower bound (and False) when the time is over before all are counted."""
        counts = self._count_versions() if self._query.table == "swarm" else map(self._count, reversed(self._sources))
        total = 0
        try:
            for count in counts:
                total += count
        except sqlite3.OperationalError as error:
            if not is_interrupted(error):
                raise
            return total, False
        except _TooMany:
            return total, False
        return total, True

    def _count(self, source: _Source) -> int:
        number = source.segment.id if source.segment else 0
        if number not in self._counts:
            if self._where.sql == "TRUE" and source.segment is not None and source.timely:
                self._counts[number] = max(0, source.high - source.low + 1)
            else:
                text, values, attached = self._from(source)
                sql = f"SELECT count(*){text}"
                self._counts[number] = self._reader.fetch(source.segment, sql, values, attached=attached)[0][0]
        return self._counts[number]

    def _count_versions(self) -> Iterator[int]:
        """Keys of which the version that counts matches, segment by segment from the newest one.

        All in SQLite unless an index finds them: in Python it would hold the interpreter lock for seconds.
        """
        if self._where.indexed:
            for source in reversed(self._sources):
                yield from (1 for _ in self._current(source, _CHUNK))
            return
        by_segment = {source.segment: source for source in self._sources}
        with self._reader.scratch() as memory:
            # What newer segments have of the keys, and the rows found that an older segment may yet replace.
            memory.execute("CREATE TEMP TABLE seen (version_key INTEGER PRIMARY KEY, at INTEGER NOT NULL)")
            memory.execute("CREATE TEMP TABLE found (version_key INTEGER PRIMARY KEY, at INTEGER NOT NULL)")
            for place in reversed(range(len(self._chain))):
                segment = self._chain[place]
                version = "version" if segment.state == "indexed" else self._reader.versions(memory, segment)
                with self._reader.beside(memory, segment):
                    self._count_segment(memory, version, by_segment.get(segment))
                until = max((older.last_received_at or 0 for older in self._chain[:place]), default=0)
                sql = "DELETE FROM found WHERE at>=?" if place else "DELETE FROM found"
                yield memory.execute(sql, (until,) if place else ()).rowcount
                if memory.execute("PRAGMA temp.page_count").fetchone()[0] > _COUNTED_PAGES:
                    raise _TooMany

    def _count_segment(self, memory: sqlite3.Connection, version: str, source: _Source | None) -> None:
        """Take up in `found` and `seen` what a segment has, which is attached; `version` is its table of versions."""
        memory.execute(
            f"DELETE FROM found WHERE EXISTS"
            f" (SELECT 1 FROM {version} v WHERE v.version_key=found.version_key AND v.at>found.at)"
        )
        if source is not None:
            text, values, _ = self._from(source)
            matching = f"v.row IN (SELECT s.id{text})"
            if self._where.sql == "TRUE" and source.timely:
                matching, values = "TRUE", ()
            memory.execute(
                f"INSERT INTO found SELECT v.version_key, v.at FROM {version} v WHERE {matching} AND NOT EXISTS"
                " (SELECT 1 FROM seen WHERE seen.version_key=v.version_key AND seen.at>=v.at)",
                values,
            )
        memory.execute(
            f"INSERT INTO seen SELECT version_key, at FROM {version} WHERE TRUE"
            " ON CONFLICT DO UPDATE SET at=max(at, excluded.at)"
        )

    # --- The rows -----------------------------------------------------------------------------------------------------

    def rows(self, keys: Sequence[Key]) -> list[Any]:
        """The rows of some keys, in their order."""
        table, reader = self._query.table, self._reader
        found: dict[int, Any] = {}
        if table == "discovery":
            found = {row.id: row for row in discovered([key.id for key in keys], reader.main)}
        for source in self._sources if table != "discovery" else ():
            before, low, high = source.first - 1, source.first - 1 + source.low, source.first - 1 + source.high
            mine = [key.id - before for key in keys if low <= key.id <= high]
            if mine:
                fetch = partial(reader.fetch, source.segment)
                rows = observed(table, self._table, mine, source.first, fetch=fetch, fetch_main=reader.main)
                found |= {row.id: row for row in rows}
        if table == "swarm":
            self._tell_first_seen({key.version: found[key.id] for key in keys})
        return [found[key.id] for key in keys]

    def _tell_first_seen(self, rows: Mapping[int, ObservedSwarm]) -> None:
        """Let rows, by their keys, say when they were first seen in any version."""
        for segment in self._chain if rows else ():
            for version, found in self._versions(segment, rows).items():
                first, row = found.first_time_seen, rows[version]
                if first is not None and (row.first_time_seen is None or first < row.first_time_seen):
                    row.first_time_seen = first

    @property
    def _table(self) -> str:
        return MAIN_TABLES.get(self._query.table, self._query.table)


class _TooMany(Exception):
    """There are more keys than a count may remember."""
