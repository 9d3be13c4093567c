"""SQL of one address's history: how often it was banned, day by day."""

from typing import NamedTuple

from sparkle_lite.db.connection import Connection, fetch_all
from sparkle_lite.units import DAY_MS


class BanDay(NamedTuple):
    """Bans received on one day (UTC; days since the epoch), and how many people they came from."""

    day: int
    bans: int
    people: int


async def ban_days(connection: Connection, address: bytes, since_ms: int) -> list[BanDay]:
    """The days on which an address was banned, ascending."""
    rows = await fetch_all(
        connection,
        f"SELECT b.received_at / {DAY_MS}, count(*), count(DISTINCT a.user) FROM ban b"
        " JOIN userapp a ON a.id=b.userapp WHERE b.peer_ip=? AND +b.received_at>=? GROUP BY 1 ORDER BY 1",
        (address, since_ms),
    )
    return [BanDay(*row) for row in rows]
