"""Signing in with a browser by GitHub's OAuth 2 with PKCE. Refusals are pages.

The way through GitHub: `login` sends the browser there with a state and a challenge and leaves the verifier in its
cookie; `callback` wants both back, trades GitHub's code for a token, asks who that is, and forgets the token.
"""

import asyncio
import html
import logging
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Annotated, NamedTuple, TypeVar
from urllib.parse import urlencode

import msgspec
from litestar import MediaType, Response, get
from litestar.openapi import ResponseSpec
from litestar.params import QueryParameter

import sparkle_lite
from sparkle_lite.accounts.actors import Actor
from sparkle_lite.accounts.sessions import OAUTH_STATE_MS, GitHubUser
from sparkle_lite.config import GitHubSection
from sparkle_lite.errors import SparkleError
from sparkle_lite.http.head import is_head
from sparkle_lite.http.problems import STATUS
from sparkle_lite.http.session import AnyRequest, Injected, enter, is_https, own_url, redirect, visitor
from sparkle_lite.server import Server
from sparkle_lite.texts import ENGLISH, SHOWN_RAW, Phrase, phrase
from sparkle_lite.units import INT64_MAX, MIB

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

# For each of the three questions to GitHub.
TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = MIB
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

    def __init__(self, client: "httpx.AsyncClient", github: GitHubSection) -> None:
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
        if profile.id > INT64_MAX:
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
            raise SparkleError("forbidden", "github.not_accepted")
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


def _new_client() -> "httpx.AsyncClient":
    # A tenth of a second that only a server on which somebody signs in spends.
    import httpx

    return httpx.AsyncClient(
        timeout=TIMEOUT_S,
        follow_redirects=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        # Uncompressed: the limit counts what arrives, and a small body can inflate to a huge one.
        headers={"user-agent": f"sparkle-lite/{sparkle_lite.__version__}", "accept-encoding": "identity"},
    )


@asynccontextmanager
async def _client() -> AsyncIterator["httpx.AsyncClient"]:
    async with await asyncio.to_thread(_new_client) as client:
        yield client


# --- The operations ---------------------------------------------------------------------------------------------------

_REFUSED = ResponseSpec(
    str, generate_examples=False, media_type=MediaType.HTML, description="Refused; a page says why."
)


class _Return(NamedTuple):
    """What a browser comes back from GitHub with: a one-time code, or why there is none; `state` is ours."""

    code: str
    state: str
    error: str


@get(
    "/auth/oauth2/github/login",
    status_code=302,
    tags=["session"],
    summary="Sign in with GitHub",
    operation_id="githubLogin",
    description="Sends the browser to GitHub, which sends it back to the callback.",
    responses={404: _REFUSED, 429: _REFUSED},
)
async def login(request: AnyRequest, server: Injected[Server]) -> Response[str]:
    github = server.config.auth.github
    if not is_configured(github):
        return refusal_page(_not_configured())
    try:
        server.sessions.limit_login(visitor(request, server).address or "")
        callback_url = own_url(request, server) + _CALLBACK
        begun = await server.sessions.start_oauth(keep=not is_head(request.scope))
    except SparkleError as error:
        return refusal_page(error)
    query = {
        "client_id": github.client_id,
        "redirect_uri": callback_url,
        "scope": "read:user user:email",
        "state": begun.state,
        "code_challenge": begun.challenge,
        "code_challenge_method": "S256",
    }
    separator = "&" if "?" in github.authorize_url else "?"
    response = redirect(f"{github.authorize_url}{separator}{urlencode(query)}")
    _set_verifier(response, begun.verifier, request, server)
    return response


@get(
    _CALLBACK,
    status_code=302,
    tags=["session"],
    summary="Where GitHub sends the browser back to",
    operation_id="githubCallback",
    description="Sets the session cookie and leads to the first page.",
    responses={400: _REFUSED, 403: _REFUSED, 404: _REFUSED, 429: _REFUSED, 502: _REFUSED},
)
async def callback(
    request: AnyRequest,
    server: Injected[Server],
    code: Annotated[str, QueryParameter(description="GitHub's one-time code.")] = "",
    login_state: Annotated[str, QueryParameter(name="state", description="What `login` sent to GitHub.")] = "",
    refused: Annotated[str, QueryParameter(name="error", description="Why GitHub refused.")] = "",
) -> Response[str]:
    actor = visitor(request, server)
    try:
        token = await _finish(request, server, actor, _Return(code=code, state=login_state, error=refused))
    except SparkleError as error:
        if error.code == "forbidden":
            await server.audit.note_failure("USER_LOGIN", actor, error, origin="GitHub")
        response = refusal_page(error)
    except GitHubFailed as error:
        response = _failure_page(error)
    else:
        response = await enter(request, server, actor, token)
    _set_verifier(response, "", request, server)
    return response


HANDLERS = (login, callback)


def is_configured(github: GitHubSection) -> bool:
    """Whether this server offers login with GitHub."""
    return bool(github.client_id and github.client_secret)


async def _finish(request: AnyRequest, server: Server, actor: Actor, returned: _Return) -> str:
    """The session token of whoever comes back; none for a HEAD, which only learns whether they may.

    Raises SparkleError, GitHubFailed.
    """
    github = server.config.auth.github
    if not is_configured(github):
        raise _not_configured()
    server.sessions.limit_login(actor.address or "")
    verifier = request.cookies.get(VERIFIER_COOKIE, "")
    if is_head(request.scope):
        await server.sessions.check_oauth(returned.state, verifier)
    else:
        await server.sessions.finish_oauth(returned.state, verifier)
    if returned.error == "access_denied":
        raise SparkleError("forbidden", "github.not_allowed")
    if returned.error:
        name = returned.error if _ERROR_NAME.fullmatch(returned.error) else "an unknown error"
        raise GitHubFailed(f"the callback: {name}")
    if not _CODE.fullmatch(returned.code):
        raise SparkleError("bad_request", "github.no_code")
    callback_url = own_url(request, server) + _CALLBACK
    if is_head(request.scope):
        return ""
    async with _client() as client:
        who = await _Exchange(client, github).who(returned.code, verifier, callback_url)
    return await server.sessions.sign_in_github(who, actor)


def _set_verifier(response: Response[str], verifier: str, request: AnyRequest, server: Server) -> None:
    response.set_cookie(
        VERIFIER_COOKIE,
        verifier,
        max_age=OAUTH_STATE_MS // 1000 if verifier else 0,
        path="/auth",
        secure=is_https(request, server),
        httponly=True,
        # Lax, not strict: the way back from GitHub is a link on another site.
        samesite="lax",
    )


# --- Pages ------------------------------------------------------------------------------------------------------------


def refusal_page(error: SparkleError) -> Response[str]:
    """A refusal as a small page that needs nothing else."""
    headers = {} if error.retry_after is None else {"retry-after": str(max(1, error.retry_after))}
    return _page(STATUS[error.code], error.said, headers)


def _failure_page(error: GitHubFailed) -> Response[str]:
    reference = secrets.token_hex(4)
    logger.warning("a login with GitHub failed", extra={"reference": reference, "reason": str(error)})
    return _page(502, phrase("github.failed", reference=reference), {})


def _page(status: int, said: Phrase, headers: dict[str, str]) -> Response[str]:
    sentences = "".join(f"<p{_named(each)}>{html.escape(said.text(each))}</p>" for each in SHOWN_RAW)
    back = " / ".join(_in(each, phrase("github.back")) for each in SHOWN_RAW)
    body = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">'
        f"<title>Sparkle Lite</title></head><body><main><h1>Sparkle Lite</h1>{sentences}"
        f'<p><a href="/">{back}</a></p></main></body></html>'
    )
    return Response(body, status_code=status, media_type=MediaType.HTML, headers={**_PAGE_HEADERS, **headers})


def _named(language: str) -> str:
    """What an element says of its language where the page's is another."""
    return "" if language == ENGLISH else f' lang="{phrase("language.tag").text(language)}"'


def _in(language: str, said: Phrase) -> str:
    text = html.escape(said.text(language))
    return f"<span{_named(language)}>{text}</span>" if _named(language) else text


def _not_configured() -> SparkleError:
    return SparkleError("not_found", "github.not_configured")
