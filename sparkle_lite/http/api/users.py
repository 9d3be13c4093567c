"""The REST API of users and their sessions, and what administrators do with them."""

from typing import Annotated, Literal

import msgspec
from litestar import MediaType, Response, delete, get, post, put, route
from litestar.enums import HttpMethod
from litestar.openapi import ResponseSpec

from sparkle_lite.accounts.sessions import LOGIN_LINK_MS
from sparkle_lite.accounts.users import UserRow, vouches
from sparkle_lite.clock import now_ms
from sparkle_lite.http.api.common import Answer, allow_only, api_router, documented, ok
from sparkle_lite.http.api.pages import BanRequest, NumberedPage, PageNumber, PageSize, check_page
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
from sparkle_lite.server import Server


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
    """A user with what only administrators need; `name` is what the command line calls them.

    `vouched`: their word counts from the start, as that of every administrator. `word` is what it is worth (0 to 1; 1
    for whoever is vouched for), null before it was measured.
    """

    name: str
    role: Literal["user", "admin"]
    registered_by: Literal["admin", "self"]
    github_id: int | None
    github_login: str | None
    vouched: bool
    word: float | None


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


_NAME = {"minLength": 1, "maxLength": 64, "pattern": r"^\S"}


class RoleChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The role that a user is to have."""

    role: Literal["user", "admin"]


class NewUser(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A local user: a name of 1-64 characters that nobody else has.

    `vouched`: whether their word counts from the start; where it is left out or null, the preset says it.
    """

    name: Annotated[str, msgspec.Meta(examples=["alice"], extra_json_schema=_NAME)]
    role: Literal["user", "admin"] = "user"
    vouched: bool | None = None


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
    vouched=False,
    word=0.83,
)
NO_USER = "There is no such user."
_LAST_ADMIN = "That is the last administrator."
_SPEAKS_ANYWAY = "That is an administrator."


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
    words = await server.users.words()
    return ok(NumberedPage(page, page_size, total, [_admin_user(row, words.get(row.id)) for row in rows]))


@put(
    "/admin/users",
    summary="Add a local user",
    operation_id="adminCreateUser",
    description="They sign in by a login link.",
    responses=documented(Answer[AdminUser], "The user.", _ADMIN_USER, {409: "Somebody has this name."}),
)
async def create_user(server: Injected[Server], me: Injected[SignedIn], data: NewUser) -> Answer[AdminUser]:
    vouched = vouches(server.config.analysis.preset) if data.vouched is None else data.vouched
    return ok(_admin_user(await server.users.add(data.name, data.role, me.actor, vouched=vouched), None))


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
    "/admin/users/{user_id:int}/vouch",
    status_code=200,
    summary="Let a user's word count from the start",
    operation_id="adminVouchUser",
    responses=documented(Answer[AdminUser], "The user.", _ADMIN_USER, {404: NO_USER}),
)
async def vouch_user(server: Injected[Server], me: Injected[SignedIn], user_id: int) -> Answer[AdminUser]:
    await server.users.vouch(user_id, me.actor)
    return await _show_user(server, user_id)


@post(
    "/admin/users/{user_id:int}/unvouch",
    status_code=200,
    summary="Let a user's word be worth what it earns",
    operation_id="adminUnvouchUser",
    responses=documented(Answer[AdminUser], "The user.", _ADMIN_USER, {404: NO_USER, 409: _SPEAKS_ANYWAY}),
)
async def unvouch_user(server: Injected[Server], me: Injected[SignedIn], user_id: int) -> Answer[AdminUser]:
    await server.users.unvouch(user_id, me.actor)
    return await _show_user(server, user_id)


@post(
    "/admin/users/{user_id:int}/role",
    status_code=200,
    summary="Make a user an administrator, or not",
    operation_id="adminSetRole",
    description="A change ends the user's sessions, which had other rights.",
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


async def _show_user(server: Server, user_id: int) -> Answer[AdminUser]:
    word, _ = await server.users.word(user_id)
    return ok(_admin_user(await server.users.get(user_id), None if word is None else word.value))


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


def _admin_user(row: UserRow, word: float | None) -> AdminUser:
    """A user and what was measured of their word last."""
    return AdminUser(
        **msgspec.structs.asdict(present_user(row)),
        name=row.name,
        role=row.role,
        registered_by=row.registered_by,
        github_id=row.github_id,
        github_login=row.github_login,
        vouched=row.speaks,
        word=1.0 if row.speaks else word,
    )


# --- Who may ask ------------------------------------------------------------------------------------------------------

ROUTERS = (
    api_router([get_me, get_user, list_sessions, end_sessions], tags=["user"], guards=[requires_sign_in]),
    api_router([log_out], tags=["user"]),
    api_router(
        [list_users, create_user, ban_user, unban_user, vouch_user, unvouch_user, set_role, login_link],
        tags=["administration"],
        guards=[requires_admin],
    ),
)
