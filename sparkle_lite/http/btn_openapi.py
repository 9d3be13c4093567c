"""The BTN routes in OpenAPI terms: plain ASGI handlers don't describe themselves."""

from typing import Any

from sparkle_lite.pow import KNOWN_TYPES
from sparkle_lite.wire import answers

Json = dict[str, Any]

# Objects whose schemas the path items refer to by name.
SHAPES = (answers.Heartbeat, answers.Challenge, answers.IpQuery)

_AT = 1784277000123
_REV = "2c3fa3a0"
_SECURITY: list[dict[str, list[str]]] = [{"appId": [], "appSecret": []}, {"appBearer": []}]
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
    "labels": ["Seen / 有记录"],
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


def _texts_of(item: Json) -> Json:
    return {"type": "object", "additionalProperties": {"type": "array", "items": item}}


_TEXTS = _texts_of({"type": "string"})
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
            "port": _texts_of({"type": ["integer", "string"]}),
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


def _parameter(name: str, example: str, description: str, **more: Any) -> Json:
    schema = {"type": "string", **more.pop("schema", {})}
    return {
        "name": name,
        "in": "query",
        "required": False,
        "schema": schema,
        "description": description,
        "example": example,
        **more,
    }


_PROOF = [
    _parameter("X-BTN-PowID", "-QNlKmtr00ooKEIl10SzbA", "The challenge's id, if one is asked for.", **{"in": "header"}),
    _parameter("X-BTN-PowSolution", "AAAAAAAFqzM=", "The 8 bytes that solve it, as base64.", **{"in": "header"}),
]
_VERSION = {
    "X-BTN-ContentVersion": {"description": "The version.", "schema": {"type": "string"}, "example": _REV},
}
_TAG = {"ETag": {"description": "Of these bytes.", "schema": {"type": "string"}, "example": f'"{_REV}"'}}
_SAME = "The client has by its `If-None-Match` what it would be sent."


def _content(media_type: str, schema: Json, example: Any) -> Json:
    return {media_type: {"schema": schema, "example": example}}


def _json(name: str, example: Any) -> Json:
    return _content("application/json", {"$ref": f"#/components/schemas/{name}"}, example)


def _text(media_type: str, example: str) -> Json:
    return _content(media_type, {"type": "string"}, example)


def _operation(operation_id: str, summary: str, description: str, answers: Json, **more: Any) -> Json:
    """`refusals` in `more` are those beyond the ones of every BTN route: status -> why."""
    proof = more.pop("proof", False)
    refusals = {"403": _UNPROVEN if proof else _DENIED, **_BUSY, **more.pop("refusals", {})}
    parameters = [*more.pop("parameters", []), *(_PROOF if proof else [])]
    return {
        "tags": ["btn"],
        "operationId": operation_id,
        "summary": summary,
        "description": description,
        "parameters": parameters,
        "responses": {**answers, **{status: {"description": why} for status, why in refusals.items()}},
        "security": _SECURITY,
        **more,
    }


def _submission(operation_id: str, summary: str, example: Json, *, proof: bool = False, method: str = "post") -> Json:
    counted = {
        "X-Sparkle-Rejected": {
            "required": True,
            "description": "How many rows were left out.",
            "schema": {"type": "integer", "minimum": 0},
            "example": 0,
        }
    }
    return {
        method: _operation(
            operation_id,
            summary,
            "JSON, plain or gzip, in any shape of a BTN client: the shape decides, not the path.",
            {"200": {"description": "Committed; the body is empty.", "headers": counted}},
            requestBody={"required": True, "content": _json("Submission", example)},
            refusals=_UNREADABLE,
            proof=proof,
        )
    }


def _old_submission(operation_id: str, summary: str, example: Json) -> Json:
    """A submission that may come as GET too, as the published API had it."""
    get = _submission(f"{operation_id}ByGet", summary, example, method="get")
    get["get"]["deprecated"] = True
    return get | _submission(operation_id, summary, example)


def _document(operation_id: str, summary: str, content: Json, *, proof: bool = False) -> Json:
    return {
        "get": _operation(
            operation_id,
            summary,
            "Compressed with gzip for clients that take it.",
            {
                "200": {"description": "The document.", "headers": _VERSION | _TAG, "content": content},
                "204": {"description": "The client has this version.", "headers": _VERSION},
                "304": {"description": _SAME, "headers": _VERSION | _TAG},
            },
            parameters=[_parameter("rev", _REV, "The version that the client has.")],
            proof=proof,
        )
    }


def _config() -> Json:
    return _operation(
        "btnConfig",
        "The configuration for the client that asks",
        "Tells by the User-Agent which client asks and what it understands; too old ones are refused.",
        {
            "200": {"description": "The configuration.", "headers": _TAG, "content": _json("ConfigDocument", _CONFIG)},
            "304": {"description": _SAME, "headers": _TAG},
        },
        refusals={"400": "The Host header is not a host name."},
    )


def _reconfigure() -> Json:
    return _operation(
        "btnReconfigure",
        "Whether the configuration has changed",
        "The bodies are empty.",
        {"200": {"description": "It has."}, "204": {"description": "It has not."}},
        parameters=[_parameter("rev", "7b92bc6df6af464d", "`ability.reconfigure.version` of the client's.")],
        refusals={"400": "The Host header is not a host name."},
    )


def _heartbeat() -> Json:
    body = _content("application/json", {}, {"ifaddr": "192.168.1.2"})
    return _operation(
        "btnHeartbeat",
        "The address that the request came from",
        "What the client believes of itself doesn't count.",
        {
            "200": {
                "description": "The address.",
                "content": _json("Heartbeat", {"external_ip": "203.0.113.9"}),
            }
        },
        requestBody={"required": False, "content": body},
        refusals={key: _UNREADABLE[key] for key in ("408", "413")},
        proof=True,
    )


def _query(operation_id: str, summary: str, content: Json, **more: Any) -> Json:
    address = _parameter("ip", "203.0.113.57", "One address.", required=True, schema={"anyOf": _ADDRESS})
    return _operation(
        operation_id,
        summary,
        "What was reported within seven days. 30 questions a minute at most.",
        {"200": {"description": "The report.", "content": content}},
        parameters=[address, *more.pop("parameters", [])],
        refusals={"400": "`ip` is not an address."},
        **more,
    )


_ADDRESS = [{"format": "ipv4"}, {"format": "ipv6"}]


def _widget() -> Json:
    return _query(
        "btnQueryIpWidget",
        "The same as a page to be shown in a frame",
        _text("text/html", "<!doctype html>…"),
        parameters=[
            _parameter("appId", "8c788023-8f09-4d5e-9d0c-0f3f3c1f6b1a", "The application, instead of headers."),
            _parameter("appSecret", "Zl1m0Jq0nQ3y5m7w9B1d3F5h7J9l1N3p5R7t9V1x3Z5", "Its secret."),
        ],
        security=[*_SECURITY, {"appIdInQuery": [], "appSecretInQuery": []}],
    )


def _challenge() -> Json:
    example = {
        "id": "-QNlKmtr00ooKEIl10SzbA",
        "challengeBase64": "j4Src1mpJvicT23E/xR5yw==",
        "difficultyBits": 18,
        "algorithm": "SHA-256",
        "expireAt": 1795474417279,
    }
    kind = _parameter("type", "heartbeat", "The ability.", required=True, schema={"enum": sorted(KNOWN_TYPES)})
    return _operation(
        "btnChallenge",
        "A proof of work to do before a request",
        "Good for one request, and for five minutes for the same request again. At most 64 may wait to be solved.",
        {"200": {"description": "The challenge.", "content": _json("Challenge", example)}},
        parameters=[kind],
        refusals={"400": "`type` is not an ability of protocol 20."},
    )


def paths() -> Json:
    """The path items of the BTN routes."""
    peers, histories = {"populate_time": _AT, "peers": [_PEER]}, {"populate_time": _AT, "peers": [_HISTORY]}
    bans = {"populate_time": _AT, "bans": [_BAN]}
    rules, exception = _json("RuleDocument", _RULES), _json("RuleDocument", _EXCEPTION)
    identities = _json("RuleDocument", _IDENTITIES)
    text = _text("text/plain", _LIST)
    return {
        "/ping/config": {"get": _config()},
        "/ping/reconfigure": {"get": _reconfigure()},
        "/ping/rules/retrieve": _document("btnRules", "The rules", rules),
        "/ping/exception": _document("btnException", "The exceptions", exception),
        "/ping/peers/submit": _old_submission("btnSubmitPeers", "Submit a snapshot of peers", peers),
        "/ping/bans/submit": _old_submission("btnSubmitBans", "Submit bans", bans),
        "/ping/histories/submit": _old_submission("btnSubmitHistories", "Submit histories", histories),
        "/ping/syncBanHistory": _submission(
            "btnSyncBanHistory", "Submit bans (protocol 20)", {"bans": [_SYNC_BAN]}, proof=True
        ),
        "/ping/syncSwarm": _submission("btnSyncSwarm", "Submit swarms (protocol 20)", {"swarms": [_SWARM]}, proof=True),
        "/ping/rulePeerIdentity": _document(
            "btnPeerIdentities", "The rules by peer id, client name and port", identities, proof=True
        ),
        "/ping/ruleIpDenylist": _document("btnDenylist", "The banned networks, each with its reason", text, proof=True),
        "/ping/ruleIpAllowlist": _document("btnAllowlist", "The excepted networks", text, proof=True),
        "/ping/heartbeat": {"post": _heartbeat()},
        "/ping/queryIp": {
            "get": _query("btnQueryIp", "What is known of an address", _json("IpQuery", _IP_QUERY), proof=True)
        },
        "/ping/queryIp/widget": {"get": _widget()},
        "/ping/captcha/createSession": {"get": _challenge()},
    }
