"""The pages in a real browser, and what of them needs none."""

import gzip
import html
import importlib
import pkgutil
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlencode

import pytest
from browser import DESKTOP, PHONE, visiting
from feeder import HOSTILE, LEGACY, feed
from litestar.handlers import HTTPRouteHandler
from server import Answer, App, RunningServer, start_server

from sparkle_lite.http import web
from sparkle_lite.http.web import access, render, sign_in
from sparkle_lite.texts import catalogue

WEB = Path(web.__file__).parent
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
# Figures are read anew at once, so that a test need not wait for them.
EAGER = "from sparkle_lite.db import overview; overview.FRESH_S = overview.STALE_S = 0"


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with users, applications and data, whose names are hostile wherever somebody may choose them."""
    with start_server(tmp_path_factory.mktemp("busy"), prelude=EAGER) as server:
        for seed in range(3):
            feed(server, server.app, seed=seed)
        assert asked(server, "/welcome/done", server.token(), {}).status == 303
        server.run("user", "add", HOSTILE[0])
        server.run("app", "add", "--user", HOSTILE[0], "--comment", HOSTILE[1])
        server.run("user", "add", "mallory")
        server.run("user", "ban", "mallory", "--reason", HOSTILE[1])
        yield server


def asked(
    server: RunningServer, path: str, token: str = "", form: dict[str, str] | None = None, **headers: str
) -> Answer:
    """What a browser is answered; `form` is posted from a page of this server."""
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    if token:
        more["Cookie"] = f"X-BTN-Token={token}" + (f"; {more['Cookie']}" if "Cookie" in more else "")
    if form is None:
        return server.request("GET", path, headers={**HTML, **more})
    more = {"Sec-Fetch-Site": "same-origin", "Content-Type": "application/x-www-form-urlencoded", **more}
    return server.request("POST", path, urlencode(form).encode(), {**HTML, **more})


# --- In a browser -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_guide_leads_from_the_login_link_to_a_connected_client(
    tmp_path: Path, browser: Any, language: Literal["en", "zh"]
) -> None:
    t = render.PageTexts(language)
    viewport = PHONE if language == "zh" else DESKTOP
    with start_server(tmp_path / "server") as server:
        link = re.search(r"(/login\?token=\S+)", server.stdout)
        assert link
        with visiting(browser, server, locale=language, viewport=viewport) as visit:
            page = visit.page
            visit.go(link[1])
            visit.check()
            page.click("main form button")
            assert page.url == f"{server.url}/welcome"
            visit.check()
            page.fill("#name", "Ada <b>")
            page.click("main form .primary")
            page.check("input[value=solo]")
            visit.check()
            page.click("main form .primary")
            page.fill("#addresses", "203.0.113.7  # my <i>seedbox\nnonsense")
            visit.check()
            page.click("main form .primary")
            assert "nonsense" in visit.text()
            assert page.input_value("#addresses") == "nonsense"
            page.fill("#addresses", "")
            page.click("main form .primary")
            # A list to begin with is off until it is ticked.
            assert page.is_checked("[name=btn_collected_rules]") is False
            assert "CC BY 4.0" in visit.text()
            visit.check()
            page.click("main form .primary")
            page.click(f"text={t('welcome.connect.other')}")
            page.fill("#comment", "nas")
            page.click("form:has(#comment) button")
            visit.check()
            secret = page.inner_text("#app-secret").strip()
            app = App(page.inner_text("#app-id").strip(), secret)
            assert page.inner_text("#config-url").strip() == f"{server.url}/ping/config"
            assert str(t("connected.no")) in visit.text()
            assert server.get("/ping/config", app, LEGACY).status == 200
            page.wait_for_selector(".dot.on")
            assert "PeerBanHelper 7.3.2" in visit.text()
            page.click(f"text={t('welcome.finish')}")
            assert page.url == f"{server.url}/"
            visit.check()
            visit.go("/rules/exceptions")
            assert "203.0.113.7" in visit.text()
        assert server.run("config", "show").count('preset = "friends"') == 1
        token = server.token()
        assert 'value="solo" selected' in asked(server, "/admin/settings", token).body.decode()
        server.restart()
        assert 'value="solo" selected' in asked(server, "/admin/settings", token).body.decode()


def test_data_that_arrives_is_seen_on_the_first_page(tmp_path: Path, browser: Any) -> None:
    with (
        start_server(tmp_path / "server", prelude=EAGER) as server,
        visiting(browser, server, server.token()) as visit,
    ):
        assert asked(server, "/welcome/done", server.token(), {}).status == 303
        feed(server, server.app)
        visit.go("/")
        visit.page.wait_for_selector(".u-legend")
        assert re.search(r"Observations\s+60\b", visit.text())
        assert "ProgressCheatBlocker" in visit.text()
        assert "203.0.113.0/24" in visit.text()
        feed(server, server.app, seed=1)
        visit.page.reload()
        assert re.search(r"Observations\s+120\b", visit.text())
        points = visit.page.evaluate("fetch('/overview.json').then((answer) => answer.json())")
        assert (sum(points["rows"]["snapshot"]), sum(points["rows"]["ban"])) == (120, 24)
        assert sum(points["submissions"]) == 4
        visit.page.click("summary:text-is('As a table')")
        today = visit.page.locator("section:has(#chart-title) details tbody tr").first.inner_text().split()
        assert today[1:] == ["120", "0", "4", "24"]


def test_the_first_page_is_small(busy: RunningServer, browser: Any) -> None:
    with visiting(browser, busy, busy.token()) as visit:
        sizes: list[int] = []
        visit.page.on("requestfinished", lambda request: sizes.append(sum(request.sizes().values())))
        visit.go("/")
        visit.page.wait_for_selector(".u-legend")
        visit.page.wait_for_load_state("networkidle")
        assert 20_000 < sum(sizes) < 200_000


PAGES = (
    "/",
    "/apps",
    "/apps/all",
    "/account",
    "/admin/users",
    "/admin/users/2",
    "/admin/users/3",
    "/admin/audit",
    "/admin/settings",
    "/admin/settings/backups",
    "/welcome/circle",
    "/welcome/lists",
    "/welcome/connect",
)


@pytest.mark.parametrize(("language", "viewport", "scheme"), [("en", DESKTOP, "dark"), ("zh", PHONE, "light")])
def test_every_page_is_sound_and_shows_hostile_names_as_text(
    busy: RunningServer, browser: Any, language: str, viewport: dict[str, int], scheme: str
) -> None:
    settings = {"locale": language, "viewport": viewport, "color_scheme": scheme}
    with visiting(browser, busy, busy.token(), **settings) as visit:
        for path in (*PAGES, f"/apps/{busy.app.app_id}"):
            visit.go(path)
            assert visit.page.get_attribute("html", "lang") == catalogue(language)["language.tag"]  # type: ignore[index]
            visit.check()
            assert "owned" not in visit.page.title() or "<script>" in visit.page.title()
            assert visit.page.locator("main img, main script, main b").count() == 0, path
        visit.go("/admin/users")
        assert HOSTILE[0] in visit.text()
        visit.go("/apps/all")
        assert HOSTILE[1] in visit.text()
        visit.go("/nothing", 404)
        visit.check()
    with visiting(browser, busy, **settings) as visit:
        visit.go("/login")
        visit.check()


def test_an_application_is_created_reset_and_deleted(busy: RunningServer, browser: Any) -> None:
    with visiting(browser, busy, busy.token()) as visit:
        page = visit.page
        visit.go("/apps")
        page.fill("#comment", HOSTILE[2])
        page.click("form:has(#comment) button")
        visit.check()
        app = App(page.inner_text("#app-id").strip(), page.inner_text("#app-secret").strip())
        assert "app-secret" in page.locator("#yaml").text_content()
        assert busy.get("/ping/config", app, LEGACY).status == 200
        visit.go(f"/apps/{app.app_id}")
        visit.check()
        assert app.secret not in page.content()
        page.click("summary:has-text('Make a new secret')")
        page.click("text=Make a new secret now")
        assert page.inner_text("#app-secret").strip() != app.secret
        assert busy.get("/ping/config", app, LEGACY).status == 403
        visit.go(f"/apps/{app.app_id}")
        page.click("summary:text-is('Delete')")
        page.click("text=Delete it for good")
        assert page.url.startswith(f"{busy.url}/apps?done=")
        visit.go(f"/apps/{app.app_id}", 404)


def shown_secret(answer: Answer) -> tuple[str, str]:
    """The id and the secret of an application that a page shows."""
    assert answer.status == 200, answer
    found = dict(re.findall(r'id="(app-id|app-secret)"[^>]*>([^<]*)<', answer.body.decode()))
    return found["app-id"], found["app-secret"]


def once_id(answer: Answer) -> str:
    """What tells a form of a page from the same form shown again."""
    return re.findall(r'name="once" value="([^"]+)"', answer.body.decode())[-1]


@pytest.mark.parametrize("path", ["/apps", "/welcome/connect"])
def test_a_form_that_is_sent_twice_makes_one_application(busy: RunningServer, path: str) -> None:
    token = busy.token()
    before = len(busy.run("app", "list").splitlines())
    form = {"comment": f"twice, from {path}", "once": once_id(asked(busy, path, token))}
    with ThreadPoolExecutor(4) as pool:
        pages = list(pool.map(lambda _: asked(busy, path, token, form), range(4)))
    [(app_id, secret)] = {shown_secret(page) for page in pages}
    assert len(busy.run("app", "list").splitlines()) == before + 1
    assert busy.get("/ping/config", App(app_id, secret), LEGACY).status == 200
    # Another comment in the same form is another application, and so is the same form of another person.
    other, _ = shown_secret(asked(busy, path, token, {**form, "comment": "another"}))
    theirs, their_secret = shown_secret(asked(busy, "/apps", busy.token(HOSTILE[0]), form))
    assert len({app_id, other, theirs}) == 3
    assert secret != their_secret
    for made in (app_id, other, theirs):
        busy.run("app", "delete", made)
    again = asked(busy, path, token, form)
    assert (again.status, secret in again.body.decode()) == (409, False)
    assert len(busy.run("app", "list").splitlines()) == before


def test_a_secret_is_made_anew_once_by_a_form_that_is_sent_twice(busy: RunningServer) -> None:
    token, app = busy.token(), busy.add_app()
    page, reset = f"/apps/{app.app_id}", f"/apps/{app.app_id}/reset"
    first, second = ({"once": once_id(asked(busy, page, token))} for _ in range(2))
    made = shown_secret(asked(busy, reset, token, first))
    assert shown_secret(asked(busy, reset, token, first)) == made
    # A page from before doesn't void what somebody may have pasted meanwhile.
    assert asked(busy, reset, token, second).status == 409
    busy.run("app", "reset", app.app_id)
    assert asked(busy, reset, token, first).status == 409


@pytest.mark.parametrize("text", ["", "x", "1.x.", "0..", "é"])
def test_an_id_of_a_form_that_is_none_of_ours_makes_nothing(busy: RunningServer, text: str) -> None:
    token = busy.token()
    before = busy.run("app", "list")
    form = {"comment": "of an old page", "once": text}
    answer = asked(busy, "/apps", token, form)
    assert (answer.status, 'value="of an old page"' in answer.body.decode()) == (409, True)
    assert busy.run("app", "list") == before
    app_id, _ = shown_secret(asked(busy, "/apps", token, {**form, "once": once_id(answer)}))
    busy.run("app", "delete", app_id)


def test_a_user_is_added_and_signs_in_by_the_link_they_are_given(busy: RunningServer, browser: Any) -> None:
    with visiting(browser, busy, busy.token()) as visit:
        visit.go("/admin/users")
        visit.page.fill("#name", "bob")
        visit.page.click("form:has(#name) button")
        visit.page.click("button:has-text('Make a login link')")
        link = visit.page.inner_text("#login-link").strip()
    with visiting(browser, busy) as visit:
        visit.go("/apps")
        assert visit.page.url == f"{busy.url}/login?next=%2Fapps"
        visit.go(link.removeprefix(busy.url))
        visit.check()
        visit.page.click("main form button")
        assert visit.page.url == f"{busy.url}/apps"
        user = re.findall(r'/admin/users/(\d+)">bob', asked(busy, "/admin/users", busy.token()).body.decode())[0]
        assert "Sign them out everywhere" in asked(busy, f"/admin/users/{user}", busy.token()).body.decode()
        visit.go("/admin/users", 403)
        visit.check()
        visit.page.click("details.menu summary")
        visit.page.click("text=Sign out")
        assert visit.page.url == f"{busy.url}/login?done=signed_out"
        visit.go("/")
        assert visit.page.url == f"{busy.url}/login"


def test_an_administrator_signs_somebody_out_everywhere(busy: RunningServer) -> None:
    admin = busy.token()
    page = asked(busy, "/admin/users", admin).body.decode()
    user = re.findall(r'/admin/users/(\d+)">&lt;script', page)[0]
    token = busy.token(HOSTILE[0])
    assert asked(busy, "/account", token).status == 200
    assert asked(busy, f"/admin/users/{user}/sign-out", token, {}).status == 403
    assert asked(busy, f"/admin/users/{user}/sign-out", admin, {}).status == 303
    assert asked(busy, "/account", token).status == 303
    assert "They are signed in nowhere." in asked(busy, f"/admin/users/{user}", admin).body.decode()


def test_the_language_is_switched_on_the_page_and_stays(busy: RunningServer, browser: Any) -> None:
    with visiting(browser, busy) as visit:
        visit.go("/login")
        assert "Sign in" in visit.text()
        visit.page.click("header a:has-text('中文')")
        assert "一次性链接" in visit.text()
        assert visit.page.url == f"{busy.url}/login"
        visit.go("/login")
        assert "一次性链接" in visit.text()


# --- Without one ------------------------------------------------------------------------------------------------------


def test_nobody_is_shown_by_the_name_that_somebody_else_is_shown_by(busy: RunningServer) -> None:
    busy.run("user", "add", "carol")
    carol, mallory = busy.token("carol"), busy.token(HOSTILE[0])
    assert asked(busy, "/account/name", carol, {"name": "Käpt'n Carol"}).status == 303
    for name in ("Käpt'n Carol", "KÄPT'N CAROL", "\uff2b\u00e4pt'n Carol", "carol"):
        assert asked(busy, "/account/name", mallory, {"name": name}).status == 409, name
    for name in ("Käpt'n Carol", "käpt'n carol"):
        added = asked(busy, "/admin/users", busy.token(), {"name": name})
        assert (added.status, "carol" in added.body.decode()) == (409, True)
    # Whoever has a name may keep it and go back to it.
    for name in ("Käpt'n Carol", "carol", ""):
        assert asked(busy, "/account/name", carol, {"name": name}).status == 303, name
    assert asked(busy, "/account/name", mallory, {"name": "Käpt'n Carol"}).status == 303
    asked(busy, "/account/name", mallory, {"name": ""})


def test_every_page_forbids_what_it_does_not_need(busy: RunningServer) -> None:
    token = busy.token()
    for path in (*PAGES, "/login", "/nothing", "/admin/users/999"):
        headers = asked(busy, path, token).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy, path
        assert headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["x-content-type-options"] == "nosniff"


def test_static_files_are_named_by_their_content_and_kept_for_ever(busy: RunningServer) -> None:
    page = asked(busy, "/login").body.decode()
    names = re.findall(r'(?:href|src)="(/static/[^"]+)"', page)
    assert len(names) >= 4
    for name in set(names):
        plain = busy.request("GET", name)
        assert "immutable" in plain.headers["cache-control"]
        packed = busy.request("GET", name, headers={"Accept-Encoding": "gzip"})
        assert packed.headers["content-encoding"] == "gzip"
        assert gzip.decompress(packed.body) == plain.body
    assert busy.request("GET", "/static/app.css").status == 404
    assert busy.request("GET", "/static/..%2frender.py").status == 404


def filled(handler: HTTPRouteHandler) -> tuple[str, dict[str, str] | None]:
    """A path of a handler, and a form if it takes one."""
    [path], [method] = handler.paths, handler.http_methods
    return re.sub(r"\{\w+:\w+\}", "7", path), None if method == "GET" else {}


def test_every_page_says_who_may_see_it_and_holds_to_it(busy: RunningServer) -> None:
    member = busy.token(HOSTILE[0])
    for handler in web.HANDLERS:
        path, form = filled(handler)
        guards = handler.guards or []
        if guards not in (access.MEMBERS, access.ADMINS):
            assert guards == access.ANYBODY or handler in (web.choose_language, web.static_file, sign_in.log_out), path
            continue
        is_for_admins = path.startswith(("/admin/", "/welcome")) or (form is not None and path.startswith("/rules/"))
        assert guards == access.ADMINS or not is_for_admins, path
        wanted = f"/login?{urlencode({'next': path})}" if form is None and path != "/" else "/login"
        answer = asked(busy, path, "", form)
        assert (answer.status, answer.headers["location"]) == (303, wanted), path
        if guards == access.ADMINS:
            answer = asked(busy, path, member, form)
            assert (answer.status, "for administrators" in answer.body.decode()) == (403, True), path


def test_no_handler_of_a_page_is_forgotten() -> None:
    declared = []
    for module in pkgutil.iter_modules([str(WEB)]):
        names = vars(importlib.import_module(f"{web.__name__}.{module.name}"))
        declared += [value for value in names.values() if isinstance(value, HTTPRouteHandler)]
    assert set(declared) | {web.choose_language, web.static_file} == set(web.HANDLERS)


def test_no_page_changes_anything_for_another_site(busy: RunningServer) -> None:
    token = busy.token()
    for path, form in map(filled, web.HANDLERS):
        for site in ("cross-site", "same-site") if form is not None else ():
            assert asked(busy, path, token, form, Sec_Fetch_Site=site).status == 403, path
    assert asked(busy, "/account", token).status == 200


def test_nobody_is_led_elsewhere(busy: RunningServer) -> None:
    for wanted in (
        "https://example.org/",
        "//example.org/",
        "/\\example.org",
        "javascript:alert(1)",
        "/\n/example.org",
        "/api/user/logout",
        "/%61pi/user/logout",
        "/./x/../api/user/logout",
        "/.//api/user/logout",
        "/%2e%2e/neighbour",
        "/%2fapi/user/logout",
    ):
        answer = asked(busy, f"/language?{urlencode({'to': 'zh', 'next': wanted})}")
        assert (answer.status, answer.headers["location"]) == (303, "/"), wanted
        answer = asked(busy, f"/login?{urlencode({'next': wanted})}", busy.token())
        assert answer.headers["location"] == "/"


def test_a_refusal_is_a_page_for_a_browser_and_an_envelope_for_a_program(busy: RunningServer) -> None:
    answer = asked(busy, "/nothing", Accept_Language="zh-TW,zh;q=0.9,en;q=0.8")
    assert (answer.status, answer.headers["content-language"]) == (404, "zh-CN")
    assert "资源未找到" in answer.body.decode()
    assert busy.request("GET", "/nothing").json()["success"] is False
    assert asked(busy, "/api/nothing").json()["success"] is False
    assert "/login" in asked(busy, "/nothing").body.decode()
    assert "/login" not in asked(busy, "/nothing", busy.token()).body.decode()
    banned = asked(busy, "/admin/users", busy.token(HOSTILE[0]))
    assert banned.status == 403
    assert html.escape("<script>") not in banned.body.decode().partition("<main")[2]


def test_a_fault_of_the_server_is_a_page_that_says_so_and_no_more(tmp_path: Path) -> None:
    with start_server(
        tmp_path / "server", prelude="import sparkle_lite.http.web.explore as e; e.find_torrents = None"
    ) as server:
        answer = asked(server, "/explore/torrents", server.token())
        assert answer.status == 500
        page = answer.body.decode()
        assert "The server ran into a fault" in page
        assert "NoneType" not in page
        assert "NoneType" in next(line["exception"] for line in server.logged() if "exception" in line)


def test_a_login_link_that_is_no_good_leads_to_the_sign_in_page(busy: RunningServer) -> None:
    answer = asked(busy, "/login?token=guessed")
    assert answer.status == 403
    assert "used already" in answer.body.decode()
    script = {"Accept": "application/json"}
    assert busy.request("GET", "/login?token=guessed", headers=script).json()["success"] is False


def test_what_the_file_sets_no_page_can(tmp_path: Path) -> None:
    with start_server(tmp_path / "server", '[analysis]\npreset = "tracker"\n') as server:
        token = server.token()
        assert (
            "analysis.preset is set in the configuration file" in asked(server, "/welcome/circle", token).body.decode()
        )
        answer = asked(server, "/admin/settings/preset", token, {"preset": "solo"})
        assert answer.status == 409
        server.reload("")
        assert asked(server, "/admin/settings/preset", token, {"preset": "solo"}).status == 303
        server.reload('[analysis]\npreset = "tracker"\n')
        page = asked(server, "/admin/settings", token).body.decode()
        assert "A community" in page
        assert {"every 0.25 s", "every 2 s", "every 7 d"} <= set(re.findall(r"every [^<]+", page))


def test_a_number_that_the_file_or_the_environment_sets_is_shown_and_locked(tmp_path: Path) -> None:
    text = "[analysis.untrusted_vote]\nmin_people = 7\n"
    environ = {"SPARKLE_ANALYSIS__UNTRUSTED_VOTE__WINDOW": "10d"}
    with start_server(tmp_path / "server", text, env=environ) as server:
        token = server.token()
        assert (
            asked(server, "/rules/analyses/untrusted_vote", token, {"untrusted_vote.min_torrents": "3"}).status == 303
        )
        for form in ({"untrusted_vote.min_people": "2"}, {"untrusted_vote.window": "9d"}):
            assert asked(server, "/rules/analyses/untrusted_vote", token, form).status == 409
        page = asked(server, "/rules/analyses", token).body.decode()
        part = page.partition('id="untrusted_vote"')[2].partition("</section>")[0]
        assert "Set by config.toml, which wins over this page" in part
        assert "Set by SPARKLE_ANALYSIS__UNTRUSTED_VOTE__WINDOW" in part
        assert re.search(r'name="untrusted_vote.min_people" value="7"[^>]* disabled', part)
        assert re.search(r'name="untrusted_vote.window" value="10d"[^>]* disabled', part)
        assert 'name="untrusted_vote.min_torrents" value="3"' in part
        server.restart()
        assert 'name="untrusted_vote.min_torrents" value="3"' in asked(server, "/rules/analyses", token).body.decode()


def test_the_audit_says_what_was_done_in_words(tmp_path: Path) -> None:
    with start_server(tmp_path) as server:
        token = server.token()
        asked(server, "/admin/settings/preset", token, {"preset": "friends"})
        numbers = {"over_download.mode": "shadow", "over_download.min_people": "5"}
        asked(server, "/rules/analyses/over_download", token, numbers)
        asked(
            server, "/rules/analyses/over_download", token, {"over_download.min_people": "", "over_download.mode": "on"}
        )
        server.run("rules", "deny", "203.0.113.57", "--forever")
        server.run("user", "add", "bob")
        said = {}
        for language in ("en", "zh"):
            page = asked(server, "/admin/audit", token, Accept_Language=language).body.decode()
            said[language] = [
                " ".join(re.sub(r"<[^>]*>", " ", one).split())
                for one in re.findall(r'<ul class="facts">(.*?)</ul>', page, re.S)
            ]
    assert said["en"][0] == "user 2 name bob role Member vouched for yes"
    assert said["zh"][0] == "用户 2 名称 bob 角色 成员 已担保 是"
    assert "setting size of the circle value Friends" in said["en"]
    assert "设置项 圈子大小 值 朋友圈子" in said["zh"]
    assert said["en"][1].endswith("until without an end")
    assert said["zh"][1].endswith("截止 无期限")
    assert "setting Over-download: mode value shadow" in said["en"]
    assert "设置项 超量下载: 见证者合计票数 值 5" in said["zh"]
    assert "设置项 超量下载: 见证者合计票数 值 恢复为预设值" in said["zh"]
    assert "用户 1 名称 admin 来源 命令行" in said["zh"]


def test_the_configuration_is_read_again_from_the_page(tmp_path: Path) -> None:
    with start_server(tmp_path / "server", "[auth]\nmax_apps_per_user = 1\n") as server:
        token = server.token()
        assert asked(server, "/apps", token, {"comment": "one more"}).status == 507
        server.config.write_text("[auth]\nmax_apps_per_user = 9\n")
        assert asked(server, "/admin/settings/reload", token, {}).status == 303
        assert asked(server, "/apps", token, {"comment": "one more"}).status == 200
        server.config.write_text("[auth]\nmax_apps_per_usr = 9\n[database]\npath='elsewhere.db'")
        wrong = asked(server, "/admin/settings/reload", token, {})
        assert wrong.status == 400
        assert "did you mean" in wrong.body.decode()
        server.config.write_text("[database]\npath = 'elsewhere.db'\n")
        assert "database.path" in asked(server, "/admin/settings/reload", token, {}).body.decode()


def test_secrets_are_masked_in_the_settings(tmp_path: Path) -> None:
    text = "[auth]\njwt_secret = 'a-key-that-is-long-enough-to-sign-with'\n"
    with start_server(tmp_path / "server", text) as server:
        page = asked(server, "/admin/settings", server.token()).body.decode()
        assert "a-key-that" not in page
        assert "***" in page


# --- Texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("zh", "zh"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-GB,zh;q=0.9", "en"),
        ("fr,zh;q=0.5,en;q=0.4", "zh"),
        ("en;q=0, zh;q=0.1", "zh"),
        ("zh;q=x,*", "en"),
    ],
)
def test_a_page_comes_in_the_language_that_the_browser_prefers(
    busy: RunningServer, header: str, language: Literal["en", "zh"]
) -> None:
    assert (
        asked(busy, "/login", Accept_Language=header).headers["content-language"] == catalogue(language)["language.tag"]
    )
    chosen = asked(busy, "/login", Accept_Language=header, Cookie="lang=zh")
    assert chosen.headers["content-language"] == "zh-CN"


def test_no_template_holds_a_script_or_a_style_of_its_own() -> None:
    for file in WEB.glob("templates/*.html"):
        text = file.read_text("utf-8")
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|javascript:|\|\s*safe\b", text), (
            file.name
        )
        assert not re.search(r"""(?:src|href|action)=["'](?:https?:)?//""", text), file.name
