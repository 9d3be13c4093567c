"""SQL of what people's words are worth, as it was measured last."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sparkle_lite.db.accounts import VOUCHED
from sparkle_lite.db.connection import Connection, fetch_all, fetch_one
from sparkle_lite.db.evidence.words import Standing
from sparkle_lite.db.evidence.workspace import SILENT, WORD, WORTH


class WordRow(NamedTuple):
    """Somebody's word (0..1) and what it is made of; `voice` is the user who stands for their group.

    `addresses` are by verdict how many there are and the newest of them, in hex.
    """

    user: int
    value: float
    agreed: float
    disagreed: float
    voice: int
    addresses: Mapping[str, tuple[int, Sequence[str]]]

    @property
    def worth(self) -> float:
        """What it is worth as a vote (0..1); a word below a half is silent."""
        return min(WORTH * self.value, WORD) / WORD if self.value >= SILENT else 0.0


async def replace(connection: Connection, standings: Iterable[Standing]) -> None:
    """Put new measurements in the place of the old ones, within a transaction."""
    rows = [
        (
            one.user,
            one.value,
            one.agreed,
            one.disagreed,
            one.voice,
            json.dumps({name: (count, [key.hex() for key in keys]) for name, (count, keys) in one.addresses.items()}),
        )
        for one in standings
    ]
    await connection.execute("DELETE FROM word")
    await connection.executemany(
        "INSERT INTO word (user, value, agreed, disagreed, voice, addresses) VALUES (?,?,?,?,?,?)", rows
    )


async def standing(connection: Connection, user: int) -> WordRow | None:
    """What was measured last of one user; None for whom nothing was."""
    row = await fetch_one(
        connection, "SELECT user, value, agreed, disagreed, voice, addresses FROM word WHERE user=?", (user,)
    )
    return None if row is None else WordRow._make((*row[:5], json.loads(row[5])))


async def values(connection: Connection) -> dict[int, float]:
    """What everybody's word is worth (0..1), by user (row id)."""
    return dict(await fetch_all(connection, "SELECT user, value FROM word"))


async def companions(connection: Connection, row: WordRow) -> list[str]:
    """The names of those who share a voice with somebody."""
    sql = "SELECT u.name FROM word w JOIN user u ON u.id=w.user WHERE w.voice=? AND w.user<>? ORDER BY u.id"
    return [name for (name,) in await fetch_all(connection, sql, (row.voice, row.user))]


async def unheard(connection: Connection, since_ms: int, limit: int) -> list[str]:
    """The names of people who reported bans since then and whose word counts for nothing yet."""
    rows = await fetch_all(
        connection,
        "SELECT DISTINCT u.name FROM submission s JOIN userapp a ON a.id=s.userapp JOIN user u ON u.id=a.user"
        f" LEFT JOIN word w ON w.user=u.id WHERE s.received_at>=? AND u.banned_at IS NULL AND NOT {VOUCHED}"
        " AND coalesce(w.value, 0)<? ORDER BY u.id LIMIT ?",
        (since_ms, SILENT, limit),
    )
    return [name for (name,) in rows]
