"""Reviews: anybody may ask the administrators to look at a listed address; they close what they have looked at."""

import unicodedata
from collections.abc import Callable
from typing import NamedTuple

from sparkle_lite.accounts.actors import Actor
from sparkle_lite.accounts.audit import Audit
from sparkle_lite.db import reviews as store
from sparkle_lite.db.connection import Connection
from sparkle_lite.db.database import Database, transacted
from sparkle_lite.db.orders import Position
from sparkle_lite.db.reviews import Review
from sparkle_lite.errors import SparkleError
from sparkle_lite.net import AddressError, address_bytes, address_text
from sparkle_lite.rate_limits import Buckets, client_key
from sparkle_lite.units import DAY_MS, HOUR_S

# What one place may ask in an hour, how many requests may wait about one address, and in all.
ASKED_PER_HOUR = 3
OPEN_PER_ADDRESS, OPEN = 5, 1000
MESSAGE, CONTACT, NOTE = 500, 100, 255

# What was closed is kept so long.
_KEPT_MS = 180 * DAY_MS


class Request(NamedTuple):
    """Somebody's request: the address, whether it is listed now, and what they say about it."""

    address: bytes
    listed: bool
    message: str
    contact: str


class Reviews:
    """The review list of one server."""

    def __init__(self, database: Database, audit: Audit, clock: Callable[[], int]) -> None:
        self.database = database
        self._audit = audit
        self._clock = clock
        self._asked = Buckets(burst=ASKED_PER_HOUR, per_minute=ASKED_PER_HOUR / 60)

    async def ask(self, request: Request, actor: Actor) -> None:
        """Put a request on the list; one that says nothing new about an address that waits already is no other.

        Raises SparkleError: too_many.
        """
        now = self._clock()
        wait = self._asked.take(client_key(actor.address or ""), now)
        if wait:
            raise _too_many(wait)
        await self._add(
            store.NewReview(
                address=request.address,
                asked_at=now,
                is_own=_is_from(actor.address, request.address),
                user=actor.user,
                listed=request.listed,
                message=_clean(request.message, MESSAGE),
                contact=_clean(request.contact, CONTACT),
            )
        )

    @transacted
    async def _add(self, connection: Connection, review: store.NewReview) -> None:
        await store.delete_old(connection, review.asked_at - _KEPT_MS, 100)
        if await store.count_open(connection, review.address) >= OPEN_PER_ADDRESS:
            return
        if await store.count_open(connection) >= OPEN:
            raise _too_many(HOUR_S)
        await store.add(connection, review)

    async def count_open(self) -> int:
        """How many requests wait."""
        async with self.database.reader() as reader:
            return await store.count_open(reader)

    async def page(self, is_open: bool, position: Position[int], limit: int) -> list[Review]:
        """Requests that wait, or that are closed, at a position (of ids), the newest first."""
        async with self.database.reader() as reader:
            return await store.page(reader, is_open, position, limit)

    @transacted
    async def close(self, connection: Connection, review_id: int, note: str, actor: Actor) -> None:
        """Close a request, with a note for the other administrators. Raises SparkleError: forbidden, not_found."""
        actor.require_admin()
        line = _clean(note, NOTE)
        address = await store.close(connection, review_id, actor.user, line, self._clock())
        if address is None:
            raise SparkleError("not_found", "review.none")
        about = {"review": review_id, "address": address_text(address), "note": line}
        await self._audit.record(connection, actor, "REVIEW_CLOSE", **about)


def _too_many(wait: int) -> SparkleError:
    return SparkleError("too_many", "review.too_many", retry_after=wait)


def _is_from(text: str | None, address: bytes) -> bool:
    try:
        return address_bytes(text or "") == address
    except AddressError:
        return False


def _clean(text: str, length: int) -> str:
    """Text of a stranger: truncated, control characters removed."""
    kept = (char for char in text[: 2 * length] if char == "\n" or unicodedata.category(char)[0] != "C")
    return "".join(kept).strip()[:length]
