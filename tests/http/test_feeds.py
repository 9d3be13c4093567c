"""The feeds over HTTP: who may read them, what a program gets, and that a key is written nowhere."""

import base64
import gzip
import json
import re
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate, parsedate_to_datetime
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from server import Answer, Headers, RunningServer, head_of, served_paths, start_server, wait_for

from sparkle_lite.http.ready import Ready, choose
from sparkle_lite.rules.feeds import NAMES

RULES = """
[[rules]]
type = "ip"
category = "PCDN"
content = ["60.220.182.0/24", "2001:db8:5::/48"]
"""
FEED = "/feeds/cidr.txt"
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of friends, whose feeds are closed."""
    with start_server(tmp_path_factory.mktemp("feeds"), RULES) as server:
        yield server


@pytest.fixture(scope="module")
def key(server: RunningServer) -> str:
    """A key that the server has noticed."""
    return noticed(server, "shared")


def noticed(server: RunningServer, name: str) -> str:
    key = server.run("feed-key", "add", name).strip()
    wait_for(lambda: read(server, key).status == 200, 2)
    return key


def read(server: RunningServer, key: str, path: str = FEED, **headers: str) -> Answer:
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.request("GET", f"{path}?key={quote(key)}", headers=more)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def sentence(answer: Answer, status: int) -> str:
    """The refusal of a program, which must find nothing in it that could be a list or a page."""
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert "location" not in answer.headers
    [line] = answer.body.decode().splitlines()
    assert not re.match(r"[\d<#]", line)
    return line


# --- What a program gets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_feed_is_kept_by_its_tag_or_its_date_and_comes_compressed_where_that_is_wanted(
    server: RunningServer, key: str, name: str
) -> None:
    path = f"/feeds/{name}"
    plain = read(server, key, path)
    packed = read(server, key, path, Accept_Encoding="br, gzip;q=0.5")
    assert (plain.status, packed.status) == (200, 200)
    assert "60.220.182" in plain.body.decode() or name == "cidr6.txt"
    assert gzip.decompress(packed.body) == plain.body
    assert (packed.headers["content-encoding"], "content-encoding" in plain.headers) == ("gzip", False)
    assert packed.headers["etag"] != plain.headers["etag"]
    for each in (plain, packed):
        assert each.headers["vary"] == "Accept-Encoding"
        assert each.headers["cache-control"] == "private, no-cache"
        assert each.headers["content-type"].startswith(("text/plain", "application/json"))
        assert re.fullmatch(rf'(inline|attachment); filename="{re.escape(name)}"', each.headers["content-disposition"])
    asked = server.request("HEAD", f"{path}?key={key}")
    assert (asked.status, asked.body, asked.headers["etag"]) == (200, b"", plain.headers["etag"])
    assert asked.headers["content-length"] == str(len(plain.body))

    tag, date = plain.headers["etag"], plain.headers["last-modified"]
    before = formatdate(parsedate_to_datetime(date).timestamp() - 1, usegmt=True)
    for status, given_headers in (
        (304, {"If-None-Match": tag}),
        (304, {"If-None-Match": f'"x", W/{tag}'}),
        (304, {"If-Modified-Since": date}),
        (304, {"If-None-Match": tag, "If-Modified-Since": before}),
        (200, {"If-None-Match": '"x"', "If-Modified-Since": date}),
        (200, {"If-None-Match": packed.headers["etag"]}),
        (200, {"If-Modified-Since": before}),
        (200, {"If-Modified-Since": "yesterday"}),
        (200, {"If-Modified-Since": "Fri, 31 Dec 9999 23:59:59 GMT"}),
    ):
        answer = server.request("GET", f"{path}?key={key}", headers=given_headers)
        assert (answer.status, answer.body) == (status, b"" if status == 304 else plain.body), given_headers
        assert (answer.headers["etag"], answer.headers["last-modified"]) == (tag, date)


@given(st.text(max_size=60))
def test_any_text_may_stand_for_a_date(text: str) -> None:
    scope = {"headers": [(b"if-modified-since", text.encode())]}
    document = Ready("text/plain", "1", b"list", modified_ms=1_800_000_000_000)
    assert choose(scope, document, now_ms=1_900_000_000_000).status in (200, 304)


def test_what_changes_is_another_feed_at_once(server: RunningServer, key: str) -> None:
    before = read(server, key)
    server.run("rules", "deny", "203.0.113.81", "--expires", "1h")
    after = wait_for(lambda: (new := read(server, key)).body != before.body and new, 2)
    assert b"203.0.113.81" in after.body
    assert after.headers["etag"] != before.headers["etag"]
    assert read(server, key, If_None_Match=before.headers["etag"]).status == 200


def test_a_credit_is_in_a_feed_and_on_the_page_as_long_as_the_list_is(start: Callable[..., RunningServer]) -> None:
    config = '[feeds]\nopen = true\n[[imports]]\nname = "mine"\nfile = "list.txt"\nenabled = {}\ncredit = "{}"\n'
    server = start(config.format("true", "by <b> me"))
    (server.folder / "list.txt").write_text("198.51.100.9\n")
    server.run("imports", "run", "mine")
    first = wait_for(lambda: (new := server.request("GET", FEED)).body.count(b"by b me\n198.51.100.9/32") and new, 5)
    assert b"by &lt;b&gt; me" in server.request("GET", "/feeds", headers=HTML).body
    server.reload(config.format("true", "by you"))
    then = server.request("GET", FEED)
    assert b"mine: by you\n" in then.body and then.headers["etag"] != first.headers["etag"]
    server.run("rules", "pardon", "198.51.100.9")
    wait_for(lambda: server.request("GET", FEED).body == b"", 5)


# --- Who may read -----------------------------------------------------------------------------------------------------


def test_a_key_credentials_or_a_session_open_a_feed(server: RunningServer, key: str) -> None:
    app, token = server.app, server.token()
    ways: list[Headers] = [
        {"Authorization": basic("anything", key)},
        app.headers,
        {"Authorization": f"Bearer {app.app_id}@{app.secret}"},
        {"Authorization": basic(app.app_id, app.secret)},
        {"Authorization": f"Bearer {token}"},
        {"X-BTN-Token": token},
        {"Cookie": f"X-BTN-Token={token}"},
        # What a proxy asked for itself is not for us.
        {"Cookie": f"X-BTN-Token={token}", "Authorization": basic("proxy", "password")},
    ]
    for headers in ways:
        assert server.request("GET", FEED, headers=headers).status == 200, headers
    assert server.request("GET", f"{FEED}?key={key}", headers={"Authorization": basic("proxy", "x")}).status == 200


def test_whoever_may_not_is_told_so_in_a_sentence_and_led_nowhere(server: RunningServer, key: str) -> None:
    app = server.app
    nothing = server.request("GET", FEED, headers=HTML)
    assert "/feeds" in sentence(nothing, 401)
    assert nothing.headers["www-authenticate"].startswith("Basic ")
    assert sentence(server.request("GET", f"{FEED}?key="), 401)
    for headers in (
        {"Authorization": basic("x", "slf_wrong")},
        {"Authorization": basic(app.app_id, "wrong")},
        {**app.headers, "X-BTN-AppSecret": "wrong"},
        {"X-BTN-Token": "wrong"},
        {"Cookie": "X-BTN-Token=wrong"},
        {"X-BTN-InstallationID": "11111111-2222-3333-4444-555555555555"},
    ):
        assert sentence(server.request("GET", FEED, headers={**HTML, **headers}), 403), headers
    assert "revoked" in sentence(read(server, key[:-1]), 403)
    # A session beside it doesn't help a key that is wrong: the program would go on failing by itself.
    assert sentence(read(server, "slf_wrong", X_BTN_Token=server.token()), 403)
    unreadable: list[Headers] = [{"Authorization": f"Basic {text}"} for text in ("%%%", "YQ", "4pi6")]
    for headers in unreadable:
        assert sentence(server.request("GET", FEED, headers=headers), 401)


def test_what_is_no_feed_is_refused_as_plainly_and_names_those_that_are(server: RunningServer, key: str) -> None:
    for path in ("/feeds/nothing", "/feeds/cidr.txt/more", "/feeds/CIDR.TXT", f"/feeds/{key}", "/feeds/", "/feeds"):
        said = sentence(read(server, key, path, **HTML), 404)
        assert all(name in said for name in NAMES)
        assert key not in said
    for method in ("POST", "PROPFIND"):
        assert sentence(server.request(method, "/feeds/nothing", b"x" * 1000), 404)
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"):
        answer = server.request(method, f"{FEED}?key={key}", b"")
        assert (sentence(answer, 405), answer.headers["allow"]) != ("", "")
        assert answer.headers["allow"] == "GET, HEAD"


def test_everyone_may_read_where_the_configuration_or_the_preset_says_so(start: Callable[..., RunningServer]) -> None:
    tracker = '[analysis]\npreset = "tracker"\n'
    server = start(RULES + tracker)
    assert server.request("GET", FEED).status == 200
    assert read(server, "slf_wrong").status == 200
    assert server.request("GET", "/feeds", headers=HTML).status == 200
    server.reload(f"{RULES}{tracker}[feeds]\nopen = false\n")
    assert server.request("GET", FEED).status == 401
    assert server.request("GET", "/feeds", headers=HTML).status == 303
    server.reload(f"{RULES}[feeds]\nopen = true\n")
    assert server.request("GET", FEED).status == 200
    assert server.get("/feeds/nothing").status == 404


def test_a_command_and_a_ban_are_noticed_by_a_running_server(start: Callable[..., RunningServer]) -> None:
    server = start(RULES, env={"SPARKLE_FEEDS__OPEN": "false"})
    noticed(server, "nas")
    server.run("user", "add", "bob")
    made = server.request(
        "PUT", "/api/feedkeys", json.dumps({"name": "tv"}).encode(), {"X-BTN-Token": server.token("bob")}
    )
    mine = made.json()["data"]["key"]
    assert read(server, mine).status == 200
    server.run("user", "ban", "bob", "--reason", "sold the account")
    banned = wait_for(lambda: (new := read(server, mine)).status == 403 and new, 2)
    assert "sold the account" in sentence(banned, 403)
    server.run("user", "unban", "bob")
    wait_for(lambda: read(server, mine).status == 200, 2)
    server.run("feed-key", "revoke", "tv")
    wait_for(lambda: read(server, mine).status == 403, 2)
    server.restart()
    listed = json.loads(server.run("feed-key", "list", "--json"))
    assert [(key["name"], key["used_at"] is not None) for key in listed] == [("nas", True)]


def test_wrong_keys_are_counted_by_place_and_noted_sparingly(start: Callable[..., RunningServer]) -> None:
    server = start(RULES)
    right = noticed(server, "nas")
    statuses = {read(server, f"slf_{number}").status for number in range(60)}
    assert statuses == {403, 429}
    slowed = wait_for(lambda: (new := read(server, "slf_x")).status == 429 and new, 5)
    assert int(slowed.headers["retry-after"]) >= 1
    assert sentence(slowed, 429)
    assert read(server, right).status == 200
    answer = server.request("GET", "/api/admin/audit?action=FEEDS_READ", headers={"X-BTN-Token": server.token()})
    refused = answer.json()["data"]["results"]
    assert 1 <= len(refused) <= 4
    assert not any(entry["success"] for entry in refused)


# --- A key is for feeds alone, and written nowhere --------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_key_opens_nothing_but_feeds(server: RunningServer, key: str) -> None:
    paths = [re.sub(r"\{[^}]*\}", "1", path) for path in served_paths() if not path.startswith("/feeds")]
    assert len(paths) > 80
    shown: Headers = {
        **dict.fromkeys(("X-BTN-Token", "X-BTN-AppID", "X-BTN-AppSecret", "BTN-AppID", "BTN-AppSecret"), key),
        "Cookie": f"X-BTN-Token={key}",
    }
    ways = ({"Authorization": f"Bearer {key}"}, {"Authorization": basic(key, key)}, shown)
    for path in paths:
        stranger = server.request("GET", path).status
        for headers in ways:
            asked = server.request("GET", f"{path}?key={key}", headers=headers)
            assert asked.status in (stranger, 400, 403, 429), (path, headers)


def test_a_key_is_written_nowhere(start: Callable[..., RunningServer]) -> None:
    server = start(RULES)
    key, token = noticed(server, "nas"), server.token()
    signed_in = {"Cookie": f"X-BTN-Token={token}"}
    for path in (
        f"{FEED}?key={key}",
        f"{FEED}?x=1&key={key}",
        f"{FEED}&key={key}",
        f"{FEED}%3Fkey={key}",
        f"{FEED}/{key}",
        f"/feeds/{key}",
        f"/feeds?key={key}",
        f"/feeds/nothing?key={key}",
        f"/feed/cidr.txt?key={key}",
        f"/{key}/feeds?key={key}",
        f"/rules?key={key}",
        f"/manual/en/{key}?key={key}",
        f"/api/feedkeys/{key}?key={key}",
        f"/ping/config?key={key}",
        f"/ip/1.2.3.4?key={key}",
    ):
        for method in ("GET", "HEAD", "POST", "DELETE", "PROPFIND"):
            for headers in ({}, HTML, {**HTML, **signed_in}, {"Referer": f"http://127.0.0.1{path}", **signed_in}):
                answer = server.request(method, path, headers=headers)
                assert key not in json.dumps(answer.headers), (path, answer)
                # On a page for people, what they asked for may stand again.
                is_shown = key in path.partition("?")[0] and not path.startswith("/feeds")
                assert is_shown or key.encode() not in answer.body, (path, answer)
    server.request("GET", FEED, headers={"Authorization": basic("x", key), "User-Agent": "curl/8"})
    server.send(head_of(f"{FEED}?key={key}\x01", "Host: x", method="GET"))
    server.send(head_of(f"{FEED}?key={key}&" + "x" * 9000, "Host: x", method="GET"))
    server.send(head_of(f"{FEED}?key={key}", f"Host: {key}", method="GET"))
    metrics = server.request("GET", "/metrics").body
    audited = server.request("GET", "/api/admin/audit", headers={"X-BTN-Token": token}).body
    time.sleep(0.2)
    server.stop()
    secret = key.removeprefix("slf_").encode()
    assert secret not in metrics + audited
    written = {file.name: file.read_bytes() for file in server.folder.rglob("*") if file.is_file()}
    assert {"stderr", "stdout", "sparkle.db"} <= set(written)
    assert [name for name, content in written.items() if secret in content] == []
    assert written["stderr"].count(b"/feeds/") > 50
