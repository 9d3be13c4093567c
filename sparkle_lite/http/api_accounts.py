"""The REST API of accounts: user applications, users and their sessions, and what administrators do with all of them.

Paths, field names, statuses and the Chinese sentences are those of Sparkle's published API; its numbers are
milliseconds, its pages count from 0. Everything below /api/admin, and the sessions, are this server's own.
"""

from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from litestar import MediaType, Request, Response, Router, delete, get, patch, post, put, route
from litestar.datastructures import CacheControlHeader
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import QueryParameter

from sparkle_lite.accounts import LOGIN_LINK_MS, NewSecret, now_ms
from sparkle_lite.db.accounts import AuditFilter, AuditRow, UserappRow, UserRow
from sparkle_lite.db.orders import Position
from sparkle_lite.errors import SparkleError
from sparkle_lite.http.head import is_head
from sparkle_lite.http.problems import Envelope
from sparkle_lite.http.requests import base_url, only
from sparkle_lite.http.session import (
    SignedIn,
    require_admin,
    require_same_origin,
    set_session_cookie,
    signed_in,
    token_of,
    visitor,
)
from sparkle_lite.runtime import Runtime
from sparkle_lite.trouble_sentences import DAY_MS, join, sentence
from sparkle_lite.wire.torrents import parse_info_hash, torrent_identifier

T = TypeVar("T")
Asked = Request[Any, Any, Any]

MAX_PAGE_SIZE = 3000
# The longest body is a comment or a reason of 255 characters.
_BODY_BYTES = 65_536
_INT64 = (1 << 63) - 1


# --- What goes out ----------------------------------------------------------------------------------------------------


class Answer(msgspec.Struct, Generic[T], frozen=True):
    """The envelope of every answer."""

    success: bool
    message: str | None
    data: T


class Page(msgspec.Struct, Generic[T], frozen=True):
    """One page; `page` (from 0) and `size` are those asked for, `total` is exact."""

    page: int
    size: int
    total: int
    results: list[T]


class Sentence(msgspec.Struct, frozen=True):
    """One plain sentence in both languages."""

    en: str
    zh: str


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
_LINE = {"minLength": 1, "maxLength": 255, "pattern": r"\S"}


class Comment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an application is for: 1-255 characters, no control characters."""

    comment: Annotated[str, msgspec.Meta(examples=["nas"], extra_json_schema=_LINE)]


class Reason(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why somebody is banned: 1-255 characters; they are shown it."""

    reason: Annotated[str, msgspec.Meta(examples=["sends invented peers"], extra_json_schema=_LINE)]


class RoleChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The role that a user is to have."""

    role: Literal["user", "admin"]


class NewUser(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A local user: a name of 1-64 characters that nobody else has."""

    name: Annotated[str, msgspec.Meta(examples=["alice"], extra_json_schema=_NAME)]
    role: Literal["user", "admin"] = "user"


PageNumber = Annotated[
    int, QueryParameter(name="page", description="Which page, from 0.", schema_extra={"minimum": 0, "maximum": _INT64})
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

_USER = User(1, "https://avatars.example/u/1", "alice", 1723916701954, 1723974023732, "alice@example.org", None, None)
_ADMIN_USER = AdminUser(
    **msgspec.structs.asdict(_USER),
    name="alice",
    role="user",
    registered_by="self",
    github_id=583231,
    github_login="alice",
)
_APP_ID = "8c788023-8f09-4d5e-9d0c-0f3f3c1f6b1a"
_APP = UserApplication(
    id=2,
    app_id=_APP_ID,
    comment="nas",
    created_at=1723974917039,
    user=_USER,
    last_access_at=1723975000000,
    banned_at=None,
    banned_reason=None,
    trouble=Sentence(*sentence("clock", {"off": -3 * DAY_MS}, 0)),
)
_SECRET = UserApplicationVerbose(2, _APP_ID, "Zl1m0Jq0nQ3y5m7w9B1d3F5h7J9l1N3p5R7t9V1x3Z5", "nas", 1723974917039, _USER)
_AUDIT = AuditEntry(
    7,
    1723974917039,
    "USERAPP_CREATE",
    True,
    1,
    "203.0.113.9",
    "curl/8.9",
    {"appId": _APP_ID, "userAppOwner": 1, "userId": 1, "userAppId": 2},
)
_FORBIDDEN = "Not signed in, banned, or not allowed to; the sentence says which."
_NO_USER = "There is no such user."
_NO_APP = "There is no such application."
_INVALID = "Something in the request is not valid; the sentence names it."


def _documented(shape: Any, text: str, data: object, /, **refusals: str) -> dict[int, ResponseSpec]:
    """The answers of an operation: what a 200 holds, and why it refuses (`r404="..."`)."""
    example = Example(value=msgspec.to_builtins(Answer(True, None, data)))
    answers = {200: ResponseSpec(shape, generate_examples=False, description=text, examples=[example])}
    for status, why in refusals.items():
        refusal = {"success": False, "message": why, "data": None}
        answers[int(status[1:])] = ResponseSpec(
            Envelope, generate_examples=False, description=why, examples=[Example(value=refusal)]
        )
    return answers


# --- The operations ---------------------------------------------------------------------------------------------------


def routes(runtime: Runtime) -> list[Router]:
    """The handlers of one server."""
    handlers = [*_app_routes(runtime), *_user_routes(runtime), *_admin_routes(runtime), *_admin_app_routes(runtime)]
    return [
        Router(
            "/api",
            route_handlers=[*handlers, _torrent_hash()],
            cache_control=CacheControlHeader(no_store=True),
            request_max_body_size=_BODY_BYTES,
        )
    ]


def _app_routes(runtime: Runtime) -> list[HTTPRouteHandler]:
    tags = ["user application"]

    @get(
        "/userapp",
        tags=tags,
        summary="Your applications",
        operation_id="listUserApplications",
        description="Newest first.",
        responses=_documented(Answer[list[UserApplication]], "Your applications.", [_APP], r403=_FORBIDDEN),
    )
    async def list_apps(request: Asked) -> Answer[list[UserApplication]]:
        me = await signed_in(request, runtime)
        return _ok([_app(runtime, row, me.user) for row in await runtime.accounts.apps(me.user.id)])

    @get(
        "/userapp/{app_id:str}",
        tags=tags,
        summary="One application",
        operation_id="getUserApplication",
        description="One of your own; any for administrators.",
        responses=_documented(Answer[UserApplication], "The application.", _APP, r403=_FORBIDDEN, r404=_NO_APP),
    )
    async def get_app(request: Asked, app_id: str) -> Answer[UserApplication]:
        me = await signed_in(request, runtime)
        return _ok(await _owned(runtime, await runtime.accounts.app(app_id, me.actor), me))

    @post(
        "/userapp/{app_id:str}/resetAppSecret",
        status_code=200,
        tags=tags,
        summary="Make a new secret",
        operation_id="resetUserApplicationSecret",
        description="The old one is void at once.",
        responses=_documented(
            Answer[UserApplicationVerbose],
            "The application with its new secret.",
            _SECRET,
            r403=_FORBIDDEN,
            r404=_NO_APP,
        ),
    )
    async def reset_app(request: Asked, app_id: str) -> Answer[UserApplicationVerbose]:
        me = await signed_in(request, runtime)
        return _ok(await _with_secret(runtime, await runtime.accounts.reset_app(app_id, me.actor), me))

    @patch(
        "/userapp/{app_id:str}",
        tags=tags,
        summary="Change the comment",
        operation_id="editUserApplication",
        responses=_documented(
            Answer[UserApplication], "The application.", _APP, r400=_INVALID, r403=_FORBIDDEN, r404=_NO_APP
        ),
    )
    async def edit_app(request: Asked, app_id: str, data: Comment) -> Answer[UserApplication]:
        me = await signed_in(request, runtime)
        return _ok(await _owned(runtime, await runtime.accounts.edit_app(app_id, data.comment, me.actor), me))

    @put(
        "/userapp",
        status_code=200,
        tags=tags,
        summary="Create an application",
        operation_id="createUserApplication",
        description="Its secret is shown in this answer and never again.",
        responses=_documented(
            Answer[UserApplicationVerbose],
            "The application with its secret.",
            _SECRET,
            r400=_INVALID,
            r403=_FORBIDDEN,
            r507="You have as many applications as this server allows.",
        ),
    )
    async def create_app(request: Asked, data: Comment) -> Answer[UserApplicationVerbose]:
        me = await signed_in(request, runtime)
        return _ok(await _with_secret(runtime, await runtime.accounts.add_app(me.user.id, data.comment, me.actor), me))

    @delete(
        "/userapp/{app_id:str}",
        status_code=200,
        tags=tags,
        summary="Delete an application",
        operation_id="deleteUserApplication",
        description="What it reported stays. A banned one is deleted by administrators only.",
        responses=_documented(Answer[None], "It is deleted.", None, r403=_FORBIDDEN, r404=_NO_APP),
    )
    async def delete_app(request: Asked, app_id: str) -> Answer[None]:
        me = await signed_in(request, runtime)
        await runtime.accounts.delete_app(app_id, me.actor)
        return Answer(True, "用户应用程序删除成功", None)

    return [list_apps, get_app, reset_app, edit_app, create_app, delete_app]


def _user_routes(runtime: Runtime) -> list[HTTPRouteHandler]:
    tags = ["user"]

    @get(
        "/user/me",
        tags=tags,
        summary="Who you are",
        operation_id="getMe",
        responses=_documented(Answer[User], "You.", _USER, r403=_FORBIDDEN),
    )
    async def get_me(request: Asked) -> Answer[User]:
        return _ok(_user((await signed_in(request, runtime)).user))

    @get(
        "/user/{user_id:int}",
        tags=tags,
        summary="A user",
        operation_id="getUser",
        description="Yourself; anybody for administrators.",
        responses=_documented(Answer[User], "The user.", _USER, r403=_FORBIDDEN, r404=_NO_USER),
    )
    async def get_user(request: Asked, user_id: int) -> Answer[User]:
        me = await signed_in(request, runtime)
        if user_id != me.user.id:
            require_admin(me)
        return _ok(_user(await runtime.accounts.user(user_id)))

    @route(
        "/user/logout",
        http_method=["GET", "POST"],
        status_code=200,
        tags=tags,
        summary="Log out",
        operation_id=lambda _, method, __: f"logOutBy{HttpMethod(method).value.title()}",
        description="Ends the session and clears the cookie; without a session it does nothing.",
        responses={
            200: ResponseSpec(None, description="You are logged out; the body is empty."),
            403: ResponseSpec(Envelope, generate_examples=False, description="Another site asked for it."),
        },
    )
    async def log_out(request: Asked) -> Response[str]:
        token, by_cookie = token_of(request)
        if token and by_cookie:
            require_same_origin(request, runtime)
        if token and not is_head(request.scope):
            await runtime.accounts.log_out(token, visitor(request, runtime))
        response = Response("", status_code=200, media_type=MediaType.TEXT)
        set_session_cookie(response, "", request, runtime)
        return response

    @get(
        "/user/sessions",
        tags=tags,
        summary="Where you are signed in",
        operation_id="listSessions",
        responses=_documented(
            Answer[list[SessionInfo]],
            "Your sessions, newest first.",
            [SessionInfo(1723974917039, 1726566917039, "GitHub", True)],
            r403=_FORBIDDEN,
        ),
    )
    async def list_sessions(request: Asked) -> Answer[list[SessionInfo]]:
        me = await signed_in(request, runtime)
        found = await runtime.accounts.sessions(me.token)
        return _ok([SessionInfo(s.row.created_at, s.row.expires_at, s.row.origin, s.current) for s in found])

    @delete(
        "/user/sessions",
        status_code=200,
        tags=tags,
        summary="Log out everywhere else",
        operation_id="endOtherSessions",
        description="Ends all your sessions but the one that asks.",
        responses=_documented(Answer[Ended], "How many were ended.", Ended(2), r403=_FORBIDDEN),
    )
    async def end_sessions(request: Asked) -> Answer[Ended]:
        me = await signed_in(request, runtime)
        return _ok(Ended(await runtime.accounts.log_out_others(me.token, me.actor)))

    return [get_me, get_user, log_out, list_sessions, end_sessions]


def _torrent_hash() -> HTTPRouteHandler:
    @get(
        "/torrent/hash",
        tags=["torrent"],
        summary="The identifier of a torrent",
        operation_id="getTorrentIdentifier",
        description="Needs no login.",
        responses=_documented(
            Answer[TorrentHash],
            "The identifier.",
            TorrentHash("52fa13494a4571a951b46b1a04be19ab9d8089c3d3761956c99f5435e6f2c8ad"),
            r400=_INVALID,
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
        return _ok(TorrentHash(torrent_identifier(parse_info_hash(info_hash))))

    return torrent_hash


def _admin_routes(runtime: Runtime) -> list[HTTPRouteHandler]:
    tags = ["administration"]
    last_one = "That is the last administrator."

    async def answer(user_id: int) -> Answer[AdminUser]:
        return _ok(_admin_user(await runtime.accounts.user(user_id)))

    @get(
        "/admin/users",
        tags=tags,
        summary="All users",
        operation_id="adminListUsers",
        description="Oldest first.",
        responses=_documented(
            Answer[Page[AdminUser]], "One page.", Page(0, 100, 1, [_ADMIN_USER]), r400=_INVALID, r403=_FORBIDDEN
        ),
    )
    async def list_users(request: Asked, page: PageNumber = 0, page_size: PageSize = 100) -> Answer[Page[AdminUser]]:
        await _admin(request, runtime)
        only(request.query_params.multi_items(), {"page": page, "pageSize": page_size})
        _check_page(page, page_size)
        rows, total = await runtime.accounts.users_page(page, page_size)
        return _ok(Page(page, page_size, total, [_admin_user(row) for row in rows]))

    @put(
        "/admin/users",
        status_code=200,
        tags=tags,
        summary="Add a local user",
        operation_id="adminCreateUser",
        description="They sign in by a login link.",
        responses=_documented(
            Answer[AdminUser], "The user.", _ADMIN_USER, r400=_INVALID, r403=_FORBIDDEN, r409="Somebody has this name."
        ),
    )
    async def create_user(request: Asked, data: NewUser) -> Answer[AdminUser]:
        me = await _admin(request, runtime)
        return _ok(_admin_user(await runtime.accounts.add_user(data.name, data.role, me.actor)))

    @post(
        "/admin/users/{user_id:int}/ban",
        status_code=200,
        tags=tags,
        summary="Lock a user out",
        operation_id="adminBanUser",
        description="Sessions, login links and applications are void at once.",
        responses=_documented(
            Answer[AdminUser], "The user.", _ADMIN_USER, r400=_INVALID, r403=_FORBIDDEN, r404=_NO_USER, r409=last_one
        ),
    )
    async def ban_user(request: Asked, user_id: int, data: Reason) -> Answer[AdminUser]:
        me = await _admin(request, runtime)
        await runtime.accounts.ban_user(user_id, data.reason, me.actor)
        return await answer(user_id)

    @post(
        "/admin/users/{user_id:int}/unban",
        status_code=200,
        tags=tags,
        summary="Let a user in again",
        operation_id="adminUnbanUser",
        responses=_documented(Answer[AdminUser], "The user.", _ADMIN_USER, r403=_FORBIDDEN, r404=_NO_USER),
    )
    async def unban_user(request: Asked, user_id: int) -> Answer[AdminUser]:
        me = await _admin(request, runtime)
        await runtime.accounts.unban_user(user_id, me.actor)
        return await answer(user_id)

    @post(
        "/admin/users/{user_id:int}/role",
        status_code=200,
        tags=tags,
        summary="Make a user an administrator, or not",
        operation_id="adminSetRole",
        responses=_documented(
            Answer[AdminUser], "The user.", _ADMIN_USER, r400=_INVALID, r403=_FORBIDDEN, r404=_NO_USER, r409=last_one
        ),
    )
    async def set_role(request: Asked, user_id: int, data: RoleChange) -> Answer[AdminUser]:
        me = await _admin(request, runtime)
        await runtime.accounts.set_role(user_id, data.role, me.actor)
        return await answer(user_id)

    @post(
        "/admin/users/{user_id:int}/loginLink",
        status_code=200,
        tags=tags,
        summary="A one-time login link for a user",
        operation_id="adminLoginLink",
        responses=_documented(
            Answer[LoginLink],
            "The link, good once and for 30 minutes.",
            LoginLink("https://btn.example/login?token=…", 1723976717039),
            r403=_FORBIDDEN,
            r404=_NO_USER,
        ),
    )
    async def login_link(request: Asked, user_id: int) -> Answer[LoginLink]:
        me = await _admin(request, runtime)
        server = runtime.config.server
        until = now_ms() + LOGIN_LINK_MS
        token = await runtime.accounts.login_link(user_id, me.actor)
        url = base_url(request.scope, server.public_url, server.trusted_proxies)
        return _ok(LoginLink(f"{url}/login?token={token}", until))

    @get(
        "/admin/audit",
        tags=tags,
        summary="What was done and refused",
        operation_id="adminAudit",
        description="Newest first; walk back with `after`.",
        responses=_documented(
            Answer[AuditPage], "Some entries.", AuditPage([_AUDIT], 7), r400=_INVALID, r403=_FORBIDDEN
        ),
    )
    async def audit(
        request: Asked,
        page_size: PageSize = 100,
        action: Annotated[str | None, QueryParameter(description="Such as USER_LOGIN; exact.")] = None,
        user: Annotated[int | None, QueryParameter(description="Id of whoever did it.")] = None,
        success: Annotated[bool | None, QueryParameter(description="Done, or refused.")] = None,
        time_from: Annotated[int | None, QueryParameter(name="timeFrom", description="Not before (ms).")] = None,
        time_to: Annotated[int | None, QueryParameter(name="timeTo", description="Not after (ms).")] = None,
        after: Annotated[int | None, QueryParameter(description="`next` of the answer before.")] = None,
    ) -> Answer[AuditPage]:
        await _admin(request, runtime)
        filters = {"action": action, "user": user, "success": success, "timeFrom": time_from, "timeTo": time_to}
        only(request.query_params.multi_items(), {"pageSize": page_size, "after": after, **filters})
        _check_page(0, page_size)
        _check_range(user=user, timeFrom=time_from, timeTo=time_to, after=after)
        if time_from is not None and time_to is not None and time_from > time_to:
            raise _bad("timeFrom is later than timeTo.")
        wanted = AuditFilter(action, user, success, time_from, time_to)
        rows = await runtime.accounts.audit(wanted, Position(after), page_size + 1)
        more = rows[page_size - 1].id if len(rows) > page_size else None
        return _ok(AuditPage([_audit_entry(row) for row in rows[:page_size]], more))

    return [list_users, create_user, ban_user, unban_user, set_role, login_link, audit]


async def _admin(request: Asked, runtime: Runtime) -> SignedIn:
    me = await signed_in(request, runtime)
    try:
        require_admin(me)
    except SparkleError as error:
        await runtime.accounts.note_failure(
            "ADMIN", me.actor, error, method=request.method, path=request.url.path[:200]
        )
        raise
    return me


def _admin_app_routes(runtime: Runtime) -> list[HTTPRouteHandler]:
    tags = ["administration"]

    @get(
        "/admin/userapp",
        tags=tags,
        summary="All applications",
        operation_id="adminListUserApplications",
        description="Newest first.",
        responses=_documented(
            Answer[Page[UserApplication]], "One page.", Page(0, 100, 1, [_APP]), r400=_INVALID, r403=_FORBIDDEN
        ),
    )
    async def list_apps(
        request: Asked, page: PageNumber = 0, page_size: PageSize = 100
    ) -> Answer[Page[UserApplication]]:
        await _admin(request, runtime)
        only(request.query_params.multi_items(), {"page": page, "pageSize": page_size})
        _check_page(page, page_size)
        rows, total = await runtime.accounts.apps_page(page, page_size)
        return _ok(Page(page, page_size, total, [_app(runtime, row, owner) for row, owner in rows]))

    @post(
        "/admin/userapp/{app_id:str}/ban",
        status_code=200,
        tags=tags,
        summary="Refuse an application",
        operation_id="adminBanUserApplication",
        responses=_documented(
            Answer[UserApplication], "The application.", _APP, r400=_INVALID, r403=_FORBIDDEN, r404=_NO_APP
        ),
    )
    async def ban_app(request: Asked, app_id: str, data: Reason) -> Answer[UserApplication]:
        me = await _admin(request, runtime)
        await runtime.accounts.ban_app(app_id, data.reason, me.actor)
        return _ok(await _owned(runtime, await runtime.accounts.app(app_id, me.actor), me))

    @post(
        "/admin/userapp/{app_id:str}/unban",
        status_code=200,
        tags=tags,
        summary="Let an application in again",
        operation_id="adminUnbanUserApplication",
        responses=_documented(Answer[UserApplication], "The application.", _APP, r403=_FORBIDDEN, r404=_NO_APP),
    )
    async def unban_app(request: Asked, app_id: str) -> Answer[UserApplication]:
        me = await _admin(request, runtime)
        await runtime.accounts.unban_app(app_id, me.actor)
        return _ok(await _owned(runtime, await runtime.accounts.app(app_id, me.actor), me))

    return [list_apps, ban_app, unban_app]


# --- Rows as answers --------------------------------------------------------------------------------------------------


def _ok(data: T) -> Answer[T]:
    return Answer(True, None, data)


def _user(row: UserRow) -> User:
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
        **msgspec.structs.asdict(_user(row)),
        name=row.name,
        role=row.role,
        registered_by=row.registered_by,
        github_id=row.github_id,
        github_login=row.github_login,
    )


def _app(runtime: Runtime, row: UserappRow, owner: UserRow) -> UserApplication:
    troubles = runtime.troubles.of(row.id)
    return UserApplication(
        id=row.id,
        app_id=row.app_id,
        comment=row.comment,
        created_at=row.created_at,
        user=_user(owner),
        last_access_at=row.last_access_at,
        banned_at=row.banned_at,
        banned_reason=row.banned_reason,
        trouble=Sentence(*join(troubles)) if troubles else None,
    )


async def _owner(runtime: Runtime, row: UserappRow, me: SignedIn) -> UserRow:
    return me.user if row.user == me.user.id else await runtime.accounts.user(row.user)


async def _owned(runtime: Runtime, row: UserappRow, me: SignedIn) -> UserApplication:
    return _app(runtime, row, await _owner(runtime, row, me))


async def _with_secret(runtime: Runtime, new: NewSecret, me: SignedIn) -> UserApplicationVerbose:
    row = new.userapp
    owner = _user(await _owner(runtime, row, me))
    return UserApplicationVerbose(row.id, row.app_id, new.secret, row.comment, row.created_at, owner)


def _audit_entry(row: AuditRow) -> AuditEntry:
    details = msgspec.json.decode(row.details, type=dict[str, Any])
    return AuditEntry(row.id, row.at, row.action, bool(row.success), row.user, row.address, row.user_agent, details)


# --- Requests that are not valid --------------------------------------------------------------------------------------


def _bad(message: str, message_zh: str = "无效参数。") -> SparkleError:
    return SparkleError("bad_request", message, message_zh)


def _check_page(page: int, size: int) -> None:
    """Refuse pages that can't be."""
    if page < 0:
        raise _bad("page must be 0 or more.", "无效参数: page 不能小于 0")
    if page > _INT64:
        raise _bad("page is out of range.", "无效参数: page")
    if size < 1:
        raise _bad("pageSize must be 1 or more.", "无效参数: pageSize 不能小于 1")
    if size > MAX_PAGE_SIZE:
        raise _bad(f"pageSize must be at most {MAX_PAGE_SIZE}.", "请求的分页数量参数超过最大允许值")


def _check_range(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and not -_INT64 <= value <= _INT64:
            raise _bad(f"{name} is out of range.", f"无效参数: {name}")
