"""The OpenAPI document at /openapi.json, and the page at /docs that shows it.

The framework knows its handlers' parameters and answers; schemas come from msgspec, which is what really reads and
writes the bodies. What neither knows is added here: the BTN routes, who may ask, the refusals that every operation has.
"""

import asyncio
import inspect
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import msgspec
from litestar import Litestar, Response, get
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme, Tag
from litestar.routes import HTTPRoute
from litestar.types import Empty

import sparkle_lite
from sparkle_lite.http import github, login_link, operation
from sparkle_lite.http.api import apps, audit, btn_openapi, feeds, observations, rules, torrents, users
from sparkle_lite.http.base_path import base_path
from sparkle_lite.http.ready import JSON, Ready, ready, respond
from sparkle_lite.http.session import DEPENDENCIES, AnyRequest, Injected
from sparkle_lite.server import Server
from sparkle_lite.units import INT64_MAX

Json = dict[str, Any]
# What a login link is exchanged with: the framework reads one form of a body for each operation.
_FORMS = ("application/x-www-form-urlencoded", "application/json")
_LINK_USE: Json = {
    "type": "object",
    "properties": {"token": {"type": "string"}, "replaces": {"type": "string"}},
}

# Every handler that describes itself: the document's, and those that the served application has.
OPERATIONS = (
    *operation.HANDLERS,
    *apps.ROUTERS,
    *users.ROUTERS,
    *feeds.ROUTERS,
    *audit.ROUTERS,
    *torrents.ROUTERS,
    *observations.ROUTERS,
    *rules.ROUTERS,
    *github.HANDLERS,
    *login_link.HANDLERS,
)
_REF = "#/components/schemas/"
_METHODS = ("get", "put", "post", "delete", "patch")
_DESCRIPTION = """A BTN (BitTorrent Threat Network) server: what BTN clients ask, and the API for people and scripts.

**Answers** of the API are `{"success": true, "message": null, "data": …}`; every refusal, of the BTN routes too, is
`{"success": false, "message": "one sentence in English and Chinese", "data": null}`. Beyond what stands at each
operation: 404 for a path that isn't there, 405 (with `Allow`) for a method that a path doesn't take, 431 for headers of
more than 64 KiB.

**Numbers**: times are milliseconds since the epoch, sizes bytes, speeds bytes per second; -1 is unknown. Pages count
from 0. A name that isn't known, in a query or a body, is refused: a mistyped filter must not return everything.

**Asking again**: lists, feeds and everything else that is made before it is asked for has an `ETag`; `If-None-Match`
with it is answered 304 as long as nothing has changed. HEAD is answered wherever GET is, and changes nothing.

**Signing in**: the session token goes into `X-BTN-Token` or `Authorization: Bearer`; browsers send it as a cookie, and
then a change must come from this server's own pages. BTN clients sign in with an application's id and secret.
"""
_TAGS = {
    "btn": "What BTN clients ask: PeerBanHelper, qBittorrent-ClientBlocker, BTNScriptBC and others.",
    "ban history": "Bans that clients reported.",
    "snapshot": "Peers as clients saw them at one moment.",
    "swarm": "What went to and from a peer in all: histories, and protocol 20's swarms.",
    "client discovery": "Peer ids with client names, and when they were first and last seen.",
    "torrent": "How torrents are named here.",
    "rules": "What is listed and why, the log of it, and what administrators decide.",
    "feeds": "Lists for programs that fetch a URL and speak no BTN, and the keys to them.",
    "user application": "Installations of BTN clients: each has an id and a secret.",
    "user": "Who is signed in, and where.",
    "session": "Ways to sign in.",
    "administration": "For administrators only; what is done here is audited.",
    "operation": "For monitoring.",
}
_SECURITY_SCHEMES = {
    "sessionHeader": SecurityScheme(
        type="apiKey", name="X-BTN-Token", security_scheme_in="header", description="A session token."
    ),
    "sessionBearer": SecurityScheme(type="http", scheme="bearer", bearer_format="JWT", description="A session token."),
    "sessionCookie": SecurityScheme(
        type="apiKey", name="X-BTN-Token", security_scheme_in="cookie", description="What browsers have."
    ),
    "appId": SecurityScheme(
        type="apiKey", name="X-BTN-AppID", security_scheme_in="header", description="An application's id."
    ),
    "appSecret": SecurityScheme(
        type="apiKey", name="X-BTN-AppSecret", security_scheme_in="header", description="Its secret."
    ),
    "appBearer": SecurityScheme(
        type="http", scheme="bearer", bearer_format="id@secret", description="An application's id and secret."
    ),
    "appBasic": SecurityScheme(
        type="http", scheme="basic", description="An application's id and secret as user and password, for feeds alone."
    ),
    "feedKey": SecurityScheme(
        type="apiKey", name="key", security_scheme_in="query", description="A feed key, for feeds alone."
    ),
    "appIdInQuery": SecurityScheme(
        type="apiKey", name="appId", security_scheme_in="query", description="For a page in a frame."
    ),
    "appSecretInQuery": SecurityScheme(
        type="apiKey", name="appSecret", security_scheme_in="query", description="For a page in a frame."
    ),
}
_SESSION: list[dict[str, list[str]]] = [{"sessionHeader": []}, {"sessionBearer": []}, {"sessionCookie": []}]
_PUBLIC = frozenset({"/api/torrent/hash", "/api/user/logout"})
_CURSOR = "WyJzbmFwc2hvdCIsW10sdHJ1ZSxbXSw2LDQyLHRydWVd"
_LINK = "Zl1m0Jq0nQ3y5m7w9B1d3F5h7J9l1N3p5R7t9V1x3Z5"

# Their answers of 503 are reports, no refusals.
_PROBES = frozenset({"/healthz", "/readyz"})
_APP_ID = "8c788023-8f09-4d5e-9d0c-0f3f3c1f6b1a"

# What the framework can't say of a parameter: path parameters have no description there, and few have an example.
_PARAMETERS: dict[str, Json] = {
    "app_id": {"description": "The application's public id.", "example": _APP_ID},
    "user_id": {"description": "The user's number.", "example": 1},
    "key_id": {"description": "The key's number.", "example": 3},
    "rule_id": {"description": "The decision's number.", "example": 12},
    "action": {"description": "`deny` bans, `allow` excepts.", "example": "deny"},
    "ip": {"description": "An address or a network.", "example": "203.0.113.0/24"},
    "origin": {"description": "The analysis, list or person that it comes from.", "example": "untrusted_vote"},
    "client_name": {"description": "A client's name, as it calls itself.", "example": "Xunlei 0.0.1.9"},
    "peer_id": {"description": "The beginning of a peer id.", "example": "-XL0019-"},
    "time": {"description": "The moment (ms).", "example": 1723974917039},
    "format": {"description": "What the answer is written in."},
    "hash": {"schema": {"pattern": "^([0-9a-fA-F]{40}|[0-9a-fA-F]{64}|[a-zA-Z2-7]{32})$"}},
    "after": {"example": _CURSOR},
    "before": {"example": _CURSOR},
    "code": {"example": "e1a5c8b2f0"},
    "error": {"example": "access_denied"},
    "state": {"example": _LINK},
    "token": {"example": _LINK},
    "timeFrom": {"example": 1723900000000},
    "timeTo": {"example": 1723990000000},
    "success": {"example": True},
    "user": {"example": 1},
    "limit": {"example": 100},
    "page": {"example": 0},
    "pageSize": {"example": 100},
}
_OF_PARAMETER = ("name", "in", "required", "description", "example")

# What an operation that lets choose the format can answer with.
_FORMATS = {
    "json": "application/json",
    "atom": "application/atom+xml",
    "csv": "text/csv",
    "jsonl": "application/x-ndjson",
}
_REFUSAL = {
    "title": "Refusal",
    "description": "Why the server did not do it, in one sentence in English and Chinese.",
    "type": "object",
    "required": ["success", "message", "data"],
    "properties": {"success": {"const": False}, "message": {"type": "string"}, "data": {"type": "null"}},
}
_UNIVERSAL = {
    "400": "Something in the request is not valid; the sentence names it.",
    "403": "Not signed in, banned, or not allowed to; the sentence says which.",
    "413": "The body is too large.",
    "503": "Busy, or the database can't be written; try again after Retry-After seconds.",
}

# How the framework describes the answer that it adds to every operation with parameters.
_FRAMEWORK_400 = "Bad request syntax"
_RETRY_AFTER = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}, "example": 5}}


@get("/openapi.json", include_in_schema=False)
async def openapi(request: AnyRequest, server: Injected[Server]) -> Response[bytes]:
    """The document, made when it is first asked for."""
    base = base_path(server.config.server.public_url)
    return respond(request.scope, await asyncio.to_thread(document, base), {"cache-control": "no-cache"})


HANDLERS = (openapi,)


@lru_cache(4)
def document(base: str = "") -> Ready:
    """The document of the operations and the BTN routes, whose paths are below `base`.

    Raises ValueError if a name would stand for two schemas.
    """
    # An application of its own: the framework would publish pages and a raw copy along with the served one's schema.
    app = Litestar(OPERATIONS, dependencies=DEPENDENCIES, openapi_config=_framework_config(), logging_config=None)
    schema = app.openapi_schema.to_schema()
    schemas = _schemas(_shapes(app))
    paths = {**btn_openapi.paths(), **feeds.paths(), **_renamed(schema["paths"])}
    for path, item in paths.items():
        for method in _METHODS:
            if method in item:
                _complete(path, item[method], schemas)
    schema["servers"] = [{"url": base or "/"}]
    schema["components"]["schemas"] = dict(sorted(schemas.items()))
    return ready(JSON, msgspec.json.encode({**schema, "paths": paths}))


def _framework_config() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="Sparkle Lite",
        version=sparkle_lite.__version__,
        description=_DESCRIPTION,
        tags=[Tag(name, description) for name, description in _TAGS.items()],
        components=Components(security_schemes=dict(_SECURITY_SCHEMES)),
    )


# --- Schemas ----------------------------------------------------------------------------------------------------------


def _shapes(app: Litestar) -> Iterator[Any]:
    """Every type that a body has."""
    yield from btn_openapi.SHAPES
    for route in app.routes:
        if not isinstance(route, HTTPRoute):
            continue
        for handler, _ in route.route_handler_map.values():
            if not handler.resolve_include_in_schema():
                continue
            if "data" in handler.parsed_fn_signature.parameters:
                yield handler.parsed_fn_signature.parameters["data"].annotation
            for answer in (handler.responses or {}).values():
                if answer.data_container not in (None, Empty, str, bytes):
                    yield answer.data_container


def _schemas(shapes: Iterator[Any]) -> Json:
    _, components = msgspec.json.schema_components(list(shapes), schema_hook=_anything, ref_template=_REF + "{name}")
    schemas: Json = {"Refusal": _REFUSAL, **btn_openapi.SCHEMAS}
    for raw, schema in components.items():
        name = _readable(raw)
        if name in schemas:
            raise ValueError(f"{name} would stand for two schemas; rename one of the types")
        schemas[name] = _renamed({**schema, "title": name, **_described(schema)})
    return schemas


def _anything(kind: type) -> Json:
    if kind is object:
        return {"description": "Depends on the operation."}
    raise NotImplementedError(kind)


def _described(schema: Json) -> Json:
    return {"description": inspect.cleandoc(schema["description"])} if "description" in schema else {}


# What types are called outside, where their names in the program say more.
_WORDS = {
    "list": "List",
    "NoneType": "Empty",
    "NumberedPage": "Page",
    "BanRequest": "Reason",
    "EvidenceEntry": "Evidence",
    "OriginRequest": "Origin",
    "DecisionEntry": "Rule",
}


def _readable(name: str) -> str:
    """The name of a schema without modules and brackets: `Answer_list_package.module.User__` is UserListAnswer."""
    bare = re.sub(r"sparkle_lite(?:\.[a-z_]+)+\.", "", name)
    words = [_WORDS.get(word, word) for word in bare.split("_") if word]
    return "".join(reversed(words))


def _renamed(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _REF + _readable(each.removeprefix(_REF)) if key == "$ref" else _renamed(each)
            for key, each in value.items()
        }
    return [_renamed(each) for each in value] if isinstance(value, list) else value


def _resolved(schema: Json, schemas: Json) -> Json:
    resolved: Json = schemas[schema["$ref"].removeprefix(_REF)] if "$ref" in schema else schema
    return resolved


# --- Operations -------------------------------------------------------------------------------------------------------


def _complete(path: str, operation: Json, schemas: Json) -> None:
    """Add to an operation what the framework doesn't know of it, and take away what says nothing."""
    if not operation.get("deprecated"):
        operation.pop("deprecated", None)
    operation["parameters"] = [_parameter(each) for each in operation.get("parameters", [])]
    if path.startswith("/api/"):
        operation["security"] = [] if path in _PUBLIC else _SESSION
    operation.setdefault("security", [])
    if operation["operationId"] == "useLoginLink":
        operation["requestBody"] = {
            "content": {form: {"schema": _LINK_USE, "example": {"token": "…"}} for form in _FORMS}
        }
    if "requestBody" in operation:
        _complete_body(operation["requestBody"], schemas)
    _complete_answers(path, operation, schemas)


def _parameter(parameter: Json) -> Json:
    schema = _without_null(parameter["schema"])
    if schema.get("type") == "integer":
        low = 1 if parameter["in"] == "path" else -INT64_MAX
        schema = {"format": "int64", "minimum": low, "maximum": INT64_MAX, **schema}
    more = dict(_PARAMETERS.get(parameter["name"], {}))
    schema |= more.pop("schema", {})
    kept: Json = {key: parameter[key] for key in _OF_PARAMETER if key in parameter}
    for example in parameter.get("examples", {}).values():
        kept["example"] = example["value"]
    kept = {**more, **kept}
    if "enum" in schema and kept.get("example") not in schema["enum"]:
        kept["example"] = schema["enum"][0]
    elif schema.get("type") == "integer" and not isinstance(kept.get("example"), int):
        kept["example"] = 42
    return {**kept, "schema": schema}


def _without_null(schema: Json) -> Json:
    """A parameter's schema: what isn't given is left out, for there is no way to write null in a URL."""
    choices = [each for each in schema.get("oneOf", ()) if each.get("type") != "null"]
    if len(choices) == 1:
        schema = {**schema, **choices[0]}
    schema = {k: v for k, v in schema.items() if k not in ("oneOf", "description", "title", "examples")}
    if isinstance(schema.get("type"), list):
        schema["type"] = next(kind for kind in schema["type"] if kind != "null")
    if "enum" in schema:
        schema["enum"] = [each for each in schema["enum"] if each is not None]
    return schema


def _complete_body(body: Json, schemas: Json) -> None:
    for content in body["content"].values():
        if "example" in content:
            continue
        schema = content["schema"]
        if "allOf" in schema:
            content["schema"], content["example"] = schema["allOf"][0], schema["examples"][0]
            continue
        shape = _resolved(schema, schemas)
        content["example"] = {
            name: _first_example(field)
            for name, field in shape.get("properties", {}).items()
            if name in shape.get("required", ()) or "examples" in field
        }


def _first_example(field: Json) -> Any:
    examples = field.get("examples") or field.get("enum") or [field.get("default")]
    return examples[0]


def _complete_answers(path: str, operation: Json, schemas: Json) -> None:
    answers = operation["responses"]
    refused = set(_refused(path, operation))
    for status in refused:
        answers.setdefault(status, {"description": _UNIVERSAL[status]})
    if "400" not in refused and answers.get("400", {}).get("description", "").startswith(_FRAMEWORK_400):
        del answers["400"]
    _add_formats(path, operation)
    for status, answer in answers.items():
        if status >= "400" and path not in _PROBES:
            _complete_refusal(status, answer)
        if status in ("429", "503"):
            answer["headers"] = _RETRY_AFTER
        for content in answer.get("content", {}).values():
            _complete_example(content, schemas)
    operation["responses"] = dict(sorted(answers.items()))


def _add_formats(path: str, operation: Json) -> None:
    """Name every media type that an operation answers with; the framework takes one for each status."""
    answers = operation["responses"]
    chosen = [each["schema"]["enum"] for each in operation["parameters"] if each["name"] == "format"]
    for name in chosen[0] if chosen else ():
        answers["200"]["content"].setdefault(_FORMATS[name], {"schema": {"type": "string"}})
    if path == "/login":
        for status in answers.keys() & {"200", "403", "409", "429"}:
            answers[status]["content"].setdefault("text/html", {"schema": {"type": "string"}})


def _complete_refusal(status: str, answer: Json) -> None:
    if answer["description"].startswith(_FRAMEWORK_400):
        answer["description"] = _UNIVERSAL[status]
    contents = answer.setdefault("content", {})
    if contents and "application/json" not in contents:
        return
    example = {"success": False, "message": answer["description"], "data": None}
    contents["application/json"] = {"schema": {"$ref": f"{_REF}Refusal"}, "example": example}


def _refused(path: str, operation: Json) -> Iterator[str]:
    """The refusals that an operation has because of what it is."""
    in_query = any(each["in"] == "query" for each in operation["parameters"])
    if not path.startswith("/ping/") and (in_query or "requestBody" in operation):
        yield "400"
    if path.startswith("/api/"):
        if operation["security"]:
            yield "403"
        if path != "/api/torrent/hash":
            yield "503"
        if "requestBody" in operation:
            yield "413"


def _complete_example(content: Json, schemas: Json) -> None:
    """Give an answer one example, with the nulls that the framework leaves out."""
    examples = [each["value"] for each in content.pop("examples", {}).values()]
    if examples:
        content["example"] = examples[0]
    if isinstance(content.get("example"), dict):
        _add_nulls(content["example"], content["schema"], schemas)


def _add_nulls(example: Any, schema: Json, schemas: Json) -> None:
    schema = _resolved(schema, schemas)
    if isinstance(example, list):
        for each in example:
            _add_nulls(each, schema.get("items", {}), schemas)
    if not isinstance(example, dict):
        return
    for choice in schema.get("anyOf", ()):
        _add_nulls(example, choice, schemas)
    for name in schema.get("required", ()):
        example.setdefault(name, None)
    for name, field in schema.get("properties", {}).items():
        _add_nulls(example.get(name), field, schemas)
