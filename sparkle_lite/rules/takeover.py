"""A list that was fetched, taken over: read, compared with what stands of it, and made what stands, or held back."""

import asyncio
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from sparkle_lite.accounts.actors import Actor
from sparkle_lite.config import ImportEntry
from sparkle_lite.db import imports as store
from sparkle_lite.db.connection import Connection
from sparkle_lite.db.database import Database, transacted
from sparkle_lite.net import Network
from sparkle_lite.rules.decisions import Decisions, ImportedList
from sparkle_lite.rules.findings import Finding
from sparkle_lite.rules.offers import EMPTY, SHOWN, Offer, read_offer
from sparkle_lite.rules.plan import GROWTH_FLOOR, GROWTH_SHARE, Plan
from sparkle_lite.texts import Phrase, phrase

# A list of so many entries that loses half of them has been cut or emptied; a shorter one may.
SHRUNK_FROM = 20


class Takeover(NamedTuple):
    """A body to be taken over as a list, for whom and how.

    `accept` takes over what would be held back, `by_hand`: whoever does this wants all of it, also what was refused;
    `dry` changes nothing. `lifetime_ms` is how long what it lists lasts (None: as long as it is on the list). `before`
    is how many entries the last good state had, None where there was none; `node` is what others know this server by.
    `seen_else`: somebody looked at it before, and it was another.
    """

    entry: ImportEntry
    body: bytes
    actor: Actor
    now_ms: int
    node: str
    before: int | None
    accept: bool = False
    seen_else: bool = False
    by_hand: bool = False
    dry: bool = False
    lifetime_ms: int | None = None


class Taken(NamedTuple):
    """What became of it: counts for the history, how many entries it has, and what it changed.

    `held` says why it was held back, or in a dry run why it would be, `failed` why there is nothing to take over.
    `first` are the first of what it lists. The `plan` is there where it lists by itself, unless another process made
    it.
    """

    numbers: Mapping[str, Any]
    entries: int = 0
    changed: bool = False
    held: Phrase | None = None
    failed: Phrase | None = None
    first: tuple[Finding, ...] = ()
    plan: Plan | None = None


async def take_over(takeover: Takeover, database: Database, decisions: Decisions) -> Taken:
    """Make a body what stands of its list, all at once or not at all. Raises SparkleError as the database does."""
    offer = await asyncio.to_thread(
        read_offer,
        takeover.body,
        takeover.entry,
        takeover.now_ms,
        node=takeover.node,
        lifetime_ms=takeover.lifetime_ms,
    )
    if offer.trouble is not None:
        return Taken(numbers=offer.numbers, failed=offer.trouble)
    if takeover.seen_else:
        return Taken(numbers=offer.numbers, held=phrase("imports.why.changed"))
    return await _Taker(takeover, database, decisions).take(offer)


class _HeldBack(Exception):
    """A list isn't taken over before somebody accepts it."""

    def __init__(self, said: Phrase) -> None:
        super().__init__(said)
        self.said = said


class _Judge(NamedTuple):
    """What keeps a list from being taken over: `before` is how many entries it had, None where nothing stands of it.

    `was_empty`: that it is empty was accepted before.
    """

    offer: Offer
    before: int | None
    was_empty: bool
    of_neighbour: bool

    def refuse(self, plan: Plan) -> None:
        """Raises _HeldBack."""
        why = self.why(len(plan.added))
        if why is not None:
            raise _HeldBack(why)

    def why(self, added: int) -> Phrase | None:
        """Why a list should be looked at before it is taken over."""
        doubt, before, entries = self.offer.doubt, self.before, len(self.offer.findings)
        if doubt is not None and not (self.was_empty and doubt.key == EMPTY):
            return doubt
        if before is None:
            return None
        # What a neighbour withdraws ends here at once.
        if before >= SHRUNK_FROM and 2 * entries < before and not self.of_neighbour:
            return phrase("imports.why.shrunk", before=before, entries=entries)
        if added > max(GROWTH_FLOOR, GROWTH_SHARE * before):
            return phrase("imports.why.grown", before=before, added=added)
        return None


class _Taker:
    """One takeover on one database."""

    def __init__(self, takeover: Takeover, database: Database, decisions: Decisions) -> None:
        self.database = database
        self._takeover = takeover
        self._entry = takeover.entry
        self._decisions = decisions

    async def take(self, offer: Offer) -> Taken:
        """Make what a list offers what stands of it."""
        before, standing = self._takeover.before, await self._count()
        judge = _Judge(
            offer=offer,
            before=(standing if before is None else before) if standing else None,
            was_empty=before == 0,
            of_neighbour=self._entry.format == "sparkle",
        )
        taken = Taken(numbers=offer.numbers, entries=len(offer.findings), first=offer.findings[:SHOWN])
        try:
            if self._entry.supports_only:
                return await self._support(taken, offer, judge)
            return await self._list(taken, offer, judge)
        except _HeldBack as held:
            return taken._replace(held=held.said)

    async def _count(self) -> int:
        """How much stands of a list."""
        if self._entry.supports_only:
            return len(await self._supporting())
        origin = f"import:{self._entry.name}"
        return sum(n for (name, _), n in (await self._decisions.counts()).items() if name == origin)

    async def _supporting(self) -> set[Network]:
        async with self.database.reader() as reader:
            return await store.supporting(reader, self._entry.name)

    async def _list(self, taken: Taken, offer: Offer, judge: _Judge) -> Taken:
        takeover, entry = self._takeover, self._entry
        listing = ImportedList(
            name=entry.name,
            findings=offer.findings,
            category=entry.shown_category,
            widest=(entry.widest[0], entry.widest[1]),
            respects_refusals=not takeover.by_hand,
        )
        refuse = None if takeover.accept or takeover.dry else judge.refuse
        plan = await self._decisions.replace_list(listing, takeover.actor, dry=takeover.dry, judge=refuse)
        if not takeover.dry:
            await drop_support(self.database, entry.name)
        counts = {"added": len(plan.added), "removed": len(plan.removed), "held": len(plan.held)}
        return taken._replace(
            numbers={**taken.numbers, **counts, "dropped": dict(plan.dropped)},
            changed=bool(plan.begin or plan.end),
            held=judge.why(len(plan.added)) if takeover.dry else None,
            plan=plan,
        )

    async def _support(self, taken: Taken, offer: Offer, judge: _Judge) -> Taken:
        takeover, before = self._takeover, await self._supporting()
        standing = (finding for finding in offer.findings if not finding.is_over(takeover.now_ms))
        after = {finding.target for finding in standing if isinstance(finding.target, Network)}
        added, removed = after - before, before - after
        why = judge.why(len(added))
        if why is not None and not (takeover.accept or takeover.dry):
            raise _HeldBack(why)
        if not takeover.dry:
            await self._change(added, removed)
            await self._decisions.replace_list(nothing(self._entry.name), takeover.actor)
        numbers = {**taken.numbers, "added": len(added), "removed": len(removed)}
        return taken._replace(numbers=numbers, changed=bool(added or removed), held=why if takeover.dry else None)

    @transacted
    async def _change(self, connection: Connection, added: Collection[Network], removed: Collection[Network]) -> None:
        await store.change_support(connection, self._entry.name, added, removed)


def nothing(name: str) -> ImportedList:
    """A list of which nothing is to stand."""
    return ImportedList(name=name, findings=(), category=name, widest=(0, 0))


async def drop_support(database: Database, name: str) -> None:
    """Let a list support nothing any more."""
    async with database.reader() as reader:
        before = await store.supporting(reader, name)
    if before:
        await database.write(lambda connection: store.change_support(connection, name, (), before))
