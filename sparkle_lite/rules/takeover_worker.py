"""Takeovers in a process of their own: reading and comparing a long list makes objects by the hundred thousand."""

import asyncio
from pathlib import Path
from typing import Literal, NamedTuple

from sparkle_lite.accounts.audit import Audit
from sparkle_lite.db.database import Database
from sparkle_lite.errors import SparkleError
from sparkle_lite.rules.decisions import Decisions
from sparkle_lite.rules.protected import Protected
from sparkle_lite.rules.takeover import Taken, Takeover, take_over
from sparkle_lite.worker_process import WorkerProcess, serve

# Hostile lines take a millisecond each; a hundred thousand plain ones two seconds.
_TIMEOUT_S = 600.0


class TakeoverOrder(NamedTuple):
    """A takeover for that process: where, and which addresses are protected."""

    takeover: Takeover
    database: Path
    synchronous: Literal["full", "normal"]
    own: frozenset[bytes]
    earned: frozenset[int]


async def take_over_apart(takeover: Takeover, database: Database, protected: Protected) -> Taken:
    """The same in a process of its own. Raises SparkleError, also where it takes far too long."""
    order = TakeoverOrder(
        takeover=takeover,
        database=database.path,
        synchronous=database.synchronous,
        own=frozenset(protected.own),
        earned=protected.earned,
    )
    process = WorkerProcess(__name__)
    try:
        taken: Taken = await process.ask(order, _TIMEOUT_S)
    except TimeoutError:
        raise SparkleError("timeout", "imports.why.too_slow") from None
    finally:
        await process.close()
    return taken


async def _work(order: TakeoverOrder) -> Taken:
    def clock() -> int:
        return order.takeover.now_ms

    database = Database(order.database, order.synchronous)
    protected = Protected(set(order.own))
    protected.earned = order.earned
    await database.open()
    try:
        decisions = Decisions(database, Audit(database, clock), clock, protected)
        taken = await take_over(order.takeover, database, decisions)
    finally:
        await database.close()
    # A plan is as long as the list, and its counts are what is asked for.
    return taken._replace(plan=None)


if __name__ == "__main__":
    serve(lambda order: asyncio.run(_work(order)))
