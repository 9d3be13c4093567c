"""One running server without its HTTP: the parts, how they start and stop, and what they tell each other."""

import asyncio
import logging
import socket
from contextlib import suppress
from urllib.parse import urlsplit

from sparkle_lite import config as configuration
from sparkle_lite import net, rulebook
from sparkle_lite.accounts import Accounts, FirstStart, now_ms
from sparkle_lite.config import Config
from sparkle_lite.db import accounts as account_rows
from sparkle_lite.db.database import Database
from sparkle_lite.ingest import Ingest
from sparkle_lite.jobs import Housekeeping, Jobs
from sparkle_lite.metrics import Metrics
from sparkle_lite.net import Network

MEMBER_DAYS_MS = 14 * 24 * 3_600_000

logger = logging.getLogger("sparkle.runtime")


class Runtime:
    """The parts of one server. `open` before use, `close` after; everything in between is on one event loop."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.rules = rulebook.compile_rules(config.rules, config.exceptions)
        self.metrics = Metrics()
        self.database = Database(config.database.file, config.database.synchronous)
        self.jobs = Jobs(self.metrics)
        self._closed_segment = asyncio.Event()
        self._own_addresses: set[bytes] = set()
        self._size = 0
        self.ready = False
        # What a first start has to tell its operator, once.
        self.first_start: FirstStart | None = None
        self.accounts: Accounts
        self.ingest: Ingest
        self.housekeeping: Housekeeping
        self.published: rulebook.Published

    async def open(self) -> None:
        """Migrate, take up where the last process ended, publish the rules, start the jobs.

        Raises SparkleError when the database can't be used.
        """
        await self.database.open(serve=True)
        try:
            self.ingest = Ingest(self.database, lambda: self.config.limits, self.metrics, now_ms)
            await self.ingest.open()
            self.ingest.on_closed = self._closed_segment.set
            self.accounts = Accounts(self.database, self.ingest.writer.write, lambda: self.config.auth, now_ms)
            await self.accounts.open()
            self.first_start = await self.accounts.first_start()
            self.housekeeping = Housekeeping(self.database, self.ingest, lambda: self.config, now_ms)
            self._own_addresses = await asyncio.to_thread(own_addresses, self.config)
            await self.publish()
        except BaseException:
            await self.close()
            raise
        self._start_jobs()
        self._watch()
        self.ready = True

    def _start_jobs(self) -> None:
        jobs, house = self.jobs, self.housekeeping
        jobs.every("notice", 1, self.accounts.poll)
        jobs.every("access", 60, self.accounts.flush)
        jobs.every("seen", 300, lambda: self.ingest.writer.write(self.ingest.dictionaries.write_seen))
        jobs.every("roll", 60, house.roll)
        jobs.every("index", 300, house.index, first=0, wake=self._closed_segment)
        jobs.every("retention", 600, house.let_go, first=20)
        jobs.every("collect", 24 * 3600, house.collect, first=3600)
        jobs.every("publish", 5, self._publish_expired)
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

    def _wal_sizes(self) -> dict[str, float]:
        paths = {"main": self.database.path}
        paths |= {s.kind: s.path(s.hot.id) for s in self.ingest.streams.values() if s.hot}
        sizes = {}
        for name, path in paths.items():
            sizes[name] = 0.0
            with suppress(FileNotFoundError):
                sizes[name] = float(path.with_name(path.name + "-wal").stat().st_size)
        return sizes

    async def _measure(self) -> None:
        self._size = await self.housekeeping.size()

    async def close(self) -> None:
        """Commit what is queued and close everything; safe after a failed `open`."""
        self.ready = False
        await self.jobs.stop()
        if hasattr(self, "ingest"):
            if self.ingest.writer.running and hasattr(self, "accounts"):
                with suppress(Exception):
                    await self.accounts.flush(now=True)
                    await self.ingest.writer.write(self.ingest.dictionaries.write_seen)
            await self.ingest.close()
        await self.database.close()

    async def publish(self) -> None:
        """Render all rule documents anew and swap them in."""
        async with self.database.reader() as reader:
            members = await account_rows.member_addresses(reader, now_ms() - MEMBER_DAYS_MS)
        protected = {Network(address, len(address) * 8) for address in (*members, *self._own_addresses)}
        published = await asyncio.to_thread(rulebook.publish, self.rules, protected, now_ms())
        for held in published.held:
            logger.warning("a rule covers an address of this server or of a member and is held back: %s", held)
        self.published = published

    async def _publish_expired(self) -> None:
        expiry = self.published.next_expiry_ms
        if expiry is not None and expiry <= now_ms():
            await self.publish()

    async def saw_address(self, address: bytes) -> None:
        """A member came from an address for the first time in a while: no rule may list it."""
        if self.published.touches(address):
            await self.accounts.flush(now=True)
            await self.publish()

    async def reload(self, config: Config) -> list[str]:
        """Take over a configuration as far as that goes without a restart; the keys that need one."""
        rules = rulebook.compile_rules(config.rules, config.exceptions)
        stay = configuration.restart_needed(self.config, config)
        self.config, self.rules = config, rules
        self._own_addresses = await asyncio.to_thread(own_addresses, config)
        await self.publish()
        return stay

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
            "failing_jobs": dict(self.jobs.failed),
        }


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
