"""Login links: what looks at one leaves it as it is, and the button of its page uses it up."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlencode

import pytest
from crawler import Links
from server import Answer, Headers, RunningServer, opened, start_server

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
# What chats and mail send to see what a link is, and browsers before it is opened.
PREVIEWS: list[Headers] = [
    {"User-Agent": "TelegramBot (like TwitterBot)"},
    {"User-Agent": "WhatsApp/2.23.20.0", "Accept": "*/*"},
    {"User-Agent": "Mozilla/5.0 (compatible; Discordbot/2.0; +https://discordapp.com)", "Accept": "text/html"},
    {"User-Agent": "Slackbot-LinkExpanding 1.0", "Accept": "application/json", "Range": "bytes=0-32768"},
    {**HTML, "Sec-Purpose": "prefetch;prerender", "Sec-Fetch-Site": "none"},
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with start_server(tmp_path_factory.mktemp("links")) as server:
        for name in ("alice", "bob"):
            server.run("user", "add", name)
        yield server


def link_of(server: RunningServer, name: str) -> str:
    return server.run("user", "login-link", name).strip().removeprefix(server.url)


def press(server: RunningServer, page: Answer, token: str = "", **headers: str) -> Answer:
    """What pressing the one button of a page answers."""
    [(action, fields)] = Links(page.body).posts
    more = {"Content-Type": "application/x-www-form-urlencoded", "Cookie": f"X-BTN-Token={token}", **HTML}
    more |= {name.replace("_", "-"): value for name, value in headers.items()}
    return server.request("POST", action, urlencode(fields).encode(), more)


def session(answer: Answer) -> str:
    found = re.search(r"X-BTN-Token=([^;]+);", answer.headers["set-cookie"])
    assert found
    return found[1]


def who(server: RunningServer, token: str) -> Any:
    answer = server.request("GET", "/api/user/me", headers={"X-BTN-Token": token})
    return answer.json()["data"] and answer.json()["data"]["nickname"]


def test_a_link_survives_whoever_looks_at_it(server: RunningServer) -> None:
    link = link_of(server, "alice")
    for headers in PREVIEWS:
        for method in ("GET", "HEAD"):
            answer = server.request(method, link, headers=headers)
            assert answer.status == 200
            assert "set-cookie" not in answer.headers
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["referrer-policy"] in ("strict-origin", "no-referrer")
    signed_in = press(server, server.request("GET", link, headers=PREVIEWS[0]))
    assert (signed_in.status, signed_in.headers["location"]) == (303, "/")
    assert who(server, session(signed_in)) == "alice"
    for headers in (HTML, {"Accept": "application/json"}):
        assert server.request("GET", link, headers=headers).status == 403
        assert server.request("POST", link, headers=headers).status == 403


def test_the_button_is_all_there_is_and_the_page_tells_nobody_its_url(server: RunningServer) -> None:
    link = link_of(server, "alice")
    page = server.request("GET", link, headers={**HTML, "Cookie": f"X-BTN-Token={server.token('bob')}"})
    [(action, fields)] = Links(page.body).posts
    assert action == "/login"
    assert fields.keys() == {"token", "replaces"}
    assert page.headers["referrer-policy"] == "strict-origin"
    assert link.partition("=")[2] not in server.stderr


def test_a_form_of_another_site_signs_nobody_in(server: RunningServer) -> None:
    page = server.request("GET", link_of(server, "alice"), headers=HTML)
    for headers in ({"Sec_Fetch_Site": "cross-site"}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
        assert press(server, page, **headers).status == 403
    assert press(server, page, Origin=server.url, Sec_Fetch_Site="same-origin").status == 303


def test_nobody_loses_a_session_without_being_asked(server: RunningServer) -> None:
    bobs, link = server.token("bob"), link_of(server, "alice")
    # Opened before bob signed in here, pressed after that: the page comes back and says who is here.
    asked = press(server, server.request("GET", link, headers=HTML), bobs)
    assert asked.status == 409
    assert "bob" in asked.body.decode()
    assert who(server, bobs) == "bob"
    refused = server.request(
        "POST", link, headers={"Accept": "application/json", "Cookie": f"X-BTN-Token={bobs}"}
    ).refusal(409)
    assert "bob" in refused
    number = re.search(r'"(\d+)"', refused)
    assert number
    body = json.dumps({"token": link_of(server, "alice").partition("=")[2], "replaces": int(number[1])}).encode()
    again = server.token("bob")
    assert server.request("POST", "/login", body, {"Cookie": f"X-BTN-Token={again}"}).status == 200
    assert (who(server, again), who(server, bobs)) == (None, "bob")
    # Who agreed to the end of somebody else's session did not agree to the end of bob's.
    others = Links(server.request("GET", link, headers={**HTML, "Cookie": f"X-BTN-Token={server.token()}"}).body)
    body = urlencode(others.posts[0][1]).encode()
    form = {"Content-Type": "application/x-www-form-urlencoded", "Cookie": f"X-BTN-Token={bobs}", **HTML}
    assert server.request("POST", "/login", body, form).status == 409
    done = press(server, asked, bobs)
    assert (done.status, who(server, session(done)), who(server, bobs)) == (303, "alice", None)


def test_signing_in_again_makes_a_session_with_another_id(server: RunningServer) -> None:
    before = session(press(server, server.request("GET", link_of(server, "alice"), headers=HTML)))
    page = server.request("GET", link_of(server, "alice"), headers={**HTML, "Cookie": f"X-BTN-Token={before}"})
    after = session(press(server, page, before))
    assert after != before
    assert (who(server, after), who(server, before)) == ("alice", None)


@pytest.mark.parametrize("form", ["query", "json", "form"])
def test_a_script_exchanges_a_link_for_a_token(server: RunningServer, form: str) -> None:
    link = link_of(server, "bob")
    token = link.partition("=")[2]
    headers = {"Accept": "application/json"}
    assert server.request("GET", link, headers=headers).json()["data"] == {"user": "bob"}
    if form == "query":
        answer = server.request("POST", link, headers=headers)
    elif form == "json":
        answer = server.request("POST", "/login", json.dumps({"token": token}).encode())
    else:
        form_headers = {**headers, "Content-Type": "application/x-www-form-urlencoded"}
        answer = server.request("POST", "/login", urlencode({"token": token}).encode(), form_headers)
    assert answer.status == 200
    assert who(server, answer.json()["data"]["token"]) == "bob"


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"token": [1]}', b'"x"', b"\xff", b"null"])
def test_a_body_that_is_no_link_is_refused(server: RunningServer, body: bytes) -> None:
    assert "token" in server.request("POST", "/login", body, {"Content-Type": "application/json"}).refusal(400)


def test_of_many_presses_at_once_one_signs_in(server: RunningServer) -> None:
    page = server.request("GET", link_of(server, "alice"), headers=HTML)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: press(server, page).status, range(6)))
    assert sorted(answers) == [303] + [403] * 5


def test_rights_that_change_end_the_sessions_that_had_others(server: RunningServer) -> None:
    admin = server.token()
    with opened(server.database) as connection:
        [(alice,)] = connection.execute("SELECT id FROM user WHERE name='alice'").fetchall()
    before, link = server.token("alice"), link_of(server, "alice")
    form = {"Cookie": f"X-BTN-Token={admin}", "Sec-Fetch-Site": "same-origin", **HTML}
    form["Content-Type"] = "application/x-www-form-urlencoded"
    assert server.request("POST", f"/admin/users/{alice}/role", b"role=admin", form).status == 303
    assert who(server, before) is None
    raised = session(press(server, server.request("GET", link, headers=HTML)))
    # Whoever takes their own rights away goes on in a session that never had them.
    own = {**form, "Cookie": f"X-BTN-Token={raised}"}
    answer = server.request("POST", f"/admin/users/{alice}/role", b"role=user", own)
    assert answer.status == 303
    assert (who(server, raised), who(server, session(answer))) == (None, "alice")
