"""What a list offers: its body read, as findings for the plan, with what is wrong with it."""

from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec

from sparkle_lite.config import ImportEntry
from sparkle_lite.errors import SparkleError
from sparkle_lite.net import Network
from sparkle_lite.rules.findings import Finding, Identity, Target
from sparkle_lite.rules.operator import target
from sparkle_lite.rules.usual_clients import bans_usual
from sparkle_lite.texts import Phrase, phrase
from sparkle_lite.units import DAY_MS
from sparkle_lite.wire.decisions_document import TargetKind, TradedDecision, decode
from sparkle_lite.wire.list_formats import ListRead, read_list
from sparkle_lite.wire.matchers import Matcher

# Why a list with nothing on it is held back.
EMPTY = "imports.why.empty"
# Lines of a list's trouble that are shown one by one.
SHOWN = 20
_LONGEST_NOTE = 120
# What a neighbour decided lasts so long at the most without being heard of again.
NEIGHBOUR_MS = 7 * DAY_MS


class Offer(NamedTuple):
    """What a body says: what it would list, and how it read, in numbers for the history.

    `trouble` says why nothing of it can be taken over, `doubt` why nobody should without looking.
    """

    findings: tuple[Finding, ...]
    numbers: Mapping[str, Any]
    trouble: Phrase | None = None
    doubt: Phrase | None = None


class _Reading(NamedTuple):
    """How a list is read: by its entry, at a moment (ms), on a node; what it lists lasts so long (ms; None: stays)."""

    entry: ImportEntry
    now_ms: int
    node: str
    lifetime_ms: int | None


def read_offer(
    body: bytes, entry: ImportEntry, now_ms: int, *, node: str = "", lifetime_ms: int | None = None
) -> Offer:
    """Read the body of a list. Takes some µs a line: call it off the event loop."""
    reader = _Reading(entry, now_ms, node, lifetime_ms)
    try:
        return _of_neighbour(body, reader) if entry.format == "sparkle" else _of_list(body, reader)
    except SparkleError as error:
        return Offer((), {"bytes": len(body)}, trouble=error.said)


def way_of_reading(entry: ImportEntry) -> bytes:
    """What a list's settings say of how it is read."""
    return msgspec.json.encode((entry.format, entry.widest, entry.shown_category, entry.supports_only))


def digest(body: bytes, entry: ImportEntry) -> bytes:
    """The same for the same body read in the same way."""
    return sha256(way_of_reading(entry) + body).digest()


# --- Lists ------------------------------------------------------------------------------------------------------------


def _of_list(body: bytes, reader: _Reading) -> Offer:
    entry = reader.entry
    assert entry.format != "sparkle"
    read = read_list(body, form=entry.format, widest=(entry.widest[0], entry.widest[1]))
    expires = None if reader.lifetime_ms is None else reader.now_ms + reader.lifetime_ms
    findings = tuple(
        _finding(network, "imported", reader.now_ms, expires, comment or None)
        for network, comment in read.networks.items()
    )
    return Offer(findings, _numbers(body, read, entry), trouble=_trouble(read), doubt=_doubt(read))


def _finding(listed: Target, code: str, now_ms: int, expires: int | None, note: str | None) -> Finding:
    return Finding(
        target=listed,
        code=code,
        numbers={},
        people=0,
        decisive=(),
        vouched=None,
        first_seen=now_ms,
        last_seen=now_ms,
        expires=expires,
        note=note,
    )


def _numbers(body: bytes, read: ListRead, entry: ImportEntry) -> dict[str, Any]:
    return {
        "bytes": len(body),
        "lines": read.lines,
        "entries": len(read.networks),
        "skipped": dict(read.skipped),
        "refused": dict(read.refused),
        "bad": [[bad.number, packed(bad.why), bad.text] for bad in read.bad[:SHOWN]],
        "wide": read.wide_count,
        "wide_shown": [[wide.number, str(wide.network), _widest(entry, wide.network)] for wide in read.wide[:SHOWN]],
        "formats": dict(read.formats),
    }


def _trouble(read: ListRead) -> Phrase | None:
    if read.looks_like in ("html", "json", "binary"):
        return phrase(f"imports.why.{read.looks_like}")
    if not read.networks and read.refused and not read.wide_count:
        return phrase("imports.why.unreadable", lines=sum(read.refused.values()))
    return None


def _doubt(read: ListRead) -> Phrase | None:
    bad, good = sum(read.refused.values()), len(read.networks)
    if read.is_cut:
        return phrase("imports.why.cut")
    if not good:
        return phrase(EMPTY)
    if bad > good:
        return phrase("imports.why.mostly_bad", bad=bad, good=good)
    return None


# --- Neighbours -------------------------------------------------------------------------------------------------------


def _of_neighbour(body: bytes, reader: _Reading) -> Offer:
    document = decode(body)
    findings: list[Finding] = []
    bad: list[list[Any]] = []
    own = wide = 0
    for number, decision in enumerate(document.decisions, 1):
        if reader.node in decision.chain:
            own += 1
            continue
        for written in decision.targets:
            try:
                listed = _target(decision.kind, written)
            except SparkleError as error:
                bad.append([number, packed(error.said), written[:80]])
                continue
            if _is_wide(listed, reader.entry):
                wide += 1
            else:
                findings.append(_shared(listed, decision, reader))
    numbers = {
        "bytes": len(body),
        "lines": len(document.decisions),
        "entries": len(findings),
        "skipped": {"own": own} if own else {},
        "refused": {"target": len(bad)} if bad else {},
        "bad": bad[:SHOWN],
        "wide": wide,
        "wide_shown": [],
        "formats": {"sparkle": len(document.decisions)},
    }
    # A neighbour that decided nothing, or only what it has from here, is nothing unusual.
    return Offer(tuple(findings), numbers)


def _target(kind: TargetKind, written: str) -> Target:
    """What a neighbour decided about. Raises SparkleError for what can't be read, and what would ban everybody."""
    read = target(kind, written, is_exception=False)
    if kind == "ip":
        assert isinstance(read, Network)
        return read
    assert isinstance(read, Matcher)
    if bans_usual(kind, read):
        raise SparkleError("bad_request", "imports.why.bans_usual")
    return Identity(kind, read.pbh())


def _is_wide(listed: Target, entry: ImportEntry) -> bool:
    return isinstance(listed, Network) and listed.prefix < _widest(entry, listed)


def _widest(entry: ImportEntry, network: Network) -> int:
    return entry.widest[0 if network.bits == 32 else 1]


def _shared(listed: Target, decision: TradedDecision, reader: _Reading) -> Finding:
    last = reader.now_ms + (NEIGHBOUR_MS if reader.lifetime_ms is None else reader.lifetime_ms)
    expires = last if decision.until is None else min(decision.until, last)
    note = "".join(char for char in decision.reason.en if char.isprintable())[:_LONGEST_NOTE].strip()
    return _finding(listed, "neighbour", reader.now_ms, expires, note or None)._replace(
        neighbour={"id": decision.id, "chain": list(decision.chain)}
    )


# --- Phrases in the store ---------------------------------------------------------------------------------------------


def packed(said: Phrase) -> dict[str, Any]:
    """A phrase as JSON."""
    return {"key": said.key, "values": dict(_packed_values(said))}


def _packed_values(said: Phrase) -> Iterator[tuple[str, Any]]:
    for name, value in said.values.items():
        if isinstance(value, Phrase):
            yield name, {"phrase": packed(value)}
        else:
            yield name, value if isinstance(value, int | float | str) else str(value)


def unpacked(stored: Mapping[str, Any]) -> Phrase:
    """A phrase that was stored; where this version has no such text, that there was one."""
    values = {
        name: unpacked(value["phrase"]) if isinstance(value, dict) else value
        for name, value in stored["values"].items()
    }
    said = Phrase(stored["key"], values)
    try:
        said.text("en")
    except (KeyError, ValueError):
        return phrase("imports.why.forgotten", key=stored["key"])
    return said
