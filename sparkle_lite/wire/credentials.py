"""Who a request says it comes from: every header form that BTN clients have ever sent.

PeerBanHelper sends up to three forms at once (BTN-AppID since 3.0, X-BTN-AppID and "Authentication" since 4.0.3, and
"Authorization" from 8.0.5 when a 401 asks for it), qBittorrent-ClientBlocker and BTNScriptBC Authorization with
X-BTN-AppID, the Rust client the others, or the installation id alone.
"""

import binascii
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

_AUTHORIZATION, _AUTHENTICATION = b"authorization", b"authentication"
_X_ID, _X_SECRET = b"x-btn-appid", b"x-btn-appsecret"
_ID, _SECRET = b"btn-appid", b"btn-appsecret"
_INSTALLATION = b"x-btn-installationid"
_HEADERS = frozenset((_AUTHORIZATION, _AUTHENTICATION, _X_ID, _X_SECRET, _ID, _SECRET, _INSTALLATION))

# What the example configurations of PeerBanHelper and the Rust client hold.
_PLACEHOLDERS = frozenset(("", "example-app-id", "example-app-secret", "example", "your_app_id", "your_app_secret"))
_INSTALLATION_ID = re.compile(r"[A-Za-z0-9-]{1,64}")


class Presented(NamedTuple):
    """What a request carries; any text may be empty.

    `app_id` and `secret` are those of the first form that holds no placeholder. `placeholder` says that there was a
    form with one. `installation_id` is well-formed (1-64 of A-Z, a-z, 0-9 and "-") or empty.
    """

    app_id: str = ""
    secret: str = ""
    installation_id: str = ""
    placeholder: bool = False


def present(headers: Iterable[tuple[bytes, bytes]], query: bytes = b"", *, basic: bool = False) -> Presented:
    """The credentials of a request; never raises.

    `headers` are raw ASGI headers with lower-case names; the first of a name counts. `query` is the raw query string,
    to be given only where PeerBanHelper's page embeds the server's widget: URLs end up in logs. `basic`: HTTP Basic
    counts too, for programs that fetch a URL and know nothing of BTN; elsewhere it may be a proxy's.
    """
    by_name: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _HEADERS:
            by_name.setdefault(name, value)
    parameters = _parameters(query) if query else {}
    app_id = secret = ""
    placeholder = False
    named = basic_pair(by_name.get(_AUTHORIZATION, b"")) if basic else None
    for candidate in (*_candidates(by_name, parameters), named):
        if candidate is None:
            continue
        if candidate[0] not in _PLACEHOLDERS and candidate[1] not in _PLACEHOLDERS:
            app_id, secret = candidate
            break
        placeholder = True
    installation = by_name.get(_INSTALLATION) or parameters.get(b"installationId")
    return Presented(app_id, secret, _installation_id(installation) if installation else "", placeholder)


def _candidates(headers: Mapping[bytes, bytes], parameters: Mapping[bytes, bytes]) -> Iterator[tuple[str, str] | None]:
    yield _bearer(headers, _AUTHORIZATION)
    yield _pair(headers, _X_ID, _X_SECRET)
    yield _bearer(headers, _AUTHENTICATION)
    yield _pair(headers, _ID, _SECRET)
    yield _pair(parameters, b"appId", b"appSecret")


def _bearer(headers: Mapping[bytes, bytes], name: bytes) -> tuple[str, str] | None:
    """`Bearer id@secret`; None for what a proxy in front may have put there. Ids have no "@", secrets may."""
    if name not in headers:
        return None
    scheme, _, rest = _text(headers[name]).partition(" ")
    app_id, at, secret = rest.partition("@")
    return (app_id.strip(), secret.strip()) if at and scheme.lower() == "bearer" else None


def basic_pair(authorization: bytes) -> tuple[str, str] | None:
    """User and password of HTTP Basic (RFC 7617), None where a header's value is something else."""
    scheme, _, rest = authorization.strip().partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        user, colon, password = binascii.a2b_base64(rest.strip()).decode("latin-1").partition(":")
    except binascii.Error:
        return None
    return (user, password) if colon else None


def _pair(headers: Mapping[bytes, bytes], app_id: bytes, secret: bytes) -> tuple[str, str] | None:
    if app_id not in headers and secret not in headers:
        return None
    return _text(headers.get(app_id, b"")), _text(headers.get(secret, b""))


def _installation_id(value: bytes) -> str:
    text = _text(value)
    return text if _INSTALLATION_ID.fullmatch(text) else ""


def _text(value: bytes) -> str:
    # Latin-1 takes any byte; ids and secrets are ASCII, so nothing else can match anyway.
    return value.decode("latin-1").strip()


def _parameters(query: bytes) -> dict[bytes, bytes]:
    """The query's parameters, first of a name. A plus stays a plus: PeerBanHelper doesn't encode what it puts there."""
    parameters: dict[bytes, bytes] = {}
    for part in query.split(b"&"):
        name, _, value = part.partition(b"=")
        parameters.setdefault(name, unquote_to_bytes(value))
    return parameters
