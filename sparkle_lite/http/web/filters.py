"""The explorer's form: every filter of the REST API as a field of a page, and URLs that hold no more than what is set.

A form is made from the struct that the REST API reads a body into, so that a new filter shows up by itself.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Literal, NamedTuple, get_args
from urllib.parse import urlencode

import msgspec

from sparkle_lite.config import Refused, Size
from sparkle_lite.errors import SparkleError
from sparkle_lite.observations.presentation import BanHistory, ClientDiscovery, Snapshot, Swarm, Torrent, Viewer
from sparkle_lite.observations.query import (
    DEFAULT_PAGE_SIZE,
    SORTS,
    BanQuery,
    DiscoveryQuery,
    Long,
    PageRequest,
    SnapshotQuery,
    SwarmQuery,
    Text,
    build_query,
)
from sparkle_lite.observations.stored import Table, TorrentMethod

InputKind = Literal["text", "number", "size", "fraction", "time", "flag", "choice"]

# What a page of the explorer shows when nothing else is asked for.
PAGE_SIZES = (25, 100, 250, 500)
_PAGE_REQUEST = {field.encode_name for field in msgspec.structs.fields(PageRequest)}
_METHOD = "CompareMethod"
_PARTIAL_DAY = re.compile(r"\d{4}-\d\d-\d\d")
# The fields that a form shows at once; the others stand behind a fold until one of them is used.
_FIRST = (
    "peerIp",
    "peerClientName",
    "identifier",
    "module",
    "sizeFrom",
    "sizeTo",
    "privateTorrent",
)


class TorrentQuery(PageRequest, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Filters on a torrent, newest first; only the explorer asks for these."""

    identifier: Text | None = None
    identifier_compare_method: TorrentMethod | None = None
    size_from: Long | None = None
    size_to: Long | None = None
    private_torrent: bool | None = None


class View(NamedTuple):
    """One kind of rows in the explorer: its name in URLs, what is asked and what is shown."""

    name: str
    table: Table | None
    query: type[PageRequest]
    shape: type[msgspec.Struct]


VIEWS = {
    view.name: view
    for view in (
        View("bans", "ban", BanQuery, BanHistory),
        View("snapshots", "snapshot", SnapshotQuery, Snapshot),
        View("swarms", "swarm", SwarmQuery, Swarm),
        View("clients", "discovery", DiscoveryQuery, ClientDiscovery),
        View("torrents", None, TorrentQuery, Torrent),
    )
}


class FilterField(NamedTuple):
    """A filter of a view; `methods` are the ways to compare, the usual one first, none where there is no choice."""

    name: str
    kind: InputKind
    methods: tuple[str, ...]
    choices: tuple[str, ...]


class Input(NamedTuple):
    """A field with what is set: the value as its input shows it."""

    field: FilterField
    value: str
    method: str


class Form(NamedTuple):
    """A filled form: the fields that come first, the others, and whether any of those is set."""

    first: list[Input]
    others: list[Input]
    is_open: bool
    any_of: bool
    sort_by: str
    ascending: bool
    page_size: int


@cache
def fields(view: View) -> tuple[FilterField, ...]:
    """The filters of a view."""
    known = {field.encode_name: field.type for field in msgspec.structs.fields(view.query)}
    found = []
    for name, hint in known.items():
        if name in _PAGE_REQUEST or name.endswith(_METHOD):
            continue
        methods = _literals(known.get(f"{name}{_METHOD}"))
        kind = _kind(name, hint)
        found.append(FilterField(name, kind, _usual_first(view, name, kind, methods), _literals(hint)))
    return tuple(found)


@cache
def sorts(view: View) -> tuple[str, ...]:
    """The names that a view can be sorted by, each order once."""
    if view.table is None:
        return ()
    by_order: dict[str, str] = {}
    for name, order in SORTS[view.table].items():
        by_order.setdefault(order, name)
    return tuple(by_order.values())


def _literals(hint: Any) -> tuple[str, ...]:
    """The texts that a type allows, none if it isn't about particular texts."""
    if isinstance(hint, str):
        return (hint,)
    if hint is None or hint is type(None):
        return ()
    return tuple(text for part in get_args(hint) for text in _literals(part))


def _kind(name: str, hint: Any) -> InputKind:
    types = _types(hint)
    if bool in types:
        return "flag"
    if "choice" in types:
        return "choice"
    if str in types:
        return "text"
    if "time" in name.lower():
        return "time"
    if float in types:
        return "fraction"
    return "size" if "Traffic" in name or "size" in name.lower() else "number"


def _types(hint: Any) -> set[Any]:
    if isinstance(hint, type):
        return {hint}
    if isinstance(hint, str):
        return {"choice"}
    found: set[Any] = set()
    for part in (getattr(hint, "__origin__", None), *get_args(hint)):
        if part is not None and not isinstance(part, msgspec.Meta) and part is not Literal:
            found |= _types(part)
    return found


def _usual_first(view: View, name: str, kind: InputKind, methods: tuple[str, ...]) -> tuple[str, ...]:
    """The methods, first the one that the query takes where none is given."""
    if not methods or view.table is None:
        return methods
    probe = msgspec.convert({name: "1.1.1.1" if kind == "text" else 1}, view.query)
    [wanted] = build_query(view.table, probe, Viewer(0, True)).filters
    return (wanted.method, *(method for method in methods if method != wanted.method))


# --- URLs -------------------------------------------------------------------------------------------------------------


def canonical(view: View, parameters: Mapping[str, str]) -> dict[str, str]:
    """The parameters of a URL that say the same and no more: values as the REST API takes them, nothing usual.

    Raises SparkleError for a value that can't be read.
    """
    values = {name: text.strip() for name, text in parameters.items() if text.strip()}
    for field in fields(view):
        method = f"{field.name}{_METHOD}"
        if field.name not in values or (field.methods and values.get(method) == field.methods[0]):
            values.pop(method, None)
        if field.name in values:
            values[field.name] = _plain(field, values[field.name])
    usual = {"pageSize": str(DEFAULT_PAGE_SIZE), "sortOrder": "DESC", "orConnector": "false"}
    return {name: value for name, value in values.items() if usual.get(name) != value}


def read(view: View, parameters: Mapping[str, str]) -> PageRequest:
    """What canonical parameters ask for. Raises SparkleError that names the parameter."""
    try:
        return msgspec.convert(dict(parameters), view.query, strict=False)
    except msgspec.ValidationError as error:
        why, _, path = str(error).partition(" - at ")
        name = path.strip("`$.")
        key = "query.bad_filter" if name else "query.bad_filters"
        raise SparkleError("bad_request", key, name=name, why=why) from None


def query_string(parameters: Mapping[str, str]) -> str:
    """The parameters as a URL holds them, with their question mark if there are any."""
    return f"?{urlencode(parameters)}" if parameters else ""


def _plain(field: FilterField, text: str) -> str:
    """A value as people write it in the form in which the query reads it."""
    try:
        if field.kind == "size" and not _is_whole(text):
            return str(int(Size.parse(text)))
        if field.kind == "fraction" and text.endswith("%"):
            return f"{float(text[:-1]) / 100:g}"
        if field.kind == "time" and not _is_whole(text):
            return str(_instant(text, is_end=field.name.endswith("To")))
    except Refused as refused:
        raise SparkleError("bad_request", "query.bad_size", name=field.name, why=str(refused)) from None
    except ValueError:
        raise SparkleError("bad_request", "query.bad_value", name=field.name, text=text[:64]) from None
    return text


def _is_whole(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def _instant(text: str, *, is_end: bool) -> int:
    """Epoch ms of a date or a moment in UTC; a day, minute or second that ends something is meant to its end."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    if is_end:
        step = timedelta(days=1) if _PARTIAL_DAY.fullmatch(text) else timedelta(seconds=1 if len(text) > 16 else 60)
        moment += step - timedelta(milliseconds=1)
    return int(moment.timestamp() * 1000)


# --- The form ---------------------------------------------------------------------------------------------------------


def form(view: View, parameters: Mapping[str, str]) -> Form:
    """The form as canonical parameters fill it."""
    inputs = [
        Input(
            field,
            _shown(field, parameters.get(field.name, "")),
            parameters.get(f"{field.name}{_METHOD}", field.methods[0] if field.methods else ""),
        )
        for field in fields(view)
    ]
    first = [one for one in inputs if one.field.name in _FIRST]
    others = [one for one in inputs if one not in first]
    size = parameters.get("pageSize", "")
    return Form(
        first=sorted(first, key=lambda one: _FIRST.index(one.field.name)),
        others=others,
        is_open=any(one.value for one in others) or bool(parameters.get("sortBy") or parameters.get("pageSize")),
        any_of=parameters.get("orConnector") == "true",
        sort_by=parameters.get("sortBy", ""),
        ascending=parameters.get("sortOrder") == "ASC",
        page_size=int(size) if size.isdecimal() and len(size) < 6 else DEFAULT_PAGE_SIZE,
    )


def _shown(field: FilterField, value: str) -> str:
    if not _is_whole(value) or len(value) > 15:
        return value
    if field.kind == "size" and int(value) > 0:
        return str(Size(int(value))) if int(value) % 1000 == 0 or int(value) % 1024 == 0 else value
    if field.kind == "time":
        moment = datetime.fromtimestamp(int(value) / 1000, UTC)
        return moment.strftime("%Y-%m-%dT%H:%M:%S" if moment.second else "%Y-%m-%dT%H:%M")
    return value
