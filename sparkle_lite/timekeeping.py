"""What a server remembers of the time over its runs, and what it says and does where the clock can't be believed.

clock.py says what goes by which time. Here is what it is told at a start, what becomes of an operator's word that the
time is right, and what is said of a doubt; jobs.py brings back what was stamped ahead once there is none any more.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from sparkle_lite.accounts.actors import Actor
from sparkle_lite.clock import JUMP_MS, Clock, Doubt, newest_of
from sparkle_lite.db import accounts as store
from sparkle_lite.db import segments, stamps
from sparkle_lite.db.connection import Connection, plain_uri
from sparkle_lite.db.database import Database, transacted
from sparkle_lite.errors import SparkleError
from sparkle_lite.texts import ENGLISH, Phrase, phrase
from sparkle_lite.units import HOUR_MS, MINUTE_MS

# What is kept: the time that was believed last; one that was taken as right; that something may be stamped ahead.
_KNOWN, _ACCEPTED, _MEND = "clock", "clock_accepted", "clock_mend"
_NOTED_MS = 10 * MINUTE_MS

logger = logging.getLogger("sparkle.clock")


class Timekeeping:
    """The clock of a server and its memory. `settled` is set when a doubt is over."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self.database = database
        self.clock = clock
        self.settled = asyncio.Event()
        self.needs_mending = False
        self._accepted: int | None = None
        self._noted_at = self._doubts = 0
        self._doubt: Doubt | None = None

    async def open(self) -> None:
        """Compare the clock with what the last run left behind, and say so where it doesn't go with that."""
        await self.compare()
        await self._tell()

    async def compare(self, uri_of: Callable[[Path], str] = plain_uri) -> None:
        """The same without a word to anybody; `uri_of` says how the file of a hot segment is opened."""
        database = self.database
        async with database.reader() as connection:
            known, accepted, mend = [await _number(connection, name) for name in (_KNOWN, _ACCEPTED, _MEND)]
            newest = newest_of(
                (
                    await stamps.newest(connection),
                    await segments.newest_hot(connection, database.segment_folder, uri_of),
                )
            )
        self._accepted, self.needs_mending = accepted, bool(mend)
        if mend and known is not None:
            # That something is stamped ahead is known already, and says nothing of the clock as it is now.
            newest = None
        self.clock.start(known=known, newest=newest, accepted=accepted)

    async def watch(self) -> None:
        """Notice a jump, the end of a doubt, and an operator's word that came by another process."""
        if self.clock.doubt is not None:
            async with self.database.reader() as connection:
                accepted = await _number(connection, _ACCEPTED)
            # The same machine says the same; what was accepted before the clock was set again is about another time.
            if accepted is not None and accepted != self._accepted:
                self._accepted = accepted
                if abs(self.clock.machine() - accepted) <= JUMP_MS:
                    self.clock.accept()
        await self._tell()
        if abs(self.clock.settled() - self._noted_at) >= _NOTED_MS:
            await self.note()

    async def _tell(self) -> None:
        before, self._doubt = self._doubt, self.clock.doubt
        if self.clock.doubts != self._doubts:
            # Noted while it lasts: a process that is killed in between leaves what it stamped.
            self._doubts, self.needs_mending = self.clock.doubts, True
            await self._keep(_MEND, 1)
        if self._doubt is None and before is not None:
            logger.warning("the clock is believed again; retention and expiry go on", extra={"now": self._shown()})
            # Kept as right, so that the next start doesn't ask again; what it was before may be long ago.
            self._accepted = self.clock.machine()
            await self._keep(_ACCEPTED, self._accepted)
            await self.note()
            self.settled.set()
        elif self._doubt is not None and self._doubt != before:
            logger.error("%s", self.said.text(ENGLISH), extra={"now": self._shown()})

    def _shown(self) -> str:
        return _moment(self.clock.machine())

    async def note(self) -> None:
        """Write down the time that is believed, for the next start."""
        self._noted_at = self.clock.settled()
        await self._keep(_KNOWN, self._noted_at)

    async def accept(self, actor: Actor) -> None:
        """Take the machine's time as right at once. Raises SparkleError: forbidden."""
        actor.require_admin()
        self.clock.accept()
        await self._tell()

    async def mended(self, doubts: int) -> None:
        """What was stamped ahead has been brought back, up to when the clock was doubted for the last time then."""
        if self.clock.doubts == doubts:
            self.needs_mending = False
            await self._keep(_MEND, 0)

    async def _keep(self, name: str, value: int) -> None:
        if self.database.is_still:
            return
        try:
            await self._store(name, value)
        except SparkleError as error:
            # A full disk stops neither a server nor its clock; the next start knows a little less.
            logger.warning("what is known of the time could not be noted: %s", error)

    @transacted
    async def _store(self, connection: Connection, name: str, value: int) -> None:
        await store.set_setting(connection, name, value)

    @property
    def said(self) -> Phrase:
        """Whether the clock is believed, in a sentence."""
        doubt = self.clock.doubt
        if doubt is None:
            return phrase("clock.ok")
        now, expected = _moment(self.clock.machine()), _moment(doubt.reference)
        hours = max(1, -(-self.clock.left() // HOUR_MS))
        return phrase(f"clock.{doubt.kind}", now=now, expected=expected, hours=hours)


async def accept(database: Database, now_ms: int) -> None:
    """Have the server on a database, or the next one, take a time (ms) as right that is now."""

    async def command(connection: Connection) -> None:
        await store.set_setting(connection, _ACCEPTED, now_ms)

    await database.write(command)


async def believed(database: Database, now_ms: int) -> int:
    """The time that a server on the database believes, as far as a command can tell: what it gives ends by that."""
    async with database.reader() as connection:
        known = await _number(connection, _KNOWN)
    return known if known is not None and known > now_ms + JUMP_MS else now_ms


async def _number(connection: Connection, name: str) -> int | None:
    value = await store.setting(connection, name)
    return None if value is None else int(value)


def _moment(at_ms: int) -> str:
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, ValueError):
        return f"{at_ms} ms"
