"""The feeds of what is published: rendered when one is first asked for, kept while the rules stand and somebody asks.

Nobody asks for all of them, and all would take several times as long as the documents of clients. A long list is
rendered in a process of its own, beside the one that publishes.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import NamedTuple

from sparkle_lite.db.database import Database
from sparkle_lite.errors import SparkleError
from sparkle_lite.rules.feed_rendering import DECISIONS, DecisionsOrder, ListOrder, Rendered, render_feed, work
from sparkle_lite.rules.feed_rendering import NAMES as NAMES
from sparkle_lite.units import HOUR_S
from sparkle_lite.wire.feeds import Credit, Feed
from sparkle_lite.wire.rule_documents import Document
from sparkle_lite.worker_process import WorkerProcess, serve

# Bytes of the deny list beyond which rendering in this process would be felt.
_LONG = 1 << 19
# A hundred thousand networks take less than a second.
_TIMEOUT_S = 60.0
# Many ask just after one another; then the memory is given back.
_STAY_S = 120.0
# Most programs ask every hour, and all feeds of a long list are a hundred megabytes.
_KEEP_S = 2.5 * HOUR_S

logger = logging.getLogger("sparkle.feeds")


class _Kept(NamedTuple):
    """A feed, and of what it was made: the tag of the deny list, credits, the revision of the decisions, when (ms)."""

    feed: Feed
    denylist: str
    credits: Sequence[Credit]
    revision: int
    at: int


class Feeds:
    """The feeds of one server."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._worker = _FeedWorker()
        self._kept: dict[str, _Kept] = {}
        self._forgetting: dict[str, asyncio.TimerHandle] = {}
        # The tag that each feed had last, and since when (ms); remembered longer than the feed.
        self._since: dict[str, tuple[str, int]] = {}
        self._rendering = {name: asyncio.Lock() for name in NAMES}

    async def get(self, name: str, edition: Rendered) -> Feed:
        """One feed of what is served; while its content stays the same it is the same one.

        Where it can't be rendered the last one is served on. Raises SparkleError: not_found for a name that is none of
        NAMES, internal.
        """
        if name not in NAMES:
            raise SparkleError("not_found", "feeds.none", name=name[:40])
        denylist = edition.published.ip_denylist
        made_of = (denylist.tag, edition.credits, edition.revision, edition.at)
        async with self._rendering[name]:
            self._keep(name)
            kept = self._kept.get(name)
            if kept is not None and (kept[1:] == made_of or (name != DECISIONS and kept[1:3] == made_of[:2])):
                return kept.feed
            try:
                feed = await self._render(name, edition)
            except Exception as error:
                if kept is None:
                    raise
                logger.warning("the feed %s could not be rendered (%s); the last one is served on", name, error)
                return kept.feed
            feed = kept.feed if kept is not None and kept.feed.tag == feed.tag else self._begun(feed, denylist)
            self._kept[name] = _Kept(feed, *made_of)
            return feed

    def _begun(self, feed: Feed, denylist: Document) -> Feed:
        """A feed with the time since when it stands; where it is the deny list, that is in memory once."""
        tag, since = self._since.get(feed.name, ("", 0))
        if tag == feed.tag:
            feed = feed._replace(published_at=since)
        self._since[feed.name] = feed.tag, feed.published_at
        return feed._replace(body=denylist.body, gzip=denylist.gzip) if feed.body == denylist.body else feed

    def _keep(self, name: str) -> None:
        """Keep a feed from now on for as long as one is kept that nobody asks for."""
        if name in self._forgetting:
            self._forgetting[name].cancel()
        loop = asyncio.get_running_loop()
        self._forgetting[name] = loop.call_later(_KEEP_S, self._kept.pop, name, None)

    async def _render(self, name: str, edition: Rendered) -> Feed:
        published, at = edition.published, edition.at
        if len(published.ip_denylist.body) <= _LONG or self._database.is_still:
            return await render_feed(name, edition, self._database)
        if name == DECISIONS:
            return await self._worker.render(DecisionsOrder(self._database.path, published.spared, at))
        return await self._worker.render(ListOrder.of(name, edition))

    async def close(self) -> None:
        """End the process, and forget all feeds."""
        for forgetting in self._forgetting.values():
            forgetting.cancel()
        self._kept.clear()
        await self._worker.close()


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


if __name__ == "__main__":
    serve(work)
