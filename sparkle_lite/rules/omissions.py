"""What client programs are not told of the rules and exceptions, and why: in sentences for pages, notes and the log.

What is left out is found where documents are rendered (wire/rule_documents.py); here it is put together by program.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from sparkle_lite.config import Config, RuleEntry
from sparkle_lite.errors import Problem
from sparkle_lite.rules.operator import Rule, compile_rules
from sparkle_lite.rules.rendering import omissions
from sparkle_lite.texts import ENGLISH, Phrase, joined, phrase
from sparkle_lite.wire.dialect import FAMILIES, Exceptions, RuleTexts, Traits
from sparkle_lite.wire.matchers import Matcher
from sparkle_lite.wire.rule_documents import Cause, Omission

Section = Literal["rules", "exceptions"]

# So many values of an entry are noted one by one.
_FEW = 3

# By variant of a document, as rendering.omissions and Published have them.
Omissions = Mapping[str, Sequence[Omission]]

# Beside what is left out: exceptions by address that are holes in the lists and nothing more.
Why = Cause | Literal["holes"]


class Part(NamedTuple):
    """What is left out for one cause. `section` and `kind` as in Omission; kind "ip" has no items."""

    section: Section
    kind: str
    why: Why
    items: tuple[str, ...]

    @property
    def reason(self) -> Phrase:
        """Why it is left out."""
        return _reason(self.section, self.kind, self.why)


class Untold(NamedTuple):
    """Programs, by the names of their rows in the table of client programs, and what none of them is told."""

    clients: tuple[str, ...]
    parts: tuple[Part, ...]

    @property
    def names(self) -> Phrase:
        """The programs as a list in words."""
        return _names(self.clients)

    def count(self, section: Section) -> int:
        """How many of a section's entries that aren't about addresses are left out."""
        return sum(len(part.items) for part in self.parts if part.section == section)


def untold(omissions: Omissions, *, prefer_legacy: bool, has_excepted_addresses: bool) -> tuple[Untold, ...]:
    """What which programs are not told, those together that lack the same; empty when everybody is told everything.

    `prefer_legacy` says that the operator wants modern PeerBanHelper to use the old shapes.
    """
    by_variant = {variant: tuple(_parts(left_out)) for variant, left_out in omissions.items()}
    by_client: dict[str, dict[Part, None]] = {}
    for traits in _spoken(prefer_legacy):
        parts = by_variant[traits.reads.variant]
        if has_excepted_addresses and _gets_only_holes(traits):
            parts = (*parts, Part("exceptions", "ip", "holes", ()))
        by_client.setdefault(traits.name, {}).update(dict.fromkeys(parts))
    by_parts: dict[tuple[Part, ...], list[str]] = {}
    for name, lacking in by_client.items():
        by_parts.setdefault(tuple(lacking), []).append(name)
    return tuple(Untold(tuple(names), parts) for parts, names in by_parts.items() if parts)


def _spoken(prefer_legacy: bool) -> Iterator[Traits]:
    for traits in FAMILIES:
        yield (traits.legacy or traits) if prefer_legacy else traits


def _gets_only_holes(traits: Traits) -> bool:
    """Whether a program that judges by name is told of excepted addresses by nothing but holes in the rules."""
    is_told = "ip_allowlist" in traits.abilities or traits.reads.exceptions is Exceptions.DOCUMENT
    return not is_told and traits.reads.texts is not RuleTexts.UNREAD


def _parts(omissions: Iterable[Omission]) -> Iterator[Part]:
    items: dict[tuple[Section, str, Cause], dict[str, None]] = {}
    for omission in omissions:
        item = omission.category if omission.kind == "script" else str(omission.item)
        if isinstance(omission.item, Matcher):
            item = omission.item.pbh()
        items.setdefault((omission.section, omission.kind, omission.cause), {})[item] = None
    for (section, kind, cause), texts in items.items():
        yield Part(section, kind, cause, tuple(texts))


# --- Sentences --------------------------------------------------------------------------------------------------------

_MENDS: Mapping[Why, str] = {
    Cause.UNREAD: "nothing is to be done if your clients are others",
    Cause.METHOD: "write it with CONTAINS or STARTS_WITH if they need it",
    Cause.CONDITIONS: "write it without hit, miss and if, if they need it",
    Cause.EXCLUSION: "write the category without exclusions if they need it",
    Cause.NO_EXCEPTIONS: "except an address instead where that is enough",
    "holes": "except its peer id or client name as well where it matters",
}


def _reason(section: str, kind: str, why: Why) -> Phrase:
    if why is Cause.UNREAD:
        return phrase(f"omission_unread.{kind}")
    said = phrase(f"omission.{'holes' if why == 'holes' else why.value}")
    if section == "exceptions" and why in (Cause.METHOD, Cause.CONDITIONS, Cause.NO_EXCEPTIONS):
        return phrase("omission.so_none", why=said)
    return said


def _names(clients: Sequence[str]) -> Phrase:
    """Programs as a list in words; of those of one name but different releases the name stands once."""
    names: list[Phrase] = []
    previous = ""
    for client in clients:
        program, _, releases = client.partition(" ")
        names.append(_name(releases if program == previous else client))
        previous = program
    *most, last = names
    return phrase("language.and", one=joined("language.comma", most), other=last) if most else last


def _name(client: str) -> Phrase:
    """A program as the table of client programs calls it (wire/dialect.py)."""
    if client == "other programs":
        return phrase("program.others")
    if client.endswith(" or newer"):
        return phrase("program.or_newer", program=client.removesuffix(" or newer"))
    program, to, last = client.partition(" to ")
    return phrase("program.range", program=program, last=last) if to else phrase("program.one", program=program)


def log_line(untold: Untold) -> str:
    """What programs are not told, in English on one line."""
    parts = [f"{_counted(part)} ({part.reason.text(ENGLISH)})" for part in untold.parts]
    return f"not told to {untold.names.text(ENGLISH)}: {', '.join(parts)}"


_ABOUT = {"port": "ports", "peer_id": "peer ids", "client_name": "client names", "script": "scripts"}


def _counted(part: Part) -> str:
    if part.why == "holes":
        return "exceptions by address in full"
    count = len(part.items)
    return f"{count:,} {part.section if count > 1 else part.section[:-1]} about {_ABOUT[part.kind]}"


# --- Notes about a configuration --------------------------------------------------------------------------------------


def notes(config: Config, now_ms: int) -> Iterator[Problem]:
    """What of a configuration's rules and exceptions, which must be right, is not told to which programs."""
    rules = compile_rules(config.rules, config.exceptions)
    causes = {variant: _causes(left_out) for variant, left_out in omissions(rules, now_ms).items()}
    sections: tuple[tuple[Section, Sequence[Rule], Sequence[RuleEntry]], ...] = (
        ("rules", rules.rules, config.rules),
        ("exceptions", rules.exceptions, config.exceptions),
    )
    for section, entries, written in sections:
        for number, entry in enumerate(entries):
            if not entry.is_active(now_ms):
                continue
            lacking = _lacking(section, entry, causes, config.btn.prefer_legacy)
            for (why, clients), places in lacking.items():
                told = "only half told to" if why == "holes" else "not told to"
                message = f"{told} {_names(clients).text(ENGLISH)}: {_reason(section, entry.type, why).text(ENGLISH)}"
                for path, part in _paths(places, len(_values(entry)), len(written[number].content)):
                    yield Problem((section, number, *path), part + message, _MENDS[why])


def _paths(places: Sequence[int], values: int, written: int) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Where in an entry of so many values some stand, and how many they are where that isn't said one by one."""
    if len(places) == values:
        yield (), ""
    elif len(places) <= _FEW and values == written:
        yield from ((("content", place), "") for place in places)
    else:
        yield (), f"{len(places)} of its {values} values: "


# Why a value of an entry is left out, by section, kind, category ("" for scripts, which are published by other names)
# and the value.
_Causes = Mapping[tuple[str, str, str, object], Cause]


def _causes(left_out: Iterable[Omission]) -> _Causes:
    return {
        (one.section, one.kind, "" if one.kind == "script" else one.category, one.item): one.cause for one in left_out
    }


def _lacking(
    section: Section, entry: Rule, causes: Mapping[str, _Causes], prefer_legacy: bool
) -> Mapping[tuple[Why, tuple[str, ...]], Sequence[int]]:
    """Which values of an entry (by their places in it) the same programs lack for the same cause.

    What is left out because of an exception is left to the note about that exception.
    """
    clients: dict[tuple[Cause, int], dict[str, None]] = {}
    hole_clients: dict[str, None] = {}
    category = "" if entry.type == "script" else entry.category
    for traits in _spoken(prefer_legacy):
        known = causes[traits.reads.variant]
        for place, value in enumerate(() if entry.networks else _values(entry)):
            cause = known.get((section, entry.type, category, value))
            if cause is not None and cause is not Cause.EXCEPTION:
                clients.setdefault((cause, place), {})[traits.name] = None
        if section == "exceptions" and entry.networks and _gets_only_holes(traits):
            hole_clients[traits.name] = None
    lacking: dict[tuple[Why, tuple[str, ...]], list[int]] = {}
    for (cause, place), names in clients.items():
        lacking.setdefault((cause, tuple(names)), []).append(place)
    if hole_clients:
        lacking["holes", tuple(hole_clients)] = list(range(len(entry.networks)))
    return lacking


def _values(entry: Rule) -> Sequence[object]:
    return entry.networks or entry.ports or entry.matchers or entry.scripts
