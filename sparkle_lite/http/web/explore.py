"""The explorer: stored rows by any filter, and what is known of one client or torrent."""

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import msgspec
from litestar import Response, get
from litestar.response import Stream

from sparkle_lite.errors import SparkleError
from sparkle_lite.http.downloads import downloads_of
from sparkle_lite.http.session import AnyRequest, Injected, SignedIn
from sparkle_lite.http.web import filters, links, paging
from sparkle_lite.http.web.access import MEMBERS
from sparkle_lite.http.web.filters import VIEWS, TorrentQuery, View
from sparkle_lite.http.web.render import HEADERS, Page, page, see_other
from sparkle_lite.observations.presentation import Torrent, Viewer, csv_cells, csv_columns, present
from sparkle_lite.observations.query import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, PageRequest, build_query
from sparkle_lite.observations.stored import (
    Ask,
    Filter,
    Query,
    TorrentFilter,
    TorrentRow,
    count_torrents,
    find_torrents,
)
from sparkle_lite.rules.decisions import LONGEST_NAME
from sparkle_lite.server import Server
from sparkle_lite.turns import Owner
from sparkle_lite.units import INT64_MAX, INT64_MIN
from sparkle_lite.wire.torrents import parse_info_hash, torrent_identifier

# Rows of one file; more are better taken over the REST API.
EXPORT_ROWS = 100_000
# How long the rows of a page of the explorer are found and counted: a page should come at once, and says "at least"
# where the REST API would go on counting. More rows than so many take their time to be written.
PAGE_COUNT_MS, PAGE_COUNT_ROWS = 40, 200
# Rows of each kind on the page of one client, torrent or address, and how long they are counted.
RECENT, RECENT_COUNT_MS = 10, 10


class Found(NamedTuple):
    """One page of rows as they may be seen; `total` is a lower bound unless `exact`."""

    rows: list[Any]
    total: int
    exact: bool
    next: str | None
    previous: str | None


class Section(NamedTuple):
    """The newest rows of one kind about something; `refusal` says why there are none to show."""

    view: View
    found: Found | None
    more: str
    refusal: SparkleError | None


def viewer_of(me: SignedIn) -> Viewer:
    """How much somebody may see."""
    return Viewer(me.user.id, me.is_admin)


async def find(server: Server, view: View, page_request: PageRequest, viewer: Viewer, count_ms: int) -> Found:
    """The rows that are asked for. Raises SparkleError as the REST API does."""
    limits = server.config.limits
    count_ms = min(count_ms, int(limits.count_time))
    if isinstance(page_request, TorrentQuery):
        ask = partial(server.search.rows, viewer.user)
        return await _find_torrents(ask, page_request, int(limits.query_time), count_ms)
    assert view.table is not None
    query = build_query(view.table, page_request, viewer)
    look = server.search.discoveries if view.table == "discovery" else server.search.page
    found = await look(query, int(limits.query_time), count_ms, hurry=True)
    return Found(
        rows=[present(row, viewer) for row in found.rows],
        total=found.total,
        exact=found.exact,
        next=found.next,
        previous=found.previous,
    )


async def _find_torrents(ask: Ask, page_request: TorrentQuery, query_ms: int, count_ms: int) -> Found:
    wanted = TorrentFilter(
        identifier=page_request.identifier,
        method=page_request.identifier_compare_method or "EQUALS",
        size_from=page_request.size_from,
        size_to=page_request.size_to,
        private=page_request.private_torrent,
    )
    size = min(max(page_request.page_size or DEFAULT_PAGE_SIZE, 1), MAX_PAGE_SIZE)
    at = paging.position({"after": page_request.after or "", "before": page_request.before or ""}, paging.row_id)
    if at.key is None and (page_request.after or page_request.before):
        raise SparkleError("bad_request", "query.foreign_after")
    rows = await find_torrents(ask, wanted, at, size + 1, query_ms)
    part = paging.cut(rows, at, size, lambda row: str(row.id))
    total, exact = len(rows), True
    if at.key is not None or len(rows) > size:
        total, exact = await count_torrents(ask, wanted, count_ms)
    return Found(
        rows=[_torrent(row) for row in part.rows],
        total=max(total, len(rows)),
        exact=exact,
        next=part.next,
        previous=part.previous,
    )


def _torrent(row: TorrentRow) -> Torrent:
    identifier = row.identifier.hex() if isinstance(row.identifier, bytes) else row.identifier
    return Torrent(row.id, identifier, row.size, None if row.private < 0 else bool(row.private))


async def section(
    server: Server, me: SignedIn, name: str, parameters: Mapping[str, str], size: int = RECENT
) -> Section:
    """The newest rows of a view under some filters."""
    view = VIEWS[name]
    wanted = filters.canonical(view, parameters)
    more = f"/explore/{name}{filters.query_string(wanted)}"
    try:
        page_request = filters.read(view, {**wanted, "pageSize": str(size)})
        found = await find(server, view, page_request, viewer_of(me), RECENT_COUNT_MS)
    except SparkleError as error:
        return Section(view, None, more, error)
    return Section(view, found, more, None)


# --- Tables -----------------------------------------------------------------------------------------------------------


@get("/explore", guards=MEMBERS)
async def first_table() -> Page:
    """Where the explorer begins."""
    return see_other("/explore/bans")


@get("/explore/{name:str}", guards=MEMBERS)
async def explore(request: AnyRequest, server: Injected[Server], me: Injected[SignedIn], name: str) -> Page:
    """A table with its filters; a URL that says more than it needs leads to the one that doesn't."""
    view = _view(name)
    given = dict(request.query_params)
    try:
        parameters = filters.canonical(view, given)
        if parameters != given:
            return see_other(f"/explore/{name}{filters.query_string(parameters)}")
        page_request = filters.read(view, parameters)
        count_ms = PAGE_COUNT_MS * PAGE_COUNT_ROWS // max(page_request.page_size or 0, PAGE_COUNT_ROWS)
        found = await find(server, view, page_request, viewer_of(me), count_ms)
    except SparkleError as error:
        return _table_page(request, view, given, refused=error)
    # Some hundred rows take so long to write that others would wait.
    return await asyncio.to_thread(_table_page, request, view, parameters, found)


def _table_page(
    request: AnyRequest,
    view: View,
    parameters: Mapping[str, str],
    found: Found | None = None,
    refused: SparkleError | None = None,
) -> Page:
    return page(
        request,
        "explore.html",
        refused=refused,
        views=list(VIEWS),
        view=view,
        form=filters.form(view, parameters),
        sorts=filters.sorts(view),
        sizes=filters.PAGE_SIZES,
        parameters=parameters,
        found=found,
        export_rows=EXPORT_ROWS,
    )


def _view(name: str) -> View:
    if name not in VIEWS:
        raise SparkleError("not_found", "query.no_table")
    return VIEWS[name]


@get("/explore/{name:str}/csv", guards=MEMBERS)
async def export(request: AnyRequest, server: Injected[Server], me: Injected[SignedIn], name: str) -> Response[Any]:
    """A table under some filters as a file."""
    view = _view(name)
    parameters = filters.canonical(view, request.query_params)
    for unwanted in (*paging.PARAMETERS, "pageSize"):
        parameters.pop(unwanted, None)
    page_request = filters.read(view, {**parameters, "pageSize": str(MAX_PAGE_SIZE)})
    # What is refused is refused before the file has begun.
    start = await find(server, view, page_request, viewer_of(me), 0)
    headers = {**HEADERS, "content-disposition": f'attachment; filename="{name}.csv"'}
    lines = downloads_of(request).begin(me.user.id, _lines(server, view, page_request, viewer_of(me), start))
    return Stream(lines, media_type="text/csv", headers=headers)


async def _lines(
    server: Server, view: View, page_request: PageRequest, viewer: Viewer, found: Found
) -> AsyncIterator[bytes]:
    """A table as CSV, a page of rows at a time."""
    columns = csv_columns(view.shape)
    # Spreadsheets take a file for Latin-1 unless it begins with this mark.
    yield b"\xef\xbb\xbf" + _csv([[".".join(path) for path in columns]])
    left = EXPORT_ROWS
    while True:
        rows = found.rows[:left]
        left -= len(rows)
        yield await asyncio.to_thread(_csv_of, rows, columns)
        if found.next is None or left <= 0:
            return
        found = await find(server, view, msgspec.structs.replace(page_request, after=found.next), viewer, 0)


def _csv_of(rows: Sequence[Any], columns: Sequence[tuple[str, ...]]) -> bytes:
    return _csv([csv_cells(row, columns) for row in rows])


def _csv(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode("utf-8", "replace")


# --- One client -------------------------------------------------------------------------------------------------------


@get("/client", guards=MEMBERS)
async def client_by_parameter(request: AnyRequest, server: Injected[Server], me: Injected[SignedIn]) -> Page:
    """What is known of a client whose name can't stand in a path."""
    return await _client_page(request, server, me, request.query_params.get("name", ""))


@get("/client/{name:path}", guards=MEMBERS)
async def client(request: AnyRequest, server: Injected[Server], me: Injected[SignedIn], name: str) -> Page:
    """What is known of a client by its name, with or without a peer id, or by its public number."""
    return await _client_page(request, server, me, name.removeprefix("/"))


async def _client_page(request: AnyRequest, server: Server, me: SignedIn, name: str) -> Page:
    # No name that is stored is longer.
    name, peer_id = name[:LONGEST_NAME], request.query_params.get("peerId", "")[:LONGEST_NAME]
    if _is_number(name) and (url := await _client_by_number(server, me, int(name))):
        return see_other(url)
    both = {"peerClientName": name, "peerClientNameCompareMethod": "EQUALS"}
    if peer_id:
        both |= {"peerId": peer_id, "peerIdCompareMethod": "EQUALS"}
    known = await section(server, me, "clients", both, 50)
    recent = await _recent(server, me, both)
    whys = [await server.decisions.why_named("client_name", name)]
    if peer_id:
        whys.append(await server.decisions.why_named("peer_id", peer_id))
    return page(request, "client.html", name=name, peer_id=peer_id, known=known, recent=recent, whys=whys)


async def _recent(server: Server, me: SignedIn, parameters: Mapping[str, str]) -> list[Section]:
    """The newest rows of every kind about something."""
    return [await section(server, me, view, parameters) for view in ("bans", "swarms", "snapshots")]


async def _client_by_number(server: Server, me: SignedIn, number: int) -> str | None:
    """The page of the client identity with a public number, if there is one."""
    limits = server.config.limits
    query = Query("discovery", (Filter("hash", "EQUAL", number),), limit=1, asker=Owner(me.user.id))
    with suppress(SparkleError):
        for row in (await server.search.discoveries(query, int(limits.query_time), 0)).rows:
            return links.client(row.client_name or "N/A", row.peer_id or "N/A")
    return None


def _is_number(text: str) -> bool:
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdecimal() and len(digits) >= 10 and INT64_MIN <= int(text[:24]) <= INT64_MAX


# --- One torrent ------------------------------------------------------------------------------------------------------


@get("/torrent", guards=MEMBERS)
async def torrent_by_parameter(request: AnyRequest, server: Injected[Server], me: Injected[SignedIn]) -> Page:
    """What is known of a torrent whose identifier can't stand in a path; the way there by an info-hash."""
    info_hash = request.query_params.get("hash", "").strip()
    if info_hash:
        return see_other(links.torrent(torrent_identifier(parse_info_hash(info_hash))))
    return await _torrent_page(request, server, me, request.query_params.get("identifier", ""))


@get("/torrent/{identifier:path}", guards=MEMBERS)
async def torrent(request: AnyRequest, server: Injected[Server], me: Injected[SignedIn], identifier: str) -> Page:
    """What is known of a torrent by its identifier."""
    return await _torrent_page(request, server, me, identifier.removeprefix("/"))


async def _torrent_page(request: AnyRequest, server: Server, me: SignedIn, identifier: str) -> Page:
    known = await section(server, me, "torrents", {"identifier": identifier}, 50)
    recent = await _recent(server, me, {"torrentIdentifier": identifier})
    return page(request, "torrent.html", identifier=identifier, known=known, recent=recent)


HANDLERS = (first_table, explore, export, client_by_parameter, client, torrent_by_parameter, torrent)
