"""The REST API of user applications, and what administrators do with them.

Paths, field names, statuses and the Chinese sentences of accounts are those of Sparkle's published API; its numbers are
milliseconds, its pages count from 0. Everything below /api/admin, and the sessions, are this server's own.
"""

from typing import Annotated

import msgspec
from litestar import delete, get, patch, post, put

from sparkle_lite.accounts.apps import NewSecret, UserappRow
from sparkle_lite.accounts.users import UserRow
from sparkle_lite.http.api.common import Answer, Sentence, allow_only, api_router, documented, ok, spoken
from sparkle_lite.http.api.pages import (
    EXAMPLE_APP_ID,
    LINE_SCHEMA,
    BanRequest,
    NumberedPage,
    PageNumber,
    PageSize,
    check_page,
)
from sparkle_lite.http.api.users import (
    EXAMPLE_USER,
    User,
    present_user,
)
from sparkle_lite.http.session import AnyRequest, Injected, SignedIn, requires_admin, requires_sign_in
from sparkle_lite.ingest.trouble_sentences import join, sentence
from sparkle_lite.server import Server
from sparkle_lite.texts import phrase
from sparkle_lite.units import DAY_MS


class UserApplication(msgspec.Struct, frozen=True, rename="camel"):
    """An installation of a client and its owner. Times in ms; `trouble` is what is wrong with what it sends."""

    id: int
    app_id: str
    comment: str
    created_at: int
    user: User
    last_access_at: int | None
    banned_at: int | None
    banned_reason: str | None
    trouble: Sentence | None


class UserApplicationVerbose(msgspec.Struct, frozen=True, rename="camel"):
    """An installation of a client with its secret, which is shown only in this answer."""

    id: int
    app_id: str
    app_secret: str
    comment: str
    created_at: int
    user: User


class Comment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an application is for: 1-255 characters, no control characters."""

    comment: Annotated[str, msgspec.Meta(examples=["nas"], extra_json_schema=LINE_SCHEMA)]


_APP = UserApplication(
    id=2,
    app_id=EXAMPLE_APP_ID,
    comment="nas",
    created_at=1723974917039,
    user=EXAMPLE_USER,
    last_access_at=1723975000000,
    banned_at=None,
    banned_reason=None,
    trouble=spoken(sentence("clock", {"off": -3 * DAY_MS}, 0)),
)
_SHOWN_ONCE = "Zl1m0Jq0nQ3y5m7w9B1d3F5h7J9l1N3p5R7t9V1x3Z5"
_SECRET = UserApplicationVerbose(
    id=2,
    app_id=EXAMPLE_APP_ID,
    app_secret=_SHOWN_ONCE,
    comment="nas",
    created_at=1723974917039,
    user=EXAMPLE_USER,
)
_NO_APP = "There is no such application."


# --- Applications -----------------------------------------------------------------------------------------------------


@get(
    "/userapp",
    summary="Your applications",
    operation_id="listUserApplications",
    description="Newest first.",
    responses=documented(Answer[list[UserApplication]], "Your applications.", [_APP]),
)
async def list_apps(server: Injected[Server], me: Injected[SignedIn]) -> Answer[list[UserApplication]]:
    return ok([_app(server, row, me.user) for row in await server.apps.all(me.user.id)])


@get(
    "/userapp/{app_id:str}",
    summary="One application",
    operation_id="getUserApplication",
    description="One of your own; any for administrators.",
    responses=documented(Answer[UserApplication], "The application.", _APP, {404: _NO_APP}),
)
async def get_app(server: Injected[Server], me: Injected[SignedIn], app_id: str) -> Answer[UserApplication]:
    return await _show_app(server, me, await server.apps.get(app_id, me.actor))


@post(
    "/userapp/{app_id:str}/resetAppSecret",
    status_code=200,
    summary="Make a new secret",
    operation_id="resetUserApplicationSecret",
    description="The old one is void at once.",
    responses=documented(
        Answer[UserApplicationVerbose], "The application with its new secret.", _SECRET, {404: _NO_APP}
    ),
)
async def reset_app(server: Injected[Server], me: Injected[SignedIn], app_id: str) -> Answer[UserApplicationVerbose]:
    return await _show_secret(server, me, await server.apps.reset(app_id, me.actor))


@patch(
    "/userapp/{app_id:str}",
    summary="Change the comment",
    operation_id="editUserApplication",
    responses=documented(Answer[UserApplication], "The application.", _APP, {404: _NO_APP}),
)
async def edit_app(
    server: Injected[Server], me: Injected[SignedIn], app_id: str, data: Comment
) -> Answer[UserApplication]:
    return await _show_app(server, me, await server.apps.edit(app_id, data.comment, me.actor))


@put(
    "/userapp",
    summary="Create an application",
    operation_id="createUserApplication",
    description="Its secret is shown in this answer and never again.",
    responses=documented(
        Answer[UserApplicationVerbose],
        "The application with its secret.",
        _SECRET,
        {507: "You have as many applications as this server allows."},
    ),
)
async def create_app(server: Injected[Server], me: Injected[SignedIn], data: Comment) -> Answer[UserApplicationVerbose]:
    return await _show_secret(server, me, await server.apps.add(me.user.id, data.comment, me.actor))


@delete(
    "/userapp/{app_id:str}",
    status_code=200,
    summary="Delete an application",
    operation_id="deleteUserApplication",
    description="What it reported stays. A banned one is deleted by administrators only.",
    responses=documented(Answer[None], "It is deleted.", None, {404: _NO_APP}),
)
async def delete_app(server: Injected[Server], me: Injected[SignedIn], app_id: str) -> Answer[None]:
    await server.apps.delete(app_id, me.actor)
    return Answer(True, phrase("app.deleted").text("zh"), None)


# --- What administrators do with applications -------------------------------------------------------------------------


@get(
    "/admin/userapp",
    summary="All applications",
    operation_id="adminListUserApplications",
    description="Newest first.",
    responses=documented(Answer[NumberedPage[UserApplication]], "One page.", NumberedPage(0, 100, 1, [_APP])),
)
async def list_all_apps(
    request: AnyRequest, server: Injected[Server], page: PageNumber = 0, page_size: PageSize = 100
) -> Answer[NumberedPage[UserApplication]]:
    allow_only(request, page=page, pageSize=page_size)
    check_page(page, page_size)
    rows, total = await server.apps.page(page, page_size)
    return ok(NumberedPage(page, page_size, total, [_app(server, row, owner) for row, owner in rows]))


@post(
    "/admin/userapp/{app_id:str}/ban",
    status_code=200,
    summary="Refuse an application",
    operation_id="adminBanUserApplication",
    responses=documented(Answer[UserApplication], "The application.", _APP, {404: _NO_APP}),
)
async def ban_app(
    server: Injected[Server], me: Injected[SignedIn], app_id: str, data: BanRequest
) -> Answer[UserApplication]:
    await server.apps.ban(app_id, data.reason, me.actor)
    return await _show_app(server, me, await server.apps.get(app_id, me.actor))


@post(
    "/admin/userapp/{app_id:str}/unban",
    status_code=200,
    summary="Let an application in again",
    operation_id="adminUnbanUserApplication",
    responses=documented(Answer[UserApplication], "The application.", _APP, {404: _NO_APP}),
)
async def unban_app(server: Injected[Server], me: Injected[SignedIn], app_id: str) -> Answer[UserApplication]:
    await server.apps.unban(app_id, me.actor)
    return await _show_app(server, me, await server.apps.get(app_id, me.actor))


# --- Rows as answers --------------------------------------------------------------------------------------------------


async def _show_app(server: Server, me: SignedIn, row: UserappRow) -> Answer[UserApplication]:
    return ok(_app(server, row, await _owner(server, me, row)))


async def _show_secret(server: Server, me: SignedIn, new: NewSecret) -> Answer[UserApplicationVerbose]:
    row = new.userapp
    return ok(
        UserApplicationVerbose(
            id=row.id,
            app_id=row.app_id,
            app_secret=new.secret,
            comment=row.comment,
            created_at=row.created_at,
            user=present_user(await _owner(server, me, row)),
        )
    )


async def _owner(server: Server, me: SignedIn, row: UserappRow) -> UserRow:
    return me.user if row.user == me.user.id else await server.users.get(row.user)


def _app(server: Server, row: UserappRow, owner: UserRow) -> UserApplication:
    troubles = server.troubles.of(row.id)
    return UserApplication(
        id=row.id,
        app_id=row.app_id,
        comment=row.comment,
        created_at=row.created_at,
        user=present_user(owner),
        last_access_at=row.last_access_at,
        banned_at=row.banned_at,
        banned_reason=row.banned_reason,
        trouble=spoken(join(troubles)) if troubles else None,
    )


# --- Who may ask ------------------------------------------------------------------------------------------------------

ROUTERS = (
    api_router(
        [list_apps, get_app, reset_app, edit_app, create_app, delete_app],
        tags=["user application"],
        guards=[requires_sign_in],
    ),
    api_router([list_all_apps, ban_app, unban_app], tags=["administration"], guards=[requires_admin]),
)
