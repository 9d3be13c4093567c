"""The rules of this server: read from the configuration, kept from harming anyone, published as ready documents.

`compile_rules` checks and understands what the operator wrote, `Guard` judges what everybody else wants listed, and
`publish` cuts out of both what must not be banned and renders. Only what the operator wrote and sentences of our own go
into a document, never text that a client sent.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

from sparkle_lite.config import Config, RuleEntry
from sparkle_lite.errors import Problem, SparkleError
from sparkle_lite.net import AddressError, Network, collapse, parse_network
from sparkle_lite.texts import ENGLISH, phrase
from sparkle_lite.wire import documents
from sparkle_lite.wire.dialect import READINGS, Dialect
from sparkle_lite.wire.documents import AddressLine, Content, Document, Exempt, Kind, Listed, Omission, address_lines
from sparkle_lite.wire.matchers import Matcher, MatcherError, parse

# --- Understanding ----------------------------------------------------------------------------------------------------


class Rule(NamedTuple):
    """One [[rules]] or [[exceptions]] table, understood; one of the four lists is filled, by its type.

    `expires` is in epoch ms, None for never.
    """

    type: str
    category: str
    expires: int | None
    networks: tuple[Network, ...] = ()
    ports: tuple[int, ...] = ()
    matchers: tuple[Matcher, ...] = ()
    scripts: tuple[str, ...] = ()

    def is_active(self, now_ms: int) -> bool:
        """Whether it has not expired yet."""
        return self.expires is None or now_ms < self.expires


class Rules(NamedTuple):
    """Everything that the operator wrote, in the order of the file, expired entries too."""

    rules: tuple[Rule, ...] = ()
    exceptions: tuple[Rule, ...] = ()


class BadRulesError(Exception):
    """Some rules can't be published: every mistake, each with its place in the configuration."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(f"{p.path}: {p.message}" for p in problems))
        self.problems = tuple(problems)


def check(config: Config) -> tuple[Problem, ...]:
    """The mistakes in a configuration's rules and exceptions."""
    try:
        compile_rules(config.rules, config.exceptions)
    except BadRulesError as error:
        return error.problems
    return ()


def compile_rules(rules: Sequence[RuleEntry], exceptions: Sequence[RuleEntry]) -> Rules:
    """Read the operator's rules and exceptions. Raises BadRulesError with all mistakes."""
    problems: list[Problem] = []
    compiled = Rules(
        tuple(_compile(entry, ("rules", i), problems) for i, entry in enumerate(rules)),
        tuple(_compile(entry, ("exceptions", i), problems) for i, entry in enumerate(exceptions)),
    )
    if problems:
        raise BadRulesError(problems)
    return compiled


def _compile(entry: RuleEntry, path: tuple[str | int, ...], problems: list[Problem]) -> Rule:
    is_exception = path[0] == "exceptions"
    values: list[Any] = []
    for j, item in enumerate(entry.content):
        try:
            values.append(_value(entry.type, item, is_exception))
        except _MistakeError as mistake:
            problems.append(Problem((*path, "content", j), mistake.message, mistake.hint))
    read = tuple(dict.fromkeys(values))
    expires = None if entry.expires is None else int(entry.expires.timestamp() * 1000)
    rule = Rule(entry.type, entry.category, expires)
    if entry.type == "ip":
        return rule._replace(networks=read)
    if entry.type == "port":
        return rule._replace(ports=read)
    return rule._replace(scripts=read) if entry.type == "script" else rule._replace(matchers=read)


class _MistakeError(Exception):
    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def _value(kind: str, item: str | int | Mapping[str, Any], is_exception: bool) -> Network | int | Matcher | str:
    if kind == "ip":
        return _network(item, is_exception=is_exception)
    if kind == "port":
        return _port(item)
    if kind == "script":
        return _script(item, is_exception)
    return _matcher(item, is_exception)


# A rule over one of these is a slip (0.0.0.0/1, a mapped prefix): no peer has such an address.
_UNROUTABLE = tuple(
    parse_network(text) for text in ("0.0.0.0/32", "127.0.0.0/8", "224.0.0.0/4", "::", "::1", "ff00::/8")
)
_MAPPED = Network(bytes(10) + b"\xff\xff" + bytes(4), 96)


def _network(item: object, *, is_exception: bool, with_port: bool = False) -> Network:
    if not isinstance(item, str):
        raise _MistakeError(f"{_short(item)} is not an IP address", 'write "203.0.113.7" or "203.0.113.0/24"')
    try:
        network = parse_network(item, with_port=with_port)
    except AddressError as error:
        raise _MistakeError(str(error), 'an address is written "203.0.113.7", a network "203.0.113.0/24"') from None
    if network.prefix == 0:
        raise _MistakeError(f"{network} is everybody", "write a smaller network")
    for special in (_MAPPED,) if is_exception else (_MAPPED, *_UNROUTABLE):
        if network.contains(special) or special.contains(network):
            raise _MistakeError(f"{network} overlaps {special}, which no peer has", "leave it out of the network")
    return network


def _port(item: object) -> int:
    digits = item.strip() if isinstance(item, str) else item
    if isinstance(digits, str) and digits.isascii() and digits.isdigit() and len(digits) <= 6:
        digits = int(digits)
    if isinstance(digits, bool) or not isinstance(digits, int) or not 1 <= digits <= 65535:
        raise _MistakeError(f"{_short(item)} is not a port", "write a number from 1 to 65535")
    return digits


def _script(item: object, is_exception: bool) -> str:
    if is_exception:
        raise _MistakeError("a script can't be an exception", "use ip, port, peer_id or client_name")
    if not isinstance(item, str) or not item.strip() or any("\ud800" <= sign <= "\udfff" for sign in item):
        raise _MistakeError(f"{_short(item)} is not a script", "write the source as text")
    return item


def _matcher(item: str | int | Mapping[str, Any], is_exception: bool) -> Matcher:
    if isinstance(item, int):
        raise _MistakeError(f"{_short(item)} alone is not a rule", f'write "{item}" for names that contain it')
    try:
        matcher = parse(item)
    except MatcherError as error:
        raise _MistakeError(error.message, error.hint) from None
    if is_exception and not matcher.is_plain:
        # Current clients read no list of exceptions: each becomes an exclusion in the rules, which is one matcher.
        raise _MistakeError('an exception can\'t have "hit", "miss" or "if"', "write one plain rule for each thing")
    return matcher


def target(kind: Literal["ip", "peer_id", "client_name"], text: str, *, is_exception: bool) -> Network | Matcher:
    """What an administrator names, checked like what the configuration says; an address may come with a port.

    Raises SparkleError: bad_request.
    """
    try:
        if kind == "ip":
            return _network(text, is_exception=is_exception, with_port=True)
        return _matcher(text, is_exception)
    except _MistakeError as mistake:
        message = f"{mistake.message}; {mistake.hint}"
        raise SparkleError("bad_request", "decision.bad_target", why=f"{message[:1].upper()}{message[1:]}") from None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


# --- Guard rails ------------------------------------------------------------------------------------------------------

# Automatic and imported origins list no network wider than these prefix lengths.
MAX_BREADTH_V4, MAX_BREADTH_V6 = 24, 56

# One subscriber: an address, or the smallest network that a provider hands out.
SUBSCRIBER_V4, SUBSCRIBER_V6 = 32, 64

# Where no peer of the Internet lives (promised in the same words by net.is_public).
_NOT_PUBLIC = (
    "0.0.0.0/32", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16",
    "224.0.0.0/4", "255.255.255.255", "::", "::1", "fc00::/7", "fe80::/10", "ff00::/8",
)  # fmt: skip


class _Family(NamedTuple):
    """Networks of one address family that don't overlap, ascending, with the first and last address of each."""

    networks: list[Network]
    firsts: list[bytes]
    lasts: list[bytes]


class AddressSet:
    """A set of addresses that answers fast what of it lies in a network."""

    def __init__(self, networks: Iterable[Network]) -> None:
        parts: dict[int, list[Network]] = {4: [], 16: []}
        for network in networks:
            parts[len(network[0])].append(network)
        self.families = {size: _outermost(found) for size, found in parts.items()}

    def overlapping(self, network: Network) -> Sequence[Network]:
        """Its parts that share addresses with a network: the one around it, or those within, ascending."""
        networks, firsts, lasts = self.families[len(network.address)]
        start = bisect_left(lasts, network.address)
        return networks[start : bisect_right(firsts, _last(network), start)] if start < len(lasts) else ()

    def __iter__(self) -> Iterator[Network]:
        for family in self.families.values():
            yield from family.networks


def _outermost(networks: list[Network]) -> _Family:
    """Networks of one family without those that lie in another, ascending."""
    family = _Family([], [], [])
    keep, add_first, add_last = family.networks.append, family.firsts.append, family.lasts.append
    networks.sort()
    last = b""
    for network in networks:
        first = network[0]
        if first > last:
            last = _last(network)
            keep(network)
            add_first(first)
            add_last(last)
    return family


def _last(network: Network) -> bytes:
    address, prefix = network
    size = len(address)
    if prefix == size * 8:
        return address
    return (int.from_bytes(address, "big") | (1 << (size * 8 - prefix)) - 1).to_bytes(size, "big")


class PackedAddresses:
    """A set of addresses that only answers whether one is in it: packed, so that it is quick to hand over."""

    def __init__(self, networks: AddressSet) -> None:
        self._firsts = {size: b"".join(family.firsts) for size, family in networks.families.items()}
        self._lasts = {size: b"".join(family.lasts) for size, family in networks.families.items()}

    def __contains__(self, address: bytes) -> bool:
        size = len(address)
        lasts = self._lasts[size]
        count = len(lasts) // size
        place = size * bisect_left(range(count), address, key=lambda i: lasts[i * size : (i + 1) * size])
        return place < len(lasts) and self._firsts[size][place : place + size] <= address


def carve(network: Network, holes: AddressSet) -> Iterator[Network]:
    """What is left of a network without the holes, ascending."""
    hits = holes.overlapping(network)
    if not hits:
        yield network
    elif not hits[0].contains(network):
        half = 1 << (network.bits - network.prefix - 1)
        for first in (network.first, network.first + half):
            yield from carve(Network(first.to_bytes(len(network.address), "big"), network.prefix + 1), holes)


class Held(NamedTuple):
    """Addresses of a rule that aren't published because they are ours or a member's."""

    category: str
    network: Network


Obstacle = Literal["special", "wide", "own", "excepted", "member"]


class Guard:
    """What must never be listed: one judge for every origin. `exempt` are matchers in their canonical text, by kind."""

    def __init__(
        self,
        own: Iterable[bytes],
        members: Iterable[bytes],
        excepted: Iterable[Network],
        exempt: Collection[tuple[str, str]] = (),
    ) -> None:
        self._special = AddressSet(map(parse_network, _NOT_PUBLIC))
        self._own = AddressSet(single(address) for address in own)
        self._members = AddressSet(single(address) for address in members)
        self._excepted = AddressSet(excepted)
        self._exempt = exempt

    def obstacle(self, network: Network, *, capped: bool) -> Obstacle | None:
        """Why a network can't be listed, None if it can; "member" is for review, the others are final.

        `capped`: it comes from an analysis or an imported list. A wide network around a protected address can be
        listed: publishing cuts the address out. One subscriber's can't, because its other addresses are theirs too.
        """
        is_v4 = network.bits == 32
        if self._special.overlapping(network):
            return "special"
        if capped and network.prefix < (MAX_BREADTH_V4 if is_v4 else MAX_BREADTH_V6):
            return "wide"
        if not any(carve(network, self._excepted)):
            return "excepted"
        is_subscriber = network.prefix >= (SUBSCRIBER_V4 if is_v4 else SUBSCRIBER_V6)
        for holes, name in ((self._own, "own"), (self._members, "member")):
            if holes.overlapping(network) and (is_subscriber or not any(carve(network, holes))):
                return "own" if name == "own" else "member"
        return None

    def is_exempt(self, kind: str, matcher: str) -> bool:
        """Whether an identity rule is just what an exception names."""
        return (kind, matcher) in self._exempt

    def protection(self, network: Network) -> tuple[Obstacle, ...]:
        """Everything that keeps an address, or the whole of a network, from being listed."""
        holes: dict[Obstacle, AddressSet] = {
            "special": self._special, "own": self._own, "excepted": self._excepted, "member": self._members,
        }  # fmt: skip
        return tuple(name for name, networks in holes.items() if not any(carve(network, networks)))

    def members_in(self, network: Network) -> int:
        """How many members' addresses lie in a network."""
        return len(self._members.overlapping(network))


def single(address: bytes) -> Network:
    """One address as a network."""
    return Network(address, len(address) * 8)


# --- Publishing -------------------------------------------------------------------------------------------------------


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
    a variant leave out.
    """

    documents: Mapping[tuple[Kind, str], Document]
    ip_denylist: Document
    ip_allowlist: Document
    held: tuple[Held, ...]
    next_expiry_ms: int | None
    omissions: Mapping[str, tuple[Omission, ...]]
    # Of what is listed in a category the spared addresses are no part.
    _listed: Mapping[str, PackedAddresses]
    _spared: PackedAddresses
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

    def touches(self, address: bytes) -> bool:
        """Whether an address (4 or 16 bytes) is banned by these documents; a member's address must not be."""
        return bool(self.listed(address))

    def listed(self, address: bytes) -> tuple[str, ...]:
        """The categories in which these documents ban an address."""
        return () if address in self._spared else _around(address, self._listed)

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
        _listed={category: PackedAddresses(reasoned.networks) for category, reasoned in listed.items()},
        _spared=PackedAddresses(holes.all),
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
