"""The explorer: stored rows by any filter, and what is known of one client or torrent."""

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.response import Stream

from sparkle_lite.db import torrents
from sparkle_lite.db.conditions import Filter, Query
from sparkle_lite.db.torrents import TorrentRow, WantedTorrents
from sparkle_lite.errors import SparkleError
from sparkle_lite.http.session import SignedIn
from sparkle_lite.http.web import filters, links, paging, render
from sparkle_lite.http.web.filters import VIEWS, TorrentQuery, View
from sparkle_lite.http.web.render import HEADERS, Asked, Page, Pages, page
from sparkle_lite.query import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, Listing, ask
from sparkle_lite.runtime import Server
from sparkle_lite.shown import Torrent, Viewer, csv_cells, csv_columns, shown
from sparkle_lite.wire.torrents import parse_info_hash, torrent_identifier

# Rows of one file; more are better taken over the REST API.
EXPORT_ROWS = 100_000
# How long the rows of a page of the explorer are found and counted: a page should come at once, and says "at least"
# where the REST API would go on counting. More rows than so many take their time to be written.
PAGE_COUNT_MS, PAGE_COUNT_ROWS = 40, 200
# Rows of each kind on the page of one client, torrent or address, and how long they are counted.
RECENT, RECENT_COUNT_MS = 10, 10
_INT64 = (1 << 63) - 1


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


async def find(runtime: Server, view: View, asked: Listing, viewer: Viewer, count_ms: int) -> Found:
    """The rows that are asked for. Raises SparkleError as the REST API does."""
    limits = runtime.config.limits
    count_ms = min(count_ms, int(limits.count_time))
    if isinstance(asked, TorrentQuery):
        return await _find_torrents(runtime, asked, int(limits.query_time), count_ms)
    assert view.table is not None
    query = ask(view.table, asked, viewer)
    search = runtime.search
    look = search.discoveries if view.table == "discovery" else search.page
    found = await look(query, int(limits.query_time), count_ms, hurry=True)
    return Found([shown(row, viewer) for row in found.rows], found.total, found.exact, found.next, found.previous)


async def _find_torrents(runtime: Server, asked: TorrentQuery, query_ms: int, count_ms: int) -> Found:
    wanted = WantedTorrents(
        asked.identifier,
        asked.identifier_compare_method or "EQUALS",
        asked.size_from,
        asked.size_to,
        asked.private_torrent,
    )
    size = min(max(asked.page_size or DEFAULT_PAGE_SIZE, 1), MAX_PAGE_SIZE)
    at = paging.position({"after": asked.after or "", "before": asked.before or ""}, paging.row_id)
    if at.key is None and (asked.after or asked.before):
        raise SparkleError("bad_request", "after is not a cursor of this query.", "after 不是此查询的游标。")
    rows = await torrents.page(runtime.database, wanted, at, size + 1, query_ms)
    part = paging.cut(rows, at, size, lambda row: str(row.id))
    total, exact = len(rows), True
    if at.key is not None or len(rows) > size:
        total, exact = await torrents.count(runtime.database, wanted, count_ms)
    return Found([_torrent(row) for row in part.rows], max(total, len(rows)), exact, part.next, part.previous)


def _torrent(row: TorrentRow) -> Torrent:
    identifier = row.identifier.hex() if isinstance(row.identifier, bytes) else row.identifier
    return Torrent(row.id, identifier, row.size, None if row.private < 0 else bool(row.private))


async def section(
    runtime: Server, me: SignedIn, name: str, parameters: Mapping[str, str], size: int = RECENT
) -> Section:
    """The newest rows of a view under some filters."""
    view = VIEWS[name]
    wanted = filters.canonical(view, parameters)
    more = f"/explore/{name}{filters.query_string(wanted)}"
    try:
        asked = filters.read(view, {**wanted, "pageSize": str(size)})
        found = await find(runtime, view, asked, viewer_of(me), RECENT_COUNT_MS)
    except SparkleError as error:
        return Section(view, None, more, error)
    return Section(view, found, more, None)


# --- Handlers ---------------------------------------------------------------------------------------------------------


def routes(pages: Pages) -> list[HTTPRouteHandler]:
    """The handlers of one server."""
    return [*_explorer(pages), *_client(pages), *_torrents(pages)]


def _view(name: str) -> View:
    if name not in VIEWS:
        raise SparkleError("not_found", "There is no such table.", "没有此数据表。")
    return VIEWS[name]


def _explorer(pages: Pages) -> list[HTTPRouteHandler]:
    runtime = pages.runtime

    @get("/explore")
    async def first(request: Asked) -> Page:
        await pages.member(request)
        return render.see_other("/explore/bans")

    @get("/explore/{name:str}")
    async def explore(request: Asked, name: str) -> Page:
        me = await pages.member(request)
        view = _view(name)
        given = dict(request.query_params)
        try:
            parameters = filters.canonical(view, given)
            if parameters != given:
                return render.see_other(f"/explore/{name}{filters.query_string(parameters)}")
            asked = filters.read(view, parameters)
            count_ms = PAGE_COUNT_MS * PAGE_COUNT_ROWS // max(asked.page_size or 0, PAGE_COUNT_ROWS)
            found = await find(runtime, view, asked, viewer_of(me), count_ms)
        except SparkleError as error:
            return _answer(request, view, given, None, error)
        # Some hundred rows take so long to write that others would wait.
        return await asyncio.to_thread(_answer, request, view, parameters, found, None)

    def _answer(
        request: Asked, view: View, parameters: Mapping[str, str], found: Found | None, refused: SparkleError | None
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

    @get("/explore/{name:str}/csv")
    async def export(request: Asked, name: str) -> Response[Any]:
        me = await pages.member(request)
        view = _view(name)
        parameters = filters.canonical(view, request.query_params)
        for unwanted in (*paging.PARAMETERS, "pageSize"):
            parameters.pop(unwanted, None)
        asked = filters.read(view, {**parameters, "pageSize": str(MAX_PAGE_SIZE)})
        # What is refused is refused before the file has begun.
        start = await find(runtime, view, asked, viewer_of(me), 0)
        headers = {**HEADERS, "content-disposition": f'attachment; filename="{name}.csv"'}
        lines = _lines(runtime, view, asked, viewer_of(me), start)
        return Stream(lines, media_type="text/csv; charset=utf-8", headers=headers)

    return [first, explore, export]


async def _lines(runtime: Server, view: View, asked: Listing, viewer: Viewer, found: Found) -> AsyncIterator[bytes]:
    """A table as CSV, a page of rows at a time."""
    columns = csv_columns(view.shape)
    # Spreadsheets take a file for Latin-1 unless it begins with this mark.
    yield b"\xef\xbb\xbf" + _csv([[".".join(path) for path in columns]])
    left = EXPORT_ROWS
    while True:
        rows = found.rows[:left]
        left -= len(rows)
        yield await asyncio.to_thread(lambda rows=rows: _csv([csv_cells(row, columns) for row in rows]))  # type: ignore[misc]
        if found.next is None or left <= 0:
            return
        found = await find(runtime, view, msgspec.structs.replace(asked, after=found.next), viewer, 0)


def _csv(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode("utf-8", "replace")


def _client(pages: Pages) -> list[HTTPRouteHandler]:
    runtime = pages.runtime

    async def client(request: Asked, name: str) -> Page:
        me = await pages.member(request)
        peer_id = request.query_params.get("peerId", "")
        if _is_number(name) and (found := await _by_number(int(name), me)):
            return render.see_other(found)
        both = {"peerClientName": name, "peerClientNameCompareMethod": "EQUALS"}
        if peer_id:
            both |= {"peerId": peer_id, "peerIdCompareMethod": "EQUALS"}
        known = await section(runtime, me, "clients", both, 50)
        recent = [await section(runtime, me, view, both) for view in ("bans", "swarms", "snapshots")]
        why = [await runtime.decisions.why_named("client_name", name)]
        if peer_id:
            why.append(await runtime.decisions.why_named("peer_id", peer_id))
        return page(request, "client.html", name=name, peer_id=peer_id, known=known, recent=recent, whys=why)

    async def _by_number(number: int, me: SignedIn) -> str | None:
        """The page of the client identity with a public number, if there is one."""
        limits = runtime.config.limits
        query = Query("discovery", (Filter("hash", "EQUAL", number),), limit=1)
        with suppress(SparkleError):
            for row in (await runtime.search.discoveries(query, int(limits.query_time), 0)).rows:
                return links.client(row.client_name or "N/A", row.peer_id or "N/A")
        return None

    @get("/client")
    async def by_parameter(request: Asked) -> Page:
        return await client(request, request.query_params.get("name", ""))

    @get("/client/{name:path}")
    async def by_path(request: Asked, name: str) -> Page:
        return await client(request, name.removeprefix("/"))

    return [by_parameter, by_path]


def _is_number(text: str) -> bool:
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdecimal() and len(digits) >= 10 and -_INT64 - 1 <= int(text[:24]) <= _INT64


def _torrents(pages: Pages) -> list[HTTPRouteHandler]:
    runtime = pages.runtime

    async def torrent(request: Asked, identifier: str) -> Page:
        me = await pages.member(request)
        known = await section(runtime, me, "torrents", {"identifier": identifier}, 50)
        same = {"torrentIdentifier": identifier}
        recent = [await section(runtime, me, view, same) for view in ("bans", "swarms", "snapshots")]
        return page(request, "torrent.html", identifier=identifier, known=known, recent=recent)

    @get("/torrent")
    async def by_parameter(request: Asked) -> Page:
        info_hash = request.query_params.get("hash", "").strip()
        if info_hash:
            await pages.member(request)
            return render.see_other(links.torrent(_identifier(info_hash)))
        return await torrent(request, request.query_params.get("identifier", ""))

    @get("/torrent/{identifier:path}")
    async def by_path(request: Asked, identifier: str) -> Page:
        return await torrent(request, identifier.removeprefix("/"))

    return [by_parameter, by_path]


def _identifier(text: str) -> str:
    """The identifier of a torrent by its info-hash."""
    return torrent_identifier(parse_info_hash(text))
