"""The manual as the server shows it: open to everybody, in both languages, and linked from the pages it explains."""

import re
from typing import Any

import pytest
from browser import DESKTOP, PHONE, visiting
from server import RunningServer

from sparkle_lite.http.web.manual import TOPICS, headings, topic
from sparkle_lite.texts import catalogue, languages

HTML = {"Accept": "text/html"}
# They have all that a page of the manual can have, and the widest tables.
LOOKED_AT = ("rules", "clients", "commands")
HELP = re.compile(r'class="help small" href="/manual/(\w+)/(\w+)(?:#([\w-]+))?"')
# Where something is explained, for whoever may see it.
EXPLAINED = (
    *("/rules", "/rules/held", "/rules/changes", "/rules/analyses", "/rules/exceptions", "/rules/reviews"),
    *(
        "/rules/dry-run",
        "/rules/deny",
        "/admin/settings",
        "/admin/settings/backups",
        "/admin/users",
        "/admin/audit",
        "/account",
        "/apps",
    ),
    *("/ip", "/ip/203.0.113.7", "/welcome/circle", "/welcome/exceptions"),
)


def page(server: RunningServer, path: str, language: str = "en", token: str = "") -> str:
    headers = {**HTML, "Accept-Language": language, "Cookie": f"X-BTN-Token={token}" if token else "x=y"}
    answer = server.request("GET", path, headers=headers)
    assert answer.status == 200, path
    return answer.body.decode()


@pytest.mark.parametrize(("language", "viewport", "scheme"), [("en", PHONE, "dark"), ("zh", DESKTOP, "light")])
def test_every_topic_is_sound_and_fits(
    shared: RunningServer, browser: Any, language: str, viewport: dict[str, int], scheme: str
) -> None:
    with visiting(browser, shared, viewport=viewport, color_scheme=scheme) as visit:
        visit.go(f"/manual/{language}")
        visit.check()
        for name in TOPICS:
            visit.page.click(f'main a[href="/manual/{language}/{name}"]')
            visit.page.wait_for_url(f"{shared.url}/manual/{language}/{name}")
            if name in LOOKED_AT:
                visit.check()
            assert visit.page.get_attribute("html", "lang") == catalogue(language)["language.tag"]
            for heading in headings(language, name):
                assert visit.page.inner_text(f"[id='{heading.anchor}']") == heading.text


@pytest.mark.parametrize("language", languages())
def test_a_topic_that_is_made_again_is_the_same(language: str) -> None:
    """As it is when it is asked for twice before anybody has seen it."""
    for name in TOPICS:
        topic.cache_clear()
        first = topic(language, name)
        topic.cache_clear()
        assert topic(language, name) == first


def test_strangers_read_it_in_their_language_and_change_that(shared: RunningServer) -> None:
    for own, other in (("en", "zh"), ("zh", "en")):
        led = shared.request("GET", "/manual", headers={**HTML, "Accept-Language": own})
        assert (led.status, led.headers["location"]) == (303, f"/manual/{own}")
        text = page(shared, f"/manual/{own}/data", other)
        assert headings(own, "data")[0].text in text
        assert f"/language?to={other}&amp;next=%2Fmanual%2F{other}%2Fdata" in text


def test_what_is_not_there_is_said_to_be_missing(shared: RunningServer) -> None:
    for path in (
        "/manual/fr",
        "/manual/en/nothing",
        "/manual/en/../../config.py",
        "/manual/fr/data",
        "/manual/zh/README",
    ):
        answer = shared.request("GET", path, headers=HTML)
        assert answer.status == 404, path
    assert "its list of contents is at /manual" in shared.request("GET", "/manual/en/x", headers=HTML).body.decode()


def test_the_example_of_a_configuration_is_there_to_copy(shared: RunningServer) -> None:
    answer = shared.request("GET", "/manual/config.example.toml")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert b"[analysis.over_download]" in answer.body


@pytest.mark.parametrize("language", languages())
def test_pages_link_to_the_passages_that_explain_them(shared: RunningServer, language: str) -> None:
    token = shared.token()
    for path in EXPLAINED:
        links = re.findall(
            r'class="help small" href="/manual/(\w+)/(\w+)(?:#([\w-]+))?"', page(shared, path, language, token)
        )
        assert links, path
        for spoken, name, anchor in links:
            assert spoken == language
            assert not anchor or anchor in {heading.anchor for heading in headings(language, name)}, (
                path,
                name,
                anchor,
            )
