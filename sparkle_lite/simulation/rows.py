"""The rows that client programs write of what they saw, field by field in the order and form of each version."""

import hashlib
import ipaddress
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from sparkle_lite.simulation.programs import Program, torrent_identifier
from sparkle_lite.units import GIB

Document = dict[str, Any]
Why = Literal["difference", "excessive", "rewind", "fast", "dialing", "identity", "btn"]
PBH_MODULES = "com.ghostchu.peerbanhelper.module.impl.rule."
_QBCB = "com.SimpleTracker.qBCB."


@dataclass(slots=True)
class Transfer:
    """A peer on one torrent as a client sees it: totals in bytes, times in ms.

    `earlier_up` and `earlier_down` of the totals went over connections that are closed. `taken` is what went to its
    network in all, over whatever ports and addresses.
    """

    ip: str
    port: int
    info_hash: str
    size: int
    peer_id: str = "-qB4650-"
    client_name: str = "qBittorrent/4.6.5"
    private: bool = False
    up: int = 0
    down: int = 0
    earlier_up: int = 0
    earlier_down: int = 0
    taken: int = 0
    progress: float = 0.25
    own_progress: float = 1.0
    flags: str | None = None
    first: int = 0
    last: int = 0


class Ban(NamedTuple):
    """A ban: the how-manieth of its client, when (ms), of whom as they were then, and why."""

    number: int
    at: int
    peer: Transfer
    why: Why
    detail: str = ""


def identifier(program: Program, peer: Transfer) -> str:
    """A peer's torrent as the program names it."""
    return torrent_identifier(peer.info_hash, program.byte_order)


@lru_cache(65_536)
def java_address(ip: str) -> str:
    """An address as Java writes it: IPv6 in eight groups without leading zeros."""
    if ":" not in ip:
        return ip
    return ":".join(f"{int(group, 16):x}" for group in ipaddress.IPv6Address(ip).exploded.split(":"))


# --- Snapshots and histories ------------------------------------------------------------------------------------------


def snapshot(program: Program, peer: Transfer) -> Document:
    """A row of `submit_peers`, and the `peer` of a legacy ban."""
    clean = program.family != "qbcb"
    row: Document = {
        "ip_address": peer.ip,
        "peer_port": peer.port,
        "peer_id": peer.peer_id,
        "client_name": peer.client_name,
        "torrent_identifier": identifier(program, peer),
        "torrent_is_private": peer.private and clean,
        "torrent_size": peer.size,
        "downloaded": peer.down,
        "rt_download_speed": 0 if clean else -1,
        "uploaded": peer.up,
        "rt_upload_speed": 1024 if clean else -1,
        "peer_progress": peer.progress,
        "downloader_progress": peer.own_progress if clean else 1,
        "peer_flag": peer.flags if clean else "",
    }
    if program.family == "bc" or (program.family == "pbh" and program.version < (7, 3, 3)):
        del row["torrent_is_private"]
    if program.family == "qbcb":
        return {name: row[name] for name in _QBCB_FIELDS}
    if program.family == "bc":
        # Its rows are a hash table's, and its sizes read from texts like "4.7 GB".
        row["torrent_size"] = int(round(peer.size / GIB, 1) * GIB)
        return {name: row[name] for name in _BC_FIELDS}
    return row


_QBCB_FIELDS = (
    *("ip_address", "peer_port", "peer_id", "client_name", "torrent_identifier", "torrent_size", "torrent_is_private"),
    *("downloaded", "rt_download_speed", "uploaded", "rt_upload_speed", "peer_progress", "downloader_progress"),
    "peer_flag",
)
_BC_FIELDS = (
    *("rt_upload_speed", "peer_port", "torrent_identifier", "torrent_size", "client_name", "uploaded", "ip_address"),
    *("peer_progress", "downloaded", "downloader_progress", "peer_id", "rt_download_speed", "peer_flag"),
)


def history(program: Program, peer: Transfer, *, added: tuple[int, int] = (0, 0), now_ms: int = 0) -> Document:
    """A row of `submit_histories`; `added` (up, down) since the last turn and `now_ms` are qBCB's ways."""
    if program.family == "qbcb":
        more = {"downloaded_offset": added[1], "uploaded_offset": added[0]}
        return snapshot(program, peer) | more | {"first_time_seen": now_ms, "last_time_seen": now_ms}
    row: Document = {
        "ip_address": peer.ip,
        "port": 0,
        "peer_id": peer.peer_id,
        "client_name": peer.client_name,
        "torrent_identifier": identifier(program, peer),
        # Never set.
        "torrent_is_private": False,
        "torrent_size": peer.size,
        "downloaded": peer.down,
        "downloaded_offset": peer.down - peer.earlier_down,
        "uploaded": peer.up,
        "uploaded_offset": peer.up - peer.earlier_up,
        "first_time_seen": peer.first,
        "last_time_seen": peer.last,
        "peer_flag": peer.flags,
    }
    if program.version < (9, 1):
        del row["port"]
    if program.version < (7, 3, 3):
        del row["torrent_is_private"]
    return row


# --- Running totals ---------------------------------------------------------------------------------------------------


def swarm(program: Program, peer: Transfer) -> Document:
    """A row of `submit_swarm`."""
    rust = program.family == "rust"
    # The Rust client and LibreTorrentEE say what the present connection carried, the others the whole.
    earlier = (peer.earlier_up, peer.earlier_down) if rust or program.family == "lt" else (0, 0)
    row: Document = {
        "torrent_identifier": identifier(program, peer),
        "torrent_is_private": peer.private,
        "torrent_size": peer.size,
        "downloader": "qb-home" if rust else "d5a4cbb2-6d0a-4ba3-9d06-6b8f8d4a9f55",
        "downloader_progress": peer.own_progress,
        "peer_ip": peer.ip if rust else java_address(peer.ip),
        "peer_port": peer.port,
        "peer_id": peer.peer_id,
        "peer_client_name": peer.client_name,
        "peer_progress": peer.progress,
        "to_peer_traffic": peer.up - earlier[0],
        "to_peer_traffic_offset": peer.earlier_up,
        "from_peer_traffic": peer.down - earlier[1],
        "from_peer_traffic_offset": peer.earlier_down,
        "first_time_seen": _rfc3339(peer.first) if rust else peer.first,
        "last_time_seen": _rfc3339(peer.last) if rust else peer.last,
        "peer_last_flags": peer.flags or "",
    }
    if program.family == "pbh" and program.version < (9, 2, 4):
        return row
    return row | {"upload_speed": 1024, "download_speed": 0, "download_speed_max": 0, "upload_speed_max": 4096}


def _rfc3339(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat()


# --- Bans -------------------------------------------------------------------------------------------------------------


def ban(program: Program, row: Ban, app_id: str, *, modern: bool) -> Document:
    """A row of `submit_bans`; `modern`: in the shape of protocol 20, which a server may ask not to use."""
    if program.family == "qbcb":
        return _qbcb_ban(program, row)
    if modern:
        return _modern_ban(program, row)
    module, rule = said(program, row)
    found: Document = {
        "btn_ban": row.why == "btn",
        "ban_unique_id": _unique_id(program, row, app_id),
        "module": module,
        "rule": rule,
        "peer": snapshot(program, row.peer),
    }
    if program.version < (4,):
        del found["ban_unique_id"]
    if program.version >= (9, 1, 1):
        found["structured_data"] = _structured(row)
    return found


def _unique_id(program: Program, row: Ban, app_id: str) -> str:
    digest = hashlib.sha256(f"{app_id} {row.number}".encode()).hexdigest()
    return digest if program.version >= (8,) else str(uuid.UUID(digest[:32]))


def _qbcb_ban(program: Program, row: Ban) -> Document:
    module, rule = said(program, row)
    peer = snapshot(program, row.peer) | {"torrent_size": 0, "peer_progress": 0}
    return {
        "btn_ban": row.why == "btn",
        "module": module,
        "rule": rule,
        "peer": peer,
        # It moves for as long as the peer keeps coming.
        "ban_at": max(row.at, row.peer.last),
        "ban_unique_id": f"{row.peer.ip}:{row.peer.port}",
    }


def _modern_ban(program: Program, row: Ban) -> Document:
    peer, rust = row.peer, program.family == "rust"
    module, rule = said(program, row)
    structured = _structured(row)
    return {
        "ban_at": row.at,
        "peer_ip": peer.ip if rust else java_address(peer.ip),
        "peer_port": peer.port,
        "peer_id": peer.peer_id,
        "peer_client_name": None if rust else peer.client_name,
        "peer_progress": peer.progress,
        "peer_flag": None if rust else peer.flags,
        "torrent_identifier": identifier(program, peer),
        "torrent_is_private": peer.private,
        "torrent_size": peer.size,
        "from_peer_traffic": peer.down,
        "to_peer_traffic": peer.up,
        "downloader_progress": peer.own_progress,
        "module": module,
        "rule": rule,
        "description": _description(row),
        "structured_data": None if rust else json.dumps(structured, separators=(",", ":")),
    }


def said(program: Program, row: Ban) -> tuple[str, str]:
    """The module and the rule that a program names for a ban."""
    if program.family == "qbcb":
        return _QBCB_WORDS[row.why]
    if program.family == "rust":
        return _RUST_WORDS[row.why]
    module, rule = _PBH_WORDS[row.why]
    if program.family == "lt":
        return module, module
    return PBH_MODULES + module, rule.format(row.detail)


_PBH_WORDS: Mapping[Why, tuple[str, str]] = {
    "difference": ("ProgressCheatBlocker", "进度差异过大"),
    "excessive": ("ProgressCheatBlocker", "超量下载"),
    "rewind": ("ProgressCheatBlocker", "进度回退"),
    "fast": ("ProgressCheatBlocker", "快速 PCB 测试"),
    "dialing": ("MultiDialingBlocker", "多拨下载"),
    "identity": ("PeerIdBlacklist", "匹配 PeerId 规则: {}"),
    "btn": ("BtnNetworkOnline", "[BTN Ban] Match IP ruleset ({})"),
}
_RUST_WORDS: Mapping[Why, tuple[str, str]] = {
    "difference": ("ProgressCheatBlocker", "pcb:difference"),
    "excessive": ("ProgressCheatBlocker", "pcb:excessive"),
    "rewind": ("ProgressCheatBlocker", "pcb:rewind"),
    "fast": ("ProgressCheatBlocker", "pcb:fast-test"),
    "dialing": ("MultiDialingBlocker", "mdb:multi-dialing"),
    "identity": ("PeerIdBlacklist", "peer-id"),
    "btn": ("BtnNetworkOnline", "btn:denylist"),
}
_QBCB_WORDS: Mapping[Why, tuple[str, str]] = {
    "difference": (f"{_QBCB}CheckPeer", "Bad-Progress_Uploaded"),
    "excessive": (f"{_QBCB}CheckAllTorrent", "Bad-Relative_Progress_Uploaded"),
    "rewind": (f"{_QBCB}CheckAllTorrent", "Bad-Relative_Progress_Uploaded"),
    "fast": (f"{_QBCB}CheckAllTorrent", "Bad-Relative_Progress_Uploaded"),
    "dialing": (f"{_QBCB}CheckAllIP", "Too many ports"),
    "identity": (f"{_QBCB}CheckPeer", "Bad-Client_Normal"),
    "btn": (f"{_QBCB}BTN", "Bad-IP_FromBTN (list)"),
}


def _structured(row: Ban) -> Document:
    peer = row.peer
    if row.why in ("difference", "excessive", "rewind"):
        actual = peer.up / peer.size if peer.size else 0.0
        return {"type": row.why, "clientReportedProgress": peer.progress, "actualProgress": actual}
    return {"type": row.why}


def _description(row: Ban) -> str:
    if row.why == "btn":
        return f"Matched denylist: {row.detail}"
    actual = row.peer.up / row.peer.size if row.peer.size else 0.0
    return f"客户端进度: {row.peer.progress:.2%}, 实际进度: {actual:.2%}"
