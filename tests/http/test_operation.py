"""What an operator relies on: probes, metrics, logs, files, reloading, retention."""

import asyncio
import base64
import json
import re
import signal
import sqlite3
import stat
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from server import App, RunningServer, catalogue, count, embedded, opened, rows, wait_for

import sparkle_lite.server
from sparkle_lite import __version__
from sparkle_lite.db import segments
from sparkle_lite.server import Server
from sparkle_lite.turns import Owner
from sparkle_lite.wire.dialect import detect

TORRENT = "52fa13494a4571a951b46b1a04be19ab9d8089c3d3761956c99f5435e6f2c8ad"
DAY = 86_400_000
PBH = detect("PeerBanHelper/9.5.0")
Serve = Callable[..., Awaitable[Server]]


def peers(at: int, *addresses: str, torrent: str = TORRENT, **more: Any) -> dict[str, Any]:
    sent = [{"ip_address": address, "torrent_identifier": torrent, **more} for address in addresses]
    return {"populate_time": at, "peers": sent}


# --- Probes and metrics -----------------------------------------------------------------------------------------------


def test_the_probes_say_that_all_is_well(shared: RunningServer) -> None:
    health, ready = shared.request("GET", "/healthz"), shared.request("GET", "/readyz")
    assert (health.status, health.json()) == (200, {"status": "ok", "version": __version__})
    assert ready.status == 200
    assert ready.json()["ready"] is ready.json()["writer"] is ready.json()["rules_published"] is True
    assert (ready.json()["rules_held"], ready.json()["failing_jobs"]) == (0, {})


def test_the_openapi_document_names_every_route_of_the_protocol(shared: RunningServer) -> None:
    paths = shared.request("GET", "/openapi.json").json()["paths"]
    for path in ("config", "reconfigure", "rules/retrieve", "exception"):
        assert "get" in paths[f"/ping/{path}"]
    for path in ("peers", "bans", "histories"):
        assert "post" in paths[f"/ping/{path}/submit"]
    assert {"/healthz", "/readyz", "/metrics"} <= set(paths)


def test_metrics_count_what_happens(start: Callable[..., RunningServer]) -> None:
    server = start()
    body = peers(1, "203.0.113.1", "10.0.0.1", "nowhere", "203.0.113.2")
    for _ in range(2):
        server.post(body)
    server.post(b"nonsense")
    server.request("GET", "/ping/config")
    server.post({"bans": [{"peer_ip": "203.0.113.1", "torrent_identifier": TORRENT, "module": "m", "ban_at": 1}] * 2})
    expected = {
        ("sparkle_rows_accepted_total", "kind", "snapshot"): 2,
        ("sparkle_rows_accepted_total", "kind", "ban"): 1,
        ("sparkle_rows_rejected_total", "reason", "not_public"): 1,
        ("sparkle_rows_rejected_total", "reason", "bad_address"): 1,
        ("sparkle_duplicates_total", "what", "body"): 1,
        ("sparkle_duplicates_total", "what", "ban"): 1,
    }
    assert {key: server.metric(key[0], **{key[1]: key[2]}) for key in expected} == expected
    assert server.metric("sparkle_http_requests_total", route="/ping/peers/submit", status="200") == 3
    assert server.metric("sparkle_http_requests_total", route="/ping/peers/submit", status="400") == 1
    assert server.metric("sparkle_http_requests_total", route="/ping/config", status="403") == 1
    assert server.metric("sparkle_commit_seconds_count") >= 2
    assert server.metric("sparkle_database_bytes") > 10_000
    assert server.metric("sparkle_wal_bytes", file="main") >= 0
    assert server.metric("sparkle_queue_bytes") == 0


def test_no_client_can_invent_labels(shared: RunningServer, anyone: App) -> None:
    def labels() -> set[str]:
        text = shared.request("GET", "/metrics").body.decode()
        return set(re.findall(r'route="([^"]*)"', text))

    for path in ("/ping/config", "/ping/x", "/x", "/metrics"):
        shared.request("GET", path)
    before = labels()
    for n in range(30):
        for path in (f"/{n}", f"/ping/{n}", f"/ping/config{'/' * n}", f"/{'/' * n}ping/config", f"/ping/config/{n}"):
            shared.get(path, anyone)
            shared.request("GET", path)
        shared.request("GET", f"/ping/peers/submit?x={n}", headers=anyone.headers)
        shared.request(f"M{n}", "/ping/config")
    assert len(labels() - before) <= 3


def test_metrics_are_for_the_allowed_networks(start: Callable[..., RunningServer]) -> None:
    forwarded = {"X-Forwarded-For": "192.0.2.7"}
    server = start()
    for allow, proxies, headers, status in (
        ('["127.0.0.0/8"]', "[]", {}, 200),
        ('["192.0.2.0/24"]', "[]", {}, 403),
        ('["192.0.2.0/24"]', "[]", forwarded, 403),
        ('["192.0.2.0/24"]', '["127.0.0.1"]', forwarded, 200),
        ('["127.0.0.0/8"]', '["127.0.0.1"]', forwarded, 403),
        # A proxy that doesn't say for whom it asks, asks for anybody.
        ('["127.0.0.0/8"]', '["127.0.0.1"]', {}, 403),
        ('["127.0.0.0/8"]', '["127.0.0.1"]', {"X-Forwarded-For": "unknown"}, 403),
        ('["127.0.0.0/8"]', '["127.0.0.1"]', {"X-Real-IP": "127.0.0.9"}, 403),
        ('["127.0.0.0/8"]', '["127.0.0.1"]', {"X-Forwarded-For": "127.0.0.1"}, 200),
        ("[]", "[]", {}, 404),
    ):
        server.reload(f"[metrics]\nallow = {allow}\n[server]\ntrusted_proxies = {proxies}\n")
        answer = server.request("GET", "/metrics", headers=headers)
        assert answer.status == status
        assert b"sparkle_" not in answer.body or status == 200


@pytest.mark.parametrize(
    "header",
    [
        "X-Forwarded-For: 127.0.0.1", "X-Forwarded-For:", "X-Forwarded-Proto: https", "X-Forwarded-Host: example.org",
        "X-Real-IP: 127.0.0.1", "Forwarded: for=127.0.0.1", "Via: 1.1 proxy", "CF-Connecting-IP: 127.0.0.1",
        "CF-Ray: 1", "True-Client-IP: 127.0.0.1", "x-client-ip: 127.0.0.1", "X-Cluster-Client-IP: 127.0.0.1",
        "Fly-Client-IP: 127.0.0.1", "Fastly-Client-IP: 127.0.0.1", "X-Amzn-Trace-Id: Root=1", "CDN-Loop: x",
    ],
)  # fmt: skip
def test_metrics_are_refused_to_whoever_comes_through_an_unknown_proxy(shared: RunningServer, header: str) -> None:
    answer = shared.send(f"GET /metrics HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n".encode())
    assert "server.trusted_proxies" in answer.refusal(403)


# --- Logs, secrets and files ------------------------------------------------------------------------------------------


def test_every_request_is_one_line_without_query_body_or_secret(start: Callable[..., RunningServer]) -> None:
    server = start()
    app_id, secret = server.app.app_id, server.app.secret
    wrong = "WrongSecretWrongSecretWrongSecret0123456789"
    basic = base64.b64encode(f"{app_id}:{secret}".encode()).decode()
    forms = [
        {"Authorization": f"Bearer {app_id}@{secret}"},
        {"Authorization": f"Basic {basic}"},
        {"Authorization": secret},
        {"Authentication": f"Bearer {app_id}@{secret}"},
        {"Authentication": f"Bearer {app_id}@{wrong}"},
        {"X-BTN-AppID": app_id, "X-BTN-AppSecret": secret},
        {"X-BTN-AppID": app_id, "X-BTN-AppSecret": wrong},
        {"BTN-AppID": app_id, "BTN-AppSecret": secret},
        {"BTN-AppID": secret, "BTN-AppSecret": app_id},
        {"Cookie": f"session={secret}", "User-Agent": f"x {secret}"},
    ]
    query = f"?appId={app_id}&appSecret={secret}&rev=QUERY-STRING&token={wrong}"
    requests = 0
    before = len(server.logged())
    for headers in forms:
        for method, path in (
            ("GET", "/ping/config"),
            ("GET", "/ping/rules/retrieve"),
            ("POST", "/ping/peers/submit"),
            ("GET", "/login"),
            ("GET", "/nothing"),
            ("GET", "/healthz"),
        ):
            server.request(method, path + query, f"BODY-TEXT {secret}".encode() if method == "POST" else None, headers)
            requests += 1
    lines = [line for line in server.logged()[before:] if line["logger"] == "sparkle.access"]
    assert len(lines) == requests
    for line in lines:
        assert {"method", "path", "status", "duration_ms", "bytes_in", "client", "time", "level"} <= set(line)
    for leak in (secret, wrong, basic, "QUERY-STRING", "BODY-TEXT", "appSecret"):
        assert leak not in server.stderr
    shown = [line.get("app_id") for line in lines]
    assert app_id in shown
    assert set(shown) == {app_id, None}


def test_the_first_start_prints_the_secrets_once(start: Callable[..., RunningServer]) -> None:
    server = start('[server]\npublic_url = "https://btn.example.org/x"')
    secret, printed = server.app.secret, server.stdout
    assert len(secret) == 43
    assert re.fullmatch("[A-Za-z0-9_-]+", secret)
    token = re.search(r"https://btn\.example\.org/x/login\?token=([A-Za-z0-9_-]{43})", printed)
    assert token
    assert 'config-url: "https://btn.example.org/x/ping/config"' in printed
    server.restart()
    assert server.stdout == printed
    files = [file for file in server.database.parent.rglob("*") if file.is_file()]
    server.kill()
    for text in (secret, token[1]):
        assert not [file for file in files if file.exists() and text.encode() in file.read_bytes()]
        assert text not in server.stderr


def test_the_login_link_of_the_first_start_works_once(start: Callable[..., RunningServer]) -> None:
    server = start()
    link = re.search(r"(/login\?token=\S+)", server.stdout)
    assert link
    first, second = server.request("POST", link[1]), server.request("POST", link[1])
    assert (first.status, second.status) == (200, 403)
    token = first.json()["data"]["token"]
    assert token.count(".") == 2
    server.stop()
    assert not [f for f in server.database.parent.rglob("*") if f.is_file() and token.encode() in f.read_bytes()]


def test_the_files_are_their_owners_alone(start: Callable[..., RunningServer]) -> None:
    server = start(prelude="import os; os.umask(0); import sparkle_lite.db.segments as s; s.SEGMENT_ROWS = 1")
    for number in range(3):
        server.post(peers(number, "203.0.113.1"))
    files = [path for path in server.database.parent.rglob("*") if path.is_file()]
    assert {"sparkle.db", "sparkle.db-wal", "sparkle.db.lock", "snapshot-00000001.db"} <= {path.name for path in files}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (server.database.parent, server.segments)} == {0o700}


@pytest.mark.parametrize("port", ["another port", "the same port"])
def test_a_second_server_on_the_same_database_is_refused(start: Callable[..., RunningServer], port: str) -> None:
    server = start()
    command = [*server.command()[:-1], str(server.port)] if port == "the same port" else server.command()
    second = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert second.returncode == 1
    assert "Another server is running" in second.stderr
    assert "Traceback" not in second.stderr
    assert "app-secret" not in second.stdout
    assert server.post(peers(1, "203.0.113.1")).status == 200


def test_a_taken_port_is_one_sentence_and_exit_1(start: Callable[..., RunningServer], tmp_path: Path) -> None:
    server = start()
    other = tmp_path / "other.toml"
    other.write_text(f'[database]\npath = "other.db"\n[server]\nport = {server.port}')
    command = [server.command()[0], "-m", "sparkle_lite", "--config", str(other)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert second.returncode == 1
    assert f"Port {server.port}" in second.stderr
    assert "Traceback" not in second.stderr


def test_a_broken_config_is_exit_2_with_its_key(start: Callable[..., RunningServer]) -> None:
    server = start()
    server.stop()
    server.config.write_text("[server]\nprot = 1\n[[rules]]\ntype = 'ip'\ncategory = 'x'\ncontent = ['1.2.3.4/8']")
    ended = subprocess.run(server.command(), capture_output=True, text=True, timeout=20)
    assert ended.returncode == 2
    assert "prot" in ended.stderr
    assert "1.2.3.4/8" in ended.stderr
    assert "Traceback" not in ended.stderr


# --- Commands beside a running server ---------------------------------------------------------------------------------


def test_what_commands_change_the_server_notices_within_two_seconds(start: Callable[..., RunningServer]) -> None:
    server = start()
    banned, reset, deleted = (server.add_app() for _ in range(3))

    def told(app: App) -> str:
        answer = server.get("/ping/config", app)
        assert answer.status in (200, 403)
        return "" if answer.status == 200 else str(answer.json()["message"])

    assert [told(app) for app in (banned, reset, deleted)] == ["", "", ""]
    server.run("app", "ban", banned.app_id, "--reason", "sends nonsense")
    made = json.loads(server.run("app", "reset", reset.app_id, "--json"))
    server.run("app", "delete", deleted.app_id)
    wait_for(lambda: all(told(app) for app in (banned, reset, deleted)), 2)
    assert "sends nonsense" in told(banned)
    assert server.post(peers(1, "203.0.113.1"), banned).status == 403
    assert told(App(reset.app_id, made["app_secret"])) == ""
    server.run("app", "unban", banned.app_id)
    wait_for(lambda: told(banned) == "", 2)
    server.run("user", "ban", "admin", "--reason", "all of them")
    wait_for(lambda: "all of them" in told(banned), 2)
    assert server.get("/ping/rules/retrieve").status == 403


# --- Reloading --------------------------------------------------------------------------------------------------------

RULE = '[[rules]]\ntype = "ip"\ncategory = "PCDN"\ncontent = ["{}"]\n'


LEGACY = "PeerBanHelper/7.1.5 BTN-Protocol/0.0.2"


def abilities_of(server: RunningServer) -> Any:
    """What a client of the legacy shapes is offered."""
    return server.get("/ping/config", agent=LEGACY).json()["ability"]


def version_of(server: RunningServer) -> str:
    return str(abilities_of(server)["reconfigure"]["version"])


def test_a_reload_takes_over_rules_and_abilities(start: Callable[..., RunningServer]) -> None:
    server = start(RULE.format("60.220.182.0/24"))
    rules, version = server.get("/ping/rules/retrieve").json(), version_of(server)
    assert rules["ip"] == {"PCDN": ["60.220.182.0/24"]}
    assert server.get(f"/ping/rules/retrieve?rev={rules['version']}").status == 204

    server.reload(RULE.format("60.220.183.0/24"))
    assert version_of(server) == version
    changed = server.get(f"/ping/rules/retrieve?rev={rules['version']}")
    assert changed.status == 200
    assert changed.json()["ip"] == {"PCDN": ["60.220.183.0/24"]}
    assert changed.json()["version"] != rules["version"]

    faster = RULE.format("60.220.182.0/24") + '[btn.abilities.rules]\ninterval = "5m"\n'
    assert [m for m in server.reload(faster) if "reloaded" in m] == ["the configuration was reloaded"]
    assert server.get(f"/ping/rules/retrieve?rev={rules['version']}").status == 204
    assert abilities_of(server)["rules"]["interval"] == 300_000
    assert version_of(server) != version
    server.reload(RULE.format("60.220.182.0/24"))
    assert version_of(server) == version
    server.restart()
    assert server.get("/ping/rules/retrieve").json() == rules
    # Another port, so other endpoints: now the version must change.
    assert version_of(server) != version


def test_a_broken_configuration_is_told_and_the_old_one_stays(start: Callable[..., RunningServer]) -> None:
    server = start(RULE.format("60.220.182.0/24"))
    before = server.get("/ping/config").body, server.get("/ping/rules/retrieve").body
    for broken in ("[server", '[btn.abilities.rules]\nintervall = "1m"', RULE.format("60.220.182.1/24")):
        told = server.reload(broken)
        assert any("not reloaded" in message for message in told)
        assert (server.get("/ping/config").body, server.get("/ping/rules/retrieve").body) == before
    assert server.process.poll() is None
    assert any("needs a restart" in message for message in server.reload('[database]\nsynchronous = "normal"\n'))


def test_many_reloads_at_once_are_survived(start: Callable[..., RunningServer]) -> None:
    server = start(RULE.format("60.220.182.0/24"))
    for _ in range(20):
        server.process.send_signal(signal.SIGHUP)
    assert server.get("/ping/rules/retrieve").status == 200
    assert server.reload(RULE.format("60.220.183.0/24"))
    wait_for(lambda: b"60.220.183.0/24" in server.get("/ping/rules/retrieve").body, 3)


def test_a_rule_goes_when_it_expires(start: Callable[..., RunningServer]) -> None:
    rule = RULE.format("60.220.182.0/24")
    server = start(rule)
    version = server.get("/ping/rules/retrieve").json()["version"]
    # A second at least, however long the start took.
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 2))
    server.reload(f"{rule}expires = {soon}\n")
    wait_for(lambda: server.get("/ping/rules/retrieve").json()["ip"] == {}, 12)
    assert server.get(f"/ping/rules/retrieve?rev={version}").status == 200


def test_the_address_of_a_member_is_never_in_the_rules(start: Callable[..., RunningServer]) -> None:
    server = start(RULE.format("198.51.100.0/30") + '[server]\ntrusted_proxies = ["127.0.0.1"]\n')
    assert server.get("/ping/rules/retrieve").json()["ip"] == {"PCDN": ["198.51.100.0/30"]}
    assert server.get("/ping/config", X_Forwarded_For="198.51.100.2").status == 200
    assert server.get("/ping/rules/retrieve").json()["ip"] == {"PCDN": ["198.51.100.0/31", "198.51.100.3"]}
    assert server.request("GET", "/readyz").json()["rules_held"] == 1
    server.kill()
    server.start()
    assert server.get("/ping/rules/retrieve").json()["ip"] == {"PCDN": ["198.51.100.0/31", "198.51.100.3"]}


# --- Retention --------------------------------------------------------------------------------------------------------


def test_a_second_server_gives_up_even_where_the_lock_file_was_deleted(start: Callable[..., RunningServer]) -> None:
    server = start()
    server.database.with_name("sparkle.db.lock").unlink()
    second = subprocess.run(server.command(), capture_output=True, text=True, timeout=15, check=False)
    assert second.returncode == 1
    assert "Another server is running" in second.stderr and "Traceback" not in second.stderr
    assert server.request("GET", "/readyz").status == 200
    server.restart()
    assert server.request("GET", "/readyz").status == 200


class Clock:
    """The time of a server; what the jobs wait for is real time, so a test runs them itself."""

    def __init__(self) -> None:
        self.ms = 1_800_000_000_000

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    # What passes is what the clock says, so that it never jumps.
    monkeypatch.setattr(sparkle_lite.server, "now_ms", made)
    monkeypatch.setattr(sparkle_lite.server, "elapsed_ms", made)
    return made


@pytest.fixture
async def serve(tmp_path: Path, clock: Clock) -> AsyncIterator[Serve]:
    """Starts a server in this process that ends with the test: takes its configuration, and runs no job by itself."""
    async with AsyncExitStack() as stack:

        async def begin(config_text: str = "") -> Server:
            return await stack.enter_async_context(embedded(tmp_path, config_text, jobs=False))

        yield begin


async def submit(server: Server, *bodies: dict[str, Any]) -> None:
    texts = [json.dumps(body).encode() for body in bodies]
    await asyncio.gather(*(server.ingest.submit(Owner(None, 1), None, text, "", PBH) for text in texts))


def ban(number: int, at: int = 1) -> dict[str, Any]:
    address = f"198.18.{number >> 8}.{number & 255}"
    return {"peer_ip": address, "torrent_identifier": TORRENT, "module": "m", "ban_at": at, "description": "d" * 500}


def states(server: Server, kind: str) -> list[str]:
    return [segment["state"] for segment in catalogue(server.database.path, kind)]


async def test_segments_go_as_a_whole_when_their_newest_row_is_too_old(serve: Serve, clock: Clock) -> None:
    server = await serve()
    house, folder = server.housekeeping, server.database.segment_folder
    await submit(server, peers(1, "203.0.113.1"))
    await submit(server, peers(1, "203.0.113.1", downloaded_offset=0, first_time_seen=1))
    clock.ms += DAY
    await house.roll()
    assert (states(server, "snapshot"), states(server, "swarm")) == (["closed", "hot"], ["closed", "hot"])
    await submit(server, peers(2, "203.0.113.2"))
    clock.ms += 6 * DAY
    await house.apply_retention()
    # To the millisecond: what was received exactly seven days ago stays.
    assert states(server, "snapshot") == ["closed", "hot"]
    clock.ms += 1
    await house.apply_retention()
    assert (states(server, "snapshot"), states(server, "swarm")) == (["hot"], ["closed", "hot"])
    assert sorted(file.name for file in folder.glob("snapshot-*")) == [
        f"snapshot-{catalogue(server.database.path, 'snapshot')[0]['id']:08d}.db{suffix}"
        for suffix in ("", "-shm", "-wal")
    ]
    clock.ms += 30 * DAY
    await house.roll()
    await house.apply_retention()
    assert (states(server, "snapshot"), states(server, "swarm")) == (["hot"], ["hot"])
    # An old hot segment without a row is kept: there is nothing to let go.
    await submit(server, peers(3, "203.0.113.3"))
    assert [segment["first_row"] for segment in catalogue(server.database.path, "snapshot")] == [3]


async def test_bans_go_in_chunks_with_their_bodies_and_the_space_is_given_back(serve: Serve, clock: Clock) -> None:
    server = await serve('[retention]\nbans = "10d"')
    path = server.database.path
    await submit(server, *({"bans": [ban(n + 100 * b) for n in range(100)]} for b in range(45)))
    clock.ms += 5 * DAY
    await submit(server, {"bans": [ban(1, at=2)]})
    with opened(path) as reader:
        pages = reader.execute("PRAGMA page_count").fetchone()[0]
    clock.ms += 5 * DAY + 1
    # While it deletes, submissions get their turn.
    work = asyncio.create_task(server.housekeeping.apply_retention())
    for number in range(5):
        await submit(server, peers(number, "203.0.113.1"))
    # Thousands of pages are given back together: one at a time each would cost a commit of its own.
    async with asyncio.timeout(4):
        await work
    assert (count(path, "ban"), count(path, "submission")) == (1, 1)
    with opened(path) as reader:
        assert reader.execute("PRAGMA freelist_count").fetchone()[0] < 50
        assert reader.execute("PRAGMA page_count").fetchone()[0] < pages / 4


async def test_the_bodies_of_bans_that_were_known_already_go_too(serve: Serve, clock: Clock) -> None:
    # A client that reports its whole list every few minutes leaves a body each time, and no new ban.
    server = await serve('[retention]\nbans = "10d"')
    for start in range(0, 2500, 100):
        await submit(server, *({"populate_time": n, "bans": [ban(1)]} for n in range(start, start + 100)))
    path = server.database.path
    assert (count(path, "ban"), count(path, "submission")) == (1, 2500)
    clock.ms += 11 * DAY
    await server.housekeeping.apply_retention()
    assert (count(path, "ban"), count(path, "submission")) == (0, 0)


async def test_the_audit_is_kept_as_long_as_configured(serve: Serve, clock: Clock) -> None:
    server = await serve('[retention]\naudit = "3d"')
    assert count(server.database.path, "audit") >= 2
    clock.ms += 3 * DAY
    await server.housekeeping.apply_retention()
    assert count(server.database.path, "audit") >= 2
    clock.ms += 1
    await server.housekeeping.apply_retention()
    assert (count(server.database.path, "audit"), count(server.database.path, "login_link")) == (0, 0)


async def test_beyond_the_largest_size_the_oldest_segments_go(
    serve: Serve, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_ROWS", 2000)
    server = await serve('[retention]\nmax_database_size = "2MiB"')
    for number in range(40):
        addresses = [f"198.18.{number}.{n % 250}" for n in range(1000)]
        await submit(server, peers(number, *addresses))
        clock.ms += 1000
    before = catalogue(server.database.path, "snapshot")
    assert await server.housekeeping.size() > 2 << 20
    await server.housekeeping.apply_retention()
    after = catalogue(server.database.path, "snapshot")
    assert await server.housekeeping.size() <= 2 << 20
    assert 2 <= len(after) < len(before)
    assert after == before[-len(after) :]


async def test_a_body_is_no_duplicate_of_one_that_came_days_ago(serve: Serve, clock: Clock) -> None:
    server = await serve()
    for hours in (0, 1, 22):
        clock.ms += hours * 3_600_000
        await submit(server, peers(1, "203.0.113.1"))
    assert len(rows(server.database.path, "snapshot")) == 1
    # Nothing else came meanwhile.
    clock.ms += 3 * DAY
    await submit(server, peers(1, "203.0.113.1"))
    assert len(rows(server.database.path, "snapshot")) == 2


async def test_a_ban_without_an_id_counts_again_after_a_day_without_it(serve: Serve, clock: Clock) -> None:
    peer = {"ip_address": "203.0.113.57", "peer_port": 1, "torrent_identifier": TORRENT}
    row = {"module": "m", "rule": "r", "peer": peer}
    server = await serve()
    for n, hours in enumerate((0, 1, 22, 2, 23, 24, 25, 24)):
        clock.ms += hours * 3_600_000
        await submit(server, {"populate_time": n, "bans": [row]})
    # It was 25 hours once.
    assert count(server.database.path, "ban") == 2


# --- Dictionaries -----------------------------------------------------------------------------------------------------


def entries(server: Server) -> tuple[set[str], set[str], set[str]]:
    """The torrents, client names and labels that are in the dictionaries."""
    with opened(server.database.path) as reader:
        torrents = {row[0] for row in reader.execute("SELECT identifier FROM torrent")}
        names = {row[0] for row in reader.execute("SELECT client_name FROM client_identity")}
        labels = {row[0] for row in reader.execute("SELECT text FROM label")}
    return torrents, names, labels


def named(at: int, name: str) -> dict[str, Any]:
    return peers(at, "203.0.113.1", torrent=f"torrent {name}", client_name=f"client {name}", peer_flag=f"flag {name}")


async def test_only_entries_that_nothing_refers_to_are_collected(serve: Serve, clock: Clock) -> None:
    server = await serve()
    house = server.housekeeping
    history = {"downloaded_offset": 0, "downloader": "d"}
    old_ban = {**ban(1), "torrent_identifier": "of a ban", "peer_client_name": "of a ban", "module": "module"}
    await submit(server, named(1, "gone"), named(2, "kept"), named(3, "used meanwhile"), {"bans": [old_ban]})
    await submit(server, peers(4, "203.0.113.1", torrent="history", client_name="history", **history))
    clock.ms += DAY
    await house.roll()
    clock.ms += 6 * DAY
    await submit(server, named(5, "kept"), named(6, "hot"))
    clock.ms += DAY
    await house.apply_retention()
    await submit(server, named(7, "used meanwhile"))
    await house.collect()
    assert entries(server) == (
        {"torrent kept", "torrent used meanwhile", "torrent hot", "of a ban", "history"},
        {"client kept", "client used meanwhile", "client hot", "of a ban", "history"},
        {"flag kept", "flag used meanwhile", "flag hot", "module", "d"},
    )
    # What was collected may come again, and every row still finds its entries.
    await submit(server, named(8, "gone"), named(9, "kept"))
    found = rows(server.database.path, "snapshot")
    assert [row["peer_client_name"] for row in found if row["populate_time"] >= 5] == [
        f"client {name}" for name in ("kept", "hot", "used meanwhile", "gone", "kept")
    ]


async def test_entries_that_come_into_use_during_a_collection_survive_it(serve: Serve, clock: Clock) -> None:
    server = await serve()
    names = [f"n{number}" for number in range(2500)]
    for start in range(0, 2500, 100):
        await submit(server, *(named(1, name) for name in names[start : start + 100]))
    clock.ms += DAY
    await server.housekeeping.roll()
    clock.ms += 8 * DAY
    await server.housekeeping.apply_retention()
    work = asyncio.create_task(server.housekeeping.collect())
    used = []
    while not work.done():
        name = names[-1 - len(used)]
        await submit(server, named(2, name))
        used.append(name)
    await work
    assert len(used) > 5
    found = rows(server.database.path, "snapshot")
    assert [row["peer_client_name"] for row in found] == [f"client {name}" for name in used]
    assert entries(server)[0] == {f"torrent {name}" for name in used}


async def test_a_collection_beside_a_roll_and_retention_breaks_nothing(
    serve: Serve, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_ROWS", 50)
    server = await serve('[retention]\nsnapshots = "1s"')
    house = server.housekeeping
    for number in range(300):
        await submit(server, named(number, f"n{number}"))
    clock.ms += 2000
    await asyncio.gather(
        house.collect(), house.apply_retention(), house.index(), house.collect(), return_exceptions=True
    )
    await house.index()
    await house.collect()
    assert not list(server.database.segment_folder.glob("snapshot-*.db-journal"))
    files = {file.name for file in server.database.segment_folder.glob("*.db")}
    known = [segment for kind in segments.KINDS for segment in catalogue(server.database.path, kind)]
    assert files == {f"{segment['kind']}-{segment['id']:08d}.db" for segment in known}


# --- Upgrades ---------------------------------------------------------------------------------------------------------


def test_a_database_of_a_newer_program_is_refused_with_a_sentence(start: Callable[..., RunningServer]) -> None:
    server = start()
    server.stop()
    with sqlite3.connect(server.database) as connection:
        connection.execute("PRAGMA user_version=999")
    connection.close()
    ended = subprocess.run(server.command(), capture_output=True, text=True, timeout=20)
    assert ended.returncode == 1
    assert "newer version" in ended.stderr
    assert "Traceback" not in ended.stderr
