"""The rules as ready documents: what the operator wrote and what was decided, without what must not be banned.

Only what the operator wrote and sentences of our own go into a document, never text that a client sent.
"""

from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

from sparkle_lite.net import Network, collapse
from sparkle_lite.rules.address_sets import AddressSet, PackedAddresses, carve
from sparkle_lite.rules.operator import Rule, Rules
from sparkle_lite.texts import ENGLISH, phrase
from sparkle_lite.wire import rule_documents as documents
from sparkle_lite.wire.dialect import READINGS, Dialect
from sparkle_lite.wire.matchers import Matcher
from sparkle_lite.wire.rule_documents import (
    AddressLine,
    Content,
    Document,
    Exempt,
    Kind,
    Listed,
    Omission,
    address_lines,
)


class Held(NamedTuple):
    """Addresses of a rule that aren't published because they are ours or a member's."""

    category: str
    network: Network


class Listing(NamedTuple):
    """A decision that doesn't come from the configuration, as the documents show it.

    `reason` is a sentence of ours; `expires` is in epoch ms, None for never.
    """

    kind: Literal["ip", "peer_id", "client_name"]
    target: Network | Matcher
    category: str
    reason: str
    expires: int | None


@dataclass(frozen=True, slots=True)
class Published:
    """Every document, rendered, by kind and variant.

    `held` is for review, `next_expiry_ms` is when to publish anew (None: never), `omissions` are what the documents of
    a variant leave out. `spared` is no part of any of them, and `link` stands before the address in the deny list's
    reasons.
    """

    documents: Mapping[tuple[Kind, str], Document]
    ip_denylist: Document
    ip_allowlist: Document
    held: tuple[Held, ...]
    next_expiry_ms: int | None
    omissions: Mapping[str, tuple[Omission, ...]]
    spared: PackedAddresses
    link: str
    # Of what is listed in a category the spared addresses are no part.
    _listed: Mapping[str, PackedAddresses]
    _excepted: Mapping[str, PackedAddresses]

    def rules(self, dialect: Dialect) -> Document:
        """The rules as this client reads them."""
        return self.documents["rules", dialect.traits.reads.variant]

    def exception(self, dialect: Dialect) -> Document:
        """The exceptions as this client reads them."""
        return self.documents["exception", dialect.traits.reads.variant]

    def rule_peer_identity(self, dialect: Dialect) -> Document:
        """The rules without addresses as this client reads them: protocol 20 has lists of their own for those."""
        return self.documents["rule_peer_identity", dialect.traits.reads.variant]

    def all(self) -> Iterator[Document]:
        """Every document."""
        yield from self.documents.values()
        yield self.ip_denylist
        yield self.ip_allowlist

    def touches(self, address: bytes) -> bool:
        """Whether an address (4 or 16 bytes) is banned by these documents; a member's address must not be."""
        return bool(self.listed(address))

    def covers(self, address: bytes) -> bool:
        """Whether a rule is about an address, also where it is cut out of what is published."""
        return bool(_around(address, self._listed))

    def listed(self, address: bytes) -> tuple[str, ...]:
        """The categories in which these documents ban an address."""
        return () if address in self.spared else _around(address, self._listed)

    def excepted(self, address: bytes) -> tuple[str, ...]:
        """The categories in which these documents allow an address."""
        return _around(address, self._excepted)

    @property
    def has_excepted_addresses(self) -> bool:
        """Whether these documents allow any address."""
        return bool(self._excepted)


def _around(address: bytes, categories: Mapping[str, PackedAddresses]) -> tuple[str, ...]:
    return tuple(category for category, cover in categories.items() if address in cover)


def publish(
    rules: Rules,
    protected: Collection[Network],
    now_ms: int,
    *,
    denied: Sequence[Listing] = (),
    allowed: Sequence[Listing] = (),
    link: str = "",
) -> Published:
    """Render the rules that are in force at this time (epoch ms).

    `protected` are our own addresses and those of members' clients; they and whatever is allowed are cut out of every
    wider rule. `denied` and `allowed` are in force beside what the operator wrote. `link` stands before the address in
    every reason of the deny list. Takes time with many addresses (some 7 µs each): call it off the event loop.
    """
    active, exceptions = _in_force(rules, now_ms)
    listed = _by_category_and_reason(active, denied, phrase("reason.config").text(ENGLISH))
    excepted = _by_category_and_reason(exceptions, allowed, phrase("reason.exception").text(ENGLISH))
    holes = _Holes(excepted, protected)
    banned = {category: holes.cut_out_of(category, reasoned) for category, reasoned in listed.items()}
    granted = {category: reasoned.entries() for category, reasoned in excepted.items()}
    banned_lines, granted_lines = _lines(banned), _lines(granted)
    content = _content(active, denied, banned_lines, _ports_of(exceptions))
    exempt = _content(exceptions, allowed, granted_lines, ())
    expiries = [rule.expires for rule in (*active, *exceptions) if rule.expires is not None]
    expiries += [listing.expires for listing in (*denied, *allowed) if listing.expires is not None]
    with ThreadPoolExecutor(1, thread_name_prefix="render") as beside:
        # Rules are mostly compression, which lets the making of the texts run beside it.
        rendered = beside.submit(_render, content, exempt)
        denylist = documents.deny_text(_entries(banned, banned_lines, link))
        allowlist = documents.allow_text(_entries(granted, granted_lines, ""))
    return Published(
        documents=rendered.result(),
        ip_denylist=denylist,
        ip_allowlist=allowlist,
        held=tuple(holes.held),
        next_expiry_ms=min(expiries, default=None),
        omissions=_omissions(content, exempt),
        spared=PackedAddresses(holes.all),
        link=link,
        _listed={category: PackedAddresses(reasoned.networks) for category, reasoned in listed.items()},
        _excepted={category: PackedAddresses(reasoned.networks) for category, reasoned in excepted.items()},
    )


def omissions(rules: Rules, now_ms: int) -> dict[str, tuple[Omission, ...]]:
    """What the documents of each variant leave out of the rules that are in force at this time (epoch ms)."""
    active, exceptions = _in_force(rules, now_ms)
    return _omissions(_content(active, (), {}, _ports_of(exceptions)), _content(exceptions, (), {}, ()))


def _omissions(rules: Content, exceptions: Content) -> dict[str, tuple[Omission, ...]]:
    return {reads.variant: documents.omissions(reads, rules, exceptions) for reads in READINGS}


def _in_force(rules: Rules, now_ms: int) -> tuple[list[Rule], list[Rule]]:
    """The rules and the exceptions that have not expired."""
    active, exceptions = ([rule for rule in part if rule.is_active(now_ms)] for part in rules)
    return active, exceptions


def _ports_of(exceptions: Sequence[Rule]) -> set[int]:
    return {port for rule in exceptions for port in rule.ports}


# A network with the reason that its line of the text list gives.
_Entry = tuple[Network, str]


class _Reasoned(NamedTuple):
    """The networks of one category, and what the line of each says in the text list."""

    networks: AddressSet
    reasons: Mapping[Network, str]

    def entries(self) -> list[_Entry]:
        """IPv4 before IPv6, ascending."""
        return [(network, self.reasons[network]) for network in self.networks]


def _by_category_and_reason(
    rules: Iterable[Rule], listings: Iterable[Listing], by_operator: str
) -> dict[str, _Reasoned]:
    """Everything by category: what the operator wrote in their order, the rest by name."""
    written = _by_category(rules, "ip", lambda rule: rule.networks)
    joined = {category: dict.fromkeys(collapse(networks), by_operator) for category, networks in written.items()}
    decided: dict[str, dict[Network, str]] = {}
    for _, target, category, reason, _ in listings:
        if isinstance(target, Network):
            decided.setdefault(category, {}).setdefault(target, reason)
    for category in sorted(decided):
        # Not collapsed: each line keeps its own reason, and none becomes wider than what was decided.
        joined[category] = decided[category] | joined.get(category, {})
    return {category: _Reasoned(AddressSet(reasons), reasons) for category, reasons in joined.items()}


class _Holes:
    """What is cut out of every rule; `held` collects what is held back for the protected addresses alone."""

    def __init__(self, excepted: Mapping[str, _Reasoned], protected: Iterable[Network]) -> None:
        self._excepted = AddressSet(network for reasoned in excepted.values() for network in reasoned.networks)
        self._protected = AddressSet(protected)
        self.all = AddressSet((*self._excepted, *self._protected))
        self.held: list[Held] = []

    def cut_out_of(self, category: str, listed: _Reasoned) -> list[_Entry]:
        """What may be published of a category."""
        touched = {network for hole in self.all for network in listed.networks.overlapping(hole)}
        if not touched:
            return listed.entries()
        kept: list[_Entry] = []
        for network, reason in listed.entries():
            if network not in touched:
                kept.append((network, reason))
                continue
            for part in carve(network, self._excepted):
                self.held += [Held(category, hole) for hole in _shared(part, self._protected)]
                kept += [(left, reason) for left in carve(part, self._protected)]
        return kept


def _shared(network: Network, protected: AddressSet) -> Iterator[Network]:
    for hole in protected.overlapping(network):
        yield hole if network.contains(hole) else network


_T = TypeVar("_T")


def _by_category(rules: Iterable[Rule], kind: str, values: Callable[[Rule], Iterable[_T]]) -> dict[str, list[_T]]:
    """The values of all rules of a type, joined by category, each once, in the operator's order."""
    joined: dict[str, dict[_T, None]] = {}
    for rule in rules:
        if rule.type == kind and (unique := dict.fromkeys(values(rule))):
            joined.setdefault(rule.category, {}).update(unique)
    return {category: list(unique) for category, unique in joined.items()}


def _lines(categories: Mapping[str, Sequence[_Entry]]) -> dict[str, tuple[AddressLine, ...]]:
    return {
        category: address_lines(network for network, _ in entries)
        for category, entries in categories.items()
        if entries
    }


def _content(
    rules: Sequence[Rule],
    listings: Sequence[Listing],
    ip: Mapping[str, Sequence[AddressLine]],
    without_ports: Container[int],
) -> Content:
    ports = _by_category(rules, "port", lambda rule: [port for port in rule.ports if port not in without_ports])
    scripts = _by_category(rules, "script", lambda rule: rule.scripts)
    return Content(
        ip=ip,
        port={category: sorted(values) for category, values in ports.items()},
        peer_id=_matchers(rules, listings, "peer_id"),
        client_name=_matchers(rules, listings, "client_name"),
        script={
            f"{category} {i}" if i > 1 else category: source
            for category, sources in scripts.items()
            for i, source in enumerate(sources, 1)
        },
    )


def _matchers(rules: Sequence[Rule], listings: Sequence[Listing], kind: str) -> dict[str, list[Matcher]]:
    joined = _by_category(rules, kind, lambda rule: rule.matchers)
    decided = {
        (listing.category, listing.target.pbh()): listing.target
        for listing in listings
        if listing.kind == kind and isinstance(listing.target, Matcher)
    }
    for (category, _), matcher in sorted(decided.items(), key=lambda item: item[0]):
        matchers = joined.setdefault(category, [])
        if matcher not in matchers:
            matchers.append(matcher)
    return joined


def _render(rules: Content, exceptions: Content) -> dict[tuple[Kind, str], Document]:
    exempt = Exempt.of(exceptions)
    rendered: dict[tuple[Kind, str], Document] = {}
    for reads in READINGS:
        rendered["rules", reads.variant] = documents.rules_json("rules", reads, rules, exempt)
        rendered["exception", reads.variant] = documents.rules_json("exception", reads, exceptions)
        rendered["rule_peer_identity", reads.variant] = documents.rules_json("rule_peer_identity", reads, rules, exempt)
    return rendered


def _entries(
    categories: Mapping[str, Sequence[_Entry]], lines: Mapping[str, Sequence[AddressLine]], link: str
) -> Iterator[Listed]:
    seen: set[AddressLine] = set()
    for category, network_lines in lines.items():
        for line, (_, reason) in zip(network_lines, categories[category], strict=True):
            if line not in seen:
                seen.add(line)
                yield Listed(line, category, f"{reason} {link}{line.partition('/')[0]}" if link else reason)
