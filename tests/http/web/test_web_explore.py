"""The explorer, the why pages and the rules: over plain HTTP, and in Chromium where there is one."""

import csv
import html
import io
import itertools
import json
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlencode, urlsplit

import client_parsers as clients
import pytest
from browser import DESKTOP, PHONE, launch, visiting
from server import Answer, App, RunningServer, opened, start_server

from sparkle_lite import config
from sparkle_lite.analyses.registry import ANALYSES, SCHEMA
from sparkle_lite.http.web import filters
from sparkle_lite.texts import catalogue

CONFIG = """
[[rules]]
type = "ip"
category = "PCDN"
content = ["60.220.182.0/24"]

[[exceptions]]
type = "ip"
category = "friends"
content = ["60.220.182.9"]
"""
IMPL = "com.ghostchu.peerbanhelper.module.impl.rule."
HOSTILE = [
    ("<b>x</b>", '<script>alert(1)</script>"><img src=x onerror=alert(1)>'),
    ("-UT3550-", "µTorrent </td></table> & 'quotes' {{ 7*7 }}"),
    ("..", ".."),
    ("-/..//-", "/../a//b?c#d%2F"),
    ("=1+1", "=cmd|' /C calc'!A0"),
]
TORRENT = f"{0xABCD:064x}"
DAY = 86_400_000
LANGUAGES = ("en", "zh")
_sources = itertools.count(2)


class Visitor(NamedTuple):
    """A browser without scripts: its session, its language, and the address that it comes from."""

    server: RunningServer
    token: str = ""
    language: str = "en"
    source: str = ""

    def get(self, path: str, expect: int = 200) -> Answer:
        answer = self._send("GET", path, None, {})
        assert answer.status == expect, (path, answer.status, answer.body[:3000])
        return answer

    def page(self, path: str, expect: int = 200) -> str:
        """A page after all redirects."""
        answer = self._send("GET", path, None, {})
        while answer.status == 303:
            path = answer.headers["location"]
            answer = self._send("GET", path, None, {})
        assert answer.status == expect, (path, answer.status, answer.body[:3000])
        return answer.body.decode()

    def post(self, path: str, expect: int = 303, *, site: str = "", **fields: str) -> Answer:
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Origin": site or self.server.url,
            "Host": self.server.url.removeprefix("http://"),
        }
        answer = self._send("POST", path, urlencode(fields).encode(), headers)
        assert answer.status == expect, (path, answer.status, answer.body[:3000])
        return answer

    def _send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        cookies = [f"lang={self.language}"] + ([f"X-BTN-Token={self.token}"] if self.token else [])
        sent = {"Accept": "text/html", "Cookie": "; ".join(cookies), **headers}
        return self.server.request(method, path, body, sent, App("", "", self.source))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with a few reports of everything, some of them hostile."""
    with start_server(tmp_path_factory.mktemp("pages"), CONFIG) as running:
        _feed(running)
        yield running


@pytest.fixture(scope="module")
def admin(server: RunningServer) -> Visitor:
    return Visitor(server, server.token())


@pytest.fixture(scope="module")
def member(server: RunningServer) -> Visitor:
    return Visitor(server, server.token("reporter"))


@pytest.fixture
def stranger(server: RunningServer) -> Visitor:
    """Somebody without an account, from an address of their own."""
    return Visitor(server, source=f"127.2.0.{next(_sources)}")


def _feed(server: RunningServer) -> None:
    server.run("user", "add", "reporter")
    made = json.loads(server.run("app", "add", "--user", "reporter", "--json"))
    app = App(made["app_id"], made["app_secret"], "127.2.1.1")
    names = [("-qB4650-", "qBittorrent/4.6.5"), *HOSTILE]
    peers = [_peer(f"198.51.100.{n}", names[n % len(names)], n) for n in range(60)]
    bans = [
        _peer(f"203.0.113.{n}", names[n % len(names)], n)
        | {
            "module": f"{IMPL}<i>Module</i>",
            "rule": "<u>rule</u>",
            "description": "<s>3% after 4 GiB</s>",
            "structured_data": {"<em>": "</dl>"},
            "ban_unique_id": f"ban-{n}",
            "btn_ban": False,
        }
        for n in range(60)
    ]
    swarms = [
        _peer("203.0.113.7", names[n % len(names)], n)
        | {"downloader": "<q>home</q>", "to_peer_traffic": 10**9, "first_time_seen": 1, "last_time_seen": 2}
        for n in range(12)
    ]
    for path, body in (
        ("/ping/peers/submit", {"populate_time": 1, "peers": peers}),
        ("/ping/syncBanHistory", {"populate_time": 2, "bans": bans}),
        ("/ping/syncSwarm", {"populate_time": 3, "swarms": swarms}),
    ):
        assert server.post(body, app, path).status == 200


def _peer(address: str, name: tuple[str, str], number: int) -> dict[str, Any]:
    return {
        "ip_address": address,
        "peer_ip": address,
        "peer_port": 1000 + number,
        "peer_id": name[0],
        "client_name": name[1],
        "peer_client_name": name[1],
        "torrent_identifier": TORRENT if number % 2 else f"<a>{number}</a>",
        "torrent_size": 4 << 30,
        "torrent_is_private": False,
        "uploaded": number << 20,
        "downloaded": 0,
        "peer_progress": 0.5,
        "downloader_progress": 1.0,
        "peer_flag": "<h1>",
    }


def _decide(server: RunningServer, target: str, state: str = "active", origin: str = "untrusted_vote") -> int:
    """A decision as an analysis leaves it."""
    now = time.time_ns() // 1_000_000
    evidence = {"people": 4, "formula": 1, "first_seen": now - DAY, "last_seen": now}
    numbers = {"people": 4, "torrents": 3, "days": 2, "window_days": 14}
    row = ("ip", bytes(map(int, target.split("."))), 32, "deny", state, origin, origin, "progress_cheater")
    more = (json.dumps(numbers), json.dumps(evidence), "growth" if state == "held" else None, now, now + 7 * DAY)
    with closing(sqlite3.connect(server.database, timeout=10)) as connection, connection:
        cursor = connection.execute(
            "INSERT INTO decision (kind, address, prefix, action, state, origin, category, code, numbers, evidence,"
            " held_for, created_at, expires_at) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
            row + more,
        )
        connection.execute("UPDATE decision_revision SET number=number+1")
    return int(cursor.lastrowid or 0)


def _revision(server: RunningServer) -> int:
    with opened(server.database) as connection:
        return int(connection.execute("SELECT number FROM decision_revision").fetchone()[0])


def _allowed(server: RunningServer) -> list[str]:
    return [str(network) for network, _ in clients.address_list(server.get("/ping/ruleIpAllowlist").body)]


def _denied(server: RunningServer) -> list[str]:
    return [str(network) for network, _ in clients.address_list(server.get("/ping/ruleIpDenylist").body)]


def _links(page: str, beginning: str) -> list[str]:
    return [html.unescape(url) for url in re.findall(rf'href="({beginning}[^"]*)"', page)]


def _text(page: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", " ", page))


# --- The explorer -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", filters.VIEWS)
def test_every_filter_of_the_api_is_in_the_form_with_a_label(member: Visitor, name: str, language: str) -> None:
    page = member._replace(language=language).page(f"/explore/{name}")
    for field in filters.fields(filters.VIEWS[name]):
        assert f'<label for="f-{field.name}">' in page
        assert f'name="{field.name}"' in page
        assert ('name="' + field.name + 'CompareMethod"' in page) is bool(field.methods)
    assert catalogue(language)[f"explore.about.{name}"] in html.unescape(page)


def test_what_people_write_becomes_a_url_that_holds_just_what_is_set(member: Visitor) -> None:
    asked = {
        "peerIp": " 203.0.113.0/24 ",
        "peerIpCompareMethod": "EQUALS",
        "peerClientName": "",
        "peerClientNameCompareMethod": "CONTAINS",
        "torrentSize": "2GiB",
        "torrentSizeCompareMethod": "GREATER_THAN",
        "peerProgress": "50%",
        "peerProgressCompareMethod": "EQUAL",
        "timeTo": "2099-12-31",
        "sortBy": "peerPort",
        "sortOrder": "DESC",
        "pageSize": "100",
    }
    url = member.get(f"/explore/bans?{urlencode(asked)}", 303).headers["location"]
    assert parse_qs(urlsplit(url).query) == {
        "peerIp": ["203.0.113.0/24"],
        "torrentSize": [str(2 << 30)],
        "torrentSizeCompareMethod": ["GREATER_THAN"],
        "peerProgress": ["0.5"],
        "timeTo": ["4102444799999"],
        "sortBy": ["peerPort"],
    }
    page = member.get(url).body.decode()
    assert 'value="203.0.113.0/24"' in page
    assert 'value="2GiB"' in page
    assert 'value="2099-12-31T23:59:59"' in page
    assert _text(page).count("port 10") == 60
    assert member.get("/explore/bans?peerIp=&peerPort=", 303).headers["location"] == "/explore/bans"


def test_a_form_sent_again_as_it_is_shown_asks_the_same(member: Visitor) -> None:
    url = "/explore/bans?timeTo=4102444799999&torrentSize=2147483648&torrentSizeCompareMethod=GREATER_THAN&btnBan=false"
    page = member.get(url).body.decode()
    shown = {
        name: html.unescape(value)
        for name, value in re.findall(r'<input id="[^"]*" name="(\w+)"[^>]* value="([^"]*)"', page)
    }
    for name, options in re.findall(r'<select[^>]* name="(\w+)"[^>]*>(.*?)</select>', page, re.DOTALL):
        chosen = re.search(r'<option value="([^"]*)" selected', options) or re.search(
            r'<option value="([^"]*)"', options
        )
        shown[name] = chosen[1] if chosen else ""
    again = member.get(f"/explore/bans?{urlencode(shown)}", 303).headers["location"]
    assert parse_qs(urlsplit(again).query) == parse_qs(urlsplit(url).query)


def test_filters_find_what_the_api_finds(server: RunningServer, member: Visitor) -> None:
    asked = {"peerIp": "198.51.100.1", "peerIpCompareMethod": "STARTS_WITH", "orConnector": "true", "peerPort": "1003"}
    body = json.dumps({**asked, "orConnector": True, "peerPort": 1003}).encode()
    headers = {"X-BTN-Token": member.token, "Content-Type": "application/json"}
    found = server.request("POST", "/api/snapshot/query", body, headers).json()["data"]["results"]
    page = member.page(f"/explore/snapshots?{urlencode(asked)}")
    assert [url.rpartition("/")[2] for url in _links(page, "/ip/")] == [row["peerIp"] for row in found]
    assert len(found) > 10


def test_pages_follow_each_other_until_everything_was_seen_once(member: Visitor) -> None:
    url, seen = "/explore/bans?pageSize=25&sortBy=peerPort", []
    while url:
        page = member.get(url).body.decode()
        assert "Found: 60" in page
        seen += re.findall(r"port (\d+)", _text(page))
        url = next(iter(re.findall(r'rel="next" href="([^"]*)"', page)), "")
        url = html.unescape(url)
    assert seen == [str(1059 - n) for n in range(60)]
    earlier: list[str] = []
    while links := re.findall(r'rel="prev" href="([^"]*)"', page):
        back = html.unescape(links[0])
        page = member.get(back).body.decode()
        earlier = re.findall(r"port (\d+)", _text(page)) + earlier
    assert earlier == seen[:50]
    assert set(parse_qs(urlsplit(back).query)) == {"pageSize", "sortBy", "before"}


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("peerPort=abc", "peerPort"),
        ("nonsense=1", "nonsense"),
        ("peerIp=1.2.3.4/24", "host bits"),
        ("after=x", "after"),
    ],
)
def test_a_query_that_is_refused_says_why_and_keeps_the_form(member: Visitor, query: str, named: str) -> None:
    page = member.page(f"/explore/bans?{query}", 400)
    notice = re.search(r'role="alert">([^<]*)<', page)
    assert notice
    assert named in html.unescape(notice[1])
    assert '<label for="f-peerIp">' in page
    member._replace(language="zh").page(f"/explore/bans?{query}", 400)


def test_sorting_by_a_column_and_back(member: Visitor) -> None:
    page = member.page("/explore/snapshots")
    [by_port] = [url for url in _links(page, "/explore/snapshots") if "sortBy=toPeerTraffic" in url]
    page = member.page(by_port)
    assert re.search(r'aria-sort="descending"><a href="[^"]*sortOrder=ASC', page)
    assert member.page("/explore/swarms?sortBy=firstTimeSeen&sortOrder=ASC").count('aria-sort="ascending"') == 1


def test_a_table_as_a_file_holds_the_rows_of_the_filter(member: Visitor) -> None:
    answer = member.get("/explore/bans/csv?peerPort=1010&peerPortCompareMethod=LESS_THAN&pageSize=5")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="bans.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.body.decode("utf-8-sig"))))
    assert sorted(row["peerPort"] for row in rows) == [str(1000 + n) for n in range(10)]
    assert {row["peerClientName"] for row in rows} >= {"'=cmd|' /C calc'!A0"}
    member.get("/explore/bans/csv?peerPort=abc", 400)
    for name in filters.VIEWS:
        assert len(member.get(f"/explore/{name}/csv").body.splitlines()) > 2


def test_torrents_are_found_by_identifier_size_and_info_hash(member: Visitor) -> None:
    page = member.page(f"/explore/torrents?identifier={TORRENT[-4:]}&identifierCompareMethod=CONTAINS&sizeFrom=4GiB")
    assert f"/torrent/{TORRENT}" in page
    for method, part, is_found in (
        ("CONTAINS", TORRENT[-5:-1], True),
        ("CONTAINS", TORRENT[-5:-1].upper(), False),
        ("STARTS_WITH", TORRENT[:62], True),
        ("STARTS_WITH", TORRENT[-4:], False),
    ):
        page = member.page(f"/explore/torrents?identifier={part}&identifierCompareMethod={method}")
        assert (f'href="/torrent/{TORRENT}"' in page) == is_found, (method, part)
    assert f"/torrent/{TORRENT}" not in member.page("/explore/torrents?sizeFrom=5GiB")
    assert f"/torrent/{TORRENT}" in member.page("/explore/torrents?privateTorrent=false&pageSize=100")
    url = member.get(f"/torrent?hash={'a' * 40}", 303).headers["location"]
    assert re.fullmatch(r"/torrent/[0-9a-f]{64}", url)
    assert "Found: " in member.page("/explore/torrents?identifier=nothing")
    member.get("/torrent?hash=zz", 400)
    first = member.page("/explore/torrents?pageSize=25")
    second = html.unescape(re.findall(r'rel="next" href="([^"]*)"', first)[0])
    page = member.page(second)
    assert not set(_links(first, "/torrent/")) & set(_links(page, "/torrent/"))
    previous = html.unescape(re.findall(r'rel="prev" href="([^"]*)"', page)[0])
    assert _links(first, "/torrent/") == _links(member.page(previous), "/torrent/")


@pytest.mark.parametrize("language", LANGUAGES)
def test_markup_that_a_client_sent_is_shown_and_never_obeyed(
    server: RunningServer, admin: Visitor, language: str
) -> None:
    reader = admin._replace(language=language)
    paths = [
        *(f"/explore/{name}" for name in filters.VIEWS),
        *("/ip/203.0.113.7", f"/torrent/{TORRENT}", "/torrent/%3Ca%3E2%3C/a%3E"),
        *(f"/client?{urlencode({'name': name, 'peerId': peer_id})}" for peer_id, name in HOSTILE),
        "/rules/deny?" + urlencode({"target": HOSTILE[0][1], "kind": "client_name"}),
        "/explore/bans?" + urlencode({"peerClientName": HOSTILE[0][1]}),
    ]
    for path in paths:
        page = reader.page(path)
        for tag in ("<script>", "<img src=x", "<b>", "<i>", "<u>", "<s>", "<a>", "<em>", "<q>"):
            assert tag not in page, (path, tag)
        assert re.findall(r"<script\b[^>]*>", page) == re.findall(r'<script src="/static/[\w./-]+" defer>', page)
        assert " style=" not in page
    assert "&lt;script&gt;alert(1)" in reader.page("/explore/clients")


def test_every_client_and_torrent_has_a_page_whatever_it_calls_itself(member: Visitor) -> None:
    for url in set(_links(member.page("/explore/clients"), "/client")):
        title = re.search(r"<h1><bdi>(.*?)</bdi>", member.page(url))
        assert title
        assert html.unescape(title[1]) in {"qBittorrent/4.6.5", *(name for _, name in HOSTILE)}
    for url in sorted(set(_links(member.page("/explore/torrents?pageSize=100"), "/torrent")))[:5]:
        assert "port 1" in _text(member.page(url)), url


def test_a_client_is_found_by_its_public_number(server: RunningServer, member: Visitor) -> None:
    answer = server.request("GET", "/api/clientdiscovery", headers={"X-BTN-Token": member.token})
    row = next(one for one in answer.json()["data"]["results"] if one["clientName"] == "qBittorrent/4.6.5")
    assert "qBittorrent/4.6.5" in member.page(f"/client/{row['hash']}")


def test_nobody_explores_without_signing_in(stranger: Visitor) -> None:
    for path in ("/explore", "/explore/bans?peerPort=1", "/explore/bans/csv", "/client/x", "/torrent/x", "/rules"):
        assert stranger.get(path, 303).headers["location"].startswith("/login?next=")
    for path in ("/rules/deny", "/rules/1/approve", "/rules/held/refuse", "/rules/reviews/1/close"):
        assert stranger.post(path).headers["location"].startswith("/login")


# --- Why --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
def test_anyone_is_told_the_verdict_and_nothing_about_members(
    server: RunningServer, admin: Visitor, stranger: Visitor, language: str
) -> None:
    address = {"en": "203.0.113.21", "zh": "203.0.113.22"}[language]
    _decide(server, address)
    page = stranger._replace(language=language).page(f"/ip/{address}")
    assert catalogue(language)["why.listed"] in page
    told = {"en": "4 people saw it cheat", "zh": "4 人发现其谎报下载进度"}[language]
    assert told in page
    assert page.count("<time ") == 2
    for secret in (
        "reporter",
        "qBittorrent",
        "Module",
        "/explore/",
        "/torrent",
        "/client",
        "untrusted_vote",
        "people=4",
    ):
        assert secret not in page
    free = stranger._replace(language=language).page("/ip/198.51.100.3")
    assert catalogue(language)["why.not_listed"] in free


def test_a_note_and_an_exception_are_for_members_eyes(admin: Visitor, member: Visitor, stranger: Visitor) -> None:
    admin.post("/rules/deny", target="21.9.9.9", reason="seen at Anna's", expires="7d")
    assert "This address is listed." in stranger.page("/ip/21.9.9.9")
    assert "Anna" not in stranger.page("/ip/21.9.9.9")
    assert "Anna" in _text(member.page("/ip/21.9.9.9"))
    free = stranger.page("/ip/60.220.182.9")
    assert "This address is not listed." in free
    assert "allow list" not in free
    assert "It is on the allow list" in member.page("/ip/60.220.182.9")
    assert "As part of 60.220.182.0/24" in stranger.page("/ip/60.220.182.8")


def test_a_stranger_looks_up_only_so_often(stranger: Visitor, member: Visitor) -> None:
    answers = [stranger._send("GET", f"/ip/198.51.100.{n}", None, {}) for n in range(40)]
    assert {answer.status for answer in answers} == {200, 429}
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert member._replace(source=stranger.source).get("/ip/198.51.100.1").status == 200


def test_an_address_is_looked_up_however_it_is_written(stranger: Visitor) -> None:
    for text, canonical in (("::ffff:203.0.113.7", "203.0.113.7"), ("2001:DB8:0:0::7", "2001:db8::7")):
        assert stranger.get(f"/ip?address={text}", 303).headers["location"] == f"/ip/{canonical}"
        assert stranger.get(f"/ip/{text}", 303).headers["location"] == f"/ip/{canonical}"
    url = stranger.get("/ip/203.0.113.0/24", 303).headers["location"]
    assert url == "/explore/bans?peerIp=203.0.113.0%2F24"
    assert "is not an IP address" in html.unescape(stranger.page("/ip/%3Cscript%3E", 400))
    assert "不是 IP 地址" in html.unescape(stranger._replace(language="zh").page("/ip/%3Cscript%3E", 400))
    assert 'name="address"' in stranger.page("/ip")


def test_members_see_the_evidence_and_the_reports(member: Visitor) -> None:
    page = member.page("/ip/203.0.113.7")
    assert "Reports of the last 14 days" in page
    assert re.search(r'<rect class="bans"[^>]*height="[1-9]', page)
    assert "<i>Module</i>" in html.unescape(page)
    assert page.count("<section") >= 6
    assert 'action="/rules/' not in page


def test_distances_are_shown_without_a_script_and_as_a_part_of_the_page(member: Visitor, stranger: Visitor) -> None:
    whole = member.page("/ip/203.0.113.7?distances=1")
    assert "How far from being listed" in whole
    part = member._send("GET", "/ip/203.0.113.7?distances=1", None, {"HX-Request": "true"}).body.decode()
    assert "<html" not in part
    assert catalogue("en")["why.no_distance"] in part
    assert " ".join(part.split()) in " ".join(whole.split())
    assert "How far from being listed" not in stranger.page("/ip/203.0.113.7?distances=1")


def test_in_a_browser_distances_that_take_long_come_later(tmp_path: Path, chromium: Any) -> None:
    slow = """
import time
from sparkle_lite.db.evidence.workspace import Evidence
class Slow(Evidence):
    def __init__(self, *arguments):
        time.sleep(0.4)
        super().__init__(*arguments)
import sparkle_lite.db.evidence.workspace
sparkle_lite.db.evidence.workspace.Evidence = Slow"""
    text = catalogue("en")
    with start_server(tmp_path / "slow", CONFIG, prelude=slow) as running:
        _feed(running)
        token = running.token()
        page = Visitor(running, token).page("/ip/203.0.113.8")
        assert text["why.distance_wait"] in page
        assert 'href="/ip/203.0.113.8?distances=1"' in page
        with visiting(chromium, running, token) as visit:
            visit.go("/ip/203.0.113.7")
            visit.page.wait_for_selector(f"text={text['why.no_distance']}")
            assert text["why.distance_wait"] not in visit.page.content()


def test_a_listed_address_is_found_understood_and_pardoned(server: RunningServer, admin: Visitor) -> None:
    number = _decide(server, "203.0.113.40")
    page = admin.page("/ip?address=203.0.113.40")
    assert "This address is listed." in page
    assert "reported by 4" in page
    answer = admin.post(
        "/rules/pardon", target="203.0.113.40", reason="it was a slip", expires="7d", back="/ip/203.0.113.40"
    )
    page = admin.page(answer.headers["location"])
    assert "This address is not listed." in page
    assert "Pardoned." in page
    assert "it was a slip" in page
    assert "203.0.113.40/32" in _allowed(server)
    assert "203.0.113.40/32" not in _denied(server)
    admin.post(f"/rules/{number}/withdraw", 409)


def test_a_change_takes_an_administrator_on_our_own_page(admin: Visitor, member: Visitor) -> None:
    for path in ("/rules/pardon", "/rules/allow", "/rules/deny"):
        admin.post(path, 403, site="https://evil.example", target="21.8.8.8")
        member.post(path, 403, target="21.8.8.8")
    member.get("/rules/reviews", 403)
    member.get("/rules/dry-run", 403)
    assert "Nothing was decided" in admin.page("/ip/21.8.8.8")


def test_a_change_leads_back_to_our_own_pages_only(admin: Visitor) -> None:
    for back in ("https://evil.example/", "//evil.example", "/\\evil.example"):
        answer = admin.post("/rules/allow", target="21.7.7.7", back=back)
        assert answer.headers["location"] == "/?done=rule_allowed"


# --- Reviews ----------------------------------------------------------------------------------------------------------


def test_anyone_asks_for_a_look_and_an_administrator_answers(admin: Visitor, stranger: Visitor) -> None:
    fields = {"address": "203.0.113.30", "message": "It's my <b>seedbox</b>\nreally", "contact": "me@example.org"}
    answer = stranger.post("/reviews", **fields)
    assert "An administrator will look" in stranger.page(answer.headers["location"])
    admin.post("/welcome/done")
    assert re.search(r'href="/rules/reviews">\d+ (person|people) ask', admin.page("/"))
    page = admin.page("/rules/reviews")
    assert "It&#39;s my &lt;b&gt;seedbox&lt;/b&gt;\nreally" in page
    assert "me@example.org" in page
    [number] = re.findall(r"/rules/reviews/(\d+)/close", page.partition("203.0.113.30")[2])[:1]
    admin.post(f"/rules/reviews/{number}/close", note="pardoned it")
    assert "203.0.113.30" not in admin.page("/rules/reviews")
    assert "pardoned it" in admin.page("/rules/reviews?state=closed")
    admin.post(f"/rules/reviews/{number}/close", 404)


def test_asking_is_limited_by_place_and_by_address(server: RunningServer, stranger: Visitor) -> None:
    for n in range(3):
        stranger.post("/reviews", address=f"203.0.113.{50 + n}")
    refused = stranger.post("/reviews", 429, address="203.0.113.55")
    assert int(refused.headers["retry-after"]) >= 1
    for _ in range(7):
        other = stranger._replace(source=f"127.2.0.{next(_sources)}")
        other.post("/reviews", address="203.0.113.59")
    with opened(server.database) as connection:
        found = connection.execute("SELECT count(*) FROM review WHERE address=?", (bytes([203, 0, 113, 59]),))
        assert found.fetchone()[0] == 5


def test_a_request_for_a_look_comes_from_our_own_page(stranger: Visitor) -> None:
    stranger.post("/reviews", 403, site="https://evil.example", address="203.0.113.31")
    stranger.post("/reviews", 400, address="nonsense")
    stranger.post("/reviews", 400, address="203.0.113.0/24")


# --- Rules ------------------------------------------------------------------------------------------------------------


def test_rules_are_listed_by_what_is_asked_for(admin: Visitor, member: Visitor) -> None:
    admin.post("/rules/deny", target="22.5.5.0/24", reason="<b>noisy</b>", expires="forever", back="/rules")
    page = member.page("/rules?ip=22.5.5.5&action=deny&state=&origin=admin")
    assert "22.5.5.0/24" in page
    assert "&lt;b&gt;noisy" in page
    assert "Without an end" in page
    assert "22.5.5.0/24" not in member.page("/rules?origin=config")
    assert "60.220.182.0/24" in member.page("/rules?origin=config")
    assert "No rule matches." in member.page("/rules?ip=22.5.5.5&state=held")
    assert "/withdraw" not in page


def test_what_waits_for_review_is_approved_and_refused(server: RunningServer, admin: Visitor, member: Visitor) -> None:
    one, two, *_ = (_decide(server, f"23.5.5.{n}", "held", "multi_dial") for n in range(4))
    assert "23.5.5.1" in member.page("/rules/held?origin=multi_dial")
    assert "/approve" not in member.page("/rules/held")
    assert "/approve" in admin.page("/rules/held")
    admin.post(f"/rules/{one}/approve", back="/rules/held")
    admin.post(f"/rules/{two}/refuse", back="/rules/held")
    assert "23.5.5.0/32" in _denied(server)
    admin.post("/rules/held/approve", origin="multi_dial", back="/rules/held")
    assert {"23.5.5.2/32", "23.5.5.3/32"} <= set(_denied(server))
    assert "23.5.5.1/32" not in _denied(server)
    assert "23.5.5." not in admin.page("/rules/held")
    changes = _text(member.page("/rules/changes"))
    assert "refused" in changes
    assert "23.5.5.1" in changes


def test_changes_are_paged(admin: Visitor) -> None:
    for n in range(60):
        admin.post("/rules/allow", target=f"24.5.5.{n}")
    first = admin.page("/rules/changes")
    assert "/api/rules/changes?format=atom" in first
    [following] = re.findall(r'rel="next" href="([^"]*)"', first)
    second = admin.page(html.unescape(following))
    assert _links(first, "/ip/24.5.5")[0] == "/ip/24.5.5.59"
    assert "/ip/24.5.5.0" in _links(second, "/ip/24.5.5")
    assert not set(_links(first, "/ip/24.5.5")) & set(_links(second, "/ip/24.5.5"))
    [previous] = re.findall(r'rel="prev" href="([^"]*)"', second)
    assert _links(admin.page(html.unescape(previous)), "/ip/24.5.5") == _links(first, "/ip/24.5.5")
    for path in ("/rules", "/rules/exceptions", "/admin/audit"):
        first = admin.page(path)
        second = admin.page(html.unescape(re.findall(r'rel="next" href="([^"]*)"', first)[0]))
        again = admin.page(html.unescape(re.findall(r'rel="prev" href="([^"]*)"', second)[0]))
        assert re.findall(r'data-ms="(\d+)"', first) == re.findall(r'data-ms="(\d+)"', again), path


def test_exceptions_are_added_and_ended(server: RunningServer, admin: Visitor) -> None:
    admin.post("/rules/allow", target="25.5.5.0/24", reason="ours", expires="90d", back="/rules/exceptions")
    page = admin.page("/rules/exceptions")
    assert "25.5.5.0/24" in _allowed(server)
    after = page.partition("25.5.5.0/24")[2]
    number = re.findall(r"/rules/(\d+)/withdraw", after)[0]
    admin.post(f"/rules/{number}/withdraw", back="/rules/exceptions")
    assert "25.5.5.0/24" not in _allowed(server)


def test_what_cannot_be_listed_is_refused_with_a_sentence(admin: Visitor) -> None:
    for target in ("127.0.0.1", "nonsense", "0.0.0.0/0"):
        assert admin.post("/rules/deny", 400, target=target).body
    admin.post("/rules/deny", 400, target="26.5.5.5", expires="never")
    admin.post("/rules/deny", 400, target="26.5.5.5", kind="script")


def test_the_lines_of_the_analyses_are_a_configuration_that_says_the_same(member: Visitor, tmp_path: Path) -> None:
    page = member.page("/rules/analyses")
    lines = re.search(r'<pre id="analysis-lines"[^>]*>(.*?)</pre>', page, re.DOTALL)
    assert lines
    file = tmp_path / "config.toml"
    file.write_text(html.unescape(lines[1]), "utf-8")
    assert config.load(SCHEMA, file, {}).analysis.preset == "friends"
    assert config.load(SCHEMA, file, {}).analysis.untrusted_vote.min_people == 3


def test_a_dry_run_tells_what_would_come_and_go_and_changes_nothing(server: RunningServer, admin: Visitor) -> None:
    _decide(server, "203.0.113.20")
    admin.post("/rules/allow", target="27.5.5.5")
    before = _revision(server)
    page = admin.page("/rules/dry-run?run=1&name=untrusted_vote&untrusted_vote.min_people=1&preset=solo")
    goes = page.partition('class="side go"')[2]
    assert "/ip/203.0.113.20" in goes
    assert 'class="side come"' in page
    assert "Members&#39; addresses among them" in page
    assert 'value="1"' in page
    assert _revision(server) == before
    assert "203.0.113.20/32" in _denied(server)
    everything = admin._replace(language="zh").page("/rules/dry-run?run=1")
    assert everything.count('class="card dry-run"') == len(ANALYSES)
    assert "whole number" in admin.page("/rules/dry-run?run=1&name=untrusted_vote&untrusted_vote.min_people=x", 400)
    assert "preset" in admin.page("/rules/dry-run?run=1&preset=nobody", 400)
    admin.page("/rules/dry-run?run=1&name=nothing", 400)


def test_the_numbers_of_an_analysis_are_changed_on_its_page_and_set_back(
    server: RunningServer, admin: Visitor, member: Visitor
) -> None:
    path, field = "/rules/analyses/multi_dial", "multi_dial.min_people"
    for name in ("min_people", "min_torrents"):
        assert f'name="multi_dial.{name}" value="{3 if name == "min_people" else 2}"' in admin.page("/rules/analyses")
    form = {field: "4", "multi_dial.min_torrents": "2", "multi_dial.window": "336h", "multi_dial.half_life": "36h"}
    answer = admin.post(path, **form, **{"multi_dial.mode": "shadow"})
    assert answer.headers["location"] == "/rules/analyses?done=numbers_saved#multi_dial"
    page = member.page("/rules/analyses")
    part = page.partition('id="multi_dial"')[2].partition("</section>")[0]
    assert part.count("set here") == 3
    assert "<strong>4</strong> people" in part
    assert "<strong>1d12h</strong>" in part
    assert "<button" not in part
    assert "min_people = 4\n" in html.unescape(page)
    assert json.loads(_details(server)[0]) == {"key": "analysis.multi_dial.half_life", "value": "1d12h"}
    with opened(server.database) as connection:
        stored = dict(connection.execute("SELECT name, value FROM setting WHERE name LIKE 'page:analysis.multi%'"))
    assert stored == {
        "page:analysis.multi_dial.mode": "shadow",
        "page:analysis.multi_dial.min_people": "4",
        "page:analysis.multi_dial.half_life": "1d12h",
    }
    admin.post(f"{path}/back", number=field)
    assert 'name="multi_dial.min_people" value="3"' in admin.page("/rules/analyses")
    admin.post(f"{path}/back", number="")
    assert "set here" not in admin.page("/rules/analyses")
    admin.post("/rules/analyses/voters", account_age="0", active_days="5")
    assert "<strong>5</strong> days" in member.page("/rules/analyses")
    admin.post("/rules/analyses/voters/back", number="")
    admin.post("/rules/analyses/nothing", 404)
    member.post(path, 403, **form)
    member.post("/rules/analyses/run", 403)
    admin.post(path, 403, site="https://evil.example", **form)


def _details(server: RunningServer) -> list[str]:
    with opened(server.database) as connection:
        rows = connection.execute("SELECT details FROM audit WHERE action='SETTING_CHANGE' ORDER BY id DESC")
        return [details for (details,) in rows]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_number_that_cannot_be_comes_back_with_a_sentence_at_its_field(admin: Visitor, language: str) -> None:
    wrong = {"min_people": "many", "min_traffic": "2 apples", "window": "500d", "min_days": "-3", "mode": "loud"}
    form = {f"over_download.{name}": value for name, value in wrong.items()} | {"over_download.share_percent": "60"}
    answer = admin._replace(language=language).post("/rules/analyses/over_download", 400, **form)
    page = html.unescape(answer.body.decode())
    assert {"en": "Write a whole number from 1 to 1,000,000.", "zh": "请填写 1 到 1,000,000 之间的整数。"}[
        language
    ] in page
    assert {"en": "Write a time such as 14d or 12h", "zh": "请填写时长"}[language] in page
    assert {"en": "Write a size such as 2GiB", "zh": "请填写大小"}[language] in page
    for name in ("min_people", "min_traffic", "window", "min_days"):
        assert f'name="over_download.{name}" value="{wrong[name]}"' in page
        assert f'id="n-over_download.{name}-wrong"' in page
    assert 'name="over_download.share_percent" value="60"' in page
    assert 'name="over_download.share_percent" value="50"' in admin.page("/rules/analyses")


def test_numbers_are_tried_before_they_are_saved(admin: Visitor) -> None:
    page = admin.page("/rules/dry-run?run=1&name=multi_dial&multi_dial.min_people=9&multi_dial.mode=shadow")
    kept = dict(re.findall(r'<input type="hidden" name="(multi_dial\.\w+)" value="([^"]*)"', page))
    assert kept == {"multi_dial.min_people": "9", "multi_dial.mode": "shadow"}
    assert 'action="/rules/analyses/multi_dial"' in page
    assert 'action="/rules/analyses/' not in admin.page("/rules/dry-run?run=1&name=multi_dial&preset=solo")
    form = admin.page("/rules/analyses").partition('id="multi_dial"')[2]
    assert '<button formaction="/rules/dry-run" formmethod="get" name="run" value="1">' in form


def test_the_analyses_are_run_now(server: RunningServer, admin: Visitor) -> None:
    admin.post("/rules/analyses/run")
    for _ in range(100):
        if "have not run" not in (page := admin.page("/rules/analyses")):
            break
        time.sleep(0.1)
    assert "The analyses ran last" in page


# --- In a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Chromium without a window."""
    driver, running = launch()
    yield running
    running.close()
    driver.stop()


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_in_a_browser_an_address_is_found_read_and_pardoned(
    server: RunningServer, admin: Visitor, chromium: Any, language: str, size: dict[str, int]
) -> None:
    address = f"29.5.{size['width'] % 255}.{LANGUAGES.index(language)}"
    _decide(server, address)
    text = catalogue(language)
    with visiting(chromium, server, admin.token, viewport=size, locale=language) as visit:
        visit.go("/explore/bans")
        visit.page.fill("#find", address)
        visit.page.press("#find", "Enter")
        visit.page.wait_for_url(f"**/ip/{address}")
        assert visit.page.inner_text(".verdict .answer") == text["why.listed"]
        visit.page.fill("#pardon-reason", "a slip")
        visit.page.click(f"text={text['why.pardon.button']}")
        visit.page.wait_for_url("**done=rule_pardoned")
        assert visit.page.inner_text(".verdict .answer") == text["why.not_listed"]
        assert visit.page.inner_text(".notice.good") == text["done.rule_pardoned"]
    assert f"{address}/32" in _allowed(server)


@pytest.mark.parametrize(("size", "language"), [(PHONE, "en"), (DESKTOP, "zh")], ids=["phone", "desktop"])
def test_every_page_is_sound_and_fits(
    server: RunningServer, admin: Visitor, chromium: Any, size: dict[str, int], language: str
) -> None:
    _decide(server, f"29.6.1.{size['width'] % 255}", "held")
    with visiting(chromium, server, admin.token, viewport=size, locale=language) as visit:
        for path in (
            *(f"/explore/{name}" for name in filters.VIEWS),
            *("/ip/203.0.113.7", f"/torrent/{TORRENT}", "/client?name=..", "/ip", "/explore/bans?sortBy=peerPort"),
            *(f"/rules{tab}" for tab in ("", "/held", "/changes", "/analyses", "/exceptions", "/reviews", "/deny")),
            "/rules/dry-run?run=1",
        ):
            visit.go(path)
            visit.check()
    with visiting(chromium, server, viewport=size, locale=language) as visit:
        visit.go("/ip/203.0.113.7")
        visit.check()


def test_in_a_browser_a_search_ends_in_a_short_url(server: RunningServer, admin: Visitor, chromium: Any) -> None:
    with visiting(chromium, server, admin.token) as visit:
        visit.go("/explore/bans")
        visit.page.fill("#f-peerIp", "203.0.113.0/28")
        visit.page.click("button:has-text('Search')")
        visit.page.wait_for_url("**/explore/bans?peerIp=203.0.113.0%2F28")
        assert visit.page.locator("table.rows tbody tr").count() == 16
        visit.page.click("table.rows summary >> nth=0")
        assert "<s>3% after 4 GiB</s>" in visit.page.inner_text("table.rows details[open]")
