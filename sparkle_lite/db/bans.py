"""SQL of bans, which live in the main database: few, long-lived, and looked at from every side.

One ban is one row: what tells of it again prolongs it. `ban` keeps what was first said of it, `ban_last_report` when it
was last reported, if that was more than once.

PeerBanHelper reports a ban in one of two shapes, and in the other one too where the operator or a new release changes
the shape: legacy with an id and without a time, modern the other way round, so that no value stands in both. Two such
reports are taken for the same when they agree in application, address, port, torrent and module, and the legacy one
came while the ban can have lasted: up to 30 days after it. Of several the nearest counts, and each has one counterpart.
What this can't tell: that two bans of one peer are two, where the first came in one shape alone and the second in the
other; and that two reports are of one ban, where a clock was set back between them or another port is said.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, TypedDict

from sparkle_lite.db.connection import Connection, fetch_all
from sparkle_lite.db.segments import SubmissionRow
from sparkle_lite.units import DAY_MS, MINUTE_MS

BAN_COLUMNS = (
    "submission",
    "received_at",
    "userapp",
    "ban_at",
    "peer_ip",
    "peer_port",
    "client",
    "torrent",
    "from_peer_traffic",
    "from_peer_traffic_speed",
    "to_peer_traffic",
    "to_peer_traffic_speed",
    "peer_progress",
    "downloader_progress",
    "flags",
    "btn_ban",
    "module",
    "rule",
    "description",
    "ban_unique_id",
    "structured_data",
    "dedupe",
)

Kind = Literal["id", "id_time", "time", "content"]
"""What makes two reports with an equal `dedupe` reports of one ban.

"id" and "time": nothing else; they are PeerBanHelper's legacy and modern shape. "id_time": their `ban_at`, which is
when the banned peer was last seen, lie within 24 hours. "content": they were received within 24 hours of each other.
"""


class Report(TypedDict):
    """One report of a ban: the values of BAN_COLUMNS, what kind it is of, and its latest `ban_at`, all times in ms."""

    submission: int
    received_at: int
    userapp: int
    ban_at: int | None
    peer_ip: bytes
    peer_port: int
    client: int
    torrent: int
    from_peer_traffic: int
    from_peer_traffic_speed: int
    to_peer_traffic: int
    to_peer_traffic_speed: int
    peer_progress: float | None
    downloader_progress: float | None
    flags: int | None
    btn_ban: int
    module: int
    rule: str | None
    description: str | None
    ban_unique_id: str | None
    structured_data: str | None
    dedupe: int
    kind: Kind
    last_ban_at: int | None


# How long after the last report another one is still of the same ban.
REACH_MS = DAY_MS
# PeerBanHelper's longest ban.
LASTS_MS = 30 * DAY_MS
# A report so soon after the last one that was written down is not: a gap is measured so much too long at the most.
PAUSE_MS = 5 * MINUTE_MS
# What a ban takes beside its texts, with its indexes; and a body.
_ROW_BYTES, _BODY_BYTES = 420, 120
_TEXT_BYTES = "+".join(
    f"ifnull(length(CAST({name} AS BLOB)), 0)" for name in ("rule", "description", "ban_unique_id", "structured_data")
)
# Bans of one peer in one torrent by one application that are looked at: more is no honest client.
_ALIKE = 32

# The ban that a report tells of again: the newest of its key, if its last report was near enough.
_KNOWN = f"""
    FROM ban b LEFT JOIN ban_last_report r ON r.ban=b.id
    WHERE b.id=max(coalesce((SELECT id FROM ban WHERE dedupe=:dedupe ORDER BY id DESC LIMIT 1), 0),
                   coalesce((SELECT ban FROM ban_also WHERE dedupe=:dedupe), 0))
    AND CASE :kind
        WHEN 'id_time' THEN :ban_at<=coalesce(r.ban_at, b.ban_at)+{REACH_MS} AND :last_ban_at>=b.ban_at-{REACH_MS}
        WHEN 'content' THEN
            :received_at BETWEEN b.received_at-{REACH_MS} AND coalesce(r.received_at, b.received_at)+{REACH_MS}
        ELSE TRUE END"""
_PROLONG = f"""
    INSERT INTO ban_last_report (ban, ban_at, received_at)
    SELECT b.id, max(coalesce(:last_ban_at, r.ban_at, b.ban_at), coalesce(r.ban_at, b.ban_at, :last_ban_at)),
        max(:received_at, coalesce(r.received_at, b.received_at)) {_KNOWN}
    AND (:received_at>=coalesce(r.received_at, b.received_at)+{PAUSE_MS}
        OR :last_ban_at>=coalesce(r.ban_at, b.ban_at)+{PAUSE_MS})
    ON CONFLICT DO UPDATE SET ban_at=excluded.ban_at, received_at=excluded.received_at"""
_INSERT = (
    f"INSERT INTO ban ({', '.join(BAN_COLUMNS)}) SELECT {', '.join(f':{name}' for name in BAN_COLUMNS)}"
    f" WHERE NOT EXISTS (SELECT 1 {_KNOWN})"
)


def _find_other_shape(kind: Kind, index: str, btn_ban: int) -> str:
    """Have the ban of which a report of a kind tells in another shape known by this report too.

    A legacy row has an id, and of its body the time; a modern one has no id and a time of its own.
    """
    if kind == "time":
        shape, times = "b.ban_unique_id<>'' AND b.ban_at IS s.populate_time", (":ban_at", f":ban_at+{LASTS_MS}")
    else:
        shape, times = "b.ban_unique_id IS NULL AND b.ban_at IS NOT s.populate_time", (f":ban_at-{LASTS_MS}", ":ban_at")
    return f"""
        INSERT INTO ban_also (dedupe, ban)
        SELECT :dedupe, b.id FROM (
            SELECT id, submission, peer_port, ban_at, ban_unique_id FROM ban INDEXED BY {index}
            WHERE btn_ban={btn_ban} AND peer_ip=:peer_ip AND userapp=:userapp AND module=:module AND torrent IN
                (SELECT o.id FROM torrent t JOIN torrent o ON o.identifier=t.identifier WHERE t.id=:torrent)
            LIMIT {_ALIKE}) b
        JOIN submission s ON s.id=b.submission
        WHERE b.peer_port=:peer_port AND {shape} AND b.ban_at BETWEEN {times[0]} AND {times[1]}
        AND NOT EXISTS (SELECT 1 FROM ban_also a WHERE a.ban=b.id) AND NOT EXISTS (SELECT 1 {_KNOWN})
        ORDER BY abs(b.ban_at-:ban_at) LIMIT 1"""


_OTHER_SHAPE: dict[tuple[Kind, int], str] = {
    (kind, btn_ban): _find_other_shape(kind, index, btn_ban)
    for kind in ("id", "time")
    for btn_ban, index in enumerate(("ban_evidence", "ban_caused"))
}
# The modern shape knows when it was.
_SET_TIME = "UPDATE ban SET ban_at=:ban_at WHERE id=(SELECT ban FROM ban_also WHERE dedupe=:dedupe) AND ban_at>:ban_at"


async def last_submission(connection: Connection) -> int:
    """The highest id of a body with bans."""
    rows = await fetch_all(connection, "SELECT coalesce(max(id), 0) FROM submission")
    return int(rows[0][0])


def joined(reports: Sequence[Report]) -> list[Report]:
    """Reports of which each tells of another ban, in the order in which these came; what is joined is changed."""
    by_key: dict[int, list[Report]] = {}
    for report in reports:
        by_key.setdefault(report["dedupe"], []).append(report)
    return [first for alike in by_key.values() for first in _chained(alike)]


def _chained(alike: list[Report]) -> list[Report]:
    """Reports of one key that arrived together, those of one ban as one."""
    if len(alike) == 1 or alike[0]["kind"] != "id_time":
        return alike[:1]
    chains: list[Report] = []
    for report in sorted(alike, key=lambda report: report["ban_at"] or 0):
        last = chains[-1] if chains else None
        if last is not None and (report["ban_at"] or 0) - (last["last_ban_at"] or 0) <= REACH_MS:
            last["last_ban_at"] = report["ban_at"]
        else:
            chains.append(report)
    return chains


async def add_bans(connection: Connection, reports: Sequence[Report], submissions: Sequence[SubmissionRow]) -> int:
    """Store reports, as `joined` gives them, and the bodies they came in; returns how many bans are new.

    A body's `rows` become the number of bans that are new in it.
    """
    for (kind, btn_ban), sql in _OTHER_SHAPE.items():
        await _execute_all(connection, sql, (r for r in reports if (r["kind"], r["btn_ban"]) == (kind, btn_ban)))
    await _execute_all(connection, _SET_TIME, (r for r in reports if r["kind"] == "time"))
    await _execute_all(connection, _PROLONG, reports)
    new = await _execute_all(connection, _INSERT, reports)
    # Of the new ones some came several times together.
    await _execute_all(connection, _PROLONG, (r for r in reports if r["last_ban_at"] != r["ban_at"]))
    await connection.executemany(
        "INSERT INTO submission SELECT ?1,?2,?3,?4,?5,?6,"
        " (SELECT count(*) FROM ban WHERE received_at=?2 AND submission=?1),?8",
        submissions,
    )
    return new


async def last_ban(connection: Connection) -> int:
    """The highest id of a ban."""
    rows = await fetch_all(connection, "SELECT coalesce(max(id), 0) FROM ban")
    return int(rows[0][0])


async def added_since(connection: Connection, last: int) -> dict[int, tuple[int, int]]:
    """Of the bans with a higher id, by application (row id): how many, and bytes of their texts."""
    sql = f"SELECT userapp, count(*), sum({_TEXT_BYTES}) FROM ban WHERE id>? GROUP BY 1"
    return {userapp: (rows, size) for userapp, rows, size in await fetch_all(connection, sql, (last,))}


async def weights(connection: Connection) -> dict[int, int]:
    """About how many bytes of the database the bans of each application (row id) take, with their bodies."""
    found: Counter[int] = Counter()
    for sql in (
        f"SELECT userapp, count(*)*{_ROW_BYTES}+sum({_TEXT_BYTES}) FROM ban GROUP BY 1",
        f"SELECT userapp, count(*)*{_BODY_BYTES} FROM submission GROUP BY 1",
    ):
        found.update(dict(await fetch_all(connection, sql)))
    return dict(found)


async def oldest_of(connection: Connection, userapp: int, size: int, limit: int) -> tuple[list[int], int]:
    """The ids of the first bans of an application that take about so many bytes, at most `limit`, and the bytes."""
    sql = f"SELECT id, {_ROW_BYTES}+{_TEXT_BYTES} FROM ban WHERE userapp=? ORDER BY id LIMIT ?"
    ids: list[int] = []
    weight = 0
    for number, each in await fetch_all(connection, sql, (userapp, limit)):
        if weight >= size:
            break
        ids.append(number)
        weight += each
    return ids, weight


async def delete(connection: Connection, ids: Sequence[int]) -> None:
    """Delete bans by their ids."""
    await connection.executemany("DELETE FROM ban WHERE id=?", [(number,) for number in ids])


async def delete_empty_bodies_of(connection: Connection, userapp: int, before_ms: int, limit: int) -> int:
    """Delete some bodies of an application that no ban came in and that were received before; how many."""
    cursor = await connection.execute(
        "DELETE FROM submission WHERE id IN (SELECT s.id FROM submission s WHERE s.userapp=? AND s.received_at<?"
        " AND NOT EXISTS (SELECT 1 FROM ban b WHERE b.received_at=s.received_at AND b.submission=s.id) LIMIT ?)",
        (userapp, before_ms, limit),
    )
    return cursor.rowcount


async def _execute_all(connection: Connection, sql: str, reports: Iterable[Report]) -> int:
    """Run a statement for each report; how many rows it wrote."""
    cursor = await connection.executemany(sql, list(reports))
    return max(cursor.rowcount, 0)


async def recent_digests(connection: Connection, since_ms: int, limit: int) -> list[tuple[int, bytes]]:
    """(received_at, digest) of bodies with bans received since, oldest first, at most `limit` of the newest."""
    sql = "SELECT received_at, digest FROM submission WHERE received_at>=? ORDER BY received_at DESC LIMIT ?"
    return [(row[0], row[1]) for row in reversed(await fetch_all(connection, sql, (since_ms, limit)))]


async def delete_old(connection: Connection, before_ms: int, limit: int) -> int:
    """Delete some bans last reported before, then some of the bodies that none came in; how many at the most."""
    cursor = await connection.execute(
        "DELETE FROM ban WHERE id IN (SELECT b.id FROM ban b LEFT JOIN ban_last_report r ON r.ban=b.id"
        " WHERE b.received_at<?1 AND coalesce(r.received_at, 0)<?1 ORDER BY b.received_at LIMIT ?2)",
        (before_ms, limit),
    )
    if cursor.rowcount >= limit:
        return cursor.rowcount
    # A ban has its first report's body and time of receipt.
    cursor = await connection.execute(
        "DELETE FROM submission WHERE id IN (SELECT s.id FROM submission s WHERE s.received_at<?"
        " AND NOT EXISTS (SELECT 1 FROM ban b WHERE b.received_at=s.received_at AND b.submission=s.id)"
        " ORDER BY s.received_at LIMIT ?)",
        (before_ms, limit),
    )
    return cursor.rowcount


async def used_bytes(connection: Connection) -> int:
    """Bytes of the main database that hold something, whatever its file has beside them yet."""
    rows = await fetch_all(
        connection,
        "SELECT (SELECT page_count FROM pragma_page_count())-(SELECT freelist_count FROM pragma_freelist_count()),"
        " (SELECT page_size FROM pragma_page_size())",
    )
    return int(rows[0][0]) * int(rows[0][1])


async def give_back_space(connection: Connection, pages: int) -> bool:
    """Return some free pages of the main database to the file system; whether there are more.

    Outside of a transaction: the pragma frees a page at each step, and the driver only steps a script to its end.
    """
    await connection.executescript(f"PRAGMA incremental_vacuum({pages})")
    rows = await fetch_all(connection, "PRAGMA freelist_count")
    return bool(rows[0][0])
