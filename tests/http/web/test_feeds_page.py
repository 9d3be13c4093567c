"""The page of feeds in a real browser: the URL for each program, and the keys."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from browser import DESKTOP, PHONE, launch, visiting
from server import RunningServer, start_server, wait_for

from sparkle_lite.http.web import render
from sparkle_lite.rules.feeds import NAMES

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One Chromium for all tests."""
    driver, browser = launch()
    yield browser
    browser.close()
    driver.stop()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of friends, whose feeds are closed."""
    with start_server(tmp_path_factory.mktemp("feeds")) as server:
        yield server


def urls_of(page: Any) -> dict[str, str]:
    """The URLs that are ready to be copied, by the names of the feeds."""
    found = [text.strip() for text in page.locator(".feed pre").all_inner_texts()]
    return {url.rpartition("/")[2].partition("?")[0]: url for url in found if url.startswith("http")}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_member_gets_a_url_for_each_program_and_takes_it_back(
    server: RunningServer, browser: Any, language: Literal["en", "zh"]
) -> None:
    t = render.PageTexts(language)
    server.run("user", "add", f"reader-{language}")
    token, viewport = server.token(f"reader-{language}"), PHONE if language == "zh" else DESKTOP
    with visiting(browser, server, token, locale=language, viewport=viewport) as visit:
        page = visit.page
        visit.go("/rules")
        page.click("nav.nav a[href='/feeds']")
        visit.check()
        assert page.locator("nav.nav [aria-current]").get_attribute("href") == "/feeds"
        assert all(url.endswith("?key=KEY") for url in urls_of(page).values())
        page.fill("#name", "NAS <b>")
        # By keyboard alone.
        page.press("#name", "Enter")
        page.wait_for_selector("#feed-key")
        visit.check()
        assert page.url == f"{server.url}/feeds"
        urls = urls_of(page)
        assert list(urls) == list(NAMES)
        key = page.inner_text("#feed-key").strip()
        assert urls["ipfilter.dat"] == f"{server.url}/feeds/ipfilter.dat?key={key}"
        commands = page.locator(".feed pre[id$=-command]").all_inner_texts()
        assert f"curl -fsS -o sparkle.nft '{urls['nftables.conf']}' && nft -f sparkle.nft" in commands
        assert page.locator(".feed [data-copy]").count() == len(NAMES) + len(commands) == len(NAMES) + 4
        for name, url in urls.items():
            assert server.request("GET", url.removeprefix(server.url)).status == 200, name
        # A reload makes no second key, and shows the same.
        page.reload()
        assert page.inner_text("#feed-key").strip() == key
        visit.go("/feeds")
        assert key not in page.content()
        assert page.locator("tbody tr").count() == 1
        assert "NAS <b>" in visit.text()
        visit.check()
        page.evaluate("() => { window.confirm = (question) => question.includes('NAS <b>'); }")
        page.click("tbody .danger")
        page.wait_for_url("**/feeds?done=feed_key_revoked")
        assert str(t("done.feed_key_revoked")) in visit.text()
    assert server.request("GET", f"/feeds/cidr.txt?key={key}").status == 403


def test_a_refused_name_stays_in_the_form_and_administrators_see_all_keys(server: RunningServer, browser: Any) -> None:
    server.run("feed-key", "add", "router")
    token = server.token()
    with visiting(browser, server, token, viewport=PHONE) as visit:
        for _ in range(2):
            visit.go("/feeds")
            visit.page.fill("#name", "nas")
            visit.page.click("main form .primary")
        assert visit.page.input_value("#name") == "nas"
        assert "already" in visit.text()
        visit.check()
        visit.go("/feed-keys")
        visit.check()
        assert {"nas", "router", "Command line"} <= set(visit.text().splitlines())
        visit.page.evaluate("() => { window.confirm = () => true; }")
        visit.page.click("tr:has-text('router') .danger")
        visit.page.wait_for_url("**/feed-keys?done=feed_key_revoked")
        assert "router" not in visit.text()


def test_where_everyone_may_read_the_urls_are_shown_to_everyone(tmp_path: Path, browser: Any) -> None:
    config = '[server]\npublic_url = "https://btn.example.org/btn"\n[feeds]\nopen = true\n'
    with start_server(tmp_path / "server", config) as server, visiting(browser, server, viewport=PHONE) as visit:
        text = server.request("GET", "/feeds", headers=HTML).body.decode()
        assert re.findall(r"https://btn\.example\.org/btn/feeds/cidr4\.txt(?![?\w])", text)
        assert "?key=" not in text
        assert 'name="once"' not in text
        server.reload("[feeds]\nopen = true\n")
        visit.go("/feeds")
        visit.check()
        assert urls_of(visit.page)["cidr.txt"] == f"{server.url}/feeds/cidr.txt"
        key = server.run("feed-key", "add", "later").strip()
        server.reload("[feeds]\nopen = false\n")
        wait_for(lambda: server.request("GET", f"/feeds/cidr.txt?key={key}").status == 200, 2)
        assert server.request("GET", "/feeds", headers=HTML).headers["location"] == "/login?next=%2Ffeeds"
