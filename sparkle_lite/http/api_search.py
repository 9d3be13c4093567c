"""The REST API of what was stored: bans, snapshots, cumulative rows and client discovery, in pages and as files.

Paths, field names and numbers are those of Sparkle's published API; swarms, cursors and exports are this server's own.
"""

import asyncio
import csv
import io
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from litestar import Response, Router, get, post
from litestar.datastructures import CacheControlHeader
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import Body, QueryParameter
from litestar.response import Stream

from sparkle_lite.db.conditions import Table
from sparkle_lite.db.search import Discoveries, Page
from sparkle_lite.errors import SparkleError
from sparkle_lite.http.api_accounts import Answer, Asked
from sparkle_lite.http.problems import Envelope
from sparkle_lite.http.requests import only
from sparkle_lite.http.session import signed_in
from sparkle_lite.query import (
    DEFAULT_PAGE_SIZE,
    MAX_PAGE_SIZE,
    BanQuery,
    DiscoveryQuery,
    Listing,
    SnapshotQuery,
    SwarmQuery,
    ask,
)
from sparkle_lite.runtime import Runtime
from sparkle_lite.shown import (
    BanHistory,
    ClientDiscovery,
    ResultPage,
    Snapshot,
    Swarm,
    Viewer,
    csv_cells,
    csv_columns,
    shown,
)

# Filters and names; nothing longer means anything.
_BODY_BYTES = 65_536
# Rows whose making and encoding may hold up the event loop, about a millisecond.
_AT_ONCE = 200
_JSON = "application/json; charset=utf-8"
_FORMATS = {"csv": "text/csv", "jsonl": "application/x-ndjson"}


class _Resource(NamedTuple):
    """One kind of rows: its path below /api, and what its bodies and results look like."""

    path: str
    table: Table
    asked: type[Listing]
    row: type[msgspec.Struct]
    answer: Any
    name: str
    what: str
    example: dict[str, Any]


_RESOURCES = (
    _Resource(
        "banhistory",
        "ban",
        BanQuery,
        BanHistory,
        Answer[ResultPage[BanHistory]],
        "BanHistory",
        "bans",
        {
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
    ),
    _Resource(
        "snapshot",
        "snapshot",
        SnapshotQuery,
        Snapshot,
        Answer[ResultPage[Snapshot]],
        "Snapshot",
        "snapshots of peers",
        {"page": 0, "pageSize": 100, "peerId": "-XL", "peerIdCompareMethod": "STARTS_WITH"},
    ),
    _Resource(
        "swarm",
        "swarm",
        SwarmQuery,
        Swarm,
        Answer[ResultPage[Swarm]],
        "Swarm",
        "cumulative rows (histories and swarms), the version of each with the latest evidence",
        {"peerIp": "2001:db8::/32", "sortBy": "toPeerTraffic"},
    ),
    _Resource(
        "clientdiscovery",
        "discovery",
        DiscoveryQuery,
        ClientDiscovery,
        Answer[ResultPage[ClientDiscovery]],
        "ClientDiscovery",
        "client identities",
        {"foundAtTimeFrom": 1723900000000, "peerClientName": "aria2", "sortBy": "lastSeenAt"},
    ),
)

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
    Literal["csv", "jsonl"],
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
_SHOWN: dict[Table, dict[str, Any]] = {
    "snapshot": _PEER | _WHEN,
    "ban": {
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
    "swarm": {
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
    "discovery": {
        "hash": 4426014693617597602,
        "clientName": "PicoTorrent/0.25.0",
        "peerId": "-PI0250-",
        "foundAt": 1723917640160,
        "foundBy": _PERSON,
        "lastSeenAt": 1723974023732,
        "lastSeenBy": None,
    },
}
_REFUSALS = {
    400: "Something in the request is not valid, or the query takes too long; the sentence says what.",
    403: "Not signed in, or banned; the sentence says which.",
    503: "Too many queries are waiting; try again after Retry-After seconds.",
}


def routes(runtime: Runtime) -> list[Router]:
    """The handlers of one server."""
    handlers = [handler for resource in _RESOURCES for handler in _handlers(runtime, resource)]
    return [
        Router(
            "/api",
            route_handlers=handlers,
            cache_control=CacheControlHeader(no_store=True),
            request_max_body_size=_BODY_BYTES,
        )
    ]


def _handlers(runtime: Runtime, resource: _Resource) -> list[HTTPRouteHandler]:
    """The three operations on one kind of rows."""

    async def recent(
        request: Asked,
        page: PageNumber = None,
        page_size: PageSize = None,
        after: After = None,
        before: Before = None,
    ) -> Response[bytes]:
        viewer = await _viewer(request, runtime)
        known = {"page": page, "pageSize": page_size, "after": after, "before": before}
        only(request.query_params.multi_items(), known)
        asked = resource.asked(page=page, page_size=page_size, after=after, before=before)
        return await _answer(runtime, resource, asked, viewer)

    async def find(request: Asked, data: Any) -> Response[bytes]:
        viewer = await _viewer(request, runtime)
        only(request.query_params.multi_items(), {})
        return await _answer(runtime, resource, _strictly(await request.body(), type(data)), viewer)

    async def export(request: Asked, data: Any, format_: Format) -> Stream:
        viewer = await _viewer(request, runtime)
        only(request.query_params.multi_items(), {"format": format_})
        asked = _strictly(await request.body(), type(data))
        lines = _export(runtime, resource, asked, viewer, format_)
        # The first lines are fetched before the status is sent: a query that fails is never an empty file.
        first = await anext(lines)
        name = f'attachment; filename="{resource.path}.{format_}"'
        return Stream(_chain(first, lines), media_type=_FORMATS[format_], headers={"content-disposition": name})

    body = Annotated[resource.asked, Body(examples=[Example(value=resource.example)])]  # type: ignore[name-defined]
    find.__annotations__["data"] = export.__annotations__["data"] = body
    tags, name = [_title(resource)], resource.name
    return [
        get(
            f"/{resource.path}",
            tags=tags,
            summary=f"The latest {resource.what}",
            operation_id=f"list{name}",
            description="By time of receipt, newest first.",
            responses=_documented(resource),
        )(recent),
        post(
            f"/{resource.path}/query",
            status_code=200,
            tags=tags,
            summary=f"Search {resource.what}",
            operation_id=f"query{name}",
            description=_SEARCHING,
            responses=_documented(resource),
        )(find),
        post(
            f"/{resource.path}/export",
            status_code=200,
            tags=tags,
            summary=f"Search {resource.what} and get all of them as a file",
            operation_id=f"export{name}",
            description=_EXPORTING,
            responses=_documented_file(),
        )(export),
    ]


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


def _title(resource: _Resource) -> str:
    return {"ban": "ban history", "snapshot": "snapshot", "swarm": "swarm", "discovery": "client discovery"}[
        resource.table
    ]


def _documented(resource: _Resource) -> dict[int, ResponseSpec]:
    data = {
        "page": 0,
        "size": 1,
        "total": 42,
        "results": [_SHOWN[resource.table]],
        "totalExact": True,
        "next": _CURSOR,
        "previous": None,
    }
    example = Example(value={"success": True, "message": None, "data": data})
    return {
        200: ResponseSpec(resource.answer, generate_examples=False, description="The page.", examples=[example]),
        **_refusals(),
    }


def _documented_file() -> dict[int, ResponseSpec]:
    return {
        200: ResponseSpec(str, generate_examples=False, description="The file.", media_type="text/csv"),
        **_refusals(),
    }


def _refusals() -> dict[int, ResponseSpec]:
    return {
        status: ResponseSpec(
            Envelope,
            generate_examples=False,
            description=why,
            examples=[Example(value={"success": False, "message": why, "data": None})],
        )
        for status, why in _REFUSALS.items()
    }


async def _viewer(request: Asked, runtime: Runtime) -> Viewer:
    me = await signed_in(request, runtime)
    return Viewer(me.user.id, me.is_admin)


def _strictly(body: bytes, shape: type[Listing]) -> Listing:
    """The body as just what it says: the framework would take "1" for 1, and 1 for true."""
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:
        why, _, where = str(error).partition(" - at `$.")
        where = where.rstrip("`") or "body"
        raise SparkleError("bad_request", f"The request is not valid: {where}: {why}.", f"无效参数: {where}") from None


async def _page(runtime: Runtime, resource: _Resource, asked: Listing, viewer: Viewer) -> Page | Discoveries:
    limits, query = runtime.config.limits, ask(resource.table, asked, viewer)
    find = runtime.search.discoveries if resource.table == "discovery" else runtime.search.page
    return await find(query, limits.query_time, limits.count_time)


async def _answer(runtime: Runtime, resource: _Resource, asked: Listing, viewer: Viewer) -> Response[bytes]:
    found = await _page(runtime, resource, asked, viewer)

    def encode() -> bytes:
        page = ResultPage(
            page=asked.page or 0,
            size=DEFAULT_PAGE_SIZE if asked.page_size is None else asked.page_size,
            total=found.total,
            results=[shown(row, viewer) for row in found.rows],
            total_exact=found.exact,
            next=found.next,
            previous=found.previous,
        )
        return msgspec.json.encode(Answer(True, None, page))

    body = encode() if len(found.rows) <= _AT_ONCE else await asyncio.to_thread(encode)
    return Response(body, media_type=_JSON)


# --- Files ------------------------------------------------------------------------------------------------------------


async def _export(
    runtime: Runtime, resource: _Resource, asked: Listing, viewer: Viewer, kind: Literal["csv", "jsonl"]
) -> AsyncIterator[bytes]:
    """The file in pieces, each a page of its own: between two of them others have their turn."""
    columns = csv_columns(resource.row) if kind == "csv" else []
    header = [".".join(column) for column in columns]
    asked = msgspec.structs.replace(asked, page_size=MAX_PAGE_SIZE) if asked.page_size is None else asked
    while True:
        found = await _page(runtime, resource, asked, viewer)
        yield await asyncio.to_thread(_lines, found, viewer, header, columns)
        if found.next is None:
            return
        asked, header = msgspec.structs.replace(asked, page=None, before=None, after=found.next), []


def _lines(found: Page | Discoveries, viewer: Viewer, header: list[str], columns: list[tuple[str, ...]]) -> bytes:
    rows = [shown(row, viewer) for row in found.rows]
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
