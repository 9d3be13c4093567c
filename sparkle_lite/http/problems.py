"""Refusals as HTTP: one status table, one envelope."""

import msgspec

from sparkle_lite.errors import Code, SparkleError

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
    "overloaded": 503,
    "quota": 507,
}


class Envelope(msgspec.Struct, frozen=True):
    """What every answer that isn't a BTN document looks like; all three keys are always there."""

    success: bool
    message: str | None = None
    data: object = None


def envelope(message: str) -> bytes:
    """The body of a refusal."""
    return msgspec.json.encode(Envelope(success=False, message=message))


def internal() -> SparkleError:
    """What is said of a fault of our own: nothing about its inside."""
    return SparkleError(
        "internal",
        "The server ran into a fault of its own; its log says more.",
        "服务器内部错误，请联系服务器管理员。",
    )


def problem(error: SparkleError) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers (but the length) and body of a refusal; in both languages, because clients show it raw."""
    message = f"{error.message} {error.message_zh}".strip()
    body = envelope(message)
    headers = [
        (b"content-type", b"application/json; charset=utf-8"),
        (b"cache-control", b"no-store"),
    ]
    if error.retry_after is not None:
        headers.append((b"retry-after", str(max(1, error.retry_after)).encode()))
    return STATUS[error.code], headers, body
