"""The audit: who did what, recorded in the transaction that does it, and what was refused."""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from sparkle_lite.accounts.actors import Actor
from sparkle_lite.accounts.texts import clean_line, clean_user_agent
from sparkle_lite.db import accounts as store
from sparkle_lite.db.accounts import AuditFilter as AuditFilter
from sparkle_lite.db.accounts import AuditRow as AuditRow
from sparkle_lite.db.connection import Connection
from sparkle_lite.db.database import Database, transacted
from sparkle_lite.db.orders import Position as Position
from sparkle_lite.errors import SparkleError
from sparkle_lite.rate_limits import Buckets, client_key

# What a member may change: a hundred things at once, then one every six seconds.
_CHANGES_AT_ONCE, _CHANGES_PER_MINUTE = 100, 10
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class Audit:
    """The audit of one server or one command. Whatever it stores of a text has no control characters."""

    def __init__(self, database: Database, clock: Callable[[], int]) -> None:
        self.database = database
        self._clock = clock
        self._changes = Buckets(burst=_CHANGES_AT_ONCE, per_minute=_CHANGES_PER_MINUTE)
        self._failures = Buckets(burst=3, per_minute=0.1)
        self._all_failures = Buckets(burst=60, per_minute=6)

    async def record(self, connection: Connection, actor: Actor, action: str, /, **details: object) -> None:
        """Record what an actor does, in the transaction that does it. `details` are values for JSON, and no secrets.

        Raises SparkleError (too_many) where somebody who is no administrator changes more than anybody does: all of it
        is kept. Signing out is always possible.
        """
        if actor.user is not None and not actor.admin and action != "LOGOUT":
            wait = self._changes.take(actor.user, self._clock())
            if wait:
                raise SparkleError("too_many", "request.too_many", seconds=wait, retry_after=wait)
        await self._add(connection, actor, action, details, success=True)

    async def note_failure(self, action: str, actor: Actor, error: SparkleError, /, **details: object) -> None:
        """Record what was refused: a few for each address, about six an hour after that, and bounded over all.

        Writes by itself: a transaction that was refused leaves nothing.
        """
        now = self._clock()
        if self._failures.take(client_key(actor.address or ""), now) or self._all_failures.take("all", now):
            return
        # What was refused is refused, whether that can be written down or not.
        with suppress(SparkleError):
            await self._add_failure(actor, action, {**details, "error": error.message})

    @asynccontextmanager
    async def noting(self, action: str, actor: Actor, /, **details: object) -> AsyncIterator[None]:
        """Record what the block does in the case that it is refused; what it does is recorded where it is done."""
        try:
            yield
        except SparkleError as error:
            if error.code in ("forbidden", "quota"):
                await self.note_failure(action, actor, error, **details)
            raise

    async def page(self, wanted: AuditFilter, position: Position[int], limit: int) -> list[AuditRow]:
        """What was done and refused, at a position (of ids), newest first."""
        async with self.database.reader() as connection:
            return await store.audit(connection, wanted, position, limit)

    @transacted
    async def _add_failure(self, connection: Connection, actor: Actor, action: str, details: dict[str, object]) -> None:
        await self._add(connection, actor, action, details, success=False)

    async def _add(
        self, connection: Connection, actor: Actor, action: str, details: dict[str, object], *, success: bool
    ) -> None:
        if actor.by:
            details = {**details, "by": actor.by}
        await store.add_audit(
            connection,
            at=self._clock(),
            action=action,
            success=success,
            user=actor.user,
            address=actor.address,
            user_agent=None if actor.user_agent is None else clean_user_agent(actor.user_agent),
            details={name: clean_line(value) if isinstance(value, str) else value for name, value in details.items()},
        )


def app_details(app_id: str) -> dict[str, object]:
    """What is recorded of an application's id that somebody sent: it, if it looks like one.

    People paste secrets into the wrong field.
    """
    return {"appId": app_id} if _UUID.fullmatch(app_id) else {}
