"""A small world to analyse: people, their applications, and what these report of peers, written straight to the store.

Instants are ms before NOW (`ago`), so that a test says when something happened without a clock.
"""

import hashlib
import itertools
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from sparkle_lite import net
from sparkle_lite.accounts.audit import Audit
from sparkle_lite.analyses import worker
from sparkle_lite.analyses.distances import measure
from sparkle_lite.analyses.parameters import trust
from sparkle_lite.analyses.registry import SCHEMA
from sparkle_lite.config import AnalysisSection
from sparkle_lite.db import segments, words
from sparkle_lite.db.bans import BAN_COLUMNS, Report, add_bans
from sparkle_lite.db.connection import Connection
from sparkle_lite.db.database import Database
from sparkle_lite.db.evidence.words import Standing
from sparkle_lite.db.keys import stable_number
from sparkle_lite.rules.decisions import Decisions
from sparkle_lite.rules.findings import Finding
from sparkle_lite.rules.plan import Plan
from sparkle_lite.rules.protected import Protected

NOW = 1_800_000_000_000
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
GIB = 1 << 30
CHEAT = "com.ghostchu.peerbanhelper.module.impl.rule.ProgressCheatBlocker"
DIALING = "com.ghostchu.peerbanhelper.module.impl.rule.MultiDialingBlocker"
# qBittorrent-ClientBlocker's check of progress that users are told to switch on.
BLOCKER = "com.SimpleTracker.qBCB.CheckAllTorrent"
RELATIVE = "Bad-Relative_Progress_Uploaded"


def settings_of(preset: str, **tables: Any) -> AnalysisSection:
    """The section of the configuration with a preset, and keys of some analyses that are set by hand."""
    usual = SCHEMA().analysis
    by_hand = {name: msgspec.structs.replace(getattr(usual, name), **keys) for name, keys in tables.items()}
    return msgspec.structs.replace(usual, preset=preset, **by_hand)


class World:
    """One database with one hot segment of each kind; `close_segments` begins new ones and indexes the old."""

    def __init__(self, folder: Path) -> None:
        self.database = Database(folder / "sparkle.db")
        self.main: sqlite3.Connection
        self._numbers = itertools.count(1)
        self._hot: dict[str, sqlite3.Connection] = {}

    async def open(self) -> None:
        """Make the database and its segments; `close` ends what was opened."""
        await self.database.open()
        for stream in self.database.streams().values():
            await stream.open(self.database.main, NOW)
            assert stream.hot is not None
            path = stream.path(stream.hot.id)
            await stream.close()
            self._hot[stream.kind] = sqlite3.connect(path, isolation_level=None)
        await self.database.close()
        self.main = sqlite3.connect(self.database.path, isolation_level=None)

    async def store(self, reports: Sequence[Report]) -> None:
        """What ingestion does with reports of bans, one by one."""

        async def command(main: Connection) -> None:
            for report in reports:
                await add_bans(main, [report], [])

        await self.database.open()
        await self.database.write(command)
        await self.database.close()

    def close(self) -> None:
        for connection in (self.main, *self._hot.values()):
            connection.close()

    async def close_segments(self) -> None:
        """What was written so far becomes closed and indexed segments."""
        await self.database.open()
        for stream in self.database.streams().values():
            self._hot[stream.kind].close()
            await stream.open(self.database.main, NOW)
            await stream.roll(self.database.main, NOW)
            assert stream.hot is not None
            self._hot[stream.kind] = sqlite3.connect(stream.path(stream.hot.id), isolation_level=None)
            for closed in await segments.catalogue(self.database.main, "state='closed'"):
                await segments.build_indexes(self.database.segment_folder, closed, "normal")
                await segments.mark_indexed(self.database.main, closed.id, 1)
            await stream.close()
        await self.database.close()

    # --- People ---

    def person(
        self, name: str, *, by: str = "admin", age: int = 100 * DAY, active_days: int = 0, vouched: bool | None = None
    ) -> int:
        """A user; the days on which a self-registered one sent something, before today.

        Whom an administrator made is `vouched` for, unless it is said otherwise.
        """
        user = next(self._numbers)
        self.main.execute(
            "INSERT INTO user (id, name, name_key, role, registered_by, registered_at, vouched_at)"
            " VALUES (?,?,?,'user',?,?,?)",
            (user, name, name, by, NOW - age, (NOW if by == "admin" else None) if vouched is None else vouched or None),
        )
        if active_days:
            app = self.app(user)
            for day in range(active_days):
                self._submission(self.main, app, NOW - day * DAY, None)
        return user

    def word(self, user: int, value: float, voice: int | None = None) -> None:
        """What somebody's word (0..1) was measured to be, and who speaks for them."""
        self.main.execute(
            "INSERT INTO word (user, value, agreed, disagreed, voice, addresses) VALUES (?,?,0,0,?,'{}')",
            (user, value, user if voice is None else voice),
        )

    def listed(self, ip: str, *, since: int) -> None:
        """An address (IPv6: its /64) has been listed since so long before NOW."""
        address = net.address_bytes(ip)
        self.main.execute(
            "INSERT INTO decision (kind, address, prefix, action, state, origin, category, code, numbers, evidence,"
            " created_at) VALUES ('ip',?,?,'deny','active','untrusted_vote','','','{}','{}',?)",
            (*((address, 32) if len(address) == 4 else (address[:8] + bytes(8), 64)), NOW - since),
        )

    def supported(self, text: str) -> None:
        """An imported list that only supports names an address or a network."""
        network = net.parse_network(text)
        sql = "INSERT OR IGNORE INTO import_support (name, address, prefix) VALUES (?,?,?)"
        self.main.execute(sql, (f"list {text}", *network))

    def visit(self, reporter: "Reporter", ip: str, *, first: int, last: int) -> None:
        """An application came from an address, from so long to so long before NOW."""
        self.main.execute(
            "INSERT INTO userapp_address VALUES (?,?,?,?)",
            (reporter.app, net.address_bytes(ip), NOW - first, NOW - last),
        )

    def app(self, user: int) -> int:
        number = next(self._numbers)
        self.main.execute(
            "INSERT INTO userapp (id, app_id, secret_hash, user, comment, created_at) VALUES (?,?,x'00',?,'',0)",
            (number, str(number), user),
        )
        return number

    def friends(self, count: int, *, word: float = 0, **more: Any) -> "list[Reporter]":
        """People with one application each, every one in a network of their own; `word` is what was measured of it."""
        start = next(self._numbers)
        people = [self.person(f"friend {start}.{n}", **more) for n in range(count)]
        for person in people if word else ():
            self.word(person, word)
        return [Reporter(self, self.app(person), f"81.{start % 250}.{n}.9") for n, person in enumerate(people)]

    # --- Rows ---

    def _submission(self, connection: sqlite3.Connection, app: int, received: int, address: str | None) -> int:
        cursor = connection.execute(
            "INSERT INTO submission (received_at, userapp, address, digest, rows, rejected) VALUES (?,?,?,x'',1,0)",
            (received, app, None if address is None else net.address_bytes(address)),
        )
        return cursor.lastrowid or 0

    def torrent(self, name: str, size: int = GIB, private: int = 0, *, big_endian: int = 0) -> int:
        hashed = hashlib.sha256(f"{name}{big_endian}".encode()).digest()
        identifier = bytes.fromhex(name) if len(name) == 64 else hashed
        self.main.execute(
            "INSERT OR IGNORE INTO torrent (identifier, size, private, big_endian) VALUES (?,?,?,?)",
            (identifier, size, private, big_endian),
        )
        sql = "SELECT id FROM torrent WHERE identifier=? AND size=? AND private=?"
        return int(self.main.execute(sql, (identifier, size, private)).fetchone()[0])

    def client(self, peer_id: str, name: str) -> int:
        self.main.execute("INSERT OR IGNORE INTO client_identity VALUES (NULL,?,?,0,0,0,0)", (peer_id, name))
        sql = "SELECT id FROM client_identity WHERE peer_id=? AND client_name=?"
        return int(self.main.execute(sql, (peer_id, name)).fetchone()[0])

    def label(self, text: str) -> int:
        self.main.execute("INSERT OR IGNORE INTO label (text) VALUES (?)", (text,))
        return int(self.main.execute("SELECT id FROM label WHERE text=?", (text,)).fetchone()[0])

    def row(self, kind: str, app: int, address: str | None, received: int, values: Mapping[str, Any]) -> None:
        connection = self.main if kind == "ban" else self._hot[kind]
        names = BAN_COLUMNS if kind == "ban" else segments.columns("swarm" if kind == "swarm" else "snapshot")
        row: dict[str, Any] = dict.fromkeys(names, 0)
        row |= {"peer_progress": 0.1, "downloader_progress": 1.0, "flags": None, "ban_at": None, "rule": None}
        row |= {"submission": self._submission(connection, app, received, address), "userapp": app}
        row |= {"received_at": received} | dict(values)
        connection.execute(
            f"INSERT INTO {kind} ({','.join(names)}) VALUES ({','.join('?' * len(names))})", [row[n] for n in names]
        )

    # --- Questions ---

    async def weigh(self, settings: AnalysisSection | None = None, now: int = NOW) -> dict[int, Standing]:
        """Measure everybody's words and keep them, as the server does before a run; by user."""
        order = worker.WordOrder(self.database.path, trust(settings or settings_of("friends")), now)
        standings = await worker.weigh(order)
        await self.database.open()
        await self.database.write(lambda main: words.replace(main, standings))
        await self.database.close()
        return {one.user: one for one in standings}

    async def find(
        self, name: str, settings: AnalysisSection | None = None, now: int = NOW, **numbers: Any
    ) -> dict[str, Finding]:
        """Target as text -> finding."""
        order = worker.order_of(name, self.database, settings or settings_of("friends"), now, numbers or None)
        findings = await worker.find(order)
        assert len({finding.target for finding in findings}) == len(findings)
        return {
            finding.target.matcher if not isinstance(finding.target, net.Network) else str(finding.target): finding
            for finding in findings
        }

    async def apply(self, name: str, now: int = NOW, **numbers: Any) -> Plan:
        """Find, and make decisions of it as a run does."""
        findings = list((await self.find(name, now=now, **numbers)).values())
        await self.database.open()
        try:
            audit = Audit(self.database, lambda: now)
            decisions = Decisions(self.database, audit, lambda: now, Protected(set()))
            return await decisions.apply(name, findings, now)
        finally:
            await self.database.close()

    async def distances(
        self, address: str, settings: AnalysisSection | None = None
    ) -> dict[tuple[str, str], tuple[int, int]]:
        """(analysis, number) -> (have, need)."""
        given = settings or settings_of("friends")
        needs = await measure(self.database, given, net.address_bytes(address), NOW)
        return {(need.analysis, need.number): (need.have, need.need) for need in needs}


class Reporter:
    """An application and the address that it reports from."""

    def __init__(self, world: World, app: int, address: str | None) -> None:
        self.world = world
        self.app = app
        self.address = address

    def ban(
        self,
        ip: str,
        torrent: str = "linux",
        *,
        ago: int = HOUR,
        module: str = CHEAT,
        said: int | None = None,
        private: int = 0,
        big_endian: int = 0,
        **more: Any,
    ) -> None:
        """A ban received `ago`; `said` is how long ago the client says it banned."""
        values = {
            "peer_ip": net.address_bytes(ip),
            "torrent": self.world.torrent(torrent, private=private, big_endian=big_endian),
            "module": self.world.label(module),
            "ban_at": None if said is None else NOW - said,
            "dedupe": next(self.world._numbers),
            "to_peer_traffic": GIB,
        }
        self.world.row("ban", self.app, self.address, NOW - ago, values | more)

    async def sightings(self, ip: str, torrent: str, times: Sequence[tuple[int, int]], *, rule: str = RELATIVE) -> None:
        """What qBittorrent-ClientBlocker reports of one ban, in order: received so long ago, seen last so long ago."""
        key = stable_number((self.app, ip, torrent, rule))
        reports = []
        for ago, said in times:
            values: dict[str, Any] = dict.fromkeys(Report.__annotations__, 0)
            values |= {
                "submission": self.world._submission(self.world.main, self.app, NOW - ago, self.address),
                "received_at": NOW - ago,
                "userapp": self.app,
                "ban_at": NOW - said,
                "peer_ip": net.address_bytes(ip),
                "torrent": self.world.torrent(torrent, big_endian=1),
                "client": self.world.client("", ""),
                "module": self.world.label(BLOCKER),
                "rule": rule,
                "dedupe": key,
                "to_peer_traffic": GIB,
                "kind": "id_time",
                "last_ban_at": NOW - said,
            }
            reports.append(cast("Report", values))
        await self.world.store(reports)

    def swarm(
        self,
        ip: str,
        torrent: str = "linux",
        *,
        to: int,
        got: int = 0,
        ago: int = HOUR,
        said: int | None = None,
        began: int = 2 * HOUR,
        size: int = GIB,
        private: int = 0,
        big_endian: int = 0,
        port: int = 6881,
        client: tuple[str, str] = ("-qB4650-", "qBittorrent/4.6.5"),
        version: int | None = None,
        **more: Any,
    ) -> None:
        """A cumulative row: `to` bytes to the peer, `got` from it; it began so long ago, as the client says."""
        values = {
            "version_key": next(self.world._numbers) if version is None else version,
            "peer_ip": net.address_bytes(ip),
            "peer_port": port,
            "client": self.world.client(*client),
            "torrent": self.world.torrent(torrent, size, private, big_endian=big_endian),
            "to_peer_traffic": to,
            "from_peer_traffic": got,
            "first_time_seen": NOW - began,
            "last_time_seen": NOW - (ago if said is None else said),
        }
        self.world.row("swarm", self.app, self.address, NOW - ago, values | more)

    def snapshot(
        self,
        ip: str,
        torrent: str = "linux",
        *,
        to: int,
        got: int = 0,
        ago: int = HOUR,
        port: int = 6881,
        client: tuple[str, str] = ("-qB4650-", "qBittorrent/4.6.5"),
        private: int = 0,
        big_endian: int = 0,
        **more: Any,
    ) -> None:
        """A peer as it was seen once."""
        values = {
            "peer_ip": net.address_bytes(ip),
            "peer_port": port,
            "client": self.world.client(*client),
            "torrent": self.world.torrent(torrent, private=private, big_endian=big_endian),
            "to_peer_traffic": to,
            "from_peer_traffic": got,
        }
        self.world.row("snapshot", self.app, self.address, NOW - ago, values | more)
