"""The BTN routes in OpenAPI terms, as data: plain ASGI handlers don't describe themselves.

What the table of routes (btn.ROUTES) says of each isn't said again: its methods, whether a proof of work may be asked
for, whether credentials may stand in the URL.
"""

from copy import deepcopy
from typing import Any, NamedTuple

from sparkle_lite.accounts.proof_of_work import KNOWN_TYPES
from sparkle_lite.http import btn
from sparkle_lite.texts import phrase
from sparkle_lite.wire import answers

Json = dict[str, Any]

# Objects whose schemas the path items refer to by name.
SHAPES = (answers.Heartbeat, answers.Challenge, answers.IpQuery)

# --- Examples ---------------------------------------------------------------------------------------------------------

_AT = 1784277000123
_REV = "2c3fa3a0"
_PEER = {
    "ip_address": "203.0.113.57",
    "peer_port": 60874,
    "peer_id": "-HP0001-",
    "client_name": "HP 0.0.0.1",
    "torrent_identifier": "52fa13494a4571a951b46b1a04be19ab9d8089c3d3761956c99f5435e6f2c8ad",
    "torrent_is_private": False,
    "torrent_size": 5044211712,
    "downloaded": 0,
    "rt_download_speed": 0,
    "uploaded": 734003200,
    "rt_upload_speed": 1048576,
    "peer_progress": 0.0,
    "downloader_progress": 0.39,
    "peer_flag": "U I X P",
}
_HISTORY = {
    **{k: v for k, v in _PEER.items() if k not in ("rt_download_speed", "rt_upload_speed")},
    "downloaded_offset": 0,
    "uploaded_offset": 0,
    "first_time_seen": 1784270000001,
    "last_time_seen": 1784276999987,
}
_BAN = {
    "btn_ban": False,
    "ban_unique_id": "0c6cd86454346c7beffbd1519bb52832515dbd01ed7cd260540820fe60bef121",
    "module": "com.ghostchu.peerbanhelper.module.impl.rule.PeerIdBlacklist",
    "rule": "-hp",
    "peer": _PEER,
    "structured_data": None,
}
_SEEN = {
    "peer_ip": "203.0.113.57",
    "peer_port": 60874,
    "peer_id": "-HP0001-",
    "peer_client_name": "HP 0.0.0.1",
    "peer_progress": 0.0,
    "torrent_identifier": "52fa13494a4571a951b46b1a04be19ab9d8089c3d3761956c99f5435e6f2c8ad",
    "torrent_is_private": False,
    "torrent_size": 5044211712,
    "from_peer_traffic": 8192,
    "to_peer_traffic": 734068736,
    "downloader_progress": 0.39,
}
_SWARM = {
    **_SEEN,
    "downloader": "d5a4cbb2-6d0a-4ba3-9d06-6b8f8d4a9f55",
    "to_peer_traffic_offset": 734003200,
    "from_peer_traffic_offset": 0,
    "first_time_seen": 1784270000001,
    "last_time_seen": 1784276999987,
    "peer_last_flags": "U I X P",
    "upload_speed": 1048576,
    "download_speed": 0,
    "upload_speed_max": 8388608,
    "download_speed_max": 4194304,
}
_SYNC_BAN = {
    **_SEEN,
    "ban_at": 1784276100123,
    "peer_flag": "U I X P",
    "module": "com.ghostchu.peerbanhelper.module.impl.rule.PeerIdBlacklist",
    "rule": "-hp",
    "description": "Matches peer id rule -hp",
    "structured_data": '{"type":"peerId"}',
}
_CONFIG = {
    "min_protocol_version": 20,
    "max_protocol_version": 20,
    "ability": {
        "submit_swarm": {
            "interval": 900000,
            "endpoint": "https://btn.example/ping/syncSwarm",
            "random_initial_delay": 300000,
        },
        "reconfigure": {
            "interval": 10800000,
            "endpoint": "https://btn.example/ping/reconfigure",
            "random_initial_delay": 300000,
            "version": "7b92bc6df6af464d",
        },
    },
}
_EXCEPTION = {
    "version": "e22eda08",
    "peer_id": {},
    "client_name": {},
    "ip": {"operator": ["203.0.113.0/24"]},
    "port": {},
}
_IDENTITIES = {
    "version": "1f7acb89",
    "peer_id": {"builtin": ['{"method":"STARTS_WITH","content":"-hp"}']},
    "client_name": {},
    "ip": {},
    "port": {"builtin": [2003]},
    "script": {},
}
_RULES = {**_IDENTITIES, "version": _REV, "ip": {"untrusted_vote": ["203.0.113.57", "2001:db8::/64"]}}
_LIST = "#[untrusted_vote] 4 people saw it cheat about its progress on 3 torrents\n203.0.113.57\n"
_IP_QUERY = {
    "color": "gray",
    "labels": [phrase("address_report.seen").raw(" / ")],
    "bans": {"duration": 604800000, "total": 0, "records": []},
    "swarms": {
        "duration": 604800000,
        "total": 0,
        "records": [],
        "concurrent_download_torrents_count": 0,
        "concurrent_seeding_torrents_count": 0,
    },
    "traffic": {"duration": 604800000, "to_peer_traffic": 0, "from_peer_traffic": 0, "share_ratio": 0.0},
    "torrents": {"duration": 604800000, "count": 0},
}
_CHALLENGE = {
    "id": "-QNlKmtr00ooKEIl10SzbA",
    "challengeBase64": "j4Src1mpJvicT23E/xR5yw==",
    "difficultyBits": 18,
    "algorithm": "SHA-256",
    "expireAt": 1795474417279,
}

# --- Schemas ----------------------------------------------------------------------------------------------------------

_TEXTS = {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}}}
_PORTS = {"type": "object", "additionalProperties": {"type": "array", "items": {"type": ["integer", "string"]}}}
SCHEMAS: Json = {
    "ConfigDocument": {
        "title": "ConfigDocument",
        "description": "Which abilities the client is to use, how often (ms), and where. Each client gets its own.",
        "type": "object",
        "required": ["min_protocol_version", "max_protocol_version", "ability"],
        "properties": {
            "min_protocol_version": {"type": "integer"},
            "max_protocol_version": {"type": "integer"},
            "ability": {
                "type": "object",
                "additionalProperties": {
                    "type": "object",
                    "required": ["interval", "endpoint", "random_initial_delay"],
                    "properties": {
                        "interval": {"type": "integer", "description": "Between two uses (ms)."},
                        "endpoint": {"type": "string", "format": "uri"},
                        "random_initial_delay": {"type": "integer", "description": "At most, before the first (ms)."},
                    },
                },
            },
        },
    },
    "RuleDocument": {
        "title": "RuleDocument",
        "description": "Rules by category. Matchers are texts in the form that the client which asks can read.",
        "type": "object",
        "required": ["version", "peer_id", "client_name", "ip", "port"],
        "properties": {
            "version": {"type": "string", "description": "What to send as `rev` next time."},
            "peer_id": _TEXTS,
            "client_name": _TEXTS,
            "ip": _TEXTS,
            "port": _PORTS,
            "script": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    },
    "Submission": {
        "title": "Submission",
        "description": "One or more of the lists, in the field names of any BTN client. A row that can't be kept costs "
        "itself and nothing else.",
        "type": "object",
        "properties": {
            "populate_time": {"description": "When the client took stock (ms)."},
            "peers": {"description": "A list of snapshots or histories."},
            "bans": {"description": "A list of bans."},
            "swarms": {"description": "A list of cumulative rows."},
        },
    },
}

# --- What routes have in common ---------------------------------------------------------------------------------------

_SECURITY: list[dict[str, list[str]]] = [{"appId": [], "appSecret": []}, {"appBearer": []}]
_SECURITY_BY_QUERY: list[dict[str, list[str]]] = [{"appIdInQuery": [], "appSecretInQuery": []}]
_DENIED = "The credentials are missing, wrong, or banned; the sentence says which."
_UNPROVEN = f"{_DENIED} Where this server asks for a proof of work: there is none, or it is not good."
_BUSY = {
    "429": "Too many requests; try again after Retry-After seconds.",
    "503": "Busy, or the database can't be written; try again after Retry-After seconds.",
}
_UNREADABLE = {
    "400": "The body isn't readable at all.",
    "408": "The body was not complete in time.",
    "413": "The body is too large as it was sent, or a decompression bomb.",
    "415": "Unknown Content-Encoding.",
}
_VERSION = {
    "X-BTN-ContentVersion": {"description": "The version.", "schema": {"type": "string"}, "example": _REV},
}
_TAG = {"ETag": {"description": "Of these bytes.", "schema": {"type": "string"}, "example": f'"{_REV}"'}}
_SAME = "The client has by its `If-None-Match` what it would be sent."
_REJECTED = {
    "X-Sparkle-Rejected": {
        "required": True,
        "description": "How many rows were left out.",
        "schema": {"type": "integer", "minimum": 0},
        "example": 0,
    }
}
_WRONG_HOST = {"400": "The Host header is not a host name."}


def _parameter(name: str, example: str, description: str, *, place: str = "query", schema: Json | None = None) -> Json:
    """A text that may be given; one that has a schema of its own must be."""
    return {
        "name": name,
        "in": place,
        "required": schema is not None,
        "schema": {"type": "string", **(schema or {})},
        "description": description,
        "example": example,
    }


_PROOF = (
    _parameter("X-BTN-PowID", "-QNlKmtr00ooKEIl10SzbA", "The challenge's id, if one is asked for.", place="header"),
    _parameter("X-BTN-PowSolution", "AAAAAAAFqzM=", "The 8 bytes that solve it, as base64.", place="header"),
)
_CREDENTIALS = (
    _parameter("appId", "8c788023-8f09-4d5e-9d0c-0f3f3c1f6b1a", "The application, instead of headers."),
    _parameter("appSecret", "Zl1m0Jq0nQ3y5m7w9B1d3F5h7J9l1N3p5R7t9V1x3Z5", "Its secret."),
)


def _content(media_type: str, schema: Json, example: Any) -> Json:
    return {media_type: {"schema": schema, "example": example}}


def _json(name: str, example: Any) -> Json:
    return _content("application/json", {"$ref": f"#/components/schemas/{name}"}, example)


def _text(media_type: str, example: str) -> Json:
    return _content(media_type, {"type": "string"}, example)


# --- What is said of each route ---------------------------------------------------------------------------------------


class Description(NamedTuple):
    """What is said of a route: `answers` are response objects by status, `refusals` sentences by status."""

    operation_id: str
    summary: str
    description: str
    answers: Json
    parameters: tuple[Json, ...] = ()
    body: Json | None = None
    refusals: Json | None = None


def _submission(operation_id: str, summary: str, example: Json) -> Description:
    return Description(
        operation_id=operation_id,
        summary=summary,
        description="JSON, plain or gzip, in any shape of a BTN client: the shape decides, not the path.",
        answers={"200": {"description": "Committed; the body is empty.", "headers": _REJECTED}},
        body={"required": True, "content": _json("Submission", example)},
        refusals=_UNREADABLE,
    )


def _document(operation_id: str, summary: str, content: Json) -> Description:
    return Description(
        operation_id=operation_id,
        summary=summary,
        description="Compressed with gzip for clients that take it.",
        answers={
            "200": {"description": "The document.", "headers": _VERSION | _TAG, "content": content},
            "204": {"description": "The client has this version.", "headers": _VERSION},
            "304": {"description": _SAME, "headers": _VERSION | _TAG},
        },
        parameters=(_parameter("rev", _REV, "The version that the client has."),),
    )


def _question(operation_id: str, summary: str, content: Json) -> Description:
    address = {"anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}
    return Description(
        operation_id=operation_id,
        summary=summary,
        description="What was reported within seven days. 30 questions a minute at most.",
        answers={"200": {"description": "The report.", "content": content}},
        parameters=(_parameter("ip", "203.0.113.57", "One address.", schema=address),),
        refusals={"400": "`ip` is not an address."},
    )


DESCRIPTIONS = {
    "/ping/config": Description(
        operation_id="btnConfig",
        summary="The configuration for the client that asks",
        description="Tells by the User-Agent which client asks and what it understands; too old ones are refused.",
        answers={
            "200": {"description": "The configuration.", "headers": _TAG, "content": _json("ConfigDocument", _CONFIG)},
            "304": {"description": _SAME, "headers": _TAG},
        },
        refusals=_WRONG_HOST,
    ),
    "/ping/reconfigure": Description(
        operation_id="btnReconfigure",
        summary="Whether the configuration has changed",
        description="The bodies are empty.",
        answers={"200": {"description": "It has."}, "204": {"description": "It has not."}},
        parameters=(_parameter("rev", "7b92bc6df6af464d", "`ability.reconfigure.version` of the client's."),),
        refusals=_WRONG_HOST,
    ),
    "/ping/rules/retrieve": _document("btnRules", "The rules", _json("RuleDocument", _RULES)),
    "/ping/exception": _document("btnException", "The exceptions", _json("RuleDocument", _EXCEPTION)),
    "/ping/peers/submit": _submission(
        "btnSubmitPeers", "Submit a snapshot of peers", {"populate_time": _AT, "peers": [_PEER]}
    ),
    "/ping/bans/submit": _submission("btnSubmitBans", "Submit bans", {"populate_time": _AT, "bans": [_BAN]}),
    "/ping/histories/submit": _submission(
        "btnSubmitHistories", "Submit histories", {"populate_time": _AT, "peers": [_HISTORY]}
    ),
    "/ping/syncBanHistory": _submission("btnSyncBanHistory", "Submit bans (protocol 20)", {"bans": [_SYNC_BAN]}),
    "/ping/syncSwarm": _submission("btnSyncSwarm", "Submit swarms (protocol 20)", {"swarms": [_SWARM]}),
    "/ping/ruleIpDenylist": _document(
        "btnDenylist", "The banned networks, each with its reason", _text("text/plain", _LIST)
    ),
    "/ping/ruleIpAllowlist": _document("btnAllowlist", "The excepted networks", _text("text/plain", _LIST)),
    "/ping/rulePeerIdentity": _document(
        "btnPeerIdentities", "The rules by peer id, client name and port", _json("RuleDocument", _IDENTITIES)
    ),
    "/ping/heartbeat": Description(
        operation_id="btnHeartbeat",
        summary="The address that the request came from",
        description="What the client believes of itself doesn't count.",
        answers={
            "200": {"description": "The address.", "content": _json("Heartbeat", {"external_ip": "203.0.113.9"})},
        },
        body={"required": False, "content": _content("application/json", {}, {"ifaddr": "192.168.1.2"})},
        refusals={status: _UNREADABLE[status] for status in ("408", "413")},
    ),
    "/ping/queryIp": _question("btnQueryIp", "What is known of an address", _json("IpQuery", _IP_QUERY)),
    "/ping/queryIp/widget": _question(
        "btnQueryIpWidget", "The same as a page to be shown in a frame", _text("text/html", "<!doctype html>…")
    ),
    "/ping/captcha/createSession": Description(
        operation_id="btnChallenge",
        summary="A proof of work to do before a request",
        description=(
            "Good for one request, and for five minutes for the same request again. At most 64 may wait to be solved."
        ),
        answers={"200": {"description": "The challenge.", "content": _json("Challenge", _CHALLENGE)}},
        parameters=(_parameter("type", "heartbeat", "The ability.", schema={"enum": sorted(KNOWN_TYPES)}),),
        refusals={"400": "`type` is not an ability of protocol 20."},
    ),
}


# --- The path items ---------------------------------------------------------------------------------------------------


def paths() -> Json:
    """The path items of the BTN routes, for the caller to complete."""
    return {route.path: {method.lower(): _operation(route, method) for method in route.methods} for route in btn.ROUTES}


def _operation(route: btn.Route, method: str) -> Json:
    said = DESCRIPTIONS[route.path]
    # The published API had submissions by GET.
    is_old = method == "GET" and "POST" in route.methods
    refusals = {"403": _UNPROVEN if route.ability else _DENIED, **_BUSY, **(said.refusals or {})}
    operation = {
        "tags": ["btn"],
        "operationId": f"{said.operation_id}ByGet" if is_old else said.operation_id,
        "summary": said.summary,
        "description": said.description,
        "parameters": [
            *said.parameters,
            *(_PROOF if route.ability else ()),
            *(_CREDENTIALS if route.by_query else ()),
        ],
        "responses": said.answers | {status: {"description": why} for status, why in refusals.items()},
        "security": [*_SECURITY, *(_SECURITY_BY_QUERY if route.by_query else ())],
        **({"requestBody": said.body} if said.body else {}),
        **({"deprecated": True} if is_old else {}),
    }
    return deepcopy(operation)
