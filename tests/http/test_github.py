"""Signing in with GitHub over real HTTP: a server process, a stand-in for GitHub, and browsers with cookie jars."""

import itertools
import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import parse_qs, urlsplit

import github_standin
import httpx
import jwt
import pytest
from github_standin import CLIENT_ID, CLIENT_SECRET, Person, StandIn
from server import RunningServer, start_server, wait_for

LOGIN = "/auth/oauth2/github/login"
CALLBACK = "/auth/oauth2/github/callback"
SESSION = "X-BTN-Token"
VERIFIER = "sparkle-login"

_NUMBERS = itertools.count(1000)


class Place:
    """A server that trusts the stand-in."""

    def __init__(self, server: RunningServer, github: StandIn) -> None:
        self.server = server
        self.github = github

    def audit(self) -> list[dict[str, Any]]:
        with closing(sqlite3.connect(f"{self.server.database.as_uri()}?mode=ro", uri=True)) as connection:
            rows = connection.execute("SELECT action, success, user, details FROM audit ORDER BY id").fetchall()
        return [{"action": a, "success": s, "user": u, **json.loads(d)} for a, s, u, d in rows]


@pytest.fixture(scope="module")
def module_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    quick = "from sparkle_lite.http import github; github.TIMEOUT_S = 0.5"
    with (
        github_standin.running() as github,
        start_server(
            tmp_path_factory.mktemp("github"), github.config(), prelude=quick, env={"NO_PROXY": "127.0.0.1"}
        ) as server,
    ):
        yield Place(server, github)


@pytest.fixture
def place(module_place: Place) -> Place:
    github = module_place.github
    number = next(_NUMBERS)
    github.person = Person(number, f"person{number}")
    github.denies = False
    github.faults.clear()
    github.seen.clear()
    return module_place


class Browser:
    """A browser with cookies of its own, on a machine of its own where the system has so many addresses."""

    def __init__(self, place: Place) -> None:
        number = next(_NUMBERS)
        source = f"127.9.{number >> 8}.{number & 255}" if sys.platform == "linux" else None
        transport = httpx.HTTPTransport(local_address=source)
        self.client = httpx.Client(base_url=place.server.url, transport=transport, trust_env=False, timeout=20)

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def begin(self) -> httpx.Response:
        """The redirect to GitHub."""
        return self.client.get(LOGIN)

    def way_back(self) -> str:
        """Go to GitHub; where it sends the browser back to."""
        answer = self.begin()
        assert answer.status_code == 302, answer.text
        return httpx.get(answer.headers["location"], trust_env=False).headers["location"]

    def sign_in(self) -> httpx.Response:
        """The whole way."""
        return self.client.get(self.way_back())

    def me(self) -> dict[str, Any]:
        answer = self.client.get("/api/user/me")
        assert answer.status_code == 200, answer.text
        return dict(answer.json()["data"])


@pytest.fixture
def browser(place: Place) -> Iterator[Browser]:
    with Browser(place) as one:
        yield one


def is_page(answer: httpx.Response, status: int) -> bool:
    """Whether a refusal is a page: with its status, in two languages, without anything that runs or is fetched."""
    text = answer.text
    return (
        answer.status_code == status
        and answer.headers["content-type"].startswith("text/html")
        and "default-src 'none'" in answer.headers["content-security-policy"]
        and answer.headers["cache-control"] == "no-store"
        and 'lang="zh-CN"' in text
        and "<script" not in text
        and SESSION not in answer.cookies
    )


# --- The way that ends well -------------------------------------------------------------------------------------------


def test_a_new_person_signs_in_and_is_registered(place: Place, browser: Browser) -> None:
    place.github.person = Person(583231, "octocat", "The Octocat", [("cat@example.org", True, True)])
    answer = browser.sign_in()
    assert (answer.status_code, answer.headers["location"]) == (302, "/")
    me = browser.me()
    assert me["nickname"] == "The Octocat"
    assert me["email"] == "cat@example.org"
    assert me["avatar"] == "https://avatars.example/u/583231?v=4"
    assert me["registerAt"] <= me["lastSeenAt"]
    row = next(line for line in place.audit() if line["action"] == "USER_LOGIN" and line["user"] == me["id"])
    assert (row["success"], row["github"], row["githubLogin"], row["origin"]) == (1, 583231, "octocat", "GitHub")
    [user] = [u for u in json.loads(place.server.run("user", "list", "--json")) if u["id"] == me["id"]]
    assert (user["name"], user["role"], user["last_seen_at"] is not None) == ("octocat", "user", True)


def test_what_travels_through_github_is_what_its_documents_ask_for(place: Place, browser: Browser) -> None:
    answer = browser.begin()
    url = urlsplit(answer.headers["location"])
    query = {name: values[0] for name, values in parse_qs(url.query).items()}
    assert f"{url.scheme}://{url.netloc}{url.path}" == f"{place.github.url}/login/oauth/authorize"
    assert query.keys() == {
        "client_id", "redirect_uri", "scope", "state", "code_challenge", "code_challenge_method"
    }  # fmt: skip
    assert query["client_id"] == CLIENT_ID
    assert query["redirect_uri"] == f"{place.server.url}{CALLBACK}"
    assert query["scope"] == "read:user user:email"
    assert query["code_challenge_method"] == "S256"
    assert len(query["state"]) == len(query["code_challenge"]) == 43
    verifier = browser.client.cookies[VERIFIER]
    assert len(verifier) == 43
    assert verifier not in answer.headers["location"]
    cookie = answer.headers["set-cookie"]
    assert all(part in cookie for part in ("HttpOnly", "Path=/auth", "SameSite=lax", "Max-Age=600"))

    browser.sign_in()
    calls = [(call.method, call.path) for call in place.github.seen]
    assert calls[-3:] == [("POST", "/login/oauth/access_token"), ("GET", "/api/user"), ("GET", "/api/user/emails")]
    for call in place.github.seen[-3:]:
        assert "cookie" not in call.headers
        assert call.headers["user-agent"].startswith("sparkle-lite/")
        assert call.path.startswith("/api") or call.headers["accept"] == "application/json"


def test_the_session_cookie_is_out_of_reach_of_scripts_and_other_sites(place: Place, browser: Browser) -> None:
    answer = browser.sign_in()
    [cookie] = [each for each in answer.headers.get_list("set-cookie") if each.startswith(SESSION)]
    assert all(part in cookie for part in ("HttpOnly", "Path=/;", "SameSite=lax", f"Max-Age={30 * 86400}"))
    assert "Secure" not in cookie
    [gone] = [each for each in answer.headers.get_list("set-cookie") if each.startswith(VERIFIER)]
    assert "Max-Age=0" in gone


def test_under_https_both_cookies_are_secure(place: Place, tmp_path_factory: pytest.TempPathFactory) -> None:
    text = '[server]\npublic_url = "https://btn.example"\n' + place.github.config()
    with (
        start_server(tmp_path_factory.mktemp("https"), text) as server,
        Browser(Place(server, place.github)) as browser,
    ):
        answer = browser.begin()
        assert "Secure" in answer.headers["set-cookie"]
        query = parse_qs(urlsplit(answer.headers["location"]).query)
        assert query["redirect_uri"] == [f"https://btn.example{CALLBACK}"]
        link = server.run("user", "login-link", "admin").strip().rpartition("/login")[2]
        answer = browser.client.post(f"/login{link}", headers={"accept": "text/html"})
        assert "Secure" in answer.headers["set-cookie"]


def test_signing_in_again_is_the_same_user_with_fresh_data_and_a_new_session(place: Place, browser: Browser) -> None:
    person = place.github.person
    person.emails = [("old@example.org", True, True)]
    browser.sign_in()
    before, token = browser.me(), browser.client.cookies[SESSION]
    person.login, person.name, person.emails = "renamed", "New Name", []
    browser.sign_in()
    after = browser.me()
    assert after["id"] == before["id"]
    assert (after["nickname"], after["email"]) == ("New Name", None)
    assert browser.client.cookies[SESSION] != token
    assert httpx.get(f"{place.server.url}/api/user/me", headers={SESSION: token}).status_code == 403


@pytest.mark.parametrize(
    ("emails", "chosen"),
    [
        ([], None),
        ([("a@example.org", True, False)], None),
        ([("a@example.org", True, False), ("b@example.org", False, True)], "b@example.org"),
        ([("b@example.org", False, True), ("a@example.org", True, True)], "a@example.org"),
        ([("a@example.org", False, False), ("not an address", True, True)], None),
    ],
)
def test_only_a_verified_address_is_taken(
    place: Place, browser: Browser, emails: list[tuple[str, bool, bool]], chosen: str | None
) -> None:
    place.github.person.emails = emails
    browser.sign_in()
    assert browser.me()["email"] == chosen


def test_two_accounts_with_one_address_are_two_users(place: Place) -> None:
    ids = set()
    for number in (next(_NUMBERS), next(_NUMBERS)):
        place.github.person = Person(number, f"p{number}", None, [("shared@example.org", True, True)])
        with Browser(place) as browser:
            browser.sign_in()
            ids.add(browser.me()["id"])
    assert len(ids) == 2


def test_who_withholds_the_addresses_still_signs_in(place: Place, browser: Browser) -> None:
    place.github.faults["/api/user/emails"] = "404"
    assert browser.sign_in().status_code == 302
    assert browser.me()["email"] is None


# --- Names ------------------------------------------------------------------------------------------------------------


def test_whoever_takes_over_a_login_name_gets_nothing_of_its_former_owner(place: Place) -> None:
    first, second = next(_NUMBERS), next(_NUMBERS)
    with Browser(place) as alice, Browser(place) as mallory:
        place.github.person = Person(first, "coveted", "Alice", [("alice@example.org", True, True)])
        alice.sign_in()
        app = alice.client.put("/api/userapp", json={"comment": "hers"}, headers={"Sec-Fetch-Site": "same-origin"})
        place.github.person = Person(second, "coveted", "Mallory")
        mallory.sign_in()
        assert mallory.me()["id"] != alice.me()["id"]
        assert mallory.client.get("/api/userapp").json()["data"] == []
        assert mallory.client.get(f"/api/userapp/{app.json()['data']['appId']}").status_code == 403
    assert '"coveted-2"' in place.server.run("user", "list", "--json")


@pytest.mark.parametrize("login", ["admin", "ADMIN", "anonymous"])
def test_a_login_name_that_is_taken_or_reserved_here_gives_no_rights(
    place: Place, browser: Browser, login: str
) -> None:
    number = next(_NUMBERS)
    place.github.person = Person(number, login, login)
    browser.sign_in()
    me = browser.me()
    assert me["nickname"].casefold() not in ("admin", "anonymous")
    assert browser.client.get("/api/admin/users").status_code == 403
    [user] = [u for u in json.loads(place.server.run("user", "list", "--json")) if u["id"] == me["id"]]
    assert (user["name"].casefold().rpartition("-")[0], user["role"]) == (login.casefold(), "user")


def test_who_is_called_something_is_not_imitated(place: Place) -> None:
    with Browser(place) as alice, Browser(place) as mallory:
        place.github.person = Person(next(_NUMBERS), "known-as-login", "Known As")
        alice.sign_in()
        place.github.person = Person(next(_NUMBERS), "KNOWN AS", "known as")
        mallory.sign_in()
        assert (alice.me()["nickname"], mallory.me()["nickname"]) == ("Known As", "KNOWN AS-2")


def test_a_name_with_marks_and_markup_is_only_text(place: Place, browser: Browser) -> None:
    place.github.person.name = "<b>\u202ebob\x00\n</b> " + "x" * 100
    browser.sign_in()
    nickname = browser.me()["nickname"]
    assert nickname.startswith("<b>bob</b> x")
    assert len(nickname) <= 64


# --- Attacks on the login ---------------------------------------------------------------------------------------------


def test_a_way_back_works_once(place: Place, browser: Browser) -> None:
    url = browser.way_back()
    kept = browser.client.cookies[VERIFIER]
    assert browser.client.get(url).status_code == 302
    browser.client.cookies.set(VERIFIER, kept, path="/auth")
    assert is_page(browser.client.get(url), 403)
    with Browser(place) as fresh:
        assert is_page(fresh.client.get(url), 403)


def test_a_way_back_is_refused_in_another_browser_and_then_void_everywhere(place: Place) -> None:
    with Browser(place) as mine, Browser(place) as theirs:
        url = mine.way_back()
        theirs.begin()
        assert is_page(theirs.client.get(url), 403)
        assert is_page(mine.client.get(url), 403)
        assert SESSION not in mine.client.cookies


@pytest.mark.parametrize("cookie", [None, "", "x", "A" * 43, "é", "A" * 5000])
def test_a_way_back_without_the_right_cookie_is_refused(place: Place, browser: Browser, cookie: str | None) -> None:
    url = browser.way_back()
    browser.client.cookies.clear()
    headers = {} if cookie is None else {"cookie": f"{VERIFIER}={cookie}".encode()}
    assert is_page(browser.client.get(url, headers=headers), 403)
    assert not any(call.path == "/login/oauth/access_token" for call in place.github.seen)


@pytest.mark.parametrize("state", ["", "x", "A" * 43, "\udcff", "%00", "'; DROP TABLE user; --", "A" * 5000])
def test_an_invented_state_is_refused(place: Place, browser: Browser, state: str) -> None:
    browser.way_back()
    state = state.encode("utf-8", "surrogateescape").decode("latin-1")
    assert is_page(browser.client.get(CALLBACK, params={"code": "c" * 20, "state": state}), 403)
    assert is_page(browser.client.get(f"{CALLBACK}?code=c&state=%ff%00"), 403)


def test_a_code_of_somebody_else_does_not_sign_anybody_in(place: Place) -> None:
    with Browser(place) as victim, Browser(place) as attacker:
        stolen = parse_qs(urlsplit(victim.way_back()).query)["code"][0]
        state = parse_qs(urlsplit(attacker.way_back()).query)["state"][0]
        assert is_page(attacker.client.get(CALLBACK, params={"code": stolen, "state": state}), 403)
        assert SESSION not in attacker.client.cookies


@pytest.mark.parametrize("code", ["", "\n", "a b", "c" * 513, "<script>"])
def test_a_code_that_cannot_be_one_is_not_passed_on(place: Place, browser: Browser, code: str) -> None:
    state = parse_qs(urlsplit(browser.way_back()).query)["state"][0]
    status = 403 if code == "<script>" else 400
    assert is_page(browser.client.get(CALLBACK, params={"code": code, "state": state}), status)


@pytest.mark.parametrize("name", ["next", "redirect", "redirect_uri", "return_to", "url"])
def test_no_parameter_leads_the_browser_elsewhere(place: Place, browser: Browser, name: str) -> None:
    answer = browser.client.get(LOGIN, params={name: "https://evil.example/"})
    assert "evil.example" not in answer.headers["location"]
    back = httpx.get(answer.headers["location"], trust_env=False).headers["location"]
    done = browser.client.get(back, params={**dict(httpx.URL(back).params), name: "//evil.example"})
    assert (done.status_code, done.headers["location"]) == (302, "/")


def test_a_host_header_that_is_none_is_refused(place: Place, browser: Browser) -> None:
    answer = browser.client.get(LOGIN, headers={"host": "evil.example/x?"})
    assert (answer.status_code, "location" in answer.headers) == (400, False)


def test_a_banned_user_is_refused_with_the_reason(place: Place, browser: Browser) -> None:
    browser.sign_in()
    me = browser.me()
    name = next(u["name"] for u in json.loads(place.server.run("user", "list", "--json")) if u["id"] == me["id"])
    place.server.run("user", "ban", name, "--reason", "sells <b>accounts</b>")
    assert browser.client.get("/api/user/me").status_code == 403
    with Browser(place) as again:
        answer = again.sign_in()
        assert is_page(answer, 403)
        assert "sells &lt;b&gt;accounts&lt;/b&gt;" in answer.text
        assert "此用户已被管理员停用" in answer.text
    assert any(
        row["action"] == "USER_LOGIN" and not row["success"] and "sells" in row["error"] for row in place.audit()
    )


def test_who_declines_at_github_is_told_so(place: Place, browser: Browser) -> None:
    place.github.denies = True
    answer = browser.sign_in()
    assert is_page(answer, 403)
    assert "did not allow" in answer.text


def test_an_error_without_a_login_under_way_is_refused_like_any_other(place: Place, browser: Browser) -> None:
    answer = browser.client.get(CALLBACK, params={"error": "access_denied", "state": "A" * 43})
    assert is_page(answer, 403)
    assert "not begun in this browser" in answer.text


def test_attempts_to_sign_in_are_limited_for_each_address(place: Place) -> None:
    with Browser(place) as eager, Browser(place) as other:
        answers = [eager.begin().status_code for _ in range(40)]
        assert answers[:30] == [302] * 30
        assert 429 in answers[30:]
        refused = eager.begin()
        assert is_page(refused, 429)
        assert int(refused.headers["retry-after"]) >= 1
        assert is_page(eager.client.get(CALLBACK, params={"code": "c", "state": "s"}), 429)
        assert other.begin().status_code == 302


# --- When GitHub fails ------------------------------------------------------------------------------------------------

TOKEN, USER, EMAILS = "/login/oauth/access_token", "/api/user", "/api/user/emails"


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        (TOKEN, "500"),
        (TOKEN, "slow"),
        (TOKEN, "drip"),
        (TOKEN, "oversize"),
        (TOKEN, "redirect"),
        (TOKEN, "hang up"),
        (TOKEN, "html"),
        (TOKEN, "{}"),
        (TOKEN, "[]"),
        (TOKEN, '{"access_token": 7}'),
        (TOKEN, '{"access_token": "a\\nb"}'),
        (TOKEN, '{"error": "incorrect_client_credentials"}'),
        (TOKEN, '{"error": "<script>alert(1)</script>"}'),
        (USER, "401"),
        (USER, "rate limit"),
        (USER, "500"),
        (USER, "redirect"),
        (USER, "oversize"),
        (USER, '{"login": "x"}'),
        (USER, '{"id": "1", "login": "x"}'),
        (USER, '{"id": true, "login": "x"}'),
        (USER, '{"id": 0, "login": "x"}'),
        (USER, '{"id": 99999999999999999999, "login": "x"}'),
        (USER, '{"id": 9, "login": ""}'),
        (USER, '{"plan": ' + "[" * 100_000),
        (EMAILS, "500"),
        (EMAILS, "slow"),
        (EMAILS, '{"message": "x"}'),
    ],
)
def test_a_failing_github_gives_a_page_and_a_line_in_the_log(
    place: Place, browser: Browser, path: str, fault: str
) -> None:
    place.github.faults[path] = fault
    answer = browser.sign_in()
    assert is_page(answer, 502)
    assert "alert" not in answer.text
    [line] = wait_for(
        lambda: [
            line
            for line in place.server.logged()
            if line["message"] == "a login with GitHub failed" and line["reference"] in answer.text
        ],
        5,
    )
    assert line["reason"]
    assert ("GET", "/elsewhere") not in [(call.method, call.path) for call in place.github.seen]


def test_a_redirect_uri_that_github_does_not_know_is_a_failure_of_the_set_up(place: Place, browser: Browser) -> None:
    state = parse_qs(urlsplit(browser.way_back()).query)["state"][0]
    answer = browser.client.get(CALLBACK, params={"error": "redirect_uri_mismatch", "state": state})
    assert is_page(answer, 502)


def test_without_credentials_of_github_the_login_says_so(
    place: Place, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with (
        start_server(tmp_path_factory.mktemp("plain")) as server,
        Browser(Place(server, place.github)) as browser,
    ):
        for path in (LOGIN, CALLBACK):
            answer = browser.client.get(path)
            assert is_page(answer, 404)
            assert "offers no login with GitHub" in answer.text


# --- Secrets ----------------------------------------------------------------------------------------------------------


def test_no_secret_of_a_login_stands_in_a_log_an_answer_or_a_file(place: Place, browser: Browser) -> None:
    before = set(place.github.tokens)
    unfinished = browser.begin()
    secrets = {
        "verifier of a login under way": browser.client.cookies[VERIFIER],
        "state of a login under way": parse_qs(urlsplit(unfinished.headers["location"]).query)["state"][0],
    }
    url = browser.way_back()
    secrets["verifier"] = browser.client.cookies[VERIFIER]
    done = browser.client.get(url)
    query = parse_qs(urlsplit(url).query)
    secrets |= {"state": query["state"][0], "code": query["code"][0], "client secret": CLIENT_SECRET}
    [secrets["GitHub's token"]] = set(place.github.tokens) - before
    secrets["session"] = browser.client.cookies[SESSION]
    secrets["session's id"] = jwt.decode(secrets["session"], options={"verify_signature": False})["jti"]
    place.github.faults[USER] = "500"
    failed = browser.sign_in()
    secrets["code that failed"] = place.github.given_codes[-1]

    place.server.logged()
    written = {
        path.name: path.read_bytes()
        for path in place.server.folder.rglob("*")
        if path.is_file() and path.name != "config.toml"
    }
    assert {"sparkle.db", "stderr"} <= written.keys()
    written["answers"] = (done.text + failed.text).encode()
    found = [
        (what, name) for what, secret in secrets.items() for name, data in written.items() if secret.encode() in data
    ]
    assert found == []
