"""Below a path, behind real proxies as the manual configures them: whatever a browser or client follows works."""

import gzip
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

import pytest
from browser import launch, visiting
from crawler import Links, crawl
from feeder import feed
from server import PBH20, Answer, App, RunningServer, start_server, wait_for

import sparkle_lite
from sparkle_lite.http.web.manual import TOPICS

MANUAL = Path(sparkle_lite.__file__).parent / "manual"
BASE = "/btn"
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
FORM = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"}


# --- The proxies ------------------------------------------------------------------------------------------------------


def block_of(language: str, kind: str) -> str:
    """The first code block of a kind on the manual's page about proxies."""
    text = (MANUAL / language / "proxies.md").read_text("utf-8")
    found = re.search(rf"^```{kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def changed(text: str, *changes: tuple[str, str]) -> str:
    """A text with patterns replaced, each of which has to be there."""
    for pattern, other in changes:
        text, times = re.subn(pattern, other, text)
        assert times, pattern
    return text


def nginx(folder: Path, port: int, upstream: int) -> list[str]:
    """The command of an nginx with the manual's server block on other ports, without TLS, and as anybody may run it."""
    block = changed(
        block_of("en", "nginx"),
        (r"listen 443 ssl;", f"listen 127.0.0.1:{port};"),
        (r" *ssl_certificate\S* .*\n", ""),
        (r"127\.0\.0\.1:7799", f"127.0.0.1:{upstream}"),
    )
    paths = "".join(f"{name}_temp_path {folder};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;"
        f" events {{}} http {{ access_log off; {paths}\n{block}}}",
        "utf-8",
    )
    return ["-p", str(folder), "-c", f"{folder}/nginx.conf", "-e", f"{folder}/error.log"]


def caddy(folder: Path, port: int, upstream: int) -> list[str]:
    """The command of a Caddy with the manual's block."""
    block = changed(
        block_of("en", "caddyfile"),
        (r"^example\.org", f"http://127.0.0.1:{port}"),
        (r"127\.0\.0\.1:7799", f"127.0.0.1:{upstream}"),
    )
    (folder / "Caddyfile").write_text(f"{{\n\tadmin off\n}}\n{block}", "utf-8")
    return ["run", "--config", f"{folder}/Caddyfile", "--adapter", "caddyfile"]


PROXIES = {"nginx": nginx, "caddy": caddy}


@contextmanager
def proxied(name: str, folder: Path, port: int, upstream: int) -> Iterator[None]:
    """A running proxy; skips the test where it is not installed."""
    program = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip(f"{name} is not installed")
    folder.mkdir()
    command = [program, *PROXIES[name](folder, port, upstream)]
    environ = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, env=environ, stdout=output, stderr=output)
    try:
        wait_for(lambda: _is_open(port) or process.poll() is not None, 10)
        assert process.poll() is None, (folder / "output").read_text()
        yield
    finally:
        process.terminate()
        process.wait(10)


def _is_open(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Site(NamedTuple):
    """A server, and the URL under which the world reaches it."""

    server: RunningServer
    url: str
    proxy: RunningServer

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """A request through the proxy, to a path as the world writes it."""
        return self.proxy.request(method, path, body, {name.replace("_", "-"): v for name, v in headers.items()})


@pytest.fixture(scope="module", params=list(PROXIES))
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server with data behind a proxy, both as the manual says."""
    folder, port = tmp_path_factory.mktemp("site"), _free_port()
    url = f"http://127.0.0.1:{port}{BASE}"
    text = block_of("en", "toml").replace("https://example.org/btn", url)
    assert url in text
    with start_server(folder / "server", text) as server, proxied(request.param, folder / "proxy", port, server.port):
        feed(server, server.app)
        server.run("rules", "deny", "203.0.113.77", "--reason", "seen by hand")
        proxy = RunningServer(folder, "", {})
        proxy.port = port
        yield Site(server, url, proxy)


# --- A browser --------------------------------------------------------------------------------------------------------


class Browser:
    """Keeps cookies as RFC 6265 says, and follows nothing that leads out of the path."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.cookies: dict[str, tuple[str, str]] = {}

    def go(self, url: str, form: dict[str, str] | None = None) -> Answer:
        """What is at a URL, redirects followed; `form` is posted."""
        for _ in range(6):
            answer = self._ask(url, form)
            if answer.status not in (301, 302, 303, 307):
                return answer
            url, form = urljoin(url, answer.headers["location"]), None
            assert self.is_below(url), url
        raise AssertionError(f"redirected without end to {url}")

    def is_below(self, url: str) -> bool:
        """Whether a URL is one of this site."""
        parts = urlsplit(url)
        return parts.netloc in ("", urlsplit(self.site.url).netloc) and f"{parts.path}/".startswith(f"{BASE}/")

    def _ask(self, url: str, form: dict[str, str] | None) -> Answer:
        parts = urlsplit(url)
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        sent = [
            f"{name}={value}"
            for name, (value, where) in self.cookies.items()
            if f"{parts.path}/".startswith(f"{where}/".replace("//", "/"))
        ]
        headers = {**HTML, **({"Cookie": "; ".join(sent)} if sent else {})}
        if form is None:
            answer = self.site.request("GET", path, **headers)
        else:
            answer = self.site.request("POST", path, urlencode(form).encode(), **headers, **FORM)
        for name, value, where in re.findall(
            r"([\w-]+)=([^;,]*);[^,]*?path=([^;,\s]+)", answer.headers.get("set-cookie", ""), re.IGNORECASE
        ):
            assert f"{where}/".startswith(f"{BASE}/"), where
            self.cookies[name] = value, where
        return answer

    def sign_in(self) -> Answer:
        """The way from a login link to the first page, by its button."""
        link = self.site.server.run("user", "login-link", "admin").strip()
        assert link.startswith(f"{self.site.url}/login?token=")
        [(action, fields)] = Links(self.go(urlsplit(link).path + "?" + urlsplit(link).query).body).posts
        return self.go(action, fields)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A real browser."""
    driver, browser = launch()
    yield browser
    browser.close()
    driver.stop()


@pytest.fixture
def browser(site: Site) -> Browser:
    """Somebody signed in by a link."""
    browser = Browser(site)
    assert browser.sign_in().status == 200
    assert "X-BTN-Token" in browser.cookies
    return browser


def walk(browser: Browser, start: str) -> tuple[dict[str, str], set[str]]:
    """Everything that can be reached from a page: the kind of each URL, and where forms are posted to."""
    seen: dict[str, str] = {}
    posts: set[str] = set()
    for url, answer, page in crawl(browser.go, start):
        assert answer.status == 200, (url, answer)
        seen[url] = answer.headers.get("content-type", "").partition(";")[0]
        for each in page.urls if page else ():
            assert each.startswith(("?", "#", "data:", "https://", f"{BASE}/")), (url, each)
        for action, _ in page.posts if page else ():
            assert action.startswith(f"{BASE}/"), (url, action)
            posts.add(action.partition("#")[0])
    return seen, posts


# --- Tests ------------------------------------------------------------------------------------------------------------


def test_every_page_form_script_and_file_is_below_the_path(site: Site, browser: Browser) -> None:
    assert browser.go(f"{BASE}/welcome").status == 200
    assert browser.go(f"{BASE}/welcome/done", {}).status == 200
    seen, posts = walk(browser, f"{BASE}/")
    paths = {urlsplit(url).path.removeprefix(BASE) for url in seen}
    assert {"/", "/explore/bans", "/explore/swarms", "/rules", "/rules/analyses", "/apps", "/admin/settings"} <= paths
    assert {"/account", "/docs", "/openapi.json", "/overview.json", "/api/rules/changes", "/ip"} <= paths
    assert {f"/manual/en/{topic}" for topic in TOPICS} <= paths
    assert {"text/css", "text/javascript", "image/svg+xml", "application/json"} <= set(seen.values())
    assert len(seen) > 60
    assert len(posts) > 12
    for action in posts:
        allowed = site.request("OPTIONS", action)
        assert (allowed.status, "POST" in allowed.headers["allow"]) == (204, True), action


@pytest.mark.parametrize("kind", ["toml", "nginx", "caddyfile"])
def test_both_manuals_configure_the_same(kind: str) -> None:
    english, chinese = (re.sub(r"#.*", "", block_of(language, kind)).split() for language in ("en", "zh"))
    assert english == chinese


def test_the_path_without_its_slash_leads_to_the_first_page(browser: Browser) -> None:
    assert browser.go(BASE).status == 200


def test_forms_lead_to_pages_of_the_site(browser: Browser) -> None:
    deny = browser.go(f"{BASE}/rules/deny")
    [(action, fields)] = [form for form in Links(deny.body).posts if form[0].endswith("/rules/deny")]
    answer = browser.go(action, {**fields, "target": "203.0.113.99", "kind": "ip"})
    assert answer.status == 200
    assert "203.0.113.99" in answer.body.decode()
    assert browser.go(f"{BASE}/account/name", {"name": "Ada"}).status == 200
    assert "Ada" in browser.go(f"{BASE}/account").body.decode()
    assert 'lang="zh' in browser.go(f"{BASE}/language?to=zh&next=/explore/bans").body.decode()
    assert browser.cookies["lang"] == ("zh", BASE)
    browser.go(f"{BASE}/language?to=en&next=/")
    assert browser.go(f"{BASE}/logout", {}).status == 200
    assert urlsplit(browser._ask(f"{BASE}/apps", None).headers["location"]).path == f"{BASE}/login"


def test_who_is_led_to_sign_in_comes_back_to_the_page(site: Site) -> None:
    browser = Browser(site)
    assert browser.go(f"{BASE}/explore/snapshots").status == 200
    assert browser.cookies["sparkle-next"][1] == BASE
    landed = browser.sign_in()
    assert landed.status == 200
    assert f'action="{BASE}/explore/snapshots"' in landed.body.decode()


def test_a_part_of_a_page_for_a_script_leads_to_sign_in_below_the_path(site: Site) -> None:
    answer = site.request("GET", f"{BASE}/apps", HX_Request="true", **HTML)
    assert answer.headers["hx-redirect"].startswith(f"{BASE}/login?")


def test_of_two_cookies_with_one_name_that_of_our_path_counts(site: Site) -> None:
    mine = site.server.token()
    # A browser that was signed in before there was a path, or by a neighbour on the same host, sends its cookie last.
    both = f"X-BTN-Token={mine}; X-BTN-Token=of-a-neighbour; lang=zh; lang=en"
    answer = site.request("GET", f"{BASE}/account", Cookie=both, **HTML)
    assert (answer.status, answer.headers["content-language"][:2]) == (200, "zh")


def test_a_page_that_a_browser_kept_from_before_the_path_is_sent_anew(site: Site) -> None:
    kept = site.server.request("GET", "/docs", headers=HTML).headers
    assert "etag" not in kept
    with start_server(site.server.folder.parent / f"plain{site.server.port}") as plain:
        tag = plain.request("GET", "/docs", headers=HTML).headers["etag"]
    assert site.request("GET", f"{BASE}/docs", If_None_Match=tag, **HTML).status == 200


def test_a_client_finds_every_endpoint_and_submits(site: Site) -> None:
    app = site.server.app
    headers = {**app.headers, "User-Agent": PBH20}
    document = site.request("GET", f"{BASE}/ping/config", **headers).json()
    urls = re.findall(r'"(https?://[^"]+)"', json.dumps(document))
    assert len(urls) > 5
    assert all(url.startswith(f"{site.url}/ping/") for url in urls)
    for url in urls:
        assert site.request("OPTIONS", urlsplit(url).path, **headers).status in (204, 405)
    swarm = document["ability"]["submit_swarm"]["endpoint"]
    body = gzip.compress(json.dumps({"swarms": []}).encode())
    answer = site.request("POST", urlsplit(swarm).path, body, Content_Encoding="gzip", **headers)
    assert answer.status == 200, answer


def test_documents_and_feeds_name_the_whole_url(site: Site) -> None:
    openapi = site.request("GET", f"{BASE}/openapi.json").json()
    assert openapi["servers"] == [{"url": BASE}]
    token = {"X-BTN-Token": site.server.token()}
    feed_ = site.request("GET", f"{BASE}/api/rules/changes?format=atom", **token).body.decode()
    links = re.findall(r'href="([^"]+)"', feed_)
    assert links
    assert all(link.startswith(f"{site.url}/") for link in links)
    made = site.request("POST", f"{BASE}/api/admin/users/1/loginLink", **token).json()["data"]["url"]
    assert made.startswith(f"{site.url}/login?")
    assert "203.0.113.77" in (deny := _denied(site))
    assert f"{site.url}/ip/203.0.113.77" in deny


def _denied(site: Site) -> str:
    headers = {**site.server.app.headers, "User-Agent": PBH20}
    return site.request("GET", f"{BASE}/ping/ruleIpDenylist", **headers).body.decode()


def test_metrics_know_who_asks_behind_the_manuals_proxy(site: Site) -> None:
    assert site.request("GET", f"{BASE}/metrics").status == 200
    if sys.platform == "linux":
        # The proxy adds whom it saw: what somebody else put before that doesn't count.
        claimed = {"X-Forwarded-For": "192.0.2.1"}
        assert site.proxy.request("GET", f"{BASE}/metrics", headers=claimed, app=App("", "", "127.0.0.5")).status == 200
    assert site.server.request("GET", "/metrics").status == 403


def test_a_browser_needs_the_query_of_a_next_page_only_once(browser: Browser) -> None:
    answer = browser._ask(f"{BASE}/explore/bans?peerIp=203.0.113.0%2F24&sortOrder=DESC", None)
    location = urlsplit(answer.headers["location"])
    assert (location.path, dict(parse_qsl(location.query))) == (f"{BASE}/explore/bans", {"peerIp": "203.0.113.0/24"})


def test_in_a_browser_scripts_and_forms_stay_below_the_path(site: Site, chromium: Any) -> None:
    token = urlsplit(site.server.run("user", "login-link", "admin").strip()).query
    with visiting(chromium, site.proxy) as visit:
        page = visit.page
        asked: list[str] = []
        page.on("response", lambda answer: asked.append(f"{answer.status} {urlsplit(answer.url).path}"))
        visit.go(f"{BASE}/login?{token}")
        page.click("main form button")
        visit.go(f"{BASE}/welcome")
        page.click("form:has(button.quiet.tiny) button.quiet.tiny")
        assert page.url == f"{site.url}/"
        page.wait_for_selector("[data-chart] canvas")
        visit.go(f"{BASE}/apps/{site.server.app.app_id}")
        page.click("details.menu summary")
        page.click("text=Sign out")
        assert page.url == f"{site.url}/login?done=signed_out"
        with page.expect_response(f"{site.url}/openapi.json", timeout=20_000):
            visit.go(f"{BASE}/docs")
        assert len(asked) > 20
        wrong = [one for one in asked if not re.match(rf"[23]\d\d {BASE}/", one)]
        assert wrong == []


# --- Without a path ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("public_url", ["", "https://btn.example.org"])
def test_without_a_path_nothing_is_put_before_urls(tmp_path: Path, public_url: str) -> None:
    with start_server(tmp_path / "server", f'[server]\npublic_url = "{public_url}"\n') as server:
        cookie = {"Cookie": f"X-BTN-Token={server.token()}", **HTML}
        answer = server.request("GET", "/welcome", headers=cookie)
        urls = [url for url in Links(answer.body).urls if not url.startswith("#")]
        assert urls
        assert all(re.match(r"/\w", url) or url == "/" for url in urls)
        assert server.request("GET", "/", headers=cookie).headers["location"] == "/welcome"
        assert server.request("GET", "/openapi.json").json()["servers"] == [{"url": "/"}]
        assert "etag" in server.request("GET", "/docs", headers=HTML).headers


def test_text_that_looks_like_a_link_stays_as_it_is(tmp_path: Path) -> None:
    hostile = ' href="/x" action="/y'
    with start_server(tmp_path / "server", '[server]\npublic_url = "https://example.org/b\'t&n/"\n') as server:
        server.run("user", "add", "bob")
        server.run("app", "add", "--user", "bob", "--comment", hostile)
        cookie = {"Cookie": f"X-BTN-Token={server.token('bob')}", **HTML}
        page = server.request("GET", "/apps", headers=cookie).body.decode()
        assert "href=&#34;/x&#34; action=&#34;/y" in page
        assert 'href="/b&#x27;t&amp;n/account"' in page
