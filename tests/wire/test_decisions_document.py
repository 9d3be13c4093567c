"""`decisions.json`: what is served of the decisions in force, and what is read of another server's."""

import asyncio
import ipaddress
import json
import re
from pathlib import Path
from typing import Any

import feed_consumers as consumers
import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server import embedded

import sparkle_lite
from sparkle_lite.accounts.actors import COMMAND_LINE
from sparkle_lite.db import decisions as store
from sparkle_lite.db.decisions import New
from sparkle_lite.errors import SparkleError
from sparkle_lite.net import parse_network
from sparkle_lite.rules import feeds
from sparkle_lite.rules.feed_rendering import NAMES
from sparkle_lite.server import Server
from sparkle_lite.texts import languages
from sparkle_lite.wire.decisions_document import DecisionsDocument, Reasons, TradedDecision, decode, encode

pytestmark = pytest.mark.anyio

CONFIG = """
[server]
public_url = "https://btn.example.org"
[[rules]]
type = "ip"
category = "PCDN"
content = ["60.220.182.0/24", "2408:8000:1::/48"]
[[rules]]
type = "client_name"
category = "hp"
content = ["Xunlei"]
[[rules]]
type = "port"
category = "ports"
content = [1234]
[[exceptions]]
type = "ip"
category = "ours"
content = ["60.220.182.7", "2408:8000:1:2::/64"]
"""
NODE, OTHER = "00000000000000aa", "00000000000000bb"
DECISION = TradedDecision(
    id=f"{OTHER}-7",
    kind="ip",
    targets=["203.0.113.7"],
    category="over_download",
    origin="over_download",
    code="over_downloader",
    reason=Reasons(en="took 400% of it", zh="下载了 400%"),
    since=1_700_000_000_000,
    until=1_800_000_000_000,
    chain=[OTHER],
    evidence={"people": 3, "percent": 400.5},
    formula=2,
)


def schema(language: str) -> Any:
    """The JSON Schema as the manual has it."""
    page = (Path(sparkle_lite.__file__).parent / "manual" / language / "feeds.md").read_text("utf-8")
    [text] = [
        block for block in re.findall(r"^```json\n(.*?)^```$", page, re.DOTALL | re.MULTILINE) if "$schema" in block
    ]
    return json.loads(text)


async def document_of(server: Server) -> DecisionsDocument:
    return decode((await server.publisher.feed("decisions.json")).body)


def addresses(document: DecisionsDocument) -> set[consumers.AnyNetwork]:
    texts = [text for entry in document.decisions if entry.kind == "ip" for text in entry.targets]
    return consumers.collapsed(map(ipaddress.ip_network, texts))


# --- What is served ---------------------------------------------------------------------------------------------------


async def test_it_says_what_the_deny_list_says_with_everything_that_is_known(tmp_path: Path) -> None:
    async with embedded(tmp_path, CONFIG, jobs=False) as server:
        await server.decisions.deny("ip", "203.0.113.0/24", "a note of ours", 3_600_000, COMMAND_LINE)
        await server.decisions.deny("client_name", "迅雷", "", None, COMMAND_LINE)
        await server.decisions.deny("client_name", "Thunder", "", None, COMMAND_LINE)
        await server.decisions.allow("client_name", "Thunder", "", None, COMMAND_LINE)
        await server.decisions.allow("ip", "203.0.113.9", "", None, COMMAND_LINE)
        feed = await server.publisher.feed("decisions.json")
        document = decode(feed.body)
        cidr = await server.publisher.feed("cidr.txt")
        assert addresses(document) == consumers.networks_of(consumers.cidr_list(cidr.body))
        assert ipaddress.ip_network("203.0.113.9/32") not in addresses(document)
        assert feed.entries == len(document.decisions) == 5
        names = [entry.targets for entry in document.decisions if entry.kind == "client_name"]
        assert len(names) == 2 and "Thunder" not in str(names)

        [entry] = [entry for entry in document.decisions if "203.0.113.0/29" in entry.targets]
        stored = await server.decisions.get(int(entry.id.partition("-")[2]))
        assert (entry.since, entry.until) == (stored.created_at, stored.expires_at)
        assert (entry.category, entry.origin, entry.code) == ("admin", "admin", "admin")
        assert entry.reason == Reasons(
            en=server.decisions.reason(stored).text("en"), zh=server.decisions.reason(stored).text("zh")
        )
        assert entry.chain == [document.node]
        assert b"a note of ours" not in feed.body

        for language in languages():
            jsonschema_rs.validate(schema(language), json.loads(feed.body))


async def test_what_a_neighbour_decided_keeps_its_number_and_grows_its_chain(tmp_path: Path) -> None:
    async with embedded(tmp_path, jobs=False) as server:
        news = [
            New(
                kind="ip",
                network=parse_network(target),
                text=None,
                action="deny",
                state="active",
                origin="import:friend",
                category="friend",
                code="imported",
                evidence={"neighbour": {"chain": chain, "id": f"{OTHER}-{number}"}},  # type: ignore[dict-item]
            )
            for number, (target, chain) in enumerate(
                {"203.0.113.7": [OTHER, NODE], "203.0.113.8": [f"{one:016x}" for one in range(16)]}.items()
            )
        ]
        await server.database.write(lambda connection: store.begin(connection, news, 1_700_000_000_000))
        await server.publisher.publish()
        document = await document_of(server)
        # One more node than a chain may have would make the whole document unreadable to others.
        [entry] = document.decisions
        assert (entry.id, entry.targets) == (f"{OTHER}-0", ["203.0.113.7"])
        assert entry.chain == [OTHER, NODE, document.node]


async def test_a_node_keeps_its_id_and_what_has_not_changed_is_served_on(tmp_path: Path) -> None:
    async with embedded(tmp_path, CONFIG, jobs=False) as server:
        before = {name: await server.publisher.feed(name) for name in NAMES}
        await server.publisher.publish()
        for name in NAMES:
            assert await server.publisher.feed(name) is before[name]
        await server.decisions.deny("ip", "203.0.113.7", "", None, COMMAND_LINE)
        after = {name: await server.publisher.feed(name) for name in NAMES}
        assert {name for name in NAMES if after[name] is before[name]} == {"cidr6.txt"}
        assert all(b"203.0.113.7" in feed.body for name, feed in after.items() if name != "cidr6.txt")
        assert all(after[name].published_at >= before[name].published_at for name in NAMES)
        with pytest.raises(SparkleError, match=r"no feed 'x\.txt'"):
            await server.publisher.feed("x.txt")
    async with embedded(tmp_path, CONFIG, jobs=False) as server:
        assert {name: (await server.publisher.feed(name)).tag for name in NAMES} == {
            name: feed.tag for name, feed in after.items()
        }


async def test_a_long_list_is_rendered_in_another_process_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with embedded(tmp_path, CONFIG, jobs=False) as server:
        here = {name: await server.publisher.feed(name) for name in NAMES}
    monkeypatch.setattr(feeds, "_LONG", 0)
    async with embedded(tmp_path, CONFIG, jobs=False) as server:
        there = {name: await server.publisher.feed(name) for name in NAMES}
    assert {name: feed.body for name, feed in there.items()} == {name: feed.body for name, feed in here.items()}
    assert {name: feed.tag for name, feed in there.items()} == {name: feed.tag for name, feed in here.items()}


async def test_what_nobody_asks_for_is_forgotten_but_not_since_when_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with embedded(tmp_path, CONFIG, jobs=False) as server:
        first = await server.publisher.feed("ipfilter.dat")
        monkeypatch.setattr(feeds, "_KEEP_S", 0.0)
        assert await server.publisher.feed("ipfilter.dat") is first
        await asyncio.sleep(0.01)
        await server.publisher.publish()
        again = await server.publisher.feed("ipfilter.dat")
        assert again == first and again is not first


async def test_a_feed_that_cannot_be_rendered_is_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with embedded(tmp_path, CONFIG, jobs=False) as server:
        last = await server.publisher.feed("cidr.txt")
        await server.decisions.deny("ip", "203.0.113.7", "", None, COMMAND_LINE)
        with monkeypatch.context() as patched:
            # Nothing is done in no time.
            patched.setattr(feeds, "_LONG", 0)
            patched.setattr(feeds, "_TIMEOUT_S", 0.0)
            assert await server.publisher.feed("cidr.txt") is last
            with pytest.raises(TimeoutError):
                await server.publisher.feed("cidr4.txt")
        assert b"203.0.113.7/32" in (await server.publisher.feed("cidr.txt")).body


# --- What is read -----------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_and_what_a_later_version_adds_is_passed_over() -> None:
    body = encode(OTHER, [DECISION])
    assert decode(body).decisions == [DECISION]
    assert encode(OTHER, [DECISION]) == body
    assert decode(encode(OTHER, [])).decisions == []
    later = json.loads(body)
    later["signature"] = {"by": "whom"}
    later["decisions"][0] |= {"weight": 3, "reason": {"en": "a", "zh": "b", "eo": "c"}}
    assert decode(json.dumps(later).encode()).decisions[0].reason == Reasons(en="a", zh="b")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 2}, "format 2"),
        ({"node": "me"}, "node"),
        ({"node": f"{OTHER}\n"}, "node"),
        ({"decisions": [{}]}, r"decisions\[0\]|decisions\[...\]"),
    ],
)
def test_a_document_that_is_none_says_what_is_wrong(change: dict[str, Any], says: str) -> None:
    with pytest.raises(SparkleError, match=says):
        decode(json.dumps(json.loads(encode(OTHER, [DECISION])) | change).encode())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"targets": []}, "targets"),
        ({"kind": "port", "targets": ["1"]}, "kind"),
        ({"since": -1}, "since"),
        ({"since": 1.5}, "since"),
        ({"until": "tomorrow"}, "until"),
        ({"chain": []}, "chain"),
        ({"chain": [OTHER] * 17}, "chain"),
        ({"id": "7"}, "id"),
        ({"reason": {"en": "x" * 1025, "zh": ""}}, "en"),
        ({"evidence": {"people": "many"}}, "evidence"),
        ({"evidence": {str(number): 1 for number in range(65)}}, "evidence"),
    ],
)
def test_a_decision_that_is_none_says_what_is_wrong(change: dict[str, Any], says: str) -> None:
    wrong = json.loads(encode(OTHER, [DECISION]))
    wrong["decisions"][0] |= change
    with pytest.raises(SparkleError, match=says):
        decode(json.dumps(wrong).encode())
    assert not jsonschema_rs.is_valid(schema("en"), wrong)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_whatever_comes_is_read_or_refused(data: st.DataObject) -> None:
    body = bytearray(encode(OTHER, [DECISION, DECISION]))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place : place + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=4))
    try:
        document = decode(bytes(body))
    except SparkleError as error:
        assert "\n" not in error.message
    else:
        for entry in document.decisions:
            assert entry.networks() if entry.kind == "ip" else entry.matchers()
