"""The pages of lists: one is added by URL, tried, switched on, held back, accepted, paused and taken away."""

import json
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from browser import DESKTOP, PHONE, visiting
from list_server import ListServer, list_server
from server import RunningServer, start_server, wait_for
from test_web import asked

from sparkle_lite.http.web import render

NETWORKS = [f"45.{number >> 8}.{number & 255}.9" for number in range(60)]
HOSTILE = "<script>alert(1)</script>"


def a_list(networks: list[str]) -> str:
    return "# a list\n" + "".join(f"{network} # {HOSTILE}\n" for network in networks) + f"{HOSTILE}\n1.0.0.0/8\n"


@pytest.fixture(scope="module")
def web() -> Iterator[ListServer]:
    with list_server() as server:
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, web: ListServer) -> Iterator[RunningServer]:
    """A server whose file lets lists come from the stand-in, and has one list that is off and one that fails."""
    config = f"""
[[imports]]
name = "off"
url = "{web.url}/off.txt"
allow_private = true
enabled = false
[[imports]]
name = "failing"
url = "{web.url}/nothing.txt?key=s3cret"
allow_private = true
credit = "Somebody {HOSTILE}"
"""
    with start_server(tmp_path_factory.mktemp("lists"), config) as running:
        assert asked(running, "/rules/imports/failing/run", running.token(), {}).status == 303
        wait_for(lambda: '"failed"' in running.run("imports", "list", "--json"), 10)
        assert asked(running, "/welcome/done", running.token(), {}).status == 303
        yield running


@pytest.mark.parametrize(
    ("language", "viewport", "scheme"), [("en", PHONE, "dark"), ("zh", PHONE, "light"), ("en", DESKTOP, "light")]
)
def test_a_list_is_added_tried_switched_on_and_found_by_its_addresses(
    server: RunningServer,
    web: ListServer,
    browser: Any,
    language: Literal["en", "zh"],
    viewport: dict[str, int],
    scheme: Literal["dark", "light"],
) -> None:
    t, name = render.PageTexts(language), f"{language}-{scheme}-{viewport['width']}"
    url = web.serve(f"/{name}.txt", a_list(NETWORKS))
    settings: dict[str, Any] = {"locale": language, "viewport": viewport, "color_scheme": scheme}
    with visiting(browser, server, server.token(), **settings) as visit:
        page = visit.page
        page.on("dialog", lambda dialog: dialog.accept())
        visit.go("/rules/imports")
        visit.check()
        page.fill("#url", url)
        page.fill("#name", name)
        page.click("form:has(#url) button.primary")
        # Nothing counts before it is switched on.
        assert str(t("imports.page.would_about")) in visit.text()
        assert NETWORKS[0] in visit.text() and HOSTILE in visit.text()
        visit.check()
        assert server.get(f"/ip/{NETWORKS[0]}").status == 200
        assert f"import:{name}" not in server.run("rules", "list", "--json")
        page.click("main form .primary")
        assert page.url.startswith(f"{server.url}/rules/imports/{name}")
        page.wait_for_selector(f".badge.good:has-text('{t('imports.state.on')}')")
        visit.check()
        visit.go(f"/ip/{NETWORKS[3]}")
        assert str(t("why.listed")) in visit.text() and name in visit.text() and HOSTILE in visit.text()
        # It is emptied at its source: what stands stays, and says why, until somebody accepts it.
        web.serve(f"/{name}.txt", "# moved\n")
        visit.go(f"/rules/imports/{name}")
        page.click(f"button:has-text('{t('imports.page.run')}')")
        page.wait_for_selector(f"button:has-text('{t('imports.page.accept')}')")
        assert str(t("imports.why.empty")) in visit.text()
        visit.check()
        visit.faults.clear()
        page.click(f"button:has-text('{t('imports.page.pause')}')")
        assert str(t("imports.state.paused")) in visit.text()
        page.click(f"button:has-text('{t('imports.page.resume')}')")
        page.click(f"button:has-text('{t('imports.page.remove')}')")
        page.wait_for_url(f"{server.url}/rules/imports?done=list_removed")
        assert name not in page.inner_text("main table")
        visit.faults.clear()
    assert f"import:{name}" not in server.run("rules", "list", "--json")


def test_what_a_form_says_wrong_is_named_and_kept(server: RunningServer, web: ListServer) -> None:
    token = server.token()
    page = web.serve("/page.html", "<!DOCTYPE html><title>Hello</title>")
    for form, said in (
        ({"url": ""}, "Say where the list is"),
        ({"url": "ftp://example.org/x"}, "must be an absolute http or https URL"),
        ({"url": "https://me:pw@example.org/x"}, "holds a user name"),
        ({"url": "http://127.0.0.1:1/x"}, "private network"),
        ({"url": "http://169.254.169.254/latest/meta-data"}, "private network"),
        ({"url": page}, "a web page, no list"),
        ({"url": page, "name": "A b"}, "is no name of a list"),
        ({"url": page, "widest": "5"}, "two prefix lengths"),
        ({"url": page, "category": "x" * 65}, "is not a category"),
    ):
        answer = asked(server, "/rules/try-import", token, {"name": "wrong", **form})
        text = answer.body.decode()
        assert answer.status in (400, 403, 409) and said in text and "pw@" not in text.partition("<form")[0], form
        assert 'value="wrong"' in text or "name" in form
    assert asked(server, "/rules/add-import", token, {"url": page, "name": "failing"}).status == 409
    for act in ("run", "pause", "resume", "remove"):
        assert asked(server, f"/rules/imports/nothing/{act}", token, {}).status == 404
    assert asked(server, "/rules/imports/off/run", token, {}).status == 409
    assert asked(server, "/rules/imports/failing/remove", token, {}).status == 409


def test_a_member_sees_the_lists_and_changes_none(server: RunningServer) -> None:
    server.run("user", "add", "member")
    token = server.token("member")
    text = asked(server, "/rules/imports", token).body.decode()
    assert "failing" in text and "s3cret" not in text and "<form" not in text.partition("<main")[2]
    detail = asked(server, "/rules/imports/failing", token).body.decode()
    assert "s3cret" not in detail and HOSTILE not in detail and "404" in detail
    assert asked(server, "/rules/imports/nothing", token).status == 404
    assert "s3cret" not in server.run("config", "show")
    wait_for(lambda: any("failing stays" in str(line) for line in server.logged()), 20)
    assert "s3cret" not in "\n".join(map(str, server.logged()))


def test_a_long_list_is_read_beside_the_server(server: RunningServer, web: ListServer) -> None:
    """The same as a short one: taken over, held back when it shrinks, accepted, and gone when it is removed."""
    many = [f"46.{number >> 8}.{number & 255}.0/24" for number in range(10_000)]
    web.serve("/long.txt", a_list(many))
    token = server.token()
    form = {"url": f"{web.url}/long.txt", "name": "long"}
    tried = asked(server, "/rules/try-import", token, form).body.decode()
    assert "10,000" in tried and many[0] in tried and "10,000" not in server.run("imports", "list")

    def status() -> dict[str, Any]:
        lists: list[dict[str, Any]] = json.loads(server.run("imports", "list", "--json"))
        return next((one for one in lists if one["name"] == "long"), {})

    assert asked(server, "/rules/add-import", token, form).status == 303
    wait_for(lambda: status().get("state") == "on", 20)
    assert status()["entries"] == 10_000
    wait_for(lambda: "46.39.15.0/24" in server.get("/ping/ruleIpDenylist").body.decode(), 5)
    web.serve("/long.txt", a_list(many[:4_900]))
    asked(server, "/rules/imports/long/run", token, {})
    wait_for(lambda: status()["state"] == "held", 20)
    assert "10,000 entries, and has only 4,900" in asked(server, "/rules/imports/long", token).body.decode()
    asked(server, "/rules/imports/long/run", token, {"accept": "1"})
    wait_for(lambda: status()["state"] == "on", 20)
    assert status()["entries"] == 4_900
    asked(server, "/rules/imports/long/remove", token, {})
    assert status() == {} and "import:long" not in server.run("rules", "list", "--json")
