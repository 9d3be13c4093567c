"""Addresses in every form in which clients and people write them: read the same way wherever one can be named."""

import io
import ipaddress
import itertools
import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from server import PBH20, App, RunningServer

from sparkle_lite.cli.main import main
from sparkle_lite.net import NO_PORT, AddressError, address_and_port, address_bytes, address_text, parse_network
from sparkle_lite.wire.list_formats import read_list

# As written, the address that is meant, the port that is written.
FORMS = [
    ("203.0.113.5", "203.0.113.5", NO_PORT),
    ("203.0.113.5:6881", "203.0.113.5", 6881),
    ("203.0.113.5:0", "203.0.113.5", 0),
    ("203.0.113.5:65535", "203.0.113.5", 65535),
    (" 203.0.113.5:6881\r\n", "203.0.113.5", 6881),
    ("[203.0.113.5]:6881", "203.0.113.5", 6881),
    ("2001:db8::1", "2001:db8::1", NO_PORT),
    ("2001:db8::1:6881", "2001:db8::1:6881", NO_PORT),
    ("[2001:db8::1:6881]", "2001:db8::1:6881", NO_PORT),
    ("[2001:db8::1]", "2001:db8::1", NO_PORT),
    ("[2001:db8::1]:6881", "2001:db8::1", 6881),
    ("[2001:db8:0:0:0:0:0:1]:6881", "2001:db8::1", 6881),
    ("fe80::1%3", "fe80::1", NO_PORT),
    ("fe80:0:0:0:0:0:0:1%eth0", "fe80::1", NO_PORT),
    ("[fe80::1%3]", "fe80::1", NO_PORT),
    ("[fe80::1%3]:6881", "fe80::1", 6881),
    ("[2001:db8::1%eth0:1]:6881", "2001:db8::1", 6881),
    ("::ffff:36.151.181.249", "36.151.181.249", NO_PORT),
    ("::ffff:36.151.181.249:6889", "36.151.181.249", 6889),
    ("::FFFF:2497:b5f9", "36.151.181.249", NO_PORT),
    ("0:0:0:0:0:ffff:36.151.181.249:6889", "36.151.181.249", 6889),
    ("[::ffff:36.151.181.249]", "36.151.181.249", NO_PORT),
    ("[::ffff:36.151.181.249]:6889", "36.151.181.249", 6889),
    ("[::ffff:36.151.181.249:6889]", "36.151.181.249", 6889),
    ("[::ffff:36.151.181.249%3]:6889", "36.151.181.249", 6889),
]
NO_ADDRESSES = [
    "",
    " ",
    ":",
    ":6881",
    "[]",
    "[]:6881",
    "203.0.113.5:",
    "203.0.113.5:65536",
    "203.0.113.5:-1",
    "203.0.113.5:+6",
    "203.0.113.5: 6881",
    "203.0.113.5:6881:6882",
    "203.0.113.5:６８８１",
    "203.0.113:6881",
    "016.0.0.0:6881",
    "203.0.113.5%3",
    "host:6881",
    "2001:db8::1:60874",
    "2001:db8:0:0:0:0:0:1:6881",
    "[2001:db8::1",
    "2001:db8::1]",
    "[2001:db8::1]6881",
    "[2001:db8::1]:",
    "[2001:db8::1]:65536",
    "[2001:db8::1]x",
    "[[2001:db8::1]]",
    "[::ffff:36.151.181.249:6889]:6889",
    "[203.0.113.5:6881]:6881",
    "%3",
    "\0",
    "203.0.113.5\0",
    "203.0.113.5:6881\0",
    "\ud800",
]


@pytest.mark.parametrize(("text", "address", "port"), FORMS)
def test_every_form_is_its_address_and_port(text: str, address: str, port: int) -> None:
    assert address_and_port(text) == (ipaddress.ip_address(address).packed, port)
    assert address_bytes(text) == ipaddress.ip_address(address).packed


@pytest.mark.parametrize("text", NO_ADDRESSES)
def test_what_is_no_address_is_refused(text: str) -> None:
    for read in (address_and_port, address_bytes, parse_network, lambda text: parse_network(text, with_port=True)):
        with pytest.raises(AddressError):
            read(text)


ADDRESSES = st.ip_addresses() | st.ip_addresses(v=4).map(lambda v4: ipaddress.IPv6Address(f"::ffff:{v4}"))
ZONES = st.sampled_from(["", "%3", "%eth0", "%en0:1", "%{0F5A}"])
BLANKS = st.sampled_from(["", " ", "\t", "\r\n"])


@given(ADDRESSES, st.none() | st.integers(0, 65535), ZONES, BLANKS, st.booleans(), st.randoms())
def test_any_address_may_have_brackets_a_zone_and_a_port(
    address: Any, port: int | None, zone: str, blank: str, in_brackets: bool, chance: Any
) -> None:
    meant, written = address, str(address)
    if address.version == 6:
        mapped = address.ipv4_mapped
        written = chance.choice([written, address.exploded, written.upper(), *([f"::ffff:{mapped}"] if mapped else [])])
        meant = mapped or address
    else:
        zone = ""
    # Without brackets only a dotted address can have a port, and then no zone.
    needs_brackets = port is not None and (zone or "." not in written)
    text = f"[{written}{zone}]" if in_brackets or needs_brackets else written + zone
    text = blank + text + ("" if port is None else f":{port}") + blank
    assert address_and_port(text) == (meant.packed, NO_PORT if port is None else port)
    network = parse_network(text, with_port=True)
    assert (network.address, network.prefix) == (meant.packed, meant.max_prefixlen)
    if port is None:
        assert parse_network(text) == network
    else:
        with pytest.raises(AddressError, match=f"names a port.*write {network}$"):
            parse_network(text)


@given(st.text(st.sampled_from("0123456789abcdefABCDEF.:[]%/ x\0٣"), max_size=40))
def test_any_text_is_one_address_or_an_error_that_says_so(text: str) -> None:
    try:
        address, port = address_and_port(text)
    except AddressError as error:
        assert repr(text[:64]) in str(error)
        return
    assert NO_PORT <= port <= 65535
    assert address_and_port(address_text(address)) == (address, NO_PORT)


def test_a_network_has_no_port() -> None:
    for text in ("203.0.113.0:80/24", "203.0.113.5:80/32", "[2001:db8::]:80/32"):
        with pytest.raises(AddressError):
            parse_network(text, with_port=True)


# --- Wherever an address can be named ---------------------------------------------------------------------------------

_NAMED = itertools.count(1)
# With a place for a number that makes each test's address its own: the form, and the address that is meant.
PLACES = [
    ("60.7.{}.5:6881", "60.7.{}.5"),
    ("[60.7.{}.5]:6881", "60.7.{}.5"),
    ("[2a00:7:{}::1]:6881", "2a00:7:{}::1"),
    ("[2a00:7:{}::1%3]:6881", "2a00:7:{}::1"),
    ("2a00:7:{}::1%3", "2a00:7:{}::1"),
    ("::ffff:60.7.{}.5:6889", "60.7.{}.5"),
    ("[::ffff:60.7.{}.5]:6889", "60.7.{}.5"),
    ("2a00:7:{}::1:6881", "2a00:7:{}::1:6881"),
]


@pytest.fixture(params=PLACES, ids=lambda pair: pair[0].format(0))
def named(request: pytest.FixtureRequest) -> tuple[str, str]:
    """An address in some form, and in its canonical one."""
    number = next(_NAMED)
    return request.param[0].format(number), request.param[1].format(number)


def reported(server: RunningServer, app: App, address: str, **more: Any) -> dict[str, Any]:
    """What is stored of one peer reported with this address."""
    at = time.time_ns()
    row = {"ip_address": address, "torrent_identifier": "t", "uploaded": 5, "client_name": str(at)} | more
    answer = server.post({"peers": [row]}, app)
    assert (answer.status, answer.rejected) == (200, 0)
    [stored] = [row for row in server.rows("snapshot", app) if row["peer_client_name"] == str(at)]
    return stored


def test_a_peer_is_stored_by_its_address_whatever_form_it_was_reported_in(
    shared: RunningServer, app: App, named: tuple[str, str]
) -> None:
    written, meant = named
    stored = reported(shared, app, written, peer_port=51413)
    assert (stored["peer_ip"], stored["peer_port"]) == (meant, 51413)


@pytest.mark.parametrize(
    ("address", "own", "kept"),
    [
        ("60.7.0.1:6881", {}, 6881),
        ("60.7.0.1:6881", {"peer_port": -1}, 6881),
        ("60.7.0.1:6881", {"peer_port": 0}, 6881),
        ("60.7.0.1:6881", {"peer_port": 51413}, 51413),
        ("60.7.0.1:0", {"peer_port": -1}, 0),
        ("60.7.0.1", {"peer_port": 0}, 0),
        ("[2a00:7::1]:6881", {"peer_port": -1}, 6881),
    ],
)
def test_a_port_behind_the_address_counts_where_the_row_knows_none(
    shared: RunningServer, app: App, address: str, own: dict[str, int], kept: int
) -> None:
    assert reported(shared, app, address, **own)["peer_port"] == kept
    shape = {"torrent_identifier": "t", "module": "m", "ban_at": 1_700_000_000_000} | own
    swarm = shape | {"last_time_seen": 5, "downloader": "d"}
    body = {"bans": [shape | {"peer_ip": address}], "swarms": [swarm | {"peer_ip": address}]}
    assert shared.post(body, app).rejected == 0
    assert [row["peer_port"] for row in (*shared.rows("ban", app), *shared.rows("swarm", app))] == [kept, kept]
    again = {"bans": [shape | {"peer_ip": address.replace(":6881", ""), "peer_port": kept}]}
    assert shared.post(again, app).rejected == 0
    assert len(shared.rows("ban", app)) == 1


def test_a_client_asks_for_an_address_in_any_form(shared: RunningServer, app: App, named: tuple[str, str]) -> None:
    written, meant = named
    ban = {"peer_ip": meant, "torrent_identifier": "t", "module": "m", "ban_at": time.time_ns() // 10**6}
    assert shared.post({"bans": [ban]}, app).rejected == 0
    answer = shared.get(f"/ping/queryIp?ip={quote(written)}", app)
    assert (answer.status, answer.json()["bans"]["total"]) == (200, 1)
    assert [record["peer_ip"] for record in answer.json()["bans"]["records"]] == [meant]
    secrets = f"appId={app.app_id}&appSecret={app.secret}&hardwareId=a&installationId=b"
    widget = shared.request("GET", f"/ping/queryIp/widget?ip={quote(written)}&{secrets}", app=app)
    assert widget.status == 200


def test_a_person_asks_for_an_address_in_any_form(shared: RunningServer, app: App, named: tuple[str, str]) -> None:
    written, meant = named
    reported(shared, app, meant)
    token = shared.token()
    cookie = {"Cookie": f"X-BTN-Token={token}", "Accept": "text/html"}
    for path in (f"/ip/{quote(written, safe='')}", f"/ip?address={quote(written)}"):
        answer = shared.request("GET", path, headers=cookie)
        if path != f"/ip/{quote(meant, safe='')}":
            assert (answer.status, unquote(answer.headers["location"])) == (303, f"/ip/{meant}")
            answer = shared.request("GET", answer.headers["location"], headers=cookie)
        assert answer.status == 200
    for path in ("/rules?ip=", "/explore/snapshots?peerIp="):
        assert shared.request("GET", path + quote(written), headers=cookie).status == 200
    bearer = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    listing = json.dumps({"peerIp": written}).encode()
    found = shared.request("POST", "/api/snapshot/query", listing, bearer)
    assert found.status == 200, found.body
    assert {row["peerIp"] for row in found.json()["data"]["results"]} == {meant}
    assert shared.request("GET", f"/api/rules?ip={quote(written)}", headers=bearer).status == 200


def test_an_administrator_names_an_address_in_any_form(shared: RunningServer, named: tuple[str, str]) -> None:
    written, meant = named
    assert f"Listed {meant} until" in shared.run("rules", "deny", written)
    assert shared.run("rules", "why", written).startswith(f"{meant} is listed.")
    assert f"ended: {meant}" in shared.run("rules", "pardon", written)


def test_a_list_of_others_names_addresses_in_any_form(named: tuple[str, str]) -> None:
    written, meant = named
    read = read_list(f"{written}  # somebody\n{written} - {written}\n".encode())
    assert {str(network): comment for network, comment in read.networks.items()} == {meant: "somebody"}
    assert read.bad == ()


def test_the_configurations_own_rules_have_no_port_and_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.toml"
    for table in ("rules", "exceptions"):
        config.write_text(f'[[{table}]]\ntype = "ip"\ncategory = "c"\ncontent = ["60.7.0.1:6881"]\n')
        assert main(["config", "check", "--config", str(config)]) == 2
        error = capsys.readouterr().err
        assert "names a port, which has no meaning here; write 60.7.0.1" in error


def test_a_proxy_may_write_the_port_of_the_connection(start: Any) -> None:
    server = start('[server]\ntrusted_proxies = ["127.0.0.0/8"]\n')
    for hop, meant in (("60.7.0.1:4711", "60.7.0.1"), ("[2a00:7::1]:4711", "2a00:7::1"), ("2a00:7::1", "2a00:7::1")):
        headers = {**server.app.headers, "User-Agent": PBH20, "X-Forwarded-For": hop}
        body = io.BytesIO(b'{"ifaddr":"default"}').getvalue()
        assert server.request("POST", "/ping/heartbeat", body, headers).json() == {"external_ip": meant}
