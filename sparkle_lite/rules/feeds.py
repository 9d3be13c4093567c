"""The feeds of what is published: each is rendered when it is first asked for, and kept while the rules stand.

Nobody asks for all of them, and all would take several times as long as the documents of clients. A long list is
rendered in a process of its own, beside the one that publishes.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from sparkle_lite.db import accounts
from sparkle_lite.db import decisions as store
from sparkle_lite.db.connection import Connection, Row, connect_readonly
from sparkle_lite.db.database import Database
from sparkle_lite.db.decisions import Decision
from sparkle_lite.errors import SparkleError
from sparkle_lite.net import Network
from sparkle_lite.rules.address_sets import AddressSet, PackedAddresses, carve
from sparkle_lite.rules.reasons import reason
from sparkle_lite.rules.rendering import Published
from sparkle_lite.wire.decisions_document import MOST_NODES, Reasons, TargetKind, TradedDecision, encode
from sparkle_lite.wire.feeds import FORMATS, Feed, FeedContent, finish, render
from sparkle_lite.worker_process import WorkerProcess, serve

DECISIONS = "decisions.json"
# Every feed that there is, as they are listed.
NAMES = (*FORMATS, DECISIONS)

# Bytes of the deny list beyond which rendering in this process would be felt.
_LONG = 1 << 19
# A hundred thousand networks take less than a second.
_TIMEOUT_S = 60.0
# Many ask just after one another; then the memory is given back.
_STAY_S = 120.0

logger = logging.getLogger("sparkle.feeds")


class ListOrder(NamedTuple):
    """A feed of FORMATS to render, of the deny list as clients get it; `published_at` in ms."""

    name: str
    denylist: bytes
    link: str
    published_at: int


class DecisionsOrder(NamedTuple):
    """`decisions.json` to render, of the decisions in force at a moment (ms) without the addresses in `spared`."""

    database: Path
    spared: PackedAddresses
    at: int


class Rendered(NamedTuple):
    """What feeds are made of: the documents, of which revision of the decisions, and when (ms) they were rendered."""

    published: Published
    revision: int
    at: int


class _Kept(NamedTuple):
    """A feed, and of what it was made: the tag of the deny list, the revision of the decisions, when (ms)."""

    feed: Feed
    denylist: str
    revision: int
    at: int


class Feeds:
    """The feeds of one server."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._worker = _FeedWorker()
        self._kept: dict[str, _Kept] = {}
        self._rendering = {name: asyncio.Lock() for name in NAMES}

    async def get(self, name: str, edition: Rendered) -> Feed:
        """One feed of what is served; while its content stays the same it is the same one.

        Where it can't be rendered the last one is served on. Raises SparkleError: not_found for a name that is none of
        NAMES, internal.
        """
        if name not in NAMES:
            raise SparkleError("not_found", "feeds.none", name=name[:40])
        denylist = edition.published.ip_denylist
        made_of = (denylist.tag, edition.revision, edition.at)
        async with self._rendering[name]:
            kept = self._kept.get(name)
            if kept is not None and (kept[1:] == made_of or (name != DECISIONS and kept.denylist == denylist.tag)):
                return kept.feed
            try:
                feed = await self._render(name, edition)
            except Exception as error:
                if kept is None:
                    raise
                logger.warning("the feed %s could not be rendered (%s); the last one is served on", name, error)
                return kept.feed
            if kept is not None and kept.feed.tag == feed.tag:
                feed = kept.feed
            elif feed.body == denylist.body:
                # In memory once.
                feed = feed._replace(body=denylist.body, gzip=denylist.gzip)
            self._kept[name] = _Kept(feed, *made_of)
            return feed

    async def _render(self, name: str, edition: Rendered) -> Feed:
        published, at = edition.published, edition.at
        if len(published.ip_denylist.body) <= _LONG or self._database.is_still:
            return await render_feed(name, edition, self._database)
        if name == DECISIONS:
            return await self._worker.render(DecisionsOrder(self._database.path, published.spared, at))
        return await self._worker.render(ListOrder(name, published.ip_denylist.body, published.link, at))

    async def close(self) -> None:
        """End the process."""
        await self._worker.close()


# --- Rendering --------------------------------------------------------------------------------------------------------


async def render_feed(name: str, edition: Rendered, database: Database) -> Feed:
    """One feed of NAMES, rendered on a thread."""
    published, at = edition.published, edition.at
    if name != DECISIONS:
        order = ListOrder(name, published.ip_denylist.body, published.link, at)
        return await asyncio.to_thread(render_list, order)
    async with database.reader() as reader:
        rows = await read_decisions(reader, at)
    return await asyncio.to_thread(render_decisions, rows, published.spared, at)


# One list is asked for in several formats.
_content = lru_cache(1)(FeedContent)


def render_list(order: ListOrder) -> Feed:
    """A feed of FORMATS."""
    return render(order.name, _content(order.denylist, order.link), order.published_at)


class Decided(NamedTuple):
    """The decisions in force: the denied as rows of the store, the allowed, and the id of this node."""

    node: str
    denied: list[Row]
    allowed: list[Decision]


async def read_decisions(connection: Connection, now_ms: int) -> Decided:
    """What `decisions.json` tells of, at a moment (ms)."""
    node = await accounts.setting(connection, "node")
    return Decided(str(node), await store.denied(connection, now_ms), await store.allowed(connection, now_ms))


def render_decisions(rows: Decided, spared: PackedAddresses, published_at: int) -> Feed:
    """`decisions.json`, oldest first: without the addresses in `spared`, without names that are excepted.

    What has come through as many nodes as a chain may have goes no further.
    """
    exempt = {(decision.kind, decision.text) for decision in rows.allowed if decision.text is not None}
    entries = []
    for decision, parts in listings(rows, spared):
        kind = decision.kind
        if kind == "port" or kind == "script" or (kind, decision.text) in exempt:
            continue
        targets = [str(decision.text)] if decision.network is None else [str(part) for part in parts]
        entry = _entry(decision, kind, targets, rows.node)
        if targets and len(entry.chain) <= MOST_NODES:
            entries.append(entry)
    return finish(DECISIONS, encode(rows.node, entries), len(entries), published_at)


def listings(rows: Decided, spared: PackedAddresses) -> Iterator[tuple[Decision, list[Network]]]:
    """What is denied, oldest first, with what is left of its network without the addresses in `spared`."""
    holes = AddressSet(spared.networks())
    for decision in store.decisions(rows.denied):
        yield decision, [] if decision.network is None else list(carve(decision.network, holes))


def _entry(decision: Decision, kind: TargetKind, targets: list[str], node: str) -> TradedDecision:
    evidence: Mapping[str, object] = decision.evidence
    # What a neighbour decided comes with where it began and by which nodes it came.
    neighbour = evidence.get("neighbour")
    passed_on: Mapping[str, object] = neighbour if isinstance(neighbour, dict) else {}
    chain = passed_on.get("chain")
    why = reason(decision.code, decision.numbers)
    return TradedDecision(
        id=str(passed_on.get("id", f"{node}-{decision.id}")),
        kind=kind,
        targets=targets,
        category=decision.category,
        origin=decision.origin,
        code=decision.code,
        reason=Reasons(en=why.text("en"), zh=why.text("zh")),
        since=decision.created_at,
        until=decision.expires_at,
        chain=[*(chain if isinstance(chain, list) else ()), node],
        evidence=dict(decision.numbers),
        formula=decision.evidence.get("formula", 0),
    )


# --- The process ------------------------------------------------------------------------------------------------------


class _FeedWorker:
    """The process of one server that renders feeds of long lists, one after another; it ends when nobody asks."""

    def __init__(self) -> None:
        self._process = WorkerProcess(__name__)
        self._turn = asyncio.Lock()
        self._leaving: asyncio.Task[None] | None = None

    async def render(self, order: ListOrder | DecisionsOrder) -> Feed:
        """Render one feed. Raises as WorkerProcess.ask does."""
        async with self._turn:
            await self._stay()
            feed: Feed = await self._process.ask(order, _TIMEOUT_S)
            self._leaving = asyncio.create_task(self._leave())
            return feed

    async def _leave(self) -> None:
        await asyncio.sleep(_STAY_S)
        await self._process.close()

    async def _stay(self) -> None:
        if self._leaving is not None:
            self._leaving.cancel()
            await asyncio.wait([self._leaving])

    async def close(self) -> None:
        """End the process."""
        async with self._turn:
            await self._stay()
            await self._process.close()


async def _read(order: DecisionsOrder) -> Decided:
    connection = await connect_readonly(order.database)
    try:
        return await read_decisions(connection, order.at)
    finally:
        await connection.close()


def _work(order: ListOrder | DecisionsOrder) -> Feed:
    if isinstance(order, ListOrder):
        return render_list(order)
    return render_decisions(asyncio.run(_read(order)), order.spared, order.at)


if __name__ == "__main__":
    serve(_work)
