"""The REST API of feed keys, with which a program reads the feeds and nothing else; and the feeds in OpenAPI terms."""

from copy import deepcopy
from typing import Annotated, Any

import msgspec
from litestar import delete, get, put

from sparkle_lite.accounts.feed_keys import KEYS_PER_USER, NAME_LENGTH, FeedKeyRow
from sparkle_lite.http.api.common import Answer, allow_only, api_router, documented, ok
from sparkle_lite.http.api.pages import NumberedPage, PageNumber, PageSize, check_page
from sparkle_lite.http.session import AnyRequest, Injected, SignedIn, requires_admin, requires_sign_in
from sparkle_lite.rules.feeds import NAMES
from sparkle_lite.server import Server


class FeedKey(msgspec.Struct, frozen=True, rename="camel"):
    """A read-only key for the feeds. `user` is the name of who made it, null for the command line.

    Times in ms; `lastUsedAt` is right to some minutes.
    """

    id: int
    name: str
    user: str | None
    created_at: int
    last_used_at: int | None


class FeedKeyVerbose(msgspec.Struct, frozen=True, rename="camel"):
    """A key for the feeds with itself, which is shown only in this answer."""

    id: int
    name: str
    key: str
    user: str | None
    created_at: int


class FeedKeyName(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a key is for: 1-40 visible characters."""

    name: Annotated[
        str,
        msgspec.Meta(examples=["nas"], extra_json_schema={"minLength": 1, "maxLength": NAME_LENGTH, "pattern": r"\S"}),
    ]


_KEY = FeedKey(id=3, name="nas", user="admin", created_at=1723974917039, last_used_at=1723975000000)
_NEW = FeedKeyVerbose(
    id=3,
    name="nas",
    key="slf_Zl1m0Jq0nQ3y5m7w9B1d3F5h7J9l1N3p5R7t9V1x3Z5",
    user="admin",
    created_at=1723974917039,
)


@get(
    "/feedkeys",
    summary="Your feed keys",
    operation_id="listFeedKeys",
    description="Newest first.",
    responses=documented(Answer[list[FeedKey]], "Your keys.", [_KEY]),
)
async def list_keys(server: Injected[Server], me: Injected[SignedIn]) -> Answer[list[FeedKey]]:
    return ok([_present(row, me.user.name) for row in await server.accounts.feed_keys.of(me.user.id)])


@put(
    "/feedkeys",
    summary="Make a feed key",
    operation_id="createFeedKey",
    description="The key is shown in this answer and never again; it goes into a feed's URL as `?key=`.",
    responses=documented(
        Answer[FeedKeyVerbose],
        "The key.",
        _NEW,
        {
            409: "You have a key of this name.",
            429: "You change too much at once; try again later.",
            507: f"You have {KEYS_PER_USER} keys.",
        },
    ),
)
async def create_key(server: Injected[Server], me: Injected[SignedIn], data: FeedKeyName) -> Answer[FeedKeyVerbose]:
    row, key = await server.accounts.feed_keys.add(me.user.id, data.name, me.actor)
    return ok(FeedKeyVerbose(id=row.id, name=row.name, key=key, user=me.user.name, created_at=row.created_at))


@delete(
    "/feedkeys/{key_id:int}",
    status_code=200,
    summary="Revoke a feed key",
    operation_id="revokeFeedKey",
    description="One of your own; any for administrators. It is void at once.",
    responses=documented(Answer[None], "It is revoked.", None, {404: "There is no such key."}),
)
async def revoke_key(server: Injected[Server], me: Injected[SignedIn], key_id: int) -> Answer[None]:
    await server.accounts.feed_keys.revoke(key_id, me.actor)
    return ok(None)


@get(
    "/admin/feedkeys",
    summary="All feed keys",
    operation_id="adminListFeedKeys",
    description="Newest first.",
    responses=documented(Answer[NumberedPage[FeedKey]], "One page.", NumberedPage(0, 100, 1, [_KEY])),
)
async def list_all_keys(
    request: AnyRequest, server: Injected[Server], page: PageNumber = 0, page_size: PageSize = 100
) -> Answer[NumberedPage[FeedKey]]:
    allow_only(request, page=page, pageSize=page_size)
    check_page(page, page_size)
    keys, total = await server.accounts.feed_keys.page(page, page_size)
    return ok(NumberedPage(page, page_size, total, [_present(key.row, key.owner) for key in keys]))


def _present(row: FeedKeyRow, owner: str | None) -> FeedKey:
    return FeedKey(id=row.id, name=row.name, user=owner, created_at=row.created_at, last_used_at=row.used_at)


ROUTERS = (
    api_router([list_keys, create_key, revoke_key], tags=["feeds"], guards=[requires_sign_in]),
    api_router([list_all_keys], tags=["administration"], guards=[requires_admin]),
)


# --- The feeds --------------------------------------------------------------------------------------------------------

_TEXT = {"text/plain": {"schema": {"type": "string"}}}
_VALIDATORS = {
    "ETag": {"description": "Of these bytes.", "schema": {"type": "string"}, "example": '"2c3fa3a0"'},
    "Last-Modified": {
        "description": "Since when the content is this.",
        "schema": {"type": "string"},
        "example": "Sun, 18 Aug 2024 09:55:17 GMT",
    },
}
_FEED = {
    "tags": ["feeds"],
    "operationId": "readFeed",
    "summary": "A feed",
    "description": "The deny list in the format of a program. Where `[feeds] open` says so, everyone may read it.",
    "parameters": [
        {
            "name": "name",
            "in": "path",
            "required": True,
            "description": "The format; the manual says which program reads which.",
            "schema": {"type": "string", "enum": list(NAMES)},
            "example": NAMES[0],
        }
    ],
    "responses": {
        "200": {
            "description": "The list.",
            "headers": _VALIDATORS,
            "content": {
                **_TEXT,
                "application/json": {
                    "schema": {"type": "object", "description": "decisions.json; the manual has its JSON Schema."},
                    "example": {"format": 1, "node": "57beac04df328897", "version": "e3b0c442", "decisions": []},
                },
            },
        },
        "304": {
            "description": "The client has it, by its `If-None-Match` or else by its `If-Modified-Since`.",
            "headers": _VALIDATORS,
        },
        "401": {"description": "Nothing says who asks.", "content": _TEXT},
        "403": {"description": "The key, the credentials or the session are wrong or banned.", "content": _TEXT},
        "404": {"description": "There is no such feed; the sentence names those that there are.", "content": _TEXT},
        "429": {"description": "Too many requests, or too many wrong keys.", "content": _TEXT},
        "500": {"description": "The feed could not be made; the log has the reason.", "content": _TEXT},
    },
    "security": [
        {},
        {"feedKey": []},
        {"appId": [], "appSecret": []},
        {"appBearer": []},
        {"appBasic": []},
        {"sessionHeader": []},
        {"sessionBearer": []},
        {"sessionCookie": []},
    ],
}


def paths() -> dict[str, Any]:
    """The path item of the feeds, for the caller to complete."""
    return {"/feeds/{name}": {"get": deepcopy(_FEED)}}
