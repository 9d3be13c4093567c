"""Protocol 20 over HTTP: bans, swarms, lists, heartbeat, panel, widget, proof of work; anonymous clients, limits."""

import base64
import gzip
import hashlib
import ipaddress
import json
import random
import re
import sqlite3
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any
from urllib.parse import quote

import client_parsers as clients
import pytest
from samples import SAMPLES, T52, TD8, Row, Sample, okhttp, read_sample, rust
from server import PBH20, Answer, App, Headers, RunningServer, opened, start_server, wait_for
from simulated_clients import panel, rust_list, solve

from sparkle_lite.accounts.proof_of_work import PER_USERAPP, REPEAT_MS, USES, ProofOfWork
from sparkle_lite.errors import SparkleError

RUST = "PeerBanHelper-Rust/0.1.4/BTN-Protocol/2.0.1/20"
QBCB = "qBittorrent-ClientBlocker/3.8b8 (linux, amd64) BTN-Protocol/0.0.0-dev"
BITCOMET = "WindowsPowerShell/5.1.19041.4780 BTNScriptBC/0.1.7 BTN-Protocol/0.0.1"
PBH13 = PBH20.replace("9.5.0", "9.1.5").replace("Version/20", "Version/13")
PBH8 = "PeerBanHelper/7.1.5 BTN-Protocol/0.0.2"
PROXY = App("", "", "127.9.9.9")
SYNC_BANS, SYNC_SWARM = "/ping/syncBanHistory", "/ping/syncSwarm"
DENYLIST, ALLOWLIST, IDENTITY = "/ping/ruleIpDenylist", "/ping/ruleIpAllowlist", "/ping/rulePeerIdentity"
HEARTBEAT, QUERY, WIDGET = "/ping/heartbeat", "/ping/queryIp", "/ping/queryIp/widget"
CHALLENGE = "/ping/captcha/createSession"
CONFIG = """
[server]
trusted_proxies = ["127.9.9.9"]
[limits]
requests_per_minute = 0
[auth]
max_apps_per_user = 100000
"""
RULES = """
[[rules]]
type = "ip"
category = "PCDN"
content = ["60.220.182.0/24", "203.0.113.9", "2001:db8:1::/48", "60.220.180.0/23"]
[[rules]]
type = "ip"
category = "odd, #1"
content = ["198.51.100.0/31"]
[[rules]]
type = "port"
category = "odd"
content = [65000]
[[rules]]
type = "peer_id"
category = "leecher"
content = ["-XL00"]
[[rules]]
type = "client_name"
category = "leecher"
content = [{ method = "CONTAINS", content = "Xunlei" }]
[[exceptions]]
type = "ip"
category = "ours"
content = ["60.220.182.7", "2001:db8:1:2::/64"]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with rules, which believes the proxy 127.9.9.9."""
    with start_server(tmp_path_factory.mktemp("protocol20"), CONFIG + RULES) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> App:
    """An application on that server that no other test uses."""
    return server.add_app()


# --- Bans and swarms --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.file)
def test_every_sample_of_every_client_is_stored_as_meant_on_the_paths_of_protocol_20(
    server: RunningServer, client: App, sample: Sample
) -> None:
    path = SYNC_BANS if sample.kind == "ban" else SYNC_SWARM
    answer = server.send(sample.request(client, path), client)
    assert (answer.status, answer.body, answer.rejected) == (200, b"", 0)
    sample.check(server, client)


def test_each_of_the_two_paths_takes_every_shape(server: RunningServer) -> None:
    for crossed in (False, True):
        for sample in SAMPLES:
            app = server.add_app()
            path = SYNC_SWARM if (sample.kind == "ban") is not crossed else SYNC_BANS
            assert server.send(sample.request(app, path), app).status == 200, sample.file
            sample.check(server, app)


def test_an_empty_list_of_bans_or_swarms_is_fine(server: RunningServer, client: App) -> None:
    for path, name in ((SYNC_BANS, "bans"), (SYNC_SWARM, "swarms")):
        for value in ([], None):
            answer = server.post({name: value}, client, path)
            assert (answer.status, answer.body, answer.rejected) == (200, b"", 0)


@pytest.mark.parametrize("path", [SYNC_BANS, SYNC_SWARM])
def test_the_new_paths_take_post_alone_and_only_with_credentials(server: RunningServer, client: App, path: str) -> None:
    for method in ("GET", "PUT", "HEAD"):
        assert server.request(method, path, headers=client.headers, app=client).status == 405
    assert server.request("POST", path, b'{"bans":[]}').refusal(403)


def ban(number: int, at: Any, **more: Any) -> Row:
    row: Row = json.loads(read_sample("pbh-modern-bans.json"))["bans"][0]
    return row | {"peer_ip": f"45.7.{number >> 8}.{number & 255}", "ban_at": at} | more


def test_a_whole_ban_history_of_years_is_taken_page_by_page_and_only_once(server: RunningServer, client: App) -> None:
    # PeerBanHelper's cursor begins at 0, so its first contact sends everything that it has in pages of 100.
    first, now = 1_560_000_000_000, int(time.time() * 1000)
    times = [first + (now - first) * number // 1049 for number in range(1050)]
    rows = [ban(number, at) for number, at in enumerate(times)]
    pages = [rows[start : start + 100] for start in range(0, len(rows), 100)]
    form = okhttp(PBH20)
    for page in (*pages, pages[-1], *pages[:3], rows[950:1050]):
        answer = server.send(form(SYNC_BANS, client, json.dumps({"bans": page}).encode()), client)
        assert (answer.status, answer.rejected) == (200, 0)
    # The last again, with new ones behind it; and everything at once.
    more = [ban(number, now + number) for number in range(1050, 1100)]
    assert server.post({"bans": rows[1000:] + more}, client, SYNC_BANS).rejected == 0
    assert server.post({"bans": rows + more}, client, SYNC_BANS).rejected == 0
    stored = server.rows("ban", client)
    assert [row["ban_at"] for row in stored] == times + [row["ban_at"] for row in more]
    assert [row["peer_ip"] for row in stored] == [row["peer_ip"] for row in rows + more]


@pytest.mark.parametrize(
    ("change", "new"),
    [
        ({}, 0),
        ({"description": "otherwise", "rule": "otherwise", "to_peer_traffic": 1, "peer_progress": 0.5}, 0),
        ({"peer_ip": "45.7.0.2"}, 1),
        ({"peer_port": 2}, 1),
        ({"torrent_identifier": TD8}, 1),
        ({"module": "com.ghostchu.peerbanhelper.module.impl.rule.MultiDialingBlocker"}, 1),
        ({"ban_at": 1_700_000_000_001}, 1),
    ],
)
def test_a_ban_is_known_by_time_address_port_torrent_and_module(
    server: RunningServer, client: App, change: Row, new: int
) -> None:
    row = ban(1, 1_700_000_000_000)
    server.post({"bans": [row]}, client, SYNC_BANS)
    server.post({"bans": [row | change, row]}, client, SYNC_BANS)
    assert len(server.rows("ban", client)) == 1 + new


def swarm(**more: Any) -> Row:
    row: Row = json.loads(read_sample("pbh-modern-swarm.json"))["swarms"][0]
    return row | more


def newest(server: RunningServer, app: App) -> dict[int, Row]:
    """The newest version of each cumulative row."""
    return {row["version_key"]: row for row in server.rows("swarm", app)}


@pytest.mark.parametrize(
    ("change", "keys"),
    [
        ({"last_time_seen": 1784277000000, "to_peer_traffic": 800_000_000, "peer_progress": 0.9}, 1),
        ({"peer_id": "-qB4650-", "peer_client_name": "other", "peer_last_flags": "x", "torrent_size": 7}, 1),
        ({"peer_ip": "::ffff:203.0.113.57"}, 1),
        ({"peer_ip": "203.0.113.58"}, 2),
        ({"peer_port": 1}, 2),
        ({"downloader": "another"}, 2),
        ({"downloader": None}, 2),
        ({"torrent_identifier": TD8}, 2),
    ],
)
def test_a_swarm_is_known_by_downloader_torrent_address_and_port(
    server: RunningServer, client: App, change: Row, keys: int
) -> None:
    server.post({"swarms": [swarm()]}, client, SYNC_SWARM)
    assert server.post({"swarms": [swarm(**change)]}, client, SYNC_SWARM).rejected == 0
    found = newest(server, client)
    assert len(found) == keys
    last = list(found.values())[-1]
    assert last["to_peer_traffic"] == change.get("to_peer_traffic", 734068736)


def test_two_applications_have_versions_of_their_own(server: RunningServer, client: App) -> None:
    other = server.add_app()
    for app in (client, other):
        server.post({"swarms": [swarm()]}, app, SYNC_SWARM)
    assert not newest(server, client).keys() & newest(server, other).keys()


def test_the_newest_version_is_what_readers_see(server: RunningServer, client: App) -> None:
    for total in (100, 200, 300):
        row = swarm(peer_ip="45.8.0.1", to_peer_traffic=total, last_time_seen=1784276999987 + total)
        server.post({"swarms": [row]}, client, SYNC_SWARM)
    report = panel(server.get(f"{QUERY}?ip=45.8.0.1", client).body)
    assert [record["to_peer_traffic"] for record in report["swarms"]["records"]] == [300]
    assert (report["swarms"]["total"], report["traffic"]["to_peer_traffic"]) == (1, 300)


def test_an_offset_means_something_else_with_every_client(server: RunningServer) -> None:
    totals = []
    for agent in (PBH20, RUST):
        app = server.add_app()
        row = swarm(to_peer_traffic=1000, to_peer_traffic_offset=400, from_peer_traffic=10, from_peer_traffic_offset=4)
        server.post({"swarms": [row]}, app, SYNC_SWARM, agent)
        [stored] = server.rows("swarm", app)
        assert (stored["to_peer_traffic_offset"], stored["from_peer_traffic_offset"]) == (400, 4)
        totals.append((stored["to_peer_traffic"], stored["from_peer_traffic"]))
    app, body = server.add_app(), json.loads(read_sample("qbcb-histories.json"))
    body["peers"][0] |= {"uploaded": 1000, "uploaded_offset": 400, "downloaded": 10, "downloaded_offset": 4}
    server.post(body, app, SYNC_SWARM, QBCB)
    [stored] = server.rows("swarm", app)
    totals.append((stored["to_peer_traffic"], stored["from_peer_traffic"]))
    assert totals == [(1000, 10), (1400, 14), (1000, 10)]


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-07-17T08:29:59.987Z", 1784276999987),
        ("2026-07-17T08:29:59.987+00:00", 1784276999987),
        ("2026-07-17T16:29:59.987+08:00", 1784276999987),
        ("2026-07-17T08:29:59.987654321+00:00", 1784276999987),
        ("2026-07-17T08:29:59Z", 1784276999000),
        ("2026-07-17t08:29:59.987z", 1784276999987),
        (1784276999987, 1784276999987),
        ("1784276999987", 1784276999987),
        (None, None),
        ("yesterday", None),
    ],
)
def test_a_time_may_be_a_number_or_rfc_3339(server: RunningServer, client: App, text: Any, at: int | None) -> None:
    row = swarm(first_time_seen=text, last_time_seen=text)
    assert server.post({"swarms": [row], "bans": [ban(1, text)]}, client, SYNC_SWARM, RUST).rejected == 0
    [stored] = server.rows("swarm", client)
    assert (stored["first_time_seen"], stored["last_time_seen"]) == (at, at)
    assert [row["ban_at"] for row in server.rows("ban", client)] == [at]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ('{"type":"difference","n":[1]}', {"type": "difference", "n": [1]}),
        ({"type": "difference", "n": [1]}, {"type": "difference", "n": [1]}),
        ('{"reason":{"key":"a","params":["b"]}}', {"reason": {"key": "a", "params": ["b"]}}),
        ("null", None),
        (None, None),
        ("", None),
        ("raw text", "raw text"),
        ('{"cut', '{"cut'),
        ("[" * 5000, None),
    ],
    ids=lambda value: str(value)[:30],
)
def test_structured_data_may_be_text_or_an_object(server: RunningServer, client: App, sent: Any, kept: Any) -> None:
    assert server.post({"bans": [ban(1, 1, structured_data=sent)]}, client, SYNC_BANS).rejected == 0
    [row] = server.rows("ban", client)
    assert (row["structured_data"] and json.loads(row["structured_data"])) == kept


def test_the_byte_order_of_an_identifier_is_kept_with_the_torrent(server: RunningServer) -> None:
    found = {}
    for agent in (PBH20, RUST, BITCOMET, QBCB):
        app = server.add_app()
        identifier = uuid.uuid4().hex * 2
        server.post({"bans": [ban(1, 1, torrent_identifier=identifier)]}, app, SYNC_BANS, agent)
        found[agent] = [row["big_endian"] for row in server.rows("ban", app)]
    assert found == {PBH20: [0], RUST: [0], BITCOMET: [0], QBCB: [1]}


# --- Lists of addresses, identities -----------------------------------------------------------------------------------

LISTS = [DENYLIST, ALLOWLIST, IDENTITY]


@pytest.mark.parametrize("path", LISTS)
def test_a_list_is_not_for_everybody(server: RunningServer, client: App, path: str) -> None:
    for headers in (
        {},
        {"X-BTN-AppID": client.app_id, "X-BTN-AppSecret": "wrong"},
        {"X-BTN-AppID": "example-app-id", "X-BTN-AppSecret": "example-app-secret"},
        {"X-BTN-InstallationID": str(uuid.uuid4())},
    ):
        assert server.request("GET", f"{path}?rev=initial", headers=headers, app=client).refusal(403)


def test_peerbanhelper_reads_the_deny_list_with_a_reason_for_each_entry(server: RunningServer, client: App) -> None:
    answer = server.get(f"{DENYLIST}?rev=initial", client)
    assert (answer.status, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    found = clients.address_list(answer.body)
    networks = {str(network) for network, _ in found}
    assert {"203.0.113.9/32", "60.220.180.0/23", "198.51.100.0/31", "60.220.182.8/29"} <= networks
    assert len(networks) == len(found)
    assert all(reason.startswith("[") and "operator" in reason for _, reason in found)
    assert {reason.partition("]")[0] for _, reason in found} == {"[PCDN", "[odd, #1"}
    for address in ("60.220.182.7", "2001:db8:1:2::5"):
        assert not covers(found, address)
    for address in ("60.220.182.6", "60.220.182.8", "2001:db8:1:3::5", "60.220.181.255"):
        assert covers(found, address)


def covers(found: list[tuple[Any, str]], address: str) -> bool:
    return any(ipaddress.ip_address(address) in network for network, _ in found)


def test_the_allow_list_has_the_same_grammar(server: RunningServer, client: App) -> None:
    found = clients.address_list(server.get(f"{ALLOWLIST}?rev=initial", client).body)
    assert {str(network) for network, _ in found} == {"60.220.182.7/32", "2001:db8:1:2::/64"}


def test_the_rust_client_reads_the_same_entries(server: RunningServer, client: App) -> None:
    for path in (DENYLIST, ALLOWLIST):
        body = server.get(f"{path}?rev=", client, RUST).body
        networks = {ipaddress.ip_network(line) for line in rust_list(body)}
        assert networks == {network for network, _ in clients.address_list(body)}


def test_identities_hold_everything_but_addresses(server: RunningServer, client: App) -> None:
    rules = clients.pbh_rules(server.get(f"{IDENTITY}?rev=initial", client).body)
    assert not rules.networks
    assert rules.ports == {"odd": [65000]}
    assert rules.bans_peer_id("-XL0012-")
    assert rules.bans_name("Xunlei 7")
    for_rust = clients.rust_rules(server.get(f"{IDENTITY}?rev=", client, RUST).body)
    assert for_rust.bans_name("xunlei 7")
    assert not for_rust.networks


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize("agent", [PBH20, RUST])
def test_204_answers_the_current_version_alone(server: RunningServer, client: App, path: str, agent: str) -> None:
    first = server.get(path, client, agent)
    version = first.headers["x-btn-contentversion"]
    assert re.fullmatch("[0-9a-f]{8}", version)
    same = server.get(f"{path}?rev={version}", client, agent)
    assert (same.status, same.body, same.headers["x-btn-contentversion"]) == (204, b"", version)
    for rev in ("initial", "", "unknown", "null", "00000000", version.upper() + "x"):
        again = server.get(f"{path}?rev={rev}", client, agent)
        assert (again.status, again.body, again.headers["x-btn-contentversion"]) == (200, first.body, version)


def test_no_two_lists_share_a_version(server: RunningServer, client: App) -> None:
    paths = [*LISTS, "/ping/rules/retrieve", "/ping/exception"]
    assert len({server.get(path, client).headers["x-btn-contentversion"] for path in paths}) == 5


@pytest.mark.parametrize("path", LISTS)
def test_a_list_is_packed_for_who_can_unpack_it(server: RunningServer, client: App, path: str) -> None:
    plain = server.get(path, client, Accept_Encoding="identity")
    packed = server.get(path, client, Accept_Encoding="gzip")
    assert (packed.headers["content-encoding"], gzip.decompress(packed.body)) == ("gzip", plain.body)
    assert "content-encoding" not in plain.headers
    assert packed.headers["vary"].lower() == "accept-encoding"
    head = server.request("HEAD", path, headers=client.headers, app=client)
    assert (head.status, head.body) == (200, b"")


def test_without_rules_the_lists_are_empty_and_have_versions(start: Callable[..., RunningServer]) -> None:
    running = start()
    for path in (DENYLIST, ALLOWLIST):
        answer = running.get(f"{path}?rev=initial")
        assert (answer.status, answer.body) == (200, b"")
        assert running.get(f"{path}?rev={answer.headers['x-btn-contentversion']}").status == 204
    assert clients.pbh_rules(running.get(f"{IDENTITY}?rev=initial").body).version


def test_no_text_of_a_client_is_in_a_list(server: RunningServer, client: App) -> None:
    evil = "evil\n0.0.0.0/1 , 255.255.255.255 , 0 , x"
    row = ban(9, 1, peer_ip="203.0.113.9", peer_client_name=evil, peer_id=evil, rule=evil, description=evil)
    server.post({"bans": [row]}, client, SYNC_BANS)
    for path in LISTS:
        assert b"evil" not in server.get(path, client).body


# --- Heartbeat --------------------------------------------------------------------------------------------------------


def heartbeat(server: RunningServer, app: App, body: bytes, source: App | None = None, **headers: str) -> Answer:
    """As PeerBanHelper and the Rust client send it: not packed."""
    more = {"Content-Type": "application/json; charset=utf-8", "User-Agent": PBH20}
    more |= {name.replace("_", "-"): value for name, value in headers.items()}
    return server.request("POST", HEARTBEAT, body, {**app.headers, **more}, source or app)


@pytest.mark.parametrize(
    "body",
    [
        b'{"ifaddr":"192.168.1.10"}',
        b'{"ifaddr":"fe80:0:0:0:215:5dff:fe01:203%eth0"}',
        b'{"ifaddr":"default"}',
        b'{"ifaddr":"60.220.182.1"}',
        b"{}",
        b"",
        b"\xff nothing",
    ],
)
def test_a_heartbeat_tells_the_address_of_the_socket_whatever_the_client_believes(
    server: RunningServer, client: App, body: bytes
) -> None:
    answer = heartbeat(server, client, body)
    assert (answer.status, answer.json()) == (200, {"external_ip": client.source or "127.0.0.1"})
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("forwarded", "seen"),
    [
        ("198.51.100.77", "198.51.100.77"),
        ("2001:DB8:9:0:0:0:0:1", "2001:db8:9::1"),
        ("::ffff:198.51.100.77", "198.51.100.77"),
        ("203.0.113.66, 198.51.100.77", "198.51.100.77"),
    ],
)
def test_behind_a_trusted_proxy_it_is_what_the_proxy_saw(
    server: RunningServer, client: App, forwarded: str, seen: str
) -> None:
    body = b'{"ifaddr":"default"}'
    assert heartbeat(server, client, body, PROXY, X_Forwarded_For=forwarded).json() == {"external_ip": seen}
    assert heartbeat(server, client, body, X_Forwarded_For=forwarded).json() == {
        "external_ip": client.source or "127.0.0.1"
    }


def test_a_heartbeat_needs_credentials_and_a_small_body(server: RunningServer, client: App) -> None:
    assert server.request("POST", HEARTBEAT, b'{"ifaddr":"192.168.1.10"}', {"User-Agent": PBH20}).refusal(403)
    assert heartbeat(server, client, b" " * 20_000).refusal(413)
    assert server.get(HEARTBEAT, client).status == 405


def test_every_address_of_a_heartbeat_is_kept_and_no_rule_lists_it_from_then_on(
    start: Callable[..., RunningServer],
) -> None:
    running = start(
        CONFIG + '[[rules]]\ntype = "ip"\ncategory = "c"\ncontent = ["60.220.182.0/24", "2001:db8:1::/48"]\n'
    )
    addresses = ["60.220.182.11", "60.220.182.200", "2001:db8:1::beef", "203.0.113.5"]
    before = running.get(DENYLIST)
    assert all(covers(clients.address_list(before.body), address) for address in addresses[:3])
    with ThreadPoolExecutor(8) as pool:
        # Each twice, with and without the client's own proxy, all at once.
        sent = [
            pool.submit(heartbeat, running, running.app, b'{"ifaddr":"::1"}', PROXY, X_Forwarded_For=address)
            for address in addresses * 2
        ]
        assert [one.result().json()["external_ip"] for one in sent] == addresses * 2
    for _ in range(2):
        found = clients.address_list(running.get(f"{DENYLIST}?rev={before.headers['x-btn-contentversion']}").body)
        assert not any(covers(found, address) for address in addresses)
        assert covers(found, "60.220.182.12")
        running.restart()
    with opened(running.database) as connection:
        stored = connection.execute("SELECT address FROM userapp_address").fetchall()
    texts = {str(ipaddress.ip_address(bytes(row["address"]))) for row in stored}
    assert set(addresses) <= texts


# --- The panel of an address ------------------------------------------------------------------------------------------


LISTED = "Listed: PCDN, listed by the operator of this server / 已列入：PCDN，由本服务器的管理员列入"
OUR_RULES = "com.ghostchu.peerbanhelper.module.impl.rule.BtnNetworkOnline"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server to which two people and their clients told things."""
    with start_server(tmp_path_factory.mktemp("told"), CONFIG + RULES) as running:
        for name in ("alice-the-first", "bob-the-second"):
            running.run("user", "add", name)
            made = json.loads(running.run("app", "add", "--user", name, "--json"))
            app = App(made["app_id"], made["app_secret"])
            running.post({"bans": [ban(1, 1_784_000_000_000), ban(9, 1, peer_ip="60.220.182.1")]}, app, SYNC_BANS)
            rows = [
                swarm(peer_ip="45.7.0.1", downloader="secret-downloader"),
                swarm(peer_ip="45.9.0.1", to_peer_traffic=1000, from_peer_traffic=2000),
                swarm(peer_ip="45.9.0.2", from_peer_traffic=-1, to_peer_traffic=-1, peer_progress=7.5),
                swarm(peer_ip="45.9.0.2", torrent_identifier=TD8, peer_progress=-0.5, downloader_progress=3),
            ]
            running.post({"swarms": rows}, app, SYNC_SWARM)
            running.post({"bans": [ban(2, 1, module=OUR_RULES)]}, app, SYNC_BANS)
        yield running


def story(running: RunningServer, address: str, app: App | None = None) -> dict[str, Any]:
    answer = running.get(f"{QUERY}?ip={quote(address, safe='')}", app or running.add_app())
    assert answer.status == 200, answer
    assert answer.headers["cache-control"] == "no-store"
    return panel(answer.body)


@pytest.mark.parametrize(
    ("address", "color", "label"),
    [
        ("192.0.2.99", "gray", "Unknown / 无记录"),
        ("2001:db8:77::1", "gray", "Unknown / 无记录"),
        ("45.7.0.1", "orange", "Banned by 2 people in 7 days / 7 天内被 2 人封禁"),
        ("60.220.182.1", "red", LISTED),
        ("60.220.180.1", "red", LISTED),
        ("60.220.182.7", "green", "Excepted by the operator / 已由管理员放行"),
        ("45.9.0.1", "green", "Gives back what it takes / 上传不少于下载"),
        ("45.9.0.2", "gray", "Seen / 有记录"),
        # Banned by nobody but our own rules' followers.
        ("45.7.0.2", "gray", "Seen / 有记录"),
    ],
)
def test_colour_and_labels_tell_what_is_known(told: RunningServer, address: str, color: str, label: str) -> None:
    report = story(told, address)
    assert report["color"] == color
    assert label in report["labels"]


def test_the_numbers_of_a_panel_are_those_that_were_told(told: RunningServer) -> None:
    report = story(told, "45.7.0.1")
    week = 7 * 24 * 3_600_000
    assert (report["bans"]["duration"], report["bans"]["total"], report["swarms"]["total"]) == (week, 2, 2)
    [first, second] = report["bans"]["records"]
    for record in (first, second):
        # When we heard of it, not when it was by the clock of whoever told it.
        assert abs(record.pop("populate_time") - time.time() * 1000) < 600_000
    assert first == second
    assert first | {"torrent": ""} == {
        "torrent": "",
        "peer_ip": "45.7.0.1",
        "peer_port": 60874,
        "peer_id": "-HP0001-",
        "peer_client_name": "HP 0.0.0.1",
        "peer_progress": 0.0,
        "peer_flags": "U I X P",
        "reporter_progress": 0.3929437099724969,
        "to_peer_traffic": 734003200,
        "from_peer_traffic": 0,
        "module_name": "com.ghostchu.peerbanhelper.module.impl.rule.ProgressCheatBlocker",
        "rule": "进度差异过大",
        "description": "客户端进度: 0.00%, 实际进度: 14.55%",
        "structured_data": {"type": "difference", "clientReportedProgress": 0.0, "actualProgress": 0.1455},
    }
    record = report["swarms"]["records"][0]
    unknown = story(told, "45.9.0.2")["swarms"]["records"]
    assert {(one["to_peer_traffic"], one["from_peer_traffic"]) for one in unknown} == {(0, 0), (734068736, 8192)}
    assert (record["first_time_seen"], record["last_time_seen"]) == (1784270000001, 1784276999987)
    assert (record["to_peer_traffic"], record["to_peer_traffic_offset"]) == (734068736, 734003200)
    assert report["traffic"] == {
        "duration": week,
        "to_peer_traffic": 2 * 734068736,
        "from_peer_traffic": 2 * 8192,
        "share_ratio": pytest.approx(8192 / 734068736),
    }
    # A ban and swarms of one torrent, from clients that differ in nothing but who they are.
    assert report["torrents"]["count"] == 1
    assert report["swarms"]["concurrent_download_torrents_count"] == 1


def test_a_torrent_of_which_clients_tell_two_sizes_is_one(server: RunningServer, client: App) -> None:
    rows = [swarm(peer_ip="45.8.0.2", torrent_size=size, peer_port=1 + size) for size in (0, 5, 6)]
    server.post({"swarms": rows}, client, SYNC_SWARM)
    report = story(server, "45.8.0.2")
    assert (report["swarms"]["total"], report["torrents"]["count"]) == (3, 1)
    assert report["swarms"]["concurrent_download_torrents_count"] == 1


ZEROS, ZEROS_TURNED = (
    "1ca334e65d854658cf4398db9f2e1c350a1d80b4aa29b2a87b47a1534bb961d2",
    "1fef2c4fca28401f0945355f8e4468ab9fd311885e884f5ac5ef2d7a544d5d06",
)
NO_HASH = "7e071fd9b023ed8f18458a73613a0834f6220bd5cc50357ba3493c6040a9ea8c"


def turned(identifier: str) -> str:
    """Stands for the identifier of the same torrent in the other byte order."""
    return identifier[::-1]


@pytest.mark.parametrize(
    ("address", "little", "big", "count"),
    [
        # One client of each kind tells of the same two torrents.
        ("45.10.0.1", [T52, TD8], [turned(T52), turned(TD8)], 2),
        # Of three torrents one kind knows one.
        ("45.10.0.2", [T52, TD8, "ab" * 32], [turned(T52)], 3),
        ("45.10.0.3", [T52], [turned(T52), turned(TD8)], 2),
        # What says "unknown" is no torrent, in whatever order, and neither are two of them.
        ("45.10.0.4", [T52, NO_HASH, ZEROS], [turned(T52), NO_HASH, ZEROS_TURNED], 1),
        ("45.10.0.5", [NO_HASH, ZEROS], [ZEROS_TURNED], 0),
    ],
)
@pytest.mark.parametrize("progress", [0.5, 1.0])
def test_a_torrent_under_the_identifiers_of_both_byte_orders_is_counted_once(
    server: RunningServer, address: str, little: list[str], big: list[str], count: int, progress: float
) -> None:
    address = address.replace("45.10", f"45.{10 + int(progress)}")
    for agent, identifiers in ((PBH20, little), (QBCB, big)):
        app = server.add_app()
        rows = [swarm(peer_ip=address, torrent_identifier=one, peer_progress=progress) for one in identifiers]
        # A ban of the same torrents adds none.
        bans = [ban(1, 1, peer_ip=address, torrent_identifier=one) for one in identifiers]
        assert server.post({"swarms": rows}, app, SYNC_SWARM, agent).rejected == 0
        assert server.post({"bans": bans}, app, SYNC_BANS, agent).rejected == 0
    report = story(server, address)
    assert report["swarms"]["total"] == len(little) + len(big)
    assert report["torrents"]["count"] == count
    concurrent = (
        report["swarms"]["concurrent_download_torrents_count"],
        report["swarms"]["concurrent_seeding_torrents_count"],
    )
    assert concurrent == ((0, count) if progress == 1 else (count, 0))
    labels = [record["torrent"] for record in report["swarms"]["records"]]
    sentinels = [one for one in (*little, *big) if one in (NO_HASH, ZEROS, ZEROS_TURNED)]
    assert labels.count("unknown") == len(sentinels)


def test_a_panel_leads_to_nobody(told: RunningServer) -> None:
    asker = told.add_app()
    texts = [told.get(f"{QUERY}?ip={ip}", asker).body.decode() for ip in ("45.7.0.1", "45.9.0.2", "60.220.182.1")]
    with opened(told.database) as connection:
        hidden = [str(value) for row in connection.execute("SELECT app_id FROM userapp") for value in row]
        hidden += [str(value) for row in connection.execute("SELECT name FROM user") for value in row]
    hidden += [T52, TD8, base64.b64encode(bytes.fromhex(T52)).decode(), "secret-downloader", "127.0.0.1", asker.secret]
    assert len(hidden) > 8
    for text in texts:
        assert not [value for value in hidden if value in text]


@pytest.mark.parametrize(
    "query",
    [
        "",
        "ip=",
        "IP=192.0.2.1",
        *(f"ip={text}" for text in ("45.7.0.0/24", "45.7.0.1/32", "0.0.0.0/0", "2001:db8::/32", "1", "45.7.0.1;DROP")),
        *(f"ip={text}" for text in ("nonsense", "example.org", "%00", "1" * 3000)),
    ],
)
def test_only_a_single_address_can_be_asked_for(told: RunningServer, query: str) -> None:
    assert told.get(f"{QUERY}?{query}", told.add_app()).refusal(400)


@pytest.mark.parametrize("spelling", ["45.7.0.1", "::ffff:45.7.0.1", "%3A%3Affff%3A2d07%3A0001"])
def test_an_address_may_be_spelled_otherwise(told: RunningServer, spelling: str) -> None:
    assert panel(told.get(f"{QUERY}?ip={spelling}", told.add_app()).body)["bans"]["total"] == 2


def test_questions_are_limited_for_each_application(told: RunningServer) -> None:
    asker, other = told.add_app(), told.add_app()
    answers = [told.get(f"{QUERY}?ip=192.0.2.{number}", asker) for number in range(34)]
    statuses = [answer.status for answer in answers]
    assert statuses[:30] == [200] * 30
    assert statuses[30:].count(429) >= 3
    refused = [answer for answer in answers if answer.status == 429]
    assert all(answer.refusal(429) and 1 <= int(answer.headers["retry-after"]) <= 60 for answer in refused)
    assert told.request("GET", widget_path(asker, "192.0.2.1")).status == 429
    assert told.get(f"{QUERY}?ip=192.0.2.1", other).status == 200
    assert told.get("/ping/config", asker).status == 200


# --- The widget -------------------------------------------------------------------------------------------------------


def widget_path(app: App, ip: str, **more: str) -> str:
    """As PeerBanHelper builds it: any order, nothing encoded."""
    values = {"ip": ip, "appId": app.app_id, "appSecret": app.secret, "hardwareId": "ab" * 32}
    values |= {"installationId": str(uuid.uuid4())} | more
    names = list(values)
    random.shuffle(names)
    return f"{WIDGET}?" + "&".join(f"{name}={values[name]}" for name in names)


def test_a_browser_shows_the_widget_in_a_frame(told: RunningServer) -> None:
    answer = told.request("GET", widget_path(told.add_app(), "45.7.0.1"), headers={"User-Agent": "Mozilla/5.0"})
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["content-security-policy"].split(";"))
    assert (policy["frame-ancestors"], policy["default-src"]) == ("*", "'none'")
    assert "script-src" not in policy
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert "x-frame-options" not in answer.headers
    assert "set-cookie" not in answer.headers
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    page = answer.body.decode()
    assert "Banned by 2 people" in page
    assert "7 天内被 2 人封禁" in page
    assert 'class="orange"' in page
    ipv6 = told.request("GET", widget_path(told.add_app(), "2001:db8::1"))
    assert (ipv6.status, b"2001:db8::1" in ipv6.body) == (200, True)


def test_hostile_texts_are_inert_in_the_widget(server: RunningServer, client: App) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
    row = ban(7, 1, peer_client_name=evil, peer_id="<b>", rule=evil, description=evil, module=evil)
    server.post({"bans": [row], "swarms": [swarm(peer_ip="45.7.0.7", peer_client_name=evil)]}, client, SYNC_BANS)
    page = server.request("GET", widget_path(client, "45.7.0.7")).body.decode()
    assert not re.search("<(script|img|b)[ >]|onerror", page)
    # Nor does an address get in that is none.
    for ip in ("<script>alert(1)</script>", '45.7.0.7"><script>', "fe80::1%25<script>"):
        answer = server.request("GET", widget_path(client, ip.replace(" ", "+")))
        assert answer.headers["content-type"].startswith("application/json") or b"<script" not in answer.body


def test_the_widgets_credentials_are_nowhere_in_the_log(told: RunningServer) -> None:
    app, installation = told.add_app(), str(uuid.uuid4())
    assert told.request("GET", widget_path(app, "45.7.0.1", installationId=installation)).status == 200
    assert told.request("GET", widget_path(app._replace(secret="x" * 43), "45.7.0.1")).status == 403
    assert [line["path"] for line in told.logged()[-2:]] == [WIDGET, WIDGET]
    for secret in (app.secret, "x" * 43, installation, "ab" * 32):
        assert secret not in told.stderr
        assert secret not in told.stdout


@pytest.mark.parametrize(
    "values",
    [
        {"appSecret": "wrong"},
        {"appId": ""},
        {"appId": "example-app-id", "appSecret": "example-app-secret"},
        {"appId": "example-app-id", "appSecret": "example-app-secret", "installationId": ""},
    ],
)
def test_the_widget_is_not_for_everybody(told: RunningServer, values: dict[str, str]) -> None:
    assert told.request("GET", widget_path(told.app, "45.7.0.1", **values)).refusal(403)
    assert told.request("GET", f"{WIDGET}?ip=45.7.0.1").refusal(403)


ALL_GETS = [
    *("/ping/config", "/ping/reconfigure", "/ping/rules/retrieve", "/ping/exception", *LISTS, QUERY, CHALLENGE),
]
ALL_POSTS = ["/ping/peers/submit", "/ping/bans/submit", "/ping/histories/submit", SYNC_BANS, SYNC_SWARM, HEARTBEAT]


def test_credentials_in_the_query_open_the_widget_alone(told: RunningServer) -> None:
    query = widget_path(told.app, "45.7.0.1").removeprefix(WIDGET)
    for method, paths in (("GET", ALL_GETS), ("POST", ALL_POSTS)):
        for number, path in enumerate(paths):
            source = App("", "", f"127.4.{len(method)}.{number + 1}")
            assert told.request(method, path + query, b"{}" if method == "POST" else None, app=source).status == 403


# --- Proof of work ----------------------------------------------------------------------------------------------------

PROVABLE = {
    "submit_bans": ("POST", SYNC_BANS),
    "submit_swarm": ("POST", SYNC_SWARM),
    "rule_peer_identity": ("GET", IDENTITY),
    "ip_denylist": ("GET", DENYLIST),
    "ip_allowlist": ("GET", ALLOWLIST),
    "heartbeat": ("POST", HEARTBEAT),
    "ip_query": ("GET", f"{QUERY}?ip=192.0.2.1"),
}
WORK = f"[btn.proof_of_work]\nabilities = {list(PROVABLE)}\ndifficulty_bits = 8\n".replace("'", '"')


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that wants work for everything."""
    with start_server(tmp_path_factory.mktemp("working"), CONFIG + WORK) as running:
        yield running


def call(
    running: RunningServer,
    app: App,
    ability: str,
    proof: tuple[str, str] | None = None,
    agent: str = PBH20,
    *,
    number: int = 0,
) -> int:
    """The status of a request of an ability, with a proof or without; no two numbers make the same request."""
    method, path = PROVABLE[ability]
    headers = {**app.headers, "User-Agent": agent}
    if proof:
        headers |= {"X-BTN-PowID": proof[0], "X-BTN-PowSolution": proof[1]}
    if method == "GET" and number:
        path += f"{'&' if '?' in path else '?'}number={number}"
    bodies = {"submit_bans": '{"bans":[]}', "submit_swarm": '{"swarms":[]}', "heartbeat": "{}"}
    body = f"{bodies[ability]}{' ' * number}".encode() if ability in bodies else None
    return running.request(method, path, body, headers, app).status


def session(running: RunningServer, app: App, kind: str) -> dict[str, Any]:
    answer = running.get(f"{CHALLENGE}?type={kind}", app)
    assert answer.status == 200, answer
    return dict(answer.json())


def test_without_configuration_nobody_is_asked_to_work(server: RunningServer, client: App) -> None:
    text = server.get("/ping/config", client).body.decode()
    assert "proof_of_work" not in text
    assert "pow_captcha" not in text
    assert {call(server, client, ability) for ability in PROVABLE} == {200}


def test_the_configuration_says_what_wants_work_and_where(working: RunningServer) -> None:
    answer = working.get("/ping/config")
    document = answer.json()
    assert document["proof_of_work_captcha"] == {"endpoint": f"{working.url}{CHALLENGE}"}
    assert {name for name, ability in document["ability"].items() if ability.get("pow_captcha")} == set(PROVABLE)
    assert "pow_captcha" not in document["ability"]["reconfigure"]
    clients.pbh_config(answer.body, 20)


@pytest.mark.parametrize("ability", PROVABLE)
def test_solved_work_opens_a_door_for_one_request_and_nothing_else_does(working: RunningServer, ability: str) -> None:
    app, other = working.add_app(), working.add_app()
    assert call(working, app, ability) == 403
    proof = solve(session(working, app, ability))
    assert call(working, app, ability, proof, number=1) == 200
    # Another body or query, another application, another ability.
    another = "heartbeat" if ability != "heartbeat" else "ip_query"
    for number in (0, 2):
        assert call(working, app, ability, proof, number=number) == 403
    assert call(working, other, ability, proof, number=1) == 403
    assert call(working, app, another, proof, number=1) == 403
    assert call(working, other, ability, solve(session(working, app, ability))) == 403
    assert call(working, app, ability, solve(session(working, app, another))) == 403
    # What an HTTP library sends again by itself when an answer is lost is the same to the last byte.
    assert call(working, app, ability, proof, number=1) == 200


@pytest.mark.parametrize("ability", ["submit_swarm", "heartbeat", "ip_denylist"])
def test_a_used_proof_with_a_wrong_solution_opens_nothing(working: RunningServer, ability: str) -> None:
    app = working.add_app()
    made = session(working, app, ability)
    assert call(working, app, ability, solve(made)) == 200
    assert call(working, app, ability, (made["id"], nonce_of(made, 8, False))) == 403
    assert call(working, app, ability, solve(made)) == 200


def test_a_body_that_did_not_arrive_whole_does_not_use_its_proof_up(working: RunningServer) -> None:
    app = working.add_app()
    number, solution = solve(session(working, app, "submit_bans"))
    lines = [f"{name}: {value}" for name, value in app.headers.items()]
    lines += [f"User-Agent: {PBH20}", f"X-BTN-PowID: {number}", f"X-BTN-PowSolution: {solution}", "Content-Length: 11"]
    with working.connect(app) as sock:
        head = "\r\n".join([f"POST {SYNC_BANS} HTTP/1.1", "Host: a", *lines, "", ""])
        sock.sendall(head.encode() + b'{"bans')
    assert call(working, app, "submit_bans", (number, solution)) == 200
    assert call(working, app, "submit_bans", (number, solution), number=1) == 403


def leads_to_zeros(made: dict[str, Any], nonce: bytes) -> bool:
    """Whether a nonce of any length does the work of 8 bits."""
    return hashlib.sha256(base64.b64decode(made["challengeBase64"]) + nonce).digest()[0] == 0


def nonce_of(made: dict[str, Any], size: int, right: bool, byte_order: Any = "big") -> str:
    """The first nonce of a size that does the work, or does not."""
    nonces = (number.to_bytes(size, byte_order) for number in range(1 << 16))
    return base64.b64encode(next(one for one in nonces if leads_to_zeros(made, one) is right)).decode()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda made: (made["id"], nonce_of(made, 8, False)),
        lambda made: (made["id"], nonce_of(made, 4, True)),
        lambda made: (made["id"], nonce_of(made, 9, True)),
        lambda made: (made["id"], ""),
        lambda made: (made["id"], "not base64!"),
        lambda made: (made["id"], solve(made)[1].rstrip("=")),
        lambda made: ("", solve(made)[1]),
        lambda made: (made["id"] + "x", solve(made)[1]),
        lambda made: (str(uuid.uuid4()), solve(made)[1]),
    ],
)
def test_work_that_is_none_is_refused_and_uses_the_challenge_up(
    working: RunningServer, spoil: Callable[[dict[str, Any]], tuple[str, str]]
) -> None:
    app = working.add_app()
    made = session(working, app, "heartbeat")
    number, solution = spoil(made)
    assert call(working, app, "heartbeat", (number, solution)) == 403
    assert call(working, app, "heartbeat", solve(made)) == (403 if number == made["id"] else 200)


def test_any_nonce_of_eight_bytes_that_does_the_work_is_right(working: RunningServer) -> None:
    app = working.add_app()
    made = session(working, app, "heartbeat")
    assert (made["difficultyBits"], made["algorithm"]) == (8, "SHA-256")
    assert call(working, app, "heartbeat", (made["id"], nonce_of(made, 8, True, "little"))) == 200


def test_of_requests_that_come_at_once_with_one_solution_one_is_taken(working: RunningServer) -> None:
    app = working.add_app()
    proof = solve(session(working, app, "submit_bans"))
    with ThreadPoolExecutor(8) as pool:
        bodies = list(pool.map(lambda number: call(working, app, "submit_bans", proof, number=number), range(16)))
    assert sorted(bodies) == [200] + [403] * 15


def test_a_request_that_comes_many_times_at_once_is_taken_each_time(working: RunningServer) -> None:
    app = working.add_app()
    proof = solve(session(working, app, "submit_bans"))
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: call(working, app, "submit_bans", proof), range(USES + 4)))
    # Not without end: one puzzle would be worth any number of requests.
    assert Counter(statuses) == {200: USES, 403: 4}


def solved(work: ProofOfWork, userapp: int = 1) -> tuple[str, str]:
    """A challenge for a heartbeat that is good for 10 s, and its solution."""
    made = work.challenge(userapp, "heartbeat", 1, 10_000)
    fields = {"id": made.id, "challengeBase64": made.challenge_base64, "difficultyBits": made.difficulty_bits}
    return solve(fields | {"algorithm": made.algorithm, "expireAt": made.expire_at})


def test_work_expires() -> None:
    now = 1_000_000
    work = ProofOfWork(lambda: now)
    assert work.challenge(1, "heartbeat", 1, 10_000).expire_at == now + 10_000
    for later, right in ((9_999, True), (10_000, False)):
        number, solution = solved(work)
        now += later
        if right:
            work.verify(1, "heartbeat", number, solution)
        else:
            with pytest.raises(SparkleError, match="solved proof of work"):
                work.verify(1, "heartbeat", number, solution)


def test_a_used_proof_is_good_for_its_request_for_some_minutes() -> None:
    now = 1_000_000
    work = ProofOfWork(lambda: now)
    number, solution = solved(work)
    work.verify(1, "heartbeat", number, solution).spend(b"a")
    now += REPEAT_MS - 1
    work.verify(1, "heartbeat", number, solution).spend(b"a")
    with pytest.raises(SparkleError, match="solved proof of work"):
        work.verify(1, "heartbeat", number, solution).spend(b"b")
    now += 1
    with pytest.raises(SparkleError, match="solved proof of work"):
        work.verify(1, "heartbeat", number, solution)


def test_used_proofs_are_kept_in_bounded_memory_and_nobody_pushes_others_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparkle_lite.accounts.proof_of_work._SESSIONS", 3 * PER_USERAPP)
    work = ProofOfWork(lambda: 1_000_000)

    def use(userapp: int) -> tuple[int, str, str, str]:
        proof = (userapp, "heartbeat", *solved(work, userapp))
        work.verify(*proof)
        return proof

    def is_known(proof: tuple[int, str, str, str]) -> bool:
        with suppress(SparkleError):
            return bool(work.check(*proof))
        return False

    quiet, *busy = use(1), *(use(2) for _ in range(2 * PER_USERAPP))
    # Its own oldest are forgotten, the other's is not.
    assert [is_known(proof) for proof in busy] == [False] * PER_USERAPP + [True] * PER_USERAPP
    assert is_known(quiet)
    # Of too many applications those are forgotten that were quiet longest.
    others = [use(userapp) for userapp in range(3, 6 * PER_USERAPP)]
    known = [is_known(proof) for proof in (quiet, *busy, *others)]
    assert known == sorted(known)
    assert 2 * PER_USERAPP < known.count(True) <= 3 * PER_USERAPP


def test_challenges_are_made_for_known_abilities_and_not_without_end(working: RunningServer) -> None:
    app = working.add_app()
    for kind in ("", "submit_peers", "rules", "x" * 2000):
        assert working.get(f"{CHALLENGE}?type={kind}", app).refusal(400)
    assert working.request("GET", f"{CHALLENGE}?type=heartbeat").refusal(403)
    made = [session(working, app, "submit_history") for _ in range(PER_USERAPP)]
    assert len({one["id"] for one in made}) == len({one["challengeBase64"] for one in made}) == PER_USERAPP
    answer = working.get(f"{CHALLENGE}?type=heartbeat", app)
    assert answer.refusal(429)
    assert int(answer.headers["retry-after"]) >= 1
    assert working.get(f"{CHALLENGE}?type=heartbeat", working.add_app()).status == 200


@pytest.mark.parametrize("agent", [RUST, QBCB, BITCOMET, PBH13, PBH8, "curl/8.5"])
def test_clients_that_can_not_solve_are_never_asked(working: RunningServer, agent: str) -> None:
    app = working.add_app()
    text = working.get("/ping/config", app, agent).body.decode()
    assert "proof_of_work" not in text
    assert "pow_captcha" not in text
    assert {call(working, app, ability, agent=agent) for ability in PROVABLE} == {200}


def test_the_log_says_once_at_the_start_what_work_for_heartbeats_costs(working: RunningServer) -> None:
    notes = [line for line in working.logged() if "a note about the configuration" in line["message"]]
    assert [line["level"] for line in notes] == ["warning"]
    assert "config.toml:" in notes[0]["message"]
    assert "btn.proof_of_work.abilities[5]: each heartbeat costs" in notes[0]["message"]


def test_in_legacy_shapes_nobody_is_asked(start: Callable[..., RunningServer]) -> None:
    running = start(CONFIG + "[btn]\nprefer_legacy = true\n" + WORK)
    answer = running.get("/ping/config")
    assert clients.pbh_config(answer.body, 20).shape == "legacy"
    assert "pow_captcha" not in answer.body.decode()
    assert {call(running, running.app, ability) for ability in ("submit_bans", "heartbeat", "ip_query")} == {200}


# --- Clients without credentials --------------------------------------------------------------------------------------

ANONYMOUS = CONFIG + "anonymous_apps = true\n"


def pbh_anonymous(installation: str) -> Headers:
    """PeerBanHelper with the credentials that it comes with."""
    return {
        "User-Agent": PBH20,
        "Content-Type": "application/json",
        "BTN-AppID": "example-app-id",
        "BTN-AppSecret": "example-app-secret",
        "X-BTN-AppID": "example-app-id",
        "X-BTN-AppSecret": "example-app-secret",
        "Authentication": "Bearer example-app-id@example-app-secret",
        "X-BTN-InstallationID": installation,
    }


def anonymous_apps(running: RunningServer) -> list[dict[str, Any]]:
    return list(json.loads(running.run("app", "list", "--anonymous", "--json")))


def test_anonymous_clients_are_refused_unless_they_are_wanted(server: RunningServer) -> None:
    rust_headers = {"User-Agent": RUST, "X-BTN-InstallationID": uuid.uuid4().hex}
    for headers in (pbh_anonymous(str(uuid.uuid4())), rust_headers):
        for path in ("/ping/config", DENYLIST, f"{QUERY}?ip=192.0.2.1"):
            assert server.request("GET", path, headers=headers, app=App("", "", "127.5.0.1")).refusal(403)
    assert anonymous_apps(server) == []


def test_anonymous_clients_submit_and_fetch_like_others(start: Callable[..., RunningServer]) -> None:
    running = start(ANONYMOUS)
    rust_headers = {"User-Agent": RUST, "X-BTN-InstallationID": uuid.uuid4().hex}
    for headers in (pbh_anonymous(str(uuid.uuid4())), rust_headers):
        assert running.request("GET", "/ping/config", headers=headers).status == 200
        body = gzip.compress(read_sample("pbh-modern-bans.json"))
        for _ in range(2):
            posted = running.request("POST", SYNC_BANS, body, {**headers, "Content-Encoding": "gzip"})
            assert (posted.status, posted.rejected) == (200, 0)
        assert running.request("GET", DENYLIST, headers=headers).status == 200
    apps = anonymous_apps(running)
    assert [app["user"] for app in apps] == ["anonymous", "anonymous"]
    for app in apps:
        assert len(running.rows("ban", App(app["app_id"], ""))) == 3
    # The widget knows them by its query.
    installation = str(uuid.uuid4())
    path = widget_path(App("example-app-id", "example-app-secret"), "192.0.2.1", installationId=installation)
    assert running.request("GET", path).status == 200
    assert len(anonymous_apps(running)) == 3
    # What a named application sends is its own, whatever installation id stands beside it.
    named = {**running.app.headers, "X-BTN-InstallationID": installation}
    assert running.request("GET", "/ping/config", headers=named).status == 200
    assert len(anonymous_apps(running)) == 3


def test_the_three_requests_of_a_start_make_one_application(start: Callable[..., RunningServer]) -> None:
    running = start(ANONYMOUS)
    for _ in range(4):
        headers = pbh_anonymous(str(uuid.uuid4()))
        with ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(lambda _, h=headers: running.request("GET", "/ping/config", headers=h), range(3)))  # type: ignore[misc]
        assert [answer.status for answer in answers] == [200] * 3
    assert len(anonymous_apps(running)) == 4


def test_one_address_makes_only_so_many_applications(start: Callable[..., RunningServer]) -> None:
    running = start(ANONYMOUS)
    known = pbh_anonymous(str(uuid.uuid4()))
    assert running.request("GET", "/ping/config", headers=known).status == 200
    statuses = []
    for _ in range(12):
        answer = running.request("GET", "/ping/config", headers=pbh_anonymous(str(uuid.uuid4())))
        statuses.append(answer.status)
        assert answer.status == 200 or int(answer.headers["retry-after"]) >= 1
    assert set(statuses) == {200, 429}
    assert len(anonymous_apps(running)) == 1 + statuses.count(200) < 10
    assert running.request("GET", "/ping/config", headers=known).status == 200
    elsewhere = App("", "", "127.6.0.1")
    assert running.request("GET", "/ping/config", headers=pbh_anonymous(uuid.uuid4().hex), app=elsewhere).status == 200


def test_unused_anonymous_clients_are_purged_and_may_come_back_as_new_ones(start: Callable[..., RunningServer]) -> None:
    running = start(ANONYMOUS)
    old, new = pbh_anonymous(str(uuid.uuid4())), pbh_anonymous(str(uuid.uuid4()))
    for headers in (old, new):
        assert running.request("GET", "/ping/config", headers=headers).status == 200
        body = gzip.compress(read_sample("pbh-modern-bans.json"))
        assert running.request("POST", SYNC_BANS, body, headers).status == 200
    running.stop()
    first, last = sorted(anonymous_apps(running), key=lambda app: app["created_at"])
    with closing(sqlite3.connect(running.database)) as connection:
        age = "UPDATE userapp SET created_at=created_at-?, last_access_at=last_access_at-? WHERE app_id=?"
        connection.execute(age, (31 * 86_400_000, 31 * 86_400_000, first["app_id"]))
        # A named one that is as old stays.
        connection.execute(age, (99 * 86_400_000, 99 * 86_400_000, running.app.app_id))
        connection.commit()
    running.start()

    purge = ("app", "purge-anonymous", "--older-than", "30d")
    assert running.run(*purge) == "1 client without credentials would be deleted; add --yes to do it.\n"
    assert len(anonymous_apps(running)) == 2
    assert running.run(*purge, "--yes") == "Deleted 1 client without credentials; what they reported stays.\n"
    assert running.run(*purge) == "No clients without credentials would be deleted; add --yes to do it.\n"
    assert [app["app_id"] for app in anonymous_apps(running)] == [last["app_id"]]
    assert running.get("/ping/config").status == 200
    assert running.rows("ban", App(first["app_id"], "")) == []
    with opened(running.database) as connection:
        assert connection.execute("SELECT count(*) FROM ban").fetchone()[0] == 6

    def is_back() -> bool:
        status = running.request("GET", "/ping/config", headers=old).status
        return status == 200 and len(anonymous_apps(running)) == 2

    # The running server notices within two seconds.
    wait_for(is_back, 3)
    body = gzip.compress(read_sample("pbh-modern-bans.json"))
    assert running.request("POST", SYNC_BANS, body, old).status == 200
    assert len(running.rows("ban", App(first["app_id"], ""))) == 3


# --- Rate limits ------------------------------------------------------------------------------------------------------


def test_a_limit_holds_for_each_application_and_changes_with_the_configuration(
    start: Callable[..., RunningServer],
) -> None:
    text = "[limits]\nrequests_per_minute = {}\n"
    running = start(text.format(20))
    app, other = running.add_app(), running.add_app()
    answers = [running.get("/ping/config", app) for _ in range(25)]
    assert [answer.status for answer in answers[:20]] == [200] * 20
    assert answers[-1].refusal(429)
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
    for path in (DENYLIST, "/ping/rules/retrieve", f"{QUERY}?ip=192.0.2.1"):
        assert running.get(path, app).status == 429
    assert running.post({"bans": []}, app, SYNC_BANS).status == 429
    assert running.get("/ping/config", other).status == 200
    running.reload(text.format(0))
    assert {running.get("/ping/config", app).status for _ in range(50)} == {200}
    running.reload(text.format(10))
    statuses = [running.get("/ping/config", app).status for _ in range(14)]
    assert statuses[:10] == [200] * 10
    assert 429 in statuses


def test_what_real_clients_do_at_once_is_within_the_default_limit(start: Callable[..., RunningServer]) -> None:
    running = start()
    for _ in range(3):
        assert running.get("/ping/config").status == 200
    form = okhttp(PBH20)
    # A first contact: 20,000 bans and 100,000 swarms in pages, and a heartbeat for each of many addresses.
    for number in range(200):
        page = {"bans": [ban(number, number)]}
        assert running.send(form(SYNC_BANS, running.app, json.dumps(page).encode()), running.app).status == 200
    for number in range(100):
        page = {"swarms": [swarm(peer_port=number)]}
        assert running.send(rust(SYNC_SWARM, running.app, json.dumps(page).encode()), running.app).status == 200
    for path in (*LISTS, "/ping/config"):
        assert running.get(path).status == 200
    with ThreadPoolExecutor(8) as pool:
        beats = pool.map(lambda _: heartbeat(running, running.app, b'{"ifaddr":"::1"}').status, range(40))
        assert set(beats) == {200}


def test_an_address_is_limited_over_all_its_applications(start: Callable[..., RunningServer]) -> None:
    running = start("[limits]\nrequests_per_minute = 5\n[auth]\nmax_apps_per_user = 100\n")
    apps = [running.add_app()._replace(source="127.7.0.1") for _ in range(11)]
    statuses = [running.get("/ping/config", app).status for app in apps for _ in range(5)]
    assert statuses[:40] == [200] * 40
    assert statuses[41:] == [429] * 14
    assert running.get("/ping/config", running.add_app()).status == 200


def test_the_age_of_a_purge_must_be_a_duration(capsys: pytest.CaptureFixture[str], server: RunningServer) -> None:
    for wrong in ("soon", "30", "-1d"):
        with pytest.raises(SystemExit) as caught:
            server.run("app", "purge-anonymous", "--older-than", wrong)
        assert caught.value.code == 2
        assert "--older-than" in capsys.readouterr().err
