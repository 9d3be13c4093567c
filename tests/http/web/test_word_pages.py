"""What pages say of people's words: whom an administrator vouches for, what others earned, and why nothing."""

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from browser import PHONE, launch, visiting
from feeder import feed
from server import Answer, RunningServer, start_server

DAY = 86_400_000
# Figures are read anew at once, so that a test need not wait for them.
EAGER = "from sparkle_lite.db import overview; overview.FRESH_S = overview.STALE_S = 0"
# An address that somebody agreed on, a /64, and one that is a member's.
AGREED, DISAGREED, CANARY = bytes([203, 0, 113, 9]), bytes.fromhex("20010db800000001"), bytes([198, 51, 100, 7])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    """A server of strangers, where nobody is vouched for unless somebody does."""
    with start_server(tmp_path / "server", '[analysis]\npreset = "tracker"\n', prelude=EAGER) as server:
        assert posted(server, "/welcome/done").status == 303
        server.run("user", "add", "alice")
        yield server


def page(server: RunningServer, path: str, user: str = "admin", language: str = "en") -> str:
    """The text of a page as a user sees it."""
    headers = {"Accept": "text/html", "Accept-Language": language, "Cookie": f"X-BTN-Token={server.token(user)}"}
    answer = server.request("GET", path, headers=headers)
    assert answer.status == 200, path
    return " ".join(re.sub(r"<[^>]+>", " ", answer.body.decode()).split())


def posted(server: RunningServer, path: str, **form: str) -> Answer:
    headers = {
        "Accept": "text/html",
        "Cookie": f"X-BTN-Token={server.token()}",
        "Sec-Fetch-Site": "same-origin",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    return server.request("POST", path, urlencode(form).encode(), headers)


def execute(server: RunningServer, sql: str, *values: Any) -> None:
    """Change the database beside the server, as an analysis of theirs or time would."""
    with closing(sqlite3.connect(server.database, isolation_level=None)) as connection:
        connection.execute(sql, values)


def id_of(server: RunningServer, name: str) -> int:
    return next(user["id"] for user in json.loads(server.run("user", "list", "--json")) if user["name"] == name)


def measure(server: RunningServer, name: str, value: float, *, voice: str = "", **addresses: list[bytes]) -> None:
    """Somebody's word as if it had been measured."""
    told = {verdict: [len(keys), [key.hex() for key in keys]] for verdict, keys in addresses.items()}
    execute(
        server,
        "INSERT INTO word (user, value, agreed, disagreed, voice, addresses) VALUES (?,?,4.5,0.25,?,?)",
        id_of(server, name),
        value,
        id_of(server, voice or name),
        json.dumps(told),
    )


def reports_for(server: RunningServer, name: str, days: int) -> None:
    """Somebody's client reports bans, the first of them days ago."""
    feed(server, server.add_app(name), bans=5)
    first = "(SELECT min(id) FROM ban WHERE userapp IN (SELECT id FROM userapp WHERE user=?))"
    newest = "(SELECT max(received_at) FROM ban)"
    execute(server, f"UPDATE ban SET received_at={newest}-? WHERE id={first}", days * DAY, id_of(server, name))


def test_an_administrator_vouches_for_somebody_and_no_more(server: RunningServer) -> None:
    alice = f"/admin/users/{id_of(server, 'alice')}"
    assert "Vouch for them Their word counts from the start" in page(server, alice)
    assert posted(server, f"{alice}/vouch").headers["location"] == f"{alice}?done=user_vouched"
    shown = page(server, alice)
    assert "Member vouched for" in shown and "An administrator vouches for this account" in shown
    assert re.search(r"alice Member vouched for", page(server, "/admin/users"))
    assert "An administrator vouches for this account" in page(server, "/account", "alice")
    assert "有管理员为此账号担保" in page(server, "/account", "alice", "zh")
    assert posted(server, f"{alice}/unvouch").status == 303
    assert "vouched for" not in page(server, alice).split("Manage")[0]
    log = page(server, "/admin/audit")
    assert "User vouched for" in log and "User no longer vouched for" in log
    assert posted(server, "/admin/users/1/unvouch").status == 409


@pytest.mark.parametrize(("preset", "vouched"), [("solo", True), ("friends", True), ("tracker", False)])
def test_the_form_follows_the_preset_and_what_is_ticked_counts(tmp_path: Path, preset: str, vouched: bool) -> None:
    with start_server(tmp_path, f'[analysis]\npreset = "{preset}"\n') as server:
        headers = {"Accept": "text/html", "Cookie": f"X-BTN-Token={server.token()}"}
        form = server.request("GET", "/admin/users", headers=headers).body.decode()
        assert bool(re.search(r'name="vouched"[^>]* checked', form)) is vouched
        assert posted(server, "/admin/users", name="ticked", vouched="yes").status == 303
        assert posted(server, "/admin/users", name="not ticked").status == 303
        users = {user["name"]: user["vouched"] for user in json.loads(server.run("user", "list", "--json"))}
        assert users == {"admin": True, "ticked": True, "not ticked": False}


def test_a_word_is_shown_with_what_it_is_made_of(server: RunningServer) -> None:
    server.run("user", "add", "bob")
    measure(server, "alice", 0.62, agreed=[AGREED] * 9, disagreed=[DISAGREED], canary=[CANARY])
    measure(server, "bob", 0.6, voice="alice")
    mine, theirs = page(server, "/account", "alice"), page(server, f"/admin/users/{id_of(server, 'alice')}")
    for shown in (mine, theirs):
        assert "This word is 0.62 of 1, and counts as 0.78 of a vote" in shown
        assert "Agreed, faded by age 4.5" in shown and "Disagreed, faded by age 0.2" in shown
        assert "Agreed (9)" in shown and "203.0.113.9/32" not in shown and "203.0.113.9" in shown
        assert "Disagreed (1)" in shown and "2001:db8:0:1::/64" in shown
        assert "Struck members (1)" in shown
    # Nobody learns from their own reports whose address is a member's, nor who the others are.
    assert "198.51.100.7" in theirs and "198.51.100.7" not in mine
    assert "One voice with bob" in theirs and "One voice with 1 other person" in mine
    assert re.search(r"alice Member 0\.62", page(server, "/admin/users"))


@pytest.mark.parametrize(
    ("addresses", "en", "zh"),
    [
        ({}, "nobody whom an administrator vouches for met the same peers", "管理员担保的人都没有遇到过相同的 Peer"),
        ({"late": [AGREED]}, "on the list already when it was reported", "在报告时都已在名单中"),
        ({"agreed": [AGREED]}, "Too few of these reports agree", "相符的报告太少"),
        ({"agreed": [AGREED], "disagreed": [DISAGREED]}, "Too many of these reports disagree", "亲眼所见不符"),
    ],
)
def test_who_reports_for_a_week_in_vain_is_told_why(
    server: RunningServer, addresses: dict[str, list[bytes]], en: str, zh: str
) -> None:
    measure(server, "alice", 0.2, **addresses)
    reports_for(server, "alice", days=6)
    assert en not in page(server, "/account", "alice")
    reports_for(server, "alice", days=8)
    shown = page(server, "/account", "alice")
    assert en in shown and "Below 0.5 it is silent" in shown and "Bans reported within 14 days 10" in shown
    assert zh in page(server, "/account", "alice", "zh")
    assert en in page(server, f"/admin/users/{id_of(server, 'alice')}")


def test_rules_in_force_that_came_of_ones_reports_are_counted(server: RunningServer) -> None:
    reports_for(server, "alice", days=0)
    with closing(sqlite3.connect(server.database)) as connection:
        [[address]] = connection.execute("SELECT max(peer_ip) FROM ban").fetchall()
    beside = bytes([*address[:3], 0])
    for target, prefix, origin, state in (
        (address, 32, "untrusted_vote", "active"),
        (beside, 24, "multi_dial", "active"),
        # These don't count: held, by hand, and where nobody of theirs met anybody.
        (address, 32, "over_download", "shadow"),
        (address, 32, "admin", "active"),
        (bytes([9, 9, 9, 9]), 32, "untrusted_vote", "active"),
        (bytes.fromhex("20010db8") + bytes(12), 64, "untrusted_vote", "active"),
    ):
        execute(
            server,
            "INSERT INTO decision (kind, address, prefix, action, state, origin, category, code, numbers, evidence,"
            " created_at) VALUES ('ip',?,?,'deny',?,?,'','','{}','{}',0)",
            target,
            prefix,
            state,
            origin,
        )
    shown = page(server, "/account", "alice")
    assert "Rules in force about what was reported 2" in shown
    assert "Cheaters met: listed now, and banned or turned away here 2" in shown
    # Bob's client turned one away because it is listed; that is no report of his.
    server.run("user", "add", "bob")
    server.add_app("bob")
    execute(
        server,
        "UPDATE ban SET btn_ban=1, userapp=(SELECT id FROM userapp WHERE user=?) WHERE peer_ip=?",
        id_of(server, "bob"),
        address,
    )
    shown = page(server, f"/admin/users/{id_of(server, 'bob')}")
    assert "Rules in force about what was reported 0" in shown
    assert "Cheaters met: listed now, and banned or turned away here 2" in shown
    assert "Rules in force about what was reported 0" in page(server, "/account")


def test_the_doctor_names_whom_to_vouch_for_where_a_list_waits_for_words(server: RunningServer) -> None:
    assert "No list waits" in server.run("doctor", "words")
    reports_for(server, "alice", days=0)
    execute(server, "INSERT INTO setting VALUES ('words_began', strftime('%s', 'now') * 1000)")
    for host in range(5):
        execute(
            server,
            "INSERT INTO decision (kind, address, prefix, action, state, origin, category, code, numbers, evidence,"
            " created_at, expires_at) VALUES ('ip',?,32,'deny','active','untrusted_vote','','','{}','{}',0,?)",
            bytes([9, 9, 9, host]),
            1 << 50,
        )
    said = server.run("doctor", "words")
    assert "untrusted_vote would end more than a fifth of its list" in said
    assert "sparkle-lite user vouch NAME" in said and "reported: alice" in said
    execute(server, "DELETE FROM setting WHERE name='words_began'")
    assert "No list waits" in server.run("doctor", "words")


def test_a_young_account_is_told_so_at_once(server: RunningServer) -> None:
    execute(server, "UPDATE user SET registered_by='self' WHERE name='alice'")
    assert "This account is younger than 7 days" in page(server, "/account", "alice")
    execute(server, "UPDATE user SET registered_at=registered_at-? WHERE name='alice'", 8 * DAY)
    assert "reported on fewer than 3 days" in page(server, "/account", "alice")


def test_the_overview_asks_to_vouch_while_others_report_and_nobody_is(server: RunningServer) -> None:
    hint = "Vouch for two to five people whom you trust"
    feed(server, server.app)
    assert hint not in page(server, "/")
    feed(server, server.add_app("alice"))
    assert hint in page(server, "/")
    assert "请为两到五位您信任的人担保" in page(server, "/", language="zh")
    assert hint not in page(server, "/", "alice")
    server.run("user", "vouch", "alice")
    assert hint not in page(server, "/")


def test_the_pages_with_a_word_are_sound_on_a_phone(server: RunningServer) -> None:
    long = [AGREED, DISAGREED, bytes.fromhex("20010db8abcdef01")]
    measure(server, "alice", 0.3, agreed=long, late=long, disagreed=long, canary=long)
    reports_for(server, "alice", days=8)
    driver, browser = launch()
    try:
        for user, paths in (
            ("admin", ("/", "/admin/users", f"/admin/users/{id_of(server, 'alice')}", "/rules/analyses")),
            ("alice", ("/account",)),
        ):
            with visiting(browser, server, server.token(user), viewport=PHONE, locale="zh") as visit:
                for path in paths:
                    visit.go(path)
                    for details in visit.page.locator("#word details").all():
                        details.locator("summary").click()
                    visit.check()
    finally:
        browser.close()
        driver.stop()


def test_what_an_address_lacks_is_told_in_words_of_people(server: RunningServer) -> None:
    feed(server, server.add_app("alice"))
    measure(server, "alice", 0.6)
    execute(server, "UPDATE ban SET ban_at=received_at")
    with closing(sqlite3.connect(server.database)) as connection:
        sql = "SELECT DISTINCT peer_ip FROM ban WHERE to_peer_traffic>64<<20"
        addresses = [".".join(map(str, row[0])) for row in connection.execute(sql)]
    told = [server.run("rules", "why", address) for address in addresses]
    assert any("  untrusted_vote: min_people is 0.8 of 3 (words of people)\n" in one for one in told)
    shown = [page(server, f"/ip/{address}?distances=1") for address in addresses]
    assert any(re.search(r"Words of people who saw it 0\.8 3 ", one) for one in shown)
