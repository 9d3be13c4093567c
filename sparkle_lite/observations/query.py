"""What people may ask of the stored rows: the bodies of complex queries, and what they mean.

Names, types and meaning of the fields are those of Sparkle's published API; `after` and everything about swarms are
additions.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from sparkle_lite import net
from sparkle_lite.db.conditions import (
    FIELDS,
    Filter,
    NumberMethod,
    Query,
    Table,
    TextMethod,
)
from sparkle_lite.errors import SparkleError
from sparkle_lite.observations.presentation import Viewer
from sparkle_lite.turns import Owner
from sparkle_lite.units import INT64_MAX, INT64_MIN

MAX_PAGE_SIZE = 3000
DEFAULT_PAGE_SIZE = 100

# Rows that a page may lie behind in an order for which everything has to be sorted.
SORTED_DEPTH = 10_000
Long = Annotated[int, Meta(ge=INT64_MIN, le=INT64_MAX)]
Text = Annotated[str, Meta(max_length=1024)]
Milliseconds = Annotated[int, Meta(ge=INT64_MIN, le=INT64_MAX, description="Epoch ms, inclusive.")]


# --- Requests ---------------------------------------------------------------------------------------------------------


class PageRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Which page, in which order: `page` counts from 0; cursors take its place for long walks.

    `after` is a page's `next`, `before` its `previous`.
    """

    page: Annotated[int, Meta(description="From 0.")] | None = None
    page_size: Annotated[int, Meta(description="1 to 3000, 100 if not given.")] | None = None
    after: Annotated[Text, Meta(description="The `next` of the page before, instead of `page`.")] | None = None
    before: Annotated[Text, Meta(description="The `previous` of the page behind, instead of `page`.")] | None = None
    sort_by: (
        Annotated[
            Text | Annotated[list[Text], Meta(max_length=32)],
            Meta(description="One name or several; by time of receipt if not given."),
        ]
        | None
    ) = None
    sort_order: Literal["ASC", "DESC"] | None = None
    or_connector: (
        Annotated[bool, Meta(description="Whether one matching filter is enough; time ranges hold in any case.")] | None
    ) = None


class SnapshotQuery(PageRequest, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Filters on a peer as it was seen; one without its method compares by EQUALS (EQUAL), or CONTAINS for names."""

    time_from: Milliseconds | None = None
    time_to: Milliseconds | None = None
    peer_id: Text | None = None
    peer_id_compare_method: TextMethod | None = None
    peer_client_name: Text | None = None
    peer_client_name_compare_method: TextMethod | None = None
    peer_ip: (
        Annotated[
            Text, Meta(description="An address or a network for EQUALS and NOT_EQUALS, otherwise a part of the text.")
        ]
        | None
    ) = None
    peer_ip_compare_method: TextMethod | None = None
    peer_port: Long | None = None
    peer_port_compare_method: NumberMethod | None = None
    torrent_identifier: Text | None = None
    torrent_identifier_compare_method: TextMethod | None = None
    torrent_size: Long | None = None
    torrent_size_compare_method: NumberMethod | None = None
    from_peer_traffic: Long | None = None
    from_peer_traffic_compare_method: NumberMethod | None = None
    from_peer_traffic_speed: Long | None = None
    from_peer_traffic_speed_compare_method: NumberMethod | None = None
    to_peer_traffic: Long | None = None
    to_peer_traffic_compare_method: NumberMethod | None = None
    to_peer_traffic_speed: Long | None = None
    to_peer_traffic_speed_compare_method: NumberMethod | None = None
    peer_progress: float | None = None
    peer_progress_compare_method: NumberMethod | None = None
    downloader_progress: float | None = None
    downloader_progress_compare_method: NumberMethod | None = None


class BanQuery(SnapshotQuery, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Filters on a ban."""

    btn_ban: bool | None = None
    module: Text | None = None
    module_compare_method: TextMethod | None = None
    rule: Text | None = None
    rule_compare_method: TextMethod | None = None


class SwarmQuery(SnapshotQuery, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Filters on the version of a cumulative row that counts, and on its own times."""

    origin: Literal["HISTORY", "SWARM"] | None = None
    downloader: (
        Annotated[
            Text, Meta(description="Finds the asker's own rows alone, whatever the method; an administrator's, all.")
        ]
        | None
    ) = None
    downloader_compare_method: TextMethod | None = None
    from_peer_traffic_offset: Long | None = None
    from_peer_traffic_offset_compare_method: NumberMethod | None = None
    from_peer_traffic_speed_max: Long | None = None
    from_peer_traffic_speed_max_compare_method: NumberMethod | None = None
    to_peer_traffic_offset: Long | None = None
    to_peer_traffic_offset_compare_method: NumberMethod | None = None
    to_peer_traffic_speed_max: Long | None = None
    to_peer_traffic_speed_max_compare_method: NumberMethod | None = None
    first_time_seen: Long | None = None
    first_time_seen_compare_method: NumberMethod | None = None
    last_time_seen: Long | None = None
    last_time_seen_compare_method: NumberMethod | None = None


class DiscoveryQuery(PageRequest, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Filters on a client identity."""

    found_at_time_from: Milliseconds | None = None
    found_at_time_to: Milliseconds | None = None
    last_seen_at_time_from: Milliseconds | None = None
    last_seen_at_time_to: Milliseconds | None = None
    peer_id: Text | None = None
    peer_id_compare_method: TextMethod | None = None
    peer_client_name: Text | None = None
    peer_client_name_compare_method: TextMethod | None = None


# A value without its method is compared by the first that its kind has here.
_PART_OF = frozenset({"peer_id", "peer_client_name", "rule"})
_ORIGINS = {"HISTORY": 0, "SWARM": 1}
_PEER_SORTS = {
    "id": "id",
    "insertTime": "insert_time",
    "populateTime": "populate_time",
    "submitId": "submit_id",
    "appId": "app_id",
    "userApplication.appId": "app_id",
    "peerIp": "peer_ip",
    "peerPort": "peer_port",
    "peerId": "peer_id",
    "peerClientName": "peer_client_name",
    "torrent.id": "torrent",
    "torrent.identifier": "torrent_identifier",
    "torrent.size": "torrent_size",
    "fromPeerTraffic": "from_peer_traffic",
    "fromPeerTrafficSpeed": "from_peer_traffic_speed",
    "toPeerTraffic": "to_peer_traffic",
    "toPeerTrafficSpeed": "to_peer_traffic_speed",
    "peerProgress": "peer_progress",
    "downloaderProgress": "downloader_progress",
    "flags": "flags",
}

# What each table can be sorted by: an allow-list, for an order tells what it orders by.
SORTS: dict[Table, dict[str, str]] = {
    "snapshot": _PEER_SORTS,
    "ban": {
        **_PEER_SORTS,
        "btnBan": "btn_ban",
        "module": "module",
        "rule": "rule",
        "banUniqueId": "ban_unique_id",
    },
    "swarm": {
        **_PEER_SORTS,
        "origin": "origin",
        "downloader": "downloader",
        "fromPeerTrafficOffset": "from_peer_traffic_offset",
        "fromPeerTrafficSpeedMax": "from_peer_traffic_speed_max",
        "toPeerTrafficOffset": "to_peer_traffic_offset",
        "toPeerTrafficSpeedMax": "to_peer_traffic_speed_max",
        "firstTimeSeen": "first_time_seen",
        "lastTimeSeen": "last_time_seen",
    },
    "discovery": {
        "hash": "hash",
        "clientName": "peer_client_name",
        "peerClientName": "peer_client_name",
        "peerId": "peer_id",
        "foundAt": "found_at",
        "lastSeenAt": "last_seen_at",
    },
}


def build_query(table: Table, request: PageRequest, viewer: Viewer) -> Query:
    """The query that a body means. Raises SparkleError with one sentence that names the field."""
    page, size = _page(request)
    order, descending = _order(table, request)
    _check_depth(table, order, page, size, request.after or request.before)
    time_from, time_to, always = _times(request)
    return Query(
        table=table,
        filters=tuple(_filters(table, request)),
        any_of=bool(request.or_connector),
        always=always,
        time_from=time_from,
        time_to=time_to,
        order=order,
        descending=descending,
        limit=size,
        offset=page * size,
        after=request.after or None,
        before=request.before or None,
        viewer=None if viewer.is_admin else viewer.user,
        asker=Owner(viewer.user),
    )


def _page(request: PageRequest) -> tuple[int, int]:
    page = 0 if request.page is None else request.page
    size = DEFAULT_PAGE_SIZE if request.page_size is None else request.page_size
    if page < 0:
        raise _bad("query.page_below")
    if size < 1:
        raise _bad("query.size_below")
    if size > MAX_PAGE_SIZE:
        raise _bad("query.size_above", limit=MAX_PAGE_SIZE)
    if (page + 1) * size >= 1 << 62:
        raise _bad("query.page_above")
    for name, other in (("page", "after"), ("page", "before"), ("after", "before")):
        if getattr(request, name) and getattr(request, other):
            raise _bad("query.exclude", one=name, other=other)
    return page, size


def _order(table: Table, request: PageRequest) -> tuple[tuple[str, ...], bool]:
    """The order without what is idle in it, so that the same order has the same cursors."""
    descending = request.sort_order != "ASC"
    wanted = [request.sort_by] if isinstance(request.sort_by, str) else request.sort_by or []
    order: list[str] = []
    for name in wanted:
        if not name.strip():
            continue
        field = SORTS[table].get(name)
        if field is None:
            known = ", ".join(SORTS[table])
            raise _bad("query.bad_sorting", name=name[:64], known=known)
        if field not in order and "id" not in order:
            order.append(field)
    if order[:1] == ["id"]:
        return ("id",), descending
    if order in (["insert_time"], ["found_at"]) and (descending or table in ("ban", "discovery")):
        return (), descending
    if not order and not descending and table in ("snapshot", "swarm"):
        return ("insert_time",), False
    return tuple(order), descending


def _check_depth(table: Table, order: tuple[str, ...], page: int, size: int, cursor: str | None) -> None:
    # Cumulative rows are not countable by segment: how many of them count depends on what came later.
    is_cheap = order in ((), ("id",), ("insert_time",)) and table != "swarm"
    if is_cheap or cursor or (page + 1) * size <= SORTED_DEPTH:
        return
    raise _bad("query.too_deep", rows=SORTED_DEPTH)


def _times(request: PageRequest) -> tuple[int | None, int | None, tuple[Filter, ...]]:
    if isinstance(request, DiscoveryQuery):
        _check_range("foundAtTimeFrom", request.found_at_time_from, "foundAtTimeTo", request.found_at_time_to)
        low, high = request.last_seen_at_time_from, request.last_seen_at_time_to
        _check_range("lastSeenAtTimeFrom", low, "lastSeenAtTimeTo", high)
        always = [Filter("last_seen_at", "GREATER_THAN_EQUAL", low)] if low is not None else []
        always += [Filter("last_seen_at", "LESS_THAN_EQUAL", high)] if high is not None else []
        return request.found_at_time_from, request.found_at_time_to, tuple(always)
    if isinstance(request, SnapshotQuery):
        _check_range("timeFrom", request.time_from, "timeTo", request.time_to)
        return request.time_from, request.time_to, ()
    return None, None, ()


def _check_range(name_from: str, low: int | None, name_to: str, high: int | None) -> None:
    if low is not None and high is not None and low > high:
        raise _bad("query.later", name_from=name_from, name_to=name_to)


def _filters(table: Table, request: PageRequest) -> list[Filter]:
    filters = []
    for name, field in FIELDS[table].items():
        value: Any = getattr(request, name, None)
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        method: Any = getattr(request, f"{name}_compare_method", None)
        if name == "origin":
            value = _ORIGINS[value]
        if field.kind == "number":
            filters.append(Filter(name, method or "EQUAL", value))
            continue
        method = method or ("CONTAINS" if name in _PART_OF else "EQUALS")
        if field.kind == "address" and method in ("EQUALS", "NOT_EQUALS"):
            value = _network(value)
        filters.append(Filter(name, method, value))
    return filters


def _network(text: str) -> net.Network:
    try:
        return net.parse_network(text, with_port=True)
    except net.AddressError as error:
        raise _bad("query.bad_peer_ip", why=error.said) from None


def _bad(key: str, /, **values: Any) -> SparkleError:
    return SparkleError("bad_request", key, **values)
