"""Requests of the real programs, as they were recorded with their headers: what is stored of them, what they are told.

The bodies were cut to a few rows and the credentials replaced; here they are packed again as the headers say.
"""

import gzip
import ipaddress
import json
from pathlib import Path
from typing import Any

import client_parsers as clients
import pytest
from canonical import expected
from server import Answer, App, Kind, RunningServer, chunked, read_answer

RECORDED = Path(__file__).parents[1] / "wire" / "recorded"
SUBMISSIONS = sorted(path.stem for path in RECORDED.glob("*.json") if "ubmit" in path.name or "sync" in path.name)
PROTOCOLS = {"pbh-7.4.15": 10, "pbh-9.5.0": 20}
Recorded = dict[str, Any]


def recorded(name: str) -> Recorded:
    return dict(json.loads((RECORDED / f"{name}.json").read_bytes()))


def head_of(request: Recorded, app: App, *, doubled: bool = False) -> tuple[bytes, dict[str, str]]:
    """The request's head with an application's credentials, and its headers in lower case."""
    lines = [f"{request['request']} HTTP/1.1"]
    headers = {}
    for name, value in request["headers"]:
        for placeholder, real in (("APP_ID", app.app_id), ("APP_SECRET", app.secret)):
            example = f"example-{placeholder.lower().replace('_', '-')}"
            value = value.replace(placeholder, real).replace(example, real)
        headers[name.lower()] = value
        # PeerBanHelper 3.2.0 and 4.0.2 say who they are twice, PeerBanHelper-RS also of what type its body is.
        lines += [f"{name}: {value}"] * (2 if doubled and name in ("User-Agent", "Content-Type") else 1)
    return "\r\n".join(lines).encode(), headers


def send(
    server: RunningServer, app: App, request: Recorded, *, times: int = 1, chunk: int = 300, doubled: bool = False
) -> list[Answer]:
    """Send a recorded request so many times on one connection: its head, then its body as the client packs it."""
    head, headers = head_of(request, app, doubled=doubled)
    body = b""
    if "body" in request:
        body = json.dumps(request["body"], ensure_ascii=False, separators=(",", ":")).encode()
    if headers.get("content-encoding") == "gzip":
        body = gzip.compress(body)
    if headers.get("transfer-encoding") == "chunked":
        body = chunked(body, chunk)
    elif body:
        head += b"\r\nContent-Length: %d" % len(body)
    answers = []
    with server.connect(app) as sock:
        for _ in range(times):
            sock.sendall(head + b"\r\n\r\n")
            for start in range(0, len(body), 700):
                sock.sendall(body[start : start + 700])
            answers.append(read_answer(sock, request["request"].partition(" ")[0]))
    return answers


def kept(row: Recorded) -> Recorded:
    """The row as it is cleaned: its address short, texts without NUL, 8 characters of a peer id, no name too long."""
    address = ipaddress.ip_address(row["peer_ip"].partition("%")[0])
    name = row["peer_client_name"].replace("\0", "")
    return row | {
        "peer_ip": str(getattr(address, "ipv4_mapped", None) or address),
        "peer_id": row["peer_id"].replace("\0", "")[:8],
        "peer_client_name": name if len(name) <= 250 else f"{name[:64]}[...]{name[-64:]}",
    }


def is_public(row: Recorded) -> bool:
    """Whether a row's address is neither link-local nor private, the only other kinds that were recorded."""
    return not row["peer_ip"].startswith(("fe80:", "192.168."))


def meant(body: Recorded) -> tuple[Kind, list[Recorded]]:
    """Where the rows of a body are to be stored, and with which values."""
    time = body.get("populate_time")
    if "swarms" in body:
        return "swarm", [expected(row, "swarm") | {"origin": "swarm"} for row in body["swarms"]]
    if "bans" in body:
        bans = [expected(row, "ban") for row in body["bans"]]
        return "ban", [
            ban
            | {"ban_at": ban.get("ban_at", time), "populate_time": time}
            | {"btn_ban": ban.get("btn_ban", False) or ban["module"].endswith("BtnNetworkOnline")}
            for ban in bans
        ]
    if "downloaded_offset" in body["peers"][0]:
        rows = [expected(row, "history") for row in body["peers"]]
        return "swarm", [row | {"origin": "history", "populate_time": time} for row in rows]
    return "snapshot", [expected(row, "snapshot") | {"populate_time": time} for row in body["peers"]]


def test_all_recorded_requests_are_there() -> None:
    paths = {recorded(path.stem)["request"].partition("?")[0] for path in RECORDED.glob("*.json")}
    assert paths == {
        "GET /ping/config",
        "GET /ping/queryIp",
        "POST /ping/heartbeat",
        "POST /ping/peers/submit",
        "POST /ping/bans/submit",
        "POST /ping/histories/submit",
        "POST /ping/syncBanHistory",
        "POST /ping/syncSwarm",
    }
    assert len(SUBMISSIONS) == 8


@pytest.mark.parametrize("doubled", [False, True])
@pytest.mark.parametrize("chunk", [1, 300, 100_000])
@pytest.mark.parametrize("name", SUBMISSIONS)
def test_every_value_of_a_recorded_submission_is_stored_once(
    shared: RunningServer, app: App, name: str, chunk: int, doubled: bool
) -> None:
    request = recorded(name)
    answers = send(shared, app, request, times=2, chunk=chunk, doubled=doubled)
    assert [(answer.status, answer.body) for answer in answers] == [(200, b"")] * 2
    kind, rows = meant(request["body"])
    wanted = [kept(row) for row in rows if is_public(row)]
    assert [answer.rejected for answer in answers] == [len(rows) - len(wanted), 0]
    stored = shared.rows(kind, app)
    for row in stored:
        if row.get("structured_data") is not None:
            row["structured_data"] = json.loads(row["structured_data"])
    names = wanted[0].keys()
    assert [{name: row[name] for name in names} for row in stored] == wanted
    others: tuple[Kind, ...] = ("snapshot", "swarm", "ban")
    assert not any(shared.rows(other, app) for other in others if other != kind)


@pytest.mark.parametrize("version", PROTOCOLS)
def test_a_recorded_client_works_with_the_configuration_it_gets(shared: RunningServer, app: App, version: str) -> None:
    first, second = send(shared, app, recorded(f"{version}-ping_config"), times=2)
    assert (first.status, first.body) == (200, second.body)
    taken = clients.pbh_config(first.body, PROTOCOLS[version])
    assert "exception" not in taken.abilities
    # Its addresses lead back to where the client found us.
    endpoints = [ability["endpoint"] for ability in taken.abilities.values() if "endpoint" in ability]
    assert endpoints
    assert all(endpoint.startswith("http://sparkle.example:7799/ping/") for endpoint in endpoints)
    sent = {path.stem for path in RECORDED.glob(f"{version}-ping_*.json")}
    offered = {endpoint.rpartition("/ping/")[2].replace("/", "_") for endpoint in endpoints}
    asked = {name.partition("ping_")[2] for name in sent} - {"config"}
    # The operator's defaults ask of nobody what he would have sent; what was recorded by default is offered again.
    assert asked <= offered


def test_a_recorded_heartbeat_is_told_its_address(shared: RunningServer, app: App) -> None:
    [answer] = send(shared, app, recorded("pbh-9.5.0-ping_heartbeat"))
    assert (answer.status, clients.pbh_heartbeat(answer.body)) == (200, app.source or "127.0.0.1")


def test_a_recorded_question_is_answered_with_what_the_panel_shows(shared: RunningServer, app: App) -> None:
    question = recorded("pbh-9.5.0-ping_queryIp")
    [nothing] = send(shared, app, question)
    assert nothing.status == 200
    clients.pbh_ip_query(nothing.body)
    swarms = recorded("pbh-9.5.0-ping_syncSwarm")["body"]["swarms"]
    for name in ("pbh-9.5.0-ping_syncSwarm", "pbh-9.5.0-ping_syncBanHistory"):
        send(shared, app, recorded(name))
    [answer] = send(shared, app, question)
    shown = clients.pbh_ip_query(answer.body)
    assert {record["peer_ip"] for record in shown["swarms"]["records"]} == {"45.78.10.1"}
    [swarm] = [row for row in swarms if row["peer_ip"] == "45.78.10.1"]
    assert any(
        (record["peer_port"], record["to_peer_traffic"]) == (swarm["peer_port"], swarm["to_peer_traffic"])
        for record in shown["swarms"]["records"]
    )
