"""Refusals as HTTP: one status table, one envelope."""

from collections.abc import Iterable
from typing import Any

import msgspec
from litestar.exceptions import HTTPException

from sparkle_lite.errors import Code, SparkleError
from sparkle_lite.texts import joined

STATUS: dict[Code, int] = {
    "bad_request": 400,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "timeout": 408,
    "conflict": 409,
    "too_large": 413,
    "unsupported": 415,
    "too_many": 429,
    "internal": 500,
    "upstream": 502,
    "overloaded": 503,
    "quota": 507,
}


class Envelope(msgspec.Struct, frozen=True):
    """What every answer that isn't a BTN document looks like; all three keys are always there."""

    success: bool
    message: str | None = None
    data: object = None


def with_head(methods: Iterable[str]) -> list[str]:
    """The methods of a path in order, with HEAD where there is GET."""
    return sorted({*methods} | ({"HEAD"} if "GET" in methods else set()))


class MethodNotAllowed(SparkleError):
    """The path takes other methods; they go out as Allow, which RFC 9110 demands."""

    def __init__(self, method: str, allowed: Iterable[str]) -> None:
        names = [name for name in sorted(allowed) if name not in ("HEAD", "OPTIONS")]
        self.allow = ", ".join(with_head(allowed))
        methods = joined("language.or", names)
        super().__init__("method_not_allowed", "request.bad_method", methods=methods, method=method[:16])


def envelope(message: str) -> bytes:
    """The body of a refusal."""
    return msgspec.json.encode(Envelope(success=False, message=message))


def internal() -> SparkleError:
    """What is said of a fault of our own: nothing about its inside."""
    return SparkleError("internal", "server.fault")


def nothing_here() -> SparkleError:
    """What is said of a path that isn't there."""
    return SparkleError("not_found", "request.nothing_here")


def problem(error: SparkleError) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers (but the length) and body of a refusal; in both languages, because clients show it raw."""
    body = envelope(error.said.raw())
    headers = [
        (b"content-type", b"application/json; charset=utf-8"),
        (b"cache-control", b"no-store"),
    ]
    if error.retry_after is not None:
        headers.append((b"retry-after", str(max(1, error.retry_after)).encode()))
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", error.allow.encode()))
    return STATUS[error.code], headers, body


def known(error: Exception, method: str) -> SparkleError | None:
    """What an error that a handler or the framework raised says to whoever asked; None for a fault of our own."""
    if isinstance(error, SparkleError):
        return error
    if isinstance(error, RecursionError):
        return _bad("request.nested")
    if isinstance(error, UnicodeDecodeError):
        return _bad("request.not_utf8")
    if not isinstance(error, HTTPException):
        return None
    match error.status_code:
        case 400:
            return _invalid(error)
        case 404:
            return nothing_here()
        case 405:
            return MethodNotAllowed(method, (error.headers or {}).get("allow", "").split(", "))
        case 413:
            return SparkleError("too_large", "request.large")
        case _:
            return None


def _invalid(error: HTTPException) -> SparkleError:
    """A request that the framework can't read, as a sentence that names the field."""
    extra = error.extra if isinstance(error.extra, list) else []
    first = extra[0] if extra and isinstance(extra[0], dict) else {}
    name, why = str(first.get("key", "")), str(first.get("message", ""))
    if why == "'data'":
        return _bad("request.no_object")
    if not name:
        return _bad("request.invalid", why=error.detail.rstrip("."))
    # The framework calls a parameter by its name in the program: page_size is pageSize outside.
    first_word, *words = name.split("_")
    where = "body" if name == "data" else first_word + "".join(word.title() for word in words)
    return _bad("request.invalid_field", where=where, why=why)


def _bad(key: str, /, **values: Any) -> SparkleError:
    return SparkleError("bad_request", key, **values)
