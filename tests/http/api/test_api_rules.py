"""The REST API of rules on a running server: what is listed, why, the log of it, and what administrators decide."""

import gzip
import itertools
import json
import os
import signal
import sqlite3
import time
import xml.etree.ElementTree as xml
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import client_parsers as clients
import pytest
from server import RunningServer, chunked, opened, read_answer, start_server, wait_for

CONFIG = """
[[rules]]
type = "ip"
category = "PCDN"
content = ["60.220.182.0/24"]

[[rules]]
type = "client_name"
category = "bad"
content = ["Xunlei"]

[[exceptions]]
type = "ip"
category = "friends"
content = ["60.220.182.9"]
"""
_NOTES = itertools.count(1)
ATOM = {"a": "http://www.w3.org/2005/Atom"}
# Every list is so long that it is rendered in a process of its own.
LONG_LISTS = "import sparkle_lite.rules.publisher as r; r._LONG_LIST = 0"


class Api:
    """The API as one user calls it."""

    def __init__(self, server: RunningServer, token: str) -> None:
        self.server = server
        self.token = token

    def call(self, method: str, path: str, body: Any = None, expect: int = 200) -> Any:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        raw = None if body is None else json.dumps(body).encode()
        answer = self.server.request(method, path, raw, {**headers, "Content-Type": "application/json"})
        assert answer.status == expect, answer.body
        envelope = answer.json()
        assert envelope["success"] is (expect == 200)
        return envelope["data"] if expect == 200 else envelope["message"]

    def get(self, path: str, expect: int = 200) -> Any:
        return self.call("GET", path, expect=expect)

    def post(self, path: str, body: Any = None, expect: int = 200) -> Any:
        return self.call("POST", path, body, expect)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with start_server(tmp_path_factory.mktemp("rules"), CONFIG) as running:
        yield running


@pytest.fixture(scope="module")
def admin(server: RunningServer) -> Api:
    return Api(server, server.token())


@pytest.fixture(scope="module")
def user(server: RunningServer) -> Api:
    server.run("user", "add", "bob")
    return Api(server, server.token("bob"))


def deny_list(server: RunningServer) -> dict[str, str]:
    body = server.get("/ping/ruleIpDenylist").body
    return {str(network): reason for network, reason in clients.address_list(body)}


def allow_list(server: RunningServer) -> list[str]:
    return [str(network) for network, _ in clients.address_list(server.get("/ping/ruleIpAllowlist").body)]


def held(server: RunningServer, target: str, origin: str = "untrusted_vote", why: str = "growth") -> int:
    """A decision that waits for review, as a run leaves it."""
    with closing(sqlite3.connect(server.database, timeout=10)) as connection, connection:
        cursor = connection.execute(
            "INSERT INTO decision (kind, address, prefix, action, state, origin, category, code, numbers, evidence,"
            " held_for, created_at, expires_at) VALUES ('ip', ?, 32, 'deny', 'held', ?, 'votes', 'seen',"
            ' \'{"people":4}\', \'{"people":4,"formula":1,"first_seen":1,"last_seen":2}\', ?, ?, ?)',
            (
                bytes(map(int, target.split("."))),
                origin,
                why,
                time.time_ns() // 1_000_000,
                time.time_ns() // 1_000_000 + 7 * 86_400_000,
            ),
        )
        connection.execute("UPDATE decision_revision SET number=number+1")
    return int(cursor.lastrowid or 0)


def test_a_decision_of_an_administrator_reaches_the_clients_at_once_and_a_pardon_takes_it_back(
    server: RunningServer, admin: Api
) -> None:
    made = admin.post("/api/rules/deny", {"target": "21.1.1.1", "reason": "noisy", "expires": "7d"})
    assert (made["target"], made["state"], made["origin"], made["note"]) == ("21.1.1.1", "active", "admin", "noisy")
    assert made["expiresAt"] - made["createdAt"] == 7 * 86_400_000
    assert deny_list(server)["21.1.1.1/32"].startswith("[admin] listed by the operator of this server; until ")
    assert "noisy" not in str(deny_list(server))
    done = admin.post("/api/rules/pardon", {"target": "21.1.1.1", "reason": "sorry"})
    assert [rule["id"] for rule in done["ended"]] == [made["id"]]
    assert done["ended"][0]["state"] == "pardoned"
    assert done["exception"]["expiresAt"] - done["exception"]["createdAt"] == 7 * 86_400_000
    assert "21.1.1.1/32" not in deny_list(server)
    assert "21.1.1.1/32" in allow_list(server)
    why = admin.get("/api/why?ip=21.1.1.1")
    assert (why["listed"], why["protectedBy"]) == (False, ["excepted"])
    assert [(rule["action"], rule["state"]) for rule in why["rules"]] == [("allow", "active"), ("deny", "pardoned")]


def test_the_default_is_thirty_days_and_null_is_for_ever(admin: Api) -> None:
    usual = admin.post("/api/rules/allow", {"target": "22.1.1.0/24"})
    assert usual["expiresAt"] - usual["createdAt"] == 30 * 86_400_000
    assert admin.post("/api/rules/allow", {"target": "22.1.1.0/24", "expires": None})["expiresAt"] is None


def test_names_and_peer_ids_are_listed_and_excepted_too(server: RunningServer, admin: Api) -> None:
    admin.post("/api/rules/deny", {"target": "Evil", "kind": "client_name"})
    admin.post("/api/rules/allow", {"target": '{"method":"EQUALS","content":"Evil 2"}', "kind": "client_name"})
    rules = clients.pbh_rules(server.get("/ping/rulePeerIdentity").body)
    assert rules.bans_name("evil 1")
    assert not rules.bans_name("Evil 2")
    assert admin.get(f"/api/why?client_name={quote('Evil 1')}")["listed"]
    assert not admin.get(f"/api/why?client_name={quote('Evil 2')}")["listed"]
    assert admin.get("/api/why?client_name=Xunlei")["rules"][0]["origin"] == "config"
    assert not admin.get("/api/why?peer_id=-EV0001-")["listed"]


def test_the_configurations_rules_are_among_the_rules(admin: Api) -> None:
    found = admin.get("/api/rules?origin=config")["results"]
    assert {(rule["target"], rule["action"], rule["category"]) for rule in found} == {
        ("60.220.182.0/24", "deny", "PCDN"),
        ("60.220.182.9", "allow", "friends"),
        ('{"method":"CONTAINS","content":"Xunlei","miss":"DEFAULT"}', "deny", "bad"),
    }
    assert found[0].keys() == {
        *("id", "kind", "target", "action", "state", "origin", "category", "code", "numbers", "reason", "evidence"),
        *("heldFor", "note", "createdAt", "expiresAt", "endedAt", "withheld"),
    }
    why = admin.get("/api/why?ip=60.220.182.9")
    assert (why["listed"], why["protectedBy"]) == (False, ["excepted"])
    error = admin.post(f"/api/rules/{found[0]['id']}/withdraw", expect=409)
    assert "configuration" in error


def test_rules_are_filtered_and_paged(admin: Api) -> None:
    for i in range(5):
        admin.post("/api/rules/deny", {"target": f"23.1.1.{i}"})
    seen: list[str] = []
    after = ""
    while after is not None:
        page = admin.get(f"/api/rules?ip=23.1.1.0/24&action=deny&state=active&limit=2{after and f'&after={after}'}")
        seen += [rule["target"] for rule in page["results"]]
        after = page["next"]
    assert seen == [f"23.1.1.{i}" for i in (4, 3, 2, 1, 0)]
    assert admin.get("/api/rules?ip=23.1.1.3")["results"][0]["target"] == "23.1.1.3"
    assert admin.get("/api/rules?ip=23.1.1.0/24&state=held")["results"] == []


def test_the_state_at_a_past_moment_is_told(admin: Api) -> None:
    made = admin.post("/api/rules/deny", {"target": "24.1.1.1"})
    admin.post(f"/api/rules/{made['id']}/withdraw")
    [then] = admin.get(f"/api/rules/at?time={made['createdAt']}&ip=24.1.1.1")["results"]
    assert (then["id"], then["state"]) == (made["id"], "active")
    assert admin.get(f"/api/rules/at?time={made['createdAt'] - 1}&ip=24.1.1.1")["results"] == []
    assert admin.get("/api/rules?ip=24.1.1.1")["results"] == []


def test_the_log_tells_what_began_and_ended_page_by_page(admin: Api) -> None:
    made = admin.post("/api/rules/deny", {"target": "25.1.1.1"})
    admin.post(f"/api/rules/{made['id']}/withdraw")
    page = admin.get("/api/rules/changes?limit=2")
    assert [(one["change"], one["rule"]["target"]) for one in page["results"]] == [
        ("withdrawn", "25.1.1.1"),
        ("active", "25.1.1.1"),
    ]
    older = admin.get(f"/api/rules/changes?limit=2&after={page['next']}")["results"]
    assert made["id"] not in [one["rule"]["id"] for one in older]
    everything = admin.get("/api/rules/changes?limit=1000")
    assert everything["next"] is None
    assert everything["results"][:2] == page["results"]


def test_the_log_is_also_a_feed(server: RunningServer, admin: Api) -> None:
    admin.post("/api/rules/deny", {"target": '<b>&"]]>', "kind": "client_name"})
    answer = server.request(
        "GET", "/api/rules/changes?format=atom&limit=20", headers={"Authorization": f"Bearer {admin.token}"}
    )
    assert answer.headers["content-type"] == "application/atom+xml; charset=utf-8"
    feed = xml.fromstring(answer.body)
    titles = [entry.findtext("a:title", namespaces=ATOM) or "" for entry in feed.findall("a:entry", ATOM)]
    assert titles[0].startswith('Listed: {"method":"CONTAINS","content":"<b>&')
    ids = [entry.findtext("a:id", namespaces=ATOM) for entry in feed.findall("a:entry", ATOM)]
    assert len(set(ids)) == len(ids)
    assert feed.findtext("a:updated", namespaces=ATOM)


def test_held_rules_are_approved_refused_and_told_to_be_held(server: RunningServer, admin: Api, user: Api) -> None:
    first, second = held(server, "26.1.1.1"), held(server, "26.1.1.2")
    third = held(server, "26.1.1.3", why="member")
    assert admin.get("/api/why?ip=26.1.1.3")["rules"][0]["heldFor"] == "member"
    assert user.get("/api/why?ip=26.1.1.3")["rules"][0]["heldFor"] is None
    assert user.get("/api/why?ip=26.1.1.1")["rules"][0]["evidence"] == {
        "people": 4,
        "formula": 1,
        "firstSeen": 1,
        "lastSeen": 2,
    }
    approved = admin.post(f"/api/rules/{first}/approve")
    assert (approved["state"], approved["id"] != first) == ("active", True)
    assert "26.1.1.1/32" in deny_list(server)
    assert admin.post(f"/api/rules/{second}/refuse")["state"] == "refused"
    assert admin.post("/api/rules/held/approve", {"origin": "untrusted_vote"}) == {"count": 1}
    assert "26.1.1.3/32" in deny_list(server)
    assert admin.post("/api/rules/held/refuse", {"origin": "untrusted_vote"}) == {"count": 0}
    for path in (f"/api/rules/{third}/approve", f"/api/rules/{second}/refuse", f"/api/rules/{second}/withdraw"):
        admin.post(path, expect=409)
    admin.post("/api/rules/999999999/approve", expect=404)
    admin.post(f"/api/rules/{1 << 70}/approve", expect=404)


def test_a_members_address_is_held_and_only_administrators_are_told_why(
    server: RunningServer, admin: Api, user: Api
) -> None:
    with opened(server.database) as connection:
        app, userid = connection.execute("SELECT id, user FROM userapp LIMIT 1").fetchone()
    assert userid
    with closing(sqlite3.connect(server.database, timeout=10)) as writing, writing:
        now = time.time_ns() // 1_000_000
        writing.execute("INSERT INTO userapp_address VALUES (?, ?, ?, ?)", (app, bytes((27, 1, 1, 1)), now, now))
    made = admin.post("/api/rules/deny", {"target": "27.1.1.1"})
    assert (made["state"], made["heldFor"]) == ("held", "member")
    assert "27.1.1.1/32" not in deny_list(server)
    assert admin.get("/api/why?ip=27.1.1.1")["protectedBy"] == ["member"]
    assert user.get("/api/why?ip=27.1.1.1")["protectedBy"] == []
    assert "14 days" in admin.post(f"/api/rules/{made['id']}/approve", expect=409)


def test_everybody_who_is_signed_in_reads_and_only_administrators_decide(server: RunningServer, user: Api) -> None:
    for path in ("/api/rules", "/api/rules/changes", "/api/rules/at?time=0", "/api/why?ip=1.1.1.1"):
        user.get(path)
        Api(server, "").get(path, expect=403)
    for path, body in (
        ("/api/rules/deny", {"target": "1.1.1.1"}),
        ("/api/rules/allow", {"target": "1.1.1.1"}),
        ("/api/rules/pardon", {"target": "1.1.1.1"}),
        ("/api/rules/1/approve", None),
        ("/api/rules/1/refuse", None),
        ("/api/rules/1/withdraw", None),
        ("/api/rules/held/approve", {"origin": "x"}),
        ("/api/rules/held/refuse", {"origin": "x"}),
    ):
        user.post(path, body, expect=403)
        Api(server, "").post(path, body, expect=403)


@pytest.mark.parametrize(
    "path",
    [
        "/api/rules?limit=0",
        "/api/rules?limit=1001",
        "/api/rules?state=expired",
        "/api/rules?colour=red",
        "/api/rules?ip=x",
        "/api/rules?ip=1.2.3.4/24",
        "/api/rules?after=-1",
        "/api/rules?after=99999999999999999999",
        "/api/rules/at",
        "/api/rules/at?time=x",
        "/api/rules/at?time=-1",
        "/api/rules/at?time=99999999999999999999",
        "/api/rules/changes?after=x",
        "/api/rules/changes?after=MS4y",
        "/api/rules/changes?after=OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTkuMS4x",
        "/api/rules/changes?format=rss",
        "/api/why",
        "/api/why?ip=1.2.3.4&client_name=x",
        "/api/why?ip=",
    ],
)
def test_a_question_that_makes_no_sense_is_refused(admin: Api, path: str) -> None:
    assert admin.get(path, expect=400)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"target": "x"},
        {"target": "10.0.0.1"},
        {"target": "1.2.3.4", "kind": "port"},
        {"target": "1.2.3.4", "expires": "soon"},
        {"target": "1.2.3.4", "expires": "0"},
        {"target": "1.2.3.4", "reason": "a\nb"},
        {"target": "1.2.3.4", "reason": "x" * 256},
        {"target": "1.2.3.4", "why": "x"},
        {"target": '{"method":"REGEX","content":"("}', "kind": "client_name"},
    ],
)
def test_a_decision_that_makes_no_sense_is_refused(admin: Api, body: dict[str, Any]) -> None:
    assert admin.post("/api/rules/deny", body, expect=400)


def test_what_the_command_line_decides_is_published_within_two_seconds(server: RunningServer) -> None:
    server.run("rules", "deny", "28.1.1.1", "--reason", "by hand")
    wait_for(lambda: "28.1.1.1/32" in deny_list(server), 2)
    server.run("rules", "pardon", "28.1.1.1")
    wait_for(lambda: "28.1.1.1/32" not in deny_list(server) and "28.1.1.1/32" in allow_list(server), 2)


def test_what_expires_leaves_the_lists_by_itself(server: RunningServer, admin: Api) -> None:
    admin.post("/api/rules/deny", {"target": "29.1.1.1", "expires": "1500ms"})
    assert "29.1.1.1/32" in deny_list(server)
    wait_for(lambda: "29.1.1.1/32" not in deny_list(server), 6)
    assert admin.get("/api/why?ip=29.1.1.1")["rules"][0]["state"] == "expired"


def test_a_reload_of_the_configuration_is_in_the_log(start: Callable[..., RunningServer]) -> None:
    server = start(CONFIG)
    api = Api(server, server.token())
    server.reload(CONFIG.replace("60.220.182.0/24", "60.220.183.0/24"))
    newest = api.get("/api/rules/changes?limit=2")["results"]
    assert sorted((one["change"], one["rule"]["target"]) for one in newest) == [
        ("active", "60.220.183.0/24"),
        ("withdrawn", "60.220.182.0/24"),
    ]
    assert list(deny_list(server)) == ["60.220.183.0/24"]
    before = api.get("/api/rules")["results"]
    server.restart()
    assert api.get("/api/rules")["results"] == before


def test_a_failed_publication_serves_the_last_good_list_and_says_so(tmp_path: Path) -> None:
    prelude = (
        "from pathlib import Path; from sparkle_lite.rules import rendering; real = rendering.publish\n"
        "def publish(*a, **k):\n"
        "    if Path('broken').exists(): raise ValueError('no such luck')\n"
        "    return real(*a, **k)\n"
        "rendering.publish = publish\n"
        f"import os; os.chdir({str(tmp_path)!r})\n"
    ).rstrip()
    with start_server(tmp_path / "s", CONFIG, prelude=prelude) as server:
        api = Api(server, server.token())
        (tmp_path / "broken").touch()
        api.post("/api/rules/deny", {"target": "1.2.3.4"})
        assert next(iter(deny_list(server))) == "60.220.182.0/29"
        assert "1.2.3.4/32" not in deny_list(server)
        assert server.request("GET", "/readyz").json()["rules_failure"] == "no such luck"
        assert server.metric("sparkle_rules_stale") == 1
        (tmp_path / "broken").unlink()
        wait_for(lambda: "1.2.3.4/32" in deny_list(server), 12)
        assert server.request("GET", "/readyz").json()["rules_failure"] is None
        assert server.metric("sparkle_rules_stale") == 0


def test_a_long_list_is_rendered_by_another_process_just_as_well(tmp_path: Path) -> None:
    def documents(prelude: str, folder: Path) -> list[tuple[str, bytes]]:
        with start_server(folder, CONFIG + '[server]\npublic_url = "https://btn.example"\n', prelude=prelude) as server:
            server.run("rules", "allow", "60.220.182.128/25", "--forever")
            server.run("rules", "deny", "2001:db8::/64", "--forever")
            server.run("rules", "deny", "--kind", "client_name", "Evil", "--forever")
            wait_for(lambda: "2001:db8::/64" in deny_list(server), 5)
            wait_for(lambda: b"Evil" in server.get("/ping/rules/retrieve").body, 5)
            server.run("rules", "pardon", "2001:db8::/64")
            wait_for(lambda: "2001:db8::/64" not in deny_list(server), 5)
            paths = ("rules/retrieve", "exception", "ruleIpDenylist", "ruleIpAllowlist", "rulePeerIdentity")
            answers = [server.get(f"/ping/{path}") for path in paths]
            assert server.request("GET", "/readyz").json()["rules_failure"] is None
            return [(answer.headers["x-btn-contentversion"], answer.body) for answer in answers]

    inside = documents("", tmp_path / "a")
    assert inside == documents(LONG_LISTS, tmp_path / "b")
    assert b"https://btn.example/ip/60.220.182.0" in inside[2][1]


def test_another_process_that_dies_is_replaced_and_ends_with_the_server(tmp_path: Path) -> None:
    with start_server(tmp_path / "s", CONFIG, prelude=LONG_LISTS) as server:
        (first,) = children(server)
        os.kill(first, signal.SIGKILL)
        server.run("rules", "deny", "1.2.3.4")
        wait_for(lambda: "1.2.3.4/32" in deny_list(server), 5)
        assert server.request("GET", "/readyz").json()["rules_failure"] is None
        (second,) = children(server)
        assert second != first
        assert server.stop() == 0
        assert not Path(f"/proc/{second}").exists()


def test_another_process_that_has_nothing_to_do_for_long_leaves(tmp_path: Path) -> None:
    prelude = "from sparkle_lite.rules import publisher, render_worker as w; publisher._LONG_LIST = 0; w.STAY_S = 0.3"
    with start_server(tmp_path / "s", CONFIG, prelude=prelude) as server:
        wait_for(lambda: not children(server), 5)
        server.run("rules", "deny", "1.2.3.4")
        wait_for(lambda: "1.2.3.4/32" in deny_list(server), 5)


def children(server: RunningServer) -> list[int]:
    """The processes that a server has started."""
    found = [file.read_text().split() for file in Path(f"/proc/{server.process.pid}/task").glob("*/children")]
    return [int(number) for numbers in found for number in numbers]


def test_another_process_that_fails_leaves_the_last_good_list(tmp_path: Path) -> None:
    prelude = (
        "from sparkle_lite.rules import publisher, render_worker as w; publisher._LONG_LIST = 3; w.TIMEOUT_S = 0.001"
    )
    with start_server(tmp_path / "s", CONFIG, prelude=prelude) as server:
        before = deny_list(server)
        server.run("rules", "deny", "1.2.3.4")
        server.run("rules", "deny", "1.2.3.5")
        wait_for(lambda: server.request("GET", "/readyz").json()["rules_failure"], 5)
        assert "1.2.3.5/32" not in deny_list(server)
        assert before.items() <= deny_list(server).items()
        assert server.stop() == 0


def test_the_operations_are_documented(server: RunningServer) -> None:
    paths = server.request("GET", "/openapi.json").json()["paths"]
    for path in ("/api/rules", "/api/rules/at", "/api/rules/changes", "/api/why"):
        assert paths[path]["get"]["summary"]
    for path in ("deny", "allow", "pardon", "{rule_id}/approve", "{rule_id}/refuse", "{rule_id}/withdraw"):
        assert paths[f"/api/rules/{path}"]["post"]["responses"].keys() >= {"200", "403"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("packed", ["plain", "gzip, with the header", "gzip, without"])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_may_come_in_any_way_in_which_a_submission_may(
    admin: Api, encoding: str, packed: str, is_chunked: bool
) -> None:
    number = next(_NOTES)
    note = f"迅雷 {number}"
    body = json.dumps({"target": f"24.9.9.{number}", "reason": note}, ensure_ascii=False).encode(encoding)
    headers = {"Authorization": f"Bearer {admin.token}", "Content-Type": "application/json"}
    if packed != "plain":
        body = gzip.compress(body)
    if packed == "gzip, with the header":
        headers["Content-Encoding"] = "gzip"
    lines = [f"{name}: {value}" for name, value in headers.items()]
    lines.append("Transfer-Encoding: chunked" if is_chunked else f"Content-Length: {len(body)}")
    head = "\r\n".join(["POST /api/rules/deny HTTP/1.1", "Host: btn.example", *lines, "", ""]).encode()
    with admin.server.connect() as sock:
        sock.sendall(head + (chunked(body, 20) if is_chunked else body))
        answer = read_answer(sock)
    assert answer.status == 200, answer.body
    assert answer.json()["data"]["note"] == note


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (gzip.compress(b'{"target":"1.2.3.4"}', mtime=0)[:-5], "gzip", 400),
        (gzip.compress(b" " * 70_000, mtime=0), "gzip", 413),
        (b'{"target":"1.2.3.4"}', "br", 415),
        ('{"target":"1.2.3.4"}'.encode("utf-16") + b"}", "", 400),
        ('{"target":"1.2.3.4"}'.encode("utf-16-le") + b"\x00\xd8", "", 400),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_as_a_submission_is(
    admin: Api, body: bytes, encoding: str, status: int
) -> None:
    headers = {"Authorization": f"Bearer {admin.token}", "Content-Type": "application/json"}
    if encoding:
        headers["Content-Encoding"] = encoding
    answer = admin.server.request("POST", "/api/rules/deny", body, headers)
    assert answer.status == status, answer.body
    assert answer.json()["success"] is False
