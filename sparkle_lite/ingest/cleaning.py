"""From decoded rows to the values that are stored: addresses checked, texts shortened, dictionary entries looked up.

This is the hot path, run on one worker thread: about a microsecond a row. Whatever a row gets wrong costs that row and
is counted by reason.
"""

import re
import socket
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sparkle_lite import net
from sparkle_lite.db.bans import Report
from sparkle_lite.db.dictionaries import ClientIdentity, Dictionaries, NeededEntries, TorrentKey
from sparkle_lite.db.keys import stable_number
from sparkle_lite.wire.bodies import Batch, Peer, PeerBan, PeerSnapshot, PeerSwarm
from sparkle_lite.wire.dialect import Traits

PEER_ID_LENGTH = 8
NAME_LENGTH = 250
RULE_LENGTH, ID_LENGTH = 1024, 128
_NAME_END = 64

# Plain numbers: an enumeration's member would be converted at each call.
_AF_INET, _AF_INET6 = int(socket.AF_INET), int(socket.AF_INET6)
_PRIVATE = {True: 1, False: 0, None: -1}
_HEX = re.compile(r"[0-9A-Fa-f]{64}")

# Modules of clients that ban what this network's own rules told them: such bans are no evidence of their own.
_OWN_RULE_MODULES = ("BtnNetworkOnline", "com.SimpleTracker.qBCB.BTN")


class Reporter(NamedTuple):
    """Whose body it is, when it was received (ms), and what kind of client sent it."""

    userapp: int
    at: int
    traits: Traits


class Cleaner:
    """Makes values of the rows of one group of bodies, and notes in `wanted` what the dictionaries lack."""

    def __init__(self, dictionaries: Dictionaries, wanted: NeededEntries) -> None:
        self._dictionaries = dictionaries
        self._wanted = wanted

    def unknown(self, batch: Batch) -> int:
        """About how many torrents and client identities of a body no cache has."""
        torrents, clients = self._dictionaries.torrents.cache, self._dictionaries.clients.cache
        rows: Iterable[Peer] = (*batch.snapshots, *batch.swarms, *batch.bans)
        keys = {(row.torrent_identifier, row.torrent_size, row.torrent_is_private) for row in rows}
        names = {(row.peer_id, row.peer_client_name) for row in rows}
        return sum(key not in torrents for key in keys) + sum(name not in clients for name in names)

    def snapshots(
        self, who: Reporter, rows: Iterable[PeerSnapshot], submission: int, rejected: Counter[str]
    ) -> list[Any]:
        """One flat list of values in the order of the segment's columns."""
        values: list[Any] = []
        torrents, clients = self._dictionaries.torrents.cache.young, self._dictionaries.clients.cache.young
        labels = self._dictionaries.labels.cache.young
        parse, unusual = socket.inet_pton, net.UNUSUAL
        add = values.extend
        for row in rows:
            # The common case first, without a call of our own: the calls are for what is rare.
            text = row.peer_ip
            try:
                # The driver binds a bytearray at once, but looks for an adapter for bytes: a third of an insert's time.
                address = bytearray(parse(_AF_INET6 if ":" in text else _AF_INET, text))
            except (OSError, ValueError):
                address = bytearray(1)
            port = row.peer_port
            if unusual[address[0]]:
                checked = _endpoint(row)
                if isinstance(checked, str):
                    rejected[checked] += 1
                    continue
                address, port = bytearray(checked), row.peer_port
            if not -1 <= port <= 65535:
                rejected["bad_port"] += 1
                continue
            key = (row.torrent_identifier, row.torrent_size, row.torrent_is_private)
            torrent = torrents.get(key) or self._torrent(key, who)
            name = (row.peer_id, row.peer_client_name)
            client = clients.get(name) or self._client(name, who)
            if not torrent or not client:
                rejected["bad_identifier" if torrent == 0 else "quota"] += 1
                continue
            flag = row.peer_flag
            add(
                (
                    submission,
                    address,
                    port,
                    client,
                    torrent,
                    row.from_peer_traffic,
                    row.from_peer_traffic_speed,
                    row.to_peer_traffic,
                    row.to_peer_traffic_speed,
                    row.peer_progress,
                    row.downloader_progress,
                    None if flag is None else labels.get(flag) or self._label(flag, who),
                )
            )
        return values

    def swarms(self, who: Reporter, rows: Sequence[PeerSwarm], submission: int, rejected: Counter[str]) -> list[Any]:
        """One flat list of values in the order of the segment's columns."""
        values: list[Any] = []
        for row in rows:
            peer = self._peer(who, row, rejected)
            if peer is None:
                continue
            address, client, torrent, flags = peer
            values += (
                submission,
                _version_key(who, row, address),
                1 if row.origin == "swarm" else 0,
                bytearray(address),
                row.peer_port,
                client,
                torrent,
                None if row.downloader is None else self._label(row.downloader, who),
                row.from_peer_traffic,
                row.from_peer_traffic_offset,
                row.to_peer_traffic,
                row.to_peer_traffic_offset,
                row.from_peer_traffic_speed,
                row.from_peer_traffic_speed_max,
                row.to_peer_traffic_speed,
                row.to_peer_traffic_speed_max,
                row.peer_progress,
                row.downloader_progress,
                row.first_time_seen,
                row.last_time_seen,
                flags,
            )
        return values

    def bans(
        self, who: Reporter, rows: Sequence[PeerBan], submission: int, populate_time: int | None, rejected: Counter[str]
    ) -> list[Report]:
        """A report for each ban that is kept."""
        reports: list[Report] = []
        for row in rows:
            peer = self._peer(who, row, rejected)
            if peer is None:
                continue
            address, client, torrent, flags = peer
            module = self._label(row.module, who)
            if module is None:
                rejected["quota"] += 1
                continue
            ban_at = populate_time if row.ban_at is None else row.ban_at
            reports.append(
                {
                    "submission": submission,
                    "received_at": who.at,
                    "userapp": who.userapp,
                    "ban_at": ban_at,
                    "peer_ip": address,
                    "peer_port": row.peer_port,
                    "client": client,
                    "torrent": torrent,
                    "from_peer_traffic": row.from_peer_traffic,
                    "from_peer_traffic_speed": row.from_peer_traffic_speed,
                    "to_peer_traffic": row.to_peer_traffic,
                    "to_peer_traffic_speed": row.to_peer_traffic_speed,
                    "peer_progress": row.peer_progress,
                    "downloader_progress": row.downloader_progress,
                    "flags": flags,
                    "btn_ban": int(repeats_our_rules(row)),
                    "module": module,
                    "rule": _text(row.rule, RULE_LENGTH),
                    "description": _text(row.description, 4096),
                    "ban_unique_id": _text(row.ban_unique_id, ID_LENGTH),
                    "structured_data": row.structured_data,
                    "dedupe": _ban_key(who, row, address),
                    "kind": row.dedupe,
                    "last_ban_at": ban_at,
                }
            )
        return reports

    def _peer(
        self, who: Reporter, row: PeerSwarm | PeerBan, rejected: Counter[str]
    ) -> tuple[bytes, int, int, int | None] | None:
        """Address, client, torrent and flags of a row; None when it is rejected."""
        address = _endpoint(row)
        if isinstance(address, str):
            rejected[address] += 1
            return None
        if not -1 <= row.peer_port <= 65535:
            rejected["bad_port"] += 1
            return None
        key = (row.torrent_identifier, row.torrent_size, row.torrent_is_private)
        torrent = self._dictionaries.torrents.cache.young.get(key) or self._torrent(key, who)
        name = (row.peer_id, row.peer_client_name)
        client = self._dictionaries.clients.cache.young.get(name) or self._client(name, who)
        if not torrent or not client:
            rejected["bad_identifier" if torrent == 0 else "quota"] += 1
            return None
        return address, client, torrent, None if row.peer_flag is None else self._label(row.peer_flag, who)

    def _torrent(self, raw: tuple[str, int, bool | None], who: Reporter) -> int | None:
        """The id or stand-in of a torrent; 0 when its identifier can't be kept, None when the quota is spent."""
        known = self._dictionaries.torrents.cache.find(raw) or self._wanted.torrents.find(raw)
        if known is not None:
            return known
        text, size, private = raw
        identifier: bytes | str = text.replace("\0", "")
        if not 0 < len(identifier) <= 128:
            return 0
        if _HEX.fullmatch(text):
            identifier = bytes.fromhex(text)
        if not self._dictionaries.may_add(who.userapp, who.at):
            return None
        entry = TorrentKey(identifier, max(size, 0), _PRIVATE[private], int(who.traits.identifiers_big_endian))
        return self._wanted.torrents.add(raw, entry, who.userapp, who.at)

    def _client(self, raw: tuple[str | None, str | None], who: Reporter) -> int | None:
        """The id or stand-in of a client identity; None when the quota is spent."""
        known = self._dictionaries.clients.cache.find(raw) or self._wanted.clients.find(raw)
        if known is not None:
            return known
        if not self._dictionaries.may_add(who.userapp, who.at):
            return None
        name = (raw[1] or "").replace("\0", "")
        if len(name) > NAME_LENGTH:
            name = f"{name[:_NAME_END]}[...]{name[-_NAME_END:]}"
        entry = ClientIdentity((raw[0] or "").replace("\0", "")[:PEER_ID_LENGTH], name)
        return self._wanted.clients.add(raw, entry, who.userapp, who.at)

    def _label(self, raw: str, who: Reporter) -> int | None:
        """The id or stand-in of a label; None when the quota is spent."""
        cache = self._dictionaries.labels.cache
        known = cache.young.get(raw) or cache.find(raw) or self._wanted.labels.find(raw)
        if known is not None:
            return known
        if not self._dictionaries.may_add(who.userapp, who.at):
            return None
        return self._wanted.labels.add(raw, (raw.replace("\0", "")[:NAME_LENGTH],), who.userapp, who.at)


def repeats_our_rules(row: PeerBan) -> bool:
    """Whether a client banned only because this network's rules told it to."""
    return row.btn_ban or row.module.endswith(_OWN_RULE_MODULES)


def _endpoint(row: Peer) -> bytes | str:
    """The bytes of a row's public address, or the reason why the row is rejected.

    A port that is written behind the address becomes the row's port where that is unknown (-1, or 0, which no peer
    has); a port that the row names itself says more, and stays.
    """
    try:
        address, port = (
            net.address_and_port(row.peer_ip) if "/" not in row.peer_ip else (_single(row.peer_ip), net.NO_PORT)
        )
    except net.AddressError:
        return "bad_address"
    if port != net.NO_PORT and row.peer_port in (-1, 0):
        row.peer_port = port
    return address if net.is_public(address) else "not_public"


def _single(text: str) -> bytes:
    """The address of a network of one; qBittorrent-ClientBlocker writes whole networks where it bans them."""
    network = net.parse_network(text)
    if network.prefix != network.bits:
        raise net.AddressError("address.is_network", text=text[:64])
    return network.address


def _text(text: str | None, length: int) -> str | None:
    return None if text is None else text.replace("\0", "")[:length]


def _ban_key(who: Reporter, row: PeerBan, address: bytes) -> int:
    """What makes two bans the same ban, as far as their kind and times don't tell them apart (`bans.Kind`)."""
    where = (address, row.peer_port, row.torrent_identifier, row.module)
    match row.dedupe:
        case "id":
            return stable_number((who.userapp, "id", row.ban_unique_id, address, row.peer_port))
        case "id_time":
            # Of what is stored, because a migration had to make these.
            ban_id, torrent = _text(row.ban_unique_id, ID_LENGTH), row.torrent_identifier.replace("\0", "")
            torrent = torrent.lower() if _HEX.fullmatch(torrent) else torrent
            module, rule = _text(row.module, NAME_LENGTH), _text(row.rule, RULE_LENGTH)
            return stable_number((who.userapp, "id_time", ban_id, torrent, module, rule))
        case "time":
            return stable_number((who.userapp, "time", row.ban_at, *where))
        case "content":
            return stable_number((who.userapp, "content", *where, row.rule))


def _version_key(who: Reporter, row: PeerSwarm, address: bytes) -> int:
    """What makes two cumulative rows versions of the same one; the one with the latest evidence wins on reading."""
    if row.origin == "swarm":
        return stable_number((who.userapp, "swarm", row.downloader, row.torrent_identifier, address, row.peer_port))
    if who.traits.first_seen_is_now:
        return stable_number((who.userapp, "qbcb", address, row.peer_port, row.torrent_identifier))
    return stable_number((who.userapp, "history", address, row.torrent_identifier, row.first_time_seen))
