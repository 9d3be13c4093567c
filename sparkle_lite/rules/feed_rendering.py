"""How each feed is made of what is published: `decisions.json` of the decisions, all others of the deny list."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from sparkle_lite.db import accounts
from sparkle_lite.db import decisions as store
from sparkle_lite.db.connection import Connection, Row, connect_readonly
from sparkle_lite.db.database import Database
from sparkle_lite.db.decisions import Decision
from sparkle_lite.net import Network
from sparkle_lite.rules.address_sets import AddressSet, PackedAddresses, carve
from sparkle_lite.rules.reasons import reason
from sparkle_lite.rules.rendering import Published
from sparkle_lite.wire.decisions_document import MOST_NODES, Reasons, TargetKind, TradedDecision, encode
from sparkle_lite.wire.feeds import FORMATS, Credit, Feed, FeedContent, finish, render

DECISIONS = "decisions.json"
# Every feed that there is, as they are listed.
NAMES = (*FORMATS, DECISIONS)


class Rendered(NamedTuple):
    """What feeds are made of: the documents, of which revision of the decisions, and when (ms) they were rendered.

    `credits` are those of what is in force.
    """

    published: Published
    revision: int
    at: int
    credits: Sequence[Credit]


class ListOrder(NamedTuple):
    """A feed of FORMATS to render, of the deny list as clients get it; `published_at` in ms."""

    name: str
    denylist: bytes
    link: str
    credits: Sequence[Credit]
    published_at: int

    @classmethod
    def of(cls, name: str, edition: Rendered) -> "ListOrder":
        """The order for a feed of what was rendered."""
        published = edition.published
        return cls(
            name=name,
            denylist=published.ip_denylist.body,
            link=published.link,
            credits=edition.credits,
            published_at=edition.at,
        )


class DecisionsOrder(NamedTuple):
    """`decisions.json` to render, of the decisions in force at a moment (ms) without the addresses in `spared`."""

    database: Path
    spared: PackedAddresses
    at: int


async def render_feed(name: str, edition: Rendered, database: Database) -> Feed:
    """One feed of NAMES, rendered on a thread."""
    published, at = edition.published, edition.at
    if name != DECISIONS:
        return await asyncio.to_thread(render_list, ListOrder.of(name, edition))
    async with database.reader() as reader:
        rows = await read_decisions(reader, at)
    return await asyncio.to_thread(render_decisions, rows, published.spared, at)


# One list is asked for in several formats.
_content = lru_cache(1)(FeedContent)


def render_list(order: ListOrder) -> Feed:
    """A feed of FORMATS."""
    return render(order.name, _content(order.denylist, order.link), order.credits, order.published_at)


def credits_due(credits: Mapping[str, str], counts: Mapping[tuple[str, str], int]) -> tuple[Credit, ...]:
    """Those credits that are due: of all by origin, of which so many decisions stand by origin and state."""
    in_force = {origin for origin, state in counts if state == "active"}
    return tuple(
        Credit(origin.removeprefix("import:"), text) for origin, text in sorted(credits.items()) if origin in in_force
    )


class Decided(NamedTuple):
    """The decisions in force: the denied as rows of the store, the allowed, and the id of this node."""

    node: str
    denied: list[Row]
    allowed: list[Decision]


async def read_decisions(connection: Connection, now_ms: int) -> Decided:
    """What `decisions.json` tells of, at a moment (ms)."""
    node = await accounts.setting(connection, "node")
    return Decided(str(node), await store.denied(connection, now_ms), await store.allowed(connection, now_ms))


def render_decisions(rows: Decided, spared: PackedAddresses, published_at: int) -> Feed:
    """`decisions.json`, oldest first: without the addresses in `spared`, without names that are excepted.

    What has come through as many nodes as a chain may have goes no further.
    """
    exempt = {(decision.kind, decision.text) for decision in rows.allowed if decision.text is not None}
    entries = []
    for decision, parts in listings(rows, spared):
        kind = decision.kind
        if kind == "port" or kind == "script" or (kind, decision.text) in exempt:
            continue
        targets = [str(decision.text)] if decision.network is None else [str(part) for part in parts]
        entry = _entry(decision, kind, targets, rows.node)
        if targets and len(entry.chain) <= MOST_NODES:
            entries.append(entry)
    return finish(DECISIONS, encode(rows.node, entries), len(entries), published_at)


def listings(rows: Decided, spared: PackedAddresses) -> Iterator[tuple[Decision, list[Network]]]:
    """What is denied, oldest first, with what is left of its network without the addresses in `spared`."""
    holes = AddressSet(spared.networks())
    for decision in store.decisions(rows.denied):
        yield decision, [] if decision.network is None else list(carve(decision.network, holes))


def _entry(decision: Decision, kind: TargetKind, targets: list[str], node: str) -> TradedDecision:
    evidence: Mapping[str, object] = decision.evidence
    # What a neighbour decided comes with where it began and by which nodes it came.
    neighbour = evidence.get("neighbour")
    passed_on: Mapping[str, object] = neighbour if isinstance(neighbour, dict) else {}
    chain = passed_on.get("chain")
    why = reason(decision.code, decision.numbers)
    return TradedDecision(
        id=str(passed_on.get("id", f"{node}-{decision.id}")),
        kind=kind,
        targets=targets,
        category=decision.category,
        origin=decision.origin,
        code=decision.code,
        reason=Reasons(en=why.text("en"), zh=why.text("zh")),
        since=decision.created_at,
        until=decision.expires_at,
        chain=[*(chain if isinstance(chain, list) else ()), node],
        evidence=dict(decision.numbers),
        formula=decision.evidence.get("formula", 0),
    )


async def _read(order: DecisionsOrder) -> Decided:
    connection = await connect_readonly(order.database)
    try:
        return await read_decisions(connection, order.at)
    finally:
        await connection.close()


def work(order: ListOrder | DecisionsOrder) -> Feed:
    """The feed of an order."""
    if isinstance(order, ListOrder):
        return render_list(order)
    return render_decisions(asyncio.run(_read(order)), order.spared, order.at)
