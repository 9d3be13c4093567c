"""A circle against a server of its own: the same twice, judged by what is known, and gone without a trace."""

import asyncio
import json
import tempfile
from pathlib import Path

import pytest

from sparkle_lite import clock
from sparkle_lite.simulation import report
from sparkle_lite.simulation.judge import truth
from sparkle_lite.simulation.liars import STYLES, Conspiracy
from sparkle_lite.simulation.lists import of_rules, of_text
from sparkle_lite.simulation.peers import BAD_KINDS
from sparkle_lite.simulation.play import Order, Played, play_own
from sparkle_lite.simulation.programs import SHARES
from sparkle_lite.simulation.world import World
from sparkle_lite.units import DAY_MS, HOUR_MS

SMALL = Order(people=5, days=0.2, seed=3)


def played(order: Order) -> Played:
    """What came of a simulation with everything in it."""
    outcome, _, _ = asyncio.run(play_own(order, lambda share, text: None))
    return outcome


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where temporary files go meanwhile."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def outcome(folder: Path) -> Played:
    """One small simulation."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        return played(SMALL._replace(poison=0.4))
    finally:
        tempfile.tempdir = before


def test_everything_sent_is_acknowledged_and_no_job_fails(outcome: Played) -> None:
    traffic = outcome.traffic
    assert traffic.sent == traffic.accepted > 1000
    assert traffic.rejected == 0
    assert {name.split()[1] for name in traffic.statuses} <= {"200", "204"}
    assert {name.split()[0] for name in traffic.statuses} > {"config", "submit_bans", "rules", "ip_denylist"}
    assert outcome.failures == {}
    assert (outcome.days, outcome.was_interrupted) == (pytest.approx(0.2, abs=0.01), False)


def test_nothing_is_left_and_the_clock_is_everybodys_again(outcome: Played, folder: Path) -> None:
    assert list(folder.iterdir()) == []
    # The driven clock began in another year.
    assert clock.now_ms() > 1_784_000_000_000 + 30 * DAY_MS or clock.now_ms() < 1_784_000_000_000


def test_a_driven_clock_moves_both_times_together() -> None:
    with clock.driven_by(clock.DrivenClock(1000)):
        assert (clock.now_ms(), clock.elapsed_ms()) == (1000, 0)
    driven = clock.DrivenClock(5 * DAY_MS)
    with clock.driven_by(driven):
        driven.go_on(3 * DAY_MS)
        assert (clock.now_ms(), clock.elapsed_ms()) == (8 * DAY_MS, 3 * DAY_MS)
    assert clock.now_ms() != 8 * DAY_MS


def test_the_same_order_gives_the_same_table_and_another_seed_another(outcome: Played) -> None:
    again = played(SMALL._replace(poison=0.4))
    assert report.table(again) == report.table(outcome)
    assert again.traffic.statuses == outcome.traffic.statuses
    assert (again.traffic.sent, again.traffic.accepted) == (outcome.traffic.sent, outcome.traffic.accepted)
    other = played(SMALL._replace(seed=4))
    assert other.traffic.sent != outcome.traffic.sent


def test_the_report_names_every_kind_and_is_json_too(outcome: Played) -> None:
    lines = report.text(outcome)
    for kind in BAD_KINDS:
        assert sum(line.startswith(kind) for line in lines) == 1
    assert any("2 of them liars (collude)" in line for line in lines)
    document = json.loads(json.dumps(report.document(outcome)))
    assert set(document["lists"]) == {"ours", "Sparkle 1", "Sparkle 3"}
    assert [one["kind"] for one in document["lists"]["ours"]["bad"]] == list(BAD_KINDS)
    assert document["attacked"] == outcome.attacked > 50
    for judged in document["lists"].values():
        for one in judged["bad"]:
            assert 0 <= one["time"] <= 1
            assert 0 <= one["ever"] <= 1


def test_a_lone_operators_rules_catch_what_their_own_clients_see() -> None:
    """With `solo` one person's word is enough: who cheats is listed within hours, and the formulas see the same."""
    outcome = played(Order(people=6, days=1, seed=2, preset="solo"))
    ours = {one.kind: one for one in outcome.verdicts["ours"][0]}
    assert ours["progress cheater"].ever > 0
    assert 0 < (ours["progress cheater"].hours_to_listing or 0) < 20
    assert ours["scraper of hundreds of torrents"].ever == 0
    third = {one.kind: one for one in outcome.verdicts["Sparkle 3"][0]}
    # One report is enough there for a name that nobody knows.
    assert third["random identity"].ever == 1


# --- The world --------------------------------------------------------------------------------------------------------


def world(**more: float) -> World:
    """A world of thirty people."""
    order = {"people": 30, "days": 8.0, "seed": 1, "poison": 0.0} | more
    return World(
        people=int(order["people"]),
        days=order["days"],
        seed=int(order["seed"]),
        poison=order["poison"],
        start_ms=1_784_000_000_000,
    )


def test_a_world_has_everything_in_it() -> None:
    found = world(people=200)
    kinds = {peer.lines[0].kind for peer in found.honest}
    assert kinds == {"static", "dynamic", "household", "privacy", "cgnat", "campus", "seedbox", "exit"}
    assert {peer.quirk for peer in found.honest} == {"", "partial", "again", "stuck", "seedbox"}
    programs = {one.program for person in found.people for one in person.installations}
    assert len(programs) > 12
    assert programs <= set(SHARES)
    assert {peer.bad for peer in found.bad} == set(BAD_KINDS)
    assert any(torrent.private for torrent in found.torrents)
    exits = {peer.lines[0].address(0) for peer in found.honest if peer.lines[0].kind == "exit"}
    shared = {peer.lines[0].address(0) for peer in found.bad if peer.bad == "cheater on a shared exit"}
    assert shared <= exits


def test_an_address_lasts_as_long_as_its_line_says() -> None:
    found = world()
    for peer in found.honest:
        line = peer.lines[0]
        days = {line.address(found.start_ms // DAY_MS * DAY_MS + day * DAY_MS + HOUR_MS) for day in range(8)}
        assert (len(days) == 1) == line.is_stable or line.kind == "cgnat", line
    privacy = next(peer.lines[0] for peer in found.honest if peer.lines[0].kind == "privacy")
    places = {privacy.address(day * DAY_MS).split(":")[3] for day in range(9)}
    assert len(places) == 1


def test_what_is_true_is_written_down() -> None:
    found = world(poison=0.33)
    plan = Conspiracy(found, "collude", sum(person.lies for person in found.people))
    said = json.loads(json.dumps(truth(found, plan.victims)))
    assert {one["kind"] for one in said["bad"]} == set(BAD_KINDS)
    assert all(one["addresses"] for one in said["bad"])
    assert sum(one["lies"] for one in said["people"]) == 10
    honest = {way.ip for peer in found.honest for way in peer.ways(found.start_ms)}
    assert set(said["attacked"]) <= honest
    assert not set(said["attacked"]) & {address for one in said["bad"] for address in one["addresses"]}


@pytest.mark.parametrize("style", STYLES)
def test_liars_of_every_style_are_taken_at_their_word_and_break_nothing(style: str) -> None:
    outcome = played(Order(people=4, days=0.06, seed=5, poison=0.5, style=style))  # type: ignore[arg-type]
    assert outcome.liars == 2
    assert outcome.traffic.sent == outcome.traffic.accepted + outcome.traffic.rejected > 100
    assert set(outcome.traffic.statuses) and outcome.failures == {}


# --- Lists ------------------------------------------------------------------------------------------------------------


def test_a_list_is_read_as_a_client_reads_it() -> None:
    text = of_text(b"# [untrusted_vote] 3 people\n203.0.113.0/24\n#other\n2001:db8:4a1:7::/64\n198.51.100.9\n")
    assert text.why("203.0.113.7") == "[untrusted_vote] 3 people"
    assert (text.width("203.0.113.7"), text.width("198.51.100.9"), text.width("198.51.100.8")) == (8, 0, None)
    assert text.width("2001:db8:4a1:7::c3") == 0
    rules = of_rules(b'{"version":"1","ip":{"PCDN":["203.0.113.0/24"]}}')
    assert rules.why("203.0.113.9") == "PCDN"
