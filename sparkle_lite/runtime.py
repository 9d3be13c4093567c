"""One running server without its HTTP: the parts, how they start and stop, and what they tell each other."""

import asyncio
import logging
import pickle
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from sparkle_lite import analyses, ip_report, net, omissions, rulebook
from sparkle_lite import config as configuration
from sparkle_lite.accounts import Accounts, Actor, FirstStart, now_ms
from sparkle_lite.analyses import apart
from sparkle_lite.analyses.modules import is_evidence
from sparkle_lite.config import Config
from sparkle_lite.db import accounts as account_rows
from sparkle_lite.db.database import Database
from sparkle_lite.db.overview import Overview
from sparkle_lite.db.search import Search
from sparkle_lite.decisions import Decisions, Distance
from sparkle_lite.ingest import Ingest
from sparkle_lite.jobs import Housekeeping, Jobs
from sparkle_lite.metrics import Metrics
from sparkle_lite.plan import Plan
from sparkle_lite.pow import ProofOfWork
from sparkle_lite.press import Order, Press
from sparkle_lite.settings import Settings
from sparkle_lite.trouble import Troubles
from sparkle_lite.wire.answers import IpQuery

MEMBER_DAYS_MS = 14 * 24 * 3_600_000
_STATES = ("active", "held", "shadow")
# Decisions beyond which rendering in this process would be felt; starting another takes a quarter of a second.
_LONG_LIST = 5_000
# How often to look for changes of another process.
_NOTICE_S = 0.25
# How long measured distances are good, and of how many addresses they are kept.
_DISTANCES_S, _DISTANCES = 60.0, 256
# Between two attempts to publish what can't be.
_RETRY_S = 5.0

logger = logging.getLogger("sparkle.runtime")


class Runtime:
    """The parts of one server. `open` before use, `close` after; everything in between is on one event loop."""

    def __init__(self, config: Config, given: Mapping[str, str] | None = None) -> None:
        """`given`: the dotted keys that a file or variable sets (with its name), which no page can."""
        self.config = config
        self._written, self._given = config, given or {}
        self.rules = rulebook.compile_rules(config.rules, config.exceptions)
        self.metrics = Metrics()
        self.database = Database(config.database.file, config.database.synchronous)
        self.jobs = Jobs(self.metrics)
        self.proof_of_work = ProofOfWork(now_ms)
        self.press = Press()
        self._closed_segment = asyncio.Event()
        # Set to have the analyses run now.
        self.analyse_soon = asyncio.Event()
        self._own_addresses: set[bytes] = set()
        self._size = 0
        self.ready = False
        # What a first start has to tell its operator, once.
        self.first_start: FirstStart | None = None
        self.accounts: Accounts
        self.ingest: Ingest
        self.troubles: Troubles
        self.search: Search
        self.overview: Overview
        self.settings: Settings
        self.housekeeping: Housekeeping
        self.decisions: Decisions
        self.published: rulebook.Published
        # What which client programs are not told of what is published.
        self.untold: Sequence[omissions.Untold] = ()
        # Reads the configuration's file again, where there is somebody who knows it; the keys that need a restart.
        self.reread: Callable[[], Awaitable[list[str]]] | None = None
        # Why the newest rules could not be published, while the last good ones are served.
        self.publish_failure: str | None = None
        self._publishing = asyncio.Lock()
        self._publish_asked = self._publish_done = 0
        self._publish_took, self._published_at = 0.0, 0.0
        self._published_revision = 0
        self._decided: Mapping[tuple[str, str], int] = {}
        # The rules as another process takes them, and what they were made of.
        self._pickled: tuple[rulebook.Rules, bytes] | None = None
        self._measured: dict[bytes, tuple[float, asyncio.Task[Sequence[Distance]]]] = {}
        self._measuring = asyncio.Semaphore(2)

    async def open(self) -> None:
        """Migrate, take up where the last process ended, publish the rules, start the jobs.

        Raises SparkleError when the database can't be used.
        """
        await self.database.open(serve=True)
        try:
            self.ingest = Ingest(
                self.database, lambda: self.config.limits, self.metrics, now_ms, is_evidence=is_evidence
            )
            await self.ingest.open()
            self.troubles = Troubles(self.database, self.ingest.writer.write, now_ms)
            await self.troubles.load()
            self.ingest.on_closed = self._closed_segment.set
            self.search = Search(self.database, self.ingest.streams)
            self.overview = Overview(self.database, self.ingest.streams, self.ingest.writer.write, now_ms)
            self.settings = Settings(self.database, self.ingest.writer.write, now_ms, self._given)
            await self.settings.load()
            self.config = self.settings.over(self._written)
            self.accounts = Accounts(self.database, self.ingest.writer.write, lambda: self.config.auth, now_ms)
            await self.accounts.open()
            self.first_start = await self.accounts.first_start()
            self.housekeeping = Housekeeping(self.database, self.ingest, lambda: self.config, now_ms)
            self._own_addresses = await asyncio.to_thread(own_addresses, self.config)
            self.decisions = Decisions(
                self.database,
                self.ingest.writer.write,
                now_ms,
                lambda: self._own_addresses,
                tellers=(analyses.tell,),
                distances=self.distances,
            )
            await self.decisions.sync(self.rules)
            await self.publish()
        except BaseException:
            await self.close()
            raise
        self._start_jobs()
        self._watch()
        self.ready = True

    def _start_jobs(self) -> None:
        jobs, house = self.jobs, self.housekeeping
        jobs.every("notice", _NOTICE_S, self.accounts.poll)
        jobs.every("access", 60, self.accounts.flush)
        jobs.every("trouble", 1, self.troubles.flush)
        jobs.every("seen", 300, lambda: self.ingest.writer.write(self.ingest.dictionaries.write_seen))
        jobs.every("roll", 60, house.roll)
        jobs.every("index", 300, house.index, first=0, wake=self._closed_segment)
        jobs.every("retention", 600, house.let_go, first=20)
        jobs.every("tidy", 60, self._tidy)
        jobs.every("activity", 600, self.overview.record, first=5)
        jobs.every("collect", 24 * 3600, house.collect, first=3600)
        jobs.every("publish", _NOTICE_S, self._publish_due)
        jobs.every("analyse", 3600, self.analyse_all, first=300, wake=self.analyse_soon)
        jobs.every("history", 24 * 3600, self.forget, first=7200)
        jobs.every("size", 60, self._measure, first=0)

    def _watch(self) -> None:
        metrics, ingest = self.metrics, self.ingest
        metrics.watch(
            "sparkle_queue_submissions", "Submissions that wait for their group.", lambda: ingest.writer.waiting
        )
        metrics.watch("sparkle_queue_bytes", "Bytes of bodies being read or waiting.", lambda: ingest.room.used)
        metrics.watch("sparkle_database_bytes", "Bytes of the main database and all segments.", lambda: self._size)
        metrics.watch_by("sparkle_wal_bytes", "Bytes of the write-ahead logs.", "file", self._wal_sizes)
        metrics.watch(
            "sparkle_rules_held", "Rule entries held back to protect an address.", lambda: len(self.published.held)
        )
        metrics.watch(
            "sparkle_rules_stale",
            "1 while the newest rules can't be published and the last good ones are served.",
            lambda: float(self.publish_failure is not None),
        )
        metrics.watch_by(
            "sparkle_rules_decided",
            "Listings by their state: active, held for review, or shadow.",
            "state",
            lambda: {state: float(sum(n for (_, s), n in self._decided.items() if s == state)) for state in _STATES},
        )

    def _wal_sizes(self) -> dict[str, float]:
        paths = {"main": self.database.path}
        paths |= {s.kind: s.path(s.hot.id) for s in self.ingest.streams.values() if s.hot}
        sizes = {}
        for name, path in paths.items():
            sizes[name] = 0.0
            with suppress(FileNotFoundError):
                sizes[name] = float(path.with_name(path.name + "-wal").stat().st_size)
        return sizes

    async def _tidy(self) -> None:
        await self.search.tidy()
        await self.overview.tidy()

    @property
    def size(self) -> int:
        """Bytes of the main database and all segments, a minute ago at the latest."""
        return self._size

    async def _measure(self) -> None:
        self._size = await self.housekeeping.size()

    async def close(self) -> None:
        """Commit what is queued and close everything; safe after a failed `open`."""
        self.ready = False
        await self.jobs.stop()
        await self.press.close()
        tasks = [task for _, task in self._measured.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if hasattr(self, "search"):
            await self.search.close()
        if hasattr(self, "overview"):
            await self.overview.close()
        if hasattr(self, "ingest"):
            if self.ingest.writer.running and hasattr(self, "accounts"):
                with suppress(Exception):
                    await self.accounts.flush(now=True)
                    await self.troubles.flush()
                    await self.ingest.writer.write(self.ingest.dictionaries.write_seen)
            await self.ingest.close()
        await self.database.close()

    async def publish(self) -> None:
        """Render all rule documents anew and swap them in; what was asked for meanwhile is done in one go.

        A failure keeps the last good documents, is shown until it is mended, and is tried again; without any it raises.
        """
        self._publish_asked += 1
        asked = self._publish_asked
        async with self._publishing:
            if self._publish_done >= asked:
                return
            covered, started = self._publish_asked, time.monotonic()
            try:
                await self._publish()
            except Exception as error:
                if not hasattr(self, "published"):
                    raise
                self.publish_failure = str(error) or type(error).__name__
                logger.exception("the rules could not be published; the last good ones are served on")
            else:
                self.publish_failure = None
            self._publish_done = covered
            self._published_at = time.monotonic()
            self._publish_took = self._published_at - started

    async def _publish(self) -> None:
        # A member that was seen a moment ago is not in the database yet.
        await self.accounts.flush(now=True)
        revision = await self.decisions.revision()
        async with self.database.reader() as reader:
            members = await account_rows.member_addresses(reader, now_ms() - MEMBER_DAYS_MS)
        protected = {*members, *self._own_addresses}
        published, counts = await asyncio.gather(self._render(protected), self.decisions.counts())
        self._decided = counts
        for held in published.held[:20]:
            logger.warning("a rule covers an address of this server or of a member and is held back: %s", held)
        self.published, self._published_revision = published, revision
        await self._tell_omissions()

    async def _tell_omissions(self) -> None:
        """Log what which client programs are not told, when that has changed."""
        untold = await asyncio.to_thread(
            omissions.untold,
            self.published.omissions,
            prefer_legacy=self.config.btn.prefer_legacy,
            has_excepted_addresses=self.published.has_excepted_addresses,
        )
        before, self.untold = self.untold, untold
        for one in (each for each in untold if each not in before):
            counts = {"rules": one.count("rules"), "exceptions": one.count("exceptions")}
            logger.info("%s", omissions.log_line(one), extra={"clients": ", ".join(one.clients), **counts})
        if before and not untold:
            logger.info("every client program is told all rules and exceptions")

    async def _render(self, protected: set[bytes]) -> rulebook.Published:
        url = self.config.server.public_url.rstrip("/")
        link = f"{url}/ip/" if url else ""
        if await self.decisions.standing() > _LONG_LIST:
            if self._pickled is None or self._pickled[0] is not self.rules:
                self._pickled = self.rules, await asyncio.to_thread(pickle.dumps, self.rules)
            order = Order(self.database.path, self._pickled[1], protected, now_ms(), link, self.decisions.tellers)
            return await self.press.render(order)
        denied, allowed = await self.decisions.in_force()
        networks = [rulebook.single(address) for address in protected]
        return await asyncio.to_thread(rulebook.publish, self.rules, networks, now_ms(), denied, allowed, link=link)

    async def _publish_due(self) -> None:
        """Publish what another process changed, what has expired, and what could not be published before."""
        since = time.monotonic() - self._published_at
        if self.publish_failure is not None:
            if since >= _RETRY_S:
                await self.publish()
        elif await self.decisions.revision() != self._published_revision:
            await self.publish()
        else:
            expiry = self.published.next_expiry_ms
            # Where publishing takes long, what expires is taken together: it must not take more than a twentieth of a
            # core.
            if expiry is not None and expiry <= now_ms() and since >= 20 * self._publish_took:
                await self.publish()

    async def analyse_all(self) -> None:
        """Run every analysis, and publish what they changed. One that fails keeps its earlier decisions."""
        failures = []
        for name in analyses.ANALYSES:
            try:
                await analyse(self.database, self.decisions, self.config, name)
            except Exception as error:
                logger.exception("the analysis %s failed", name)
                failures.append(f"{name}: {error}")
        if await self.decisions.revision() != self._published_revision:
            await self.publish()
        if failures:
            raise RuntimeError("; ".join(failures))

    async def change_settings(self, changes: Mapping[str, Any], actor: Actor) -> None:
        """Change what a page may change. Raises SparkleError as Settings.change does."""
        await self.settings.change(changes, actor)
        self.config = self.settings.over(self._written)
        self._measured = {address: one for address, one in self._measured.items() if not one[1].done()}

    async def known_distances(self, address: bytes, patience_s: float) -> Sequence[Distance] | None:
        """What `distances` gives where it is known or found so soon, else None; what takes longer is given up."""
        begun = self._measured.get(address)
        task = self._measuring_of(address)
        if begun is None or begun[1] is not task:
            await asyncio.wait((task,), timeout=patience_s)
            task.cancel()
        return task.result() if task.done() and not task.cancelled() and task.exception() is None else None

    async def distances(self, address: bytes) -> Sequence[Distance]:
        """How far an address is from each analysis, as measured within the last minute.

        Raises as `analyses.distances` does.
        """
        while True:
            # Others share what is being measured, and who began it may have given it up.
            task = self._measuring_of(address)
            await asyncio.wait((task,))
            if not task.cancelled() or not self.ready:
                return task.result()

    def _measuring_of(self, address: bytes) -> "asyncio.Task[Sequence[Distance]]":
        now = time.monotonic()
        for old, (since, task) in list(self._measured.items()):
            is_over = now - since > _DISTANCES_S or len(self._measured) > _DISTANCES
            if task.done() and (is_over or task.cancelled() or task.exception() is not None):
                del self._measured[old]
        if address not in self._measured:
            self._measured[address] = now, asyncio.create_task(self._measure_distances(address), name="distances")
        return self._measured[address][1]

    async def _measure_distances(self, address: bytes) -> Sequence[Distance]:
        async with self._measuring:
            needs = await analyses.distances(self.database, self.config.analysis, address, now_ms())
        return [Distance(*need) for need in needs]

    async def forget(self) -> None:
        """Let go of the oldest of the log of decisions."""
        while await self.decisions.forget(1000) == 1000:
            await asyncio.sleep(0.02)

    async def saw_address(self, address: bytes) -> None:
        """A member came from an address for the first time in a while: no rule may list it."""
        if self.published.touches(address):
            await self.accounts.flush(now=True)
            await self.publish()

    async def reload(self, config: Config, given: Mapping[str, str]) -> list[str]:
        """Take over a configuration as far as that goes without a restart; the keys that need one."""
        rules = rulebook.compile_rules(config.rules, config.exceptions)
        stay = configuration.restart_needed(self._written, config)
        self._written, self.settings.given = config, given
        self.config, self.rules = self.settings.over(config), rules
        self._own_addresses = await asyncio.to_thread(own_addresses, config)
        await self.decisions.sync(rules)
        await self.publish()
        return stay

    async def ip_report(self, address: bytes) -> IpQuery:
        """What this network knows of one address. Raises SparkleError when the look-up takes too long."""
        now, limits = now_ms(), self.config.limits
        verdict = await self.decisions.verdict(address)
        found = [
            await self.search.page(query, int(limits.query_time), int(limits.count_time))
            for query in ip_report.queries(address, now)
        ]
        listed = [(match.decision.category, match.reason) for match in verdict.matches]
        return ip_report.report(listed, verdict.excepted, found[0], found[1], now)

    async def health(self) -> None:
        """Raises when the database does not answer."""
        async with asyncio.timeout(3):
            await self.database.read("SELECT 1")

    def readiness(self) -> dict[str, object]:
        """What /readyz says: whether each part is up, and what is wrong."""
        return {
            "ready": self.ready and self.ingest.writer.running,
            "writer": self.ready and self.ingest.writer.running,
            "rules_published": hasattr(self, "published"),
            "rules_held": len(self.published.held) if hasattr(self, "published") else 0,
            "rules_failure": self.publish_failure,
            "rules_waiting_for_review": sum(n for (_, state), n in self._decided.items() if state == "held"),
            "failing_jobs": dict(self.jobs.failed),
        }


async def analyse(
    database: Database,
    decisions: Decisions,
    config: Config,
    name: str,
    overrides: Mapping[str, str | int] | None = None,
    *,
    dry: bool = False,
) -> Plan:
    """Run one analysis and make its findings decisions; `dry`: only tell what would change.

    One that is switched off finds nothing. Raises SparkleError as analyses.run does, and when its process fails.
    """
    mode = analyses.choose(name, config.analysis, overrides).mode
    findings = []
    at = now_ms()
    if mode != "off":
        findings = await apart.run(name, database, config.analysis, at, overrides)
    act = decisions.plan if dry else decisions.apply
    version = analyses.ANALYSES[name].version
    return await act(name, findings, at, mode="shadow" if mode == "shadow" else "on", formula=version)


def own_addresses(config: Config) -> set[bytes]:
    """Addresses of this machine, as far as the system tells without sending anything."""
    found: set[str] = {config.server.host}
    if config.server.public_url:
        found.add(urlsplit(config.server.public_url).hostname or "")
    with suppress(OSError):
        found |= {str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None)}
    for family, target in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        # Connecting a datagram socket sends nothing; it only makes the system choose the source address.
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((target, 9))
            found.add(probe.getsockname()[0])
    result = set()
    for text in found:
        with suppress(net.AddressError):
            result.add(net.address_bytes(text))
    return {address for address in result if any(address)}
