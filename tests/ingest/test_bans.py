"""One ban is one ban: however often it is reported, for how long, and in which of the shapes that clients have."""

import asyncio
import itertools
import json
import random
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from reports import settings_of
from samples import read_sample
from server import PBH20, RunningServer, opened

from sparkle_lite.analyses import worker
from sparkle_lite.analyses.distances import measure
from sparkle_lite.analyses.numbers import PRESETS
from sparkle_lite.analyses.registry import ANALYSES
from sparkle_lite.config import LimitsSection
from sparkle_lite.db import bans, connection
from sparkle_lite.db.database import Database
from sparkle_lite.db.keys import stable_number
from sparkle_lite.db.search import Search
from sparkle_lite.ingest.ingest import Ingest
from sparkle_lite.metrics import Metrics
from sparkle_lite.observations import ip_report
from sparkle_lite.turns import Owner
from sparkle_lite.wire.answers import IpQuery
from sparkle_lite.wire.dialect import detect

NOW = 1_800_000_000_000
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
QUARTER = 15 * MINUTE
QBCB = "qBittorrent-ClientBlocker/3.8b8 (linux, amd64) BTN-Protocol/0.0.0-dev"
PBH_3_2 = "PeerBanHelper/3.2.0 BTN-Protocol/0.0.0-dev"
TORRENTS = tuple(f"{number:064x}" for number in range(1, 40))
NO_TORRENT = "7e071fd9b023ed8f18458a73613a0834f6220bd5cc50357ba3493c6040a9ea8c"
PCB = "com.ghostchu.peerbanhelper.module.impl.rule.ProgressCheatBlocker"
OWN_RULES = "com.ghostchu.peerbanhelper.module.impl.rule.BtnNetworkOnline"
Row = dict[str, Any]


class Store:
    """A database filled through ingestion by applications 1 to 5 of people of their own, at a time of its own."""

    def __init__(self, path: Path) -> None:
        self.now = NOW
        self.database = Database(path, "normal")
        self.ingest: Ingest

    async def open(self) -> None:
        await self.database.open()
        numbers = [(n, str(n)) for n in range(1, 6)]
        await self.database.main.executemany(
            "INSERT OR IGNORE INTO user (id, name, name_key, role, registered_by, registered_at, vouched_at)"
            " VALUES (?1, ?2, ?2, 'user', 'admin', 0, 0)",
            numbers,
        )
        await self.database.main.executemany(
            "INSERT OR IGNORE INTO userapp (id, app_id, secret_hash, user, comment, created_at)"
            " VALUES (?1, ?2, x'00', ?1, '', 0)",
            numbers,
        )
        self.ingest = Ingest(self.database, LimitsSection, Metrics(), lambda: self.now)
        await self.ingest.open()

    async def close(self) -> None:
        await self.ingest.close()
        await self.database.close()

    async def submit(self, body: Row, agent: str, app: int = 1) -> None:
        """What an application sends now, from a network of its own."""
        data = json.dumps(body).encode()
        outcome = await self.ingest.submit(Owner(None, app), bytes((81, app, 1, 1)), data, "", detect(agent))
        assert outcome.rejected == 0

    def bans(self) -> list[sqlite3.Row]:
        """The stored bans, and when each was last reported."""
        with opened(self.database.path) as reader:
            return reader.execute(
                "SELECT b.*, l.text AS module_name, coalesce(r.received_at, b.received_at) AS last_reported_at"
                " FROM ban b JOIN label l ON l.id=b.module LEFT JOIN ban_last_report r ON r.ban=b.id ORDER BY b.id"
            ).fetchall()

    async def listed(self) -> set[tuple[str, str, str]]:
        """Whom any analysis would list at any preset: preset, analysis, target."""
        found = set()
        for preset, name in itertools.product(PRESETS, ANALYSES):
            order = worker.order_of(name, self.database, settings_of(preset), self.now)
            findings = await worker.find(order)
            found |= {(preset, name, str(finding.target)) for finding in findings}
        return found


@asynccontextmanager
async def opened_store(path: Path) -> AsyncIterator[Store]:
    store = Store(path)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with opened_store(tmp_path / "sparkle.db") as store:
        yield store


# --- What clients send ------------------------------------------------------------------------------------------------


def legacy_peer(ip: str, torrent: str, port: int = 6881) -> Row:
    return {
        "ip_address": ip, "peer_port": port, "peer_id": "-XX0001-", "client_name": "Some 1.0",
        "torrent_identifier": torrent, "torrent_is_private": False, "torrent_size": 1 << 30, "downloaded": 0,
        "uploaded": 5, "peer_progress": 0.0, "downloader_progress": 1.0,
    }  # fmt: skip


def blocked(ip: str, at: int, torrent: str = TORRENTS[0], **more: Any) -> Row:
    """A ban of qBittorrent-ClientBlocker: `at` is when it last saw the peer."""
    peer = legacy_peer(ip, torrent) | {"uploaded": 1 << 30}
    row = {"btn_ban": False, "ban_unique_id": f"{ip}:6881", "ban_at": at, "peer": peer}
    return row | {"module": "com.SimpleTracker.qBCB.CheckAllTorrent", "rule": "Bad-Relative_Progress_Uploaded"} | more


def block_map(at: int, bans: Iterable[Row]) -> Row:
    return {"populate_time": at // 1000 * 1000, "bans": list(bans)}


def legacy(at: int, *bans: Row) -> Row:
    """PeerBanHelper's old shape: no time of a ban."""
    return {"populate_time": at, "bans": list(bans)}


def legacy_ban(unique: int | None, ip: str = "45.78.30.1", *, module: str = PCB, port: int = 40010) -> Row:
    row = {"btn_ban": False, "module": module, "rule": "谎报", "peer": legacy_peer(ip, TORRENTS[0], port)}
    return row if unique is None else row | {"ban_unique_id": f"{unique:064x}"}


def modern_ban(at: int, ip: str = "45.78.30.1", *, module: str = PCB, port: int = 40010, **more: Any) -> Row:
    row = {
        "ban_at": at, "peer_ip": ip, "peer_port": port, "peer_id": "-XX0001-", "peer_client_name": "Some 1.0",
        "peer_progress": 0.0, "torrent_identifier": TORRENTS[0], "torrent_is_private": False, "torrent_size": 1 << 30,
        "from_peer_traffic": 0, "to_peer_traffic": 5, "downloader_progress": 1.0, "module": module,
        "rule": "进度", "description": "谎报", "structured_data": "null",
    }  # fmt: skip
    return row | more


# --- Prolonged --------------------------------------------------------------------------------------------------------


async def test_one_ban_prolonged_for_three_days_is_one_day_of_evidence_and_lists_nobody(store: Store) -> None:
    for turn, app in itertools.product(range(3 * 96), range(1, 6)):
        store.now = NOW + turn * QUARTER
        await store.submit(block_map(store.now, [blocked("203.0.113.5", store.now - app)]), QBCB, app)
    rows = store.bans()
    assert [(row["userapp"], row["ban_at"], row["received_at"]) for row in rows] == [
        (app, NOW - app, NOW) for app in range(1, 6)
    ]
    assert {row["last_reported_at"] for row in rows} == {store.now}
    assert await store.listed() == set()
    distances = await measure(store.database, settings_of("solo"), bytes((203, 0, 113, 5)), store.now)
    assert {(need.number, need.have) for need in distances} >= {("min_torrents", 1), ("min_days", 1)}


async def test_a_long_running_client_whose_peers_have_gone_lists_nobody(store: Store) -> None:
    """It goes on telling of everybody whom it ever saw: bans, peers and totals, each as if it were there now."""

    gone = [("203.0.113.5", torrent) for torrent in TORRENTS]
    for turn, app in itertools.product(range(16), range(1, 6)):
        store.now = NOW + turn * 5 * HOUR + app
        peers = [legacy_peer(*peer) | {"uploaded": 2 << 30} for peer in gone]
        totals = {"downloaded_offset": 0, "uploaded_offset": 0, "first_time_seen": store.now}
        histories = [peer | totals | {"last_time_seen": store.now} for peer in peers]
        await store.submit({"populate_time": store.now, "peers": peers}, QBCB, app)
        await store.submit({"populate_time": store.now, "peers": histories}, QBCB, app)
        await store.submit(block_map(store.now, [blocked("203.0.113.5", NOW - DAY)]), QBCB, app)
    assert len(store.bans()) == 5
    assert await store.listed() == set()


async def test_a_cheater_whom_three_see_on_two_torrents_is_listed(store: Store) -> None:
    for turn, app in itertools.product(range(20), range(1, 4)):
        store.now = NOW + turn * QUARTER
        rows = [blocked("203.0.113.5", store.now, torrent) for torrent in TORRENTS[:2]]
        await store.submit(block_map(store.now, rows), QBCB, app)
    order = worker.order_of("untrusted_vote", store.database, settings_of("friends"), store.now)
    [finding] = await worker.find(order)
    assert (str(finding.target), finding.code, finding.people) == ("203.0.113.5", "progress_cheater", 3)
    # Counted at the first sight, not at the last.
    assert (finding.numbers["reports"], finding.first_seen, finding.last_seen) == (6, NOW, NOW)


async def test_three_honest_people_with_the_default_fast_test_list_nobody(store: Store) -> None:
    agent = "PeerBanHelper-Rust/0.1.4/BTN-Protocol/2.0.1/20"
    for day, app, torrent in itertools.product(range(4), range(1, 6), TORRENTS[:3]):
        store.now = NOW + day * DAY
        row = modern_ban(store.now, module="ProgressCheatBlocker", rule="pcb:fast-test", torrent_identifier=torrent)
        await store.submit({"bans": [row]}, agent, app)
    assert len(store.bans()) == 5 * 4 * 3
    assert await store.listed() == set()


async def test_an_old_client_that_sends_everything_again_for_three_days_leaves_what_it_banned(store: Store) -> None:
    rows = [legacy_ban(None, f"45.77.1.{number}") for number in range(17)]
    for turn in range(3 * 96 + 1):
        store.now = NOW + turn * QUARTER
        await store.submit(legacy(store.now, *rows), PBH_3_2)
    assert len(store.bans()) == 17
    # It has been off for a day and longer: what it tells now it has seen anew.
    store.now += DAY + 1
    await store.submit(legacy(store.now, *rows[:3]), PBH_3_2)
    assert len(store.bans()) == 20


@pytest.mark.parametrize(
    ("change", "bans"),
    [
        ({}, 1),
        ({"ban_at": NOW + DAY}, 1),
        ({"ban_at": NOW + DAY + 1}, 2),
        ({"ban_at": NOW - DAY}, 1),
        ({"ban_at": NOW - DAY - 1}, 2),
        ({"rule": "another"}, 2),
        ({"module": "com.SimpleTracker.qBCB.CheckPeer"}, 2),
        ({"ban_unique_id": "203.0.113.5:6882"}, 2),
        ({"peer": legacy_peer("203.0.113.5", TORRENTS[1])}, 2),
        ({"peer": legacy_peer("203.0.113.5", TORRENTS[0].upper())}, 1),
        ({"peer": legacy_peer("203.0.113.5", TORRENTS[0]) | {"uploaded": 9, "torrent_size": 0}}, 1),
    ],
    ids=str,
)
async def test_a_ban_of_a_client_that_moves_its_time_is_known_by_peer_torrent_module_and_rule_within_a_day(
    store: Store, change: Row, bans: int
) -> None:
    await store.submit(block_map(NOW, [blocked("203.0.113.5", NOW)]), QBCB)
    await store.submit(block_map(NOW + 5, [blocked("203.0.113.5", NOW) | change]), QBCB)
    assert len(store.bans()) == bans


class Naive:
    """The rule told again: a report is of the newest ban of its key if it is no more than a day away from it."""

    def __init__(self) -> None:
        self.chains: dict[Any, list[list[int]]] = defaultdict(list)

    def report(self, key: Any, at: int, reach: int = DAY) -> None:
        chains = self.chains[key]
        if chains and chains[-1][0] - reach <= at <= chains[-1][1] + reach:
            chains[-1][1] = max(chains[-1][1], at)
        else:
            chains.append([at, at])

    def first_times(self) -> Counter[tuple[Any, int]]:
        return Counter((key, chain[0]) for key, chains in self.chains.items() for chain in chains)


@pytest.mark.parametrize("seed", range(4))
async def test_reports_are_joined_as_the_naive_rule_joins_them(store: Store, seed: int) -> None:
    dice = random.Random(seed)
    seen, sent = Naive(), Naive()

    for _ in range(60):
        # Some reports come minutes after the last, some after exactly a day or more.
        store.now += dice.choice((QUARTER, QUARTER, 6 * HOUR, 23 * HOUR, DAY))
        app = dice.choice((1, 2))
        ips = [f"203.0.113.{dice.randrange(4)}" for _ in range(6)]
        rows = [blocked(ip, store.now - dice.choice((0, 0, HOUR, 30 * HOUR))) for ip in ips]
        # What comes in one body is put in order first.
        for row in sorted(rows, key=lambda row: row["ban_at"]):
            seen.report((app, row["ban_unique_id"]), row["ban_at"])
        plain = [legacy_ban(None, f"203.0.113.{dice.randrange(4)}") for _ in range(3)]
        for ip in {row["peer"]["ip_address"] for row in plain}:
            sent.report((app, ip), store.now)
        bodies = [
            store.submit(block_map(store.now + dice.randrange(1000), rows), QBCB, app),
            store.submit(legacy(store.now, *plain), PBH_3_2, app),
        ]
        await asyncio.gather(*bodies)
    stored = store.bans()
    mine = [row for row in stored if row["ban_unique_id"]]
    assert Counter(((row["userapp"], row["ban_unique_id"]), row["ban_at"]) for row in mine) == seen.first_times()
    others = [row for row in stored if not row["ban_unique_id"]]
    addresses = ((row["userapp"], ".".join(map(str, row["peer_ip"]))) for row in others)
    received = [row["received_at"] for row in others]
    assert Counter(zip(addresses, received, strict=True)) == sent.first_times()
    assert len(stored) > 30


def test_a_ban_stays_one_when_the_server_is_killed_meanwhile(start: Callable[..., RunningServer]) -> None:
    server = start()
    body = json.loads(read_sample("qbcb-bans.json"))
    for turn in range(3):
        moved = [ban | {"ban_at": ban["ban_at"] + turn * 20 * HOUR} for ban in body["bans"]]
        assert server.post({"populate_time": turn, "bans": moved}, agent=QBCB).status == 200
        if turn < 2:
            server.kill()
            server.start()
    rows = server.rows("ban")
    assert [row["ban_at"] for row in rows] == [ban["ban_at"] for ban in body["bans"]]


async def test_a_whole_block_map_again_and_again_writes_little_and_takes_little(store: Store) -> None:
    peers = [f"45.{number >> 8}.{number & 255}.1" for number in range(5000)]
    await store.submit(block_map(NOW, [blocked(ip, NOW, description="d" * 900) for ip in peers]), QBCB)
    await store.database.main.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    wal = store.database.path.with_name("sparkle.db-wal")
    store.now += QUARTER
    started = time.process_time()
    # The peers keep coming, so that every row has something to tell.
    await store.submit(block_map(store.now, [blocked(ip, store.now, description="d" * 900) for ip in peers]), QBCB)
    assert time.process_time() - started < 2
    # A page for each of the bans would be 20 MB.
    assert wal.stat().st_size < 1 << 20
    before = wal.stat().st_size
    store.now += MINUTE
    await store.submit(block_map(store.now, [blocked(ip, store.now, description="d" * 900) for ip in peers]), QBCB)
    assert wal.stat().st_size < before + (64 << 10)
    assert len(store.bans()) == 5000


async def test_what_a_body_counts_for_are_the_bans_that_are_new_in_it(store: Store) -> None:
    for _ in range(3):
        store.now += HOUR
        await store.submit(block_map(store.now, [blocked("203.0.113.5", store.now + n) for n in range(2)]), QBCB)
    with opened(store.database.path) as reader:
        assert [row[0] for row in reader.execute("SELECT rows FROM submission ORDER BY id")] == [1, 0, 0]


async def test_a_ban_is_let_go_when_it_has_not_been_reported_for_long_enough(store: Store) -> None:
    await store.submit(block_map(NOW, [blocked("203.0.113.5", NOW), blocked("203.0.113.6", NOW)]), QBCB)
    for day in range(1, 51):
        store.now = NOW + day * DAY
        await store.submit(block_map(store.now, [blocked("203.0.113.5", store.now)]), QBCB)
    keep = partial(bans.delete_old, before_ms=store.now - 45 * DAY, limit=1000)
    while await store.database.write(keep):
        pass
    [row] = store.bans()
    assert (row["peer_ip"], row["ban_at"]) == (bytes((203, 0, 113, 5)), NOW)
    with opened(store.database.path) as reader:
        bodies = [row[0] for row in reader.execute("SELECT id FROM submission")]
    # Its own body stays, with whose address it came from; those of days that are over go.
    assert row["submission"] in bodies and len(bodies) == 1 + 46
    store.now += 50 * DAY
    keep = partial(bans.delete_old, before_ms=store.now - 45 * DAY, limit=1000)
    while await store.database.write(keep):
        pass
    with opened(store.database.path) as reader:
        counts = (f"SELECT count(*) FROM {name}" for name in ("ban", "ban_last_report", "submission"))
        assert [reader.execute(sql).fetchone()[0] for sql in counts] == [0, 0, 0]


# --- In both shapes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [PCB, OWN_RULES])
@pytest.mark.parametrize("legacy_first", [True, False])
async def test_a_ban_that_comes_in_both_shapes_is_one(store: Store, legacy_first: bool, module: str) -> None:
    """The operator prefers the other shapes from now on, or the client was updated."""

    ips = [f"45.78.{number}.1" for number in range(5)]
    old = legacy(NOW, *(legacy_ban(number, ip, module=module) for number, ip in enumerate(ips)))
    new = {"bans": [modern_ban(NOW - MINUTE - n, ip, module=module) for n, ip in enumerate(ips)]}
    for body in (old, new) if legacy_first else (new, old):
        await store.submit(body, PBH20)
        store.now += 9 * DAY
    assert [row["ban_at"] for row in store.bans()] == [NOW - MINUTE - n for n in range(5)]
    assert {row["received_at"] for row in store.bans()} == {NOW}
    # Each shape is known from now on.
    for again in (old | {"populate_time": NOW + 1}, {"bans": new["bans"][::-1]}, old | {"populate_time": NOW + 2}):
        await store.submit(again, PBH20)
    assert len(store.bans()) == 5


@pytest.mark.parametrize(
    ("report", "bans"),
    [
        ({"at": NOW}, 1),
        ({"at": NOW - 30 * DAY}, 1),
        ({"at": NOW - 30 * DAY - 1}, 2),
        # The client can't have told of it before it was.
        ({"at": NOW + 1}, 2),
        ({"at": NOW, "port": 1}, 2),
        ({"at": NOW, "ip": "45.78.30.2"}, 2),
        ({"at": NOW, "module": "com.ghostchu.peerbanhelper.module.impl.rule.MultiDialingBlocker"}, 2),
        ({"at": NOW, "torrent_identifier": TORRENTS[1]}, 2),
        # Some clients didn't say whether a torrent is private, or knew its size later.
        ({"at": NOW, "torrent_is_private": None, "torrent_size": 7}, 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("legacy_first", [True, False])
async def test_shapes_are_of_one_ban_where_they_agree(store: Store, report: Row, bans: int, legacy_first: bool) -> None:
    bodies = [legacy(NOW, legacy_ban(1)), {"bans": [modern_ban(**report)]}]
    for body in bodies if legacy_first else bodies[::-1]:
        await store.submit(body, PBH20)
    assert len(store.bans()) == bans


async def test_of_several_bans_of_one_peer_each_has_one_counterpart(store: Store) -> None:
    days = [NOW + day * DAY for day in (0, 2, 5)]
    for number, at in enumerate(days):
        await store.submit(legacy(at + QUARTER, legacy_ban(number)), PBH20)
    await store.submit({"bans": [modern_ban(at) for at in days[1:]]}, PBH20)
    assert [row["ban_at"] for row in store.bans()] == [days[0] + QUARTER, *days[1:]]
    await store.submit({"bans": [modern_ban(at) for at in days]}, PBH20)
    assert [row["ban_at"] for row in store.bans()] == days
    # Another one, which it was banned for since.
    await store.submit(legacy(days[2] + DAY, legacy_ban(9)), PBH20)
    assert len(store.bans()) == 4


async def test_another_application_s_ban_is_another_ban(store: Store) -> None:
    await store.submit(legacy(NOW, legacy_ban(1)), PBH20, 1)
    await store.submit({"bans": [modern_ban(NOW)]}, PBH20, 2)
    assert len(store.bans()) == 2


async def test_one_peer_with_very_many_bans_holds_nobody_up(store: Store) -> None:
    started = time.process_time()
    await store.submit({"bans": [modern_ban(NOW - 1 - n) for n in range(4000)]}, PBH20)
    await store.submit(legacy(NOW, *(legacy_ban(n) for n in range(4000))), PBH20)
    await store.submit({"bans": [modern_ban(NOW - 9000 - n) for n in range(4000)]}, PBH20)
    sightings = [blocked("203.0.113.5", NOW - n * 2 * DAY) for n in range(4000)]
    await store.submit(block_map(NOW, sightings), QBCB)
    await store.submit(block_map(NOW + 1, sightings), QBCB)
    assert time.process_time() - started < 20


# --- What people are shown --------------------------------------------------------------------------------------------


def test_the_api_and_both_languages_pages_tell_when_a_ban_was_last_reported(shared: RunningServer) -> None:
    app, ip, at = shared.add_app(), "45.99.1.7", NOW - 9 * DAY
    for turn in range(3):
        shared.post(block_map(at, [blocked(ip, at + turn * HOUR)]), app, agent=QBCB)
    headers = {"X-BTN-Token": shared.token(), "Content-Type": "application/json"}
    body = json.dumps({"peerIp": ip}).encode()
    page = shared.request("POST", "/api/banhistory/query", body, headers).json()["data"]
    assert page["total"] == 1
    [row] = page["results"]
    assert (row["banAt"], row["lastReportedAt"] > row["insertTime"]) == (at, True)
    shape = shared.request("GET", "/openapi.json").json()["components"]["schemas"]["BanHistory"]
    assert shape["properties"]["lastReportedAt"] == {"type": "integer"}
    assert "lastReportedAt" in shape["required"]
    for language, label in (("en", "Last reported"), ("zh", "最近上报时间")):
        cookie = f"lang={language}; X-BTN-Token={headers['X-BTN-Token']}"
        text = shared.request("GET", f"/explore/bans?peerIp={ip}", headers={"Cookie": cookie}).body.decode()
        assert f"<dt>{label}</dt>" in text
    report = shared.get(f"/ping/queryIp?ip={ip}", app).json()
    # When a ban was by its client's clock is nothing for others: its receipt is.
    assert (report["bans"]["total"], report["bans"]["records"][0]["populate_time"]) == (1, row["insertTime"])


async def report_of(store: Store, ip: str) -> IpQuery:
    """What PeerBanHelper's panel shows of an address."""
    search = Search(store.database, store.ingest.streams)
    try:
        address = bytes(map(int, ip.split(".")))
        pages = [await search.page(query, 9000, 9000) for query in ip_report.queries(address, store.now)]
    finally:
        await search.close()
    return ip_report.report((), False, pages[0], pages[1], store.now)


async def test_the_panel_of_an_address_tells_of_a_ban_for_as_long_as_it_is_prolonged(store: Store) -> None:
    for day in range(20):
        store.now = NOW + day * DAY
        await store.submit(block_map(store.now, [blocked("203.0.113.5", store.now)]), QBCB)
    report = await report_of(store, "203.0.113.5")
    assert (report.color, report.bans.total, report.bans.records[0].populate_time) == ("orange", 1, NOW)
    store.now += 7 * DAY
    assert (await report_of(store, "203.0.113.5")).bans.total == 1
    store.now += 1
    assert (await report_of(store, "203.0.113.5")).bans.total == 0


def history(up: int, first: int, last: int, torrent: str = TORRENTS[0], ip: str = "45.79.4.1") -> Row:
    times = {"downloaded_offset": 0, "uploaded_offset": up, "first_time_seen": first, "last_time_seen": last}
    return legacy_peer(ip, torrent) | {"peer_port": 0, "uploaded": up} | times


def swarm(up: int, first: int, last: int, torrent: str = TORRENTS[0], port: int = 6881) -> Row:
    return {
        "torrent_identifier": torrent, "torrent_size": 1 << 30, "downloader": "qb", "peer_ip": "45.79.4.1",
        "peer_port": port, "to_peer_traffic": up, "to_peer_traffic_offset": up, "from_peer_traffic": 0,
        "from_peer_traffic_offset": 0, "first_time_seen": first, "last_time_seen": last,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("histories", "swarms", "records", "traffic"),
    [
        # The history began earlier and goes on later; the swarm was sent once, soon.
        ([history(500, NOW - 9000, NOW - 10)], [swarm(100, NOW - 8000, NOW - 7990)], 1, 500),
        # Two connections of one address, of which the history was told before the second.
        (
            [history(500, NOW - 9000, NOW - 500)],
            [swarm(400, NOW - 9000, NOW - 9), swarm(300, NOW - 99, NOW, port=2)],
            2,
            700,
        ),
        # One after the other.
        ([history(500, NOW - 9000, NOW - 500)], [swarm(100, NOW - 499, NOW)], 2, 600),
        ([history(500, NOW - 9000, NOW - 500)], [swarm(100, NOW - 9000, NOW - 500, TORRENTS[1])], 2, 600),
        # Nobody knows of these whether they are one torrent.
        ([history(500, NOW - 9, NOW, NO_TORRENT)], [swarm(100, NOW - 9, NOW, NO_TORRENT)], 2, 600),
        ([history(500, NOW - 9, NOW), history(400, NOW - 8, NOW)], [], 2, 900),
        ([], [swarm(100, NOW - 9, NOW), swarm(100, NOW - 9, NOW, port=2)], 2, 200),
    ],
    ids=range(7),
)
async def test_a_transfer_that_comes_in_both_shapes_counts_once(
    store: Store, histories: list[Row], swarms: list[Row], records: int, traffic: int
) -> None:
    await store.submit({"populate_time": NOW, "peers": histories}, PBH20)
    await store.submit({"swarms": swarms}, PBH20)
    report = await report_of(store, "45.79.4.1")
    assert (report.swarms.total, len(report.swarms.records)) == (records, records)
    assert report.traffic.to_peer_traffic == traffic
    # What another application saw is another transfer.
    await store.submit({"swarms": [swarm(7, NOW - 9000, NOW)]}, PBH20, 2)
    assert (await report_of(store, "45.79.4.1")).traffic.to_peer_traffic == traffic + 7


# --- Stored by the program before -------------------------------------------------------------------------------------

OLD_COLUMNS = (
    *("submission", "received_at", "userapp", "ban_at", "peer_ip", "peer_port", "client", "torrent"),
    *("from_peer_traffic", "from_peer_traffic_speed", "to_peer_traffic", "to_peer_traffic_speed", "btn_ban"),
    *("module", "rule", "ban_unique_id", "dedupe"),
)
MODULES = {1: "com.SimpleTracker.qBCB.CheckAllTorrent", 2: PCB}


class Before:
    """A database of schema 8, and what its program stored: one row for each time that qBittorrent-ClientBlocker said,
    one a day of what came without an id."""

    def __init__(self, path: Path) -> None:
        self.main = sqlite3.connect(path, isolation_level=None)
        for version in range(1, 9):
            for statement in connection.statements(connection.schema(f"main_{version:04}.sql")):
                self.main.execute(statement)
        self.main.execute("PRAGMA user_version=8")
        self.main.executemany("INSERT INTO label VALUES (?,?)", MODULES.items())
        self.main.executemany(
            "INSERT INTO torrent VALUES (?,?,0,0,1)", [(n, bytes.fromhex(name)) for n, name in enumerate(TORRENTS, 1)]
        )
        self.main.execute("INSERT INTO torrent VALUES (100, 'odd name', 0, 0, 1)")
        self.main.execute("INSERT INTO client_identity VALUES (1, '-XX0001-', 'Some 1.0', 0, 0, 0, 0)")
        self._numbers = itertools.count(1)

    def ban(self, key: tuple[object, ...], received: int, ban_at: int | None, **more: Any) -> None:
        row: Row = dict.fromkeys(OLD_COLUMNS, 0) | {"rule": "r", "ban_unique_id": None, "client": 1, "torrent": 1}
        row |= {"submission": next(self._numbers), "received_at": received, "userapp": 1, "ban_at": ban_at}
        row |= {"peer_ip": bytes((203, 0, 113, 5)), "peer_port": 6881, "dedupe": stable_number(key)} | more
        self.main.execute(
            "INSERT INTO submission VALUES (?,?,?,NULL,?,x'',1,0)",
            (row["submission"], received, row["userapp"], received if ban_at is None else ban_at),
        )
        marks = ",".join("?" * len(OLD_COLUMNS))
        self.main.execute(f"INSERT INTO ban ({','.join(OLD_COLUMNS)}) VALUES ({marks})", list(row.values()))

    def blocked(self, received: int, ban_at: int, unique: str = "203.0.113.5:6881", **more: Any) -> None:
        app = more.get("userapp", 1)
        values = {"module": 1, "rule": "Bad-Relative_Progress_Uploaded", "ban_unique_id": unique}
        self.ban((app, "id_time", unique, ban_at), received, ban_at, **values | more)

    def nameless(self, received: int, **more: Any) -> None:
        key = (more.get("userapp", 1), "content", bytes((203, 0, 113, 5)), 6881, TORRENTS[0], PCB, "谎报")
        self.ban(key, received, received - 5, **{"module": 2, "rule": "谎报"} | more)


async def test_bans_that_the_program_before_stored_many_times_become_one(tmp_path: Path) -> None:
    path = tmp_path / "sparkle.db"
    before = Before(path)
    before.main.execute("BEGIN")
    start = NOW - 20 * DAY
    for turn in range(3 * 96):
        at = start + turn * QUARTER
        before.blocked(at + 9, at)
        before.blocked(at + 9, at, userapp=2)
        before.blocked(at + 9, at, torrent=100)
    # Another ban of the same peer, after a day and a millisecond; and one that was told once.
    before.blocked(start + 5 * DAY, start + 287 * QUARTER + DAY + 1)
    before.blocked(start, start, "203.0.113.5:1", peer_port=1)
    # One a day is what was kept of three days without a pause; then it was off.
    for hours in (0, 24.25, 48.5, 72.75, 200):
        before.nameless(start + int(hours * HOUR))
    # What has a name or a time of its own was never stored twice.
    for number in range(3):
        before.ban((number, "id"), start + number, start, module=2, ban_unique_id=f"{number:064x}")
        before.ban((number, "time"), start + number, start, module=2)
    before.main.execute("COMMIT")
    before.main.close()

    async with opened_store(path) as store:
        rows = store.bans()
        mine = [
            (
                row["userapp"],
                row["torrent"],
                row["ban_unique_id"],
                row["ban_at"] - start,
                row["received_at"] - start,
            )
            for row in rows
            if row["module"] == 1
        ]
        assert sorted(mine) == [
            (1, 1, "203.0.113.5:1", 0, 0),
            (1, 1, "203.0.113.5:6881", 0, 9),
            (1, 1, "203.0.113.5:6881", 287 * QUARTER + DAY + 1, 5 * DAY),
            (1, 100, "203.0.113.5:6881", 0, 9),
            (2, 1, "203.0.113.5:6881", 0, 9),
        ]
        nameless = [row for row in rows if row["rule"] == "谎报"]
        assert [(row["received_at"] - start) / HOUR for row in nameless] == [0, 200]
        assert [(row["last_reported_at"] - start) / HOUR for row in nameless] == [72.75, 200]
        assert len(rows) == 5 + 2 + 6
        # What comes next goes on from there.
        last = start + 287 * QUARTER + DAY + 1
        store.now = start + 200 * HOUR + DAY
        for torrent in (TORRENTS[0].upper(), "odd name"):
            for seen in (last + HOUR, last + 20 * HOUR):
                await store.submit(block_map(store.now, [blocked("203.0.113.5", seen, torrent)]), QBCB)
        row = legacy_ban(None, "203.0.113.5", port=6881)
        await store.submit(legacy(store.now, row), PBH_3_2)
        # The other torrent's ban was over by then.
        assert len(store.bans()) == len(rows) + 1
        with opened(path) as reader:
            assert reader.execute("PRAGMA user_version").fetchone()[0] >= 9
            assert reader.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            assert reader.execute("PRAGMA foreign_key_check").fetchall() == []


async def test_a_migrated_database_has_the_tables_and_indexes_of_a_new_one(tmp_path: Path) -> None:
    Before(tmp_path / "old.db").main.close()

    async def schema(path: Path) -> list[tuple[str, str, str]]:
        database = Database(path)
        await database.open()
        sql = "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY 1, 2"
        rows = await database.read(sql)
        await database.close()
        return [(kind, name, " ".join(text.split())) for kind, name, text in rows]

    assert await schema(tmp_path / "old.db") == await schema(tmp_path / "new.db")
