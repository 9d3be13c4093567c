"""One running server without its HTTP: the parts, and the order in which they come up and go down."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sparkle_lite import config as configuration
from sparkle_lite.accounts.actors import Actor
from sparkle_lite.accounts.apps import Apps
from sparkle_lite.accounts.audit import Audit
from sparkle_lite.accounts.parts import Accounts, FirstStart
from sparkle_lite.accounts.proof_of_work import ProofOfWork
from sparkle_lite.accounts.registry import ANONYMOUS, Registry
from sparkle_lite.accounts.sessions import Sessions
from sparkle_lite.accounts.users import Users
from sparkle_lite.analyses.distances import Distances
from sparkle_lite.analyses.evidence_table import is_evidence
from sparkle_lite.analyses.runs import Runs
from sparkle_lite.backups import Backups
from sparkle_lite.clock import Clock, elapsed_ms, now_ms
from sparkle_lite.config import Config
from sparkle_lite.db.database import AnnouncingDatabase, Database
from sparkle_lite.db.disk import Disk
from sparkle_lite.db.faults import FaultKind, FileFault
from sparkle_lite.db.overview import Overview
from sparkle_lite.db.search import Search
from sparkle_lite.errors import SparkleError
from sparkle_lite.ingest.ingest import Ingest
from sparkle_lite.ingest.trouble import Troubles
from sparkle_lite.jobs import Housekeeping, Jobs
from sparkle_lite.metrics import Metrics
from sparkle_lite.rules import operator
from sparkle_lite.rules.decisions import Decisions
from sparkle_lite.rules.imports import Imports
from sparkle_lite.rules.operator import Rules
from sparkle_lite.rules.protected import Protected
from sparkle_lite.rules.publisher import Publisher, Renderer
from sparkle_lite.rules.reviews import Reviews
from sparkle_lite.settings import Settings
from sparkle_lite.texts import ENGLISH
from sparkle_lite.timekeeping import Timekeeping
from sparkle_lite.units import DAY_S, HOUR_S

# How often to look for changes of another process.
_NOTICE_S = 0.25
_STATES = ("active", "held", "shadow")
# How often to look at the files and the disk (s), and to read all files as a whole.
_FILES_S, _DISK_S, _WHOLE_S = 2.0, 5.0, 7.0 * DAY_S
# How often to look whether a list is to be fetched, and whether it is time for a backup (s).
_IMPORTS_S, _BACKUPS_S = 15.0, 60.0
# With these faults what is stored can still be served; and how long a start that failed isn't tried again (s).
_UNWRITABLE: frozenset[FaultKind] = frozenset({"room", "read_only", "rights", "disk"})
_AGAIN_S = 30.0
logger = logging.getLogger("sparkle.server")


@dataclass(kw_only=True, slots=True)
class Server:
    """The parts of one server that is up; everything in it is on one event loop.

    `analyse_soon` is set to have the analyses run now, `check_files` to have all files read as a whole. `first_start`
    is what a first start has to tell its operator, once; `accounts` want to know when it does. `unwritable` is why it
    only reads. `restart` is set when it should go down and come up again: one that only read can write now, or the main
    database is another file. `reread` reads the configuration's file again, where there is somebody who knows it, and
    gives the keys that need a restart.
    """

    timekeeping: Timekeeping
    settings: Settings
    database: Database
    metrics: Metrics
    jobs: Jobs
    ingest: Ingest
    troubles: Troubles
    search: Search
    overview: Overview
    audit: Audit
    registry: Registry
    users: Users
    apps: Apps
    sessions: Sessions
    reviews: Reviews
    protected: Protected
    decisions: Decisions
    publisher: Publisher
    imports: Imports
    distances: Distances
    analyses: Runs
    housekeeping: Housekeeping
    backups: Backups
    proof_of_work: ProofOfWork
    disk: Disk
    analyse_soon: asyncio.Event
    first_start: FirstStart | None
    accounts: Accounts
    unwritable: FileFault | None = None
    check_files: asyncio.Event = field(default_factory=asyncio.Event)
    restart: asyncio.Event = field(default_factory=asyncio.Event)
    reread: Callable[[], Awaitable[list[str]]] | None = None

    @property
    def config(self) -> Config:
        """The configuration in effect."""
        return self.settings.config

    async def change_settings(self, changes: Mapping[str, Any], actor: Actor) -> None:
        """Change what a page may change. Raises SparkleError as Settings.change does."""
        await self.settings.change(changes, actor)
        self.distances.forget()
        await self.look_at_accounts()

    async def reload(self, config: Config, given: Mapping[str, str]) -> list[str]:
        """Take over a configuration as far as that goes without a restart; the keys that need one."""
        rules = operator.compile_rules(config.rules, config.exceptions)
        stay = configuration.restart_needed(self.settings.written, config)
        self.settings.rewrite(config, given)
        self.publisher.rewrite(rules)
        await self.protected.look_up(config)
        await self.decisions.sync(rules)
        await self.publisher.publish_changes()
        await self.look_at_accounts()
        return stay

    async def look_at_accounts(self) -> None:
        """Find out whose addresses have earned protection by now, and publish what follows from it."""
        if await self.protected.look_at_accounts(self.database, self.config.analysis, self.timekeeping.clock.settled()):
            self.registry.earned = self.protected.earned
            await self.publisher.publish_changes()

    async def health(self) -> None:
        """Raises when the database does not answer."""
        async with asyncio.timeout(3):
            await self.database.read("SELECT 1")

    def readiness(self) -> dict[str, object]:
        """What /readyz says: whether each part is up, and what is wrong. `disk.probe` looks anew before."""
        writes = self.database.is_writing and self.disk.failure is None and not self.database.is_doubted
        is_published = self.publisher.failure is None
        return {
            "ready": writes and is_published,
            "writer": writes,
            "writer_failure": self.disk.failure,
            "rules_published": is_published,
            "rules_held": len(self.publisher.published.held),
            "rules_failure": self.publisher.failure,
            "rules_waiting_for_review": sum(n for (_, state), n in self.publisher.counts.items() if state == "held"),
            "clock": self.timekeeping.said.text(ENGLISH),
            "set_aside": [entry.name for entry in self.ingest.keeper.entries],
            "failing_jobs": dict(self.jobs.failed),
        }


@asynccontextmanager
async def running(config: Config, given: Mapping[str, str] | None = None) -> AsyncIterator[Server]:
    """A server, for as long as the block lasts: migrated, with its rules published and its jobs running.

    `given` are the dotted keys that a file or variable sets (with its name), which no page can. What is queued at the
    end is committed. Where nothing can be written, it serves what is stored, and says so. Raises SparkleError when the
    database can't be used.
    """
    async with AsyncExitStack() as stack:
        server = await _started(config, given or {}, stack)
        stack.push_async_callback(server.jobs.stop)
        if server.database.is_still:
            _schedule_still(server)
        else:
            _schedule(server)
        _watch(server)
        yield server


async def _started(config: Config, given: Mapping[str, str], stack: AsyncExitStack) -> Server:
    """A server that writes, or else one that only reads."""
    try:
        return await _attempt(config, given, stack, still=False)
    except FileFault as error:
        fault = error
    if fault.kind not in _UNWRITABLE or not await asyncio.to_thread(_is_there, config.database.file):
        raise fault
    try:
        server = await _attempt(config, given, stack, still=True)
    except SparkleError as error:
        logger.debug("what is stored can't be served either: %s", error)
        raise fault from error
    logger.error("nothing can be written, so what is stored is served and submissions are refused: %s", fault)
    server.unwritable, server.disk.failure = fault, fault.reason
    return server


async def _attempt(config: Config, given: Mapping[str, str], stack: AsyncExitStack, *, still: bool) -> Server:
    """One start, of which nothing is left where it fails."""
    async with AsyncExitStack() as parts:
        server = await _start(config, given, parts, still=still)
        stack.push_async_exit(parts.pop_all())
        return server


def _is_there(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


async def _start(written: Config, given: Mapping[str, str], stack: AsyncExitStack, *, still: bool) -> Server:
    """Make the parts one after the other; the stack closes them the other way round."""
    metrics = Metrics()
    rules = operator.compile_rules(written.rules, written.exceptions)
    database = Database(written.database.file, written.database.synchronous, still=still)
    await database.open(serve=True)
    stack.push_async_callback(database.close)
    timekeeping = Timekeeping(database, Clock(now_ms, elapsed_ms))
    await timekeeping.open()
    clock = timekeeping.clock
    audit = Audit(database, clock.settled)
    settings = await _loaded(Settings(database, audit, written, given))
    ingest = Ingest(
        database, lambda: settings.config.limits, metrics, clock.stamp, settled=clock.settled, is_evidence=is_evidence
    )
    stack.push_async_callback(ingest.close)
    await ingest.open()
    troubles = await _loaded(Troubles(database, clock.settled))
    search = Search(database, ingest.streams, ingest.keeper)
    stack.push_async_callback(search.close)
    overview = Overview(database, ingest.streams, clock.settled, ingest.keeper, nobody=ANONYMOUS)
    stack.push_async_callback(overview.close)
    accounts = Accounts.on(database, audit, lambda: settings.config.auth, clock.settled, stamp=clock.stamp)
    await accounts.registry.open()
    first_start = None if still else await _first_start(accounts)
    seen = partial(database.write, ingest.dictionaries.write_seen)
    waits = (partial(accounts.registry.flush, now=True), troubles.flush, seen, timekeeping.note)
    stack.push_async_callback(_write_what_waits, database, waits)
    protected = await _who_is_protected(database, settings.config, clock.settled())
    accounts.registry.earned = protected.earned
    distances = Distances(database, lambda: settings.config.analysis, clock.settled)
    stack.push_async_callback(distances.close)
    announcing = AnnouncingDatabase(database)
    decisions = Decisions(announcing, audit, clock.settled, protected)
    await _write_configured(decisions, rules, still=still)
    imports = _imports(decisions, settings, clock=clock, protected=protected)
    renderer = Renderer(
        database=database,
        registry=accounts.registry,
        decisions=decisions,
        protected=protected,
        config=lambda: settings.config,
        clock=clock.settled,
        credits=imports.credits,
    )
    stack.push_async_callback(renderer.close)
    stack.push_async_callback(imports.close)
    publisher = Publisher(renderer, rules, await renderer.render(rules))
    announcing.on_commit = publisher.publish_changes
    housekeeping = Housekeeping(database, ingest, lambda: settings.config, timekeeping)
    return Server(
        timekeeping=timekeeping,
        settings=settings,
        database=database,
        metrics=metrics,
        jobs=Jobs(metrics),
        ingest=ingest,
        troubles=troubles,
        search=search,
        overview=overview,
        audit=audit,
        registry=accounts.registry,
        users=accounts.users,
        apps=accounts.apps,
        sessions=accounts.sessions,
        reviews=Reviews(database, audit, clock.settled),
        protected=protected,
        decisions=decisions,
        publisher=publisher,
        imports=imports,
        distances=distances,
        analyses=Runs(database, decisions, lambda: settings.config.analysis, clock.settled),
        housekeeping=housekeeping,
        backups=_backups(stack, audit, settings, housekeeping, clock),
        proof_of_work=ProofOfWork(clock.settled),
        disk=Disk(database, ingest.streams),
        analyse_soon=asyncio.Event(),
        first_start=first_start,
        accounts=accounts,
    )


class _Loads(Protocol):
    """A part that reads what it has stored before it is used."""

    async def load(self) -> None: ...


Part = TypeVar("Part", bound=_Loads)


async def _loaded(part: Part) -> Part:
    await part.load()
    return part


def _backups(
    stack: AsyncExitStack, audit: Audit, settings: Settings, housekeeping: Housekeeping, clock: Clock
) -> Backups:
    """The backups of the audit's database."""
    backups = Backups(audit, lambda: settings.config, clock, lambda: housekeeping.measured)
    stack.push_async_callback(backups.close)
    return backups


def _imports(decisions: Decisions, settings: Settings, *, clock: Clock, protected: Protected) -> Imports:
    """The lists of others, on the same database as the settings."""
    return Imports(
        database=settings.database,
        decisions=decisions,
        audit=Audit(settings.database, clock.settled),
        config=lambda: settings.config,
        clock=clock.settled,
        protected=protected,
    )


async def _write_configured(decisions: Decisions, rules: Rules, *, still: bool) -> None:
    """Make the configuration's rules decisions; where nothing can be written, what stands is served."""
    try:
        await decisions.sync(rules)
    except SparkleError:
        if not still:
            raise


async def _first_start(accounts: Accounts) -> FirstStart | None:
    """What a first start has to tell, with all of it in the main file: what is only in the log is lost with that."""
    first_start = await accounts.first_start()
    if first_start is not None:
        await accounts.database.merge_log()
    return first_start


async def _who_is_protected(database: Database, config: Config, now_ms: int) -> Protected:
    """What the rules must spare, as far as it can be told now."""
    protected = Protected(set())
    await protected.look_up(config)
    try:
        await protected.look_at_accounts(database, config.analysis, now_ms)
    except SparkleError as error:
        # A file that can't be read must not keep the server from serving; the job "protection" tries again.
        logger.error("who has earned protection by now is not known yet: %s", error)
    return protected


async def _write_what_waits(database: Database, waits: Iterable[Callable[[], Awaitable[object]]]) -> None:
    """Who was here, and what was wrong with what they sent, is kept over a restart, if it can be."""
    if database.is_writing:
        with suppress(Exception):
            for write in waits:
                await write()


def _schedule(server: Server) -> None:
    """Begin with the periodic jobs."""
    jobs, house, database = server.jobs, server.housekeeping, server.database
    closed_segment = asyncio.Event()
    server.ingest.on_closed = closed_segment.set

    async def tidy() -> None:
        await server.search.tidy()
        await server.overview.tidy()

    async def analyse() -> None:
        try:
            await server.analyses.run_all()
        except Exception:
            # It may have come by a file that can't be read; whoever reads them all finds out which.
            server.check_files.set()
            raise

    jobs.schedule("files", _FILES_S, partial(_look_at_files, server), first=0)
    jobs.schedule("check_files", _WHOLE_S, server.ingest.keeper.check_all, first=10, wake=server.check_files)
    jobs.schedule("disk", _DISK_S, partial(server.disk.probe, by_commit=False))
    jobs.schedule("notice", _NOTICE_S, server.registry.poll)
    jobs.schedule("clock", _NOTICE_S, server.timekeeping.watch)
    jobs.schedule("access", 60, server.registry.flush)
    jobs.schedule("trouble", 1, server.troubles.flush)
    jobs.schedule("seen", 300, lambda: database.write(server.ingest.dictionaries.write_seen))
    jobs.schedule("roll", 60, house.roll)
    jobs.schedule("index", 300, house.index, first=0, wake=closed_segment)
    jobs.schedule("retention", 600, house.apply_retention, first=20, wake=server.timekeeping.settled)
    jobs.schedule("tidy", 60, tidy)
    jobs.schedule("activity", 600, server.overview.record, first=5)
    jobs.schedule("collect", DAY_S, house.collect, first=HOUR_S)
    jobs.schedule("publish", _NOTICE_S, server.publisher.publish_due)
    jobs.schedule("analyse", HOUR_S, analyse, first=300, wake=server.analyse_soon)
    jobs.schedule("imports", _IMPORTS_S, server.imports.run_due, first=5)
    jobs.schedule("protection", HOUR_S, server.look_at_accounts, first=60)
    jobs.schedule("history", DAY_S, server.decisions.forget_oldest, first=2 * HOUR_S)
    jobs.schedule("backup", _BACKUPS_S, server.backups.run_due, first=10)
    jobs.schedule("size", 60, house.measure, first=0)


async def _look_at_files(server: Server) -> None:
    """See that all files are there. A main file that was taken away is saved, and the server comes up on it again."""
    database = server.database
    if database.lost is not None:
        return
    try:
        await asyncio.to_thread(database.verify)
    except FileFault as error:
        fault = error
    else:
        await server.ingest.keeper.look()
        return
    logger.error("nothing more is written: %s", fault)
    saved = await database.write(lambda main: database.save(main, fault), alone=True)
    if saved is not None:
        logger.error("what the main database held is saved as %s", saved)
        server.restart.set()


def _schedule_still(server: Server) -> None:
    """The jobs of a server that only reads: publish what expires, and see when something can be written again."""
    failed_at = asyncio.get_running_loop().time()

    async def resume() -> None:
        fault = server.unwritable
        patience = _AGAIN_S if fault is not None and fault.kind in ("disk", "rights") else 0
        if asyncio.get_running_loop().time() - failed_at >= patience and await server.disk.can_start():
            logger.info("there is room again, so the server begins to write")
            server.restart.set()

    server.jobs.schedule("notice", _NOTICE_S, server.registry.poll)
    server.jobs.schedule("publish", _NOTICE_S, server.publisher.publish_due)
    server.jobs.schedule("resume", 2, resume)


def _watch(server: Server) -> None:
    """Have the metrics look at what is true when they are asked."""
    metrics, publisher = server.metrics, server.publisher
    metrics.watch(
        "sparkle_queue_submissions", "Submissions that wait for their group.", lambda: server.database.writer.waiting
    )
    metrics.watch("sparkle_queue_bytes", "Bytes of bodies being read or waiting.", lambda: server.ingest.memory.used)
    metrics.watch(
        "sparkle_database_bytes", "Bytes of the main database and all segments.", lambda: server.housekeeping.measured
    )
    metrics.watch_by("sparkle_wal_bytes", "Bytes of the write-ahead logs.", "file", server.housekeeping.wal_sizes)
    metrics.watch(
        "sparkle_rules_held",
        "Rule entries held back to protect an address.",
        lambda: len(publisher.published.held),
    )
    metrics.watch(
        "sparkle_rules_stale",
        "1 while the newest rules can't be published and the last good ones are served.",
        lambda: float(publisher.failure is not None),
    )
    metrics.watch_by(
        "sparkle_rules_decided",
        "Listings by their state: active, held for review, or shadow.",
        "state",
        lambda: {state: float(sum(n for (_, s), n in publisher.counts.items() if s == state)) for state in _STATES},
    )
