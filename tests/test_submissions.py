"""Submissions as each client sends them, byte for byte, and what is stored of them; then everything that can be bad."""

import contextlib
import gzip
import itertools
import json
import random
import socket
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from server import PBH20, App, Kind, RunningServer, chunked, count, read_answer, wait_for

from sparkle_lite.ingest import WORTH_AHEAD

WIRE = Path(__file__).parent / "wire"
T52 = "52fa13494a4571a951b46b1a04be19ab9d8089c3d3761956c99f5435e6f2c8ad"
TD8 = "d8a121d8d6fe93d9f827f4eb5bb4f4d8e64ad3dc8b38d6222c3d050c3f0f3ff2"
TE5 = "e55bfb26b3eb7949ec751af3c54ec477196b52dcd1a2eeb54b5018aef3cb34e2"
NO_TORRENT = "7e071fd9b023ed8f18458a73613a0834f6220bd5cc50357ba3493c6040a9ea8c"
Row = dict[str, Any]
_TIMES = itertools.count(1_700_000_000_000)


# --- What the samples say, in the names that all clients share --------------------------------------------------------

HP: Row = {
    "peer_ip": "203.0.113.57",
    "peer_port": 60874,
    "peer_id": "-HP0001-",
    "peer_client_name": "HP 0.0.0.1",
    "torrent_identifier": T52,
    "torrent_is_private": False,
    "torrent_size": 5044211712,
    "from_peer_traffic": 0,
    "from_peer_traffic_speed": 0,
    "to_peer_traffic": 734003200,
    "to_peer_traffic_speed": 1048576,
    "peer_progress": 0.0,
    "downloader_progress": 0.3929437099724969,
    "peer_flag": "U I X P",
}
TR: Row = {
    "peer_ip": "2001:db8:4a1:7::c3",
    "peer_port": 51413,
    "peer_id": "-TR4050-",
    "peer_client_name": "Transmission 4.0.5",
    "torrent_identifier": TD8,
    "torrent_is_private": True,
    "torrent_size": 1288490188,
    "from_peer_traffic": 16384,
    "from_peer_traffic_speed": 0,
    "to_peer_traffic": 98304,
    "to_peer_traffic_speed": 20480,
    "peer_progress": 0.1245,
    "downloader_progress": 1.0,
    "peer_flag": "u E P",
}
XL: Row = HP | {
    "peer_ip": "198.51.100.9",
    "peer_port": 6881,
    "peer_id": "-XL0019-",
    "peer_client_name": "-XL0019-é中",  # as sent, but for its U+0000
    "to_peer_traffic": 0,
    "to_peer_traffic_speed": 0,
    "peer_progress": 1e-4,
    "peer_flag": None,
}
NO_SPEED: Row = {"from_peer_traffic_speed": -1, "to_peer_traffic_speed": -1}
NOT_SAID: Row = {"torrent_is_private": None}
NAMELESS: Row = {"peer_id": "", "peer_client_name": ""}
QBCB: Row = HP | NO_SPEED | {"torrent_identifier": TE5, "downloader_progress": 1.0, "peer_flag": ""}

IMPL = "com.ghostchu.peerbanhelper.module.impl.rule."
NO_ID: Row = {"ban_unique_id": None, "description": None, "structured_data": None}
HP_BAN: Row = HP | NO_ID | {"btn_ban": False, "module": IMPL + "PeerIdBlacklist", "rule": "匹配 PeerId 规则: -hp"}
XL_BAN: Row = (
    XL
    | NO_ID
    | {
        "btn_ban": True,
        "module": IMPL + "BtnNetworkOnline",
        "rule": "[BTN Ban] Match IP ruleset (PCDN): 203.0.113.0/24",
    }
)
QBCB_BAN: Row = QBCB | NO_ID | {"torrent_size": 0, "btn_ban": False}

TIMES: Row = {"first_time_seen": 1784270000001, "last_time_seen": 1784276999987}
NO_SPEEDS: Row = NO_SPEED | {"from_peer_traffic_speed_max": -1, "to_peer_traffic_speed_max": -1}
HISTORY: Row = (
    NO_SPEEDS
    | NOT_SAID
    | TIMES
    | {"origin": "history", "downloader": None, "peer_port": -1, "peer_progress": None, "downloader_progress": None}
)
HP_TOTALS: Row = {
    "from_peer_traffic": 8192,
    "from_peer_traffic_offset": 0,
    "to_peer_traffic": 734068736,
    "to_peer_traffic_offset": 734003200,
}
TR_TOTALS: Row = {
    "from_peer_traffic": 24576,
    "from_peer_traffic_offset": 16384,
    "to_peer_traffic": 163840,
    "to_peer_traffic_offset": 98304,
}
XL_TOTALS: Row = HP_TOTALS | {"to_peer_traffic": 65536, "to_peer_traffic_offset": 0}
HP_HISTORY, TR_HISTORY, XL_HISTORY = HP | HISTORY | HP_TOTALS, TR | HISTORY | TR_TOTALS, XL | HISTORY | XL_TOTALS
SWARM: Row = TIMES | {"origin": "swarm", "downloader": "d5a4cbb2-6d0a-4ba3-9d06-6b8f8d4a9f55"}
MAXIMA: Row = {"from_peer_traffic_speed_max": 4194304, "to_peer_traffic_speed_max": 8388608}
RUST_TIMES: Row = {
    "first_time_seen": int(datetime(2026, 7, 17, 6, 33, 20, tzinfo=UTC).timestamp() * 1000),
    "last_time_seen": int(datetime(2026, 7, 17, 8, 29, 59, 987000, tzinfo=UTC).timestamp() * 1000),
}

# --- How each client writes its requests ------------------------------------------------------------------------------

Form = Callable[[str, App, bytes], bytes]


def jdk(agent: str, *, with_x: bool = True) -> Form:
    """PeerBanHelper up to 8.0.5-beta1: the JDK's client, which offers h2c on plain http."""

    def form(path: str, app: App, body: bytes) -> bytes:
        return _head(
            path,
            "Connection: Upgrade, HTTP2-Settings",
            "Host: btn.example:7799",
            "HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA",
            "Transfer-encoding: chunked",
            "Upgrade: h2c",
            "Accept-Encoding: gzip,deflate" if with_x else "Accept-Encoding: deflate, gzip",
            *_pbh_credentials(app, with_x=with_x),
            "Content-Encoding: gzip",
            "Content-Type: application/json",
            f"User-Agent: {agent}",
        ) + chunked(gzip.compress(body), 256)

    return form


def okhttp(agent: str, *more: str) -> Form:
    """PeerBanHelper since 8.0.5-beta2."""

    def form(path: str, app: App, body: bytes) -> bytes:
        return _head(
            path,
            f"User-Agent: {agent}",
            "Content-Type: application/json",
            *_pbh_credentials(app, with_x=True),
            "Content-Encoding: gzip",
            *more,
            "Transfer-Encoding: chunked",
            "Host: btn.example",
            "Connection: Keep-Alive",
            "Accept-Encoding: gzip",
        ) + chunked(gzip.compress(body), 8192)

    return form


def qbcb(path: str, app: App, body: bytes) -> bytes:
    """qBittorrent-ClientBlocker: Go's client, with a length."""
    body = gzip.compress(body)
    return (
        _head(
            path,
            "Host: btn.example",
            "User-Agent: qBittorrent-ClientBlocker/3.8b8 (linux, amd64) BTN-Protocol/0.0.0-dev",
            f"Content-Length: {len(body)}",
            f"Authorization: Bearer {app.app_id}@{app.secret}",
            "Content-Encoding: gzip",
            "Content-Type: application/json",
            f"X-Btn-Appid: {app.app_id}",
            f"X-Btn-Appsecret: {app.secret}",
            "Accept-Encoding: gzip",
        )
        + body
    )


def rust(path: str, app: App, body: bytes) -> bytes:
    """PeerBanHelper-Rust: reqwest writes header names in lower case."""
    body = gzip.compress(body)
    return (
        _head(
            path,
            "user-agent: PeerBanHelper-Rust/0.1.4/BTN-Protocol/2.0.1/20",
            "content-type: application/json",
            f"x-btn-appid: {app.app_id}",
            f"x-btn-appsecret: {app.secret}",
            f"btn-appid: {app.app_id}",
            f"btn-appsecret: {app.secret}",
            f"authentication: Bearer {app.app_id}@{app.secret}",
            "content-encoding: gzip",
            "accept: */*",
            "accept-encoding: gzip",
            "host: btn.example",
            f"content-length: {len(body)}",
        )
        + body
    )


def _pbh_credentials(app: App, *, with_x: bool) -> list[str]:
    old = [f"BTN-AppID: {app.app_id}", f"BTN-AppSecret: {app.secret}"]
    new = [
        f"X-BTN-AppID: {app.app_id}",
        f"X-BTN-AppSecret: {app.secret}",
        f"Authentication: Bearer {app.app_id}@{app.secret}",
    ]
    return old + new if with_x else old


def _head(path: str, *lines: str, method: str = "POST") -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", *lines, "", "")).encode()


PBH9 = "(docker; Linux,6.8.0-45-generic,bookworm unknown) BTN-Protocol"
V3 = jdk("PeerBanHelper/3.2.0 BTN-Protocol/0.0.0-dev", with_x=False)
V402 = jdk("PeerBanHelper/4.0.1 BTN-Protocol/0.0.0-dev", with_x=False)
V5 = jdk("PeerBanHelper/5.0.6 BTN-Protocol/0.0.0-dev")
V7 = jdk("PeerBanHelper/7.1.5 BTN-Protocol/0.0.2")
V74 = jdk("PeerBanHelper/7.4.10 (release; Windows 11,10.0,x unknown) BTN-Protocol/0.0.3 BTN-Protocol-Version/10")
V80 = jdk("PeerBanHelper/8.0.4 (docker; Linux,6.8,x unknown) BTN-Protocol/0.1.0 BTN-Protocol-Version/11")
V9 = okhttp(f"PeerBanHelper/9.1.5 {PBH9}/2.0.1 BTN-Protocol-Version/13")
V95 = okhttp(PBH20, "X-BTN-PowID: 2f0e2a4e-1111-4f0e-9a53-5d5c9f0f7b11", "X-BTN-PowSolution: AAAAAAAAB+k=")
PEERS, BANS, HISTORIES = "/ping/peers/submit", "/ping/bans/submit", "/ping/histories/submit"

SAMPLES: list[tuple[str, str, Form, Kind, int | None, list[Row]]] = [
    (
        "pbh-legacy-peers-v3_2-v7_3_2.json",
        PEERS,
        V3,
        "snapshot",
        1713971696000,
        [HP | NOT_SAID, TR | NOT_SAID],
    ),
    ("pbh-legacy-peers.json", PEERS, V74, "snapshot", 1784277000123, [HP, TR, XL]),
    ("pbh-legacy-peers.json", PEERS, V95, "snapshot", 1784277000123, [HP, TR, XL]),
    (
        "qbcb-peers.json",
        PEERS,
        qbcb,
        "snapshot",
        1784277000000,
        [
            QBCB,
            QBCB
            | {
                "peer_ip": TR["peer_ip"],
                "peer_port": 51413,
                "peer_id": "",
                "peer_client_name": "Transmission <dev> & co",
                "from_peer_traffic": 16384,
                "to_peer_traffic": 98304,
                "peer_progress": 0.1245,
            },
        ],
    ),
    (
        "pbh-legacy-bans-v3_2-v3_5_1.json",
        BANS,
        V3,
        "ban",
        1714280802047,
        [HP_BAN | NOT_SAID | {"ban_at": 1714280802047}, XL_BAN | NOT_SAID | {"ban_at": 1714280802047}],
    ),
    (
        "pbh-legacy-bans-v4_0-v7_3_2.json",
        BANS,
        V402,
        "ban",
        1719500000000,
        [
            HP_BAN | NOT_SAID | {"ban_at": 1719500000000, "ban_unique_id": "0b2f6c1e-3a44-4f0e-9a53-5d5c9f0f7b11"},
            XL_BAN | NOT_SAID | {"ban_at": 1719500000000, "ban_unique_id": "7d1f8a52-55a1-4f0b-8d1c-1d4f4e0a9c02"},
        ],
    ),
    (
        "pbh-legacy-bans.json",
        BANS,
        V9,
        "ban",
        1784277000456,
        [
            HP_BAN
            | {
                "ban_at": 1784277000456,
                "ban_unique_id": "0c6cd86454346c7beffbd1519bb52832515dbd01ed7cd260540820fe60bef121",
                "structured_data": {"type": "peerId", "rule": "-hp"},
            },
            XL_BAN
            | {
                "ban_at": 1784277000456,
                "ban_unique_id": "56fc7db3a254867ea7fff864b791eafae8e54ccfbe4fca197fc4f918576f8de7",
            },
        ],
    ),
    (
        "qbcb-bans.json",
        BANS,
        qbcb,
        "ban",
        1784277000000,
        [
            QBCB_BAN
            | {
                "module": "com.SimpleTracker.qBCB.CheckPeer",
                "rule": "Bad-Client_Normal",
                "ban_at": 1784276100000,
                "ban_unique_id": "203.0.113.57:60874",
            },
            QBCB_BAN
            | {
                "peer_ip": "198.51.100.9",
                "peer_port": -1,
                "peer_id": "-XL0019-",
                "peer_client_name": "-XL0019-",
                "to_peer_traffic": 0,
                "btn_ban": True,
                "module": "com.SimpleTracker.qBCB.BTN",
                "rule": "Bad-IP_FromBTN (PCDN)",
                "ban_at": 1784276160000,
                "ban_unique_id": "198.51.100.9:-1",
            },
            QBCB_BAN
            | NAMELESS
            | {
                "peer_ip": "192.0.2.44",
                "peer_port": -1,
                "torrent_identifier": NO_TORRENT,
                "to_peer_traffic": 0,
                "module": "com.SimpleTracker.qBCB.CheckAllIP",
                "rule": "Too many ports",
                "ban_at": 1784276220000,
                "ban_unique_id": "192.0.2.44:-1",
            },
        ],
    ),
    ("pbh-histories-v7_0-v7_3_2.json", HISTORIES, V7, "swarm", 1730000000789, [HP_HISTORY, TR_HISTORY]),
    ("pbh-histories-v7_3_3-v9_0.json", HISTORIES, V80, "swarm", 1750000000789, [HP_HISTORY, TR_HISTORY]),
    ("pbh-histories.json", HISTORIES, V9, "swarm", 1784277000789, [HP_HISTORY, TR_HISTORY, XL_HISTORY]),
    (
        "qbcb-histories.json",
        HISTORIES,
        qbcb,
        "swarm",
        1784277000000,
        [
            HP
            | HISTORY
            | {
                "torrent_identifier": TE5,
                "peer_port": 60874,
                "from_peer_traffic_offset": 0,
                "to_peer_traffic_offset": 1048576,
                "peer_progress": 0.0,
                "downloader_progress": 1.0,
                "peer_flag": "",
                "first_time_seen": 1784277000000,
                "last_time_seen": 1784277000000,
            }
        ],
    ),
    # Shapes decide, not paths: a client that was offered another server's shapes loses nothing here.
    (
        "pbh-modern-bans.json",
        BANS,
        V95,
        "ban",
        None,
        [
            HP_BAN
            | NO_SPEED
            | {
                "ban_at": 1784276100123,
                "module": IMPL + "ProgressCheatBlocker",
                "rule": "进度差异过大",
                "description": "客户端进度: 0.00%, 实际进度: 14.55%",
                "structured_data": {"type": "difference", "clientReportedProgress": 0.0, "actualProgress": 0.1455},
            },
            TR
            | NO_ID
            | NO_SPEED
            | {
                "ban_at": 1784276200456,
                "btn_ban": True,
                "module": IMPL + "BtnNetworkOnline",
                "rule": "IP Denylist",
                "description": "Matched denylist:  [untrusted] 5 votes",
                "structured_data": {"type": "ip"},
            },
            XL
            | NO_ID
            | NO_SPEED
            | NAMELESS
            | {
                "ban_at": 1784276300789,
                "peer_port": 0,
                "btn_ban": False,
                "module": IMPL + "AutoRangeBan",
                "rule": "",
                "description": "",
            },
        ],
    ),
    (
        "pbh-v8-bans.json",
        BANS,
        V80,
        "ban",
        None,
        [
            HP_BAN
            | NO_SPEED
            | {
                "ban_at": 1755000000123,
                "module": IMPL + "ProgressCheatBlocker",
                "rule": "Progress cheat",
                "structured_data": {"type": "difference"},
            }
        ],
    ),
    (
        "rust-bans.json",
        BANS,
        rust,
        "ban",
        None,
        [
            HP_BAN
            | NO_SPEED
            | {
                "peer_client_name": "",
                "peer_flag": None,
                "ban_at": 1784276100123,
                "module": "ProgressCheatBlocker",
                "rule": "pcb:difference",
                "description": "进度差异过大",
            },
            TR
            | NO_ID
            | NO_SPEED
            | {
                "peer_id": "",
                "torrent_identifier": NO_TORRENT,
                "torrent_is_private": False,
                "torrent_size": 0,
                "ban_at": 1784276160456,
                "btn_ban": True,
                "module": "BtnNetworkOnline",
                "rule": "btn:denylist",
                "description": "IP 2001:db8:4a1:7::c3 命中 BTN 黑名单",
            },
        ],
    ),
    (
        "pbh-modern-swarm.json",
        PEERS,
        V95,
        "swarm",
        None,
        [
            HP | SWARM | MAXIMA | HP_TOTALS,
            TR | SWARM | MAXIMA | TR_TOTALS,
            XL | SWARM | MAXIMA | XL_TOTALS | NAMELESS | {"peer_port": 0, "peer_flag": ""},
        ],
    ),
    (
        "pbh-modern-swarm-v9_2_0-v9_2_3.json",
        PEERS,
        V95,
        "swarm",
        None,
        [
            TR | SWARM | NO_SPEEDS | TR_TOTALS,
            HP | SWARM | NO_SPEEDS | HP_TOTALS | NOT_SAID | {"peer_flag": ""},
        ],
    ),
    (
        "pbh-v8-swarm.json",
        PEERS,
        V80,
        "swarm",
        None,
        [
            TR
            | SWARM
            | NO_SPEEDS
            | {
                "torrent_size": 0,
                "from_peer_traffic_offset": 16384,
                "to_peer_traffic_offset": 98304,
                "first_time_seen": 1755000000123,
                "last_time_seen": 1755000900456,
            }
        ],
    ),
    (
        "rust-swarm.json",
        PEERS,
        rust,
        "swarm",
        None,
        [
            HP
            | SWARM
            | RUST_TIMES
            | {
                "downloader": "qb-home",
                "from_peer_traffic_offset": 0,
                "to_peer_traffic": 734003200 + 1073741824,
                "to_peer_traffic_offset": 1073741824,
                "from_peer_traffic_speed_max": 0,
                "to_peer_traffic_speed_max": 8388608,
            }
        ],
    ),
]


def sample(name: str) -> bytes:
    return (WIRE / name).read_bytes()


def send(server: RunningServer, app: App, data: bytes) -> Any:
    with server.connect(app) as sock:
        sock.sendall(data)
        return read_answer(sock)


def check(server: RunningServer, app: App, kind: Kind, populate_time: int | None, expected: list[Row]) -> None:
    found = server.rows(kind, app)
    assert len(found) == len(expected)
    for row, wanted in zip(found, expected, strict=True):
        if row.get("structured_data"):
            row["structured_data"] = json.loads(row["structured_data"])
        wanted = wanted | {"populate_time": populate_time, "address": app.source or "127.0.0.1"}
        assert {name: row[name] for name in wanted} == wanted
        assert abs(row["received_at"] / 1000 - time.time()) < 60
    for other in ("snapshot", "swarm", "ban"):
        assert other == kind or not server.rows(other, app)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "path", "form", "kind", "at", "expected"), SAMPLES)
def test_every_row_of_every_client_is_stored_as_it_was_meant(
    shared: RunningServer,
    app: App,
    name: str,
    path: str,
    form: Form,
    kind: Kind,
    at: int | None,
    expected: list[Row],
) -> None:
    answer = send(shared, app, form(path, app, sample(name)))
    assert (answer.status, answer.body, answer.rejected) == (200, b"", 0)
    check(shared, app, kind, at, expected)


def test_bitcomets_utf_16_body_waits_for_the_100_and_is_stored(shared: RunningServer, app: App) -> None:
    body = sample("btnscriptbc-peers.body.gz")
    assert gzip.decompress(body).startswith(b"\xff\xfe")
    with shared.connect(app) as sock:
        sock.sendall(
            _head(
                PEERS,
                "User-Agent: WindowsPowerShell/5.1.19041.4780 BTNScriptBC/0.1.7 BTN-Protocol/0.0.1",
                f"Authorization: Bearer {app.app_id}@{app.secret}",
                f"X-BTN-AppID: {app.app_id}",
                f"X-BTN-AppSecret: {app.secret}",
                "Content-Encoding: gzip",
                "Content-Type: application/json",
                "Host: btn.example",
                f"Content-Length: {len(body)}",
                "Expect: 100-continue",
            )
        )
        assert sock.recv(100).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        sock.sendall(body)
        answer = read_answer(sock)
    assert (answer.status, answer.body, answer.rejected) == (200, b"", 0)
    hp = HP | NOT_SAID | {"torrent_size": 5046586573, "to_peer_traffic_speed": 20480, "downloader_progress": 0.3929}
    tr = TR | NOT_SAID | NAMELESS | {"torrent_size": 1288490189, "to_peer_traffic_speed": 0, "peer_flag": "D ?"}
    check(shared, app, "snapshot", 1723720000000, [hp | {"peer_flag": "K U I"}, tr])


@pytest.mark.parametrize("name", ["pbh-legacy-peers-empty-v3_2-v5_0_6.json", "pbh-modern-bans-empty.json"])
def test_an_empty_list_is_fine(shared: RunningServer, app: App, name: str) -> None:
    answer = send(shared, app, V5(PEERS, app, sample(name)))
    assert (answer.status, answer.body, answer.rejected) == (200, b"", 0)
    check(shared, app, "snapshot", None, [])


def test_peerbanhelper_3_0_costs_its_unknown_rows_and_no_more(shared: RunningServer, app: App) -> None:
    answer = send(shared, app, V3(PEERS, app, sample("pbh-v3_0-clientping.json")))
    assert (answer.status, answer.rejected) == (200, 1)
    check(shared, app, "snapshot", None, [])


@pytest.mark.parametrize(
    "agent", ["PeerBanHelper/4.0.2 BTN-Protocol/0.0.0-dev", "PeerBanHelper/4.0.5 BTN-Protocol/0.0.0-dev"]
)
def test_peerbanhelper_4_0_2_to_4_0_5_says_nothing_of_the_downloaders_progress(
    shared: RunningServer, app: App, agent: str
) -> None:
    # These releases put the peer's progress there.
    assert shared.post(sample("pbh-legacy-peers-v3_2-v7_3_2.json"), app, agent=agent).status == 200
    assert [row["downloader_progress"] for row in shared.rows("snapshot", app)] == [None, None]


# --- The ways of a body -----------------------------------------------------------------------------------------------


def peer(**more: Any) -> Row:
    return {
        "ip_address": "203.0.113.1",
        "peer_port": 6881,
        "peer_id": "-qB4650-",
        "client_name": "qBittorrent/4.6.5",
        "torrent_identifier": T52,
        "torrent_is_private": False,
        "torrent_size": 1000,
        "downloaded": 1,
        "rt_download_speed": 2,
        "uploaded": 3,
        "rt_upload_speed": 4,
        "peer_progress": 0.5,
        "downloader_progress": 1.0,
        "peer_flag": "d",
    } | more


def peers(*rows: Any, at: int = 1784277000000) -> Row:
    return {"populate_time": at, "peers": list(rows)}


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("encoding", ["gzip, with the header", "gzip, without", "plain", "UTF-8 with BOM", "UTF-16"])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_may_come_in_any_of_these_ways(
    shared: RunningServer, app: App, method: str, encoding: str, is_chunked: bool
) -> None:
    text = json.dumps(peers(peer(client_name="迅雷")), ensure_ascii=False)
    body = text.encode({"UTF-8 with BOM": "utf-8-sig", "UTF-16": "utf-16"}.get(encoding, "utf-8"))
    lines = [f"{name}: {value}" for name, value in app.headers.items()]
    if encoding.startswith("gzip"):
        body = gzip.compress(body)
    if encoding == "gzip, with the header":
        lines.append("Content-Encoding: gzip")
    lines.append("Transfer-Encoding: chunked" if is_chunked else f"Content-Length: {len(body)}")
    data = _head(PEERS, "Host: btn.example", *lines, method=method) + (chunked(body, 50) if is_chunked else body)
    answer = send(shared, app, data)
    assert (answer.status, answer.body, answer.rejected) == (200, b"", 0)
    assert [row["peer_client_name"] for row in shared.rows("snapshot", app)] == ["迅雷"]


def test_one_body_may_hold_all_lists(shared: RunningServer, app: App) -> None:
    body = json.loads(sample("pbh-legacy-peers.json")) | json.loads(sample("qbcb-bans.json"))
    body |= json.loads(sample("pbh-modern-swarm.json"))
    answer = shared.post(body, app, "/ping/histories/submit")
    assert (answer.status, answer.rejected) == (200, 0)
    assert [len(shared.rows(kind, app)) for kind in ("snapshot", "swarm", "ban")] == [3, 3, 3]


def test_an_expected_100_is_not_sent_to_a_stranger(shared: RunningServer, anyone: App) -> None:
    head = _head(PEERS, "Host: a", "BTN-AppID: nobody", "BTN-AppSecret: x", "Content-Length: 5", "Expect: 100-continue")
    with shared.connect(anyone) as sock:
        sock.sendall(head)
        assert sock.recv(100).startswith(b"HTTP/1.1 403 ")


# --- Refusals ---------------------------------------------------------------------------------------------------------


def is_refusal(answer: Any, status: int) -> bool:
    """The envelope, with one sentence in each language."""
    assert answer.status == status, answer
    assert answer.headers["content-type"].startswith("application/json")
    envelope = answer.json()
    assert list(envelope) == ["success", "message", "data"]
    assert (envelope["success"], envelope["data"]) == (False, None)
    assert any(char.isascii() and char.isalpha() for char in envelope["message"])
    assert any("\u4e00" <= char <= "\u9fff" for char in envelope["message"])
    return True


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (b"", "", 400),
        (b"", "gzip", 400),
        (b"not json", "", 400),
        (b'{"peers":[', "", 400),
        (b"[]", "", 400),
        (b"{}", "", 400),
        (b"null", "", 400),
        (b'{"peers":5}', "", 400),
        (sample("pbh-hitrate-v3_2-v6_4_6.json"), "", 400),
        (b"\x1f\x8bdamaged", "gzip", 400),
        (gzip.compress(b'{"peers":[]}')[:-9], "gzip", 400),
        (b"[" * 100_000, "", 400),
        (b'{"peers":[' + b'{"a":' * 50_000, "", 400),
        (b"\xff\xfe\xfa", "", 400),
        (b'{"peers":[]}', "br", 415),
        (b'{"peers":[]}', "gzip, zstd", 415),
        (gzip.compress(bytes(65 << 20)), "gzip", 413),
        (gzip.compress(bytes(9 << 20)), "gzip", 413),
    ],
    ids=lambda value: repr(value)[:30] if isinstance(value, bytes) else value,
)
def test_an_unreadable_body_is_refused_in_both_languages(
    shared: RunningServer, anyone: App, body: bytes, encoding: str, status: int
) -> None:
    answer = shared.post(body, anyone, **({"Content-Encoding": encoding} if encoding else {}))
    assert is_refusal(answer, status)
    assert "x-sparkle-rejected" not in answer.headers


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/ping/config", PEERS, "/ping/rules/retrieve"])
def test_another_method_is_405(shared: RunningServer, anyone: App, method: str, path: str) -> None:
    assert is_refusal(shared.request(method, path, headers=anyone.headers, app=anyone), 405)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "path", ["/ping/", "/ping/nothing", "/nothing", "/ping/peers/submit/more", "/%00", "/ping/%ff"]
)
def test_an_unknown_path_is_404(shared: RunningServer, method: str, path: str) -> None:
    assert is_refusal(shared.request(method, path, b"" if method == "POST" else None), 404)


def test_a_bomb_is_refused_and_memory_stays_flat(shared: RunningServer, anyone: App) -> None:
    packer, megabyte = zlib.compressobj(9, wbits=31), b'{"peers":[' + b" " * ((1 << 20) - 10)
    bomb = b"".join(packer.compress(megabyte) for _ in range(300)) + packer.flush()
    assert len(bomb) < 1 << 20
    before = shared.resident()
    for _ in range(8):
        assert is_refusal(shared.post(bomb, anyone), 413)
    # No more is inflated than shows that it is a bomb.
    assert shared.resident("VmHWM") - before < 200 << 20


def test_a_body_that_is_too_large_inside_keeps_its_first_rows(start: Callable[..., RunningServer]) -> None:
    server = start('[limits]\nmax_body_size = "1MiB"\nmax_inflated_size = "1MiB"\nqueue_size = "8MiB"\n')
    many = [peer(ip_address=f"198.51.{n >> 8}.{n & 255}", client_name=f"client {n % 7}") for n in range(5000)]
    sent = peers(*many, at=next(_TIMES))
    size = len(json.dumps(sent))
    assert size > 1.2 * (1 << 20)
    answer = server.post(sent)
    assert (answer.status, answer.rejected >= 1) == (200, True)
    rows = server.rows("snapshot")
    assert abs(len(rows) - 5000 * (1 << 20) / size) < 100
    assert [row["peer_ip"] for row in rows] == [row["ip_address"] for row in many[: len(rows)]]
    assert {row["populate_time"] for row in rows} == {sent["populate_time"]}
    # The same body again is known again, another one isn't.
    assert server.post(sent).status == 200
    assert len(server.rows("snapshot")) == len(rows)
    assert server.metric("sparkle_duplicates_total", what="body") == 1
    assert server.post(sent | {"populate_time": next(_TIMES)}).status == 200
    assert len(server.rows("snapshot")) == 2 * len(rows)


def test_a_declared_length_above_the_limit_is_refused_before_it_is_sent(shared: RunningServer, anyone: App) -> None:
    head = _head(PEERS, "Host: a", *(f"{k}: {v}" for k, v in anyone.headers.items()), f"Content-Length: {17 << 20}")
    assert is_refusal(send(shared, anyone, head), 413)


def test_a_chunked_body_above_the_limit_is_refused(shared: RunningServer, anyone: App) -> None:
    head = _head(PEERS, "Host: a", *(f"{k}: {v}" for k, v in anyone.headers.items()), "Transfer-Encoding: chunked")
    with shared.connect(anyone) as sock:
        answers: list[Any] = []
        reader = threading.Thread(target=lambda: answers.append(read_answer(sock)))
        reader.start()
        with contextlib.suppress(OSError):
            sock.sendall(head + chunked(bytes(17 << 20), 1 << 20))
        reader.join(10)
    assert is_refusal(answers[0], 413)


def test_a_slow_sender_is_told_after_the_time_for_a_body(shared: RunningServer, anyone: App) -> None:
    head = _head(PEERS, "Host: a", *(f"{k}: {v}" for k, v in anyone.headers.items()), "Content-Length: 1000")
    with shared.connect(anyone) as sock:
        started = time.monotonic()
        sock.sendall(head)
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.3):
                with contextlib.suppress(OSError):
                    sock.sendall(b" ")

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            assert is_refusal(read_answer(sock), 408)
        finally:
            stop.set()
            thread.join()
        assert 1.5 < time.monotonic() - started < 5
    assert shared.metric("sparkle_queue_bytes") == 0


@pytest.mark.parametrize("framing", ["Content-Length: 4000", "Transfer-Encoding: chunked"])
def test_a_client_that_goes_away_leaves_nothing_behind(shared: RunningServer, app: App, framing: str) -> None:
    body = json.dumps(peers(peer())).encode()
    head = _head(PEERS, "Host: a", *(f"{k}: {v}" for k, v in app.headers.items()), framing)
    with shared.connect(app) as sock:
        sock.sendall(head + (chunked(body)[:-5] if "chunked" in framing else body))
        time.sleep(0.1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    wait_for(lambda: shared.metric("sparkle_queue_bytes") == 0, 5)
    assert shared.rows("snapshot", app) == []
    assert shared.post(peers(peer()), app).status == 200


def test_a_length_that_is_too_short_cuts_the_body_and_what_follows_is_no_request(
    shared: RunningServer, app: App
) -> None:
    body = json.dumps(peers(peer())).encode()
    lines = [f"{k}: {v}" for k, v in app.headers.items()]
    with shared.connect(app) as sock:
        sock.sendall(_head(PEERS, "Host: a", *lines, f"Content-Length: {len(body) - 7}") + body)
        assert is_refusal(read_answer(sock), 400)
    assert shared.rows("snapshot", app) == []
    assert shared.request("GET", "/healthz").status == 200


# --- Rows -------------------------------------------------------------------------------------------------------------


def stored(server: RunningServer, app: App, *rows: Any) -> tuple[int, list[Row]]:
    """Submit rows between two good ones: how many were rejected, and what became of those between."""
    first, last = peer(ip_address="192.0.2.1"), peer(ip_address="192.0.2.2")
    at = next(_TIMES)
    answer = server.post(peers(first, *rows, last, at=at), app)
    assert answer.status == 200
    found = [row for row in server.rows("snapshot", app) if row["populate_time"] == at]
    assert (found[0]["peer_ip"], found[-1]["peer_ip"]) == ("192.0.2.1", "192.0.2.2")
    return answer.rejected, found[1:-1]


@pytest.mark.parametrize(
    "row",
    [
        5,
        None,
        "text",
        [],
        {},
        {"ip_address": "203.0.113.1"},
        {"torrent_identifier": T52},
        peer(ip_address=None),
        peer(ip_address=""),
        peer(ip_address=3405803777),
        peer(ip_address="example.org"),
        peer(ip_address="203.0.113"),
        peer(ip_address="203.0.113.0/24"),
        peer(ip_address="010.1.2.3"),
        peer(ip_address="203.0.113.1:65536"),
        peer(ip_address="1" * 5000),
        peer(torrent_identifier=None),
        peer(torrent_identifier=""),
        peer(torrent_identifier="x" * 129),
        peer(torrent_identifier={"v1": T52}),
        peer(peer_port=65536),
        peer(peer_port=-2),
        peer(peer_port=10**30),
        peer(peer_port="https"),
        peer(uploaded=10**30),
        peer(uploaded=[1]),
        peer(torrent_size="big"),
    ],
    ids=lambda row: json.dumps(row)[:60],
)
def test_a_bad_row_costs_itself_and_is_counted(shared: RunningServer, anyone: App, row: Any) -> None:
    assert stored(shared, anyone, row) == (1, [])


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "127.0.0.1",
        "127.255.255.255",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.1.1",
        "100.64.0.1",
        "100.127.255.255",
        "224.0.0.1",
        "239.255.255.255",
        "255.255.255.255",
        "::",
        "::1",
        "fc00::1",
        "fdff::1",
        "fe80::1",
        "fe80:0:0:0:0:0:0:1%3",
        "febf::1",
        "ff02::1",
        "::ffff:192.168.0.1",
        "::ffff:127.0.0.1",
        "[fe80::1%eth0]",
        "10.0.0.1/32",
    ],
)
def test_an_address_that_is_not_public_is_dropped(shared: RunningServer, anyone: App, address: str) -> None:
    assert stored(shared, anyone, peer(ip_address=address)) == (1, [])


@pytest.mark.parametrize(
    ("address", "kept"),
    [
        ("0.0.0.1", "0.0.0.1"),
        ("11.0.0.1", "11.0.0.1"),
        ("172.32.0.1", "172.32.0.1"),
        ("100.128.0.1", "100.128.0.1"),
        ("192.0.2.44", "192.0.2.44"),
        ("198.18.0.1", "198.18.0.1"),
        ("240.0.0.1", "240.0.0.1"),
        ("255.255.255.254", "255.255.255.254"),
        ("203.0.113.9/32", "203.0.113.9"),
        (" 203.0.113.9 ", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("::FFFF:cb00:7109", "203.0.113.9"),
        ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"),
        ("2001:0db8:0000:0000:0000:0000:0000:0001", "2001:db8::1"),
        ("2001:db8::1%eth0", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("2001:db8::1/128", "2001:db8::1"),
        ("64:ff9b::cb00:7109", "64:ff9b::cb00:7109"),
        ("::2", "::2"),
    ],
)
def test_an_address_is_kept_in_one_form(shared: RunningServer, anyone: App, address: str, kept: str) -> None:
    rejected, rows = stored(shared, anyone, peer(ip_address=address))
    assert (rejected, [row["peer_ip"] for row in rows]) == (0, [kept])


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ({"peer_port": 0}, {"peer_port": 0}),
        ({"peer_port": -1}, {"peer_port": -1}),
        ({"peer_port": 65535}, {"peer_port": 65535}),
        ({"peer_port": "6881"}, {"peer_port": 6881}),
        ({"peer_port": None}, {"peer_port": -1}),
        ({"torrent_size": -1}, {"torrent_size": 0}),
        ({"torrent_size": None}, {"torrent_size": 0}),
        ({"torrent_size": 2**63 - 1}, {"torrent_size": 2**63 - 1}),
        ({"downloaded": None, "uploaded": -1}, {"from_peer_traffic": -1, "to_peer_traffic": -1}),
        ({"peer_progress": -0.5, "downloader_progress": 17}, {"peer_progress": -0.5, "downloader_progress": 17.0}),
        ({"peer_progress": None}, {"peer_progress": None}),
        ({"peer_id": None, "client_name": None}, {"peer_id": "", "peer_client_name": ""}),
        ({"peer_id": "-qB4650-abcdefghijkl"}, {"peer_id": "-qB4650-"}),
        ({"peer_id": "\0-XL\0" + "\x01" * 9}, {"peer_id": "-XL" + "\x01" * 5}),
        ({"client_name": "\0a\0b"}, {"peer_client_name": "ab"}),
        ({"client_name": "12345", "peer_flag": "1e3"}, {"peer_client_name": "12345", "peer_flag": "1e3"}),
        ({"client_name": "x" * 250}, {"peer_client_name": "x" * 250}),
        ({"client_name": "a" * 5000 + "b" * 5000}, {"peer_client_name": "a" * 64 + "[...]" + "b" * 64}),
        ({"peer_flag": None}, {"peer_flag": None}),
        ({"peer_flag": "f" * 10_000}, {"peer_flag": "f" * 250}),
        ({"torrent_identifier": T52.upper()}, {"torrent_identifier": T52}),
        ({"torrent_identifier": "12345"}, {"torrent_identifier": "12345"}),
        ({"torrent_identifier": "é" * 128}, {"torrent_identifier": "é" * 128}),
        ({"torrent_identifier": "ab " * 20 + "abcd"}, {"torrent_identifier": "ab " * 20 + "abcd"}),
        ({"torrent_is_private": None}, {"torrent_is_private": None}),
        ({"torrent_is_private": "true"}, {"torrent_is_private": True}),
        ({"unheard_of": {"of": [1]}}, {"peer_ip": "203.0.113.1"}),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_a_row_is_cleaned_not_refused(shared: RunningServer, anyone: App, sent: Row, kept: Row) -> None:
    rejected, rows = stored(shared, anyone, peer(**sent))
    assert (rejected, len(rows)) == (0, 1)
    assert {name: rows[0][name] for name in kept} == kept


@pytest.mark.parametrize("raw", [rb'"\ud800"', rb'"a\ud83d"', b'"\xff\xfe"', b'"tab\tand\x01"'])
def test_text_that_is_no_text_costs_no_neighbour(shared: RunningServer, app: App, raw: bytes) -> None:
    body = json.dumps(peers(peer(ip_address="192.0.2.1"), peer(client_name="@@"), peer(ip_address="192.0.2.2")))
    answer = shared.post(body.encode().replace(b'"@@"', raw), app)
    assert answer.status == 200
    found = shared.rows("snapshot", app)
    assert len(found) == 3 - answer.rejected
    assert {"192.0.2.1", "192.0.2.2"} <= {row["peer_ip"] for row in found}


@pytest.mark.parametrize("field", ["module", "rule", "description", "ban_unique_id", "peer_id", "peer_client_name"])
def test_lone_surrogates_and_nul_in_a_ban_are_survived(shared: RunningServer, app: App, field: str) -> None:
    row = json.loads(sample("pbh-modern-bans.json"))["bans"][0] | {field: "@@"}
    body = json.dumps({"bans": [row]}).replace('"@@"', r'"a\u0000b\udfffc"')
    answer = shared.post(body.encode(), app)
    assert (answer.status, answer.rejected) == (200, 0)
    assert "\0" not in str(shared.rows("ban", app)[0][field])


@pytest.mark.parametrize("at", [None, -1, 10**17, "soon", 1.5, "2026-07-17T06:33:20Z"], ids=str)
def test_a_clients_clock_rejects_nothing(shared: RunningServer, app: App, at: Any) -> None:
    ban = json.loads(sample("pbh-modern-bans.json"))["bans"][0] | {"ban_at": at}
    answer = shared.post({"populate_time": at, "peers": [peer()], "bans": [ban]}, app)
    assert (answer.status, answer.rejected) == (200, 0)
    assert (len(shared.rows("snapshot", app)), len(shared.rows("ban", app))) == (1, 1)


def test_rows_beyond_the_limit_are_counted_as_rejected(shared: RunningServer, app: App) -> None:
    row = json.dumps(peer()).encode()
    body = b'{"populate_time":1,"peers":[' + b",".join([row] * 50_003) + b"]}"
    answer = shared.post(gzip.compress(body, 1), app)
    assert (answer.status, answer.rejected) == (200, 3)
    assert len(shared.rows("snapshot", app)) == 50_000


# --- Twice ------------------------------------------------------------------------------------------------------------


def test_a_body_that_comes_twice_is_stored_once_however_it_is_packed(shared: RunningServer, app: App) -> None:
    body = json.dumps(peers(peer(), 5)).encode()
    duplicates = shared.metric("sparkle_duplicates_total", what="body")
    answers = [shared.post(gzip.compress(body, level), app) for level in (1, 1, 9)]
    answers += [shared.post(body, app), shared.post(body, app, "/ping/bans/submit")]
    assert [answer.status for answer in answers] == [200] * 5
    assert len(shared.rows("snapshot", app)) == 1
    assert shared.metric("sparkle_duplicates_total", what="body") - duplicates == 4


def test_duplicates_do_not_count_as_rejected(shared: RunningServer, app: App) -> None:
    body = peers(peer())
    bans = json.loads(sample("qbcb-bans.json"))
    assert [shared.post(what, app).rejected for what in (body, body, bans, bans)] == [0, 0, 0, 0]


def test_a_body_that_comes_many_times_at_once_is_stored_once(shared: RunningServer, app: App) -> None:
    body = json.loads(sample("pbh-legacy-peers.json")) | json.loads(sample("pbh-legacy-bans-v4_0-v7_3_2.json"))
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: shared.post(body, app), range(48)))
    assert {answer.status for answer in answers} == {200}
    assert (len(shared.rows("snapshot", app)), len(shared.rows("ban", app))) == (3, 2)


def test_large_bodies_that_arrive_together_each_get_their_own_answer(shared: RunningServer, app: App) -> None:
    """Bodies that wait are inflated ahead of their turn: none may take another's place, whatever is wrong with it."""
    rng = random.Random(4)

    def large(number: int) -> bytes:
        rows = [peer(peer_id=f"-L{number:02}{row:04}", uploaded=rng.randrange(1 << 40)) for row in range(1500)]
        return gzip.compress(json.dumps(peers(*rows)).encode(), 1)

    bodies = [large(number) for number in range(24)]
    assert min(map(len, bodies)) > WORTH_AHEAD + 1000
    bodies[3] = bodies[3][:-1000]
    bodies[7] = bodies[7][:-8] + bytes(8)
    bodies[11] = bodies[10]
    bodies[15] = gzip.compress(b" " * (65 << 20), 6)
    with ThreadPoolExecutor(len(bodies)) as pool:
        answers = list(pool.map(lambda body: shared.post(body, app), bodies))
    refused = {3: 400, 7: 400, 15: 413}
    assert [answer.status for answer in answers] == [refused.get(number, 200) for number in range(24)]
    stored = Counter(row["peer_id"][:4] for row in shared.rows("snapshot", app))
    assert stored == {f"-L{number:02}": 1500 for number in range(24) if number not in (*refused, 11)}


def test_the_same_body_of_two_applications_is_stored_twice(shared: RunningServer, app: App) -> None:
    other, body = shared.add_app(), peers(peer())
    for one in (app, other):
        shared.post(body, one)
    assert [len(shared.rows("snapshot", one)) for one in (app, other)] == [1, 1]


def test_a_body_that_comes_again_after_a_restart_is_stored_once(start: Callable[..., RunningServer]) -> None:
    server = start()
    bodies = [json.loads(sample(name)) for name in ("pbh-legacy-peers.json", "pbh-histories.json", "qbcb-bans.json")]
    for _ in range(2):
        assert {server.post(body).status for body in bodies} == {200}
        server.restart()
    assert [len(server.rows(kind)) for kind in ("snapshot", "swarm", "ban")] == [3, 3, 3]


def resent(body: Row, **changes: Any) -> Row:
    """Another body that holds the same rows."""
    return body | {"populate_time": body.get("populate_time", 0) + 900_000} | changes


@pytest.mark.parametrize(
    "name",
    [
        "pbh-legacy-bans-v4_0-v7_3_2.json",
        "pbh-legacy-bans.json",
        "qbcb-bans.json",
        "pbh-legacy-bans-v3_2-v3_5_1.json",
        "pbh-modern-bans.json",
        "pbh-v8-bans.json",
        "rust-bans.json",
    ],
)
def test_a_ban_that_comes_again_in_another_body_is_stored_once(shared: RunningServer, app: App, name: str) -> None:
    body = json.loads(sample(name))
    new = json.loads(json.dumps(body["bans"][0]).replace("203.0.113.57", "203.0.113.58"))
    assert shared.post(body, app).status == 200
    assert shared.post(resent(body), app).rejected == 0
    # With a new one among them, as the next report of a client that sends everything again.
    assert shared.post(resent(body, bans=[*body["bans"], new]), app).rejected == 0
    assert len(shared.rows("ban", app)) == len(body["bans"]) + 1


def test_qbcbs_next_ban_of_the_same_address_is_another_ban_a_day_after_the_last_sight(
    shared: RunningServer, app: App
) -> None:
    body = json.loads(sample("qbcb-bans.json"))
    for hours, bans in ((0, 3), (1, 3), (25, 3), (50, 6)):
        moved = [ban | {"ban_at": ban["ban_at"] + hours * 3_600_000} for ban in body["bans"]]
        assert shared.post(resent(body, bans=moved), app).rejected == 0
        assert len(shared.rows("ban", app)) == bans


def test_an_id_of_another_address_or_port_is_another_ban(shared: RunningServer, app: App) -> None:
    body = json.loads(sample("pbh-legacy-bans.json"))
    ban = body["bans"][0]
    others = [ban | {"peer": ban["peer"] | change} for change in ({"peer_port": 1}, {"ip_address": "203.0.113.58"})]
    shared.post(body, app)
    shared.post(resent(body, bans=others), app)
    assert len(shared.rows("ban", app)) == 4


def test_the_same_bans_of_two_applications_are_stored_twice(shared: RunningServer, app: App) -> None:
    other = shared.add_app()
    for name in ("pbh-legacy-bans.json", "qbcb-bans.json", "pbh-legacy-bans-v3_2-v3_5_1.json", "pbh-modern-bans.json"):
        for one in (app, other):
            shared.post(sample(name), one)
    assert [len(shared.rows("ban", one)) for one in (app, other)] == [10, 10]


def test_growing_totals_are_versions_of_one_row(shared: RunningServer, app: App) -> None:
    for name in ("pbh-histories.json", "pbh-modern-swarm.json"):
        body = json.loads(sample(name))
        key = "peers" if "peers" in body else "swarms"
        later = [row | {"last_time_seen": row["last_time_seen"] + 60_000} for row in body[key]]
        shared.post(body, app)
        shared.post(resent(body, **{key: later}), app)
    versions = [row["version_key"] for row in shared.rows("swarm", app)]
    assert len(versions) == 12
    assert len(set(versions)) == 6


def test_qbcbs_histories_are_versions_of_one_row_although_its_first_sight_moves(
    shared: RunningServer, app: App
) -> None:
    body = json.loads(sample("qbcb-histories.json"))
    moved = [row | {"first_time_seen": row["first_time_seen"] + 60_000} for row in body["peers"]]
    for what in (body, resent(body, peers=moved)):
        assert send(shared, app, qbcb(HISTORIES, app, json.dumps(what).encode())).status == 200
    assert len({row["version_key"] for row in shared.rows("swarm", app)}) == 1


# --- Too much ---------------------------------------------------------------------------------------------------------


def test_an_application_beyond_its_rate_is_told_when_to_come_again(start: Callable[..., RunningServer]) -> None:
    server = start("[limits]\nrequests_per_minute = 20")
    other = server.add_app()
    answers = [server.post(peers(peer(), at=n)) for n in range(1, 60)]
    refused = [answer for answer in answers if answer.status != 200]
    assert refused
    assert all(is_refusal(answer, 429) and int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert server.post(peers(peer()), other).status == 200
    assert len(server.rows("snapshot")) == 59 - len(refused)


def test_when_there_is_no_room_a_submission_waits_and_is_then_told_when_to_come_again(
    start: Callable[..., RunningServer],
) -> None:
    limits = '[limits]\nmax_body_size = "256KiB"\nqueue_size = "256KiB"\nmax_inflated_size = "1MiB"\nbody_timeout="9s"'
    server = start(limits, prelude="import sparkle_lite.ingest as i; i.Room.__init__.__defaults__ = (1.0,)")
    head = _head(PEERS, "Host: a", *(f"{k}: {v}" for k, v in server.app.headers.items()), "Content-Length: 262144")
    with server.connect() as sock:
        sock.sendall(head + b" " * 262_000)
        wait_for(lambda: server.metric("sparkle_queue_bytes") > 261_000, 5)
        started = time.monotonic()
        answer = server.post(json.dumps(peers(*[peer()] * 10)).encode())
        assert is_refusal(answer, 503)
        assert int(answer.headers["retry-after"]) >= 1
        assert 0.8 < time.monotonic() - started < 4
        assert server.request("GET", "/healthz").status == 200
    wait_for(lambda: server.metric("sparkle_queue_bytes") == 0, 5)
    assert server.post(peers(peer())).status == 200
    assert count(server.database, "ban") == 0
