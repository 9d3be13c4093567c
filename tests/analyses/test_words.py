"""Rules that can't be bought, as told stories: who said what, and what follows."""

import itertools
import random
from collections.abc import Sequence

import pytest
from reports import DAY, DIALING, GIB, HOUR, NOW, Reporter, World, settings_of

from sparkle_lite.analyses import worker
from sparkle_lite.analyses.parameters import trust
from sparkle_lite.rules.plan import UNVOUCHED_FLOOR
from sparkle_lite.rules.reasons import reason

MIB = 1 << 20
CHEATER, HONEST = "203.0.113.5", "198.51.100.7"


def accuse(
    reporters: Sequence[Reporter], ip: str, *, ago: int = HOUR, torrents: Sequence[str] = ("linux", "bsd")
) -> None:
    """They ban an address for cheating on two torrents."""
    for reporter, torrent in itertools.product(reporters, torrents):
        reporter.ban(ip, torrent, ago=ago)


def user_of(reporter: Reporter) -> int:
    sql = "SELECT user FROM userapp WHERE id=?"
    return int(reporter.world.main.execute(sql, (reporter.app,)).fetchone()[0])


async def earned(world: World, newcomers: Sequence[Reporter], anchor: Reporter, *, before: int = DAY) -> None:
    """They report a dozen cheaters, each with others besides, whom somebody vouched for bans later."""
    for number, newcomer in enumerate(newcomers):
        for host in range(12):
            accuse([newcomer], f"203.0.{113 + number}.{100 + host}", ago=before)
            accuse([anchor], f"203.0.{113 + number}.{100 + host}", ago=before - HOUR)


# --- Words ------------------------------------------------------------------------------------------------------------


async def test_nobody_begins_with_a_word_and_any_number_of_strangers_lists_nobody(world: World) -> None:
    strangers = world.friends(30, by="self", active_days=9)
    accuse(strangers, HONEST)
    await world.weigh()
    assert await world.find("untrusted_vote") == {}
    assert (await world.distances(HONEST))["untrusted_vote", "left_silent"] == (30, 0)
    # The same from people whom an administrator vouches for is a listing.
    accuse(world.friends(3), HONEST)
    assert list(await world.find("untrusted_vote")) == [HONEST]


async def test_a_word_is_earned_by_what_vouched_people_saw_later(world: World) -> None:
    anchors, newcomers = world.friends(2), world.friends(2, by="self", active_days=9)
    await earned(world, newcomers, anchors[0])
    standings = await world.weigh()
    first = standings[user_of(newcomers[0])]
    # Twelve agreements of yesterday, none against: 12 / 13, faded a little.
    assert first.value == pytest.approx(0.91, abs=0.02)
    assert first.addresses["agreed"][0] == 12
    # Two who earned theirs and one who is vouched for are enough.
    accuse([*newcomers, anchors[1]], CHEATER)
    finding = (await world.find("untrusted_vote"))[CHEATER]
    assert (finding.people, finding.numbers["words"]) == (3, 3.0)


async def test_a_process_of_its_own_weighs_the_same(world: World) -> None:
    anchors, newcomers = world.friends(2), world.friends(2, by="self", active_days=9)
    await earned(world, newcomers, anchors[0])
    order = worker.WordOrder(world.database.path, trust(settings_of("friends")), NOW)
    assert {one.user: one for one in await worker.run(order)} == await world.weigh()


async def test_one_lie_outweighs_three_truths(world: World) -> None:
    anchors, liar = world.friends(2), world.friends(1, by="self", active_days=9)
    await earned(world, liar, anchors[0])
    for host in range(6):
        victim = f"198.51.100.{host}"
        accuse(liar, victim, ago=DAY)
        # A vouched person got what they wanted from it.
        anchors[1].swarm(victim, to=0, got=GIB, ago=2 * DAY)
    standing = (await world.weigh())[user_of(liar[0])]
    assert standing.addresses["disagreed"][0] == 6
    assert standing.value < 0.5
    accuse([*liar, *anchors], CHEATER)
    assert await world.find("untrusted_vote") == {}


async def test_nobody_earns_by_copying_the_list(world: World) -> None:
    anchor, copier = world.friends(1), world.friends(1, by="self", active_days=9)
    for host in range(12):
        address = f"203.0.113.{host}"
        accuse(anchor, address, ago=3 * DAY)
        world.listed(address, since=2 * DAY)
        accuse(copier, address, ago=DAY)
    standing = (await world.weigh())[user_of(copier[0])]
    assert (standing.value, standing.addresses["late"][0]) == (0, 12)


async def test_nobody_earns_by_saying_that_it_was_earlier(world: World) -> None:
    anchor, copier = world.friends(1), world.friends(1, by="self", active_days=9)
    world.visit(anchor[0], "82.7.7.7", first=DAY, last=0)
    for host in range(12):
        address = f"203.0.113.{host}"
        accuse(anchor, address, ago=3 * DAY)
        world.listed(address, since=2 * DAY)
        copier[0].ban(address, ago=DAY, said=9 * DAY)
    # Neither does that spare anybody who reports a member.
    copier[0].ban("82.7.7.7", ago=HOUR, said=9 * DAY)
    standing = (await world.weigh())[user_of(copier[0])]
    assert (standing.value, standing.addresses["late"][0], standing.addresses["canary"][0]) == (0, 12, 1)


async def test_what_a_vouched_person_lost_without_banning_speaks_for_the_peer(world: World) -> None:
    anchor, reporter = world.friends(1), world.friends(1, by="self", active_days=9)
    # A tenth of a torrent passes everywhere; half of it doesn't.
    anchor[0].swarm("198.51.100.1", to=GIB // 20, size=GIB)
    anchor[0].swarm("198.51.100.2", to=GIB // 2, size=GIB)
    accuse(reporter, "198.51.100.1")
    accuse(reporter, "198.51.100.2")
    standing = (await world.weigh())[user_of(reporter[0])]
    assert standing.addresses["disagreed"][0] == 1


async def test_what_was_lost_to_many_ports_is_one_loss_and_told_twice_is_lost_once(world: World) -> None:
    anchor, reporter = world.friends(1), world.friends(1, by="self", active_days=9)
    for port in range(5):
        anchor[0].swarm("198.51.100.1", to=GIB // 25, size=GIB, port=5000 + port)
    # A tenth, as a connection and as a total.
    anchor[0].swarm("198.51.100.2", to=GIB // 10, size=GIB)
    anchor[0].snapshot("198.51.100.2", to=GIB // 10)
    for host in (1, 2):
        accuse(reporter, f"198.51.100.{host}")
    standing = (await world.weigh())[user_of(reporter[0])]
    assert standing.addresses["disagreed"] == (1, [bytes((198, 51, 100, 1))])


async def test_words_fade(world: World) -> None:
    anchors, newcomer = world.friends(1), world.friends(1, by="self", active_days=9)
    await earned(world, newcomer, anchors[0])
    user = user_of(newcomer[0])
    assert (await world.weigh())[user].value > 0.9
    assert 0.6 < (await world.weigh(now=NOW + 10 * DAY))[user].value < 0.8
    assert (await world.weigh(now=NOW + 24 * DAY))[user].value < 0.5


async def test_to_report_a_members_address_costs_twice_unless_a_vouched_person_says_the_same(world: World) -> None:
    anchors, reporters = world.friends(2), world.friends(2, by="self", active_days=9)
    world.visit(anchors[0], "82.7.7.7", first=DAY, last=0)
    accuse(reporters[:1], "82.7.7.7")
    standing = (await world.weigh())[user_of(reporters[0])]
    assert (standing.addresses["canary"][0], standing.disagreed) == (1, pytest.approx(2, abs=0.1))
    # A member who cheats from their own client silences nobody.
    accuse(anchors[1:], "82.7.7.7")
    assert "canary" not in (await world.weigh())[user_of(reporters[0])].addresses
    # Neither does an address that several people use, or one that was used long before.
    for visitor in anchors:
        world.visit(visitor, "82.7.7.8", first=DAY, last=0)
    world.visit(anchors[0], "82.7.7.9", first=9 * DAY, last=5 * DAY)
    accuse(reporters[1:], "82.7.7.8")
    accuse(reporters[1:], "82.7.7.9")
    assert (await world.weigh())[user_of(reporters[1])].disagreed == 0


async def test_people_who_keep_saying_the_same_have_one_voice(world: World) -> None:
    anchors, twins = world.friends(2), world.friends(3, by="self", active_days=9)
    for host in range(12):
        accuse(twins, f"203.0.113.{100 + host}", ago=DAY)
        accuse(anchors[:1], f"203.0.113.{100 + host}", ago=HOUR)
    standings = await world.weigh()
    assert len({standings[user_of(twin)].voice for twin in twins}) == 1
    accuse([*twins, anchors[1]], HONEST)
    assert await world.find("untrusted_vote") == {}
    assert (await world.distances(HONEST))["untrusted_vote", "min_people"] == (2, 3)


async def test_the_same_bait_buys_any_number_of_accounts_one_voice(world: World) -> None:
    anchors, crowd = world.friends(1), world.friends(20, by="self", active_days=9)
    for host in range(4):
        accuse(crowd, f"203.0.113.{100 + host}", ago=DAY)
        accuse(anchors, f"203.0.113.{100 + host}", ago=HOUR)
    standings = await world.weigh()
    assert all(standings[user_of(one)].value > 0.5 for one in crowd)
    accuse(crowd, HONEST)
    assert await world.find("untrusted_vote") == {}
    assert (await world.distances(HONEST))["untrusted_vote", "min_people"] == (pytest.approx(1, abs=0.1), 3)


async def test_who_copies_two_people_makes_these_two_no_one_voice(world: World) -> None:
    anchors = world.friends(2)
    copier, *honest = world.friends(3, by="self", active_days=9)
    for number, one in enumerate(honest):
        for host in range(12):
            accuse([one, copier], f"203.0.{113 + number}.{host}", ago=DAY)
            accuse(anchors[:1], f"203.0.{113 + number}.{host}")
    standings = await world.weigh()
    assert len({standings[user_of(one)].voice for one in (copier, *honest)}) == 2
    assert standings[user_of(honest[0])].voice != standings[user_of(honest[1])].voice
    accuse([*honest, anchors[1]], "203.0.115.5")
    assert "203.0.115.5" in await world.find("untrusted_vote")


async def test_who_spoke_for_others_and_is_vouched_for_by_now_speaks_for_nobody_else(world: World) -> None:
    anchor = world.person("anchor", by="self")
    sharer, others = world.friends(1, by="self", active_days=9)[0], world.friends(2)
    world.word(user_of(sharer), 0.6, voice=anchor)
    world.main.execute("UPDATE user SET vouched_at=? WHERE id=?", (NOW, anchor))
    accuse([Reporter(world, world.app(anchor), "81.9.9.9"), sharer, *others], CHEATER)
    finding = (await world.find("untrusted_vote"))[CHEATER]
    assert (finding.people, finding.numbers["words"]) == (4, 3.75)


async def test_who_is_banned_has_no_word_and_neither_has_what_they_confirmed(world: World) -> None:
    anchors, newcomers = world.friends(3), world.friends(2, by="self", active_days=9)
    await earned(world, newcomers, anchors[0])
    await world.weigh()
    accuse([newcomers[0], *anchors[1:]], CHEATER)
    assert CHEATER in await world.find("untrusted_vote")
    # At once, although what was measured of them is still there.
    world.main.execute("UPDATE user SET banned_at=? WHERE id=?", (NOW, user_of(newcomers[0])))
    assert CHEATER not in await world.find("untrusted_vote")
    world.main.execute("UPDATE user SET banned_at=? WHERE id=?", (NOW, user_of(anchors[0])))
    standings = await world.weigh()
    assert set(standings) == {user_of(newcomers[1])}
    assert standings[user_of(newcomers[1])].value == 0


async def test_whom_nobody_vouches_for_any_more_begins_with_nothing(world: World) -> None:
    anchors = world.friends(3)
    await world.weigh()
    accuse(anchors, HONEST)
    assert list(await world.find("untrusted_vote")) == [HONEST]
    world.main.execute("UPDATE user SET vouched_at=NULL WHERE id=?", (user_of(anchors[0]),))
    assert await world.find("untrusted_vote") == {}
    # What others saw as well is their word from now on.
    assert (await world.weigh())[user_of(anchors[0])].addresses["agreed"][0] == 1


async def test_what_an_administrator_listed_by_hand_earns_nobody_anything(world: World) -> None:
    anchor, reporter = world.friends(1), world.friends(1, by="self", active_days=9)
    world.listed(CHEATER, since=2 * DAY)
    world.main.execute("UPDATE decision SET origin='admin'")
    accuse([*anchor, *reporter], CHEATER)
    assert set((await world.weigh())[user_of(reporter[0])].addresses) == {"late"}


async def test_many_addresses_of_one_member_who_cheats_silence_nobody(world: World) -> None:
    anchors, reporter = world.friends(2), world.friends(1, by="self", active_days=9)
    await earned(world, reporter, anchors[0])
    cheat = world.friends(1, by="self", active_days=9, word=0.9)[0]
    for host in range(9):
        world.visit(cheat, f"2001:db8:0:{host}::1", first=DAY, last=0)
        accuse(reporter, f"2001:db8:0:{host}::1")
    standing = (await world.weigh())[user_of(reporter[0])]
    assert standing.addresses["canary"][0] == 1
    assert standing.value > 0.5


# --- Private torrents -------------------------------------------------------------------------------------------------


async def test_r1_one_stranger_can_not_make_a_torrent_private(world: World) -> None:
    accuse(world.friends(12), CHEATER, torrents=("linux", "bsd", "hurd"))
    stranger = world.friends(1, by="self", age=0)[0]
    for torrent in ("linux", "bsd", "hurd"):
        stranger.ban("198.51.100.99", torrent, private=1)
        stranger.snapshot("198.51.100.99", torrent, to=GIB, private=1)
    assert list(await world.find("untrusted_vote")) == [CHEATER]


async def test_most_of_those_whose_words_count_say_whether_a_torrent_is_private(world: World) -> None:
    friends = world.friends(5)
    for number, friend in enumerate(friends):
        for torrent in ("linux", "bsd"):
            friend.ban(CHEATER, torrent, private=int(number < 3))
            friend.ban("203.0.113.6", f"other {torrent}", private=int(number < 2))
    assert list(await world.find("untrusted_vote")) == ["203.0.113.6"]


async def test_r2_a_tracker_counts_its_private_torrents(world: World) -> None:
    for friend, torrent in itertools.product(world.friends(4), ("linux", "bsd")):
        friend.ban(CHEATER, torrent, private=1, ago=HOUR)
        friend.ban(CHEATER, torrent, private=1, ago=2 * DAY)
    assert await world.find("untrusted_vote") == {}
    # Who asks is told why.
    assert await world.distances(CHEATER) == {("untrusted_vote", "left_private"): (16, 0)}
    assert list(await world.find("untrusted_vote", settings_of("tracker"))) == [CHEATER]


# --- Over-downloads ---------------------------------------------------------------------------------------------------


async def test_r4_to_come_from_another_port_every_time_is_no_way_out(world: World) -> None:
    for friend in world.friends(3):
        for port in range(8):
            ago = port * 12 * HOUR
            friend.swarm(CHEATER, to=GIB // 4, ago=ago, began=ago + HOUR, port=20_000 + port)
            # A household: several at one time, each taking the torrent once.
            friend.swarm("203.0.113.9", to=GIB // 4, ago=HOUR, began=3 * HOUR, port=30_000 + port)
    assert list(await world.find("over_download")) == [CHEATER]


async def test_several_torrents_from_two_people_each_tell_as_much_as_one_from_three(world: World) -> None:
    friends = world.friends(3)
    for torrent, (one, other) in zip(("linux", "bsd", "hurd"), itertools.combinations(friends, 2), strict=True):
        for friend in (one, other):
            friend.swarm(CHEATER, torrent, to=GIB, ago=HOUR, began=5 * HOUR)
            # Somebody who took from two people what they needed once.
            friend.swarm(HONEST, torrent, to=GIB // 2, ago=HOUR, began=5 * HOUR)
    found = await world.find("over_download")
    assert list(found) == [CHEATER]
    finding = found[CHEATER]
    assert (finding.code, finding.people, finding.numbers["percent"], finding.numbers["torrents"]) == (
        *("over_downloader_several", 3, 200, 3),
    )


async def test_whole_copies_of_hundreds_of_torrents_that_give_nothing_to_anybody_are_burnt_traffic(
    world: World,
) -> None:
    friends = world.friends(4)
    for number in range(12):
        for address in (CHEATER, HONEST, "203.0.113.9"):
            friends[number % 3].swarm(address, f"t{number}", to=GIB * 9 // 10, ago=HOUR, began=5 * HOUR)
    # One of them gave something to one person, and behind another there are two.
    friends[3].swarm(HONEST, "hurd", to=0, got=MIB)
    friends[0].swarm("203.0.113.9", "t0", to=GIB // 2, client=("-TR4060-", "Transmission 4.0.6"))
    found = await world.find("over_download", min_copies=12)
    assert list(found) == [CHEATER]
    finding = found[CHEATER]
    assert (finding.code, finding.people, finding.numbers["torrents"]) == ("over_downloader_copies", 3, 12)
    # To need a dozen torrents is nothing remarkable.
    assert await world.find("over_download") == {}
    assert (await world.distances(CHEATER))["over_download", "min_copies"] == (12, 200)


# --- What no client sends ---------------------------------------------------------------------------------------------


async def test_one_clients_name_with_anothers_peer_id_is_sent_by_nobody_honest(world: World) -> None:
    friends = world.friends(2)
    identities = {
        CHEATER: ("-TR3000-", "qBittorrent/4.5.0"),
        "203.0.113.6": ("-UT3550-", "Transmission 4.0.6"),
        # Another version, a library, what is unknown or can be set, and no peer id at all.
        "198.51.100.1": ("-qB4650-", "qBittorrent Enhanced/4.1"),
        "198.51.100.2": ("-LT2090-", "qBittorrent/4.5.0"),
        "198.51.100.3": ("-ZZ3000-", "qBittorrent/4.5.0"),
        "198.51.100.4": ("-TR3000-", "aria2/1.36.0"),
        "198.51.100.5": ("-TR3000-", "who knows"),
        "198.51.100.6": ("", "qBittorrent/4.5.0"),
        "198.51.100.7": ("-BT7b5S-", "µTorrent 3.5.5"),
        # These would be listed but for what they gave to one person, and for who else is there.
        "198.51.100.8": ("-TR3000-", "qBittorrent/4.5.0"),
        "198.51.100.9": ("-TR3000-", "qBittorrent/4.5.0"),
    }
    for (address, client), friend, torrent in itertools.product(identities.items(), friends, ("linux", "bsd")):
        friend.swarm(address, torrent, to=GIB, client=client)
    friends[1].swarm("198.51.100.8", "hurd", to=0, got=MIB)
    for number in range(3):
        friends[0].swarm("198.51.100.9", "hurd", to=MIB, client=(f"-qB4{number}00-", f"qBittorrent/4.{number}"))
    assert set(await world.find("false_identity")) == {CHEATER, "203.0.113.6"}
    distances = await world.distances("198.51.100.8")
    assert distances["false_identity", "gave_nothing"] == (0, 1)
    assert (await world.distances("198.51.100.9"))["false_identity", "not_shared"] == (0, 1)
    # One who says so is too few, and on private torrents nobody counts.
    friends[0].swarm("203.0.113.7", to=GIB, client=identities[CHEATER])
    friends[0].swarm("203.0.113.7", "bsd", to=GIB, client=identities[CHEATER])
    for friend, torrent in itertools.product(friends, ("secret", "hidden")):
        friend.swarm("203.0.113.8", torrent, to=GIB, client=identities[CHEATER], private=1)
    assert set(await world.find("false_identity")) == {CHEATER, "203.0.113.6"}


# --- Speaking for a peer ----------------------------------------------------------------------------------------------


async def test_r5_six_times_a_mebibyte_never_outweighs_what_others_lost(world: World) -> None:
    losers, others = world.friends(8), world.friends(6)
    for loser, torrent in itertools.product(losers, ("linux", "bsd")):
        loser.ban(CHEATER, torrent, to_peer_traffic=10 * GIB)
    for other in others:
        other.swarm(CHEATER, "hurd", to=0, got=MIB)
    finding = (await world.find("untrusted_vote"))[CHEATER]
    assert (finding.people, finding.numbers["against"]) == (8, 0)


async def test_who_lost_much_and_banned_nobody_speaks_half_and_only_with_a_word(world: World) -> None:
    accusers, calm, silent = world.friends(3), world.friends(1), world.friends(5, by="self", active_days=9)
    accuse(accusers, CHEATER)
    for one in silent:
        one.swarm(CHEATER, "hurd", to=GIB, size=GIB)
    assert list(await world.find("untrusted_vote")) == [CHEATER]
    calm[0].swarm(CHEATER, "hurd", to=2 * GIB, size=2 * GIB)
    # Three less a half.
    assert await world.find("untrusted_vote") == {}
    assert (await world.distances(CHEATER))["untrusted_vote", "min_people"] == (2.5, 3)


async def test_to_have_lost_more_than_there_is_silences_nobody_who_got_something_back(world: World) -> None:
    liars, served = world.friends(3), world.friends(1)[0]
    for liar, torrent in itertools.product(liars, ("linux", "bsd")):
        liar.ban(HONEST, torrent, to_peer_traffic=1 << 44)
    served.swarm(HONEST, "hurd", to=0, got=GIB)
    assert await world.find("untrusted_vote") == {}
    assert (await world.distances(HONEST))["untrusted_vote", "min_people"] == (2.5, 3)


async def test_what_it_cost_nobody_is_no_vote(world: World) -> None:
    for friend, torrent in itertools.product(world.friends(4), ("linux", "bsd")):
        friend.ban(CHEATER, torrent, to_peer_traffic=MIB)
    assert await world.find("untrusted_vote") == {}
    assert (await world.distances(CHEATER))["untrusted_vote", "left_harmless"] == (4, 0)


async def test_behind_a_shared_address_who_would_lose_honest_peers_counts_twice(world: World) -> None:
    accusers, served = world.friends(5), world.friends(2)
    accuse(accusers, CHEATER)
    for number in range(5):
        client = (f"-qB{number}000-", f"qBittorrent/{number}.0")
        for one in served:
            one.swarm(CHEATER, f"t{number}", to=0, got=2 * MIB, port=5000 + number, client=client)
    # An exit of a VPN: five who were cheated there, two who got something from others there.
    assert await world.find("untrusted_vote") == {}
    assert (await world.distances(CHEATER))["untrusted_vote", "min_people"] == (1, 3)


async def test_one_client_that_programs_call_differently_is_one(world: World) -> None:
    accusers, served = world.friends(5), world.friends(2)
    accuse(accusers, CHEATER)
    names = ("qBittorrent/4.6.5", "qBittorrent 4.6.5", "qBittorrent 4.6", "qB", "")
    for friend, name in zip(accusers, names, strict=True):
        peer_id = "" if name.endswith("4.6") else "-qB4650-"
        for torrent in ("linux", "bsd"):
            friend.swarm(CHEATER, torrent, to=GIB, client=(peer_id, name))
    for one in served:
        one.swarm(CHEATER, "hurd", to=0, got=2 * MIB)
    assert list(await world.find("untrusted_vote")) == [CHEATER]
    # What it took is what one peer took.
    assert (await world.find("over_download"))[CHEATER].numbers["peers"] == 1


# --- Prefixes ---------------------------------------------------------------------------------------------------------


async def test_r6_a_carriers_pool_is_no_dialer(world: World) -> None:
    friends = world.friends(5)
    for host, friend in itertools.product(range(12), friends):
        friend.ban(f"203.0.113.{host}", "linux", module=DIALING)
        friend.ban(f"203.0.113.{host}", "bsd", module=DIALING)
    assert await world.find("multi_dial") == {}


async def test_a_network_falls_only_where_three_quarters_of_whom_people_met_did_cheat(world: World) -> None:
    friends = world.friends(3)
    for host, friend in itertools.product(range(9), friends):
        accuse([friend], f"203.0.113.{host}")
    assert list(await world.find("multi_dial")) == ["203.0.113.0/24"]
    for host in range(100, 103):
        friends[0].swarm(f"203.0.113.{host}", to=2 * GIB, got=MIB)
    assert list(await world.find("multi_dial")) == ["203.0.113.0/24"]
    for host in range(103, 106):
        friends[0].swarm(f"203.0.113.{host}", to=2 * GIB, got=MIB)
    assert await world.find("multi_dial") == {}


async def test_neighbours_who_were_met_and_gave_are_carved_out(world: World) -> None:
    friends = world.friends(3)
    for host, friend in itertools.product(range(9), friends):
        accuse([friend], f"203.0.113.{host}")
    friends[0].swarm("203.0.113.200", to=0, got=GIB)
    found = await world.find("multi_dial")
    assert "203.0.113.128/26" in found
    assert not any(target.startswith("203.0.113.200") for target in found)
    assert len(found) == 8


# --- Ends -------------------------------------------------------------------------------------------------------------


async def test_a_listing_does_not_fade_while_the_peer_keeps_knocking(world: World) -> None:
    friends, strangers = world.friends(3), world.friends(3, by="self", active_days=9)
    accuse(friends, CHEATER, ago=0)
    world.listed(CHEATER, since=0)
    later = NOW + 10 * DAY
    assert await world.find("untrusted_vote", now=later) == {}
    # It is turned away because it is listed; from whom nobody vouches for that says nothing.
    strangers[0].ban(CHEATER, btn_ban=1, ago=-9 * DAY)
    assert await world.find("untrusted_vote", now=later) == {}
    friends[0].ban(CHEATER, btn_ban=1, ago=-9 * DAY)
    assert list(await world.find("untrusted_vote", now=later)) == [CHEATER]
    for day in range(12, 70, 3):
        friends[0].ban(CHEATER, btn_ban=1, ago=-day * DAY)
    assert list(await world.find("untrusted_vote", now=NOW + 59 * DAY)) == [CHEATER]
    # Never for longer than 60 days after it was seen cheating last.
    assert await world.find("untrusted_vote", now=NOW + 61 * DAY) == {}


async def test_knocks_bring_nothing_back_that_is_over(world: World) -> None:
    accuse(world.friends(3), CHEATER, ago=30 * DAY)
    # Long since unlisted: the address may be somebody else's, and one member says that it is turned away.
    world.friends(1)[0].ban(CHEATER, btn_ban=1, ago=HOUR)
    assert await world.find("untrusted_vote") == {}


async def test_r3_a_third_of_a_circle_that_colludes_lists_nobody(world: World) -> None:
    anchors = world.friends(3)
    liars = world.friends(10, by="admin", vouched=False)
    honest = world.friends(17, by="admin", vouched=False)
    victims = [f"198.51.{100 + n // 200}.{n % 200 + 1}" for n in range(40)]
    cheaters = [f"203.0.113.{n}" for n in range(30)]
    for number, cheater in enumerate(cheaters):
        # Everybody meets some of them, and bans those.
        met = random.Random(number).sample(honest, 5)
        for who in (anchors[number % 3], *met, *liars[number % 2 :: 4]):
            accuse([who], cheater, ago=DAY + number * HOUR)
    for number, victim in enumerate(victims):
        anchors[number % 3].swarm(victim, to=0, got=GIB, ago=DAY)
    for victim in victims:
        accuse(liars, victim, ago=6 * HOUR)
    standings = await world.weigh()
    assert all(standings[user_of(liar)].value < 0.5 for liar in liars)
    assert sum(standings[user_of(one)].value >= 0.5 for one in honest) >= 14
    found = await world.find("untrusted_vote")
    assert not set(found) & set(victims)
    assert set(found) == set(cheaters)


# --- What nobody vouched for saw --------------------------------------------------------------------------------------


async def bought(world: World, anchor: Reporter, count: int) -> list[Reporter]:
    """Liars who earn a word each, with four cheaters of their own that they let loose on a vouched person."""
    liars = world.friends(count, by="self", active_days=9)
    for number, liar in enumerate(liars):
        for host in range(4):
            accuse([liar], f"5.1.{number}.{host + 1}", ago=DAY)
            accuse([anchor], f"5.1.{number}.{host + 1}", ago=DAY - HOUR)
    return liars


async def test_words_that_were_bought_with_bait_of_their_own_list_a_few_and_no_more(world: World) -> None:
    anchors = world.friends(3)
    liars = await bought(world, anchors[0], 12)
    victims = [f"5.2.{n}.9" for n in range(60)]
    for number, victim in enumerate(victims):
        # No two alike, so that nobody shares a voice, and one more than needed, so that nobody decides alone.
        accuse(random.Random(number).sample(liars, 4), victim)
    standings = await world.weigh()
    assert len({standings[user_of(liar)].voice for liar in liars}) == 12
    # Their words suffice for everybody; what they bought stays in bounds.
    assert set(victims) <= set(await world.find("untrusted_vote"))
    for hour in range(3):
        plan = await world.apply("untrusted_vote", now=NOW + hour * HOUR)
        assert hour or len(plan.held) == len(victims) - UNVOUCHED_FLOOR
        assert {one.held_for for one in plan.held} <= {"unvouched"}
    sql = "SELECT count(*) FROM decision WHERE state='active' AND ends_at>?"
    assert world.main.execute(sql, (NOW,)).fetchone()[0] == UNVOUCHED_FLOOR
    # One vouched person who saw it too is enough.
    accuse(anchors[1:2], victims[50])
    assert [str(one.network) for one in (await world.apply("untrusted_vote", now=NOW + 3 * HOUR)).added] == [
        f"{victims[50]}"
    ]


# --- Imported lists that only support ---------------------------------------------------------------------------------


async def test_a_list_of_others_is_worth_half_a_word_where_somebody_here_saw_it(world: World) -> None:
    for network in ("203.0.113.0/24", "203.0.113.5", "2001:db8:0:7::77"):
        world.supported(network)
    vouched, others = world.friends(2), world.friends(2, by="self", active_days=9, word=0.5)
    for address in (CHEATER, "2001:db8:0:7::1", HONEST):
        accuse(vouched, address)
    # However many lists: half a word in all, and 2.5 is not enough of three.
    assert await world.find("untrusted_vote") == {}
    assert (await world.distances(CHEATER))["untrusted_vote", "min_people"] == (2.5, 3)
    assert (await world.distances(HONEST))["untrusted_vote", "min_people"] == (2, 3)
    # What nobody here reported is nothing, whoever lists it.
    assert ("untrusted_vote", "min_people") not in await world.distances("203.0.113.77")
    for address in ("203.0.113.9", "198.51.100.9"):
        accuse([*others, vouched[0]], address)
    found = await world.find("untrusted_vote")
    # One whole word and twice 0.62 are not enough by themselves.
    assert list(found) == ["203.0.113.9"]
    numbers = found["203.0.113.9"].numbers
    assert (numbers["people"], numbers["words"], numbers["support"]) == (3, 2.74, 0.5)
    assert (
        reason("progress_cheater", numbers)
        .text("en")
        .startswith("3 people with the support of an imported list (2.7 words between them) saw it cheat")
    )


async def test_to_have_served_an_honest_peer_confirms_no_over_download(world: World) -> None:
    anchors = world.friends(3)
    liars = world.friends(3, by="self", active_days=9, word=0.9)
    for liar, ago in itertools.product(liars, (HOUR, 2 * DAY)):
        liar.swarm(HONEST, to=9 * GIB, ago=ago, began=ago + HOUR)
    anchors[0].swarm(HONEST, to=GIB // 2, began=5 * HOUR)
    # What a vouched person gave an honest peer makes nothing of the lies truer.
    assert (await world.find("over_download"))[HONEST].vouched is False
    anchors[1].swarm(HONEST, to=GIB, began=5 * HOUR)
    assert (await world.find("over_download"))[HONEST].vouched is True


async def test_one_cheater_whom_vouched_people_saw_confirms_no_network(world: World) -> None:
    anchor, liars = world.friends(1), world.friends(3, by="self", active_days=9, word=0.9)
    for host in range(9):
        accuse(liars, f"203.0.113.{host}")
    accuse(anchor, "203.0.113.0")
    assert (await world.find("multi_dial"))["203.0.113.0/24"].vouched is False
    for host in range(1, 3):
        accuse(anchor, f"203.0.113.{host}")
    assert (await world.find("multi_dial"))["203.0.113.0/24"].vouched is True
