"""The BTN routes in OpenAPI terms: plain ASGI handlers don't describe themselves."""

from typing import Any

_REFUSALS = {
    "403": "The credentials are missing, wrong, or banned; the sentence says which.",
    "429": "Too many requests; try again after Retry-After seconds.",
    "503": "Busy, or the database can't be written; try again after Retry-After seconds.",
}
_UNREADABLE = {
    "400": "The body isn't readable at all.",
    "408": "The body was not complete in time.",
    "413": "The body is too large, as sent or inflated.",
    "415": "Unknown Content-Encoding.",
}
_ENVELOPE = {
    "type": "object",
    "required": ["success", "message", "data"],
    "properties": {
        "success": {"type": "boolean"},
        "message": {"type": ["string", "null"]},
        "data": {},
    },
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


def _responses(more: dict[str, Any], refusals: dict[str, str]) -> dict[str, Any]:
    content = {"application/json": {"schema": _ENVELOPE}}
    return {**more, **{status: {"description": text, "content": content} for status, text in refusals.items()}}


def _submission(summary: str, example: dict[str, Any]) -> dict[str, Any]:
    stored = {
        "description": "Committed. Rows that had to be dropped are counted in the header.",
        "headers": {"X-Sparkle-Rejected": {"schema": {"type": "integer", "minimum": 0}}},
    }
    return {
        "post": {
            "tags": ["btn"],
            "summary": summary,
            "description": "JSON, plain or gzip, in any shape of a BTN client: the shape decides, not the path.",
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"type": "object"}, "example": example}},
            },
            "responses": _responses({"200": stored}, {**_REFUSALS, **_UNREADABLE}),
            "security": [{"btn": []}],
        }
    }


def _document(summary: str, rev: str, unchanged: bool = True) -> dict[str, Any]:
    answers: dict[str, Any] = {"200": {"description": "The document.", "content": {"application/json": {}}}}
    if unchanged:
        answers["204"] = {"description": "The client has this version."}
    parameters = [{"name": "rev", "in": "query", "schema": {"type": "string"}, "description": rev}] if rev else []
    return {
        "get": {
            "tags": ["btn"],
            "summary": summary,
            "parameters": parameters,
            "responses": _responses(answers, _REFUSALS),
            "security": [{"btn": []}],
        }
    }


def paths() -> dict[str, Any]:
    """The path items of the BTN routes."""
    at = 1784277000123
    return {
        "/ping/config": _document("The configuration for the client that asks", "", unchanged=False),
        "/ping/reconfigure": _document("Whether the configuration has changed", "reconfigure.version"),
        "/ping/rules/retrieve": _document("The rules", "The version that the client has"),
        "/ping/exception": _document("The exceptions", "The version that the client has"),
        "/ping/peers/submit": _submission("Submit a snapshot of peers", {"populate_time": at, "peers": [_PEER]}),
        "/ping/bans/submit": _submission("Submit bans", {"populate_time": at, "bans": [_BAN]}),
        "/ping/histories/submit": _submission("Submit histories", {"populate_time": at, "peers": [_HISTORY]}),
    }
