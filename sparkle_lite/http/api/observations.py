"""The REST API of what was stored: bans, snapshots, cumulative rows and client discovery, in pages and as files.

Paths, field names and numbers are those of Sparkle's published API; swarms, cursors and exports are this server's own.
"""

import asyncio
import csv
import io
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import Body, QueryParameter
from litestar.response import Stream

from sparkle_lite.http.api.common import Answer, allow_only, api_router, documented, invalid, ok, refused
from sparkle_lite.http.downloads import downloads_of
from sparkle_lite.http.session import AnyRequest, Injected, SignedIn, requires_sign_in, server_of
from sparkle_lite.observations.presentation import (
    BanHistory,
    ClientDiscovery,
    ResultPage,
    Snapshot,
    Swarm,
    Viewer,
    csv_cells,
    csv_columns,
    present,
)
from sparkle_lite.observations.query import (
    DEFAULT_PAGE_SIZE,
    MAX_PAGE_SIZE,
    BanQuery,
    DiscoveryQuery,
    PageRequest,
    SnapshotQuery,
    SwarmQuery,
    build_query,
)
from sparkle_lite.observations.stored import Discoveries, Page, Table
from sparkle_lite.server import Server

# Rows whose making and encoding may hold up the event loop, about a millisecond.
_AT_ONCE = 200
_JSON = "application/json; charset=utf-8"
FileFormat = Literal["csv", "jsonl"]
_FORMATS: dict[FileFormat, str] = {"csv": "text/csv", "jsonl": "application/x-ndjson"}
PageNumber = Annotated[
    int | None, QueryParameter(name="page", description="Which page, from 0.", schema_extra={"minimum": 0})
]
PageSize = Annotated[
    int | None,
    QueryParameter(
        name="pageSize",
        description=f"Rows in a page; {DEFAULT_PAGE_SIZE} if not given.",
        schema_extra={"minimum": 1, "maximum": MAX_PAGE_SIZE},
    ),
]
After = Annotated[
    str | None, QueryParameter(name="after", description="The `next` of the page before, instead of `page`.")
]
Before = Annotated[
    str | None, QueryParameter(name="before", description="The `previous` of the page behind, instead of `page`.")
]
Format = Annotated[
    FileFormat,
    QueryParameter(name="format", description="CSV with a header line, or a JSON object a line."),
]
_CURSOR = "WyJzbmFwc2hvdCIsW10sdHJ1ZSxbXSw2LDQyLHRydWVd"  # of a page that ended with the row 6 of 42
_TORRENT = {
    "id": 3,
    "identifier": "52fa13494a4571a951b46b1a04be19ab9d8089c3d3761956c99f5435e6f2c8ad",
    "size": 592536756,
    "privateTorrent": None,
}
_PEER = {
    "id": 7,
    "appId": "8c788023-8f09-4d5e-9d0c-0f3f3c1f6b1a",
    "submitId": "1c0e7a52-2f0b-8d6c-b5a1-0c5f5e3f9a10",
    "peerIp": "203.0.113.9",
    "peerPort": 51413,
    "peerId": "-XL0019-",
    "peerClientName": "Xunlei 0.0.1.9",
    "torrent": _TORRENT,
    "fromPeerTraffic": 0,
    "fromPeerTrafficSpeed": 0,
    "toPeerTraffic": 65568,
    "toPeerTrafficSpeed": 0,
    "peerProgress": 0.011,
    "downloaderProgress": 1.0,
    "flags": "u I H",
}
_WHEN = {"insertTime": 1723974917039, "populateTime": 1723974900000}
_PERSON = {
    "id": 1,
    "avatar": "https://avatars.example/u/1",
    "nickname": "alice",
    "registerAt": 1723916701954,
    "lastSeenAt": 1723974023732,
}


# --- The four kinds of rows -------------------------------------------------------------------------------------------


class _RowKind(NamedTuple):
    """One kind of rows: its path below /api, what its bodies and answers look like, and an example of each."""

    path: str
    table: Table
    query: type[PageRequest]
    row: type[msgspec.Struct]
    answer: Any
    name: str
    what: str
    example_query: dict[str, Any]
    example_row: dict[str, Any]


_BANS = _RowKind(
    path="banhistory",
    table="ban",
    query=BanQuery,
    row=BanHistory,
    answer=Answer[ResultPage[BanHistory]],
    name="BanHistory",
    what="bans",
    example_query={
        "timeFrom": 1723900000000,
        "timeTo": 1723990000000,
        "peerClientName": "Xunlei",
        "peerClientNameCompareMethod": "STARTS_WITH",
        "peerIp": "203.0.113.0/24",
        "toPeerTraffic": 1048576,
        "toPeerTrafficCompareMethod": "GREATER_THAN",
        "btnBan": False,
        "sortBy": ["insertTime"],
        "sortOrder": "DESC",
    },
    example_row={
        **_PEER,
        "btnBan": False,
        "module": "com.ghostchu.peerbanhelper.module.impl.rule.ProgressCheatBlocker",
        "rule": "over-download",
        "banUniqueId": "0c6cd864-5434-4c7e-beff-bd1519bb5283",
        "structuredData": "null",
        **_WHEN,
        "banAt": 1723974890000,
        "description": None,
        "lastReportedAt": 1723978517039,
    },
)
_SNAPSHOTS = _RowKind(
    path="snapshot",
    table="snapshot",
    query=SnapshotQuery,
    row=Snapshot,
    answer=Answer[ResultPage[Snapshot]],
    name="Snapshot",
    what="snapshots of peers",
    example_query={"page": 0, "pageSize": 100, "peerId": "-XL", "peerIdCompareMethod": "STARTS_WITH"},
    example_row=_PEER | _WHEN,
)
_SWARMS = _RowKind(
    path="swarm",
    table="swarm",
    query=SwarmQuery,
    row=Swarm,
    answer=Answer[ResultPage[Swarm]],
    name="Swarm",
    what="cumulative rows (histories and swarms), the version of each with the latest evidence",
    example_query={"peerIp": "2001:db8::/32", "sortBy": "toPeerTraffic"},
    example_row={
        **_PEER,
        "origin": "SWARM",
        "downloader": "home",
        "fromPeerTrafficOffset": 0,
        "fromPeerTrafficSpeedMax": 0,
        "toPeerTrafficOffset": 0,
        "toPeerTrafficSpeedMax": 1048576,
        "firstTimeSeen": 1723974000000,
        "lastTimeSeen": 1723974900000,
        **_WHEN,
    },
)
_DISCOVERIES = _RowKind(
    path="clientdiscovery",
    table="discovery",
    query=DiscoveryQuery,
    row=ClientDiscovery,
    answer=Answer[ResultPage[ClientDiscovery]],
    name="ClientDiscovery",
    what="client identities",
    example_query={"foundAtTimeFrom": 1723900000000, "peerClientName": "aria2", "sortBy": "lastSeenAt"},
    example_row={
        "hash": 4426014693617597602,
        "clientName": "PicoTorrent/0.25.0",
        "peerId": "-PI0250-",
        "foundAt": 1723917640160,
        "foundBy": _PERSON,
        "lastSeenAt": 1723974023732,
        "lastSeenBy": None,
    },
)
BanBody = Annotated[BanQuery, Body(examples=[Example(value=_BANS.example_query)])]
SnapshotBody = Annotated[SnapshotQuery, Body(examples=[Example(value=_SNAPSHOTS.example_query)])]
SwarmBody = Annotated[SwarmQuery, Body(examples=[Example(value=_SWARMS.example_query)])]
DiscoveryBody = Annotated[DiscoveryQuery, Body(examples=[Example(value=_DISCOVERIES.example_query)])]

# --- The three operations on each, as they are documented -------------------------------------------------------------

_SEARCHING = (
    "Filters are joined by AND, or by OR with `orConnector`; time ranges hold in any case. Texts match literally and"
    " with regard to case; a blank one filters nothing. An unknown name is refused. Any sorting but by time of receipt"
    " or id goes no further than 10,000 rows by `page`; `after` goes on."
)
_EXPORTING = (
    "The same body as for the search; what it says about pages is where the file begins. In CSV a text that a"
    " spreadsheet would take for a formula (beginning with = + - @, a tab or a carriage return) has an apostrophe put"
    " before it. A connection that ends without the last chunk is a file that is not whole."
)
_REFUSALS = {
    400: "Something in the request is not valid, or the query takes too long; the sentence says what.",
    403: "Not signed in, or banned; the sentence says which.",
    429: "You have two searches or four files under way already; try again after Retry-After seconds.",
    503: "Too many queries are waiting; try again after Retry-After seconds.",
}


def _latest(kind: _RowKind) -> HTTPRouteHandler:
    return get(
        f"/{kind.path}",
        summary=f"The latest {kind.what}",
        operation_id=f"list{kind.name}",
        description="By time of receipt, newest first.",
        responses=_page_of(kind),
    )


def _search(kind: _RowKind) -> HTTPRouteHandler:
    return post(
        f"/{kind.path}/query",
        status_code=200,
        summary=f"Search {kind.what}",
        operation_id=f"query{kind.name}",
        description=_SEARCHING,
        responses=_page_of(kind),
    )


def _export(kind: _RowKind) -> HTTPRouteHandler:
    return post(
        f"/{kind.path}/export",
        status_code=200,
        summary=f"Search {kind.what} and get all of them as a file",
        operation_id=f"export{kind.name}",
        description=_EXPORTING,
        responses={
            200: ResponseSpec(str, generate_examples=False, description="The file.", media_type="text/csv"),
            **refused(_REFUSALS),
        },
    )


def _page_of(kind: _RowKind) -> dict[int, ResponseSpec]:
    page = {
        "page": 0,
        "size": 1,
        "total": 42,
        "results": [kind.example_row],
        "totalExact": True,
        "next": _CURSOR,
        "previous": None,
    }
    return documented(kind.answer, "The page.", page, _REFUSALS)


# --- The operations ---------------------------------------------------------------------------------------------------


@_latest(_BANS)
async def list_bans(
    request: AnyRequest,
    server: Injected[Server],
    me: Injected[SignedIn],
    page: PageNumber = None,
    page_size: PageSize = None,
    after: After = None,
    before: Before = None,
) -> Response[bytes]:
    allow_only(request, page=page, pageSize=page_size, after=after, before=before)
    return await _answer(server, me, _BANS, PageRequest(page=page, page_size=page_size, after=after, before=before))


@_search(_BANS)
async def query_bans(
    request: AnyRequest, server: Injected[Server], me: Injected[SignedIn], data: BanBody
) -> Response[bytes]:
    return await _answer(server, me, _BANS, await _body(request, data))


@_export(_BANS)
async def export_bans(request: AnyRequest, me: Injected[SignedIn], data: BanBody, format_: Format) -> Stream:
    return await _file(request, me, _BANS, await _body(request, data, format=format_), format_)


@_latest(_SNAPSHOTS)
async def list_snapshots(
    request: AnyRequest,
    server: Injected[Server],
    me: Injected[SignedIn],
    page: PageNumber = None,
    page_size: PageSize = None,
    after: After = None,
    before: Before = None,
) -> Response[bytes]:
    allow_only(request, page=page, pageSize=page_size, after=after, before=before)
    return await _answer(
        server, me, _SNAPSHOTS, PageRequest(page=page, page_size=page_size, after=after, before=before)
    )


@_search(_SNAPSHOTS)
async def query_snapshots(
    request: AnyRequest, server: Injected[Server], me: Injected[SignedIn], data: SnapshotBody
) -> Response[bytes]:
    return await _answer(server, me, _SNAPSHOTS, await _body(request, data))


@_export(_SNAPSHOTS)
async def export_snapshots(request: AnyRequest, me: Injected[SignedIn], data: SnapshotBody, format_: Format) -> Stream:
    return await _file(request, me, _SNAPSHOTS, await _body(request, data, format=format_), format_)


@_latest(_SWARMS)
async def list_swarms(
    request: AnyRequest,
    server: Injected[Server],
    me: Injected[SignedIn],
    page: PageNumber = None,
    page_size: PageSize = None,
    after: After = None,
    before: Before = None,
) -> Response[bytes]:
    allow_only(request, page=page, pageSize=page_size, after=after, before=before)
    return await _answer(server, me, _SWARMS, PageRequest(page=page, page_size=page_size, after=after, before=before))


@_search(_SWARMS)
async def query_swarms(
    request: AnyRequest, server: Injected[Server], me: Injected[SignedIn], data: SwarmBody
) -> Response[bytes]:
    return await _answer(server, me, _SWARMS, await _body(request, data))


@_export(_SWARMS)
async def export_swarms(request: AnyRequest, me: Injected[SignedIn], data: SwarmBody, format_: Format) -> Stream:
    return await _file(request, me, _SWARMS, await _body(request, data, format=format_), format_)


@_latest(_DISCOVERIES)
async def list_discoveries(
    request: AnyRequest,
    server: Injected[Server],
    me: Injected[SignedIn],
    page: PageNumber = None,
    page_size: PageSize = None,
    after: After = None,
    before: Before = None,
) -> Response[bytes]:
    allow_only(request, page=page, pageSize=page_size, after=after, before=before)
    return await _answer(
        server, me, _DISCOVERIES, PageRequest(page=page, page_size=page_size, after=after, before=before)
    )


@_search(_DISCOVERIES)
async def query_discoveries(
    request: AnyRequest, server: Injected[Server], me: Injected[SignedIn], data: DiscoveryBody
) -> Response[bytes]:
    return await _answer(server, me, _DISCOVERIES, await _body(request, data))


@_export(_DISCOVERIES)
async def export_discoveries(
    request: AnyRequest, me: Injected[SignedIn], data: DiscoveryBody, format_: Format
) -> Stream:
    return await _file(request, me, _DISCOVERIES, await _body(request, data, format=format_), format_)


# --- Pages and files --------------------------------------------------------------------------------------------------


async def _body(request: AnyRequest, data: PageRequest, **parameters: object) -> PageRequest:
    """The body as just what it says: the framework would take "1" for 1, and 1 for true."""
    allow_only(request, **parameters)
    try:
        return msgspec.json.decode(await request.body(), type=type(data))
    except msgspec.ValidationError as error:
        why, _, where = str(error).partition(" - at `$.")
        where = where.rstrip("`") or "body"
        raise invalid("request.invalid_field", where=where, why=why) from None


async def _answer(server: Server, me: SignedIn, kind: _RowKind, page_request: PageRequest) -> Response[bytes]:
    viewer = Viewer(me.user.id, me.is_admin)
    page = await _find(server, viewer, kind, page_request)
    is_short = len(page.rows) <= _AT_ONCE
    body = (
        _encoded(page, viewer, page_request)
        if is_short
        else await asyncio.to_thread(_encoded, page, viewer, page_request)
    )
    return Response(body, media_type=_JSON)


async def _find(server: Server, viewer: Viewer, kind: _RowKind, page_request: PageRequest) -> Page | Discoveries:
    limits, query = server.config.limits, build_query(kind.table, page_request, viewer)
    find = server.search.discoveries if kind.table == "discovery" else server.search.page
    return await find(query, limits.query_time, limits.count_time)


def _encoded(page: Page | Discoveries, viewer: Viewer, page_request: PageRequest) -> bytes:
    result = ResultPage(
        page=page_request.page or 0,
        size=DEFAULT_PAGE_SIZE if page_request.page_size is None else page_request.page_size,
        total=page.total,
        results=[present(row, viewer) for row in page.rows],
        total_exact=page.exact,
        next=page.next,
        previous=page.previous,
    )
    return msgspec.json.encode(ok(result))


async def _file(
    request: AnyRequest, me: SignedIn, kind: _RowKind, page_request: PageRequest, form: FileFormat
) -> Stream:
    viewer = Viewer(me.user.id, me.is_admin)
    pieces = downloads_of(request).begin(me.user.id, _pieces(server_of(request), viewer, kind, page_request, form))
    # The first lines are fetched before the status is sent: a query that fails is never an empty file.
    first = await anext(pieces)
    name = f'attachment; filename="{kind.path}.{form}"'
    return Stream(_chain(first, pieces), media_type=_FORMATS[form], headers={"content-disposition": name})


async def _pieces(
    server: Server, viewer: Viewer, kind: _RowKind, page_request: PageRequest, form: FileFormat
) -> AsyncIterator[bytes]:
    """The file in pieces, each a page of its own: between two of them others have their turn."""
    columns = csv_columns(kind.row) if form == "csv" else []
    header = [".".join(column) for column in columns]
    if page_request.page_size is None:
        page_request = msgspec.structs.replace(page_request, page_size=MAX_PAGE_SIZE)
    while True:
        page = await _find(server, viewer, kind, page_request)
        yield await asyncio.to_thread(_lines, page, viewer, header, columns)
        if page.next is None:
            return
        page_request, header = msgspec.structs.replace(page_request, page=None, before=None, after=page.next), []


def _lines(page: Page | Discoveries, viewer: Viewer, header: list[str], columns: list[tuple[str, ...]]) -> bytes:
    rows = [present(row, viewer) for row in page.rows]
    if not columns:
        return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
    text = io.StringIO()
    table = csv.writer(text)
    if header:
        table.writerow(header)
    table.writerows(csv_cells(row, columns) for row in rows)
    return text.getvalue().encode()


async def _chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece


# --- Who may ask ------------------------------------------------------------------------------------------------------

ROUTERS = (
    api_router([list_bans, query_bans, export_bans], tags=["ban history"], guards=[requires_sign_in]),
    api_router([list_snapshots, query_snapshots, export_snapshots], tags=["snapshot"], guards=[requires_sign_in]),
    api_router([list_swarms, query_swarms, export_swarms], tags=["swarm"], guards=[requires_sign_in]),
    api_router(
        [list_discoveries, query_discoveries, export_discoveries], tags=["client discovery"], guards=[requires_sign_in]
    ),
)
