"""The JSON answers of protocol 20 that are no documents: heartbeat, proof of work, address query.

PeerBanHelper's panel reads every object and array of the address query without asking whether it is there, so none of
them may ever be null.
"""

from typing import Any

from msgspec import Struct


class Heartbeat(Struct, frozen=True):
    """The address that a client's request came from."""

    external_ip: str


class Challenge(Struct, frozen=True, rename="camel"):
    """A proof of work to do: find 8 bytes n so that H(challenge + n) begins with `difficulty_bits` zero bits."""

    id: str
    challenge_base64: str
    difficulty_bits: int
    algorithm: str
    expire_at: int


class BanRecord(Struct, frozen=True):
    """A ban of the address. `torrent` is opaque; progress is a fraction."""

    populate_time: int
    torrent: str
    peer_ip: str
    peer_port: int
    peer_id: str | None
    peer_client_name: str | None
    peer_progress: float
    peer_flags: str | None
    reporter_progress: float
    to_peer_traffic: int
    from_peer_traffic: int
    module_name: str
    rule: str
    description: str
    structured_data: dict[str, Any] | None


class Bans(Struct, frozen=True):
    """Bans last reported within `duration` (ms)."""

    duration: int
    total: int
    records: list[BanRecord]


class SwarmRecord(Struct, frozen=True):
    """What one client saw of the address in one torrent."""

    torrent: str
    peer_ip: str
    peer_port: int
    peer_id: str | None
    peer_client_name: str | None
    peer_progress: float
    from_peer_traffic: int
    to_peer_traffic: int
    from_peer_traffic_offset: int
    to_peer_traffic_offset: int
    flags: str | None
    first_time_seen: int
    last_time_seen: int
    user_progress: float


class Swarms(Struct, frozen=True):
    """Swarms received within `duration` (ms)."""

    duration: int
    total: int
    records: list[SwarmRecord]
    concurrent_download_torrents_count: int
    concurrent_seeding_torrents_count: int


class Traffic(Struct, frozen=True):
    """Bytes between this network and the address within `duration` (ms); `share_ratio` is what it gives back."""

    duration: int
    to_peer_traffic: int
    from_peer_traffic: int
    share_ratio: float


class Torrents(Struct, frozen=True):
    """How many torrents the address was seen in within `duration` (ms)."""

    duration: int
    count: int


class IpQuery(Struct, frozen=True):
    """What this network knows of one address."""

    color: str
    labels: list[str]
    bans: Bans
    swarms: Swarms
    traffic: Traffic
    torrents: Torrents
