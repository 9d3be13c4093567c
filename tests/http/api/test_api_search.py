"""The REST API of stored rows over real HTTP: who may ask, what is refused and how, and the shape of what comes."""

import base64
import csv
import io
import json
import uuid
from typing import Any

import msgspec
import pytest
from server import Answer, App, RunningServer

from sparkle_lite.observations.presentation import csv_cells

Row = dict[str, Any]
TABLES = ("banhistory", "snapshot", "swarm", "clientdiscovery")
PEER_KEYS = [
    *("id", "appId", "submitId", "peerIp", "peerPort", "peerId", "peerClientName", "torrent"),
    *("fromPeerTraffic", "fromPeerTrafficSpeed", "toPeerTraffic", "toPeerTrafficSpeed"),
    *("peerProgress", "downloaderProgress", "flags"),
]
KEYS = {
    "snapshot": [*PEER_KEYS, "insertTime", "populateTime"],
    "banhistory": [
        *(*PEER_KEYS, "btnBan", "module", "rule", "banUniqueId"),
        *("structuredData", "insertTime", "populateTime", "banAt", "description", "lastReportedAt"),
    ],
    "swarm": [
        *(*PEER_KEYS, "origin", "downloader", "fromPeerTrafficOffset", "fromPeerTrafficSpeedMax"),
        *("toPeerTrafficOffset", "toPeerTrafficSpeedMax", "firstTimeSeen", "lastTimeSeen"),
        *("insertTime", "populateTime"),
    ],
    "clientdiscovery": ["hash", "clientName", "peerId", "foundAt", "foundBy", "lastSeenAt", "lastSeenBy"],
}
IDENTIFIER = "52fa13494a4571a951b46b1a04be19ab9d8089c3d3761956c99f5435e6f2c8ad"


@pytest.fixture(scope="module")
def tokens(shared: RunningServer) -> dict[str, str]:
    """Session tokens of an administrator and of two others, one of whom owns the rows of these tests."""
    for name in ("searcher", "stranger"):
        shared.run("user", "add", name)
    return {name: shared.token(name) for name in ("admin", "searcher", "stranger")}


@pytest.fixture(scope="module")
def peer_id(shared: RunningServer, tokens: dict[str, str]) -> str:
    """A peer id that only the rows of these tests have: three snapshots, two bans, one swarm in two versions."""
    app, name = shared.add_app("searcher"), f"-{uuid.uuid4().hex[:6]}-"
    peer = {
        "ip_address": "2001:DB8:0:0::1",
        "peer_port": 51413,
        "peer_id": name,
        "client_name": '=cmd|"calc"!A1',
        "torrent_identifier": IDENTIFIER,
        "torrent_size": 592536756,
        "uploaded": 65568,
        "peer_progress": 0.011,
        "downloader_progress": 1.0,
        "peer_flag": "u I H",
    }
    snapshots = [peer, peer | {"ip_address": "198.51.100.9"}, peer | {"peer_port": 1}]
    bans = [
        {"peer": peer, "module": "com.example.PCB", "rule": "r", "ban_unique_id": uuid.uuid4().hex, "btn_ban": False},
        {"peer": peer, "module": "other", "rule": None, "ban_at": 5, "structured_data": {"a": [1]}},
    ]
    swarm = {
        "peer_ip": "203.0.113.7",
        "peer_port": 80,
        "peer_id": name,
        "peer_client_name": "迅雷",
        "downloader": "home",
        "torrent_identifier": IDENTIFIER,
        "torrent_size": 5,
        "first_time_seen": 1,
        "last_time_seen": 2,
    }
    for body in (
        {"populate_time": 1723974900000, "peers": snapshots},
        {"populate_time": None, "bans": bans},
        {"populate_time": 7, "swarms": [swarm | {"to_peer_traffic": 1}]},
        {"populate_time": 8, "swarms": [swarm | {"to_peer_traffic": 2}]},
    ):
        assert shared.post(body, app).status == 200
    return name


def ask(server: RunningServer, path: str, body: Any = None, token: str = "", **headers: str) -> Answer:
    sent = {"X-BTN-Token": token} if token else {}
    if body is None:
        return server.request("GET", f"/api/{path}", headers=sent | headers)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return server.request("POST", f"/api/{path}", data, sent | {"Content-Type": "application/json"} | headers)


def found(answer: Answer) -> Row:
    assert answer.status == 200, answer.body
    envelope = answer.json()
    assert list(envelope) == ["success", "message", "data"]
    assert (envelope["success"], envelope["message"]) == (True, None)
    assert list(envelope["data"]) == ["page", "size", "total", "results", "totalExact", "next", "previous"]
    return dict(envelope["data"])


def refusal(answer: Answer, status: int = 400) -> str:
    assert answer.status == status, answer.body
    envelope = answer.json()
    assert (envelope["success"], envelope["data"]) == (False, None)
    return str(envelope["message"])


# --- Who may ask ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(("path", "body"), [("", None), ("/query", {}), ("/export?format=csv", {})])
def test_nobody_reads_without_signing_in(shared: RunningServer, table: str, path: str, body: Any) -> None:
    for token in ("", "not.a.token"):
        assert "未登录或会话已过期，请转到首页登录" in refusal(ask(shared, table + path, body, token), 403)


@pytest.mark.parametrize("table", ["banhistory", "snapshot", "swarm"])
def test_an_application_is_named_to_its_owner_and_to_administrators_only(
    shared: RunningServer, tokens: dict[str, str], peer_id: str, table: str
) -> None:
    seen = {
        name: [row["appId"] for row in found(ask(shared, f"{table}/query", {"peerId": peer_id}, token))["results"]]
        for name, token in tokens.items()
    }
    assert set(seen["stranger"]) == {None}
    assert seen["searcher"] == seen["admin"]
    assert None not in seen["admin"]


def test_a_discoverer_is_named_to_themselves_and_to_administrators_only(
    shared: RunningServer, tokens: dict[str, str], peer_id: str
) -> None:
    rows = {
        name: found(ask(shared, "clientdiscovery/query", {"peerId": peer_id}, token))["results"][0]
        for name, token in tokens.items()
    }
    assert rows["stranger"]["foundBy"] is rows["stranger"]["lastSeenBy"] is None
    assert rows["admin"]["foundBy"] == rows["searcher"]["foundBy"]
    assert list(rows["searcher"]["foundBy"]) == ["id", "avatar", "nickname", "registerAt", "lastSeenAt"]
    assert rows["searcher"]["foundBy"]["nickname"] == "searcher"


def test_an_order_tells_a_stranger_nothing_about_applications(
    shared: RunningServer, tokens: dict[str, str], peer_id: str
) -> None:
    body = {"peerId": peer_id, "sortBy": "appId", "pageSize": 1}
    for order in ("ASC", "DESC"):
        page = found(ask(shared, "snapshot/query", body | {"sortOrder": order}, tokens["stranger"]))
        owner = found(ask(shared, "snapshot/query", body, tokens["searcher"]))["results"][0]["appId"]
        assert owner not in page["next"]
        assert owner.encode() not in base64.urlsafe_b64decode(page["next"] + "==")


# --- What comes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
def test_rows_have_the_published_fields_in_their_order(
    shared: RunningServer, tokens: dict[str, str], peer_id: str, table: str
) -> None:
    page = found(ask(shared, f"{table}/query", {"peerId": peer_id}, tokens["admin"]))
    assert all(list(row) == KEYS[table] for row in page["results"])
    assert (
        page["total"]
        == len(page["results"])
        == {"snapshot": 3, "banhistory": 2, "swarm": 1, "clientdiscovery": 2}[table]
    )
    assert (page["page"], page["size"], page["totalExact"], page["next"]) == (0, 100, True, None)


def test_values_have_the_published_types(shared: RunningServer, tokens: dict[str, str], peer_id: str) -> None:
    bans = found(ask(shared, "banhistory/query", {"peerId": peer_id}, tokens["admin"]))["results"]
    ban = bans[-1]
    assert ban["peerIp"] == "2001:db8::1"
    assert ban["torrent"] == {
        "id": ban["torrent"]["id"],
        "identifier": IDENTIFIER,
        "size": 592536756,
        "privateTorrent": None,
    }
    assert str(uuid.UUID(ban["submitId"])) == ban["submitId"]
    assert (ban["btnBan"], ban["structuredData"], ban["peerProgress"]) == (False, "null", 0.011)
    assert (bans[0]["structuredData"], bans[0]["banAt"], bans[0]["populateTime"]) == ('{"a": [1]}', 5, None)
    swarm = found(ask(shared, "swarm/query", {"peerId": peer_id}, tokens["admin"]))["results"][0]
    assert (swarm["toPeerTraffic"], swarm["populateTime"], swarm["origin"]) == (2, 8, "SWARM")


def test_a_client_identity_has_the_published_hash(shared: RunningServer, tokens: dict[str, str], app: App) -> None:
    peer = {"ip_address": "203.0.113.9", "torrent_identifier": IDENTIFIER, "peer_id": "-PI0250-"}
    shared.post({"peers": [peer | {"client_name": "PicoTorrent/0.25.0"}]}, app)
    rows = found(ask(shared, "clientdiscovery/query", {"peerId": "-PI0250-"}, tokens["admin"]))["results"]
    assert [row["hash"] for row in rows if row["clientName"] == "PicoTorrent/0.25.0"] == [4426014693617597602]


@pytest.mark.parametrize("table", TABLES)
def test_the_latest_rows_come_page_by_page_and_by_cursor(
    shared: RunningServer, tokens: dict[str, str], peer_id: str, table: str
) -> None:
    first = found(ask(shared, f"{table}?page=0&pageSize=1", token=tokens["admin"]))
    assert (first["page"], first["size"], len(first["results"])) == (0, 1, 1)
    if table != "swarm":
        second = found(ask(shared, f"{table}?page=1&pageSize=1", token=tokens["admin"]))["results"]
        after = found(ask(shared, f"{table}?pageSize=1&after={first['next']}", token=tokens["admin"]))
        assert second == after["results"] != first["results"]
        back = found(ask(shared, f"{table}?pageSize=1&before={after['previous']}", token=tokens["admin"]))
        assert (back["results"], back["previous"]) == (first["results"], None)
    beyond = found(ask(shared, f"{table}?page=1000000&pageSize=1", token=tokens["admin"])) if table != "swarm" else None
    assert beyond is None or (beyond["results"], beyond["next"]) == ([], None)


# --- What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("page=-1", "page"),
        ("page=x", "page"),
        ("page=1.5", "page"),
        ("pageSize=0", "pageSize"),
        ("pageSize=3001", "请求的分页数量参数超过最大允许值"),
        ("page=99999999999999999999999", "page"),
        ("pagesize=5", "pagesize"),
        ("peerId=x", "peerId"),
        ("after=x", "after"),
        ("page=1&after=x", "after"),
        ("before=x", "before"),
        ("page=1&before=x", "before"),
        ("after=x&before=x", "before"),
    ],
)
@pytest.mark.parametrize("table", TABLES)
def test_a_list_refuses_bad_parameters(
    shared: RunningServer, tokens: dict[str, str], table: str, query: str, name: str
) -> None:
    assert name in refusal(ask(shared, f"{table}?{query}", token=tokens["stranger"]))


BAD_BODIES: list[tuple[Any, str]] = [
    (b"", "body"),
    (b"{", "不可读的 HTTP 消息"),
    (b"[]", "body"),
    (b"null", "body"),
    ({"page": -1}, "page"),
    ({"page": "0"}, "page"),
    ({"pageSize": 0}, "pageSize"),
    ({"pageSize": 3001}, "请求的分页数量参数超过最大允许值"),
    ({"page": 1 << 62}, "page"),
    ({"peerid": "x"}, "peerid"),
    ({"peerId": 5}, "peerId"),
    ({"peerId": "x" * 1025}, "peerId"),
    ({"peerId": "x", "peerIdCompareMethod": "equals"}, "peerIdCompareMethod"),
    ({"sortBy": "userApplication.appSecret"}, "sortBy"),
    ({"sortBy": "id; DROP TABLE ban"}, "sortBy"),
    ({"sortBy": [1]}, "sortBy"),
    ({"sortOrder": "desc"}, "sortOrder"),
    ({"orConnector": 1}, "orConnector"),
    ({"after": "e30"}, "after"),
    ({"after": "WyJiYW4iLFtdLHRydWUsWyJcdWQ4MDAiXSw1LDUsdHJ1ZV0"}, "after"),
    ({"after": "迅雷"}, "after"),
    ({"page": 1, "after": "e30"}, "after"),
    ({"page": 100, "pageSize": 100, "sortBy": "peerId"}, "after"),
]
BAD_OBSERVED: list[tuple[Any, str]] = [
    ({"timeFrom": 2, "timeTo": 1}, "timeFrom"),
    ({"timeFrom": "yesterday"}, "timeFrom"),
    ({"timeFrom": 1 << 63}, "timeFrom"),
    ({"peerIp": "nonsense"}, "peerIp"),
    ({"peerIp": "203.0.113.0/33", "peerIpCompareMethod": "NOT_EQUALS"}, "peerIp"),
    ({"peerPort": 1 << 63}, "peerPort"),
    ({"peerPort": 80, "peerPortCompareMethod": "EQUALS"}, "peerPortCompareMethod"),
    ({"peerProgress": "1"}, "peerProgress"),
    (b'{"peerProgress": NaN}', "JSON"),
    (b'{"peerProgress": 1e999}', "range"),
    (b'{"peerId": "\\ud800"}', "不可读的 HTTP 消息"),
]
BAD_OF_ONE: list[tuple[str, Any, str]] = [
    ("snapshot", {"module": "x"}, "module"),
    ("snapshot", {"sortBy": "module"}, "sortBy"),
    ("banhistory", {"btnBan": "false"}, "btnBan"),
    ("swarm", {"origin": "x"}, "origin"),
    ("swarm", {"page": 100, "pageSize": 100}, "after"),
    ("clientdiscovery", {"timeFrom": 1}, "timeFrom"),
    ("clientdiscovery", {"foundAtTimeFrom": 2, "foundAtTimeTo": 1}, "foundAtTimeFrom"),
    ("clientdiscovery", {"lastSeenAtTimeFrom": 2, "lastSeenAtTimeTo": 1}, "lastSeenAtTimeFrom"),
]
BAD = [
    *((table, body, name) for table in TABLES for body, name in BAD_BODIES),
    *((table, body, name) for table in TABLES[:3] for body, name in BAD_OBSERVED),
    *BAD_OF_ONE,
]


@pytest.mark.parametrize(("table", "body", "name"), BAD)
def test_a_query_refuses_what_is_not_valid_and_names_it(
    shared: RunningServer, tokens: dict[str, str], table: str, body: Any, name: str
) -> None:
    for path in ("query", "export?format=jsonl"):
        message = refusal(ask(shared, f"{table}/{path}", body, tokens["stranger"]))
        assert name in message
        assert "Traceback" not in message


def test_a_cursor_belongs_to_its_order(shared: RunningServer, tokens: dict[str, str], peer_id: str) -> None:
    token = tokens["admin"]
    after = found(ask(shared, "snapshot/query", {"peerId": peer_id, "pageSize": 1}, token))["next"]
    for body in ({"sortBy": "peerIp"}, {"sortOrder": "ASC"}):
        assert "after" in refusal(ask(shared, "snapshot/query", body | {"after": after}, token))
    assert "after" in refusal(ask(shared, "banhistory/query", {"after": after}, token))


def test_a_parameter_beside_a_body_is_refused(shared: RunningServer, tokens: dict[str, str]) -> None:
    assert "page" in refusal(ask(shared, "snapshot/query?page=1", {}, tokens["admin"]))
    assert "format" in refusal(ask(shared, "snapshot/export", {}, tokens["admin"]))
    assert "format" in refusal(ask(shared, "snapshot/export?format=xml", {}, tokens["admin"]))


def test_a_body_that_is_too_large_is_413(shared: RunningServer, tokens: dict[str, str]) -> None:
    refusal(ask(shared, "snapshot/query", {"peerId": "x" * 70_000}, tokens["admin"]), 413)


def test_a_query_that_takes_too_long_says_so(start: Any) -> None:
    server = start('[limits]\nquery_time = "1ms"\n')
    peers = [
        {"ip_address": f"203.0.{n >> 8}.{n & 255}", "torrent_identifier": IDENTIFIER, "peer_id": str(n)}
        for n in range(20_000)
    ]
    assert server.post({"peers": peers}).status == 200
    token = server.token()
    assert "timeFrom" in refusal(ask(server, "snapshot/query", {"sortBy": "peerClientName"}, token))


# --- Files ------------------------------------------------------------------------------------------------------------


def test_an_export_as_json_lines_has_every_row_once(
    shared: RunningServer, tokens: dict[str, str], peer_id: str
) -> None:
    body = {"peerId": peer_id, "pageSize": 1}
    answer = ask(shared, "snapshot/export?format=jsonl", body, tokens["admin"])
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    rows = [json.loads(line) for line in answer.body.splitlines()]
    assert rows == found(ask(shared, "snapshot/query", {"peerId": peer_id}, tokens["admin"]))["results"]
    assert len(rows) == 3


@pytest.mark.parametrize("table", TABLES)
def test_an_export_as_csv_is_safe_in_a_spreadsheet(
    shared: RunningServer, tokens: dict[str, str], peer_id: str, table: str
) -> None:
    answer = ask(shared, f"{table}/export?format=csv", {"peerId": peer_id}, tokens["searcher"])
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert f'filename="{table}.csv"' in answer.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.body.decode(), newline="")))
    assert rows
    assert all(row["peerId"] == f"'{peer_id}" for row in rows)
    if table == "snapshot":
        assert list(rows[0])[:8] == [*PEER_KEYS[:7], "torrent.id"]
        assert rows[0]["peerClientName"] == '\'=cmd|"calc"!A1'
        assert (rows[0]["toPeerTraffic"], rows[0]["fromPeerTraffic"]) == ("65568", "-1")
    if table == "clientdiscovery":
        assert rows[0]["foundBy.nickname"] == "searcher"


class Cell(msgspec.Struct):
    text: str


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("x;=1+1", "x;'=1+1"),
        ("x; \t@SUM(1)", "x;' \t'@SUM(1)"),
        ('";=1+1', "\";'=1+1"),
        ("x\t=1", "x\t'=1"),
        ("x\n-1", "x\n'-1"),
        ("=1;+1", "'=1;'+1"),
        ("x;y=1;z", "x;y=1;z"),
        ("a-b", "a-b"),
    ],
)
def test_a_cell_is_safe_whatever_a_spreadsheet_separates_by(cell: str, written: str) -> None:
    row = Cell(cell)
    assert csv_cells(row, [("text",)]) == [written]


def test_an_export_of_nothing_is_a_header_or_nothing(shared: RunningServer, tokens: dict[str, str]) -> None:
    body = {"peerId": "no such peer id"}
    assert ask(shared, "swarm/export?format=jsonl", body, tokens["admin"]).body == b""
    assert ask(shared, "swarm/export?format=csv", body, tokens["admin"]).body.count(b"\r\n") == 1


# --- What is said about it --------------------------------------------------------------------------------------------


def test_every_operation_is_documented_with_an_example(shared: RunningServer) -> None:
    paths = json.loads(shared.request("GET", "/openapi.json").body)["paths"]
    for table in TABLES:
        for path, method in ((table, "get"), (f"{table}/query", "post"), (f"{table}/export", "post")):
            operation = paths[f"/api/{path}"][method]
            assert operation["summary"]
            assert set(operation["responses"]) >= {"200", "400", "403", "503"}
            if method == "post":
                assert operation["requestBody"]["content"]["application/json"]["schema"]
