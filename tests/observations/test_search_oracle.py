"""Every filter, compare method, order and way of paging against a naive oracle, over a chain of small segments."""

import asyncio
import hashlib
import ipaddress
import itertools
import json
import random
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sparkle_lite.config import LimitsSection
from sparkle_lite.db import readers, search, segments
from sparkle_lite.db.connection import schema
from sparkle_lite.db.database import Database
from sparkle_lite.db.search import Search
from sparkle_lite.errors import SparkleError
from sparkle_lite.ingest.ingest import Ingest
from sparkle_lite.metrics import Metrics
from sparkle_lite.observations import query
from sparkle_lite.observations.presentation import Viewer, present
from sparkle_lite.turns import Owner
from sparkle_lite.wire.dialect import detect

Row = dict[str, Any]
AGENT = "PeerBanHelper/9.5.0 (docker; Linux) BTN-Protocol/2.0.1 BTN-Protocol-Version/20"
BODIES: dict[str, type[query.PageRequest]] = {
    "snapshot": query.SnapshotQuery,
    "ban": query.BanQuery,
    "swarm": query.SwarmQuery,
    "discovery": query.DiscoveryQuery,
}
START = 1_800_000_000_000
ADMIN = Viewer(1, True)
BOB = Viewer(2, False)
# Application -> its owner.
OWNERS = {1: 1, 2: 2, 3: 2}

ADDRESSES = [
    *(f"203.0.113.{n}" for n in (1, 2, 3, 19, 99, 200)),
    *(f"198.51.{n}.7" for n in (0, 1, 100)),
    "32.1.13.184",
    "99.9.99.1",
    *(f"2001:db8::{n:x}" for n in (1, 2, 0x99)),
    "2001:db8:1:2:3:4:5:6",
    "2a02:99::1",
    "2600::",
    "255.255.255.254",
]
PEER_IDS = ["-XL0019-", "-xl0019-", "", None, "100%", "a_b", "a%b", "'\"", "-迅雷01-", "N/A", "\\", "M7-11-1-"]
NAMES = [
    "Xunlei 0.0.1.9",
    "xunlei",
    "迅雷 1%",
    "aria2/1.37_0",
    "aria2/1.37.0",
    "",
    None,
    "'; DROP TABLE ban --",
    "%",
    "_",
]
TORRENTS = [(hashlib.sha256(bytes([n])).hexdigest(), size) for n, size in enumerate((0, 1, 5_000, 5_000, 1 << 40))]
TORRENTS += [("qbcb's own_%", 7), ("QBCB'S OWN_%", 7), (TORRENTS[0][0], 99)]
FLAGS = [None, "", "u I H", "D X"]
PROGRESS = [None, 0.0, 0.25, 0.5, 1.0, -1.0]


def pick_peer(dice: random.Random) -> Row:
    identifier, size = dice.choice(TORRENTS)
    return {
        "peer_ip": dice.choice(ADDRESSES),
        "peer_port": dice.choice((-1, 0, 80, 51413, 65535)),
        "peer_id": dice.choice(PEER_IDS),
        "peer_client_name": dice.choice(NAMES),
        "torrent_identifier": identifier,
        "torrent_size": size,
        "torrent_is_private": dice.choice((None, True, False)),
        "from_peer_traffic": dice.choice((0, 1, 1000, 1 << 50)),
        "from_peer_traffic_speed": dice.choice((0, 5, 6)),
        "to_peer_traffic": dice.choice((-1, 0, 1000, 1001)),
        "to_peer_traffic_speed": dice.choice((0, 7)),
        "peer_progress": dice.choice(PROGRESS),
        "downloader_progress": dice.choice(PROGRESS),
        "flags": dice.choice(FLAGS),
    }


def pick_ban(dice: random.Random) -> Row:
    return {
        **pick_peer(dice),
        "btn_ban": dice.choice((True, False)),
        "module": dice.choice(("com.example.PCB", "com.example.pcb", "IdBlacklist", "%")),
        "rule": dice.choice((None, "", "-hp", "100%", "a_b", "规则")),
        "ban_unique_id": str(hashlib.sha256(dice.randbytes(8)).hexdigest()),
    }


def pick_swarm(dice: random.Random) -> Row:
    return {
        **pick_peer(dice),
        # Few enough for most rows to be replaced by a later version.
        "peer_ip": dice.choice(("203.0.113.1", "2001:db8::1")),
        "peer_port": dice.choice((80, 51413)),
        "downloader": dice.choice(("home", "HOME", "nas_1", None)),
        "from_peer_traffic_offset": dice.choice((0, 10)),
        "from_peer_traffic_speed_max": dice.choice((0, 11)),
        "to_peer_traffic_offset": dice.choice((0, 12)),
        "to_peer_traffic_speed_max": dice.choice((0, 13)),
        "first_time_seen": dice.choice((None, START - 5000, START - 4000)),
        # Some clocks are ahead of ours, some pages come late, and some rows say nothing.
        "last_time_seen": dice.choice((None, 0, START, START + dice.randrange(40_000), START + 10**10)),
    }


PICK: dict[str, Callable[[random.Random], Row]] = {"snapshot": pick_peer, "ban": pick_ban, "swarm": pick_swarm}
LEGACY = {
    "peer_ip": "ip_address",
    "peer_client_name": "client_name",
    "from_peer_traffic": "downloaded",
    "from_peer_traffic_speed": "rt_download_speed",
    "to_peer_traffic": "uploaded",
    "to_peer_traffic_speed": "rt_upload_speed",
    "flags": "peer_flag",
}
MODERN = {
    "from_peer_traffic_speed": "download_speed",
    "to_peer_traffic_speed": "upload_speed",
    "from_peer_traffic_speed_max": "download_speed_max",
    "to_peer_traffic_speed_max": "upload_speed_max",
    "flags": "peer_last_flags",
}
LISTS = {"snapshot": ("peers", LEGACY), "swarm": ("swarms", MODERN), "ban": ("bans", {"flags": "peer_flag"})}


def counting(rows: list[Row]) -> list[Row]:
    """Of all versions of cumulative rows those that count, ascending; each says in `shown_first` when it all began."""
    keys: dict[Any, list[Row]] = {}
    for row in rows:
        keys.setdefault(version_key(row), []).append(row)
    found = []
    for versions in keys.values():
        best = versions[0]
        for row in versions[1:]:
            if evidence_time(row) >= evidence_time(best):
                best = row
        begun = [row["first_time_seen"] for row in versions if row["first_time_seen"] is not None]
        found.append(best | {"shown_first": min(begun) if begun else None})
    return sorted(found, key=lambda row: row["id"])


def version_key(row: Row) -> tuple[Any, ...]:
    """What makes two rows versions of one."""
    return row["userapp"], row["downloader"], row["torrent_identifier"], row["peer_ip"], row["peer_port"]


def evidence_time(row: Row) -> int:
    """When something was seen: nobody can have seen it after he told us."""
    said: int | None = row["last_time_seen"]
    received: int = row["insert_time"]
    return received if said is None or said > received else said


class World:
    """A database filled through ingestion, and the same rows as the oracle knows them, in order of receipt."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "sparkle.db"
        self.database: Database
        self.now = START
        self.ingest: Ingest
        self.search: Search
        self.rows: dict[str, list[Row]] = {"snapshot": [], "ban": [], "swarm": [], "discovery": []}
        self.versions: list[Row] = []

    async def start(self) -> None:
        self.database = Database(self.path, "normal")
        await self.database.open()
        self.ingest = Ingest(self.database, LimitsSection, Metrics(), lambda: self.now)
        await self.ingest.open()
        self.search = Search(self.database, self.ingest.streams)

    async def open(self) -> None:
        await self.start()
        await self.database.main.executemany(
            "INSERT INTO user (id, name, name_key, role, registered_by, registered_at) VALUES (?,?,?,?,'admin',5)",
            [(1, "admin", "admin", "admin"), (2, "bob", "bob", "user")],
        )
        await self.database.main.executemany(
            "INSERT INTO userapp (id, app_id, secret_hash, user, comment, created_at) VALUES (?,?,x'00',?,'',0)",
            [(number, f"app-{9 - number}", owner) for number, owner in OWNERS.items()],
        )

    async def close(self) -> None:
        await self.search.close()
        await self.ingest.close()
        await self.database.close()

    async def submit(self, kind: str, userapp: int, populate_time: int | None, rows: list[Row]) -> None:
        name, names = LISTS[kind]
        body = {
            "populate_time": populate_time,
            name: [{names.get(k, k): v for k, v in row.items() if v is not None} for row in rows],
        }
        data = json.dumps(body).encode()
        outcome = await self.ingest.submit(Owner(None, userapp), None, data, "", detect(AGENT))
        assert (outcome.accepted, outcome.rejected) == (len(rows), 0)
        digest = hashlib.sha256(b"%d:" % userapp + data).digest()[:16]
        for row in rows:
            about = {"insert_time": self.now, "populate_time": populate_time, "userapp": userapp}
            self.rows[kind].append(row | about | {"id": len(self.rows[kind]) + 1, "submit_id": digest.hex()})
            self.discover(row, userapp)

    def discover(self, row: Row, userapp: int) -> None:
        name = ((row["peer_id"] or "")[:8], row["peer_client_name"] or "")
        known = next((r for r in self.rows["discovery"] if r["name"] == name), None)
        if known is None:
            known = {"id": len(self.rows["discovery"]) + 1, "name": name, "found_at": self.now, "found_by": userapp}
            known |= {"peer_id": name[0], "peer_client_name": name[1]}
            self.rows["discovery"].append(known)
        known |= {"last_seen_at": self.now, "last_seen_by": userapp}

    async def fill(self, dice: random.Random) -> None:
        bodies = itertools.count()
        # The hot segment of cumulative rows is well filled in the end.
        while (body := next(bodies)) < 200 or self.ingest.streams["swarm"].rows < 42:
            kind = dice.choice(("snapshot", "swarm", "swarm", "ban"))
            stream = self.ingest.streams.get(kind)  # type: ignore[call-overload]
            # Bodies of the same instant, but never in two segments: there they follow each other as they came.
            if dice.random() < 0.6 or (stream and stream.rows == 0):
                self.now += dice.choice((1, 1, 1000))
            rows = [PICK[kind](dice) for _ in range(dice.choice((1, 3, 9)))]
            await self.submit(kind, dice.choice((1, 2, 3)), dice.choice((None, self.now - 7, START)), rows)
            if body % 5 == 0:
                # What the search remembers of a segment that is still written to has to keep up with it.
                await self.search.page(query.build_query("swarm", query.SwarmQuery(), ADMIN), 20_000, 20_000)
        await self.database.write(self.ingest.dictionaries.write_seen)
        for kind in segments.KINDS:
            closed = await segments.catalogue(self.database.main, "kind=? AND state='closed'", (kind,))
            # The second of each kind stays as it is between its closing and its indexing.
            await self.index(closed[:1] + closed[2:])
        self.settle()

    async def index(self, closed: list[segments.SegmentRow]) -> None:
        for segment in closed:
            size = await segments.build_indexes(self.database.segment_folder, segment, "normal")
            assert size is not None
            await segments.mark_indexed(self.database.main, segment.id, size)

    def settle(self) -> None:
        """What the oracle's rows look like from outside."""
        for row in self.rows["swarm"]:
            row["origin"] = 1
        self.versions = self.rows["swarm"]
        self.rows["swarm"] = counting(self.versions)
        for row in itertools.chain(*self.rows.values(), self.versions):
            row["peer_id"] = (row["peer_id"] or "")[:8] or "N/A"
            row["peer_client_name"] = row["peer_client_name"] or "N/A"

    async def ask(self, table: Any, body: Row, viewer: Viewer = ADMIN) -> Any:
        """A page as (what is shown, the page)."""
        asked = msgspec.json.decode(json.dumps(body).encode(), type=BODIES[table])
        wanted = query.build_query(table, asked, viewer)
        find = self.search.discoveries if table == "discovery" else self.search.page
        page: Any = await find(wanted, 20_000, 20_000)
        return [present(row, viewer) for row in page.rows], page

    async def ids(self, table: str, body: Row, viewer: Viewer = ADMIN) -> list[int]:
        """The ids of all rows that a query finds, which must be as many as it says."""
        _, page = await self.ask(table, {"pageSize": 3000, **body}, viewer)
        assert page.exact
        if not body.get("page"):
            assert page.total == len(page.rows) or page.next
        return [row.id for row in page.rows]


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[World]:
    """An empty world whose segments hold 50 rows, and in which 8 bans are many."""
    world = World(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "SEGMENT_ROWS", 50)
        patch.setattr(search, "_COMMON", 8)
        patch.setattr(readers, "_TAKEN_UP", 7)
        await world.open()
        try:
            yield world
        finally:
            await world.close()


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """A full world that tests only read."""
    async with opened(tmp_path_factory.mktemp("world")) as made:
        await made.fill(random.Random(20260))
        yield made


@pytest.fixture
async def fresh(tmp_path: Path) -> AsyncIterator[World]:
    """An empty world of the test's own."""
    async with opened(tmp_path) as made:
        yield made


# --- The oracle -------------------------------------------------------------------------------------------------------

TEXTS: dict[str, Callable[[str, str], bool]] = {
    "EQUALS": lambda text, value: text == value,
    "CONTAINS": lambda text, value: value in text,
    "STARTS_WITH": lambda text, value: text.startswith(value),
    "ENDS_WITH": lambda text, value: text.endswith(value),
}
NUMBERS: dict[str, Callable[[float, float], bool]] = {
    "EQUAL": lambda number, value: number == value,
    "LESS_THAN": lambda number, value: number < value,
    "LESS_THAN_EQUAL": lambda number, value: number <= value,
    "GREATER_THAN": lambda number, value: number > value,
    "GREATER_THAN_EQUAL": lambda number, value: number >= value,
}
TEXT_METHODS = [prefix + name for name in TEXTS for prefix in ("", "NOT_")]
TEXT_FIELDS = {
    "peerId": "peer_id",
    "peerClientName": "peer_client_name",
    "torrentIdentifier": "torrent_identifier",
    "module": "module",
    "rule": "rule",
    "downloader": "downloader",
}
NUMBER_FIELDS = {
    "peerPort": "peer_port",
    "torrentSize": "torrent_size",
    "fromPeerTraffic": "from_peer_traffic",
    "fromPeerTrafficSpeed": "from_peer_traffic_speed",
    "toPeerTraffic": "to_peer_traffic",
    "toPeerTrafficSpeed": "to_peer_traffic_speed",
    "peerProgress": "peer_progress",
    "downloaderProgress": "downloader_progress",
    "fromPeerTrafficOffset": "from_peer_traffic_offset",
    "fromPeerTrafficSpeedMax": "from_peer_traffic_speed_max",
    "toPeerTrafficOffset": "to_peer_traffic_offset",
    "toPeerTrafficSpeedMax": "to_peer_traffic_speed_max",
    "firstTimeSeen": "first_time_seen",
    "lastTimeSeen": "last_time_seen",
}
CONTAINS_BY_DEFAULT = ("peerId", "peerClientName", "rule")
TIMES = {
    "timeFrom": ("insert_time", 1),
    "timeTo": ("insert_time", -1),
    "foundAtTimeFrom": ("found_at", 1),
    "foundAtTimeTo": ("found_at", -1),
    "lastSeenAtTimeFrom": ("last_seen_at", 1),
    "lastSeenAtTimeTo": ("last_seen_at", -1),
}


def text_matches(text: str | None, method: str, value: str) -> bool:
    found = TEXTS[method.removeprefix("NOT_")](text or "", value)
    return found != method.startswith("NOT_")


def matches(row: Row, name: str, value: Any, method: str | None) -> bool:
    if name == "peerIp":
        if method in (None, "EQUALS", "NOT_EQUALS"):
            inside = ipaddress.ip_address(row["peer_ip"]) in ipaddress.ip_network(value)
            return inside != (method == "NOT_EQUALS")
        return text_matches(row["peer_ip"], method, value)
    if name in TEXT_FIELDS:
        default = "CONTAINS" if name in CONTAINS_BY_DEFAULT else "EQUALS"
        return text_matches(row[TEXT_FIELDS[name]], method or default, value)
    if name == "btnBan":
        return bool(row["btn_ban"] == value)
    if name == "origin":
        return row["origin"] == ("HISTORY", "SWARM").index(value)
    number = row[NUMBER_FIELDS[name]]
    return number is not None and NUMBERS[method or "EQUAL"](number, value)


def address_order(text: str) -> tuple[int, bytes]:
    address = ipaddress.ip_address(text)
    return address.version, address.packed


def order_value(row: Row, name: str, viewer: Viewer) -> Any:
    """What a row is sorted by; what is missing comes before everything else."""
    if name == "peerIp":
        return address_order(row["peer_ip"])
    if name in ("appId", "userApplication.appId"):
        return f"app-{9 - row['userapp']}" if viewer.sees(OWNERS[row["userapp"]]) else ""
    if name == "hash":
        digest = hashlib.sha256(f"{row['peer_id']}@{row['peer_client_name']}".encode()).digest()
        return int.from_bytes(digest[:8], "little", signed=True)
    field = ORDERED[name]
    is_known = row[field] is not None and (name not in PRIVATE or viewer.sees(OWNERS[row["userapp"]]))
    return row[field] if is_known else ("" if field in TEXT_ORDERED else float("-inf"))


ORDERED = {
    **TEXT_FIELDS,
    **NUMBER_FIELDS,
    "id": "id",
    "insertTime": "insert_time",
    "populateTime": "populate_time",
    "submitId": "submit_id",
    "torrent.identifier": "torrent_identifier",
    "torrent.size": "torrent_size",
    "flags": "flags",
    "btnBan": "btn_ban",
    "banUniqueId": "ban_unique_id",
    "origin": "origin",
    "clientName": "peer_client_name",
    "foundAt": "found_at",
    "lastSeenAt": "last_seen_at",
}
TEXT_ORDERED = {"peer_id", "peer_client_name", "flags", "module", "rule", "ban_unique_id", "downloader", "submit_id"}
# What would tell that rows came from one member: of others' rows it is as if it weren't there.
PRIVATE = {"populateTime", "submitId", "downloader"}


def expected(world: World, table: str, body: Row, viewer: Viewer = ADMIN) -> list[int]:
    """The ids of all rows that match, in order."""
    names = [n for n in body if n in TEXT_FIELDS or n in NUMBER_FIELDS or n in ("peerIp", "btnBan", "origin")]
    names = [n for n in names if not (isinstance(body[n], str) and not body[n].strip()) and body[n] is not None]

    def wanted(row: Row) -> bool:
        if any(sign * (row[field] - body[n]) < 0 for n, (field, sign) in TIMES.items() if n in body):
            return False
        each = [
            matches(row, n, body[n], body.get(f"{n}CompareMethod"))
            and (n not in PRIVATE or viewer.sees(OWNERS[row["userapp"]]))
            for n in names
        ]
        return (any(each) if body.get("orConnector") else all(each)) if each else True

    found = [row for row in world.rows[table] if wanted(row)]
    order = body.get("sortBy") or ["foundAt" if table == "discovery" else "insertTime"]
    order = [order] if isinstance(order, str) else order
    found.sort(key=lambda row: -row["id"])
    found.sort(
        key=lambda row: tuple(order_value(row, name, viewer) for name in order), reverse=body.get("sortOrder") != "ASC"
    )
    return [row["id"] for row in found]


async def test_the_chains_are_long_and_in_every_state(world: World) -> None:
    for kind in segments.KINDS:
        chain = await segments.catalogue(world.database.main, "kind=?", (kind,))
        assert len(chain) >= 4
        assert {segment.state for segment in chain} == {"hot", "closed", "indexed"}


async def test_versions_are_replaced_by_newer_and_by_older_segments_of_every_state(world: World) -> None:
    chain = await segments.catalogue(world.database.main, "kind='swarm'")

    def segment_of(number: int) -> segments.SegmentRow:
        return next(segment for segment in reversed(chain) if segment.first_row <= number)

    keys: dict[Any, list[Row]] = {}
    for row in world.versions:
        keys.setdefault(version_key(row), []).append(row)
    winners = {row["id"] for row in world.rows["swarm"]}
    cases = set()
    for versions in keys.values():
        winner = next(row for row in versions if row["id"] in winners)
        for row in versions:
            mine, other = segment_of(winner["id"]), segment_of(row["id"])
            if row is not winner:
                where = (other.id > mine.id) - (other.id < mine.id)
                cases.add((mine.state, other.state, where))
    states = ("indexed", "closed", "hot")
    # A row that counts stands in a segment of each state, and others of its key in older and newer ones of each.
    assert {(mine, other) for mine, other, _ in cases} == set(itertools.product(states, states))
    assert {where for _, _, where in cases} == {-1, 0, 1}
    assert {("indexed", "hot", 1), ("closed", "hot", 1), ("hot", "indexed", -1), ("hot", "hot", 0)} <= cases
    assert any(row["shown_first"] != row["first_time_seen"] for row in world.rows["swarm"])


# --- One filter at a time ---------------------------------------------------------------------------------------------

PEER_FIELDS = ["peerId", "peerClientName", "torrentIdentifier", *list(NUMBER_FIELDS)[:8]]
FIELDS_OF = {
    "snapshot": PEER_FIELDS,
    "ban": [*PEER_FIELDS, "module", "rule"],
    "swarm": [*PEER_FIELDS, "downloader", *list(NUMBER_FIELDS)[8:]],
    "discovery": ["peerId", "peerClientName"],
}
CASES = [(table, name) for table, names in FIELDS_OF.items() for name in names]
PARTS = ["%", "_", "1", "N/A", "n/a", "a", "'", "\\", "迅雷", "0", "own_%", "absent"]


def candidates(world: World, table: str, name: str) -> list[Any]:
    field = TEXT_FIELDS.get(name) or NUMBER_FIELDS[name]
    values = sorted({row[field] for row in world.rows[table] if row[field] is not None})
    if name in TEXT_FIELDS:
        return [*(value for value in values if value.strip()), *PARTS]
    return [*values, values[0] - 1, values[-1] + 1]


@pytest.mark.parametrize(("table", "name"), CASES)
async def test_a_filter_finds_what_the_oracle_finds(world: World, table: str, name: str) -> None:
    dice = random.Random(f"{table}{name}")
    values = candidates(world, table, name)
    for method in (None, *(TEXT_METHODS if name in TEXT_FIELDS else NUMBERS)):
        for value in dice.sample(values, min(8, len(values))):
            body = {name: value} | ({f"{name}CompareMethod": method} if method else {})
            for viewer in (ADMIN, BOB) if name in PRIVATE else (ADMIN,):
                assert await world.ids(table, body, viewer) == expected(world, table, body, viewer), body


@pytest.mark.parametrize("table", ["snapshot", "ban", "swarm"])
async def test_an_address_filter_finds_what_the_oracle_finds(world: World, table: str) -> None:
    networks = ["203.0.113.1", "203.0.113.0/24", "0.0.0.0/0", "128.0.0.0/1", "::/0", "2001:db8::/32", "2600::/12"]
    networks += ["2001:db8::1", "2001:DB8:0::1", "::ffff:203.0.113.1", "32.0.0.0/8", "8.8.8.8", "2001::/16"]
    for method, value in itertools.product((None, "EQUALS", "NOT_EQUALS"), networks):
        body = {"peerIp": value} | ({"peerIpCompareMethod": method} if method else {})
        plain = body | {"peerIp": value.removeprefix("::ffff:")}
        assert await world.ids(table, body) == expected(world, table, plain), body
    parts = ["203.0.", "99", ".1", "1", "2001:db8", "::", ":", ".", "2", "203.0.113.1", "%", "200"]
    for method, value in itertools.product(TEXT_METHODS[2:], parts):
        body = {"peerIp": value, "peerIpCompareMethod": method}
        assert await world.ids(table, body) == expected(world, table, body), body


@pytest.mark.parametrize(
    ("table", "body"),
    [
        ("ban", {"btnBan": True}),
        ("ban", {"btnBan": False}),
        ("swarm", {"origin": "SWARM"}),
        ("swarm", {"origin": "HISTORY"}),
        ("snapshot", {"orConnector": True}),
        ("discovery", {"orConnector": True}),
        ("snapshot", {"peerId": "  ", "peerIdCompareMethod": "NOT_EQUALS"}),
        ("ban", {"module": "", "rule": " "}),
        ("snapshot", {"peerIdCompareMethod": "EQUALS"}),
        ("snapshot", {"timeFrom": -(1 << 63), "timeTo": (1 << 63) - 1}),
        ("snapshot", {"torrentSize": -(1 << 63), "torrentSizeCompareMethod": "GREATER_THAN"}),
        ("snapshot", {"peerIp": "203.0.113.1", "peerId": "absent", "orConnector": True}),
        ("swarm", {"timeTo": START + 3}),
    ],
)
async def test_a_query_at_the_edge_finds_what_the_oracle_finds(world: World, table: str, body: Row) -> None:
    assert await world.ids(table, body) == expected(world, table, body)


@pytest.mark.parametrize(
    ("table", "name"), [(table, name) for table in BODIES for name in query.SORTS[table] if name != "torrent.id"]
)
@pytest.mark.parametrize("direction", ["ASC", "DESC"])
async def test_an_order_is_the_oracles(world: World, table: str, name: str, direction: str) -> None:
    body = {"sortBy": name, "sortOrder": direction}
    assert await world.ids(table, body) == expected(world, table, body)
    assert await walk(world, table, body | {"pageSize": 37}, BOB) == expected(world, table, body, BOB)


@pytest.mark.parametrize("table", ["snapshot", "swarm", "ban"])
async def test_sorting_by_torrent_is_by_its_id(world: World, table: str) -> None:
    rows, _ = await world.ask(table, {"sortBy": "torrent.id", "sortOrder": "ASC", "pageSize": 3000})
    assert rows == sorted(rows, key=lambda row: (row.torrent.id, -row.id))


# --- Everything together ----------------------------------------------------------------------------------------------


async def walk(world: World, table: str, body: Row, viewer: Viewer = ADMIN) -> list[int]:
    """All rows by cursor, forth and back again; every page says the same total."""
    pages: list[list[int]] = []
    after, total = None, None
    while True:
        _, page = await world.ask(table, body | {"after": after}, viewer)
        pages.append([row.id for row in page.rows])
        assert total in (None, page.total)
        assert (page.previous is None) is (after is None)
        after, total = page.next, page.total
        if after is None:
            break
        assert len(page.rows) == body["pageSize"]
    found = [number for one in pages for number in one]
    assert total == len(found)
    for earlier in reversed(pages[:-1]):
        _, page = await world.ask(table, body | {"before": page.previous}, viewer)
        assert ([row.id for row in page.rows], page.total) == (earlier, total)
        assert page.next is not None
    assert page.previous is None
    return found


def random_body(dice: random.Random, world: World, table: str) -> Row:
    body: Row = {}
    for name in dice.sample(FIELDS_OF[table], dice.choice((0, 1, 2, min(3, len(FIELDS_OF[table]))))):
        body[name] = dice.choice(candidates(world, table, name))
        if dice.random() < 0.7:
            methods = TEXT_METHODS if name in TEXT_FIELDS else list(NUMBERS)
            body[f"{name}CompareMethod"] = dice.choice(methods)
    if table != "discovery" and dice.random() < 0.3:
        body["peerIp"] = dice.choice(("203.0.113.0/24", "2001:db8::1", "0.0.0.0/0"))
    if table == "ban" and dice.random() < 0.3:
        body["btnBan"] = dice.choice((True, False))
    body["orConnector"] = dice.choice((True, False))
    times = [name for name in TIMES if (table == "discovery") != name.startswith("time")]
    for name in times:
        if dice.random() < 0.25:
            field = TIMES[name][0]
            edge = dice.choice([row[field] for row in world.rows[table]]) + dice.choice((-1, 0, 0, 1))
            body[name] = edge
    for low, high in zip(times[::2], times[1::2], strict=True):
        if body.get(low, 0) > body.get(high, 1 << 60):
            body[low], body[high] = body[high], body[low]
    if dice.random() < 0.5:
        names = [name for name in query.SORTS[table] if name not in ("torrent.id", "id")]
        body["sortBy"] = dice.sample(names, dice.choice((1, 1, 2)))
    if dice.random() < 0.1 and table != "discovery":
        body["sortBy"] = "id"
    if dice.random() < 0.5:
        body["sortOrder"] = dice.choice(("ASC", "DESC"))
    return body


@pytest.mark.parametrize("table", list(BODIES))
@pytest.mark.parametrize("seed", range(16))
async def test_a_random_query_pages_and_walks_as_the_oracle_does(world: World, table: str, seed: int) -> None:
    dice = random.Random(f"{table}{seed}")
    body = random_body(dice, world, table)
    viewer = dice.choice((ADMIN, BOB))
    right = expected(world, table, body, viewer)
    assert await world.ids(table, body, viewer) == right, body
    size = dice.choice((1, 3, 10)) if len(right) < 20 else dice.choice((17, 50, 100))
    for page in range(len(right) // size + 2):
        rows, found = await world.ask(table, body | {"page": page, "pageSize": size}, viewer)
        assert [row.id for row in found.rows] == right[page * size : (page + 1) * size], (body, page, size)
        assert (found.total, found.exact) == (len(right), True), body
        assert (found.next is None) == ((page + 1) * size >= len(right))
        assert len(rows) == len(found.rows)
    assert await walk(world, table, body | {"pageSize": size}, viewer) == right, (body, size)


# --- What is shown ----------------------------------------------------------------------------------------------------


async def test_rows_are_shown_as_they_were_sent(world: World) -> None:
    for table in ("snapshot", "ban", "swarm"):
        rows, _ = await world.ask(table, {"pageSize": 3000}, BOB)
        by_id = {row["id"]: row for row in world.rows[table]}
        assert len(rows) == len(by_id)
        for row in rows:
            sent = by_id[row.id]
            for name in ("peer_port", "peer_id", "peer_client_name", "from_peer_traffic", "to_peer_traffic_speed"):
                assert getattr(row, name) == sent[name]
            for name in ("peer_progress", "downloader_progress", "flags", "insert_time"):
                assert getattr(row, name) == sent[name]
            assert row.peer_ip == str(ipaddress.ip_address(sent["peer_ip"]))
            assert (row.torrent.identifier, row.torrent.size) == (sent["torrent_identifier"], sent["torrent_size"])
            assert row.torrent.private_torrent == sent["torrent_is_private"]
            mine = OWNERS[sent["userapp"]] == 2
            assert row.populate_time == (sent["populate_time"] if mine else None)
            assert (row.submit_id and row.submit_id.hex) == (sent["submit_id"] if mine else None)
            if table == "swarm":
                assert (row.first_time_seen, row.last_time_seen) == (sent["shown_first"], sent["last_time_seen"])
                assert row.downloader == (sent["downloader"] if mine else None)
            assert row.app_id == (f"app-{9 - sent['userapp']}" if mine else None)


async def test_discoveries_are_shown_with_oneself_only(world: World) -> None:
    for viewer in (ADMIN, BOB):
        rows, page = await world.ask("discovery", {"pageSize": 3000}, viewer)
        for row, stored in zip(rows, page.rows, strict=True):
            sent = next(r for r in world.rows["discovery"] if r["id"] == stored.id)
            assert (row.found_at, row.last_seen_at) == (sent["found_at"], sent["last_seen_at"])
            for shown_by, userapp in ((row.found_by, sent["found_by"]), (row.last_seen_by, sent["last_seen_by"])):
                owner = OWNERS[userapp]
                assert (shown_by and shown_by.id) == (owner if viewer.sees(owner) else None)


# --- Segments come and go ---------------------------------------------------------------------------------------------


def open_but_deleted() -> list[str]:
    """Files that this process holds although they have no name any more."""
    held = []
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            held.append(str(entry.readlink()))
    return [name for name in held if name.endswith("(deleted)") and ".segments/" in name]


async def test_a_segment_that_retention_unlinks_is_gone_from_pages_and_from_the_disk(fresh: World) -> None:
    await fresh.fill(random.Random(5))
    before = await fresh.ids("snapshot", {"toPeerTraffic": -9, "toPeerTrafficCompareMethod": "GREATER_THAN"})
    assert before == expected(fresh, "snapshot", {})
    chain = await segments.catalogue(fresh.database.main, "kind='snapshot' AND state='indexed'")
    await segments.forget(fresh.database.main, chain[:2])
    segments.unlink(fresh.database.segment_folder, chain[:2])
    gone = {number for segment in chain[:2] for number in range(segment.first_row, segment.first_row + segment.rows)}
    left = [number for number in before if number not in gone]
    assert await fresh.ids("snapshot", {"sortBy": "id"}) == left
    assert await fresh.ids("snapshot", {}) == left
    await fresh.search.tidy()
    assert not open_but_deleted()
    # A file that goes without the catalogue knowing is not passed over in silence.
    segments.unlink(fresh.database.segment_folder, chain[2:3])
    await fresh.search.tidy()
    with pytest.raises(SparkleError, match="changing"):
        await fresh.ids("snapshot", {"sortBy": "peerIp"})


async def test_versions_that_were_forgotten_are_found_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"sortBy": "firstTimeSeen"}
    right = expected(world, "swarm", body)
    assert await world.ids("swarm", body) == right
    monkeypatch.setattr(readers, "_VERSIONS_S", -1)
    await world.search.tidy()
    assert await world.ids("swarm", body) == right


async def test_what_retention_unlinks_replaces_nothing_any_more(fresh: World) -> None:
    await fresh.fill(random.Random(7))
    chain = await segments.catalogue(fresh.database.main, "kind='swarm' AND state='indexed'")
    await segments.forget(fresh.database.main, chain[:2])
    segments.unlink(fresh.database.segment_folder, chain[:2])
    gone = {number for segment in chain[:2] for number in range(segment.first_row, segment.first_row + segment.rows)}
    left = counting([row for row in fresh.versions if row["id"] not in gone])
    assert {row["id"] for row in left} - {row["id"] for row in fresh.rows["swarm"]}
    assert await fresh.ids("swarm", {"sortBy": "id", "sortOrder": "ASC"}) == [row["id"] for row in left]
    rows, _ = await fresh.ask("swarm", {"pageSize": 3000, "sortBy": "id", "sortOrder": "ASC"})
    assert [row.first_time_seen for row in rows] == [row["shown_first"] for row in left]


def swarm(peer_port: int, first: int | None, last: int | None, taken: int) -> Row:
    """A cumulative row of one peer."""
    row = pick_swarm(random.Random(0)) | {"downloader": "home", "peer_port": peer_port, "to_peer_traffic": taken}
    return row | {"peer_ip": ADDRESSES[0], "first_time_seen": first, "last_time_seen": last}


@pytest.mark.parametrize("state", ["one", "hot", "closed", "indexed"])
async def test_the_version_with_the_latest_evidence_is_shown(fresh: World, state: str) -> None:
    """Two pages of versions, in one segment or in two, the second of which is hot."""
    hour = 3_600_000
    day = START - 24 * hour
    early = [
        swarm(1, day, START - hour, 1000),  # Resent older below.
        swarm(2, day, START + 9 * hour, 1000),  # A clock that is ahead: evidence of its receipt.
        swarm(3, day, None, 1000),  # No time: evidence of its receipt.
        swarm(4, day, START - hour, 1000),  # The same time again: the one received last.
        swarm(5, day, START - hour, 1000),  # Then no time at all.
    ]
    late = [
        swarm(1, day - 5, START - 2 * hour, 900),
        swarm(2, day, START + hour, 2000),
        swarm(3, day, START - 1, 900),
        swarm(4, None, START - hour, 2000),
        swarm(5, day + 7, None, 2000),
    ]
    await fresh.submit("swarm", 1, None, early)
    fresh.now += hour
    if state != "one":
        await fresh.ingest.streams["swarm"].roll(fresh.database.main, fresh.now)
        if state == "indexed":
            await fresh.index(await segments.catalogue(fresh.database.main, "state='closed'"))
    await fresh.submit("swarm", 1, None, late)
    body = {"sortBy": "peerPort", "sortOrder": "ASC"}
    rows, page = await fresh.ask("swarm", body)
    assert [(row.peer_port, row.to_peer_traffic) for row in rows] == [
        (1, 1000),
        (2, 2000),
        (3, 1000),
        (4, 2000),
        (5, 2000),
    ]
    assert [row.first_time_seen for row in rows] == [day - 5, day, day, day, day]
    assert (page.total, page.exact) == (5, True)
    for size in (1, 2):
        _, page = await fresh.ask("swarm", {"pageSize": size})
        assert (page.total, page.exact) == (5, True)
        _, page = await fresh.ask("swarm", {"pageSize": size, "peerIp": ADDRESSES[0]})
        assert (page.total, page.exact) == (5, True)


async def test_what_an_earlier_program_indexed_is_indexed_anew(fresh: World) -> None:
    await fresh.fill(random.Random(3))
    chain = await segments.catalogue(fresh.database.main, "kind='swarm' AND state='indexed'")
    await fresh.close()
    for segment in chain:
        with closing(sqlite3.connect(segments.segment_path(fresh.database.segment_folder, "swarm", segment.id))) as c:
            c.execute("DROP TABLE version")
            c.execute("CREATE INDEX swarm_version_key ON swarm (version_key)")
    with closing(sqlite3.connect(fresh.path)) as connection:
        connection.executescript(schema("main_0008.sql"))
    await fresh.start()
    right = expected(fresh, "swarm", {})
    assert await fresh.ids("swarm", {}) == right
    closed = await segments.catalogue(fresh.database.main, "kind='swarm' AND state='closed'")
    assert {segment.id for segment in chain} < {segment.id for segment in closed}
    await fresh.index(closed)
    assert await fresh.ids("swarm", {}) == right


async def test_rows_that_are_submitted_meanwhile_are_found_and_never_twice(fresh: World) -> None:
    async def submit_all() -> None:
        dice = random.Random(1)
        for _ in range(60):
            fresh.now += 1
            await fresh.submit("snapshot", 1, fresh.now, [pick_peer(dice) for _ in range(9)])

    pages, wanted = 0, query.build_query("snapshot", query.SnapshotQuery(page_size=1000), ADMIN)
    task = asyncio.create_task(submit_all())
    while not task.done():
        page = await fresh.search.page(wanted, 20_000, 20_000)
        ids = [row.id for row in page.rows]
        assert ids == list(range(len(ids), 0, -1))
        assert page.total == len(ids)
        pages += 1
    await task
    assert pages > 3
    assert len(await fresh.ids("snapshot", {})) == 540
