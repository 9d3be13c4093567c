"""What the analyses make of a few told stories: who is listed and, above all, who is not."""

import asyncio
import dataclasses
import itertools
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from reports import DAY, DIALING, GIB, HOUR, MINUTE, NOW, Reporter, World, settings_of

from sparkle_lite import config
from sparkle_lite.analyses import worker
from sparkle_lite.analyses.evidence_table import CHEAT as CHEATING
from sparkle_lite.analyses.evidence_table import EVIDENCE, Line
from sparkle_lite.analyses.numbers import counts, spans
from sparkle_lite.analyses.parameters import parameters
from sparkle_lite.analyses.registry import ANALYSES, schema_of
from sparkle_lite.errors import ConfigError, SparkleError
from sparkle_lite.net import Network
from sparkle_lite.rules.findings import Finding
from sparkle_lite.rules.reasons import one_line, reason
from sparkle_lite.texts import catalogue
from sparkle_lite.wire import matchers
from sparkle_lite.wire.dialect import Family

CHEATER = "203.0.113.5"
NO_TORRENT = "7e071fd9b023ed8f18458a73613a0834f6220bd5cc50357ba3493c6040a9ea8c"
QBCB = "com.SimpleTracker.qBCB."
IMPL = "com.ghostchu.peerbanhelper.module.impl.rule."


def order(world: World, name: str) -> worker.AnalysisOrder:
    return worker.order_of(name, world.database, settings_of("friends"), NOW)


def report_cheater(reporters: list[Reporter], ip: str = CHEATER, **more: Any) -> None:
    """Everybody saw it on two torrents."""
    for reporter, torrent in itertools.product(reporters, ("linux", "bsd")):
        reporter.ban(ip, torrent, **more)


# --- Votes ------------------------------------------------------------------------------------------------------------


async def test_three_friends_who_saw_a_peer_cheat_on_two_torrents_are_enough_on_the_same_day(world: World) -> None:
    report_cheater(world.friends(3))
    found = await world.find("untrusted_vote")
    assert list(found) == [CHEATER]
    finding = found[CHEATER]
    assert (finding.code, finding.people, finding.numbers["torrents"], finding.numbers["days"]) == (
        "progress_cheater", 3, 2, 1,
    )  # fmt: skip
    assert finding.first_seen == finding.last_seen == NOW - HOUR
    # Three votes are enough until they have lost half of their weight: one half-life.
    assert NOW + 2.8 * DAY < finding.expires < NOW + 3 * DAY
    assert len(finding.decisive) == 3


async def test_two_friends_are_not_enough_and_neither_are_three_with_one_torrent_on_one_day(world: World) -> None:
    friends = world.friends(3)
    report_cheater(friends[:2])
    for friend in friends:
        friend.ban("203.0.113.6")
    assert await world.find("untrusted_vote") == {}
    distances = await world.distances(CHEATER)
    assert distances["untrusted_vote", "min_people"] == (2, 3)
    assert (await world.distances("203.0.113.6"))["untrusted_vote", "min_torrents"] == (1, 2)


async def test_one_torrent_on_several_days_is_enough(world: World) -> None:
    for friend in world.friends(3):
        friend.ban(CHEATER, ago=HOUR)
        friend.ban(CHEATER, ago=2 * DAY)
    assert list(await world.find("untrusted_vote")) == [CHEATER]


async def test_a_person_alone_decides_for_themselves(world: World) -> None:
    report_cheater(world.friends(1))
    assert list(await world.find("untrusted_vote", settings_of("solo"))) == [CHEATER]


async def test_a_public_server_wants_more_people_and_more_than_a_day(world: World) -> None:
    friends = world.friends(5)
    report_cheater(friends)
    public = settings_of("public")
    assert await world.find("untrusted_vote", public) == {}
    report_cheater(friends, ago=2 * DAY)
    assert list(await world.find("untrusted_vote", public)) == [CHEATER]


async def test_a_poisoner_with_fifty_applications_has_one_vote(world: World) -> None:
    poisoner = world.person("poisoner")
    apps = [Reporter(world, world.app(poisoner), f"82.1.{n}.1") for n in range(50)]
    report_cheater(apps)
    report_cheater(world.friends(1))
    assert await world.find("untrusted_vote") == {}
    assert (await world.distances(CHEATER))["untrusted_vote", "min_people"] == (2, 3)


async def test_a_poisoner_with_five_old_accounts_in_one_network_has_one_vote(world: World) -> None:
    apps = [
        Reporter(world, world.app(world.person(f"p{n}", by="self", active_days=9, vouched=True)), f"82.1.1.{n}")
        for n in range(5)
    ]
    report_cheater(apps)
    report_cheater(world.friends(1))
    assert await world.find("untrusted_vote") == {}
    assert (await world.distances(CHEATER))["untrusted_vote", "min_people"] == (2, 3)


@pytest.mark.parametrize(
    ("age", "active_days", "counts"),
    [
        (7 * DAY, 3, True),
        (7 * DAY - 1, 3, False),
        (100 * DAY, 2, False),
        (0, 0, False),
    ],
)
async def test_accounts_that_registered_themselves_mature(
    world: World, age: int, active_days: int, counts: bool
) -> None:
    # Their reports are activity too, so all of them come on a day that counts already.
    report_cheater(world.friends(3, by="self", age=age, active_days=active_days, word=0.9), ago=0)
    assert (CHEATER in await world.find("untrusted_vote")) == counts


async def test_activity_is_also_what_the_segments_tell(world: World) -> None:
    friends = world.friends(3, by="self", word=0.9)
    report_cheater(friends, ago=0)
    for friend in friends:
        friend.swarm("203.0.113.99", to=1, ago=DAY)
    await world.close_segments()
    assert await world.find("untrusted_vote") == {}
    for friend in friends:
        friend.snapshot("203.0.113.99", to=1, ago=2 * DAY)
    assert list(await world.find("untrusted_vote")) == [CHEATER]


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE user SET banned_at=1 WHERE id=(SELECT max(user) FROM userapp)",
        "UPDATE userapp SET banned_at=1 WHERE id=(SELECT max(id) FROM userapp)",
        "UPDATE userapp SET deleted_at=1 WHERE id=(SELECT max(id) FROM userapp)",
        "UPDATE user SET name_key='anonymous' WHERE id=(SELECT max(user) FROM userapp)",
    ],
)
async def test_who_is_banned_deleted_or_nobody_loses_the_vote_at_once(world: World, sql: str) -> None:
    report_cheater(world.friends(3))
    assert list(await world.find("untrusted_vote")) == [CHEATER]
    world.main.execute(sql)
    assert await world.find("untrusted_vote") == {}


@pytest.mark.parametrize(
    "report",
    [
        {"btn_ban": 1},
        {"private": 1},
        {"module": f"{IMPL}PeerIdBlacklist"},
        {"module": f"{IMPL}IPBlackRuleList"},
        {"module": f"{IMPL}AntiVampire"},
        {"module": f"{IMPL}IdleConnectionDosProtection"},
        {"module": "ProgressCheatBlocker; DROP TABLE ban", "rule": "pcb:difference"},
        {"module": "ProgressCheatBlocker", "rule": None},
        {"module": "ProgressCheatBlocker", "rule": "pcb:fast-test"},
        {"module": "ProgressCheatBlocker", "rule": "pcb:excessive-incomplete"},
        {"module": "ProgressCheatBlocker", "rule": "pcb:rewind "},
        {"module": "MultiDialingBlocker", "rule": "mdb:hunting"},
        {"module": "AntiVampire", "rule": "AntiVampire"},
        {"module": f"{QBCB}CheckPeer", "rule": "Bad-Client_Normal"},
        {"module": f"{QBCB}CheckPeer", "rule": "Bad-Relative_Progress_Uploaded"},
        {"module": f"{QBCB}CheckAllTorrent", "rule": "Torrent-Too high uploaded"},
        {"module": f"{QBCB}CheckAllIP", "rule": "Too many ports"},
        {"torrent": NO_TORRENT},
        {"said": 15 * DAY},
        {"ago": 15 * DAY},
    ],
)
async def test_what_is_no_evidence_lists_nobody(world: World, report: dict[str, Any]) -> None:
    for friend, torrent in itertools.product(world.friends(4), ("linux", "bsd")):
        friend.ban(CHEATER, **({"torrent": torrent} | report))
    assert await world.find("untrusted_vote") == {}


@pytest.mark.parametrize("line", [line for line in EVIDENCE if line.group == CHEATING], ids=str)
async def test_every_clients_way_to_name_a_progress_cheater_counts(world: World, line: Line) -> None:
    report_cheater(world.friends(3), module=line.module, rule=line.rule or "谎报进度")
    finding = (await world.find("untrusted_vote"))[CHEATER]
    # A report is one, however many lines its module has.
    assert (finding.code, finding.numbers["reports"]) == ("progress_cheater", 6)


def test_a_line_of_the_table_tells_its_program_by_the_form_of_its_module() -> None:
    forms = {Family.PEERBANHELPER: IMPL, Family.QBCB: QBCB, Family.RUST: "", Family.LIBRETORRENT: ""}
    for line in EVIDENCE:
        prefix = forms[line.family]
        assert line.module.startswith(prefix) and "." not in line.module.removeprefix(prefix)
        # Sentences in a user's language tell nothing, fixed words do.
        assert (line.rule is None) == (line.family is Family.PEERBANHELPER)
    assert len({(line.module, line.rule) for line in EVIDENCE}) == len(EVIDENCE)


async def test_other_modules_count_with_more_people(world: World) -> None:
    friends = world.friends(4)
    report_cheater(friends[:3], module=DIALING)
    assert await world.find("untrusted_vote") == {}
    report_cheater(friends[3:])
    finding = (await world.find("untrusted_vote"))[CHEATER]
    assert (finding.code, finding.people, len(finding.decisive)) == ("reported_peer", 4, 4)


async def test_the_two_byte_orders_name_the_same_torrents(world: World) -> None:
    for friend in world.friends(3):
        friend.ban(CHEATER, "linux")
        friend.ban(CHEATER, "linux", big_endian=1)
    assert await world.find("untrusted_vote") == {}


async def test_back_dated_bans_count_when_they_happened(world: World) -> None:
    report_cheater(world.friends(3), said=9 * DAY, ago=MINUTE)
    assert await world.find("untrusted_vote") == {}
    report_cheater(world.friends(3), "203.0.113.7", said=-9 * DAY, ago=MINUTE)
    assert (await world.find("untrusted_vote"))["203.0.113.7"].last_seen == NOW - MINUTE


async def test_who_gives_is_spoken_for_by_whom_it_gave_to(world: World) -> None:
    friends = world.friends(5)
    report_cheater(friends[:3])
    friends[3].swarm(CHEATER, "other", to=GIB, got=2 * GIB)
    assert await world.find("untrusted_vote") == {}
    await world.close_segments()
    assert await world.find("untrusted_vote") == {}
    report_cheater(friends[4:])
    finding = (await world.find("untrusted_vote"))[CHEATER]
    # Half a word speaks for it.
    assert (finding.people, finding.numbers["words"], finding.numbers["against"]) == (4, 3.5, 0.5)


async def test_a_poisoner_can_not_speak_for_a_cheater_with_an_account_that_does_not_count(world: World) -> None:
    report_cheater(world.friends(3))
    world.friends(1, by="self", age=0)[0].swarm(CHEATER, to=0, got=1 << 62)
    assert list(await world.find("untrusted_vote")) == [CHEATER]


async def test_votes_fade_and_fade_slower_when_they_recur(world: World) -> None:
    friends = world.friends(3)
    report_cheater(friends, ago=0)
    assert list(await world.find("untrusted_vote", now=NOW + 3 * DAY - HOUR)) == [CHEATER]
    assert await world.find("untrusted_vote", now=NOW + 3 * DAY + HOUR) == {}
    report_cheater(friends, ago=5 * DAY)
    assert list(await world.find("untrusted_vote", now=NOW + 6 * DAY - HOUR)) == [CHEATER]
    for day in range(1, 9):
        report_cheater(friends, ago=day * DAY)
    # However often it was, nothing is left a window after the last report.
    assert (await world.find("untrusted_vote"))[CHEATER].expires <= NOW + 14 * DAY
    assert await world.find("untrusted_vote", now=NOW + 14 * DAY) == {}


@pytest.mark.parametrize("moment", ["received", "said"])
async def test_the_window_ends_to_the_millisecond(world: World, moment: str) -> None:
    friends = world.friends(3)
    long = {"half_life": "366d"}
    when = {"ago": 14 * DAY} if moment == "received" else {"ago": 0, "said": 14 * DAY}
    report_cheater(friends, **when)
    # A millisecond earlier it still was; the reports that tell it afterwards had not come then.
    assert await world.find("untrusted_vote", now=NOW, **long) == {}
    assert list(await world.find("untrusted_vote", now=NOW - 1, **long)) == ([CHEATER] if moment == "received" else [])
    inside = {name: value - 1 for name, value in when.items() if value}
    report_cheater(friends, "203.0.113.8", **({"ago": 0} | inside))
    assert list(await world.find("untrusted_vote", **long)) == ["203.0.113.8"]
    assert await world.find("untrusted_vote", window="13d", **long) == {}


async def test_an_ipv6_peer_is_its_64(world: World) -> None:
    for number, friend in enumerate(world.friends(3)):
        friend.ban(f"2001:db8:1:2::{number}", "linux")
        friend.ban("2001:db8:1:2:ffff:ffff:ffff:ffff", "bsd")
        friend.ban("2001:db8:1:3::1", "linux")
    assert list(await world.find("untrusted_vote")) == ["2001:db8:1:2::/64"]
    assert (await world.distances("2001:db8:1:2::77"))["untrusted_vote", "min_people"] == (3, 3)
    assert await world.distances("2001:db8:2::77") == {}


async def test_hostile_numbers_break_nothing(world: World) -> None:
    huge = (1 << 63) - 1
    friends = world.friends(3)
    for friend, torrent in itertools.product(friends, ("linux", "bsd")):
        friend.ban(CHEATER, torrent, said=huge // 2, from_peer_traffic=huge, to_peer_traffic=huge)
        for count in range(3):
            friend.swarm(CHEATER, torrent, to=huge, got=-huge - 1, said=-huge // 2, size=huge, port=count)
            friend.swarm("203.0.113.6", torrent, to=huge, got=huge, began=-huge // 2, size=1)
            friend.snapshot(CHEATER, torrent, to=huge, got=-1)
    for name in ANALYSES:
        await world.find(name, min_people=1)


# --- Over-downloads ---------------------------------------------------------------------------------------------------


async def test_who_takes_a_torrent_from_everybody_on_several_days_is_listed(world: World) -> None:
    for friend in world.friends(3):
        friend.swarm(CHEATER, to=GIB, ago=HOUR)
        friend.swarm(CHEATER, to=GIB, ago=2 * DAY, began=3 * DAY)
    finding = (await world.find("over_download"))[CHEATER]
    # Each person's word is worth no more than 110 %.
    assert (finding.people, finding.numbers["percent"], finding.numbers["peers"]) == (3, 330, 1)
    assert finding.numbers["taken_bytes"] == 3 * -(-110 * GIB // 100)
    assert len(finding.decisive) == 3


async def test_the_honest_are_not_over_downloaders(world: World) -> None:
    friends = world.friends(6)
    for friend, day in itertools.product(friends, (0, 2)):
        # A house behind one address: several clients, each taking the torrent once.
        for port in range(3):
            friend.swarm("203.0.113.1", to=GIB // 2, ago=day * DAY, began=day * DAY + HOUR, port=7000 + port)
        # Somebody who lost a disk: twice the torrent, from several people.
        friend.swarm("203.0.113.2", to=GIB // 6, ago=day * DAY, began=day * DAY + HOUR)
        # A seedbox that takes a lot and gives more.
        friend.swarm("203.0.113.3", to=GIB, got=2 * GIB, ago=day * DAY, began=day * DAY + HOUR)
        # A peer of a private tracker.
        friend.swarm("203.0.113.4", "private", to=GIB, ago=day * DAY, began=day * DAY + HOUR, private=1)
        # One of which nobody knows the torrent's size.
        friend.swarm("203.0.113.6", "unknown", to=GIB, ago=day * DAY, began=day * DAY + HOUR, size=0)
        friend.swarm("203.0.113.7", NO_TORRENT, to=GIB, ago=day * DAY, began=day * DAY + HOUR)
        # A total that grew long ago and little since.
        friend.swarm("203.0.113.8", to=50 * GIB + day, ago=day * DAY, began=99 * DAY, version=friend.app)
    assert await world.find("over_download") == {}


async def test_one_reporter_with_impossible_numbers_lists_nobody(world: World) -> None:
    poisoner = world.friends(1)[0]
    other = world.friends(2)
    for day in (0, 1, 2):
        poisoner.swarm(CHEATER, to=1 << 62, ago=day * DAY, size=1 << 20)
        for friend in other:
            friend.swarm(CHEATER, to=GIB // 10, ago=day * DAY)
    assert await world.find("over_download") == {}
    assert (await world.distances(CHEATER))["over_download", "min_percent"][0] < 250


async def test_the_size_of_a_torrent_is_what_most_people_say(world: World) -> None:
    friends = world.friends(4)
    for friend, day in itertools.product(friends, (0, 2)):
        friend.swarm(CHEATER, to=GIB, ago=day * DAY, began=day * DAY + HOUR, size=1 if friend is friends[0] else GIB)
    assert (await world.find("over_download"))[CHEATER].numbers["size_bytes"] == GIB


async def test_accounts_in_one_network_together_say_no_more_than_one(world: World) -> None:
    friends = world.friends(2)
    crowd = [Reporter(world, world.app(world.person(f"p{n}")), f"82.1.1.{n}") for n in range(9)]
    for reporter, day in itertools.product((*friends, *crowd), (0, 2)):
        reporter.swarm(CHEATER, to=(GIB if reporter in crowd else GIB // 10), ago=day * DAY, began=day * DAY + HOUR)
    assert await world.find("over_download") == {}


async def test_the_window_of_over_downloads_ends_to_the_millisecond(world: World) -> None:
    friends = world.friends(3)
    for friend, torrent in itertools.product(friends, ("linux", "bsd")):
        friend.swarm(CHEATER, torrent, to=GIB, ago=7 * DAY, began=7 * DAY)
        friend.swarm("203.0.113.6", torrent, to=GIB, ago=0, said=7 * DAY, began=7 * DAY)
    assert sorted(await world.find("over_download", lifetime="8d")) == [CHEATER, "203.0.113.6"]
    assert await world.find("over_download", now=NOW + 1, lifetime="8d") == {}
    # Within the window, but the evidence is older than it lasts.
    assert await world.find("over_download", lifetime="7d") == {}


# --- Many at once -----------------------------------------------------------------------------------------------------


def download_many(world: World, reporters: list[Reporter], ip: str, torrents: int, **more: Any) -> None:
    for number in range(torrents):
        reporters[number % len(reporters)].snapshot(ip, f"t{number}", to=GIB, **more)


async def test_who_downloads_many_torrents_at_once_and_gives_nothing_is_found(world: World) -> None:
    friends = world.friends(3)
    download_many(world, friends[:1], CHEATER, 10)
    await world.close_segments()
    download_many(world, friends, CHEATER, 30)
    finding = (await world.find("concurrent_download"))[CHEATER]
    assert (finding.people, finding.numbers["torrents"], finding.numbers["buckets"]) == (3, 30, 1)
    assert finding.expires == NOW - HOUR + 2 * DAY


async def test_the_honest_are_not_found_for_downloading_many_torrents(world: World) -> None:
    friends = world.friends(3)
    # A campus: somebody there gives something.
    download_many(world, friends, "203.0.113.1", 40)
    friends[0].swarm("203.0.113.1", "other", to=0, got=2 << 20)
    # Somebody busy, one torrent after the other.
    for number in range(40):
        friends[number % 3].snapshot("203.0.113.2", f"t{number}", to=GIB, ago=HOUR + number * 11 * MINUTE)
    # Connections on which next to nothing flows; a seed; an old sighting, resent.
    for number in range(40):
        friends[number % 3].snapshot("203.0.113.3", f"t{number}", to=1000)
        friends[number % 3].snapshot("203.0.113.4", f"t{number}", to=GIB, peer_progress=1.0)
        friends[number % 3].swarm("203.0.113.6", f"t{number}", to=GIB, said=2 * DAY, began=3 * DAY)
    # Two people, or only one torrent fewer than it takes.
    download_many(world, friends[:2], "203.0.113.7", 40)
    download_many(world, friends, "203.0.113.8", 29)
    assert await world.find("concurrent_download") == {}
    assert list(await world.find("concurrent_download", min_torrents=29)) == ["203.0.113.8"]


async def test_half_an_hour_is_half_an_hour(world: World) -> None:
    friends = world.friends(3)
    start = 30 * MINUTE - NOW % (30 * MINUTE)
    for number in range(30):
        friends[number % 3].snapshot(CHEATER, f"t{number}", to=GIB, ago=HOUR - start + (number % 2) * (30 * MINUTE - 1))
    at = NOW - HOUR + start
    assert at % (30 * MINUTE) == 0
    # The first half came exactly when a bucket begins, the rest a millisecond after the beginning of the one before.
    assert await world.find("concurrent_download") == {}
    for number in range(30):
        friends[number % 3].snapshot(CHEATER, f"t{number}", to=GIB, ago=HOUR - start - (30 * MINUTE - 1))
    assert list(await world.find("concurrent_download")) == [CHEATER]


# --- Identities -------------------------------------------------------------------------------------------------------


async def test_a_name_that_only_others_bear_becomes_a_rule_of_ours(world: World) -> None:
    hostile = 'Rain 0.0.0\n0.0.0.0/0"},{"method'
    for number, friend in enumerate(world.friends(3)):
        for host in range(3):
            ip = f"203.0.113.{3 * number + host}"
            friend.swarm(ip, f"t{number}", to=GIB, client=("-XX0001-", hostile))
            # Gopeed's own users bear its name rightly, and most of its bearers do.
            peer_id = "-GP0001-" if host else "-XX0001-"
            friend.swarm(ip, f"t{number}", to=GIB, client=(peer_id, "Gopeed dev"))
    found = await world.find("client_identity")
    assert len(found) == 1
    ((text, finding),) = found.items()
    assert matchers.parse(text).pbh() == text == '{"method":"STARTS_WITH","content":"Rain 0.0.0","miss":"DEFAULT"}'
    assert (finding.people, finding.numbers["addresses"], finding.numbers["percent"]) == (3, 9, 100)
    await world.close_segments()
    assert list(await world.find("client_identity")) == [text]


async def test_peer_ids_of_no_known_shape_become_one_rule(world: World) -> None:
    random = ("k3j9x0qz", "Zp0Q8d1x", "00000000", "Ãx9f2k1l", "qwertyui", "M7f83k2j")
    for number, friend in enumerate(world.friends(3)):
        for host, peer_id in enumerate(random):
            friend.snapshot(f"203.0.113.{host}", f"t{number}", to=GIB, client=(peer_id, peer_id))
    ((text, finding),) = (await world.find("client_identity")).items()
    rule = matchers.parse(text)
    assert finding.code == "random_identity" and all(rule.matches(peer_id) for peer_id in random)
    known = ("-qB4650-", "-TR4050-", "A2-1-37-", "M7-9-0--", "T03I----", "exbc\x00\x01", "XBT08---", "S58B----", "")
    assert not any(rule.matches(peer_id) for peer_id in known)


async def test_people_who_are_given_to_see_no_disguise(world: World) -> None:
    for number, friend in enumerate(world.friends(3)):
        for host in range(5):
            friend.swarm(f"203.0.113.{host}", f"t{number}", to=GIB, got=GIB, client=("-XX0001-", "Rain 0.0.0"))
    assert await world.find("client_identity") == {}


# --- Prefixes ---------------------------------------------------------------------------------------------------------


async def test_a_dialer_with_eight_qualifying_hosts_is_its_24(world: World) -> None:
    friends = world.friends(4)
    for host, friend in itertools.product(range(7), friends[:2]):
        friend.ban(f"203.0.113.{host}")
        friend.ban(f"203.0.113.{host}", module=DIALING)
    for friend in friends[2:]:
        friend.ban("203.0.113.0", "bsd")
    assert await world.find("multi_dial") == {}
    assert (await world.distances("203.0.113.200"))["multi_dial", "min_hosts"] == (7, 8)
    for friend in friends[:2]:
        friend.ban("203.0.113.255")
    found = await world.find("multi_dial")
    assert list(found) == ["203.0.113.0/24"]
    finding = found["203.0.113.0/24"]
    # Votes are counted anew over all members.
    assert (finding.people, finding.numbers["members"], finding.numbers["sharing"]) == (4, 8, 8)


async def test_neighbours_who_do_not_qualify_by_themselves_make_no_prefix(world: World) -> None:
    friends = world.friends(8)
    for host, friend in enumerate(friends):
        # Each host has one vote; together they would have eight.
        friend.ban(f"203.0.113.{host}", "linux")
        friend.ban(f"203.0.113.{host}", "bsd")
        # Two people everywhere: enough for each member, too few for the prefix.
        for other in friends[:2]:
            other.ban(f"203.0.114.{host}", "linux")
            other.ban(f"203.0.114.{host}", "bsd")
    # Members that have no torrent in common are neighbours, not one dialer.
    for host, friend in itertools.product(range(8), friends[:3]):
        friend.ban(f"203.0.115.{host}", f"t{host}")
        # Somebody to whom some of them gave.
        friend.ban(f"203.0.116.{host}", "linux")
        friend.ban(f"203.0.116.{host}", "bsd")
        friends[3 + host % 3].swarm(f"203.0.116.{host}", to=GIB, got=GIB)
    assert await world.find("multi_dial") == {}


async def test_three_qualifying_64_are_their_56(world: World) -> None:
    for subnet, friend, torrent in itertools.product(range(3), world.friends(3), ("linux", "bsd")):
        friend.ban(f"2001:db8:1:{subnet}::1", torrent)
        friend.ban(f"2001:db8:2:{subnet * 256:x}::1", torrent)
        friend.ban(f"2001:db8:3:1::{subnet}", torrent)
    assert list(await world.find("multi_dial")) == ["2001:db8:1::/56"]


# --- Numbers, sentences, versions -------------------------------------------------------------------------------------


def test_what_an_analysis_declares_is_what_the_configuration_has_for_it(tmp_path: Path) -> None:
    numbers = {"min_people": counts(1, 2, 3, 4), "window": spans("2d")}
    made_up = dataclasses.replace(ANALYSES["over_download"], name="made_up", numbers=numbers)
    schema, file = schema_of([made_up]), tmp_path / "config.toml"
    file.write_text("[analysis.made_up]\nmin_people = 9\nmode = 'on'\n", "utf-8")
    read = config.load(schema, file, {"SPARKLE_ANALYSIS__MADE_UP__WINDOW": "3h"})
    assert '[analysis.made_up]\nmode = "on"\nmin_people = 9\nwindow = "3h"\n' in config.show(read)
    assert config.given(schema, file, {}) == dict.fromkeys(
        ("analysis.made_up.min_people", "analysis.made_up.mode"), "config.toml"
    )
    file.write_text("[analysis.made_up]\nmin_poeple = 9\nwindow = '1s'\n[analysis.multi_dial]\nmode = 'on'\n", "utf-8")
    with pytest.raises(ConfigError) as wrong:
        config.load(schema, file, {"SPARKLE_ANALYSIS__MADE_UP__MIN_PEPLE": "3"})
    assert [line.partition("config.toml:")[2] or line for line in wrong.value.lines] == [
        '2: analysis.made_up.min_poeple: there is no such key; did you mean "min_people"?',
        '3: analysis.made_up.window: "1s" is too small; write "1m" or more',
        "4: analysis.multi_dial: there is no such key; known here: preset, account_age, active_days, min_harm,"
        " private_torrents, made_up",
        "SPARKLE_ANALYSIS__MADE_UP__MIN_PEPLE: there is no such setting;"
        " did you mean SPARKLE_ANALYSIS__MADE_UP__MIN_PEOPLE?",
    ]


@pytest.mark.parametrize("name", ANALYSES)
def test_the_example_tells_the_presets(name: str) -> None:
    text = (Path(__file__).parents[2] / "config.example.toml").read_text("utf-8")
    section = re.split(r"^\[", text.split(f"[analysis.{name}]")[1], flags=re.MULTILINE)[0]
    for key, number in ANALYSES[name].keys.items():
        columns = tuple(number.by_preset.values())
        told = " | ".join(map(str, columns)) if len(set(columns)) > 1 else str(columns[0])
        assert re.search(rf"^{key} = \S+ +# {re.escape(told)}: ", section, re.MULTILINE), (key, told)


def test_what_is_set_by_hand_wins_over_the_preset_and_what_is_tried_wins_over_both() -> None:
    settings = settings_of("solo")
    assert parameters("untrusted_vote", settings).numbers["min_people"] == 1
    settings = settings_of("solo", untrusted_vote={"min_people": 7, "mode": "shadow"})
    chosen = parameters("untrusted_vote", settings)
    assert (chosen.mode, chosen.numbers["min_people"], chosen.numbers["min_torrents"]) == ("shadow", 7, 2)
    tried = parameters("untrusted_vote", settings, {"min_people": "9", "window": "2d", "mode": "on"})
    assert (tried.mode, tried.numbers["min_people"], tried.numbers["window"]) == ("on", 9, 2 * DAY)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("untrusted", {}),
        ("untrusted_vote", {"min_poeple": 1}),
        ("untrusted_vote", {"min_people": "many"}),
        ("untrusted_vote", {"window": "ten days"}),
        ("untrusted_vote", {"mode": "perhaps"}),
        ("over_download", {"min_people": -1}),
    ],
)
def test_numbers_that_make_no_sense_are_refused(name: str, overrides: dict[str, str | int]) -> None:
    with pytest.raises(SparkleError):
        parameters(name, settings_of("friends"), overrides)


def test_strict_circles_ask_for_no_less_than_loose_ones() -> None:
    for name, analysis in ANALYSES.items():
        for key in ("min_people", "min_people_any", "min_traffic", "min_addresses", "min_days"):
            if key in analysis.numbers:
                columns = [int(value) for value in analysis.numbers[key].by_preset.values()]
                assert len(columns) == 4 and columns == sorted(columns), (name, key)


async def test_every_finding_has_a_sentence_of_one_line(world: World) -> None:
    friends = world.friends(4)
    report_cheater(friends)
    report_cheater(friends, "203.0.113.6", module=DIALING)
    for friend, day in itertools.product(friends, (0, 2)):
        friend.swarm("203.0.113.7", to=GIB, ago=day * DAY, began=day * DAY + HOUR)
        for torrent in ("linux", "bsd"):
            friend.swarm("203.0.113.9", torrent, to=GIB, ago=day * DAY, began=day * DAY + HOUR)
        for host in range(8):
            friend.ban(f"198.51.100.{host}", f"t{day}")
            friend.ban(f"2001:db8:0:{host}::1", f"t{day}")
            friend.snapshot(f"198.51.100.{host}", f"t{day}", to=GIB, client=("-XX0001-", "Rain 0.0.0"))
            friend.snapshot(f"198.51.100.{host}", f"t{day}", to=GIB, client=("zzzzzzzz", "zzzzzzzz"))
    download_many(world, friends, "203.0.113.8", 40)
    for friend, torrent in itertools.product(friends, ("linux", "bsd")):
        friend.snapshot("203.0.113.11", torrent, to=GIB, client=("-TR3000-", "qBittorrent/4.5.0"))
    for number, friend in itertools.product(range(9), friends):
        friend.swarm("203.0.113.10", f"whole {number}", to=GIB // 4)
    codes = set()
    for name in ANALYSES:
        weak = {"min_copies": 9} if name == "over_download" else {}
        for finding in (await world.find(name, **weak)).values():
            said = reason(finding.code, finding.numbers)
            english, chinese = said.text("en"), said.text("zh")
            assert said.key == f"reason.{finding.code}"
            assert english == one_line(english) and "{" not in english + chinese
            assert str(finding.people) in english and str(finding.people) in chinese
            assert finding.code in ANALYSES[name].codes
            codes.add(finding.code)
            if isinstance(finding.target, Network):
                assert not finding.target.last & finding.target.first ^ finding.target.first
    told = {key.removeprefix("reason.") for key in catalogue("en") if key.startswith("reason.")}
    assert codes == {code for analysis in ANALYSES.values() for code in analysis.codes}
    assert codes == told - {"config", "admin", "exception", "pardon", "imported", "neighbour"}


async def test_a_run_that_takes_too_long_or_is_cancelled_ends(world: World) -> None:
    reporter = world.friends(1)[0]
    values = [(f"203.0.{n >> 8 & 255}.{n & 255}",) for n in range(20)]
    for (ip,) in values:
        reporter.swarm(ip, to=GIB)
    hot = world._hot["swarm"]
    columns = ",".join(row[1] for row in hot.execute("PRAGMA table_info(swarm)").fetchall() if row[1] != "id")
    for _ in range(14):
        hot.execute(f"INSERT INTO swarm ({columns}) SELECT {columns} FROM swarm")
    with pytest.raises(SparkleError, match="longer than"):
        await worker.find(order(world, "over_download"), time_limit_s=0.0)

    task = asyncio.create_task(worker.find(order(world, "over_download")))
    await asyncio.sleep(0.05)
    task.cancel()
    started = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - started < 1


async def test_a_process_of_its_own_finds_and_refuses_the_same(world: World) -> None:
    report_cheater(world.friends(4))
    found = await worker.find(order(world, "untrusted_vote"))
    assert found and await worker.run(order(world, "untrusted_vote")) == found
    with pytest.raises(SparkleError) as refused:
        await worker.run(order(world, "untrusted_vote")._replace(database=world.database.path / "none"))
    assert (refused.value.code, bool(refused.value.text("zh"))) == ("overloaded", True)


async def test_a_process_of_its_own_that_dies_or_is_not_wanted_any_more_is_told_and_gone(world: World) -> None:
    report_cheater(world.friends(4))

    def processes() -> list[int]:
        found = (file.read_text().split() for file in Path("/proc/self/task").glob("*/children"))
        return [int(number) for numbers in found for number in numbers]

    before = processes()

    async def started() -> asyncio.Task[list[Finding]]:
        task = asyncio.create_task(worker.run(order(world, "untrusted_vote")))
        while processes() == before:
            await asyncio.sleep(0.005)
        return task

    async def cancelled(task: asyncio.Task[list[Finding]]) -> None:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    task = await started()
    for number in set(processes()) - set(before):
        os.kill(number, signal.SIGKILL)
    with pytest.raises(SparkleError, match="ended before"):
        await task
    assert processes() == before

    await cancelled(await started())
    assert processes() == before

    starting = asyncio.create_task(worker.run(order(world, "untrusted_vote")))
    await asyncio.sleep(0)
    await cancelled(starting)
    assert processes() == before


async def test_a_segment_that_retention_removes_meanwhile_is_no_failure(world: World) -> None:
    for friend in world.friends(3):
        friend.swarm(CHEATER, to=GIB)
    report_cheater(world.friends(3))
    await world.close_segments()
    world.main.execute("DELETE FROM segment WHERE state='indexed'")
    for path in world.database.segment_folder.glob("*-00000001.db"):
        path.unlink()
    assert list(await world.find("untrusted_vote")) == [CHEATER]
