"""The rules that clients are told now: rendered at the start, and anew whenever something that they say has changed.

A change of the decisions is served when the call that made it returns: their database announces it to
`publish_changes`. What another process changes, what expires and what could not be published is found by
`publish_due`, a periodic job.
"""

import asyncio
import logging
import pickle
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from contextlib import suppress
from typing import NamedTuple

from sparkle_lite.accounts.registry import Registry
from sparkle_lite.clock import elapsed_ms
from sparkle_lite.config import Config
from sparkle_lite.db.database import Database
from sparkle_lite.errors import SparkleError
from sparkle_lite.rules import address_sets, omissions, rendering
from sparkle_lite.rules.decisions import Decisions
from sparkle_lite.rules.feed_rendering import Rendered, credits_due
from sparkle_lite.rules.feeds import Feeds
from sparkle_lite.rules.operator import Rules
from sparkle_lite.rules.protected import Protected
from sparkle_lite.rules.render_worker import RenderOrder, RenderWorker
from sparkle_lite.rules.rendering import Published
from sparkle_lite.units import SECOND_MS
from sparkle_lite.wire.feeds import Credit, Feed
from sparkle_lite.wire.rule_documents import Document

# Decisions beyond which rendering in this process would be felt; starting another takes a quarter of a second.
_LONG_LIST = 5_000

# Between two attempts to publish what can't be.
_RETRY_MS = 5 * SECOND_MS

# Versions that are remembered, each in some 200 bytes.
_VERSIONS = 20_000
logger = logging.getLogger("sparkle.publisher")


class Edition(NamedTuple):
    """One rendering: the documents, the revision of the decisions in them, and decisions by origin and state.

    `untold` is what which client programs are not told of it. `protected` are the addresses that were cut out, and
    `accounts` tells when it was that accounts were looked at for them. It was rendered `at` a moment (ms), and holds
    entries of the lists in `credits`.
    """

    published: Published
    revision: int
    counts: Mapping[tuple[str, str], int]
    untold: Sequence[omissions.Untold]
    protected: Set[bytes]
    accounts: tuple[int, Set[int]]
    at: int
    credits: Sequence[Credit]


class Renderer:
    """Makes editions: of a long list in a process of its own."""

    def __init__(
        self,
        *,
        database: Database,
        registry: Registry,
        decisions: Decisions,
        protected: Protected,
        config: Callable[[], Config],
        clock: Callable[[], int],
        credits: Callable[[], Awaitable[Mapping[str, str]]],
    ) -> None:
        """`credits` tells whom the decisions of an origin are owed to."""
        self._database = database
        self._registry = registry
        self.decisions = decisions
        self._protected = protected
        self._config = config
        self.clock = clock
        self._credits = credits
        self._worker = RenderWorker()
        self.feeds = Feeds(database)
        # The rules as another process takes them, and what they were made of.
        self._pickled: tuple[Rules, bytes] | None = None

    async def close(self) -> None:
        """End the processes."""
        await self._worker.close()
        await self.feeds.close()

    async def render(self, rules: Rules) -> Edition:
        """An edition of what is in force now."""
        # A member that was seen a moment ago is not in the database yet, and on a full disk it can't be.
        with suppress(SparkleError):
            await self._registry.flush(now=True)
        at, revision, accounts = self.clock(), await self.decisions.revision(), self.accounts()
        protected = await self.addresses()
        published, counts, credits = await asyncio.gather(
            self._documents(rules, protected), self.decisions.counts(), self._credits()
        )
        for held in published.held[:20]:
            logger.warning("a rule covers an address of this server or of a member and is held back: %s", held)
        untold = await asyncio.to_thread(
            omissions.untold,
            published.omissions,
            prefer_legacy=self._config().btn.prefer_legacy,
            has_excepted_addresses=published.has_excepted_addresses,
        )
        return Edition(
            published=published,
            revision=revision,
            counts=counts,
            untold=untold,
            protected=protected,
            accounts=accounts,
            at=at,
            credits=credits_due(credits, counts),
        )

    def accounts(self) -> tuple[int, Set[int]]:
        """What differs when other addresses may be protected because of accounts that have changed."""
        return self._registry.generation, self._protected.earned

    async def addresses(self) -> Set[bytes]:
        """The addresses that are protected now."""
        async with self._database.reader() as reader:
            stored = await self._protected.addresses(reader, self.clock())
        return stored | self._registry.waiting_addresses()

    async def _documents(self, rules: Rules, protected: Set[bytes]) -> Published:
        url = self._config().server.public_url.rstrip("/")
        link = f"{url}/ip/" if url else ""
        if await self.decisions.count_open() > _LONG_LIST and not self._database.is_still:
            if self._pickled is None or self._pickled[0] is not rules:
                self._pickled = rules, await asyncio.to_thread(pickle.dumps, rules)
            order = RenderOrder(
                database=self._database.path,
                rules=self._pickled[1],
                protected=protected,
                now_ms=self.clock(),
                link=link,
            )
            return await self._worker.render(order)
        denied, allowed = await self.decisions.in_force()
        networks = [address_sets.single(address) for address in protected]
        return await asyncio.to_thread(
            rendering.publish, rules, networks, self.clock(), denied=denied, allowed=allowed, link=link
        )


class Publisher:
    """What is served of the rules. One for a server.

    `failure` says why the newest rules could not be published, while the last good ones are served.
    """

    def __init__(self, renderer: Renderer, rules: Rules, first: Edition) -> None:
        self.failure: str | None = None
        self._renderer = renderer
        self._rules = rules
        self._edition = first
        # What each version stood for first; beyond so many the oldest are forgotten.
        self._tags: dict[str, str] = {}
        self._ambiguous: set[str] = set()
        self._remember_versions()
        self._is_outdated = False
        self._publishing = asyncio.Lock()
        self._requested = self._done = 0
        self._took, self._at = 0, elapsed_ms()
        _log_untold(first.untold, ())

    @property
    def published(self) -> Published:
        """The documents."""
        return self._edition.published

    @property
    def untold(self) -> Sequence[omissions.Untold]:
        """What which client programs are not told of it."""
        return self._edition.untold

    @property
    def counts(self) -> Mapping[tuple[str, str], int]:
        """How many listings stood by origin and state when the documents were rendered."""
        return self._edition.counts

    @property
    def credits(self) -> Sequence[Credit]:
        """Whom what is served is owed to."""
        return self._edition.credits

    async def feed(self, name: str) -> Feed:
        """One feed of what is served, rendered when it is first asked for. Raises SparkleError: not_found, internal."""
        edition = self._edition
        made_of = Rendered(edition.published, edition.revision, edition.at, edition.credits)
        return await self._renderer.feeds.get(name, made_of)

    def is_known(self, document: Document, version: str) -> bool:
        """Whether somebody who has this version of a document has just this document.

        Versions are short for old clients' sake, and two contents may share one: then nobody is told to keep theirs.
        """
        return version == document.version and version not in self._ambiguous

    def _remember_versions(self) -> None:
        for document in self.published.all():
            if self._tags.setdefault(document.version, document.tag) != document.tag:
                self._ambiguous.add(document.version)
        while len(self._tags) > _VERSIONS:
            del self._tags[next(iter(self._tags))]

    def rewrite(self, rules: Rules) -> None:
        """What the operator wrote has changed, to be published with the next change."""
        self._rules, self._is_outdated = rules, True

    async def publish(self) -> None:
        """Render all rule documents anew and swap them in; what was asked for meanwhile is done in one go.

        A failure keeps the last good documents, is shown until it is mended, and is tried again.
        """
        self._requested += 1
        requested = self._requested
        async with self._publishing:
            if self._done >= requested:
                return
            covered, started = self._requested, elapsed_ms()
            self._is_outdated = False
            before = self._edition.untold
            try:
                self._edition = await self._renderer.render(self._rules)
            except Exception as error:
                self.failure = str(error) or type(error).__name__
                logger.exception("the rules could not be published; the last good ones are served on")
            else:
                self.failure = None
                self._remember_versions()
                _log_untold(self.untold, before)
            self._done = covered
            self._at = elapsed_ms()
            self._took = self._at - started

    async def publish_changes(self) -> None:
        """Publish, unless what is served is what stands."""
        if (
            self._is_outdated
            or await self._renderer.decisions.revision() != self._edition.revision
            or await self._protects_others()
        ):
            await self.publish()

    async def _protects_others(self) -> bool:
        """Whether an account has changed so that a rule must be published with another hole, or without one."""
        edition, accounts = self._edition, self._renderer.accounts()
        if accounts == edition.accounts:
            return False
        protected = await self._renderer.addresses()
        if any(edition.published.covers(address) for address in protected ^ edition.protected):
            return True
        if self._edition is edition:
            self._edition = edition._replace(accounts=accounts, protected=protected)
        return False

    async def publish_due(self) -> None:
        """Publish what another process changed, what has expired, and what could not be published before."""
        since = elapsed_ms() - self._at
        if self.failure is not None:
            if since >= _RETRY_MS:
                await self.publish()
            return
        await self.publish_changes()
        expiry = self.published.next_expiry_ms
        # Where publishing takes long, what expires is taken together: it must not take more than a twentieth of a core.
        if expiry is not None and expiry <= self._renderer.clock() and since >= 20 * self._took:
            await self.publish()

    async def spare(self, address: bytes) -> None:
        """A member came from an address for the first time in a while: no rule may list it."""
        if self.published.touches(address):
            await self.publish()


def _log_untold(untold: Sequence[omissions.Untold], before: Sequence[omissions.Untold]) -> None:
    """Log what which client programs are not told, where that has changed."""
    for told in (each for each in untold if each not in before):
        counts = {"rules": told.count("rules"), "exceptions": told.count("exceptions")}
        logger.info("%s", omissions.log_line(told), extra={"clients": ", ".join(told.clients), **counts})
    if before and not untold:
        logger.info("every client program is told all rules and exceptions")
