"""Lists of others on a real database, fetched from a real server: what is taken over, what is held back, what stays."""

import gzip
import tempfile
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from list_server import ListServer, list_server

from sparkle_lite.accounts.actors import COMMAND_LINE, Actor
from sparkle_lite.accounts.audit import Audit
from sparkle_lite.config import Config, ImportEntry, ListURL
from sparkle_lite.db import imports as store
from sparkle_lite.db.database import Database
from sparkle_lite.db.decisions import Decision, DecisionFilter
from sparkle_lite.db.orders import Position
from sparkle_lite.errors import SparkleError
from sparkle_lite.net import parse_network
from sparkle_lite.rules.decisions import Decisions
from sparkle_lite.rules.imports import SCHEDULE, Imported, ImportOrder, Imports
from sparkle_lite.rules.offers import unpacked
from sparkle_lite.rules.protected import Protected
from sparkle_lite.texts import languages
from sparkle_lite.wire.decisions_document import Reasons, TradedDecision, encode

NOW, HOUR, DAY = 1_800_000_000_000, 3_600_000, 86_400_000
MANY = [f"45.{number >> 8}.{number & 255}.9" for number in range(1000)]


class Place:
    """The lists of one process, with handles on what they were made from."""

    def __init__(self, folder: Path) -> None:
        self.now = NOW
        self.folder = folder
        self.config = Config()
        self.database = Database(folder / "s.db")
        audit = Audit(self.database, lambda: self.now)
        self.decisions = Decisions(self.database, audit, lambda: self.now, Protected(set()))
        self.imports = self.restarted()

    def restarted(self) -> Imports:
        """The same lists in another process."""
        return Imports(
            database=self.database,
            decisions=self.decisions,
            audit=Audit(self.database, lambda: self.now),
            config=lambda: self.config,
            clock=lambda: self.now,
        )

    async def standing(self, **wanted: Any) -> list[Decision]:
        return (await self.decisions.page(DecisionFilter(**wanted), Position(), 10_000))[0]

    async def listed(self) -> set[str]:
        return {str(one.network) for one in await self.standing(state="active")}

    def configure(self, *entries: ImportEntry) -> None:
        self.config = msgspec.structs.replace(self.config, imports=entries)

    async def bring(self, body: str | bytes, *, name: str = "a", accept: bool = False, **entry: Any) -> Imported:
        """What a command does with a file of this content."""
        data = body.encode() if isinstance(body, str) else body
        settings = ImportEntry(name=name, file="x", **entry)
        order = ImportOrder(settings, COMMAND_LINE, accept=accept, by_hand=True, body=data)
        return await self.imports.run(order)


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Place]:
    place = Place(folder)
    await place.database.open()
    try:
        yield place
    finally:
        await place.imports.close()
        await place.database.close()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with opened(tmp_path) as place:
        yield place


@pytest.fixture(scope="module")
def web() -> Iterator[ListServer]:
    with list_server() as server:
        yield server


def fetched(url: str, name: str = "a", **values: Any) -> ImportEntry:
    """A list of the configuration that may come from this machine."""
    return ImportEntry(name=name, url=(ListURL(url),), allow_private=True, **values)


def lines(texts: list[str]) -> str:
    return "".join(f"{text}\n" for text in texts)


def why(done: Imported) -> str:
    """Why a run changed nothing, the last part of its key; it can be said in every language."""
    assert done.run.why is not None
    said = unpacked(done.run.why)
    assert all(said.text(language) for language in languages())
    return said.key.rpartition(".")[2]


# --- A list never vanishes by accident --------------------------------------------------------------------------------

# What comes instead of a list of a hundred entries, and why it is not taken over.
ACCIDENTS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "empty"),
    "comments alone": (b"# moved\n; away\n", "empty"),
    "a web page": (b"<!DOCTYPE html>\n<html><body>1.2.3.4 is yours</body></html>\n", "html"),
    "an error as JSON": (b'{"error": "not found"}\n', "json"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4, "binary"),
    "nonsense": (b"nothing here\nis an address\n", "unreadable"),
    "two lines": (b"45.0.0.9\n45.0.1.9\n", "shrunk"),
    "mostly nonsense": (lines(MANY[:60]).encode() + b"what is this\n" * 70, "mostly_bad"),
    "ten times as much": (lines(MANY).encode(), "grown"),
    "half a gzip file": (gzip.compress(lines(MANY[:120]).encode())[:-20], "cut"),
}


@pytest.mark.parametrize("accident", ACCIDENTS)
async def test_what_is_no_list_or_a_very_different_one_leaves_the_last_good_one(place: Place, accident: str) -> None:
    body, key = ACCIDENTS[accident]
    good = MANY[:100]
    assert (await place.bring(lines(good))).run.outcome == "taken"
    done = await place.bring(body)
    assert (done.run.outcome in ("held", "failed"), why(done)) == (True, key)
    assert await place.listed() == set(good)
    [state] = [listed for listed in await place.imports.all() if listed.entry.name == "a"]
    assert (state.state_now, state.state.entries, state.state.good_at) == (done.run.outcome, 100, NOW)
    # The good one is no change afterwards, and the history has all of it.
    assert (await place.bring(lines(good))).run.outcome == "unchanged"
    assert [run.outcome for run in await place.imports.runs("a")] == ["unchanged", done.run.outcome, "taken"]


@pytest.mark.parametrize("accident", ["nothing", "two lines", "mostly nonsense", "ten times as much"])
async def test_an_administrator_takes_over_what_was_held_back(place: Place, accident: str) -> None:
    await place.bring(lines(MANY[:100]))
    body = ACCIDENTS[accident][0]
    assert (await place.bring(body)).run.outcome == "held"
    assert (await place.bring(body, accept=True)).run.outcome == "taken"
    assert await place.listed() == {line for line in body.decode().split("\n") if line.startswith("45.")}
    # What was accepted once is the last good state: it is neither held again nor news.
    assert (await place.bring(body)).run.outcome == ("held" if accident == "mostly nonsense" else "unchanged")


async def test_nobody_can_accept_what_is_no_list(place: Place) -> None:
    await place.bring(lines(MANY[:100]))
    for accident in ("a web page", "a picture", "nonsense", "an error as JSON"):
        assert (await place.bring(ACCIDENTS[accident][0], accept=True)).run.outcome == "failed"
    assert await place.listed() == set(MANY[:100])


async def test_a_first_list_may_be_long_and_a_short_one_may_change_as_it_likes(place: Place) -> None:
    assert (await place.bring(lines(MANY), name="first")).run.outcome == "taken"
    for size in (19, 1, 12):
        assert (await place.bring(lines(MANY[:size]), name="short")).run.outcome == "taken"
    # An empty one is no list to begin with, unless somebody says so.
    assert why(await place.bring("", name="none")) == "empty"
    assert (await place.bring("", name="none", accept=True)).run.outcome == "unchanged"


async def test_what_stands_no_longer_is_nothing_to_compare_with(place: Place) -> None:
    order = ImportOrder(ImportEntry(name="a", file="x"), COMMAND_LINE, by_hand=True, lifetime_ms=DAY)
    await place.imports.run(order._replace(body=lines(MANY[:100]).encode()))
    place.now += 2 * DAY
    assert await place.listed() == set()
    assert (await place.imports.run(order._replace(body=b"45.0.0.9\n"))).run.outcome == "taken"


@settings(max_examples=60, deadline=None)
@given(st.data())
async def test_whatever_comes_the_new_list_or_the_old_one_stands(data: st.DataObject) -> None:
    old = lines(MANY[:40])
    new = bytearray(lines(MANY[10:50]).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        place_of = data.draw(st.integers(0, len(new)))
        cut = data.draw(st.sampled_from((0, 0, 1, 5, len(new))))
        new[place_of : place_of + cut] = data.draw(st.binary(max_size=12))
    accept = data.draw(st.booleans())
    with tempfile.TemporaryDirectory() as folder:
        async with opened(Path(folder)) as place:
            await place.bring(old)
            done = await place.bring(bytes(new), accept=accept)
            standing = await place.listed()
            if done.run.outcome == "taken":
                assert len(standing) == done.run.numbers["entries"]
                assert standing == await only(bytes(new))
            else:
                assert standing == set(MANY[:40])


async def only(body: bytes) -> set[str]:
    """What a list alone would list."""
    with tempfile.TemporaryDirectory() as folder:
        async with opened(Path(folder)) as place:
            await place.bring(body, accept=True)
            return await place.listed()


# --- Fetching ---------------------------------------------------------------------------------------------------------


async def test_a_list_is_fetched_when_its_time_has_come_and_asks_only_for_what_is_new(
    place: Place, web: ListServer
) -> None:
    url = web.serve("/due.txt", lines(MANY[:30]))
    place.configure(fetched(url, interval=HOUR))
    asked = len(web.asked)
    await place.imports.run_due()
    await place.imports.run_due()
    assert (len(web.asked) - asked, await place.listed()) == (1, set(MANY[:30]))
    revision = await place.decisions.revision()
    place.now += HOUR
    await place.imports.run_due()
    [listed] = await place.imports.all()
    assert web.asked[-1][1] is not None and listed.state.good_at == place.now
    # Nothing has changed, and nothing is said of it.
    assert await place.decisions.revision() == revision
    assert len(await place.imports.runs("a")) == 1
    web.serve("/due.txt", lines(MANY[10:30]))
    place.now += HOUR
    await place.imports.run_due()
    assert await place.listed() == set(MANY[10:30])
    # After a day it is read as a whole, whatever its server says.
    place.now += 2 * DAY
    await place.imports.run_due()
    assert web.asked[-1] == ("/due.txt", None)


async def test_a_failed_fetch_is_tried_again_sooner_and_then_less_often(place: Place, web: ListServer) -> None:
    url = web.serve("/flaky.txt", b"busy", 503)
    place.configure(fetched(url, interval=DAY))
    times = []
    for _ in range(40):
        before = len(web.asked)
        await place.imports.run_due()
        if len(web.asked) > before:
            times.append(place.now)
        place.now += 5 * 60_000
    gaps = [(after - before) // 60_000 for before, after in pairwise(times)]
    assert gaps == [5, 10, 20, 40, 80]
    web.serve("/flaky.txt", "1.2.3.4\n")
    place.now += DAY
    await place.imports.run_due()
    assert await place.listed() == {"1.2.3.4"}


async def test_mirrors_are_tried_in_order_and_a_cut_off_download_is_no_list(place: Place, web: ListServer) -> None:
    cut = web.serve("/cut.txt", lines(MANY[:30]), promised=100_000)
    good = web.serve("/mirror.txt", lines(MANY[:40]))
    entry = ImportEntry(name="a", url=(ListURL(cut), ListURL(good)), allow_private=True)
    place.configure(entry)
    assert (await place.imports.run(ImportOrder(entry, SCHEDULE))).run.outcome == "taken"
    assert len(await place.listed()) == 40
    alone = await place.imports.run(ImportOrder(fetched(cut), SCHEDULE, by_hand=True))
    assert (alone.run.outcome, len(await place.listed())) == ("failed", 40)
    assert why(alone)


async def test_nothing_is_fetched_from_this_machine_unless_the_file_allows_it(place: Place, web: ListServer) -> None:
    url = web.serve("/own.txt", "1.2.3.4\n")
    asked = len(web.asked)
    for address in (url, url.replace("127.0.0.1", "localhost"), url.replace("127.0.0.1", "2130706433")):
        entry = ImportEntry(name="a", url=(ListURL(address),))
        assert (await place.imports.run(ImportOrder(entry, COMMAND_LINE, by_hand=True))).run.outcome == "failed"
    assert len(web.asked) == asked
    admin = Actor(None, True)
    for entry in (fetched(url), ImportEntry(name="a", file="/etc/passwd"), ImportEntry(name="a")):
        with pytest.raises(SparkleError, match="public"):
            await place.imports.add(entry, admin)
    assert await place.imports.all() == []


async def test_what_a_url_asks_for_is_shown_to_nobody(place: Place, web: ListServer) -> None:
    url = web.serve("/keyed.txt", b"no", 403) + "?key=slf_s3cret"
    place.configure(fetched(url))
    await place.imports.run_due()
    [listed] = await place.imports.all()
    assert "s3cret" not in f"{listed.shown_urls}{listed.last}{place.config}"
    with pytest.raises(SparkleError):
        await place.imports.add(fetched(url), Actor(None, True))
    public = ImportEntry(name="b", url=(ListURL("https://lists.example.org/x?apiKey=s3cret"),))
    with pytest.raises(SparkleError, match="configuration file"):
        await place.imports.add(public, Actor(None, True))
    harmless = public.url[0].replace("apiKey", "list")
    await place.imports.add(msgspec.structs.replace(public, url=(ListURL(harmless),)), Actor(None, True))
    await place.imports.pause("b", COMMAND_LINE, paused=True)
    web.serve("/keyed.txt", "1.2.3.4\n")
    place.now += HOUR
    await place.imports.run_due()
    assert await place.listed() == {"1.2.3.4"}
    # Nor is it in any file.
    for file in place.folder.iterdir():
        assert b"slf_s3cret" not in file.read_bytes()


async def test_a_file_of_the_configuration_is_read_and_its_absence_changes_nothing(place: Place) -> None:
    (place.folder / "mine.txt").write_text(lines(MANY[:25]))
    place.configure(ImportEntry(name="a", file="mine.txt", folder=place.folder, interval=HOUR))
    await place.imports.run_due()
    assert len(await place.listed()) == 25
    (place.folder / "mine.txt").unlink()
    place.now += HOUR
    await place.imports.run_due()
    [listed] = await place.imports.all()
    assert (listed.state_now, len(await place.listed())) == ("failed", 25)


# --- What becomes of a list -------------------------------------------------------------------------------------------


async def test_what_is_paused_stays_and_what_is_off_or_gone_ends(place: Place, web: ListServer) -> None:
    first = fetched(web.serve("/one.txt", lines(MANY[:3])), "one", interval=HOUR)
    second = fetched(web.serve("/two.txt", lines(MANY[3:6])), "two", interval=HOUR)
    place.configure(first, second)
    await place.imports.run_due()
    await place.bring(lines(MANY[6:8]), name="by-hand")
    await place.imports.run(
        ImportOrder(
            ImportEntry(name="for-a-day", file="x"), COMMAND_LINE, by_hand=True, body=b"7.7.7.7\n", lifetime_ms=DAY
        )
    )
    await place.imports.pause("one", COMMAND_LINE, paused=True)
    web.serve("/one.txt", lines(MANY[20:23]))
    place.now += HOUR
    await place.imports.run_due()
    assert set(MANY[:6]) <= await place.listed()
    place.configure(first, msgspec.structs.replace(second, enabled=False))
    await place.imports.run_due()
    assert await place.listed() & set(MANY[:6]) == set(MANY[:3])
    with pytest.raises(SparkleError, match="off"):
        await place.imports.run(ImportOrder(place.config.imports[1], COMMAND_LINE))
    place.configure()
    # What a command brought has its own end, and its own place.
    await place.restarted().run_due()
    assert await place.listed() == {"7.7.7.7", *MANY[6:8]}
    for name in ("by-hand", "for-a-day"):
        await place.imports.remove(name, COMMAND_LINE)
    assert await place.listed() == set()


async def test_what_an_administrator_ended_of_a_list_stays_ended_while_it_is_fetched_by_itself(
    place: Place, web: ListServer
) -> None:
    place.configure(fetched(web.serve("/ended.txt", lines(MANY[:3])), interval=HOUR))
    await place.imports.run_due()
    [unwanted] = [one for one in await place.standing() if str(one.network) == MANY[0]]
    await place.decisions.withdraw(unwanted.id, COMMAND_LINE)
    web.serve("/ended.txt", lines(MANY[:4]))
    place.now += HOUR
    await place.imports.run_due()
    assert await place.listed() == set(MANY[1:4])
    again = ImportOrder(place.config.imports[0], COMMAND_LINE, by_hand=True)
    await place.imports.run(again)
    assert await place.listed() == set(MANY[:4])


async def test_an_entry_keeps_what_its_list_says_of_it_and_what_is_too_wide_is_kept_out(place: Place) -> None:
    body = "1.2.3.4 # Xunlei, <b>bold</b>\n45.0.0.0/9\n60.220.0.0/16\n2001:db8::/32\n"
    done = await place.bring(body, category="Leeches")
    [one] = [one for one in await place.standing() if str(one.network) == "1.2.3.4"]
    assert (one.note, one.category, one.expires_at) == ("Xunlei, <b>bold</b>", "Leeches", None)
    assert await place.listed() == {"1.2.3.4", "60.220.0.0/16"}
    assert (done.run.numbers["wide"], len(done.run.numbers["wide_shown"])) == (2, 2)
    whole = await place.bring(body, widest=(9, 32))
    assert (whole.run.numbers["wide"], len(await place.listed())) == (0, 4)


# --- What only supports -----------------------------------------------------------------------------------------------


async def test_a_list_that_only_supports_lists_nothing_and_can_become_one_that_does(place: Place) -> None:
    done = await place.bring("1.2.3.4\n1.2.4.0/24\n", weight="support")
    assert (done.run.outcome, done.run.numbers["added"], await place.listed()) == ("taken", 2, set())
    for text, names in (("1.2.3.4", ["a"]), ("1.2.4.77", ["a"]), ("1.2.5.1", [])):
        async with place.database.reader() as reader:
            assert await store.supporters(reader, parse_network(text)) == names
    assert (await place.bring("1.2.3.4\n1.2.4.0/24\n", weight="support")).run.outcome == "unchanged"
    await place.bring("1.2.3.4\n1.2.4.0/24\n")
    assert await place.listed() == {"1.2.3.4", "1.2.4.0/24"}
    async with place.database.reader() as reader:
        assert await store.supporting(reader, "a") == set()
    await place.bring("1.2.3.4\n", weight="support")
    assert await place.listed() == set()


async def test_the_brakes_hold_for_what_only_supports_too(place: Place) -> None:
    await place.bring(lines(MANY[:100]), weight="support")
    for accident in ("nothing", "two lines", "ten times as much"):
        assert (await place.bring(ACCIDENTS[accident][0], weight="support")).run.outcome == "held"
    async with place.database.reader() as reader:
        assert len(await store.supporting(reader, "a")) == 100


# --- While it comes ---------------------------------------------------------------------------------------------------


async def test_what_was_removed_while_it_came_is_not_taken_over(place: Place, web: ListServer) -> None:
    entry = fetched(web.serve("/removed.txt", lines(MANY[:3])))
    place.configure(entry)
    order = ImportOrder(entry, COMMAND_LINE)
    place.configure()
    done = await place.imports.run(order)
    assert (done.run.outcome, await place.listed()) == ("failed", set())
    # Another process had begun before, and ends after that.
    place.configure(entry)
    await place.imports.run(order)
    place.configure()
    other = place.restarted()
    await other.run_due()
    assert await place.listed() == set()


async def test_only_what_somebody_looked_at_is_taken_over(place: Place, web: ListServer) -> None:
    entry = fetched(web.serve("/flips.txt", lines(MANY[:3])))
    place.configure(entry)
    seen = (await place.imports.preview(ImportOrder(entry, COMMAND_LINE))).numbers["digest"]
    web.serve("/flips.txt", lines(MANY[500:600]))
    order = ImportOrder(entry, COMMAND_LINE, accept=True, seen=seen)
    done = await place.imports.run(order)
    assert (done.run.outcome, why(done), await place.listed()) == ("held", "changed", set())
    done = await place.imports.run(order._replace(seen=done.run.numbers["digest"]))
    assert (done.run.outcome, len(await place.listed())) == ("taken", 100)


async def test_a_list_that_is_to_be_read_in_another_way_is_read_anew(place: Place, web: ListServer) -> None:
    entry = fetched(web.serve("/wide.txt", "45.0.0.0/15\n1.2.3.4\n"), interval=HOUR)
    place.configure(entry)
    await place.imports.run_due()
    assert await place.listed() == {"1.2.3.4"}
    place.configure(msgspec.structs.replace(entry, widest=(15, 48)))
    place.now += HOUR
    await place.imports.run_due()
    assert await place.listed() == {"1.2.3.4", "45.0.0.0/15"}


async def test_a_slow_source_holds_up_no_other(place: Place, web: ListServer) -> None:
    slow = fetched(web.serve("/slow.txt", "1.1.1.1\n", pause_s=1.5), "slow")
    quick = fetched(web.serve("/quick.txt", "2.2.2.2\n"), "quick")
    place.configure(slow, quick)
    place.imports.begin(ImportOrder(slow, COMMAND_LINE))
    await place.imports.run(ImportOrder(quick, COMMAND_LINE))
    assert await place.listed() == {"2.2.2.2"}
    await place.bring("3.3.3.3\n", name="other")
    await place.imports.remove("other", COMMAND_LINE)
    assert "slow" in place.imports.running and await place.listed() == {"2.2.2.2"}


async def test_a_private_place_that_one_list_may_come_from_opens_no_other(place: Place, web: ListServer) -> None:
    place.configure(fetched(web.serve("/own.txt", "1.2.3.4\n"), "own"))
    with list_server() as inner:
        secret = inner.serve("/secret.txt", "5.6.7.8\n")
        for led, outcome in ((f"{web.url}/own.txt", "taken"), (secret, "failed")):
            url = web.serve("/redirect", "", 302, location=led)
            await place.imports.add(ImportEntry(name="led", url=(ListURL(url),)), Actor(None, True))
            done = await place.imports.run(ImportOrder(await place.imports.entry("led"), COMMAND_LINE))
            assert done.run.outcome == outcome
            await place.imports.remove("led", COMMAND_LINE)
        assert inner.asked == []


# --- Neighbours -------------------------------------------------------------------------------------------------------

FIRST = "00000000000000bb"


def shared(target: str, kind: Any = "ip", *, until: int | None = None, **more: Any) -> TradedDecision:
    """A decision of another server."""
    values: dict[str, Any] = {"id": f"{FIRST}-{zlib.crc32(target.encode())}", "chain": [FIRST], "evidence": {}, **more}
    return TradedDecision(
        kind=kind,
        targets=[target],
        category="x",
        origin="untrusted_vote",
        code="reported_peer",
        reason=Reasons("it \u202ecame", ""),
        since=NOW,
        until=until,
        **values,
    )


async def test_a_neighbour_lists_what_it_decided_and_nothing_that_would_ban_everybody(place: Place) -> None:
    everybody = (
        ("peer_id", '{"method":"STARTS_WITH","content":"-"}'),
        ("peer_id", '{"method":"STARTS_WITH","content":"-qB"}'),
        ("client_name", '{"method":"CONTAINS","content":"e"}'),
        *(
            (kind, text)
            for kind in ("peer_id", "client_name")
            for text in (
                '{"method":"LENGTH","min":0,"max":99}',
                '{"method":"EQUALS","content":"nobody","miss":"TRUE"}',
                '{"method":"MATCH_REGEX","content":"(a|a)*b|.*"}',
            )
        ),
    )
    decisions = [
        shared("1.2.3.4", evidence={"people": 3}),
        shared("nonsense"),
        shared("10.0.0.1"),
        shared("0.0.0.0/1"),
        shared("5.5.5.5", until=NOW - 1),
        shared("6.6.6.6", chain=[FIRST, await own_node(place)]),
        shared('{"method":"STARTS_WITH","content":"-XL00"}', "peer_id"),
        *(shared(text, kind) for kind, text in everybody),
    ]
    done = await place.bring(encode(FIRST, decisions), format="sparkle", trust="create")
    assert done.run.outcome == "taken"
    standing = {str(one.network or one.text): one for one in await place.standing(state="active")}
    assert set(standing) == {"1.2.3.4", '{"method":"STARTS_WITH","content":"-XL00","miss":"DEFAULT"}'}
    assert (standing["1.2.3.4"].note, standing["1.2.3.4"].expires_at) == ("it came", NOW + 7 * DAY)
    numbers = done.run.numbers
    assert (numbers["skipped"], numbers["refused"]) == ({"own": 1}, {"target": 2 + len(everybody)})


async def own_node(place: Place) -> str:
    [[node]] = await place.database.read("SELECT value FROM setting WHERE name='node'")
    return str(node)


async def test_what_a_neighbour_withdraws_ends_at_once_and_what_is_not_heard_of_after_a_week(
    place: Place, web: ListServer
) -> None:
    many = [shared(text) for text in MANY[:60]]
    for trust in ("create", "support"):
        assert (await place.bring(encode(FIRST, many), format="sparkle", trust=trust)).run.outcome == "taken"
        assert (await place.bring(encode(FIRST, many[:2]), format="sparkle", trust=trust)).run.outcome == "taken"
        assert (await place.bring(encode(FIRST, []), format="sparkle", trust=trust)).run.outcome == "taken"
    url = web.serve("/decisions.json", encode(FIRST, [*many[:2], shared("7.7.7.7", until=NOW - 1)]))
    place.configure(fetched(url, format="sparkle", interval=HOUR))
    place.now += HOUR
    await place.imports.run_due()
    async with place.database.reader() as reader:
        assert await store.supporting(reader, "a") == {parse_network(text) for text in MANY[:2]}
    web.serve("/decisions.json", "gone", 404)
    for _ in range(9):
        place.now += DAY
        await place.imports.run_due()
    async with place.database.reader() as reader:
        assert await store.supporting(reader, "a") == set()
