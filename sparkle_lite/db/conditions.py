"""What can be asked of stored rows, and how each question is put to SQLite.

Every condition is about one row with the alias `s`; a condition on a dictionary's text or size becomes one on the ids
that match it, looked up once for the whole chain of segments. `m` is the main database, `sub` the row's submission.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from sparkle_lite.net import Network
from sparkle_lite.turns import Owner

Table = Literal["ban", "snapshot", "swarm", "discovery"]
TextMethod = Literal[
    "EQUALS",
    "NOT_EQUALS",
    "CONTAINS",
    "NOT_CONTAINS",
    "STARTS_WITH",
    "NOT_STARTS_WITH",
    "ENDS_WITH",
    "NOT_ENDS_WITH",
]
NumberMethod = Literal["LESS_THAN", "LESS_THAN_EQUAL", "GREATER_THAN", "GREATER_THAN_EQUAL", "EQUAL"]

# What is shown, and therefore compared, where a client said nothing.
NAMELESS = "N/A"
# Dictionary entries that are looked up beforehand; where more match, each row's entry is looked at instead.
MAX_IDS = 5_000
# Networks wider than this are no work for an index: so many rows match that the newest are found sooner by walking.
_NARROW = {4: 4, 16: 16}

_NUMBERS: dict[str, str] = {
    "LESS_THAN": "<",
    "LESS_THAN_EQUAL": "<=",
    "GREATER_THAN": ">",
    "GREATER_THAN_EQUAL": ">=",
    "EQUAL": "=",
}
# {c} is the column. LIKE would take % and _ as wildcards and ignore the case of ASCII letters.
_TEXTS = {
    "EQUALS": "{c}=?",
    "CONTAINS": "instr({c}, ?)>0",
    "STARTS_WITH": "substr({c}, 1, length(?))=?",
    "ENDS_WITH": "substr({c}, -length(?))=?",
}
# The four numbers of an IPv4 address without a call into Python, which would take the interpreter lock for every row.
_OCTETS = f"x'{bytes(range(256)).hex()}'"
_V4_TEXT = " || '.' || ".join(f"(instr({_OCTETS}, substr(s.peer_ip, {n}, 1)) - 1)" for n in (1, 2, 3, 4))
_V6_TEXT = "ip_text(s.peer_ip)"


# When the last report of a ban was received.
LAST_REPORTED_AT = "ifnull((SELECT r.received_at FROM m.ban_last_report r WHERE r.ban=s.id), s.received_at)"


class Condition(NamedTuple):
    """A condition with its values; `indexed`: an index finds the rows, `attached`: it needs the main database."""

    sql: str
    values: tuple[Any, ...] = ()
    indexed: bool = False
    attached: bool = False

    def negated(self) -> "Condition":
        """Its opposite; a row that has no value is not equal to any."""
        return Condition(f"({self.sql}) IS NOT TRUE", self.values, False, self.attached)


class Field(NamedTuple):
    """Something that can be filtered and sorted by.

    `column` is its expression. Where the value stands in a dictionary, `via` is the row's column that refers to it,
    `dictionary` the table, and `column` is about the entry, whose alias is `d`. `exact` asks for equality in a way that
    the dictionary's index can answer. An index serves an order only by a column that is not `nullable`. Addresses are
    ordered by their bytes, all of IPv4 before those of IPv6. What `is_private` would tell which rows came from one
    member: neither a filter nor an order nor a count says anything of it but to that member.
    """

    kind: Literal["text", "number", "address"]
    column: str
    via: str = ""
    dictionary: str = ""
    exact: Callable[[str], Condition] | None = None
    nullable: bool = True
    is_private: bool = False

    def orders(self, viewer: int | None) -> tuple[str, ...]:
        """The expressions that rows are ordered by as `viewer` (None: whoever may see all) sees them."""
        if self.kind == "address":
            return f"length({self.column})", self.column
        missing = "-9e999" if self.kind == "number" else "''"
        column = self.column
        if self.via:
            column = f"(SELECT {column} FROM m.{self.dictionary} d WHERE d.id=s.{self.via})"
        if self.nullable or self.via:
            column = f"ifnull({column}, {missing})"
        if self.is_private and viewer is not None:
            owner = "(SELECT a.user FROM m.userapp a WHERE a.id=sub.userapp)"
            column = f"iif({owner}={viewer:d}, {column}, {missing})"
        return (column,)


class Filter(NamedTuple):
    """One condition as asked; `value` is a Network for equality of addresses, otherwise of the field's own type."""

    field: str
    method: TextMethod | NumberMethod
    value: str | float | bool | Network


def _number(column: str, *, nullable: bool = False) -> Field:
    return Field("number", f"s.{column}", nullable=nullable)


def _named(column: str, row: str) -> Field:
    """A text of a client identity, shown as N/A where it is empty."""

    def exact(value: str) -> Condition:
        if value == NAMELESS:
            return Condition(f"{row}.{column} IN ('', ?)", (value,))
        return Condition(f"{row}.{column}=?", (value,))

    shown = f"iif({row}.{column}='', '{NAMELESS}', {row}.{column})"
    if row == "s":
        return Field("text", shown, exact=exact)
    return Field("text", shown, "client", "client_identity", exact)


def _identifier(value: str) -> Condition:
    if len(value) == 64 and all(character in "0123456789abcdef" for character in value):
        return Condition("d.identifier=?", (bytes.fromhex(value),))
    return Condition("d.identifier=?", (value,))


_PEER: dict[str, Field] = {
    "peer_ip": Field("address", "s.peer_ip"),
    "peer_port": _number("peer_port"),
    "peer_id": _named("peer_id", "d"),
    "peer_client_name": _named("client_name", "d"),
    "torrent": _number("torrent"),
    "torrent_identifier": Field(
        "text",
        "iif(typeof(d.identifier)='blob', lower(hex(d.identifier)), d.identifier)",
        "torrent",
        "torrent",
        _identifier,
    ),
    "torrent_size": Field("number", "d.size", "torrent", "torrent"),
    "from_peer_traffic": _number("from_peer_traffic"),
    "from_peer_traffic_speed": _number("from_peer_traffic_speed"),
    "to_peer_traffic": _number("to_peer_traffic"),
    "to_peer_traffic_speed": _number("to_peer_traffic_speed"),
    "peer_progress": _number("peer_progress", nullable=True),
    "downloader_progress": _number("downloader_progress", nullable=True),
    "flags": Field("text", "d.text", "flags", "label"),
    "insert_time": Field("number", "sub.received_at", nullable=False),
    # By how far a client's clock is off, its rows would be known again.
    "populate_time": Field("number", "sub.populate_time", is_private=True),
    "submit_id": Field("text", "hex(sub.digest)", is_private=True),
    "app_id": Field("text", "(SELECT a.app_id FROM m.userapp a WHERE a.id=sub.userapp)", is_private=True),
}

# The fields of each table by name. "id" is no field: it is what every order ends with.
FIELDS: dict[Table, dict[str, Field]] = {
    "snapshot": _PEER,
    "ban": {
        **_PEER,
        "insert_time": _number("received_at"),
        "btn_ban": _number("btn_ban"),
        "module": Field("text", "d.text", "module", "label"),
        "rule": Field("text", "s.rule"),
        "ban_unique_id": Field("text", "s.ban_unique_id"),
        "last_reported_at": Field("number", LAST_REPORTED_AT, nullable=False),
    },
    "swarm": {
        **_PEER,
        "downloader": Field("text", "d.text", "downloader", "label", is_private=True),
        "origin": _number("origin"),
        "from_peer_traffic_offset": _number("from_peer_traffic_offset"),
        "from_peer_traffic_speed_max": _number("from_peer_traffic_speed_max"),
        "to_peer_traffic_offset": _number("to_peer_traffic_offset"),
        "to_peer_traffic_speed_max": _number("to_peer_traffic_speed_max"),
        "first_time_seen": _number("first_time_seen", nullable=True),
        "last_time_seen": _number("last_time_seen", nullable=True),
    },
    "discovery": {
        "hash": Field("number", "identity_hash(s.peer_id, s.client_name)"),
        "peer_id": _named("peer_id", "s"),
        "peer_client_name": _named("client_name", "s"),
        "found_at": _number("found_at"),
        "last_seen_at": _number("last_seen_at"),
    },
}


class Query(NamedTuple):
    """What to find.

    `any_of` joins the filters with OR instead of AND; `always` and the range of the time of receipt (ms, inclusive)
    hold in any case. `order` names fields or "id", nothing means the time of receipt; rows that tie follow by id, the
    highest first. `after` and `before` are cursors: of the page before, and of the page behind; they exclude each other
    and `offset`. `viewer` is the user who asks: of others' rows private fields are as if they had no value. None is
    somebody who may see all.
    `asker` is who asks, by a person's row id: each has a turn. With `is_client` an application asks.
    """

    table: Table
    filters: tuple[Filter, ...] = ()
    any_of: bool = False
    always: tuple[Filter, ...] = ()
    time_from: int | None = None
    time_to: int | None = None
    order: tuple[str, ...] = ()
    descending: bool = True
    limit: int = 100
    offset: int = 0
    after: str | None = None
    before: str | None = None
    viewer: int | None = None
    asker: Owner = Owner(None)
    is_client: bool = False

    def is_quick(self) -> bool:
        """Whether it touches little more than the rows that it shows."""
        return not (self.filters or self.always) and self.order in ((), ("id",)) and self.table != "swarm"


# Finds at most MAX_IDS + 1 ids by a statement with its values.
FindIds = Callable[[str, Sequence[Any]], list[int]]


def condition(table: Table, wanted: Filter, find_ids: FindIds, viewer: int | None) -> Condition:
    """One filter as a condition on a row, as `viewer` (None: whoever may see all) may ask it."""
    field = FIELDS[table][wanted.field]
    is_veiled = field.is_private and viewer is not None
    positive = wanted.method.removeprefix("NOT_")
    if isinstance(wanted.value, Network):
        found = _within(wanted.value)
    elif field.kind == "address":
        found = _address_text(positive, str(wanted.value))
    else:
        found = _compare(field, positive, wanted.value)
        if field.via:
            found = _in_entry(field, found) if is_veiled else _by_entry(field, found, find_ids)
    if positive != wanted.method:
        found = found.negated()
    return _of_own_rows(found, viewer, find_ids) if is_veiled else found


def _of_own_rows(wanted: Condition, viewer: int | None, find_ids: FindIds) -> Condition:
    """A condition that no row of another user meets, whatever is in it, nor does it take longer for what is in it."""
    own = json.dumps(find_ids("SELECT a.id FROM m.userapp a WHERE a.user=?", (viewer,)))
    # With AND, SQLite would choose which of the two it looks at first.
    sql = f"iif(sub.userapp IN (SELECT value FROM json_each(?)), ({wanted.sql}), FALSE)"
    return wanted._replace(sql=sql, values=(own, *wanted.values), indexed=False)


def _within(network: Network) -> Condition:
    size = len(network.address)
    if network.prefix == network.bits:
        return Condition("s.peer_ip=?", (network.address,), True)
    # Addresses of both families are in one order: those of the other one must not slip in between.
    last = network.last.to_bytes(size, "big")
    indexed = network.prefix >= _NARROW[size]
    column = "s.peer_ip" if indexed else "+s.peer_ip"
    return Condition(f"{column} BETWEEN ? AND ? AND length(s.peer_ip)={size}", (network.address, last), indexed)


def _address_text(method: str, value: str) -> Condition:
    """A comparison of the canonical text; no IPv4 address holds a colon and no IPv6 address a point."""
    template = _TEXTS[method]
    values = (value,) * template.count("?")
    parts = []
    if ":" not in value:
        parts.append(f"(length(s.peer_ip)=4 AND {template.format(c=f'({_V4_TEXT})')})")
    if "." not in value:
        parts.append(f"(length(s.peer_ip)=16 AND {template.format(c=_V6_TEXT)})")
    return Condition(" OR ".join(parts) or "FALSE", values * len(parts))


def _compare(field: Field, method: str, value: Any) -> Condition:
    if field.kind == "number":
        return Condition(f"{field.column}{_NUMBERS[method]}?", (value,))
    if method == "EQUALS" and field.exact is not None:
        return field.exact(value)
    template = _TEXTS[method]
    return Condition(template.format(c=field.column), (value,) * template.count("?"))


def _by_entry(field: Field, entry: Condition, find_ids: FindIds) -> Condition:
    """The condition on rows whose dictionary entry meets a condition."""
    ids = find_ids(f"SELECT d.id FROM m.{field.dictionary} d WHERE {entry.sql} LIMIT {MAX_IDS + 1}", entry.values)
    # What few segments index is not worth a plan of its own: only clients and torrents have one. Labels are also what
    # some call their downloaders: how long it takes must not tell whether there is one.
    indexed = field.via in ("client", "torrent")
    if not ids and indexed:
        return Condition("FALSE", (), True)
    if len(ids) == 1 and indexed:
        return Condition(f"s.{field.via}=?", (ids[0],), True)
    if len(ids) <= MAX_IDS:
        # No entry has the id 0: with it there is always something to look through.
        return Condition(f"s.{field.via} IN (SELECT value FROM json_each(?))", (json.dumps([0, *ids]),), indexed)
    return _in_entry(field, entry)


def _in_entry(field: Field, entry: Condition) -> Condition:
    """The same without looking anything up before: each row's entry is looked at."""
    sql = f"(SELECT {entry.sql} FROM m.{field.dictionary} d WHERE d.id=s.{field.via})"
    return Condition(sql, entry.values, False, True)


def joined(conditions: Sequence[Condition], any_of: bool) -> Condition:
    """All conditions, or any of them, as one; none at all is true of every row."""
    if not conditions:
        return Condition("TRUE")
    if len(conditions) == 1:
        return conditions[0]
    word, enough = (" OR ", all) if any_of else (" AND ", any)
    return Condition(
        word.join(f"({part.sql})" for part in conditions),
        tuple(value for part in conditions for value in part.values),
        enough(part.indexed for part in conditions),
        any(part.attached for part in conditions),
    )


def identity_hash(peer_id: str, client_name: str) -> int:
    """The public number of a client identity.

    The first 8 bytes of SHA-256 over "peer_id@client_name" as shown, little-endian and signed.
    """
    text = f"{peer_id or NAMELESS}@{client_name or NAMELESS}"
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8], "little", signed=True)
