"""What is to be stored of a row, told from the row as a client sends it."""

import json
from datetime import datetime
from typing import Any

# Where the value of a wire name is found in a canonical row, whichever client sent it.
CANONICAL = {
    "ip_address": "peer_ip",
    "ip": "peer_ip",
    "port": "peer_port",
    "client_name": "peer_client_name",
    "downloaded": "from_peer_traffic",
    "downloaded_offset": "from_peer_traffic_offset",
    "rt_download_speed": "from_peer_traffic_speed",
    "download_speed": "from_peer_traffic_speed",
    "download_speed_max": "from_peer_traffic_speed_max",
    "uploaded": "to_peer_traffic",
    "uploaded_offset": "to_peer_traffic_offset",
    "rt_upload_speed": "to_peer_traffic_speed",
    "upload_speed": "to_peer_traffic_speed",
    "upload_speed_max": "to_peer_traffic_speed_max",
    "progress": "peer_progress",
    "peer_last_flags": "peer_flag",
    "last_flags": "peer_flag",
}


def expected(wire: dict[str, Any], origin: str) -> dict[str, Any]:
    """The canonical fields that follow from one row as a client sends it."""
    flat = {**wire.get("peer", {}), **{name: value for name, value in wire.items() if name != "peer"}}
    row = {CANONICAL.get(name, name): value for name, value in flat.items()}
    if origin == "history":
        row["torrent_is_private"] = row.get("torrent_is_private") or None
        row["peer_port"] = row.get("peer_port") or -1
    if origin == "rust-swarm":
        for name in ("first_time_seen", "last_time_seen"):
            row[name] = round(datetime.fromisoformat(row[name]).timestamp() * 1000)
        for way in ("from", "to"):
            row[f"{way}_peer_traffic"] += row[f"{way}_peer_traffic_offset"]
    data = row.get("structured_data")
    if data is not None:
        row["structured_data"] = json.loads(data) if isinstance(data, str) else data
    return row
