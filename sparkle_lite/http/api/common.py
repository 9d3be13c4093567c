"""What the operations of the REST API have in common: their router, the envelope of their answers, how they refuse."""

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec
from litestar import Router
from litestar.datastructures import CacheControlHeader
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example
from litestar.types import Guard

from sparkle_lite.errors import SparkleError
from sparkle_lite.http.problems import Envelope
from sparkle_lite.http.requests import only
from sparkle_lite.http.session import AnyRequest
from sparkle_lite.texts import Phrase
from sparkle_lite.units import KIB

T = TypeVar("T")

# Filters, names and reasons; nothing longer means anything.
_BODY_BYTES = 64 * KIB


class Answer(msgspec.Struct, Generic[T], frozen=True):
    """The envelope of every answer."""

    success: bool
    message: str | None
    data: T


class Sentence(msgspec.Struct, frozen=True):
    """One plain sentence in both languages."""

    en: str
    zh: str


def spoken(said: Phrase) -> Sentence:
    """What is said, as the API gives it."""
    return Sentence(en=said.text("en"), zh=said.text("zh"))


def ok(data: T) -> Answer[T]:
    """What was asked for."""
    return Answer(True, None, data)


def invalid(key: str, /, **values: Any) -> SparkleError:
    """The refusal of a request that says something impossible."""
    return SparkleError("bad_request", key, **values)


def allow_only(request: AnyRequest, **parameters: object) -> None:
    """Refuse what else the query says; the parameters by their names outside, with what was read of each."""
    only(request.query_params.multi_items(), parameters)


def api_router(
    handlers: Sequence[HTTPRouteHandler], *, tags: Sequence[str] = (), guards: Sequence[Guard] = ()
) -> Router:
    """Operations below /api for those whom the guards let in: nobody keeps their answers, their bodies are small."""
    return Router(
        "/api",
        route_handlers=handlers,
        tags=tags,
        guards=guards,
        cache_control=CacheControlHeader(no_store=True),
        request_max_body_size=_BODY_BYTES,
    )


def documented(
    shape: Any, text: str, example: object, refusals: Mapping[int, str] | None = None
) -> dict[int, ResponseSpec]:
    """The answers of an operation: what a 200 holds, and why it refuses (status -> a sentence).

    What every operation refuses is added where the document is made.
    """
    return {200: described(shape, text, msgspec.to_builtins(ok(example))), **refused(refusals or {})}


def refused(refusals: Mapping[int, str]) -> dict[int, ResponseSpec]:
    """Why an operation refuses: status -> a sentence."""
    return {
        status: described(Envelope, why, {"success": False, "message": why, "data": None})
        for status, why in refusals.items()
    }


def described(shape: Any, text: str, example: object) -> ResponseSpec:
    """One answer: the type of its body, what it means, and an example as JSON."""
    return ResponseSpec(shape, generate_examples=False, description=text, examples=[Example(value=example)])
