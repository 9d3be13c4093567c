"""A client whose list of peers is never emptied: what says the same as before is no sighting, of that client alone."""

import asyncio
import itertools
import json
import resource
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from server import PBH20, App, RunningServer, embedded, rows

from sparkle_lite.ingest.repeats import LastSightings
from sparkle_lite.turns import Owner
from sparkle_lite.wire.bodies import PeerSnapshot
from sparkle_lite.wire.dialect import detect

QBCB = "qBittorrent-ClientBlocker/3.8b8 (linux, amd64) BTN-Protocol/0.0.0-dev"
OTHERS = [PBH20, "PeerBanHelper/7.4.15 BTN-Protocol-Version/10", "PeerBanHelper-Rust/0.1.4/BTN-Protocol/2.0.1/20", "x"]
_TIMES = itertools.count(1_784_277_000_000, 1000)
Row = dict[str, Any]


def peer(number: int = 1, **more: Any) -> Row:
    return {
        "ip_address": f"203.0.113.{number}",
        "peer_port": 60874,
        "peer_id": "-HP0001-",
        "client_name": "HP 0.0.0.1",
        "torrent_identifier": f"{0xABCDEF:064x}",
        "torrent_is_private": False,
        "torrent_size": 5044211712,
        "downloaded": 0,
        "rt_download_speed": -1,
        "uploaded": 734003200,
        "rt_upload_speed": -1,
        "peer_progress": 0.25,
        "downloader_progress": 1,
        "peer_flag": "",
    } | more


def snapshot(server: RunningServer, app: App, *peers: Row, agent: str = QBCB, rejected: int = 0) -> list[Row]:
    """Send a list of peers; the rows that are stored of it."""
    at = next(_TIMES)
    answer = server.post({"populate_time": at, "peers": list(peers)}, app, agent=agent)
    assert (answer.status, answer.rejected) == (200, rejected)
    return [row for row in server.rows("snapshot", app) if row["populate_time"] == at]


def test_rows_that_say_the_same_as_before_are_not_stored_again(shared: RunningServer, app: App) -> None:
    before = shared.metric("sparkle_duplicates_total", what="row")
    assert len(snapshot(shared, app, peer(1), peer(2), peer(3))) == 3
    assert snapshot(shared, app, peer(1), peer(2), peer(3)) == []
    [row] = snapshot(shared, app, peer(3), peer(2, uploaded=734003201), peer(1))
    assert (row["peer_ip"], row["to_peer_traffic"]) == ("203.0.113.2", 734003201)
    assert [row["peer_ip"] for row in snapshot(shared, app, peer(1), peer(4), peer(2, uploaded=734003201))] == [
        "203.0.113.4"
    ]
    # Whoever left and came back with other counters, lower ones too, was seen again.
    assert len(snapshot(shared, app, peer(2))) == 1
    assert shared.metric("sparkle_duplicates_total", what="row") - before == 3 + 2 + 2


@pytest.mark.parametrize(
    "change", [{"downloaded": 1}, {"uploaded": 1}, {"peer_progress": 0.26}, {"peer_progress": None}], ids=str
)
def test_a_change_of_traffic_or_progress_is_a_sighting(shared: RunningServer, app: App, change: Row) -> None:
    assert len(snapshot(shared, app, peer())) == 1
    assert len(snapshot(shared, app, peer(**change))) == 1
    assert len(snapshot(shared, app, peer(**change))) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"ip_address": "203.0.113.99"},
        {"peer_port": 1},
        {"torrent_identifier": "another"},
        {"peer_id": "-XX0001-"},
        {"client_name": "another"},
    ],
    ids=str,
)
def test_another_address_port_torrent_or_client_is_another_peer(shared: RunningServer, app: App, change: Row) -> None:
    assert len(snapshot(shared, app, peer())) == 1
    assert len(snapshot(shared, app, peer(), peer(**change))) == 1
    assert len(snapshot(shared, app, peer(), peer(**change))) == 0


@pytest.mark.parametrize("agent", OTHERS)
def test_of_other_clients_every_row_is_a_sighting(shared: RunningServer, app: App, agent: str) -> None:
    assert [len(snapshot(shared, app, peer(1), peer(2), agent=agent)) for _ in range(3)] == [2, 2, 2]


def test_what_one_application_said_says_nothing_of_anothers_peers(shared: RunningServer, app: App) -> None:
    another = shared.add_app()
    assert len(snapshot(shared, app, peer())) == 1
    assert len(snapshot(shared, another, peer())) == 1


def test_a_bad_row_is_rejected_each_time(shared: RunningServer, app: App) -> None:
    bad = [peer(1, ip_address="10.0.0.1"), peer(2, peer_port=99_999), peer(3, torrent_identifier="")]
    for kept in (1, 0, 0):
        assert len(snapshot(shared, app, *bad, peer(4), rejected=3)) == kept
    assert len(snapshot(shared, app, peer(2), peer(4))) == 1


def test_after_a_restart_unchanged_rows_are_stored_once_more(start: Callable[..., RunningServer]) -> None:
    server = start()
    assert [len(snapshot(server, server.app, peer(1), peer(2))) for _ in range(2)] == [2, 0]
    server.restart()
    assert [len(snapshot(server, server.app, peer(1), peer(2))) for _ in range(2)] == [2, 0]


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process can be changed on Linux only")
def test_what_could_not_be_stored_was_not_said(start: Callable[..., RunningServer]) -> None:
    server = start()
    assert len(snapshot(server, server.app, peer(1))) == 1
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    many = [peer(n) for n in range(1, 200)]
    assert server.post({"populate_time": next(_TIMES), "peers": many}, agent=QBCB).status == 503
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert len(snapshot(server, server.app, *many)) == 198
    assert len(snapshot(server, server.app, *many)) == 0


async def test_lists_that_arrive_together_are_compared_with_each_other(tmp_path: Path) -> None:
    bodies = [
        json.dumps({"populate_time": at, "peers": [peer(n, uploaded=n * at) for n in range(5)]}).encode()
        for at in (1, 2, 3)
    ] + [json.dumps({"populate_time": 4, "peers": [peer(n, uploaded=n * 3) for n in range(9)]}).encode()]
    async with embedded(tmp_path) as server:
        outcomes = await asyncio.gather(
            *(server.ingest.submit(Owner(None, 1), None, body, "", detect(QBCB)) for body in bodies)
        )
    assert [(outcome.accepted, outcome.rejected) for outcome in outcomes] == [(5, 0), (5, 0), (5, 0), (9, 0)]
    stored = rows(server.database.path, "snapshot")
    assert Counter(row["populate_time"] for row in stored) == {1: 5, 2: 4, 3: 4, 4: 4}


@given(st.lists(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), max_size=8), max_size=12))
def test_a_row_is_new_unless_the_last_one_of_that_peer_said_the_same(snapshots: list[list[tuple[int, int]]]) -> None:
    sightings, last = LastSightings(1000), dict[int, int]()
    for pairs in snapshots:
        said: dict[int, int] = {}
        sent = [PeerSnapshot(peer_ip=str(who), torrent_identifier="t", to_peer_traffic=what) for who, what in pairs]
        taken = [(int(row.peer_ip), row.to_peer_traffic) for row in sightings.changed(1, sent, Counter(), {}, said)]
        expected = []
        for who, what in pairs:
            if last.get(who) != what:
                expected.append((who, what))
            last[who] = what
        assert taken == expected
        sightings.keep(said)


def test_memory_is_bounded_and_who_was_not_reported_for_longest_is_forgotten() -> None:
    sightings = LastSightings(100)

    def new(*peers: int) -> list[int]:
        said: dict[int, int] = {}
        sent = [PeerSnapshot(peer_ip=str(n), torrent_identifier="t") for n in peers]
        found = [int(row.peer_ip) for row in sightings.changed(1, sent, Counter(), {}, said)]
        sightings.keep(said)
        return found

    for start in range(0, 1000, 20):
        assert new(*range(start, start + 20), 5) == list(range(start, start + 20))
        assert len(sightings) <= 2 * 121
    assert new(5, *range(980, 1000)) == []
    assert new(200) == [200]
