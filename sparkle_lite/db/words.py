"""SQL of what people's words are worth, as it was measured last."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sparkle_lite.db.connection import Connection, fetch_all
from sparkle_lite.db.evidence.words import Standing


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


async def standings(connection: Connection) -> dict[int, WordRow]:
    """What was measured last, by user (row id)."""
    rows = await fetch_all(connection, "SELECT user, value, agreed, disagreed, voice, addresses FROM word")
    return {
        user: WordRow(user, value, agreed, disagreed, voice, json.loads(addresses))
        for user, value, agreed, disagreed, voice, addresses in rows
    }
