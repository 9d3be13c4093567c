"""Signing in by a one-time login link: with a browser, or for a token.

Links are sent over chats, whose servers fetch them to show what is there: a GET looks at a link, and only the POST that
the button of its page sends uses it up.
"""

from typing import Annotated, Any

import msgspec
from litestar import MediaType, Response, get, post
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import QueryParameter

from sparkle_lite.accounts.actors import Actor
from sparkle_lite.accounts.users import UserRow
from sparkle_lite.errors import SparkleError
from sparkle_lite.http.problems import Envelope
from sparkle_lite.http.session import (
    COOKIE,
    TOKEN_HEADERS,
    AnyRequest,
    Injected,
    change_session,
    enter,
    require_same_origin,
    user_of,
    visitor,
)
from sparkle_lite.http.web.render import page
from sparkle_lite.http.web.sign_in import sign_in_page
from sparkle_lite.server import Server
from sparkle_lite.units import KIB

# The token is in the page's URL. With no referrer at all some browsers would call the form's own origin "null".
_PAGE_HEADERS = {"referrer-policy": "strict-origin", "x-robots-tag": "noindex"}
_TOO_MANY = ResponseSpec(Envelope, generate_examples=False, description="Too many attempts from this address.")
_NO_GOOD = ResponseSpec(Envelope, generate_examples=False, description="Used already, too old, or banned.")
LinkToken = Annotated[str, QueryParameter(name="token", description="The link's token.")]


class LinkUse(msgspec.Struct, frozen=True):
    """What the button sends: the link's token, and the id of the user whose session in this browser may end."""

    token: str = ""
    replaces: str | int = ""


@get(
    "/login",
    tags=["session"],
    summary="Look at a one-time login link",
    operation_id="lookAtLoginLink",
    description="A page with a button that uses it up; who prefers JSON gets the name of its user. Nothing is changed.",
    responses={
        200: ResponseSpec(
            Envelope,
            generate_examples=False,
            description="Whom the link signs in; a page without a link.",
            examples=[Example(value={"success": True, "data": {"user": "alice"}})],
        ),
        403: _NO_GOOD,
        429: _TOO_MANY,
    },
)
async def look_at_login_link(request: AnyRequest, server: Injected[Server], link: LinkToken = "") -> Response[Any]:
    actor = visitor(request, server)
    in_browser = _prefers_page(request, otherwise=True)
    if in_browser and not link:
        return await sign_in_page(request, None)
    try:
        owner = await _owner(server, link, actor)
    except SparkleError as error:
        return await _refused(request, server, actor, error, in_browser)
    if in_browser:
        return _button_page(request, link, owner, await _who_is_here(request, server))
    return Response(Envelope(success=True, data={"user": owner.name}), headers=TOKEN_HEADERS, media_type=MediaType.JSON)


@post(
    "/login",
    status_code=200,
    request_max_body_size=16 * KIB,
    tags=["session"],
    summary="Exchange a one-time login link for a session",
    operation_id="useLoginLink",
    description="The token stands in the body, as a form or as JSON, or in the query. A browser gets the session cookie"
    " and the first page; who prefers JSON, or sends none of a form, gets the token.",
    responses={
        200: ResponseSpec(
            Envelope,
            generate_examples=False,
            description="The session's token and the user's name.",
            examples=[Example(value={"success": True, "data": {"token": "eyJhbGciOi…", "user": "alice"}})],
        ),
        303: ResponseSpec(None, description="To the first page, for a form of a browser."),
        400: ResponseSpec(Envelope, generate_examples=False, description="The body can't be read."),
        403: _NO_GOOD,
        409: ResponseSpec(
            Envelope,
            generate_examples=False,
            description="Somebody else is signed in by the request's cookie: send the id of their user as `replaces`.",
        ),
        429: _TOO_MANY,
    },
)
async def use_login_link(request: AnyRequest, server: Injected[Server], link: LinkToken = "") -> Response[Any]:
    actor = visitor(request, server)
    is_form = "form" in request.headers.get("content-type", "")
    in_browser = _prefers_page(request, otherwise=is_form)
    if "sec-fetch-site" in request.headers or "origin" in request.headers:
        # Or another site could sign a browser in as somebody whose link it has.
        require_same_origin(request, server)
    sent = await _sent(request, is_form)
    token = sent.token or link
    try:
        server.sessions.limit_login(actor.address or "")
        owner, here = await server.sessions.login_link_user(token), await _who_is_here(request, server)
        if here is not None and here.id != owner.id and str(sent.replaces) != str(here.id):
            if in_browser:
                return _button_page(request, token, owner, here, status=409)
            raise SparkleError("conflict", "session.somebody_else", name=here.name, user=str(here.id))
        user = await server.sessions.use_login_link(token)
        actor = actor._replace(user=user.id)
        session = await server.sessions.sign_in(user, "login link", actor)
    except SparkleError as error:
        return await _refused(request, server, actor, error, in_browser)
    if in_browser:
        return await enter(request, server, actor, session)
    data = {"token": session, "user": user.name}
    response: Response[Any] = Response(
        Envelope(success=True, data=data), media_type=MediaType.JSON, headers=TOKEN_HEADERS
    )
    await change_session(response, request, server, actor, session)
    return response


async def _owner(server: Server, link: str, actor: Actor) -> UserRow:
    """Whom a link signs in. Only a bad link counts as an attempt: chats look at a good one again and again."""
    try:
        return await server.sessions.login_link_user(link)
    except SparkleError:
        server.sessions.limit_login(actor.address or "")
        raise


def _prefers_page(request: AnyRequest, *, otherwise: bool) -> bool:
    """Whether a page is wanted rather than JSON; `otherwise` where both are welcome alike, as "*/*" says."""
    named = ["text/html", "application/json"] if otherwise else ["application/json", "text/html"]
    return (request.accept.best_match(named) or named[0]) == "text/html"


async def _sent(request: AnyRequest, is_form: bool) -> LinkUse:
    if is_form:
        fields = {name: value for name, value in (await request.form()).items() if isinstance(value, str)}
        return LinkUse(fields.get("token", "").strip(), fields.get("replaces", "").strip())
    body = await request.body()
    try:
        return msgspec.json.decode(body, type=LinkUse, strict=False) if body.strip() else LinkUse()
    except (msgspec.MsgspecError, UnicodeError):
        raise SparkleError("bad_request", "session.unreadable_link") from None


async def _who_is_here(request: AnyRequest, server: Server) -> UserRow | None:
    """Whose session the browser has by its cookie, which signing in would end."""
    token = request.cookies.get(COOKIE, "")
    try:
        return await user_of(token, request, server) if token else None
    except SparkleError:
        return None


def _button_page(
    request: AnyRequest, token: str, owner: UserRow, here: UserRow | None, status: int = 200
) -> Response[Any]:
    other = None if here is None or here.id == owner.id else here
    # As nobody: the frame of somebody signed in has forms of its own.
    response = page(request, "login_link.html", status=status, me=None, token=token, owner=owner, other=other)
    response.headers.update(_PAGE_HEADERS)
    return response


async def _refused(
    request: AnyRequest, server: Server, actor: Actor, error: SparkleError, in_browser: bool
) -> Response[Any]:
    if error.code == "forbidden":
        await server.audit.note_failure("USER_LOGIN", actor, error, origin="login link")
    if not in_browser:
        raise error
    return await sign_in_page(request, error)


HANDLERS = (look_at_login_link, use_login_link)
