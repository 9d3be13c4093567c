"""What each client sends, byte for byte: the literal bodies in tests/wire, how it writes requests, what is stored."""

import gzip
import ipaddress
import json
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from server import KINDS, PBH20, App, Kind, RunningServer

from sparkle_lite.simulation.programs import PROGRAMS, Program

WIRE = Path(__file__).parent / "wire"
T52 = "52fa13494a4571a951b46b1a04be19ab9d8089c3d3761956c99f5435e6f2c8ad"
TD8 = "d8a121d8d6fe93d9f827f4eb5bb4f4d8e64ad3dc8b38d6222c3d050c3f0f3ff2"
TE5 = "e55bfb26b3eb7949ec751af3c54ec477196b52dcd1a2eeb54b5018aef3cb34e2"
NO_TORRENT = "7e071fd9b023ed8f18458a73613a0834f6220bd5cc50357ba3493c6040a9ea8c"
Row = dict[str, Any]


def read_sample(name: str) -> bytes:
    """A file of tests/wire."""
    return (WIRE / name).read_bytes()


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


def form_of(program: Program, *more: str) -> Form:
    """How a program writes a request with a body."""

    def form(path: str, app: App, body: bytes) -> bytes:
        return program.request(path, "btn.example:7799", (app.app_id, app.secret), gzip.compress(body), more)

    return form


def jdk(agent: str, *, with_x: bool = True) -> Form:
    """PeerBanHelper up to 8.0.5-beta1: the JDK's client, which offers h2c on plain http."""
    return form_of(PROGRAMS["PeerBanHelper 7.4.15" if with_x else "PeerBanHelper 3.2.0"]._replace(agent=agent))


def okhttp(agent: str, *more: str) -> Form:
    """PeerBanHelper since 8.0.5-beta2."""
    return form_of(PROGRAMS["PeerBanHelper 9.5.0"]._replace(agent=agent), *more)


qbcb = form_of(PROGRAMS["qBittorrent-ClientBlocker 3.8"])
rust = form_of(PROGRAMS["PeerBanHelper-Rust 0.1.4"])


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

# --- Samples ----------------------------------------------------------------------------------------------------------


class Sample(NamedTuple):
    """A body (a file of tests/wire) as one client sends it, and the rows that are stored of it."""

    file: str
    path: str
    form: Form
    kind: Kind
    populate_time: int | None
    rows: list[Row]

    def request(self, app: App, path: str = "") -> bytes:
        """The bytes of the request, to another path where one is given."""
        return self.form(path or self.path, app, read_sample(self.file))

    def check(self, server: RunningServer, app: App) -> None:
        """These rows are stored of an application, and no others."""
        check(server, app, self.kind, self.populate_time, self.rows)


def check(server: RunningServer, app: App, kind: Kind, populate_time: int | None, expected: list[Row]) -> None:
    """These rows are stored of an application, and no others."""
    found = server.rows(kind, app)
    assert len(found) == len(expected)
    for row, wanted in zip(found, expected, strict=True):
        if row.get("structured_data"):
            row["structured_data"] = json.loads(row["structured_data"])
        wanted = wanted | {"populate_time": populate_time, "address": app.source or "127.0.0.1"}
        assert {name: row[name] for name in wanted} == wanted
        assert abs(row["received_at"] / 1000 - time.time()) < 60
    for other in KINDS:
        assert other == kind or not server.rows(other, app)


SAMPLES = [
    Sample(
        file="pbh-legacy-peers-v3_2-v7_3_2.json",
        path=PEERS,
        form=V3,
        kind="snapshot",
        populate_time=1713971696000,
        rows=[HP | NOT_SAID, TR | NOT_SAID],
    ),
    Sample(
        file="pbh-legacy-peers.json",
        path=PEERS,
        form=V74,
        kind="snapshot",
        populate_time=1784277000123,
        rows=[HP, TR, XL],
    ),
    Sample(
        file="pbh-legacy-peers.json",
        path=PEERS,
        form=V95,
        kind="snapshot",
        populate_time=1784277000123,
        rows=[HP, TR, XL],
    ),
    Sample(
        file="qbcb-peers.json",
        path=PEERS,
        form=qbcb,
        kind="snapshot",
        populate_time=1784277000000,
        rows=[
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
    Sample(
        file="pbh-legacy-bans-v3_2-v3_5_1.json",
        path=BANS,
        form=V3,
        kind="ban",
        populate_time=1714280802047,
        rows=[HP_BAN | NOT_SAID | {"ban_at": 1714280802047}, XL_BAN | NOT_SAID | {"ban_at": 1714280802047}],
    ),
    Sample(
        file="pbh-legacy-bans-v4_0-v7_3_2.json",
        path=BANS,
        form=V402,
        kind="ban",
        populate_time=1719500000000,
        rows=[
            HP_BAN | NOT_SAID | {"ban_at": 1719500000000, "ban_unique_id": "0b2f6c1e-3a44-4f0e-9a53-5d5c9f0f7b11"},
            XL_BAN | NOT_SAID | {"ban_at": 1719500000000, "ban_unique_id": "7d1f8a52-55a1-4f0b-8d1c-1d4f4e0a9c02"},
        ],
    ),
    Sample(
        file="pbh-legacy-bans.json",
        path=BANS,
        form=V9,
        kind="ban",
        populate_time=1784277000456,
        rows=[
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
    Sample(
        file="qbcb-bans.json",
        path=BANS,
        form=qbcb,
        kind="ban",
        populate_time=1784277000000,
        rows=[
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
    Sample(
        file="pbh-histories-v7_0-v7_3_2.json",
        path=HISTORIES,
        form=V7,
        kind="swarm",
        populate_time=1730000000789,
        rows=[HP_HISTORY, TR_HISTORY],
    ),
    Sample(
        file="pbh-histories-v7_3_3-v9_0.json",
        path=HISTORIES,
        form=V80,
        kind="swarm",
        populate_time=1750000000789,
        rows=[HP_HISTORY, TR_HISTORY],
    ),
    Sample(
        file="pbh-histories.json",
        path=HISTORIES,
        form=V9,
        kind="swarm",
        populate_time=1784277000789,
        rows=[HP_HISTORY, TR_HISTORY, XL_HISTORY],
    ),
    Sample(
        file="qbcb-histories.json",
        path=HISTORIES,
        form=qbcb,
        kind="swarm",
        populate_time=1784277000000,
        rows=[
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
    Sample(
        file="pbh-modern-bans.json",
        path=BANS,
        form=V95,
        kind="ban",
        populate_time=None,
        rows=[
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
    Sample(
        file="pbh-v8-bans.json",
        path=BANS,
        form=V80,
        kind="ban",
        populate_time=None,
        rows=[
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
    Sample(
        file="rust-bans.json",
        path=BANS,
        form=rust,
        kind="ban",
        populate_time=None,
        rows=[
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
    Sample(
        file="pbh-modern-swarm.json",
        path=PEERS,
        form=V95,
        kind="swarm",
        populate_time=None,
        rows=[
            HP | SWARM | MAXIMA | HP_TOTALS,
            TR | SWARM | MAXIMA | TR_TOTALS,
            XL | SWARM | MAXIMA | XL_TOTALS | NAMELESS | {"peer_port": 0, "peer_flag": ""},
        ],
    ),
    Sample(
        file="pbh-modern-swarm-v9_2_0-v9_2_3.json",
        path=PEERS,
        form=V95,
        kind="swarm",
        populate_time=None,
        rows=[
            TR | SWARM | NO_SPEEDS | TR_TOTALS,
            HP | SWARM | NO_SPEEDS | HP_TOTALS | NOT_SAID | {"peer_flag": ""},
        ],
    ),
    Sample(
        file="pbh-v8-swarm.json",
        path=PEERS,
        form=V80,
        kind="swarm",
        populate_time=None,
        rows=[
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
    Sample(
        file="rust-swarm.json",
        path=PEERS,
        form=rust,
        kind="swarm",
        populate_time=None,
        rows=[
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


# --- Lists of others --------------------------------------------------------------------------------------------------


def collected_rules() -> bytes:
    """A list in the style of BTN-Collected-Rules' combine/all.txt: 826 networks with their reasons above.

    IPv4 from /18 to /32, IPv6 of /54 and narrower, and one IPv6 network of /30 (2a0c:a9c4::/30); lines end with CRLF.
    """
    chance = random.Random(826)
    networks = {"36.151.64.0/18": "merged neighbours", "2a0c:a9c4::/30": "one provider"}
    while len(networks) < 780:
        prefix = chance.choice((19, 20, 21, 22, 23, 24, 24, 29, *[32] * 30))
        address = chance.randrange(11 << 24, 99 << 24) >> (32 - prefix) << (32 - prefix)
        networks[str(ipaddress.ip_network((address, prefix)))] = f"超量下载：{chance.randrange(300, 999)}.10%, 12:30"
    while len(networks) < 826:
        prefix = chance.choice((54, 56, 60, 64, 64, 64, 128))
        address = ((0x240E << 112) | chance.getrandbits(112)) >> (128 - prefix) << (128 - prefix)
        networks[str(ipaddress.ip_network((address, prefix)))] = f"untrusted, {chance.randrange(1, 99)} votes"
    lines = ["# BTN-Collected-Rules, CC-BY 4.0, 2026-08-01 12:00:00 UTC", "# merged: IPv4 24, IPv6 50", ""]
    for network, why in networks.items():
        single = "/128" if ":" in network else "/32"
        lines += ["# some-ips.txt", f"# [AutoGen] {why}", network.removesuffix(single)]
    return "\r\n".join([*lines, ""]).encode()
