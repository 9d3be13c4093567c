"""The REST API of accounts: user applications, users and their sessions, and what administrators do with all of them.

Paths, field names, statuses and the Chinese sentences are those of Sparkle's published API; its numbers are
milliseconds, its pages count from 0. Everything below /api/admin, and the sessions, are this server's own.
"""

from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from litestar import MediaType, Response, delete, get, patch, post, put, route
from litestar.enums import HttpMethod
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import QueryParameter

from sparkle_lite.accounts.apps import NewSecret
from sparkle_lite.accounts.sessions import LOGIN_LINK_MS
from sparkle_lite.clock import now_ms
from sparkle_lite.db.accounts import AuditFilter, AuditRow, UserappRow, UserRow
from sparkle_lite.db.orders import Position
from sparkle_lite.http.api.common import Answer, Sentence, allow_only, api_router, documented, invalid, ok, spoken
from sparkle_lite.http.head import is_head
from sparkle_lite.http.problems import Envelope
from sparkle_lite.http.session import (
    AnyRequest,
    Injected,
    SignedIn,
    own_url,
    require_admin,
    require_same_origin,
    requires_admin,
    requires_sign_in,
    set_session_cookie,
    token_of,
    visitor,
)
from sparkle_lite.ingest.trouble_sentences import join, sentence
from sparkle_lite.server import Server
from sparkle_lite.texts import phrase
from sparkle_lite.units import DAY_MS, INT64_MAX
from sparkle_lite.wire.torrents import parse_info_hash, torrent_identifier

T = TypeVar("T")
MAX_PAGE_SIZE = 3000


# --- What goes out ----------------------------------------------------------------------------------------------------


class NumberedPage(msgspec.Struct, Generic[T], frozen=True):
    """One page; `page` (from 0) and `size` are those asked for, `total` is exact."""

    page: int
    size: int
    total: int
    results: list[T]


class User(msgspec.Struct, frozen=True, rename="camel"):
    """A user as they themselves and administrators see them: `email` is for nobody else. Times in ms."""

    id: int
    avatar: str | None
    nickname: str
    register_at: int
    last_seen_at: int
    email: str | None
    banned_at: int | None
    banned_reason: str | None


class AdminUser(User, frozen=True, rename="camel"):
    """A user with what only administrators need; `name` is what the command line calls them."""

    name: str
    role: Literal["user", "admin"]
    registered_by: Literal["admin", "self"]
    github_id: int | None
    github_login: str | None


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


class SessionInfo(msgspec.Struct, frozen=True, rename="camel"):
    """A session: when it began and ends (ms), what made it, and whether it is the one that asks."""

    created_at: int
    expires_at: int
    origin: str
    current: bool


class Ended(msgspec.Struct, frozen=True):
    """How many sessions were ended."""

    ended: int


class LoginLink(msgspec.Struct, frozen=True, rename="camel"):
    """A URL that signs a browser in, once, until `expiresAt` (ms)."""

    url: str
    expires_at: int


class AuditEntry(msgspec.Struct, frozen=True, rename="camel"):
    """Who did what, when (ms), from where, and whether it was done or refused."""

    id: int
    timestamp: int
    action: str
    success: bool
    user: int | None
    address: str | None
    user_agent: str | None
    details: dict[str, Any]


class AuditPage(msgspec.Struct, frozen=True):
    """Newest first; pass `next` as `after` for what is older. It is null at the end."""

    results: list[AuditEntry]
    next: int | None


class TorrentHash(msgspec.Struct, frozen=True, rename="camel"):
    """What clients send instead of the info-hash: 64 hex digits."""

    torrent_identifier: str


# --- What comes in ----------------------------------------------------------------------------------------------------

_NAME = {"minLength": 1, "maxLength": 64, "pattern": r"^\S"}
LINE_SCHEMA = {"minLength": 1, "maxLength": 255, "pattern": r"\S"}


class Comment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an application is for: 1-255 characters, no control characters."""

    comment: Annotated[str, msgspec.Meta(examples=["nas"], extra_json_schema=LINE_SCHEMA)]


class BanRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why somebody is banned: 1-255 characters; they are shown it."""

    reason: Annotated[str, msgspec.Meta(examples=["sends invented peers"], extra_json_schema=LINE_SCHEMA)]


class RoleChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The role that a user is to have."""

    role: Literal["user", "admin"]


class NewUser(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A local user: a name of 1-64 characters that nobody else has."""

    name: Annotated[str, msgspec.Meta(examples=["alice"], extra_json_schema=_NAME)]
    role: Literal["user", "admin"] = "user"


PageNumber = Annotated[
    int,
    QueryParameter(name="page", description="Which page, from 0.", schema_extra={"minimum": 0, "maximum": INT64_MAX}),
]
PageSize = Annotated[
    int,
    QueryParameter(
        name="pageSize",
        description="Rows in a page.",
        schema_extra={"minimum": 1, "maximum": MAX_PAGE_SIZE},
    ),
]

# --- Documentation ----------------------------------------------------------------------------------------------------

EXAMPLE_USER = User(
    id=1,
    avatar="https://avatars.example/u/1",
    nickname="alice",
    register_at=1723916701954,
    last_seen_at=1723974023732,
    email="alice@example.org",
    banned_at=None,
    banned_reason=None,
)
_ADMIN_USER = AdminUser(
    **msgspec.structs.asdict(EXAMPLE_USER),
    name="alice",
    role="user",
    registered_by="self",
    github_id=583231,
    github_login="alice",
)
EXAMPLE_APP_ID = "8c788023-8f09-4d5e-9d0c-0f3f3c1f6b1a"
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
_AUDIT = AuditEntry(
    id=7,
    timestamp=1723974917039,
    action="USERAPP_CREATE",
    success=True,
    user=1,
    address="203.0.113.9",
    user_agent="curl/8.9",
    details={"appId": EXAMPLE_APP_ID, "userAppOwner": 1, "userId": 1, "userAppId": 2},
)
NO_USER = "There is no such user."
_NO_APP = "There is no such application."
_LAST_ADMIN = "That is the last administrator."


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


# --- Users and their sessions -----------------------------------------------------------------------------------------


@get(
    "/user/me",
    summary="Who you are",
    operation_id="getMe",
    responses=documented(Answer[User], "You.", EXAMPLE_USER),
)
async def get_me(me: Injected[SignedIn]) -> Answer[User]:
    return ok(present_user(me.user))


@get(
    "/user/{user_id:int}",
    summary="A user",
    operation_id="getUser",
    description="Yourself; anybody for administrators.",
    responses=documented(Answer[User], "The user.", EXAMPLE_USER, {404: NO_USER}),
)
async def get_user(request: AnyRequest, server: Injected[Server], me: Injected[SignedIn], user_id: int) -> Answer[User]:
    if user_id != me.user.id:
        await require_admin(request, me)
    return ok(present_user(await server.users.get(user_id)))


@get(
    "/user/sessions",
    summary="Where you are signed in",
    operation_id="listSessions",
    responses=documented(
        Answer[list[SessionInfo]],
        "Your sessions, newest first.",
        [SessionInfo(1723974917039, 1726566917039, "GitHub", True)],
    ),
)
async def list_sessions(server: Injected[Server], me: Injected[SignedIn]) -> Answer[list[SessionInfo]]:
    sessions = await server.sessions.all(me.token)
    return ok([SessionInfo(s.row.created_at, s.row.expires_at, s.row.origin, s.current) for s in sessions])


@delete(
    "/user/sessions",
    status_code=200,
    summary="Log out everywhere else",
    operation_id="endOtherSessions",
    description="Ends all your sessions but the one that asks.",
    responses=documented(Answer[Ended], "How many were ended.", Ended(2)),
)
async def end_sessions(server: Injected[Server], me: Injected[SignedIn]) -> Answer[Ended]:
    return ok(Ended(await server.sessions.log_out_others(me.token, me.actor)))


@route(
    "/user/logout",
    http_method=["GET", "POST"],
    status_code=200,
    summary="Log out",
    operation_id=lambda _, method, __: f"logOutBy{HttpMethod(method).value.title()}",
    description="Ends the session and clears the cookie; without a session it does nothing.",
    responses={
        200: ResponseSpec(None, description="You are logged out; the body is empty."),
        403: ResponseSpec(Envelope, generate_examples=False, description="Another site asked for it."),
    },
)
async def log_out(request: AnyRequest, server: Injected[Server]) -> Response[str]:
    token, by_cookie = token_of(request)
    if token and by_cookie:
        require_same_origin(request, server)
    if token and not is_head(request.scope):
        await server.sessions.log_out(token, visitor(request, server))
    response = Response("", status_code=200, media_type=MediaType.TEXT)
    set_session_cookie(response, "", request, server)
    return response


# --- Torrents ---------------------------------------------------------------------------------------------------------


@get(
    "/torrent/hash",
    summary="The identifier of a torrent",
    operation_id="getTorrentIdentifier",
    description="Needs no login.",
    responses=documented(
        Answer[TorrentHash],
        "The identifier.",
        TorrentHash("52fa13494a4571a951b46b1a04be19ab9d8089c3d3761956c99f5435e6f2c8ad"),
    ),
)
async def torrent_hash(
    info_hash: Annotated[
        str,
        QueryParameter(
            name="hash",
            description="An info-hash: 40 or 64 hex digits, or 32 base32 characters.",
            examples=[Example(value="a5b24a285c3533d80ce62181813640ac4a0e6ed7")],
        ),
    ],
) -> Answer[TorrentHash]:
    return ok(TorrentHash(torrent_identifier(parse_info_hash(info_hash))))


# --- What administrators do with users --------------------------------------------------------------------------------


@get(
    "/admin/users",
    summary="All users",
    operation_id="adminListUsers",
    description="Oldest first.",
    responses=documented(Answer[NumberedPage[AdminUser]], "One page.", NumberedPage(0, 100, 1, [_ADMIN_USER])),
)
async def list_users(
    request: AnyRequest, server: Injected[Server], page: PageNumber = 0, page_size: PageSize = 100
) -> Answer[NumberedPage[AdminUser]]:
    allow_only(request, page=page, pageSize=page_size)
    check_page(page, page_size)
    rows, total = await server.users.page(page, page_size)
    return ok(NumberedPage(page, page_size, total, [_admin_user(row) for row in rows]))


@put(
    "/admin/users",
    summary="Add a local user",
    operation_id="adminCreateUser",
    description="They sign in by a login link.",
    responses=documented(Answer[AdminUser], "The user.", _ADMIN_USER, {409: "Somebody has this name."}),
)
async def create_user(server: Injected[Server], me: Injected[SignedIn], data: NewUser) -> Answer[AdminUser]:
    return ok(_admin_user(await server.users.add(data.name, data.role, me.actor)))


@post(
    "/admin/users/{user_id:int}/ban",
    status_code=200,
    summary="Lock a user out",
    operation_id="adminBanUser",
    description="Sessions, login links and applications are void at once.",
    responses=documented(Answer[AdminUser], "The user.", _ADMIN_USER, {404: NO_USER, 409: _LAST_ADMIN}),
)
async def ban_user(
    server: Injected[Server], me: Injected[SignedIn], user_id: int, data: BanRequest
) -> Answer[AdminUser]:
    await server.users.ban(user_id, data.reason, me.actor)
    return await _show_user(server, user_id)


@post(
    "/admin/users/{user_id:int}/unban",
    status_code=200,
    summary="Let a user in again",
    operation_id="adminUnbanUser",
    responses=documented(Answer[AdminUser], "The user.", _ADMIN_USER, {404: NO_USER}),
)
async def unban_user(server: Injected[Server], me: Injected[SignedIn], user_id: int) -> Answer[AdminUser]:
    await server.users.unban(user_id, me.actor)
    return await _show_user(server, user_id)


@post(
    "/admin/users/{user_id:int}/role",
    status_code=200,
    summary="Make a user an administrator, or not",
    operation_id="adminSetRole",
    responses=documented(Answer[AdminUser], "The user.", _ADMIN_USER, {404: NO_USER, 409: _LAST_ADMIN}),
)
async def set_role(
    server: Injected[Server], me: Injected[SignedIn], user_id: int, data: RoleChange
) -> Answer[AdminUser]:
    await server.users.set_role(user_id, data.role, me.actor)
    return await _show_user(server, user_id)


@post(
    "/admin/users/{user_id:int}/loginLink",
    status_code=200,
    summary="A one-time login link for a user",
    operation_id="adminLoginLink",
    responses=documented(
        Answer[LoginLink],
        "The link, good once and for 30 minutes.",
        LoginLink("https://btn.example/login?token=…", 1723976717039),
        {404: NO_USER},
    ),
)
async def login_link(
    request: AnyRequest, server: Injected[Server], me: Injected[SignedIn], user_id: int
) -> Answer[LoginLink]:
    until = now_ms() + LOGIN_LINK_MS
    token = await server.sessions.login_link(user_id, me.actor)
    return ok(LoginLink(f"{own_url(request, server)}/login?token={token}", until))


@get(
    "/admin/audit",
    summary="What was done and refused",
    operation_id="adminAudit",
    description="Newest first; walk back with `after`.",
    responses=documented(Answer[AuditPage], "Some entries.", AuditPage([_AUDIT], 7)),
)
async def list_audit(
    request: AnyRequest,
    server: Injected[Server],
    page_size: PageSize = 100,
    action: Annotated[str | None, QueryParameter(description="Such as USER_LOGIN; exact.")] = None,
    user: Annotated[int | None, QueryParameter(description="Id of whoever did it.")] = None,
    success: Annotated[bool | None, QueryParameter(description="Done, or refused.")] = None,
    time_from: Annotated[int | None, QueryParameter(name="timeFrom", description="Not before (ms).")] = None,
    time_to: Annotated[int | None, QueryParameter(name="timeTo", description="Not after (ms).")] = None,
    after: Annotated[int | None, QueryParameter(description="`next` of the answer before.")] = None,
) -> Answer[AuditPage]:
    times = {"timeFrom": time_from, "timeTo": time_to}
    allow_only(request, pageSize=page_size, after=after, action=action, user=user, success=success, **times)
    check_page(0, page_size)
    _check_range(user=user, **times, after=after)
    if time_from is not None and time_to is not None and time_from > time_to:
        raise invalid("query.later", name_from="timeFrom", name_to="timeTo")
    wanted = AuditFilter(action=action, user=user, success=success, time_from=time_from, time_to=time_to)
    rows = await server.audit.page(wanted, Position(after), page_size + 1)
    more = rows[page_size - 1].id if len(rows) > page_size else None
    return ok(AuditPage([_audit_entry(row) for row in rows[:page_size]], more))


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


async def _show_user(server: Server, user_id: int) -> Answer[AdminUser]:
    return ok(_admin_user(await server.users.get(user_id)))


def present_user(row: UserRow) -> User:
    return User(
        id=row.id,
        avatar=row.avatar,
        nickname=row.nickname or row.name,
        register_at=row.registered_at,
        # Scripts expect a number: nobody was seen before they were registered.
        last_seen_at=row.registered_at if row.last_seen_at is None else row.last_seen_at,
        email=row.email,
        banned_at=row.banned_at,
        banned_reason=row.banned_reason,
    )


def _admin_user(row: UserRow) -> AdminUser:
    return AdminUser(
        **msgspec.structs.asdict(present_user(row)),
        name=row.name,
        role=row.role,
        registered_by=row.registered_by,
        github_id=row.github_id,
        github_login=row.github_login,
    )


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


def _audit_entry(row: AuditRow) -> AuditEntry:
    return AuditEntry(
        id=row.id,
        timestamp=row.at,
        action=row.action,
        success=bool(row.success),
        user=row.user,
        address=row.address,
        user_agent=row.user_agent,
        details=msgspec.json.decode(row.details, type=dict[str, Any]),
    )


# --- Requests that are not valid --------------------------------------------------------------------------------------


def check_page(page: int, size: int) -> None:
    """Refuse pages that can't be."""
    if page < 0:
        raise invalid("page.negative")
    if page > INT64_MAX:
        raise invalid("page.large")
    if size < 1:
        raise invalid("page.size_small")
    if size > MAX_PAGE_SIZE:
        raise invalid("page.size_large", limit=MAX_PAGE_SIZE)


def _check_range(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and not -INT64_MAX <= value <= INT64_MAX:
            raise invalid("page.out_of_range", name=name)


# --- Who may ask ------------------------------------------------------------------------------------------------------

ROUTERS = (
    api_router(
        [list_apps, get_app, reset_app, edit_app, create_app, delete_app],
        tags=["user application"],
        guards=[requires_sign_in],
    ),
    api_router([get_me, get_user, list_sessions, end_sessions], tags=["user"], guards=[requires_sign_in]),
    api_router([log_out], tags=["user"]),
    api_router(
        [list_users, create_user, ban_user, unban_user, set_role, login_link, list_audit],
        tags=["administration"],
        guards=[requires_admin],
    ),
    api_router([list_all_apps, ban_app, unban_app], tags=["administration"], guards=[requires_admin]),
    api_router([torrent_hash], tags=["torrent"]),
)
