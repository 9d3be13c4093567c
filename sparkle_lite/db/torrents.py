"""SQL of torrents: which ones are known, and how many different ones there are."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

from sparkle_lite.db.conditions import FIELDS
from sparkle_lite.db.connection import Row
from sparkle_lite.db.orders import Position, by_id, in_order
from sparkle_lite.errors import SparkleError

# Asks the main database within so many ms, like search.Search.rows.
Ask = Callable[[str, Sequence[Any], int], Awaitable[list[Row]]]
TorrentMethod = Literal["EQUALS", "CONTAINS", "STARTS_WITH"]

# Torrents are counted so far.
COUNTED = 100_000
# Identifiers of the empty info hash (the same in both byte orders) and of forty zeros: "the torrent is not known".
UNKNOWN_TORRENTS = frozenset(
    bytes.fromhex(identifier)
    for identifier in (
        "7e071fd9b023ed8f18458a73613a0834f6220bd5cc50357ba3493c6040a9ea8c",
        "1ca334e65d854658cf4398db9f2e1c350a1d80b4aa29b2a87b47a1534bb961d2",
        "1fef2c4fca28401f0945355f8e4468ab9fd311885e884f5ac5ef2d7a544d5d06",
    )
)
UNKNOWN_SQL = ", ".join(f"x'{identifier.hex()}'" for identifier in sorted(UNKNOWN_TORRENTS))


# How many different torrents are known. Identifiers made in the two byte orders name the same torrents twice, so they
# are never added; few are big-endian, and all identifiers together stand in an index.
_KNOWN = f"identifier NOT IN ({UNKNOWN_SQL})"
DIFFERENT_SQL = (
    "SELECT max(every-turned, turned) FROM"
    f" (SELECT (SELECT count(*) FROM (SELECT DISTINCT identifier FROM torrent WHERE {_KNOWN})) AS every,"
    f" (SELECT count(DISTINCT identifier) FROM torrent WHERE big_endian AND {_KNOWN}) AS turned)"
)


def different(torrents: Iterable[tuple[bytes | str, bool]]) -> int:
    """How many torrents some identifiers name, each with whether it is big-endian; what says "unknown" names none."""
    known = {(order, identifier) for identifier, order in torrents if identifier not in UNKNOWN_TORRENTS}
    turned = sum(order for order, _ in known)
    return max(turned, len(known) - turned)


class TorrentFilter(NamedTuple):
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


async def find_torrents(
    ask: Ask, wanted: TorrentFilter, position: Position[int], limit: int, query_ms: int
) -> list[TorrentRow]:
    """Torrents at a position (of ids), the newest first. Raises SparkleError as `ask` does."""
    where, values = _condition(wanted)
    standing, key = by_id("d.id", position)
    sql = f"SELECT d.id, d.identifier, d.size, d.private FROM torrent d WHERE {where} AND {standing} LIMIT ?"
    rows = await ask(sql, (*values, key, limit), query_ms)
    return in_order([TorrentRow(*row) for row in rows], position)


async def count_torrents(ask: Ask, wanted: TorrentFilter, count_ms: int) -> tuple[int, bool]:
    """How many there are; a lower bound (and False) where there are more than are counted in the time."""
    where, values = _condition(wanted)
    sql = f"SELECT count(*) FROM (SELECT 1 FROM torrent d WHERE {where} LIMIT ?)"
    try:
        [(number,)] = await ask(sql, (*values, COUNTED), count_ms)
    except SparkleError:
        return 0, False
    return number, number < COUNTED


def _condition(wanted: TorrentFilter) -> tuple[str, list[Any]]:
    field = FIELDS["snapshot"]["torrent_identifier"]
    parts, values = ["TRUE"], list[Any]()
    if wanted.identifier is not None:
        if wanted.method == "EQUALS" and field.exact is not None:
            exact = field.exact(wanted.identifier)
            parts.append(exact.sql)
            values += exact.values
        else:
            # Bytes are shown as lower-case hex; as SQLite makes it, upper case, they are compared a third faster.
            place = ">0" if wanted.method == "CONTAINS" else "=1"
            hexadecimal = "" if wanted.identifier != wanted.identifier.lower() else wanted.identifier.upper()
            parts.append(
                f"iif(typeof(d.identifier)='blob', ?<>'' AND instr(hex(d.identifier), ?){place},"
                f" instr(d.identifier, ?){place})"
            )
            values += [hexadecimal, hexadecimal, wanted.identifier]
    for column, sign, value in (
        ("size", ">=", wanted.size_from),
        ("size", "<=", wanted.size_to),
        ("private", "=", wanted.private),
    ):
        if value is not None:
            parts.append(f"d.{column}{sign}?")
            values.append(int(value))
    return " AND ".join(parts), values
