"""Decisions on a real database: how they begin, what keeps them in bounds, how they end and are told."""

import tempfile
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import client_parsers as clients
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkle_lite.accounts.actors import COMMAND_LINE, Actor
from sparkle_lite.accounts.audit import Audit
from sparkle_lite.accounts.parts import Accounts
from sparkle_lite.config import AuthSection, RuleEntry
from sparkle_lite.db import accounts as account_rows
from sparkle_lite.db import decisions as store
from sparkle_lite.db.accounts import Visit
from sparkle_lite.db.database import Database
from sparkle_lite.db.decisions import Decision, DecisionFilter
from sparkle_lite.db.orders import Position
from sparkle_lite.errors import SparkleError
from sparkle_lite.net import Network, address_bytes, collapse, network_of, parse_network
from sparkle_lite.rules import rendering
from sparkle_lite.rules.address_sets import single
from sparkle_lite.rules.decisions import PARDON_MS, Decisions, ImportedList
from sparkle_lite.rules.findings import Finding, Identity
from sparkle_lite.rules.operator import Rules, compile_rules
from sparkle_lite.rules.plan import (
    GROWTH_FLOOR,
    NETWORK_COUNTS,
    UNVOUCHED_FLOOR,
    UNVOUCHED_SHARE,
    WEEK_CAP,
    Mode,
    Plan,
)
from sparkle_lite.rules.protected import Protected
from sparkle_lite.rules.rendering import Published
from sparkle_lite.wire.dialect import detect

NOW = 1_800_000_000_000
HOUR, DAY = 3_600_000, 86_400_000
PBH = detect("PeerBanHelper/9.5.0")
VOTE = "untrusted_vote"


class Place:
    """The decisions of one process, with handles on what they were made from."""

    def __init__(self, folder: Path) -> None:
        self.now = NOW
        self.protected = Protected(set())
        self.rules = Rules()
        self.database = Database(folder / "s.db")
        self.audit = Audit(self.database, lambda: self.now)
        self.decisions = Decisions(self.database, self.audit, lambda: self.now, self.protected)

    async def listed(self) -> dict[str, str]:
        """The deny list as a client reads it: network and reason."""
        published = await self.published()
        return {str(network): reason for network, reason in clients.address_list(published.ip_denylist.body)}

    async def published(self) -> Published:
        async with self.database.reader() as reader:
            protected = await self.protected.addresses(reader, self.now)
        denied, allowed = await self.decisions.in_force()
        return rendering.publish(self.rules, [*map(single, protected)], self.now, denied=denied, allowed=allowed)

    async def configure(self, *rules: RuleEntry, exceptions: tuple[RuleEntry, ...] = ()) -> None:
        self.rules = compile_rules(rules, exceptions)
        await self.decisions.sync(self.rules)

    async def run(self, *findings: Finding, origin: str = VOTE, mode: Mode = "on") -> Plan:
        return await self.decisions.apply(origin, findings, self.now, mode=mode)

    async def standing(self, **wanted: Any) -> list[Decision]:
        return (await self.decisions.page(DecisionFilter(**wanted), Position(), 10_000))[0]

    async def member(self, *texts: str, name: str = "member") -> None:
        """People whose client came from these addresses just now."""
        accounts = Accounts.on(self.database, self.audit, AuthSection, lambda: self.now)
        user = await accounts.users.add(name, "user", COMMAND_LINE)
        app = (await accounts.apps.add(user.id, "x", COMMAND_LINE)).userapp.id
        visits = [Visit(app, self.now, address_bytes(text), "x") for text in texts]
        await self.database.write(lambda connection: account_rows.write_access(connection, visits))

    async def person(self, name: str, *, vouched: bool = False) -> int:
        """A user (row id) whose client hasn't come yet."""
        accounts = Accounts.on(self.database, self.audit, AuthSection, lambda: self.now)
        return (await accounts.users.add(name, "user", COMMAND_LINE, vouched=vouched)).id


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Place]:
    place = Place(folder)
    await place.database.open()
    try:
        yield place
    finally:
        await place.database.close()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with opened(tmp_path) as place:
        yield place


def a_list(name: str, networks: Sequence[Network], expires: int) -> ImportedList:
    """Somebody else's list, as it is to stand."""
    plain = Finding(
        target=networks[0] if networks else parse_network("192.0.2.1"),
        code="imported",
        numbers={},
        people=0,
        decisive=(),
        vouched=None,
        first_seen=NOW,
        last_seen=NOW,
        expires=expires,
    )
    findings = [plain._replace(target=network) for network in networks]
    return ImportedList(name=name, findings=findings, category=name, widest=(24, 56))


def found(
    text: str,
    people: int = 4,
    *,
    expires: int = NOW + 7 * DAY,
    decisive: tuple[int, ...] = (),
    vouched: bool = True,
) -> Finding:
    return Finding(
        target=parse_network(text),
        code="seen",
        numbers={"people": people},
        people=people,
        decisive=decisive,
        vouched=vouched,
        first_seen=NOW - DAY,
        last_seen=NOW,
        expires=expires,
    )


def addresses(count: int, first: int = 0x01000001, step: int = 2) -> list[str]:
    return [str(Network((first + step * i).to_bytes(4, "big"), 32)) for i in range(count)]


def rule(*content: Any, kind: Any = "ip", category: str = "PCDN") -> RuleEntry:
    return RuleEntry(type=kind, category=category, content=content)


async def refusal(call: Awaitable[object]) -> SparkleError:
    with pytest.raises(SparkleError) as caught:
        await call
    return caught.value


def targets(found: Sequence[Any]) -> list[str]:
    return sorted(str(one.network) if one.network else str(one.text) for one in found)


# --- Runs -------------------------------------------------------------------------------------------------------------


async def test_what_an_analysis_finds_is_listed_with_its_reason_until_it_expires(place: Place) -> None:
    plan = await place.run(found("1.2.3.4"))
    assert (targets(plan.added), plan.kept, plan.brake) == (["1.2.3.4"], 0, None)
    assert await place.listed() == {"1.2.3.4/32": f"[{VOTE}] seen: people 4; until 2027-01-22"}
    place.now = NOW + 7 * DAY - 1
    assert await place.listed()
    place.now += 1
    assert await place.listed() == {}
    assert await place.standing() == []


async def test_a_run_that_finds_the_same_again_changes_nothing(place: Place) -> None:
    await place.run(found("1.2.3.4"), found("2001:db8::/64"))
    before = await place.standing()
    place.now += HOUR
    plan = await place.run(found("1.2.3.4", 5, expires=NOW + 8 * DAY), found("2001:db8::/64"))
    assert (plan.begin, plan.end, plan.kept) == ((), (), 2)
    assert await place.standing() == before


async def test_a_decision_is_renewed_when_half_its_time_is_over_or_twice_as_many_people_vote(place: Place) -> None:
    await place.run(found("1.2.3.4"), found("1.2.3.9"))
    place.now += HOUR
    plan = await place.run(found("1.2.3.4", 8), found("1.2.3.9", 7))
    assert (targets(plan.begin), plan.added, plan.removed) == (["1.2.3.4"], [], [])
    place.now = NOW + 4 * DAY
    later = place.now + 7 * DAY
    await place.run(found("1.2.3.4", 8, expires=later), found("1.2.3.9", expires=later))
    assert {one.expires_at for one in await place.standing()} == {later}
    place.now = later
    log = [(one.ended, one.decision.end_reason) for one in await place.decisions.changes(Position(), 100)]
    assert log.count((True, "superseded")) == 3
    assert log.count((True, None)) == 2


async def test_what_is_no_longer_found_is_withdrawn_at_once_and_other_origins_stay(place: Place) -> None:
    await place.run(found("1.2.3.4"), found("1.2.3.9"))
    await place.run(found("1.2.3.4"), origin="over_download")
    plan = await place.run(found("1.2.3.9"))
    assert targets(plan.removed) == ["1.2.3.4"]
    assert [(one.origin, str(one.network)) for one in await place.standing()] == [
        ("over_download", "1.2.3.4"),
        (VOTE, "1.2.3.9"),
    ]


async def test_an_analysis_in_shadow_shows_what_it_would_list_and_lists_nothing(place: Place) -> None:
    await place.run(found("1.2.3.4"), mode="shadow")
    assert await place.listed() == {}
    assert [one.state for one in await place.standing()] == ["shadow"]
    plan = await place.run(found("1.2.3.4"))
    assert targets(plan.added) == ["1.2.3.4"]
    plan = await place.run(found("1.2.3.4"), mode="shadow")
    assert targets(plan.removed) == ["1.2.3.4"]
    assert await place.listed() == {}


async def test_whoever_comes_back_is_listed_twice_as_long_each_time_up_to_sixty_days(place: Place) -> None:
    lengths = []
    for _ in range(5):
        await place.run(found("1.2.3.4", expires=place.now + 7 * DAY))
        [decision] = await place.standing()
        assert decision.expires_at
        lengths.append((decision.expires_at - place.now) // DAY)
        await place.run()
        place.now += DAY
    assert lengths == [7, 14, 28, 56, 60]
    place.now += 91 * DAY
    await place.run(found("1.2.3.4", expires=place.now + 7 * DAY))
    assert (await place.standing())[0].expires_at == place.now + 7 * DAY


async def test_coming_and_going_within_one_day_is_one_listing(place: Place) -> None:
    place.now = NOW - NOW % DAY
    for _ in range(10):
        await place.run(found("1.2.3.4", expires=place.now + 7 * DAY))
        await place.run()
        place.now += HOUR
    await place.run(found("1.2.3.4", expires=place.now + 7 * DAY))
    assert (await place.standing())[0].expires_at == place.now + 14 * DAY


async def test_identity_findings_become_matchers_in_one_spelling_or_nothing(place: Place) -> None:
    def identity(kind: Any, text: str) -> Finding:
        return found("1.1.1.1")._replace(target=Identity(kind, text))

    plan = await place.run(
        identity("client_name", '{ "content": "Evil", "method": "STARTS_WITH" }'),
        identity("client_name", '{"method":"STARTS_WITH","content":"Evil"}'),
        identity("peer_id", '{"method":"EQUALS","content":"-EV"}'),
        identity("peer_id", '{"method":"REGEX","content":"("}'),
        identity("peer_id", '{"method":"EQUALS","content":"迅雷"}'),
    )
    assert (len(plan.added), plan.dropped) == (2, {"unreadable": 2})
    rules = clients.pbh_rules((await place.published()).rule_peer_identity(PBH).body)
    assert rules.bans_name("evil 3")
    assert rules.bans_peer_id("-ev")
    assert (await place.run(identity("peer_id", '{"content":"-EV","method":"EQUALS"}'))).kept == 1


async def test_two_findings_of_one_target_are_one_decision_with_the_most_people(place: Place) -> None:
    await place.run(found("1.2.3.4", 3), found("1.2.3.4", 5), found("1.2.3.4", 4))
    [decision] = await place.standing()
    assert decision.evidence["people"] == 5


async def test_a_plan_changes_nothing(place: Place) -> None:
    await place.member("9.9.9.9")
    await place.run(found("1.2.3.4"))
    plan = await place.decisions.plan(VOTE, [found("1.2.3.9"), found("9.9.9.9"), found("10.0.0.1")], place.now)
    assert (targets(plan.added), targets(plan.removed), targets(plan.held)) == (
        ["1.2.3.9"],
        ["1.2.3.4"],
        ["9.9.9.9"],
    )
    assert (plan.members, plan.dropped) == (1, {"special": 1})
    assert list(await place.listed()) == ["1.2.3.4/32"]


async def test_a_run_that_was_overtaken_starts_again_from_what_is_true_now(place: Place) -> None:
    write, overtaken = place.database.write, 0

    async def slow(command: Any) -> Any:
        nonlocal overtaken
        if overtaken < 5:
            overtaken += 1
            await write(lambda c: store.begin(c, [], place.now))
        return await write(command)

    place.database.write = slow  # type: ignore[method-assign]
    await place.run(found("1.2.3.4"))
    assert list(await place.listed()) == ["1.2.3.4/32"]
    assert overtaken == 4


async def test_only_analyses_are_applied(place: Place) -> None:
    for origin in ("admin", "config", "import:x"):
        with pytest.raises(ValueError, match="analysis"):
            await place.decisions.apply(origin, [], NOW)


# --- Guard rails ------------------------------------------------------------------------------------------------------


async def test_what_must_never_be_listed_is_left_out_of_a_run(place: Place) -> None:
    place.protected.own = {address_bytes("8.8.8.8"), address_bytes("2001:db8:1::5")}
    await place.configure(exceptions=(rule("5.5.0.0/16"), rule("xx", kind="client_name")))
    name = found("1.1.1.1")._replace(target=Identity("client_name", '{"method":"CONTAINS","content":"xx"}'))
    plan = await place.run(
        *map(found, ("8.8.8.8", "2001:db8:1::/64", "5.5.5.5", "10.1.2.3", "fe80::1", "1.0.0.0/23", "2001:db8::/55")),
        name,
        found("1.2.3.0/24"),
        found("2001:db8:2::/56"),
        found("4.4.4.4", expires=NOW),
    )
    assert plan.dropped == {"own": 2, "excepted": 2, "special": 2, "wide": 2, "expired": 1}
    assert set(await place.listed()) == {"1.2.3.0/24", "2001:db8:2::/56"}


async def test_a_members_address_is_held_for_review_until_it_is_fourteen_days_old(place: Place) -> None:
    await place.member("9.9.9.9", "2001:db8::77", "7.7.7.7")
    await place.run(found("9.9.9.9"), found("2001:db8::/64"), found("7.7.7.0/24", expires=NOW + 60 * DAY))
    held = await place.standing(state="held")
    assert [(str(one.network), one.held_for) for one in held] == [
        ("2001:db8::/64", "member"),
        ("9.9.9.9", "member"),
    ]
    networks = [parse_network(text) for text in await place.listed()]
    assert not any(network.contains(parse_network("7.7.7.7")) for network in networks)
    assert sum(1 << 32 - network.prefix for network in networks) == 255
    error = await refusal(place.decisions.approve(held[0].id, COMMAND_LINE))
    assert error.code == "conflict"
    place.now = NOW + 14 * DAY + 1
    later = place.now + DAY
    await place.run(found("9.9.9.9", expires=later), found("7.7.7.0/24", expires=later))
    assert {"9.9.9.9/32", "7.7.7.0/24"} <= set(await place.listed())


async def test_a_member_who_comes_later_is_cut_out_and_then_held(place: Place) -> None:
    await place.run(found("9.9.9.9"))
    await place.member("9.9.9.9")
    assert await place.listed() == {}
    why = await place.decisions.why(parse_network("9.9.9.9"))
    assert (why.listed, why.protection) == (False, ("member",))
    await place.run(found("9.9.9.9"))
    assert [one.state for one in await place.standing()] == ["held"]


async def test_a_run_that_adds_too_much_waits_for_review_and_the_last_good_list_stays(place: Place) -> None:
    many = addresses(GROWTH_FLOOR + 2)
    await place.run(*map(found, many[:1]))
    plan = await place.run(*map(found, many))
    assert (plan.brake, plan.added, len(plan.held)) == ("growth", [], GROWTH_FLOOR + 1)
    assert list(await place.listed()) == [f"{many[0]}/32"]
    again = await place.run(*map(found, many))
    assert (again.brake, again.begin, again.kept) == ("growth", (), GROWTH_FLOOR + 2)
    fewer = await place.run(*map(found, many[: GROWTH_FLOOR + 1]))
    assert (fewer.brake, len(fewer.added)) == (None, GROWTH_FLOOR)


async def test_a_fifth_more_is_fine_for_a_long_list_and_removing_never_waits(place: Place) -> None:
    many = addresses(2000)
    await place.decisions.replace_list(a_list("x", [parse_network(t) for t in many[:1500]], NOW + DAY), COMMAND_LINE)
    plan = await place.run(*map(found, many[1500:1800]))
    assert (plan.brake, len(plan.added)) == (None, 300)
    plan = await place.run(*map(found, many[1600:2000]), *map(found, addresses(300, 0x05000001)))
    assert (plan.brake, len(plan.removed), len(plan.held)) == ("growth", 100, 500)


async def test_a_run_that_hangs_on_one_person_waits_for_review(place: Place) -> None:
    for i in range(40):
        await place.member(f"99.0.0.{i}", name=f"m{i}")
    many = addresses(100)
    few = [found(text, 3, decisive=(7, i % 30, 50 + i % 9)) for i, text in enumerate(many[:20])]
    rest = [found(text, 6) for text in many[20:]]
    assert (await place.run(*few, *rest)).brake is None
    more = [found(text, 3, decisive=(7, i % 30, 50 + i % 9)) for i, text in enumerate(addresses(20, 0x05000001))]
    plan = await place.run(*few, *rest, *more)
    assert (plan.brake, len(plan.held), len(await place.listed())) == ("decisive", 20, 100)


async def test_in_a_small_circle_everybody_may_be_decisive(place: Place) -> None:
    for i in range(3):
        await place.member(f"99.0.0.{i}", name=f"m{i}")
    plan = await place.run(*(found(text, 3, decisive=(1, 2, 3)) for text in addresses(100)))
    assert (plan.brake, len(plan.added)) == (None, 100)


async def test_strangers_without_a_word_make_nobody_decide_too_much(place: Place) -> None:
    for i in range(6):
        await place.member(f"99.0.0.{i}", name=f"m{i}")
    people = [await place.person(f"p{i}", vouched=i == 0) for i in range(100)]
    findings = [found(text, 3, decisive=(people[0],)) for text in addresses(30)]
    rest = [found(text, 6) for text in addresses(20, 0x05000001)]
    # One decides 30 of 50: of 6 who could have voted it is no more than their share.
    assert (await place.run(*findings, *rest)).brake is None


async def test_in_a_week_little_may_rest_on_one_person_for_whom_nobody_vouches(place: Place) -> None:
    sleeper, other, vouched = [await place.person(f"p{i}", vouched=i == 2) for i in range(3)]
    many = addresses(3 * WEEK_CAP)
    plans = []
    # A few at a time, so that no run is remarkable by itself.
    for count in range(8, 33, 8):
        plans.append(await place.run(*(found(text, decisive=(sleeper, vouched)) for text in many[:count])))
        place.now += HOUR
    assert [(len(plan.added), len(plan.held)) for plan in plans] == [(8, 0), (8, 0), (4, 4), (0, 8)]
    held = await place.standing(state="held")
    assert {one.held_for for one in held} == {"decisive"}
    # They go on waiting; what rests on others doesn't.
    standing = [found(text, decisive=(sleeper, vouched)) for text in many[:32]]
    plan = await place.run(*standing, found(many[40], decisive=(other,)), found(many[41], decisive=(vouched,)))
    assert (targets(plan.added), plan.kept) == (sorted(many[40:42]), 32)
    # The next week has a share of its own.
    place.now += 7 * DAY
    findings = [finding._replace(expires=place.now + 7 * DAY) for finding in standing]
    assert len((await place.run(*findings)).added) == WEEK_CAP


async def test_a_listing_that_is_renewed_is_no_new_one(place: Place) -> None:
    sleeper = await place.person("p")
    texts = addresses(2 * WEEK_CAP)
    await place.run(*(found(text, decisive=(sleeper,)) for text in texts[:WEEK_CAP]))
    place.now += 6 * DAY
    renewed = [found(text, expires=place.now + 9 * DAY, decisive=(sleeper,)) for text in texts[:WEEK_CAP]]
    assert len((await place.run(*renewed)).end) == WEEK_CAP
    place.now += 2 * DAY
    more = [found(text, expires=place.now + 9 * DAY, decisive=(sleeper,)) for text in texts[WEEK_CAP:]]
    plan = await place.run(*renewed, *more)
    assert (len(plan.added), len(plan.held)) == (WEEK_CAP, 0)


async def test_in_a_week_little_may_rest_on_people_for_whom_nobody_vouches(place: Place) -> None:
    many, vouched = addresses(60), addresses(100, 0x05000001)
    first = [found(text, vouched=False) for text in many[:30]]
    plan = await place.run(*first)
    # Nobody decides alone, however many they are.
    assert (plan.brake, len(plan.added), len(plan.held)) == (None, UNVOUCHED_FLOOR, 30 - UNVOUCHED_FLOOR)
    assert {one.held_for for one in plan.held} == {"unvouched"}
    place.now += HOUR
    assert len((await place.run(*first, found(many[30], vouched=False))).added) == 0
    # What vouched people see is listed, and makes room for a quarter as much.
    seen = [found(text) for text in vouched]
    plan = await place.run(*first, *seen)
    assert len(plan.added) == 100 + int(UNVOUCHED_SHARE * 100) - UNVOUCHED_FLOOR
    # What a vouched person saw after all waits for nothing any more.
    place.now += HOUR
    assert len((await place.run(*(one._replace(vouched=True) for one in first), *seen)).added) == 30 - 25
    # Those who decide alone have their own bound, whoever else saw it.
    assert {one.held_for for one in await place.standing(state="held")} == set()


async def test_a_network_that_nobody_vouched_for_saw_counts_as_several(place: Place) -> None:
    wide = [found(f"1.0.{n}.0/24", vouched=False) for n in range(3)]
    plan = await place.run(*wide)
    assert (len(plan.added), len(plan.held)) == (1, 2)
    place.now += HOUR
    few = [found(text, vouched=False) for text in addresses(5, 0x05000001)]
    assert len((await place.run(*wide, *few)).added) == UNVOUCHED_FLOOR - NETWORK_COUNTS
    # The week that follows has a share of its own.
    place.now += 7 * DAY + HOUR
    later = [one._replace(expires=place.now + 7 * DAY) for one in wide[1:]]
    assert len((await place.run(*later)).added) == 1


# --- When words begin to count ----------------------------------------------------------------------------------------


async def test_what_goes_for_want_of_words_waits_for_seven_days_after_an_upgrade(place: Place) -> None:
    texts = addresses(10)
    await place.run(*map(found, texts))
    await place.database.write(lambda c: c.execute("INSERT INTO setting VALUES ('words_began', ?)", (NOW,)))
    longer = [found(text, expires=NOW + 30 * DAY) for text in texts]
    await place.run(*longer)
    # A fifth may go at once; more waits, but what is new is listed.
    assert len((await place.run(*longer[:8])).removed) == 2
    plan = await place.run(*longer[:2], found("9.9.9.9", expires=NOW + 30 * DAY))
    assert (plan.brake, len(plan.removed), targets(plan.added)) == ("words", 0, ["9.9.9.9"])
    place.now += 7 * DAY - 1
    assert ((await place.run(*longer[:2])).brake, len(await place.listed())) == ("words", 9)
    place.now += 1
    assert ((await place.run(*longer[:2])).brake, len(await place.listed())) == (None, 2)


async def test_what_an_administrator_ends_waits_for_nothing_after_an_upgrade(place: Place) -> None:
    await place.database.write(lambda c: c.execute("INSERT INTO setting VALUES ('words_began', ?)", (NOW,)))
    texts = addresses(10)
    await place.run(*map(found, texts))
    networks = [parse_network(text) for text in addresses(10, 0x05000001)]
    await place.decisions.replace_list(a_list("mine", networks, NOW + DAY), COMMAND_LINE)
    assert len((await place.decisions.replace_list(a_list("mine", networks[:1], NOW + DAY), COMMAND_LINE)).removed) == 9
    # An analysis that is switched off, or put into the shadow.
    assert len((await place.run(found(texts[0]), mode="shadow")).removed) == 10
    place.now += HOUR
    await place.run(*map(found, texts))
    assert ((await place.run(mode="off")).brake, len(await place.listed())) == (None, 1)


# --- Review -----------------------------------------------------------------------------------------------------------


async def test_held_decisions_are_approved_one_by_one_or_by_origin_and_stay_approved(place: Place) -> None:
    many = addresses(GROWTH_FLOOR + 5)
    await place.run(*map(found, many))
    first = (await place.standing(state="held"))[0]
    approved = await place.decisions.approve(first.id, COMMAND_LINE)
    assert (approved.state, approved.held_for, approved.evidence) == ("active", None, first.evidence)
    assert await place.decisions.approve_held(VOTE, COMMAND_LINE) == len(many) - 1
    plan = await place.run(*map(found, many))
    assert (plan.begin, plan.end) == ((), ())
    assert len(await place.listed()) == len(many)
    assert (await refusal(place.decisions.approve(first.id, COMMAND_LINE))).code == "conflict"
    assert (await refusal(place.decisions.approve(10**9, COMMAND_LINE))).code == "not_found"


async def test_what_was_refused_is_not_proposed_again_for_thirty_days(place: Place) -> None:
    await place.run(found("1.2.3.4"), found("1.2.3.9"))
    one, other = await place.standing()
    ended = await place.decisions.withdraw(one.id, COMMAND_LINE)
    assert ended.end_reason == "refused"
    assert (await refusal(place.decisions.refuse(other.id, COMMAND_LINE))).code == "conflict"
    assert (await refusal(place.decisions.withdraw(one.id, COMMAND_LINE))).code == "conflict"
    place.now += 30 * DAY - 1
    later = place.now + 7 * DAY
    plan = await place.run(found("1.2.3.4", expires=later), found("1.2.3.9", expires=later))
    assert plan.dropped == {"refused": 1}
    place.now += 1
    assert len((await place.run(found("1.2.3.4", expires=later), found("1.2.3.9", expires=later))).added) == 1


async def test_everything_held_of_an_origin_is_refused_together(place: Place) -> None:
    many = addresses(GROWTH_FLOOR + 1)
    await place.run(*map(found, many))
    assert await place.decisions.refuse_held(VOTE, COMMAND_LINE) == len(many)
    assert (await place.run(*map(found, many))).dropped == {"refused": len(many)}


async def test_nobody_but_administrators_decides(place: Place) -> None:
    user = Actor(5, False)
    d = place.decisions
    for call in (
        d.deny("ip", "1.2.3.4", "", None, user),
        d.allow("ip", "1.2.3.4", "", None, user),
        d.pardon("1.2.3.4", "", user),
        d.approve(1, user),
        d.approve_held(VOTE, user),
        d.refuse(1, user),
        d.refuse_held(VOTE, user),
        d.withdraw(1, user),
        d.replace_list(a_list("x", [], NOW), user),
    ):
        assert (await refusal(call)).code == "forbidden"
    assert await place.database.read("SELECT * FROM audit") == []


# --- By hand ----------------------------------------------------------------------------------------------------------


async def test_an_administrator_lists_and_excepts_and_the_exception_wins(place: Place) -> None:
    await place.decisions.deny("ip", "1.2.3.0/30", "noisy", 30 * DAY, COMMAND_LINE)
    await place.decisions.deny("client_name", "Evil", "", None, COMMAND_LINE)
    assert await place.listed() == {"1.2.3.0/30": "[admin] listed by the operator of this server; until 2027-02-14"}
    await place.decisions.allow("ip", "1.2.3.2/31", "mine", DAY, COMMAND_LINE)
    await place.decisions.allow("client_name", '{"method":"EQUALS","content":"Evil 2"}', "", None, COMMAND_LINE)
    assert list(await place.listed()) == ["1.2.3.0/31"]
    published = await place.published()
    rules = clients.pbh_rules(published.rules(PBH).body)
    assert rules.bans_name("evil 1")
    assert not rules.bans_name("Evil 2")
    assert [str(network) for network, _ in clients.address_list(published.ip_allowlist.body)] == ["1.2.3.2/31"]
    error = await refusal(place.decisions.deny("ip", "1.2.3.3", "", None, COMMAND_LINE))
    assert (error.code, "exceptions always win" in error.message) == ("conflict", True)
    place.now += DAY
    assert list(await place.listed()) == ["1.2.3.0/30"]


@pytest.mark.parametrize("text", ["10.0.0.1", "nonsense", "0.0.0.0/0", "1.2.3.4/24", "127.0.0.1", "", "fe80::/64"])
async def test_what_is_nobodys_can_not_be_listed(place: Place, text: str) -> None:
    assert (await refusal(place.decisions.deny("ip", text, "", None, COMMAND_LINE))).code == "bad_request"


async def test_a_reason_is_one_line(place: Place) -> None:
    for note in ("a\nb", "x" * 256, "a\u2028b", "\x00"):
        assert (await refusal(place.decisions.allow("ip", "1.2.3.4", note, None, COMMAND_LINE))).code == "bad_request"


async def test_listing_an_own_address_is_refused_and_a_members_held(place: Place) -> None:
    place.protected.own = {address_bytes("8.8.8.8")}
    await place.member("9.9.9.9")
    assert (await refusal(place.decisions.deny("ip", "8.8.8.8", "", None, COMMAND_LINE))).code == "conflict"
    assert (await place.decisions.deny("ip", "9.9.9.9", "", None, COMMAND_LINE)).held_for == "member"
    await place.decisions.deny("ip", "8.8.8.0/24", "", None, COMMAND_LINE)
    assert "8.8.8.8/32" not in await place.listed()
    assert len(await place.listed()) == 8


async def test_deciding_the_same_again_takes_the_place_of_the_first(place: Place) -> None:
    first = await place.decisions.deny("ip", "1.2.3.4", "a", DAY, COMMAND_LINE)
    await place.decisions.allow("ip", "1.2.3.0/24", "a", DAY, COMMAND_LINE)
    place.now += 2 * DAY
    second = await place.decisions.deny("ip", "1.2.3.4", "b", DAY, COMMAND_LINE)
    third = await place.decisions.deny("ip", "1.2.3.4", "c", None, COMMAND_LINE)
    assert targets(await place.standing()) == ["1.2.3.4"]
    assert (await place.decisions.get(first.id)).state_at(place.now) == "expired"
    assert (await place.decisions.get(second.id)).end_reason == "superseded"
    assert third.expires_at is None


async def test_a_pardon_ends_what_lists_an_address_and_excepts_it_for_seven_days(place: Place) -> None:
    await place.configure(rule("1.2.3.4"))
    await place.run(found("1.2.3.4"), found("1.2.3.0/24"), found("1.2.3.5"))
    await place.run(found("1.2.3.4"), origin="over_download", mode="shadow")
    done = await place.decisions.pardon("1.2.3.4", "he asked nicely", COMMAND_LINE)
    assert sorted((one.origin, str(one.network)) for one in done.ended) == [
        ("over_download", "1.2.3.4"),
        (VOTE, "1.2.3.4"),
    ]
    assert sorted((one.origin, str(one.network)) for one in done.standing) == [
        ("config", "1.2.3.4"),
        (VOTE, "1.2.3.0/24"),
    ]
    assert not any(parse_network(text).contains(parse_network("1.2.3.4")) for text in await place.listed())
    allowed = clients.address_list((await place.published()).ip_allowlist.body)
    assert [(str(n), why) for n, why in allowed] == [
        ("1.2.3.4/32", "[admin] pardoned by the operator of this server; until 2027-01-22")
    ]
    assert (await place.run(found("1.2.3.4"))).dropped == {"excepted": 1}
    place.now += PARDON_MS
    plan = await place.run(found("1.2.3.4", expires=place.now + 7 * DAY))
    # A pardoned listing is none that came back.
    assert plan.added[0].expires_at == place.now + 7 * DAY


async def test_pardoning_one_address_of_a_listed_64_pardons_the_64(place: Place) -> None:
    await place.run(found("2001:db8::/64"), found("2001:db8:1::/56"))
    done = await place.decisions.pardon("2001:db8::7", "", COMMAND_LINE)
    assert (str(done.exception.network), targets(done.ended)) == ("2001:db8::/64", ["2001:db8::/64"])
    done = await place.decisions.pardon("2001:db8:1::7", "", COMMAND_LINE)
    assert (str(done.exception.network), targets(done.standing)) == ("2001:db8:1::7", ["2001:db8:1::/56"])


async def test_who_decided_what_is_audited_in_the_same_transaction(place: Place) -> None:
    admin = Actor(3, True, "9.9.9.9", "Moz\x00illa")
    denied = await place.decisions.deny("ip", "1.2.3.4", "noisy", None, admin)
    await place.decisions.withdraw(denied.id, admin)
    await place.decisions.pardon("1.2.3.4", "", COMMAND_LINE)
    rows = await place.database.read("SELECT action, success, user, address, user_agent FROM audit ORDER BY id")
    assert rows == [
        ("RULE_DENY", 1, 3, "9.9.9.9", "Mozilla"),
        ("RULE_WITHDRAW", 1, 3, "9.9.9.9", "Mozilla"),
        ("RULE_PARDON", 1, None, None, None),
    ]


# --- The configuration ------------------------------------------------------------------------------------------------


async def test_the_configurations_rules_are_decisions_too_and_unchanged_ones_stay(place: Place) -> None:
    full = (
        rule("1.2.3.4", "1.2.3.5"),
        rule(6881, kind="port"),
        rule("Evil", kind="client_name"),
        rule("return false", kind="script"),
    )
    await place.configure(*full, exceptions=(rule("5.5.5.0/24", category="friends"),))
    first = {one.id for one in await place.standing(origin="config")}
    assert len(first) == 6
    place.now += DAY
    await place.configure(*full, exceptions=(rule("5.5.5.0/24", category="friends"),))
    assert {one.id for one in await place.standing()} == first
    await place.configure(rule("1.2.3.5", "1.2.3.6"))
    standing = await place.standing()
    assert targets(standing) == ["1.2.3.5", "1.2.3.6"]
    assert len({one.id for one in standing} & first) == 1
    assert [str(n) for n in await place.listed()] == ["1.2.3.5/32", "1.2.3.6/32"]
    [kept] = [one for one in standing if one.id in first]
    assert (await refusal(place.decisions.withdraw(kept.id, COMMAND_LINE))).code == "conflict"


# --- Lists ------------------------------------------------------------------------------------------------------------


async def test_an_imported_list_replaces_its_earlier_entries_and_no_others(place: Place) -> None:
    async def bring(name: str, *texts: str) -> Plan:
        networks = [parse_network(text) for text in texts]
        return await place.decisions.replace_list(a_list(name, networks, place.now + 30 * DAY), COMMAND_LINE)

    await bring("a", "1.2.3.4", "1.2.3.0/24", "7.7.7.7")
    await bring("b", "6.6.6.6")
    await place.member("7.7.7.7")
    await place.decisions.allow("ip", "1.2.3.128/25", "", None, COMMAND_LINE)
    plan = await bring("a", "1.2.3.0/24", "7.7.7.7", "10.0.0.1", "3.0.0.0/23")
    assert (targets(plan.removed), targets(plan.held), plan.dropped) == (
        ["1.2.3.4", "7.7.7.7"],
        ["7.7.7.7"],
        {"special": 1, "wide": 1},
    )
    reason = "on a list that the operator of this server imported; until 2027-02-14"
    assert await place.listed() == {"1.2.3.0/25": f"[a] {reason}", "6.6.6.6/32": f"[b] {reason}"}
    assert targets((await bring("b")).removed) == ["6.6.6.6"]


async def test_bringing_a_list_again_changes_little(place: Place) -> None:
    networks = [parse_network(text) for text in addresses(3000)]
    first = await place.decisions.replace_list(a_list("a", networks, place.now + 30 * DAY), COMMAND_LINE)
    assert (len(first.added), first.brake) == (3000, None)
    place.now += DAY
    again = await place.decisions.replace_list(a_list("a", networks, place.now + 30 * DAY), COMMAND_LINE)
    assert (again.begin, again.end, again.kept) == ((), (), 3000)
    place.now += 16 * DAY
    later = await place.decisions.replace_list(a_list("a", networks, place.now + 30 * DAY), COMMAND_LINE)
    assert (len(later.begin), later.added, later.removed) == (3000, [], [])


# --- Telling ----------------------------------------------------------------------------------------------------------


async def test_why_tells_every_decision_with_its_evidence_and_what_protects(place: Place) -> None:
    await place.configure(rule("1.2.0.0/16"))
    await place.run(found("1.2.3.4"), found("1.2.3.0/24"), found("1.2.4.4"))
    await place.run(found("1.2.3.4"), origin="over_download", mode="shadow")
    await place.run(found("1.2.3.0/24"))
    why = await place.decisions.why(parse_network("1.2.3.4"))
    assert why.listed
    assert [(m.decision.origin, str(m.decision.network), m.state, m.reason.text("zh")) for m in why.matches] == [
        ("over_download", "1.2.3.4", "shadow", "seen：people 4"),
        (VOTE, "1.2.3.0/24", "active", "seen：people 4"),
        (VOTE, "1.2.3.4", "withdrawn", "seen：people 4"),
        ("config", "1.2.0.0/16", "active", "由本服务器的管理员列入"),
    ]
    assert why.matches[0].decision.evidence == {
        "people": 4,
        "formula": 1,
        "first_seen": NOW - DAY,
        "last_seen": NOW,
    }
    assert why.protection == ()
    inside = await place.decisions.why(parse_network("1.2.3.0/24"))
    assert len(inside.matches) == 4
    await place.decisions.allow("ip", "1.2.3.4", "", None, COMMAND_LINE)
    excepted = await place.decisions.why(parse_network("1.2.3.4"))
    assert (excepted.listed, excepted.protection) == (False, ("excepted",))
    nothing = await place.decisions.why(parse_network("2001:db8::1"))
    assert (nothing.listed, nothing.matches) == (False, ())


async def test_why_tells_of_names(place: Place) -> None:
    await place.configure(
        rule("thunder", {"method": "CONTAINS", "content": "bird", "hit": "FALSE"}, kind="client_name")
    )
    await place.decisions.deny("peer_id", "-TH", "", None, COMMAND_LINE)
    listed = await place.decisions.why_named("client_name", "Thunder 3")
    assert (listed.listed, len(listed.matches)) == (True, 1)
    excluded = await place.decisions.why_named("client_name", "Thunderbird 3")
    assert (excluded.listed, len(excluded.matches)) == (False, 2)
    assert (await place.decisions.why_named("peer_id", "-TH0001-")).listed
    await place.decisions.allow("peer_id", "-TH0001", "", None, COMMAND_LINE)
    freed = await place.decisions.why_named("peer_id", "-TH0001-")
    assert (freed.listed, freed.protection) == (False, ("excepted",))


async def test_the_public_verdict_tells_nothing_about_members(place: Place) -> None:
    await place.run(found("1.2.3.4"), found("9.9.9.9"))
    verdict = await place.decisions.verdict(address_bytes("1.2.3.4"))
    assert (verdict.listed, verdict.matches[0].reason.text("en")) == (True, "seen: people 4")
    await place.member("9.9.9.9")
    nobody = await place.decisions.verdict(address_bytes("3.3.3.3"))
    assert await place.decisions.verdict(address_bytes("9.9.9.9")) == nobody
    await place.decisions.pardon("1.2.3.4", "", COMMAND_LINE)
    freed = await place.decisions.verdict(address_bytes("1.2.3.4"))
    assert (freed.listed, freed.excepted, freed.matches) == (False, True, ())


async def test_the_state_at_any_past_moment_can_be_told(place: Place) -> None:
    stood: dict[int, list[tuple[str, str]]] = {}

    async def now_stands() -> None:
        stood[place.now] = sorted((str(one.network), one.state) for one in await place.standing())

    await place.run(found("1.2.3.4"), found("1.2.3.9"))
    await now_stands()
    place.now += HOUR
    await place.run(found("1.2.3.9"), found("1.2.3.10"), mode="shadow")
    await now_stands()
    place.now += HOUR
    await place.decisions.pardon("1.2.3.9", "", COMMAND_LINE)
    await now_stands()
    place.now += 8 * DAY
    await now_stands()
    for moment, then in stood.items():
        found_then, _ = await place.decisions.page(DecisionFilter(), Position(), 100, moment)
        assert sorted((str(one.network), one.state_at(moment)) for one in found_then) == then
    assert stood[place.now] == []
    assert (await place.decisions.page(DecisionFilter(), Position(), 100, NOW - 1))[0] == []


async def test_the_log_pages_through_every_begin_and_end_once(place: Place) -> None:
    await place.run(*map(found, addresses(5)))
    place.now += HOUR
    await place.run(*map(found, addresses(3)))
    await place.decisions.pardon("1.0.0.1", "", COMMAND_LINE)
    place.now += 8 * DAY
    whole = await place.decisions.changes(Position(), 1000)
    assert len(whole) == 2 * 6
    assert [one.at for one in whole] == sorted((one.at for one in whole), reverse=True)
    paged: list[Any] = []
    while page := await place.decisions.changes(_beside(paged[-1:], is_before=False), 2):
        paged += page
    assert paged == whole
    back = whole[-1:]
    while page := await place.decisions.changes(_beside(back[:1], is_before=True), 2):
        back = page + back
    assert back == whole
    endings = [one.decision.state_at(one.at) for one in whole if one.ended]
    assert sorted(endings) == ["expired", "expired", "expired", "pardoned", "withdrawn", "withdrawn"]


def _beside(known: list[Any], *, is_before: bool) -> Position[Any]:
    return Position((known[0].at, known[0].decision.id, known[0].ended), is_before) if known else Position()


async def test_decisions_are_paged_forth_and_back(place: Place) -> None:
    await place.run(*map(found, addresses(7)))
    whole, _ = await place.decisions.page(DecisionFilter(), Position(), 100)
    assert len(whole) == 7
    second, _ = await place.decisions.page(DecisionFilter(), Position(whole[2].id), 3)
    assert second == whole[3:6]
    back, _ = await place.decisions.page(DecisionFilter(), Position(second[0].id, is_before=True), 2)
    assert back == whole[1:3]
    assert (await place.decisions.page(DecisionFilter(), Position(whole[0].id, is_before=True), 2))[0] == []


async def test_the_log_forgets_after_two_years(place: Place) -> None:
    await place.run(*map(found, addresses(5)))
    await place.decisions.allow("ip", "5.5.5.5", "", None, COMMAND_LINE)
    place.now += 738 * DAY
    before = await place.decisions.changes(Position(), 100)
    await place.decisions.forget_oldest()
    left = await place.decisions.changes(Position(), 100)
    assert (len(before), {str(change.decision.network) for change in left}) == (11, {"5.5.5.5"})
    assert targets(await place.standing()) == ["5.5.5.5"]


async def test_a_reason_for_the_documents_is_ascii_on_one_line(place: Place) -> None:
    await place.run(found("1.2.3.4")._replace(code="a\n1.1.1.1 迅"))
    await place.run(found("1.2.3.9")._replace(code="unknown\n9.9.9.9"), origin="over_download")
    assert await place.listed() == {
        "1.2.3.4/32": f"[{VOTE}] a 1.1.1.1 ?: people 4; until 2027-01-22",
        "1.2.3.9/32": "[over_download] unknown 9.9.9.9: people 4; until 2027-01-22",
    }


async def test_looking_an_address_up_uses_an_index(place: Place) -> None:
    for text in ("1.2.3.4", "2001:db8::1", "1.2.0.0/16"):
        condition, values = store._sharing(parse_network(text))
        plan = await place.database.read(f"EXPLAIN QUERY PLAN SELECT id FROM decision WHERE {condition}", values)
        assert not any(str(row[3]).startswith("SCAN decision") for row in plan), plan


# --- Whatever happens -------------------------------------------------------------------------------------------------

some_networks = st.builds(
    lambda address, prefix: network_of((address | 0x05000000).to_bytes(4, "big"), prefix),
    st.integers(0, 63),
    st.sampled_from([24, 26, 28, 30, 31, 32, 32, 32]),
) | st.builds(
    lambda address, prefix: network_of((0x20010DB8 << 96 | address << 62).to_bytes(16, "big"), prefix),
    st.integers(0, 15),
    st.sampled_from([60, 62, 64, 64, 66, 128]),
)


class Step(NamedTuple):
    """Something that happens; `number` is people or days."""

    what: str
    networks: list[Network]
    number: int


steps = st.builds(
    Step,
    what=st.sampled_from(["apply", "shadow", "deny", "allow", "pardon", "wait", "member", "list", "config", "review"]),
    networks=st.lists(some_networks, min_size=1, max_size=4),
    number=st.integers(1, 20),
)


async def take(step: Step, place: Place) -> None:
    what, networks, number = step
    first, d = str(networks[0]), place.decisions
    if what in ("apply", "shadow"):
        findings = [found(str(one), number, expires=place.now + number * DAY) for one in networks]
        await place.run(*findings, mode="on" if what == "apply" else "shadow")
    elif what == "deny":
        await d.deny("ip", first, "", number * DAY, COMMAND_LINE)
    elif what == "allow":
        await d.allow("ip", first, "", number * DAY, COMMAND_LINE)
    elif what == "pardon":
        await d.pardon(first, "", COMMAND_LINE)
    elif what == "wait":
        place.now += number * DAY
    elif what == "member":
        await place.member(str(Network(networks[0].address, networks[0].bits)), name=f"m{place.now}{number}{first}")
    elif what == "list":
        await d.replace_list(a_list("x", networks, place.now + number * DAY), COMMAND_LINE)
    elif what == "config":
        await place.configure(rule(*map(str, networks[:2])), exceptions=(rule(*map(str, networks[2:])),))
    elif held := await place.standing(state="held"):
        await d.approve(held[0].id, COMMAND_LINE)


async def check(place: Place) -> None:
    """Nothing protected is listed, and what the list says is what stands."""
    async with place.database.reader() as reader:
        allowed = [one.network for one in await store.allowed(reader, place.now) if one.network]
    seen = "SELECT DISTINCT address FROM userapp_address WHERE last_seen_at>=?"
    members = [row[0] for row in await place.database.read(seen, (place.now - 14 * DAY,))]
    listed = [parse_network(text) for text in await place.listed()]
    for protected in (*allowed, *map(single, members), *map(single, place.protected.own)):
        assert not any(one.contains(protected) or protected.contains(one) for one in listed)
    # The operator's neighbours are published as one network.
    denied = collapse(one.network for one in await place.standing(action="deny", state="active") if one.network)
    for one in listed:
        assert any(wider.contains(one) for wider in denied)
    assert {str(one) for one in listed} == {
        text.removesuffix("/32").removesuffix("/128") for text in await place.listed()
    }


@settings(max_examples=40, deadline=None)
@given(st.lists(steps, max_size=8))
async def test_whatever_happens_nothing_protected_is_listed_and_every_line_reads_back(story: list[Step]) -> None:
    # Each story begins on a database of its own.
    with tempfile.TemporaryDirectory() as folder:
        async with opened(Path(folder)) as place:
            place.protected.own = {address_bytes("5.0.0.7"), address_bytes("2001:db8:0:0:4000::")}
            for step in story:
                try:
                    await take(step, place)
                except SparkleError as error:
                    assert error.code in ("conflict", "bad_request")
            await check(place)
