"""Signing in by a one-time login link: with a browser, or for a token."""

from typing import Annotated, Any

from litestar import MediaType, Response, get
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import QueryParameter
from litestar.response import Stream

from sparkle_lite.errors import SparkleError
from sparkle_lite.http.head import is_head
from sparkle_lite.http.problems import Envelope
from sparkle_lite.http.session import TOKEN_HEADERS, AnyRequest, Injected, enter, redirect, set_session_cookie, visitor
from sparkle_lite.http.web.sign_in import sign_in_page
from sparkle_lite.server import Server


@get(
    "/login",
    tags=["session"],
    summary="Exchange a one-time login link for a session",
    operation_id="useLoginLink",
    description="A browser gets the session cookie and the first page; who prefers JSON gets the token.",
    responses={
        200: ResponseSpec(
            Envelope,
            generate_examples=False,
            description="The token and the user's name; a page without a link.",
            examples=[Example(value={"success": True, "data": {"token": "eyJhbGciOi…", "user": "alice"}})],
        ),
        302: ResponseSpec(None, description="To the first page, where the client prefers HTML."),
        403: ResponseSpec(Envelope, generate_examples=False, description="Used already, too old, or banned."),
        429: ResponseSpec(Envelope, generate_examples=False, description="Too many attempts from this address."),
    },
)
async def use_login_link(
    request: AnyRequest,
    server: Injected[Server],
    link: Annotated[str, QueryParameter(name="token", description="The link's token.")] = "",
) -> Response[Any]:
    actor = visitor(request, server)
    in_browser = request.accept.best_match(["application/json", "text/html"]) == "text/html"
    if in_browser and not link:
        return await sign_in_page(request, None)
    try:
        server.sessions.limit_login(actor.address or "")
        if is_head(request.scope):
            await server.sessions.login_link_user(link)
            return redirect("/") if in_browser else Stream((), media_type=MediaType.JSON, headers=TOKEN_HEADERS)
        user = await server.sessions.use_login_link(link)
        actor = actor._replace(user=user.id)
        token = await server.sessions.sign_in(user, "login link", actor)
    except SparkleError as error:
        if error.code == "forbidden":
            await server.audit.note_failure("USER_LOGIN", actor, error, origin="login link")
        if not in_browser:
            raise
        return await sign_in_page(request, error)
    if in_browser:
        return await enter(request, server, actor, token)
    response: Response[Any] = Response(
        Envelope(success=True, data={"token": token, "user": user.name}),
        media_type=MediaType.JSON,
        headers=TOKEN_HEADERS,
    )
    set_session_cookie(response, token, request, server)
    return response


HANDLERS = (use_login_link,)
