"""Lists of others: fetched or read, compared with what stands of them, and taken over or held back.

A list never vanishes by accident: what is empty, no list, cut off, much smaller or much larger than before changes
nothing, and says why, until an administrator accepts it. Where lists come from is said by the configuration's
[[imports]] and by what was added on a page, which the configuration wins over; a command names a source itself.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from sparkle_lite import fetching
from sparkle_lite.accounts.actors import Actor
from sparkle_lite.accounts.audit import Audit
from sparkle_lite.clock import elapsed_ms
from sparkle_lite.config import LONGEST_PULL_MS, WIDEST, Config, ImportEntry, ListURL
from sparkle_lite.db import accounts as settings_store
from sparkle_lite.db import imports as store
from sparkle_lite.db.connection import Connection
from sparkle_lite.db.database import Database, transacted
from sparkle_lite.db.imports import ImportRun as ImportRun
from sparkle_lite.db.imports import ImportState as ImportState
from sparkle_lite.errors import SparkleError
from sparkle_lite.fetching import Fetched, FetchLimits, Validators
from sparkle_lite.net import Network
from sparkle_lite.rules.decisions import Decisions
from sparkle_lite.rules.known_lists import credit_of
from sparkle_lite.rules.offers import NEIGHBOUR_MS, digest, packed, unpacked, way_of_reading
from sparkle_lite.rules.protected import Protected
from sparkle_lite.rules.takeover import Taken, Takeover, drop_support, nothing, take_over
from sparkle_lite.rules.takeover_worker import take_over_apart
from sparkle_lite.texts import ENGLISH, phrase
from sparkle_lite.units import DAY_MS, KIB, MIB, MINUTE_MS

Stage = Literal["waiting", "fetching", "comparing"]
By = Literal["file", "page", "hand"]
ListState = Literal["off", "paused", "running", "held", "failed", "on", "new"]

MAX_BYTES = 64 * MIB
# Lists that are fetched side by side, so that a slow server holds up few others.
_AT_ONCE = 4
# Bytes beyond which reading a list in this process would be felt; starting another takes a quarter of a second.
_LONG = 128 * KIB
# After so long a list is read anew, even where it says that nothing has changed: what it may list here may have.
_WHOLE_MS = DAY_MS
# A fetch that failed is tried again after a while, and each time after twice as long, but never later than usual.
_AGAIN_MS = 5 * MINUTE_MS
# Somebody waits for what is only tried on a page.
TRY = FetchLimits(total_s=60.0)
MOST_LISTS = 100
# The setting that holds what other nodes know this one by.
NODE = "node"
SCHEDULE = Actor(None, True, by="schedule")
logger = logging.getLogger("sparkle.imports")


@dataclass(slots=True)
class Progress:
    """How far a run is: its stage, and the bytes that came of how many (None: unknown)."""

    stage: Stage
    received: int = 0
    total: int | None = None


class ImportStatus(NamedTuple):
    """A list that there is: its settings, who says so, what stands of it, its last run, and what it is doing.

    `next_at` is when it will be asked for (ms), None where it isn't by itself.
    """

    entry: ImportEntry
    by: By
    state: ImportState
    last: ImportRun | None
    progress: Progress | None
    next_at: int | None

    @property
    def state_now(self) -> ListState:
        """How it is, in a word."""
        if not self.entry.enabled:
            return "off"
        if self.state.paused:
            return "paused"
        if self.progress is not None:
            return "running"
        if self.last is not None and self.last.outcome in ("held", "failed"):
            return "held" if self.last.outcome == "held" else "failed"
        return "on" if self.state.good_at is not None else "new"

    @property
    def shown_urls(self) -> str:
        """Where it comes from, for people."""
        return shown_urls(self.entry)

    @property
    def credit(self) -> str:
        """Whom it is owed to; empty where nobody said."""
        return credit_of(self.entry)


class Imported(NamedTuple):
    """How a run went, and what became of what it read, if anything."""

    run: ImportRun
    taken: Taken | None


class ImportOrder(NamedTuple):
    """One run: of which list, for whom, and how (see Takeover).

    `body` is what was read already. `seen` is the digest of what somebody looked at: nothing else is taken over then.
    """

    entry: ImportEntry
    actor: Actor
    accept: bool = False
    seen: str = ""
    by_hand: bool = False
    lifetime_ms: int | None = None
    body: bytes | None = None
    limits: FetchLimits = FetchLimits()


class Imports:
    """The lists of one server or one command."""

    def __init__(
        self,
        *,
        database: Database,
        decisions: Decisions,
        audit: Audit,
        config: Callable[[], Config],
        clock: Callable[[], int],
        protected: Protected | None = None,
    ) -> None:
        """`protected` is given by a server: it has long lists read in a process of their own."""
        self.database = database
        self._protected = protected
        self._decisions = decisions
        self._audit = audit
        self._config = config
        self._clock = clock
        self._taking = asyncio.Lock()
        self.running: dict[str, Progress] = {}
        # When each list was last read as a whole (ms), and how.
        self._whole: dict[str, tuple[int, bytes]] = {}
        self._failures: dict[str, int] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        """End what was begun by a button."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- Which there are ----------------------------------------------------------------------------------------------

    async def entries(self) -> dict[str, tuple[ImportEntry, By]]:
        """Every list by name, those of the configuration first."""
        async with self.database.reader() as reader:
            stored = await store.sources(reader)
        entries: dict[str, tuple[ImportEntry, By]] = {entry.name: (entry, "file") for entry in self._config().imports}
        for name, settings in stored.items():
            if name not in entries:
                entries[name] = _entry(settings), "page"
        return entries

    async def entry(self, name: str) -> ImportEntry:
        """The settings of one list. Raises SparkleError: not_found."""
        found = (await self.entries()).get(name)
        if found is None:
            raise SparkleError("not_found", "imports.none", name=name[:40])
        return found[0]

    async def all(self) -> list[ImportStatus]:
        """Every list with what stands of it."""
        entries = await self.entries()
        async with self.database.reader() as reader:
            states, last = await store.states(reader), await store.last_runs(reader)
        by_hand: dict[str, tuple[ImportEntry, By]] = {name: (ImportEntry(name=name), "hand") for name in states}
        return [
            ImportStatus(
                entry=entry,
                by=by,
                state=states.get(name, ImportState(name)),
                last=last.get(name),
                progress=self.running.get(name),
                next_at=None
                if by == "hand"
                else self._next_at(entry, states.get(name, ImportState(name)), last.get(name)),
            )
            for name, (entry, by) in {**by_hand, **entries}.items()
        ]

    async def count_troubled(self) -> int:
        """How many lists stay as they were because what came last was held back, or failed."""
        return sum(listed.state_now in ("held", "failed") for listed in await self.all())

    def _next_at(self, entry: ImportEntry, state: ImportState, last: ImportRun | None) -> int | None:
        if state.paused or not entry.enabled:
            return None
        if state.asked_at is None:
            return 0
        failures = self._failures.get(entry.name, int(last is not None and last.outcome == "failed"))
        again = _AGAIN_MS << min(failures - 1, 16) if failures else entry.interval
        return state.asked_at + min(again, entry.interval)

    async def runs(self, name: str) -> list[ImportRun]:
        """How the last runs of a list went, newest first."""
        async with self.database.reader() as reader:
            return await store.runs(reader, name)

    async def credits(self) -> dict[str, str]:
        """Whom the entries of a list are owed to, by the origin of their decisions."""
        entries = await self.entries()
        return {f"import:{name}": credit for name, (entry, _) in entries.items() if (credit := credit_of(entry))}

    async def supporters(self, network: Network) -> list[str]:
        """The lists that only support, and have an address or the whole of a network on them."""
        async with self.database.reader() as reader:
            return await store.supporters(reader, network)

    @transacted
    async def add(self, connection: Connection, entry: ImportEntry, actor: Actor) -> None:
        """Add a list as a page can: fetched by URL, from where the configuration allows it, without a secret.

        Raises SparkleError: bad_request, conflict where there is one of this name, quota, forbidden.
        """
        actor.require_admin()
        if entry.file or entry.allow_private or entry.app_secret or not entry.url:
            raise SparkleError("bad_request", "imports.file_only")
        if entry.format == "sparkle" and entry.interval > LONGEST_PULL_MS:
            raise SparkleError("bad_request", "imports.too_seldom")
        if any(map(holds_secret, entry.url)):
            raise SparkleError("bad_request", "imports.secret_in_url")
        if any(entry.name == configured.name for configured in self._config().imports):
            raise SparkleError("conflict", "imports.configured", name=entry.name)
        if len(await store.sources(connection)) >= MOST_LISTS:
            raise SparkleError("quota", "imports.too_many", most=MOST_LISTS)
        if not await store.add_source(connection, entry.name, _settings(entry), self._clock()):
            raise SparkleError("conflict", "imports.there", name=entry.name)
        await self._audit.record(connection, actor, "IMPORT_ADD", list=entry.name, url=shown_urls(entry))

    async def remove(self, name: str, actor: Actor) -> None:
        """Take a list away that the configuration doesn't name, and all that it listed.

        Raises SparkleError: not_found, conflict where the configuration has it, forbidden.
        """
        actor.require_admin()
        listed = next((one for one in await self.all() if one.entry.name == name), None)
        if listed is None:
            raise SparkleError("not_found", "imports.none", name=name[:40])
        if listed.by == "file":
            raise SparkleError("conflict", "imports.configured", name=name)
        async with self._taking:
            await self._forget_source(name, actor)
            await self._end(name, actor)

    @transacted
    async def _forget_source(self, connection: Connection, name: str, actor: Actor) -> None:
        await store.delete_source(connection, name)
        await self._audit.record(connection, actor, "IMPORT_REMOVE", list=name)

    async def pause(self, name: str, actor: Actor, *, paused: bool) -> None:
        """Fetch a list by itself no longer, or again; what stands of it stays. Raises SparkleError as `entry`."""
        actor.require_admin()
        await self.entry(name)
        await self._set_paused(name, actor, paused=paused)

    @transacted
    async def _set_paused(self, connection: Connection, name: str, actor: Actor, *, paused: bool) -> None:
        await store.set_paused(connection, name, paused)
        await self._audit.record(connection, actor, "IMPORT_PAUSE" if paused else "IMPORT_RESUME", list=name)

    # --- Running ------------------------------------------------------------------------------------------------------

    async def run_due(self) -> None:
        """Run every list whose time has come, one after the other; and end what lists that are gone had listed."""
        await self._end_what_is_gone()
        now = self._clock()
        slots = asyncio.Semaphore(_AT_ONCE)

        async def run(entry: ImportEntry) -> None:
            async with slots:
                await self.run(ImportOrder(entry, SCHEDULE))

        due = [
            listed.entry
            for listed in await self.all()
            if listed.next_at is not None and listed.next_at <= now and listed.progress is None
        ]
        await asyncio.gather(*map(run, due))

    def begin(self, order: ImportOrder) -> None:
        """Run a list in the background, unless it runs already; `all` and `runs` tell how it goes.

        Raises SparkleError: forbidden, conflict where it is off.
        """
        self._require_runnable(order)
        if order.entry.name in self.running:
            return
        task = asyncio.create_task(self.run(order), name=f"import {order.entry.name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("%s could not be noted: %s", task.get_name(), error)

    def _require_runnable(self, order: ImportOrder) -> None:
        order.actor.require_admin()
        if not order.entry.enabled:
            raise SparkleError("conflict", "imports.off", name=order.entry.name)

    async def run(self, order: ImportOrder) -> Imported:
        """Run a list and note how it went: one that is held back or fails is no error here."""
        self._require_runnable(order)
        name = order.entry.name
        with self._shown_as_running(name) as progress:
            done = await self._run(order, progress)
        self._failures[name] = self._failures.get(name, 0) + 1 if done.run.outcome == "failed" else 0
        if done.run.outcome in ("held", "failed") and done.run.why is not None:
            logger.warning("the list %s stays as it was: %s", name, unpacked(done.run.why).text(ENGLISH))
        return done

    @contextmanager
    def _shown_as_running(self, name: str) -> Iterator[Progress]:
        progress = self.running.setdefault(name, Progress("waiting"))
        try:
            yield progress
        finally:
            self.running.pop(name, None)

    async def _run(self, order: ImportOrder, progress: Progress) -> Imported:
        started, began = elapsed_ms(), self._clock()
        name = order.entry.name
        async with self.database.reader() as reader:
            state = await store.state(reader, name)
        run = ImportRun(name=name, at=began, took=0, outcome="unchanged", why=None, numbers={})
        asked, taken = state._replace(asked_at=began), None
        new = asked._replace(good_at=began)
        try:
            read = await self._read(order, state, progress)
            if read is not None:
                async with self._taking:
                    await self._require_there(order)
                    taken = await self._take(order, read, state)
                run, new = self._judged(run, taken, read, asked, order)
        except SparkleError as error:
            run, new = run._replace(outcome="failed", why=packed(error.said)), asked
        except Exception:
            logger.exception("the list %s could not be taken over", name)
            run, new = run._replace(outcome="failed", why=packed(phrase("imports.why.fault"))), asked
        run = run._replace(took=elapsed_ms() - started)
        await self._note(run, new, order)
        return Imported(run, taken)

    def _judged(
        self, run: ImportRun, taken: Taken, read: "_ReadList", asked: ImportState, order: ImportOrder
    ) -> tuple[ImportRun, ImportState]:
        """How a run went, and what stands of its list."""
        run = run._replace(numbers={**taken.numbers, "digest": read.digest.hex()})
        if taken.failed is not None:
            return run._replace(outcome="failed", why=packed(taken.failed)), asked
        if taken.held is not None:
            return run._replace(outcome="held", why=packed(taken.held)), asked
        self._whole[run.name] = run.at, way_of_reading(order.entry)
        state = asked._replace(
            good_at=run.at,
            by_hand=int(order.by_hand),
            url_hash=_hash(read.fetched.url),
            etag=read.fetched.validators.etag,
            last_modified=read.fetched.validators.last_modified,
            digest=read.digest,
            entries=taken.entries,
        )
        return run._replace(outcome="taken" if taken.changed else "unchanged"), state

    async def preview(self, order: ImportOrder) -> Taken:
        """What a list would change if it were taken over now; changes nothing. Raises SparkleError."""
        order.actor.require_admin()
        async with self.database.reader() as reader:
            state = await store.state(reader, order.entry.name)
        with self._shown_as_running(order.entry.name) as progress:
            read = await self._read(order._replace(accept=True), ImportState(order.entry.name), progress)
            assert read is not None
            async with self._taking:
                taken = await self._take(order, read, state, dry=True)
        if taken.failed is not None:
            raise SparkleError("bad_request", taken.failed.key, **taken.failed.values)
        return taken._replace(numbers={**taken.numbers, "digest": read.digest.hex()})

    # --- Reading ------------------------------------------------------------------------------------------------------

    async def _read(self, order: ImportOrder, state: ImportState, progress: Progress) -> "_ReadList | None":
        """What a list says now; None where it says that it hasn't changed. Raises SparkleError."""
        entry, now = order.entry, self._clock()
        at, how = self._whole.get(entry.name, (0, b""))
        is_whole = order.accept or order.by_hand or now - at > _WHOLE_MS or how != way_of_reading(entry)
        known = ImportState(entry.name) if is_whole else state
        progress.stage = "fetching"
        fetched = await self._fetch(order, known, progress)
        if fetched.body is None:
            return None
        progress.stage = "comparing"
        hashed = await asyncio.to_thread(digest, fetched.body, entry)
        return None if hashed == known.digest else _ReadList(fetched, fetched.body, hashed)

    async def _fetch(self, order: ImportOrder, known: ImportState, progress: Progress) -> Fetched:
        entry = order.entry
        if order.body is not None or entry.file:
            body = await asyncio.to_thread(_file, entry.path) if order.body is None else order.body
            return Fetched(url="", final_url="", body=body, validators=Validators(), media_type="")

        def note(received: int, total: int | None) -> None:
            progress.received, progress.total = received, total

        headers = {"X-BTN-AppID": entry.app_id, "X-BTN-AppSecret": str(entry.app_secret)} if entry.app_id else {}
        refusals: list[SparkleError] = []
        for url in entry.url:
            validators = Validators(known.etag, known.last_modified) if _hash(url) == known.url_hash else Validators()
            try:
                return await fetching.fetch(
                    str(url),
                    validators=validators,
                    allow_private=entry.allow_private or self._is_allowed,
                    headers=headers,
                    limits=order.limits,
                    progress=note,
                )
            except SparkleError as error:
                refusals.append(error)
        raise refusals[0]

    def _is_allowed(self, url: str) -> bool:
        """Whether the configuration lets another list come from the same private place."""
        allowed = (each for entry in self._config().imports if entry.allow_private for each in entry.url)
        return ListURL(url).origin in (each.origin for each in allowed)

    async def _require_there(self, order: ImportOrder) -> None:
        """Nothing is taken over of what was removed or switched off while it came. Raises SparkleError."""
        if order.by_hand:
            return
        entry, _ = (await self.entries()).get(order.entry.name, (None, None))
        if entry is None or not entry.enabled:
            raise SparkleError("not_found", "imports.none", name=order.entry.name)

    async def _take(self, order: ImportOrder, read: "_ReadList", state: ImportState, *, dry: bool = False) -> Taken:
        """Make what was read what stands of a list. Raises SparkleError."""
        async with self.database.reader() as reader:
            node = str(await settings_store.setting(reader, NODE) or "")
        takeover = Takeover(
            entry=order.entry,
            body=read.body,
            actor=order.actor,
            now_ms=self._clock(),
            node=node,
            seen_else=order.seen not in ("", read.digest.hex()),
            before=None if state.good_at is None else state.entries,
            accept=order.accept,
            by_hand=order.by_hand,
            dry=dry,
            lifetime_ms=order.lifetime_ms,
        )
        if self._protected is not None and len(read.body) > _LONG:
            return await take_over_apart(takeover, self.database, self._protected)
        return await take_over(takeover, self.database, self._decisions)

    @transacted
    async def _note(self, connection: Connection, run: ImportRun, state: ImportState, order: ImportOrder) -> None:
        """Keep what stands of a list and how the run went; that nothing has changed is no news.

        Of what a command names, nothing is kept before it was good once.
        """
        if order.by_hand and state.good_at is None:
            return
        await store.set_state(connection, state)
        last = await store.last_run(connection, run.name)
        was_well = last is not None and last.outcome in ("taken", "unchanged")
        if run.outcome != "unchanged" or not was_well or order.actor != SCHEDULE:
            await store.add_run(connection, run)
        if run.outcome == "taken":
            counts = {key: run.numbers.get(key, 0) for key in ("entries", "added", "removed")}
            await self._audit.record(connection, order.actor, "RULE_IMPORT", list=run.name, **counts)

    # --- Lists that are gone ------------------------------------------------------------------------------------------

    async def _end_what_is_gone(self) -> None:
        """End what lists had listed that are switched off, that nobody names any more, or that weren't heard of."""
        entries = await self.entries()
        on = {name for name, (entry, _) in entries.items() if entry.enabled}
        async with self.database.reader() as reader:
            standing, states = await store.standing_names(reader, self._clock()), await store.states(reader)
        for name in sorted(standing - on):
            async with self._taking:
                await self._end(name, SCHEDULE)
            logger.info("what the list %s had listed is ended, because it is switched off or gone", name)
        for name in sorted(standing & on):
            # What a neighbour listed expires by itself.
            good_at = states[name].good_at or 0
            if entries[name][0].format == "sparkle" and good_at + NEIGHBOUR_MS < self._clock():
                await drop_support(self.database, name)

    async def _end(self, name: str, actor: Actor) -> None:
        """End all that a list listed, and forget what stood of it."""
        await self._decisions.replace_list(nothing(name), actor)
        await drop_support(self.database, name)
        await self._forget(name)

    @transacted
    async def _forget(self, connection: Connection, name: str) -> None:
        await store.delete_state(connection, name)


class _ReadList(NamedTuple):
    """A list that was read: what came, its body, and what that is known by."""

    fetched: Fetched
    body: bytes
    digest: bytes


def _hash(url: str) -> bytes:
    return sha256(url.encode()).digest()


def _file(path: Path) -> bytes:
    """A file of the operator's, bounded. Raises SparkleError."""
    try:
        with path.open("rb") as file:
            body = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SparkleError("not_found", "imports.why.no_file", file=path.name, why=error.strerror or "") from None
    if len(body) > MAX_BYTES:
        raise SparkleError("too_large", "imports.why.too_large", most=MAX_BYTES // MIB)
    return body


_SECRET = re.compile(r"key|token|pass|pin$|secret|auth|sig|code|credential", re.IGNORECASE)
# What a page can say of a list.
_ON_PAGES = ("name", "url", "interval", "format", "category", "widest", "weight", "trust", "credit")


def _settings(entry: ImportEntry) -> dict[str, Any]:
    """What is kept of a list that was added on a page, as JSON."""
    return {name: getattr(entry, name) for name in _ON_PAGES}


def _entry(settings: Mapping[str, Any]) -> ImportEntry:
    """A list that was kept so; what an earlier version knew and this one doesn't is passed over."""
    known = {name: value for name, value in settings.items() if name in _ON_PAGES}
    known["url"] = tuple(map(ListURL, known["url"]))
    known["widest"] = tuple(known.get("widest", WIDEST))
    return ImportEntry(**known)


def holds_secret(url: str) -> bool:
    """Whether a URL asks with what looks like a secret: what a page is told is kept in clear text."""
    return any(_SECRET.search(name) for name, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True))


def shown_urls(entry: ImportEntry) -> str:
    """Where a list comes from, for people: without what its URLs ask for."""
    return entry.file or ", ".join(ListURL(url).shown for url in entry.url)
