"""What is wrong with what an application sends is told with its cure: page, command line, REST, log."""

import html
import json
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from samples import BANS, HISTORIES, PEERS, read_sample
from server import PBH20, App, RunningServer, count, put_back, start_server, wait_for
from shell import Shell

QBCB = "qBittorrent-ClientBlocker/3.8 (linux, amd64) BTN-Protocol/0.0.0-dev"
PBH7 = "PeerBanHelper/7.4.15 (docker; Linux,6.8.0,bookworm unknown) BTN-Protocol/0.0.3 BTN-Protocol-Version/10"
MODERN_BANS, SWARMS = "/ping/syncBanHistory", "/ping/syncSwarm"
IMPL = "com.ghostchu.peerbanhelper.module.impl.rule."
SECOND, DAY = 1000, 86_400_000
# Troubles are written once a second.
WRITTEN_S = 1.2


STRICT = """
[limits]
max_rows_per_request = 3
max_body_size = "64KiB"
max_inflated_size = "64KiB"
requests_per_minute = 20
[auth]
max_apps_per_user = 100
"""


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that takes little of one application: 3 rows at once, 16 new names a day, 20 requests a minute."""
    prelude = "from sparkle_lite.db import dictionaries; dictionaries.DAILY_QUOTA = 16"
    with start_server(tmp_path_factory.mktemp("strict"), STRICT, prelude=prelude) as server:
        yield server


def now() -> int:
    return time.time_ns() // 1_000_000


def wire(name: str, **more: Any) -> dict[str, Any]:
    """A body as a client sends it, at this moment."""
    body: dict[str, Any] = json.loads(read_sample(f"{name}.json"))
    if "populate_time" in body:
        body["populate_time"] = now()
    for ban in body.get("bans", ()):
        if "ban_at" in ban:
            ban["ban_at"] = now()
    return body | more


def addressed(body: dict[str, Any], address: str) -> dict[str, Any]:
    """The body with every row about one address."""
    for row in (*body.get("peers", ()), *body.get("swarms", ()), *body.get("bans", ())):
        peer = row.get("peer", row)
        peer["peer_ip" if "peer_ip" in peer else "ip_address"] = address
    return body


def told(server: RunningServer, app: App) -> str | None:
    """`trouble` of an application as the command line prints it."""
    rows = {row["app_id"]: row for row in json.loads(server.run("app", "list", "--json"))}
    trouble = rows[app.app_id]["trouble"]
    assert trouble is None or isinstance(trouble, str)
    return trouble


def wait_until_told(server: RunningServer, app: App, *words: str) -> str:
    """The trouble of an application once it says all this."""

    def find() -> str | None:
        trouble = told(server, app)
        return trouble if trouble and all(word in trouble for word in words) else None

    return str(_soon(find))


def _soon(find: Callable[[], Any]) -> Any:
    """What it finds at last; a command costs more than waiting a little."""

    def patiently() -> Any:
        time.sleep(0.2)
        return find()

    return wait_for(patiently, 5)


def wait_until_fine(server: RunningServer, app: App) -> None:
    _soon(lambda: told(server, app) is None)


def stays_fine(server: RunningServer, app: App) -> bool:
    """Whether nothing is wrong even after what there is has been written."""
    time.sleep(WRITTEN_S)
    return told(server, app) is None


@cache
def token(server: RunningServer) -> str:
    """A session of the administrator."""
    return server.token()


def page(server: RunningServer, path: str, language: str = "en") -> str:
    """What a page says to the administrator."""
    headers = {"Accept": "text/html", "Cookie": f"X-BTN-Token={token(server)}; lang={language}"}
    answer = server.request("GET", path, headers=headers)
    assert answer.status == 200
    return html.unescape(answer.body.decode())


def api(server: RunningServer, path: str) -> Any:
    return server.request("GET", path, headers={"X-BTN-Token": token(server)}).json()["data"]


def lines(server: RunningServer, app: App) -> list[dict[str, Any]]:
    """What the log says of an application's trouble."""
    return [line for line in server.logged() if line["logger"] == "sparkle.trouble" and line["app_id"] == app.app_id]


def age(server: RunningServer, ms: int) -> None:
    """Let so much time pass since all troubles began."""
    server.stop()
    with closing(sqlite3.connect(server.database)) as connection, connection:
        connection.execute("UPDATE userapp_trouble SET began_at=began_at-?1, last_at=last_at-?1", (ms,))
    server.start()


# --- Everything rejected ----------------------------------------------------------------------------------------------


def test_networks_instead_of_addresses_are_told_in_both_languages_until_they_are_mended(
    shared: RunningServer, app: App
) -> None:
    body = addressed(wire("qbcb-peers"), "203.0.113.0/24")
    answer = shared.post(body, app, agent=QBCB)
    assert (answer.status, answer.rejected) == (200, len(body["peers"]))

    trouble = wait_until_told(shared, app)
    assert trouble == (
        f"All rows of its last list of peers ({len(body['peers'])}) were rejected: qBittorrent-ClientBlocker sends"
        " whole networks; set banIPCIDR to /32 and banIP6CIDR to /128 in its configuration."
    )
    assert f"Trouble with {app.app_id} (Added on the command line): {trouble}" in shared.run("app", "list")
    assert trouble in page(shared, f"/apps/{app.app_id}")
    chinese = page(shared, f"/apps/{app.app_id}", "zh")
    assert trouble not in chinese
    assert "请在其配置中将 banIPCIDR 设为 /32、banIP6CIDR 设为 /128。" in chinese
    sentence = api(shared, f"/api/userapp/{app.app_id}")["trouble"]
    assert sentence["en"] == trouble
    assert sentence["zh"] in chinese
    [line] = lines(shared, app)
    assert line["message"] == f"an application is in trouble: {trouble}"
    assert (line["level"], line["trouble"]) == ("warning", "rejected")

    # What else it sends is fine, and says nothing of this list.
    assert shared.post(wire("qbcb-bans"), app, BANS, QBCB).status == 200
    time.sleep(WRITTEN_S)
    assert told(shared, app) == trouble
    shared.post(wire("qbcb-peers"), app, agent=QBCB)
    wait_until_fine(shared, app)
    assert trouble not in page(shared, f"/apps/{app.app_id}")
    assert api(shared, f"/api/userapp/{app.app_id}")["trouble"] is None


@pytest.mark.parametrize(
    ("name", "path", "agent", "change", "words"),
    [
        ("pbh-legacy-peers", PEERS, PBH7, {"ip_address": "172.17.0.1"}, "list of peers are not public real addresses"),
        ("pbh-legacy-peers", PEERS, PBH7, {"ip_address": "203.0.113.0/24"}, "whole networks single addresses"),
        ("pbh-legacy-peers", PEERS, PBH7, {"ip_address": "peer.example"}, "addresses can't be read update the client"),
        ("pbh-legacy-peers", PEERS, PBH7, {"peer_port": 70_000}, "ports update the client"),
        ("pbh-histories", HISTORIES, PBH7, {"torrent_identifier": "x" * 129}, "list of histories torrent identifiers"),
        ("pbh-modern-swarm", SWARMS, PBH20, {"to_peer_traffic": "much"}, "list of swarms (bad_number) update"),
        ("pbh-modern-bans", MODERN_BANS, PBH20, {"peer_ip": "10.1.2.3"}, "list of bans are not public"),
    ],
)
def test_a_list_of_which_every_row_is_rejected_is_told_with_the_cure(
    shared: RunningServer, app: App, name: str, path: str, agent: str, change: dict[str, Any], words: str
) -> None:
    body = wire(name)
    [rows] = [value for value in body.values() if isinstance(value, list)]
    for row in rows:
        row.update(change)
        if "last_time_seen" in row:
            row["last_time_seen"] = now()
    assert shared.post(body, app, path, agent).rejected == len(rows)
    trouble = wait_until_told(shared, app, f"({len(rows)})", *words.split())
    assert "qBittorrent-ClientBlocker" not in trouble
    # Both languages have a sentence of their own for it.
    assert re.search(r"请", page(shared, f"/apps/{app.app_id}", "zh").partition("<main")[2])


def test_some_rejected_rows_and_empty_lists_are_no_trouble(shared: RunningServer, app: App) -> None:
    body = wire("pbh-legacy-peers")
    body["peers"][0]["ip_address"] = "192.168.1.9"
    assert shared.post(body, app, agent=PBH7).rejected == 1
    assert shared.post({"populate_time": now(), "peers": []}, app, agent=PBH7).status == 200
    assert shared.post({"populate_time": now(), "bans": []}, app, BANS, PBH7).status == 200
    assert stays_fine(shared, app)


def test_the_lists_of_applications_mark_those_in_trouble(shared: RunningServer, app: App) -> None:
    shared.post(b"{", app)
    for path, language, mark in (("/apps", "en", "in trouble"), ("/apps/all", "zh", "有问题")):
        [row] = [part for part in page(shared, path, language).split("<tr>") if f"/apps/{app.app_id}" in part]
        assert mark in row


# --- What can't be read, and what is too much -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "headers", "status", "words"),
    [
        (b"", {}, 400, "The body is empty"),
        (b"{", {}, 400, "not readable JSON"),
        (b"\x1f\x8b damaged", {}, 400, "gzip"),
        (b'{"rows":[]}', {}, 400, "peers, bans or swarms"),
        (b"{}", {"Content_Encoding": "br"}, 415, "send the body as gzip"),
    ],
)
def test_a_body_that_was_refused_is_told_until_one_can_be_read(
    shared: RunningServer, app: App, body: bytes, headers: dict[str, str], status: int, words: str
) -> None:
    answer = shared.post(body, app, SWARMS, **headers)
    assert answer.status == status
    trouble = wait_until_told(shared, app, "Its last list of swarms was refused: ", words)
    sentence = api(shared, f"/api/userapp/{app.app_id}")["trouble"]
    assert trouble == sentence["en"]
    assert sentence["zh"].startswith("其最近一次swarm 列表被拒绝：")
    assert shared.post({"swarms": []}, app, SWARMS).status == 200
    wait_until_fine(shared, app)


def test_a_client_that_goes_away_in_the_middle_is_in_no_trouble(shared: RunningServer, app: App) -> None:
    with shared.connect(app) as sock:
        head = "".join(f"{name}: {value}\r\n" for name, value in app.headers.items())
        sock.sendall(f"POST {PEERS} HTTP/1.1\r\nHost: x\r\n{head}Content-Length: 1000\r\n\r\n{{".encode())
        time.sleep(0.3)
    assert stays_fine(shared, app)


@pytest.mark.parametrize(
    ("name", "path", "agent", "cure", "cure_zh"),
    [
        ("qbcb-peers", PEERS, QBCB, "qBittorrent-ClientBlocker never empties that list; restart it.", "请重启它"),
        ("pbh-legacy-peers", PEERS, PBH7, "raise limits.max_rows_per_request", "分批上报"),
        ("qbcb-bans", BANS, QBCB, "raise limits.max_rows_per_request", "分批上报"),
        ("pbh-modern-swarm", SWARMS, PBH20, "raise limits.max_rows_per_request", "分批上报"),
    ],
)
def test_a_list_that_is_cut_off_is_told(
    strict: RunningServer, name: str, path: str, agent: str, cure: str, cure_zh: str
) -> None:
    app = strict.add_app()
    body = wire(name)
    [(key, rows)] = [(key, value) for key, value in body.items() if isinstance(value, list)]
    for row in rows:
        if "last_time_seen" in row:
            row["last_time_seen"] = now()
    assert strict.post({**body, key: rows[:1] * 5}, app, path, agent).rejected == 2
    wait_until_told(strict, app, "only its first rows (3) were stored", cure)
    assert cure_zh in page(strict, f"/apps/{app.app_id}", "zh")
    assert strict.post({**body, key: rows[:2]}, app, path, agent).rejected == 0
    wait_until_fine(strict, app)


def test_a_body_that_is_too_large_inside_is_told(strict: RunningServer) -> None:
    app = strict.add_app()
    body = wire("qbcb-peers")
    first = body["peers"][0]
    long = {**body, "peers": [first, {**first, "peer_flag": "x" * 100_000}]}
    assert strict.post(long, app, agent=QBCB).status == 200
    wait_until_told(strict, app, "longer than this server takes", "only its first rows (1) were stored", "restart it")


def test_who_names_more_than_anybody_meets_is_told_of_the_quota(strict: RunningServer) -> None:
    app = strict.add_app()
    body = wire("pbh-legacy-peers")

    def send(start: int) -> int:
        peers = [
            body["peers"][0] | {"torrent_identifier": f"{n:064x}", "client_name": f"client {n}"}
            for n in range(start, start + 3)
        ]
        return strict.post({"populate_time": now(), "peers": peers}, app, agent=PBH7).rejected

    assert [send(number) for number in (0, 3, 6, 9)] == [0, 0, 0, 3]
    wait_until_told(strict, app, "3 rows of its last list of peers were dropped", "16 torrents and clients")
    assert "从未出现过的种子和客户端" in page(strict, f"/apps/{app.app_id}", "zh")
    assert send(0) == 0
    wait_until_fine(strict, app)


def test_too_many_requests_are_told(strict: RunningServer) -> None:
    app = strict.add_app()
    assert [strict.get("/ping/config", app).status for _ in range(22)][-3:] == [200, 429, 429]
    wait_until_told(strict, app, "more than 20 requests a minute", "(429)", "an application of its own")
    assert "每分钟发送的请求超过 20 个" in page(strict, f"/apps/{app.app_id}", "zh")


# --- Clocks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "words", "words_zh"),
    [
        (-3, "Its clock is 3 days behind this server's", "慢 3 天"),
        (-1, "Its clock is 1 day behind this server's", "慢 1 天"),
        (40, "Its clock is 40 days ahead of this server's", "快 40 天"),
    ],
)
def test_a_clock_that_is_days_off_is_told(
    shared: RunningServer, app: App, days: int, words: str, words_zh: str
) -> None:
    off = days * DAY + (60 * SECOND if days > 0 else -60 * SECOND)
    shared.post(wire("pbh-legacy-peers", populate_time=now() + off), app, agent=PBH7)
    wait_until_told(shared, app, words, "set the clock of the machine")
    assert words_zh in page(shared, f"/apps/{app.app_id}", "zh")
    shared.post(wire("pbh-legacy-bans"), app, BANS, PBH7)
    wait_until_fine(shared, app)


@pytest.mark.parametrize("off", [-23 * 3_600_000, -30 * SECOND, 0, 23 * 3_600_000])
def test_a_clock_that_is_less_than_a_day_off_does_no_harm(shared: RunningServer, app: App, off: int) -> None:
    shared.post(wire("pbh-legacy-peers", populate_time=now() + off), app, agent=PBH7)
    assert stays_fine(shared, app)


def swarm(*seen: int) -> dict[str, Any]:
    """A modern body with a row last seen at each of these instants."""
    first = wire("pbh-modern-swarm")["swarms"][0]
    rows = [
        first | {"peer_ip": f"203.0.113.{n}", "first_time_seen": at - DAY, "last_time_seen": at}
        for n, at in enumerate(seen)
    ]
    return {"swarms": rows}


def test_times_in_the_future_show_that_a_clock_is_ahead(shared: RunningServer, app: App) -> None:
    shared.post(swarm(now() - DAY, now() + 5 * DAY + SECOND * 60), app, SWARMS)
    wait_until_told(shared, app, "Its clock is 5 days ahead")
    shared.post(swarm(now() - 2 * SECOND), app, SWARMS)
    wait_until_fine(shared, app)


def test_one_recent_row_is_enough_wherever_it_stands(shared: RunningServer, app: App) -> None:
    old = now() - 30 * DAY
    shared.post(swarm(old, now(), old), app, SWARMS)
    assert stays_fine(shared, app)
    assert (
        count(shared.database, f"userapp_trouble WHERE userapp=(SELECT id FROM userapp WHERE app_id='{app.app_id}')")
        == 0
    )


# --- What is no trouble before it has lasted --------------------------------------------------------------------------


def banned(module: str) -> dict[str, Any]:
    """A modern body with one ban."""
    [first, *_] = wire("pbh-modern-bans")["bans"]
    return {"bans": [first | {"module": module, "rule": "x"}]}


def test_what_may_be_right_at_first_is_told_when_it_has_gone_on_for_days(start: Callable[..., RunningServer]) -> None:
    server = start()
    catching_up, listing, blocker = server.add_app(), server.add_app(), server.add_app()
    # A first upload of years of bans is no fault of the clock.
    old = wire("pbh-modern-bans")
    for ban in old["bans"]:
        ban["ban_at"] = now() - 700 * DAY
    server.post(old, catching_up, MODERN_BANS)
    # Who has just begun has met no cheater yet.
    server.post(banned(IMPL + "PeerIdBlacklist"), listing, MODERN_BANS)
    server.post({"populate_time": now(), "peers": []}, blocker, agent=QBCB)
    server.post(wire("qbcb-bans") | {"bans": wire("qbcb-bans")["bans"][:1]}, blocker, BANS, QBCB)
    time.sleep(WRITTEN_S)
    for app in (catching_up, listing, blocker):
        assert told(server, app) is None
        assert lines(server, app) == []

    age(server, 4 * DAY)
    old_rows = "All that it sends is 700 days old or older; unless it is catching up on a long history, set the clock"
    assert str(told(server, catching_up)).startswith(old_rows)
    assert "至少是 700 天前的" in page(server, f"/apps/{catching_up.app_id}", "zh")
    server.post(swarm(now()), catching_up, SWARMS)
    wait_until_fine(server, catching_up)

    began = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 4 * 86_400))
    server.post(banned(IMPL + "ClientNameBlacklist"), listing, MODERN_BANS)
    # What our own rules told it to ban is no judgement of its own.
    server.post(banned(IMPL + "BtnNetworkOnline"), listing, MODERN_BANS)
    no_evidence = f"None of the bans that it has sent since {began} is evidence"
    assert no_evidence in wait_until_told(server, listing, "progress check")
    assert f"自 {began} 起" in page(server, f"/apps/{listing.app_id}", "zh")
    [line] = lines(server, listing)
    assert line["trouble"] == "no_evidence"
    server.post(banned(IMPL + "ProgressCheatBlocker"), listing, MODERN_BANS)
    wait_until_fine(server, listing)

    trouble = wait_until_told(server, blocker, "has sent empty lists of peers only", no_evidence)
    assert trouble.count('"banByRelativeProgressUploaded"') == 2
    assert page(server, f"/apps/{blocker.app_id}", "zh").count("banByRelativeProgressUploaded") == 2
    server.post(wire("qbcb-peers"), blocker, agent=QBCB)
    _soon(lambda: "empty lists" not in (told(server, blocker) or ""))


# --- What it costs ----------------------------------------------------------------------------------------------------


def test_the_log_has_one_line_an_hour_for_an_application(shared: RunningServer, app: App) -> None:
    for number in range(5):
        shared.post(addressed(wire("pbh-legacy-peers", number=number), "10.0.0.1"), app, agent=PBH7)
        shared.post(b"{", app, BANS)
    [line] = lines(shared, app)
    assert line["trouble"] == "rejected"
    assert app.secret not in json.dumps(line)


def test_trouble_that_goes_on_is_not_written_again(start: Callable[..., RunningServer]) -> None:
    server = start()

    def send(number: int) -> None:
        server.post(addressed(wire("pbh-legacy-peers", number=number), "10.0.0.1"), agent=PBH7)

    with closing(sqlite3.connect(server.database)) as connection:

        def version() -> int:
            return int(connection.execute("PRAGMA data_version").fetchone()[0])

        before = version()
        send(0)
        wait_until_told(server, server.app)
        begun = version()
        assert begun != before
        for number in range(1, 4):
            send(number)
            time.sleep(WRITTEN_S / 2)
        time.sleep(WRITTEN_S)
        assert version() == begun
    # After an hour what it says is brought up to date.
    age(server, 3_600_000)
    body = addressed(wire("pbh-legacy-peers"), "10.0.0.1")
    server.post(body | {"peers": body["peers"] * 2}, agent=PBH7)
    wait_until_told(server, server.app, f"({2 * len(body['peers'])})")


def test_trouble_outlives_a_kill_and_goes_with_the_application(start: Callable[..., RunningServer]) -> None:
    server = start()
    other = server.add_app()
    server.post(b"{", other)
    trouble = wait_until_told(server, other)
    server.kill()
    assert told(server, other) == trouble
    server.start()
    assert trouble in page(server, f"/apps/{other.app_id}")
    server.post(wire("pbh-legacy-peers"), other, agent=PBH7)
    wait_until_fine(server, other)
    server.post(b"{", other)
    wait_until_told(server, other)
    server.run("app", "delete", other.app_id)
    assert count(server.database, "userapp_trouble") == 0


def test_a_body_that_comes_again_changes_nothing(shared: RunningServer, app: App) -> None:
    body = wire("pbh-legacy-peers", populate_time=now() - 10 * DAY)
    shared.post(body, app, agent=PBH7)
    wait_until_told(shared, app, "10 days behind")
    shared.post(wire("pbh-legacy-bans"), app, BANS, PBH7)
    wait_until_fine(shared, app)
    assert shared.post(body, app, agent=PBH7).status == 200
    assert stays_fine(shared, app)


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    """Commands on a database where ada has an application."""
    (tmp_path / "config.toml").touch()
    shell = Shell(capsys, "--config", str(tmp_path / "config.toml"))
    shell("user", "add", "ada")
    shell("app", "add", "--user", "ada")
    return shell


def test_a_database_of_the_version_before_gets_the_table(tmp_path: Path, shell: Shell) -> None:
    database = tmp_path / "data" / "sparkle.db"
    put_back(database, 9)
    [row] = shell.json("app", "list")
    assert (row["user"], row["trouble"]) == ("ada", None)
    assert count(database, "userapp_trouble") == 0


def test_a_refusal_that_was_kept_as_sentences_is_dropped(tmp_path: Path, shell: Shell) -> None:
    database = tmp_path / "data" / "sparkle.db"
    with closing(sqlite3.connect(database)) as connection, connection:
        for subject, code, details in (
            ("bans", "refused", '{"list":"bans","reason":"bad_request","en":"No.","zh":"x"}'),
            ("clock", "clock", '{"off":-864000000}'),
        ):
            row = (subject, code, details)
            connection.execute("INSERT INTO userapp_trouble SELECT max(id), ?, ?, ?, 0, 0 FROM userapp", row)
    put_back(database, 10)
    [row] = shell.json("app", "list")
    assert row["trouble"].startswith("Its clock is 10 days behind")
    assert count(database, "userapp_trouble") == 1
