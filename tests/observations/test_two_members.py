"""Two members and everything that one of them can ask: nothing tells which rows are the other's, or go together."""

import base64
import json
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from crawler import crawl
from server import PBH20, Answer, App, RunningServer, catalogue, opened, segment_file, start_server

from sparkle_lite.db.conditions import FIELDS
from sparkle_lite.observations import query

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
TEXT_METHODS = ("EQUALS", "CONTAINS", "STARTS_WITH", "ENDS_WITH")
PATHS = {"snapshot": "snapshot", "ban": "banhistory", "swarm": "swarm", "discovery": "clientdiscovery"}
DOWNLOADER, POPULATED = "alice-home-nas", 1_783_999_123_457
PEERS = ("203.0.113.7", "198.51.100.9", "2001:db8:7::9")


class Asker(NamedTuple):
    """A member who asks, by the cookie of a session."""

    server: RunningServer
    token: str

    def get(self, path: str) -> Answer:
        """A page, redirects followed."""
        for _ in range(5):
            answer = self.server.request("GET", path, headers={"Cookie": f"X-BTN-Token={self.token}", **HTML})
            if answer.status not in (302, 303):
                return answer
            path = answer.headers["location"]
        raise AssertionError(path)

    def call(self, path: str, body: object = None) -> Answer:
        """An operation of the REST API."""
        headers = {"X-BTN-Token": self.token, "Content-Type": "application/json"}
        method, data = ("GET", None) if body is None else ("POST", json.dumps(body).encode())
        return self.server.request(method, f"/api/{path}", data, headers)

    def found(self, table: str, **body: object) -> dict[str, Any]:
        """A page of stored rows."""
        answer = self.call(f"{PATHS[table]}/query", body)
        assert answer.status == 200, answer
        return dict(answer.json()["data"])


class Circle(NamedTuple):
    """A server on which alice and bob report, and what may be seen of alice by nobody but her."""

    server: RunningServer
    alice: Asker
    bob: Asker
    admin: Asker
    app: App
    secrets: list[str]


@pytest.fixture(scope="module")
def circle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Circle]:
    with start_server(tmp_path_factory.mktemp("circle")) as server:
        apps = {}
        for name in ("alice-of-wonderland", "bob"):
            server.run("user", "add", name)
            apps[name] = server.add_app(name)
        alice, bob = apps["alice-of-wonderland"], apps["bob"]
        for turn in range(3):
            report(server, alice, turn, DOWNLOADER, POPULATED)
            report(server, bob, turn, "bobs-box", 1_784_000_000_000)
        askers = [Asker(server, server.token(name)) for name in ("alice-of-wonderland", "bob", "admin")]
        yield Circle(server, *askers, alice, [*told_by(server, alice), *(str(POPULATED + turn) for turn in range(3))])


def report(server: RunningServer, app: App, turn: int, downloader: str, began: int) -> None:
    """What one client sends at a time: snapshots, bans and cumulative rows of the same peers."""
    populated = began + turn
    seen = [_peer(address, number) for number, address in enumerate(PEERS)]
    assert server.post({"populate_time": populated, "peers": seen}, app).status == 200
    bans = [
        {"module": "m.ProgressCheatBlocker", "rule": "r", "ban_at": 1_783_000_000_000 + number, "btn_ban": False,
         "ban_unique_id": f"{downloader[::-1]}-{turn}-{number}", "peer": peer}
        for number, peer in enumerate(seen)
    ]  # fmt: skip
    assert server.post({"populate_time": populated, "bans": bans}, app, "/ping/bans/submit").status == 200
    taken = {"to_peer_traffic": 1_000_000 * (turn + 1)}
    swarms = [_swarm(address, number, downloader) | taken for number, address in enumerate(PEERS)]
    assert server.post({"swarms": swarms}, app, "/ping/syncSwarm", PBH20).status == 200


def _peer(address: str, number: int) -> dict[str, Any]:
    return {
        "ip_address": address, "peer_port": 6881 + number, "peer_id": "-HP0001-", "client_name": "HP 0.0.0.1",
        "torrent_identifier": f"{number:064x}", "torrent_is_private": False, "torrent_size": 5_000_000,
        "downloaded": 0, "rt_download_speed": 0, "uploaded": 1 << 20, "rt_upload_speed": 1 << 10,
        "peer_progress": 0.1, "downloader_progress": 1.0, "peer_flag": "U",
    }  # fmt: skip


def _swarm(address: str, number: int, downloader: str) -> dict[str, Any]:
    return {
        "torrent_identifier": f"{number:064x}", "torrent_is_private": False, "torrent_size": 5_000_000,
        "downloader": downloader, "peer_ip": address, "peer_port": 6881 + number, "peer_id": "-HP0001-",
        "peer_client_name": "HP 0.0.0.1", "peer_progress": 0.1, "downloader_progress": 1.0,
        "to_peer_traffic_offset": 0, "from_peer_traffic": 0, "from_peer_traffic_offset": 0,
        "to_peer_traffic_speed": 0, "from_peer_traffic_speed": 0, "to_peer_traffic_speed_max": 0,
        "from_peer_traffic_speed_max": 0, "peer_last_flags": "U", "first_time_seen": 1_783_000_000_000,
        "last_time_seen": 1_783_000_100_000,
    }  # fmt: skip


def told_by(server: RunningServer, app: App) -> list[str]:
    """What stands in the files and would lead to an application: its names, and those of its submissions."""
    files, digests = [server.database], []
    for kind in ("snapshot", "swarm"):
        files += [segment_file(server.database, segment) for segment in catalogue(server.database, kind)]
    with opened(server.database) as connection:
        [(number,)] = connection.execute("SELECT id FROM userapp WHERE app_id=?", (app.app_id,)).fetchall()
    for file in files:
        with opened(file) as connection:
            digests += connection.execute("SELECT digest FROM submission WHERE userapp=?", (number,)).fetchall()
    assert len(digests) == 9
    return [DOWNLOADER, "alice-of-wonderland", app.app_id, *(str(UUID(bytes=digest)) for (digest,) in digests)]


def leaks(circle: Circle, answer: Answer) -> list[str]:
    """What of alice an answer holds, cursors opened too."""
    text = answer.body.decode() + json.dumps(answer.headers)
    for cursor in re.findall(r"(?:after|before|next|previous)[\"=:]+([A-Za-z0-9_-]{8,})", text):
        text += base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("utf-8", "replace")
    bare = text.lower().replace("-", "")
    return [secret for secret in circle.secrets if secret in text or secret.replace("-", "") in bare]


# --- What is shown ----------------------------------------------------------------------------------------------------


def test_no_page_shows_another_member(circle: Circle) -> None:
    pages = 0
    for url, answer, _ in crawl(circle.bob.get, "/explore/swarms", without=("/manual/", "/docs", "/static/")):
        assert answer.status == 200, url
        assert not leaks(circle, answer), url
        pages += 1
    assert pages > 50


@pytest.mark.parametrize("path", [f"/ip/{peer}" for peer in PEERS] + ["/client/HP%200.0.0.1", f"/torrent/{0:064x}"])
def test_no_report_of_a_peer_shows_another_member(circle: Circle, path: str) -> None:
    answer = circle.bob.get(path)
    assert "bobs-box" in answer.body.decode()
    assert not leaks(circle, answer)
    assert DOWNLOADER in leaks(circle, circle.alice.get(path))


@pytest.mark.parametrize("table", list(PATHS))
def test_no_answer_order_cursor_or_file_shows_another_member(circle: Circle, table: Any) -> None:
    orders: list[Any] = [None, *query.SORTS[table], ["submitId", "downloader"] if table == "swarm" else []]
    for order in orders:
        for direction in ("ASC", "DESC"):
            body = {"sortBy": order, "sortOrder": direction, "pageSize": 2}
            if order is None:
                del body["sortBy"]
            for _ in range(12):
                answer = circle.bob.call(f"{PATHS[table]}/query", body)
                assert answer.status == 200
                assert not leaks(circle, answer), body
                body["after"] = answer.json()["data"]["next"]
                if body["after"] is None:
                    break
    for form in ("csv", "jsonl"):
        assert not leaks(circle, circle.bob.call(f"{PATHS[table]}/export?format={form}", {}))
    assert not leaks(circle, circle.bob.call(PATHS[table]))


def test_what_clients_and_the_rest_api_are_told_shows_nobody(circle: Circle) -> None:
    bob = circle.server.add_app("bob")
    for peer in PEERS:
        for path in (f"/ping/queryIp?ip={peer}", f"/ping/queryIp/widget?ip={peer}"):
            answer = circle.server.get(path, bob)
            assert answer.status == 200
            assert not leaks(circle, answer)
        assert not leaks(circle, circle.bob.call(f"why?ip={peer}"))
    for path in ("rules", "rules/changes", "rules/changes?format=atom", "userapp", "user/me", "user/sessions"):
        answer = circle.bob.call(path)
        assert answer.status == 200
        assert not leaks(circle, answer)


def test_a_refusal_of_what_is_anothers_says_nothing_of_them(circle: Circle) -> None:
    theirs, nobodys = circle.app.app_id, "00000000-0000-4000-8000-000000000000"
    for path in ("/api/userapp/{}", "/apps/{}", "/apps/{}/connected"):
        for headers in ({"X-BTN-Token": circle.bob.token}, {"Cookie": f"X-BTN-Token={circle.bob.token}", **HTML}):
            one, other = (
                circle.server.request("GET", path.format(app_id), headers=headers) for app_id in (theirs, nobodys)
            )
            assert {one.status, other.status} <= {403, 404}
            assert set(leaks(circle, one)) <= {theirs}


def test_a_time_that_a_client_gave_a_whole_request_is_not_told_as_one_of_its_bans(circle: Circle) -> None:
    peer = _peer("203.0.113.99", 9)
    ban = {"module": "m", "rule": "r", "btn_ban": False, "ban_unique_id": "no-time-of-its-own", "peer": peer}
    legacy = {"populate_time": POPULATED, "bans": [ban]}
    assert circle.server.post(legacy, circle.app, "/ping/bans/submit").status == 200
    told = {name: getattr(circle, name).found("ban", peerIp="203.0.113.99") for name in ("alice", "bob", "admin")}
    assert {name: found["results"][0]["banAt"] for name, found in told.items()} == {
        "alice": POPULATED, "bob": None, "admin": POPULATED,
    }  # fmt: skip
    bob = circle.server.add_app("bob")
    for path in ("/ping/queryIp?ip=203.0.113.99", "/ping/queryIp/widget?ip=203.0.113.99"):
        assert not leaks(circle, circle.server.get(path, bob))
    assert not leaks(circle, circle.bob.get("/ip/203.0.113.99"))


# --- What can be asked ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [prefix + name for name in TEXT_METHODS for prefix in ("", "NOT_")])
def test_a_filter_on_a_downloader_is_no_oracle(circle: Circle, method: str) -> None:
    answers = []
    for value in (DOWNLOADER, DOWNLOADER[:5], "nobody-has-this"):
        page = circle.bob.found("swarm", downloader=value, downloaderCompareMethod=method)
        answers.append(({row["id"] for row in page["results"]}, page["total"], page["totalExact"]))
        assert all(row["downloader"] == "bobs-box" for row in page["results"])
        either = circle.bob.found(
            "swarm", downloader=value, downloaderCompareMethod=method, peerPort=1, orConnector=True
        )
        assert {row["id"] for row in either["results"]} == answers[-1][0]
    assert answers[0] == answers[1] == answers[2]
    assert circle.alice.found("swarm", downloader=DOWNLOADER)["total"] == len(PEERS)
    assert circle.admin.found("swarm", downloader=DOWNLOADER)["total"] == len(PEERS)


def test_how_long_an_answer_takes_does_not_tell_what_others_call_their_downloaders(tmp_path: Path) -> None:
    with start_server(tmp_path) as server:
        for name in ("alice", "bob"):
            server.run("user", "add", name)
        alice, bob = server.add_app("alice"), Asker(server, server.token("bob"))
        for part in range(3):
            swarms = [_swarm(f"203.0.{part}.{n % 256}", n, DOWNLOADER) for n in range(40_000)]
            assert server.post({"swarms": swarms}, alice, "/ping/syncSwarm", PBH20).status == 200
        for method in ("EQUALS", "STARTS_WITH", "NOT_CONTAINS"):
            there, not_there = _fastest(bob, (DOWNLOADER, "nobody-has-this"), method)
            assert there < 2 * not_there
            assert not_there < 2 * there


def _fastest(asker: Asker, values: Sequence[str], method: str) -> list[float]:
    """How many seconds a search for each value takes when nothing is in its way.

    They are asked for in turn: what else keeps the machine busy then meets all of them alike.
    """
    times: dict[str, list[float]] = {value: [] for value in values}
    for _ in range(20):
        for value in values:
            began = time.perf_counter()
            assert asker.found("swarm", downloader=value, downloaderCompareMethod=method)["total"] == 0
            times[value].append(time.perf_counter() - began)
    return [min(each) for each in times.values()]


@pytest.mark.parametrize("table", ["snapshot", "ban", "swarm"])
def test_an_order_tells_nothing_of_others_rows(circle: Circle, table: Any) -> None:
    private = {field for field, one in FIELDS[table].items() if one.is_private}
    names = [name for name, field in query.SORTS[table].items() if field in private]
    assert {"submitId", "appId", "populateTime"} <= set(names)
    for name in names:
        for direction in ("ASC", "DESC"):
            rows = circle.bob.found(table, sortBy=name, sortOrder=direction)["results"]
            others = [row["id"] for row in rows if row["appId"] is None]
            assert others == sorted(others, reverse=True)
            assert len(others) >= len(PEERS)


def test_owners_and_administrators_see_their_part(circle: Circle) -> None:
    for asker, is_all in ((circle.alice, False), (circle.admin, True)):
        for row in asker.found("swarm")["results"]:
            mine = row["appId"] == circle.app.app_id
            assert (row["submitId"] is not None) == (mine or is_all)
            assert (row["downloader"] is not None) == (mine or is_all)
    rows = circle.alice.found("snapshot")["results"]
    assert {row["populateTime"] for row in rows if row["appId"]} == {POPULATED, POPULATED + 1, POPULATED + 2}
