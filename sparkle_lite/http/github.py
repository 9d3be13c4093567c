"""Signing in with a browser: GitHub's OAuth 2 with PKCE, and one-time login links. Refusals are pages.

The way through GitHub: `login` sends the browser there with a state and a challenge and leaves the verifier in its
cookie; `callback` wants both back, trades GitHub's code for a token, asks who that is, and forgets the token.
"""

import asyncio
import html
import logging
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import urlencode

import msgspec
from litestar import MediaType, Request, Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import QueryParameter
from litestar.response import Stream

import sparkle_lite
from sparkle_lite.accounts import OAUTH_STATE_MS, Actor, GitHubUser
from sparkle_lite.config import GitHub
from sparkle_lite.errors import SparkleError
from sparkle_lite.http.head import is_head
from sparkle_lite.http.problems import STATUS, Envelope
from sparkle_lite.http.requests import base_url
from sparkle_lite.http.session import COOKIE, is_https, set_session_cookie, visitor
from sparkle_lite.runtime import Runtime

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")
Asked = Request[Any, Any, Any]

SignInPage = Callable[[Asked, SparkleError | None], Awaitable[Response[bytes]]]

# For each of the three questions to GitHub.
TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 1 << 20
VERIFIER_COOKIE = "sparkle-login"

_CALLBACK = "/auth/oauth2/github/callback"
_CODE = re.compile(r"[\x21-\x7e]{1,512}")
_ERROR_NAME = re.compile(r"[a-z_]{1,64}")
_TOKEN = re.compile(r"[\x21-\x7e]{1,2048}")
_AVATAR = re.compile(r"https://[\x21-\x7e]{1,500}")
_PAGE_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_TOKEN_HEADERS = {"cache-control": "no-store", "referrer-policy": "no-referrer"}

logger = logging.getLogger("sparkle.github")


class GitHubFailed(Exception):
    """GitHub did not answer as it should; the text is for the log and holds nothing that GitHub sent."""


# --- What GitHub answers ----------------------------------------------------------------------------------------------


class _Token(msgspec.Struct):
    # Errors come with status 200 too ("Troubleshooting OAuth app access token request errors").
    access_token: str = ""
    error: str = ""


class _Profile(msgspec.Struct):
    id: Annotated[int, msgspec.Meta(gt=0)]
    login: Annotated[str, msgspec.Meta(min_length=1)]
    name: str | None = None
    avatar_url: str | None = None


class _Email(msgspec.Struct):
    email: str
    primary: bool = False
    verified: bool = False


def verified_email(emails: list[_Email]) -> str | None:
    """The primary address if GitHub verified it, else any verified one: nothing else proves that it is theirs."""
    usable = [each for each in emails if each.verified and 3 <= len(each.email) <= 254 and "@" in each.email]
    usable.sort(key=lambda each: not each.primary)
    return usable[0].email if usable else None


class _Exchange:
    """The three questions to GitHub of one login, by one client that keeps no cookies and follows no redirects."""

    def __init__(self, client: "httpx.AsyncClient", github: GitHub) -> None:
        self._client = client
        self._github = github

    async def who(self, code: str, verifier: str, redirect_uri: str) -> GitHubUser:
        """Whose code this is. Raises GitHubFailed, or SparkleError for a code that is good no more."""
        token = await self._token(code, verifier, redirect_uri)
        # GitHub asks every program for its name; the version pins the shape of the answers.
        headers = {
            "authorization": f"Bearer {token}",
            "accept": "application/vnd.github+json",
            "x-github-api-version": "2022-11-28",
        }
        api = self._github.api_url.rstrip("/")
        status, body = await self._ask("GET", f"{api}/user", headers)
        profile = _decoded(status, body, _Profile, "/user")
        status, body = await self._ask("GET", f"{api}/user/emails", headers)
        # Whoever took the scope away again, or an organisation that forbids it, signs in without an address.
        emails = [] if status in (403, 404) else _decoded(status, body, list[_Email], "/user/emails")
        if profile.id >= 1 << 63:
            raise GitHubFailed("/user: the id is too large")
        avatar = profile.avatar_url or ""
        return GitHubUser(
            id=profile.id,
            login=profile.login,
            nickname=profile.name,
            avatar=avatar if _AVATAR.fullmatch(avatar) else None,
            email=verified_email(emails),
        )

    async def _token(self, code: str, verifier: str, redirect_uri: str) -> str:
        form = {
            "client_id": self._github.client_id,
            "client_secret": self._github.client_secret,
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        status, body = await self._ask("POST", self._github.token_url, {"accept": "application/json"}, form)
        answer = _decoded(status, body, _Token, "the token URL")
        if answer.error == "bad_verification_code":
            raise SparkleError(
                "forbidden",
                "GitHub does not accept this sign-in any more; begin again.",
                "GitHub 已不再接受此次登录，请重新登录。",
            )
        if answer.error:
            name = answer.error if _ERROR_NAME.fullmatch(answer.error) else "an unknown error"
            raise GitHubFailed(f"the token URL: {name}")
        if not _TOKEN.fullmatch(answer.access_token):
            raise GitHubFailed("the token URL: no usable token")
        return answer.access_token

    async def _ask(
        self, method: str, url: str, headers: dict[str, str], form: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        import httpx

        try:
            async with (
                asyncio.timeout(TIMEOUT_S),
                self._client.stream(method, url, headers=headers, data=form) as response,
            ):
                body = bytearray()
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > MAX_ANSWER_BYTES:
                        raise GitHubFailed(f"{url}: the answer is too long")
                return response.status_code, bytes(body)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise GitHubFailed(f"{url}: {type(error).__name__}") from None


def _decoded(status: int, body: bytes, shape: type[T], what: str) -> T:
    if status != 200:
        raise GitHubFailed(f"{what}: status {status}")
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise GitHubFailed(f"{what}: not the JSON that is documented") from None


@asynccontextmanager
async def _client() -> AsyncIterator["httpx.AsyncClient"]:
    def make() -> "httpx.AsyncClient":
        # A tenth of a second that only a server on which somebody signs in spends.
        import httpx

        return httpx.AsyncClient(
            timeout=TIMEOUT_S,
            follow_redirects=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            # Uncompressed: the limit counts what arrives, and a small body can inflate to a huge one.
            headers={"user-agent": f"sparkle-lite/{sparkle_lite.__version__}", "accept-encoding": "identity"},
        )

    async with await asyncio.to_thread(make) as client:
        yield client


# --- The routes -------------------------------------------------------------------------------------------------------


def routes(runtime: Runtime, sign_in_page: SignInPage) -> list[HTTPRouteHandler]:
    """The handlers of one server; `sign_in_page` is what a browser gets that has no usable login link."""
    page = ResponseSpec(
        str, generate_examples=False, media_type=MediaType.HTML, description="Refused; a page says why."
    )

    @get(
        "/auth/oauth2/github/login",
        status_code=302,
        tags=["session"],
        summary="Sign in with GitHub",
        operation_id="githubLogin",
        description="Sends the browser to GitHub, which sends it back to the callback.",
        responses={404: page, 429: page},
    )
    async def login(request: Asked) -> Response[str]:
        github = runtime.config.auth.github
        if not is_configured(github):
            return refusal_page(_not_configured())
        try:
            runtime.accounts.limit_login(visitor(request, runtime).address or "")
            back = _callback_url(request, runtime)
            begun = await runtime.accounts.start_oauth(keep=not is_head(request.scope))
        except SparkleError as error:
            return refusal_page(error)
        query = {
            "client_id": github.client_id,
            "redirect_uri": back,
            "scope": "read:user user:email",
            "state": begun.state,
            "code_challenge": begun.challenge,
            "code_challenge_method": "S256",
        }
        separator = "&" if "?" in github.authorize_url else "?"
        response = _redirect(f"{github.authorize_url}{separator}{urlencode(query)}")
        _set_verifier(response, begun.verifier, request, runtime)
        return response

    @get(
        _CALLBACK,
        status_code=302,
        tags=["session"],
        summary="Where GitHub sends the browser back to",
        operation_id="githubCallback",
        description="Sets the session cookie and leads to the first page.",
        responses={400: page, 403: page, 404: page, 429: page, 502: page},
    )
    async def callback(
        request: Asked,
        code: Annotated[str, QueryParameter(description="GitHub's one-time code.")] = "",
        login_state: Annotated[str, QueryParameter(name="state", description="What `login` sent to GitHub.")] = "",
        refused: Annotated[str, QueryParameter(name="error", description="Why GitHub refused.")] = "",
    ) -> Response[str]:
        actor = visitor(request, runtime)
        try:
            token = await _finish(request, runtime, actor, code, login_state, refused)
        except SparkleError as error:
            if error.code == "forbidden":
                await runtime.accounts.note_failure("USER_LOGIN", actor, error, origin="GitHub")
            response = refusal_page(error)
        except GitHubFailed as error:
            response = _failure_page(error)
        else:
            response = await _signed_in(token, actor, request, runtime)
        _set_verifier(response, "", request, runtime)
        return response

    return [login, callback, _login_link(runtime, sign_in_page)]


def _login_link(runtime: Runtime, sign_in_page: SignInPage) -> HTTPRouteHandler:
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
    async def login(
        request: Asked, link: Annotated[str, QueryParameter(name="token", description="The link's token.")] = ""
    ) -> Response[Any]:
        actor = visitor(request, runtime)
        in_browser = request.accept.best_match(["application/json", "text/html"]) == "text/html"
        if in_browser and not link:
            return await sign_in_page(request, None)
        try:
            runtime.accounts.limit_login(actor.address or "")
            if is_head(request.scope):
                await runtime.accounts.login_link_user(link)
                return _redirect("/") if in_browser else Stream((), media_type=MediaType.JSON, headers=_TOKEN_HEADERS)
            user = await runtime.accounts.use_login_link(link)
            actor = actor._replace(user=user.id)
            token = await runtime.accounts.session_token(user, "login link", actor)
        except SparkleError as error:
            if error.code == "forbidden":
                await runtime.accounts.note_failure("USER_LOGIN", actor, error, origin="login link")
            if not in_browser:
                raise
            return await sign_in_page(request, error)
        if in_browser:
            return await _signed_in(token, actor, request, runtime)
        response: Response[Any] = Response(
            Envelope(success=True, data={"token": token, "user": user.name}),
            media_type=MediaType.JSON,
            headers=_TOKEN_HEADERS,
        )
        set_session_cookie(response, token, request, runtime)
        return response

    return login


def is_configured(github: GitHub) -> bool:
    """Whether this server offers login with GitHub."""
    return bool(github.client_id and github.client_secret)


async def _finish(request: Asked, runtime: Runtime, actor: Actor, code: str, state: str, refused: str) -> str:
    """A session token for whoever comes back from GitHub; none for a HEAD, which only learns whether they may."""
    github = runtime.config.auth.github
    if not is_configured(github):
        raise _not_configured()
    runtime.accounts.limit_login(actor.address or "")
    verifier = request.cookies.get(VERIFIER_COOKIE, "")
    if is_head(request.scope):
        await runtime.accounts.check_oauth(state, verifier)
    else:
        await runtime.accounts.finish_oauth(state, verifier)
    if refused == "access_denied":
        raise SparkleError("forbidden", "You did not allow the sign-in at GitHub.", "您在 GitHub 上取消了授权。")
    if refused:
        raise GitHubFailed(f"the callback: {refused if _ERROR_NAME.fullmatch(refused) else 'an unknown error'}")
    if not _CODE.fullmatch(code):
        raise SparkleError("bad_request", "GitHub's answer lacks its code; begin again.", "缺少授权码，请重新登录。")
    callback = _callback_url(request, runtime)
    if is_head(request.scope):
        return ""
    async with _client() as client:
        who = await _Exchange(client, github).who(code, verifier, callback)
    return await runtime.accounts.sign_in_github(who, actor)


async def _signed_in(token: str, actor: Actor, request: Asked, runtime: Runtime) -> Response[str]:
    """To the first page with a session of its own; the one that the browser had ends."""
    before = request.cookies.get(COOKIE, "")
    if before and not is_head(request.scope):
        await runtime.accounts.log_out(before, actor)
    response = _redirect("/")
    set_session_cookie(response, token, request, runtime)
    return response


def _redirect(url: str) -> Response[str]:
    headers = {"location": url, **_TOKEN_HEADERS}
    return Response("", status_code=302, headers=headers, media_type=MediaType.TEXT)


def _callback_url(request: Asked, runtime: Runtime) -> str:
    server = runtime.config.server
    return base_url(request.scope, server.public_url, server.trusted_proxies) + _CALLBACK


def _set_verifier(response: Response[str], verifier: str, request: Asked, runtime: Runtime) -> None:
    response.set_cookie(
        VERIFIER_COOKIE,
        verifier,
        max_age=OAUTH_STATE_MS // 1000 if verifier else 0,
        path="/auth",
        secure=is_https(request, runtime),
        httponly=True,
        # Lax, not strict: the way back from GitHub is a link on another site.
        samesite="lax",
    )


# --- Pages ------------------------------------------------------------------------------------------------------------


def refusal_page(error: SparkleError) -> Response[str]:
    """A refusal as a small page that needs nothing else."""
    headers = {} if error.retry_after is None else {"retry-after": str(max(1, error.retry_after))}
    return _page(STATUS[error.code], error.message, error.message_zh, headers)


def _failure_page(error: GitHubFailed) -> Response[str]:
    reference = secrets.token_hex(4)
    logger.warning("a login with GitHub failed", extra={"reference": reference, "reason": str(error)})
    return _page(
        502,
        f"GitHub could not tell who you are; try again later. The server's log has the reason under {reference}.",
        f"无法从 GitHub 获取您的身份，请稍后再试。服务器日志中的编号为 {reference}。",
        {},
    )


def _page(status: int, text: str, text_zh: str, headers: dict[str, str]) -> Response[str]:
    body = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">'
        "<title>Sparkle Lite</title></head><body><main><h1>Sparkle Lite</h1>"
        f'<p>{html.escape(text)}</p><p lang="zh-CN">{html.escape(text_zh)}</p>'
        '<p><a href="/">Back to the first page / <span lang="zh-CN">返回首页</span></a></p></main></body></html>'
    )
    return Response(body, status_code=status, media_type=MediaType.HTML, headers={**_PAGE_HEADERS, **headers})


def _not_configured() -> SparkleError:
    return SparkleError(
        "not_found",
        "This server offers no login with GitHub; its operator can give you a login link.",
        "此服务器未启用 GitHub 登录，可向管理员索取登录链接。",
    )
