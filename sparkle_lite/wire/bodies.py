"""Submission bodies: from the bytes of a request to clean rows of one shape.

Every client generation has its own field names; here they all become `Snapshot` (what a peer was seen doing), `Swarm`
(running totals) or `Ban`. Rows are told apart by their shape, never by the client or the URL. One decode of the whole
body is tried first; only when that fails is each row read on its own, so that a bad row costs itself and nothing else.

Checked here: JSON, types, numbers within 64 bits, the number of rows. Left to ingest: whether an address parses and is
public, the range of ports, the length of identifiers, negative counters, shortening of texts and their control
characters, and which torrent identifiers mean "unknown".
"""

import codecs
import json
import math
import re
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field
from msgspec.json import Decoder

from sparkle_lite.errors import SparkleError

REASONS = (
    "not_an_object",
    "row_too_large",
    "bad_json",
    "bad_address",
    "not_public",
    "bad_port",
    "bad_identifier",
    "bad_number",
    "too_many_rows",
)
"""Why a row was left out; used as labels of a metric, so the set is fixed."""

Dedupe = Literal["id", "id_time", "time", "content"]
Kind = Literal["peers", "bans", "swarms"]

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_LATEST = 253_402_300_799_999  # the last millisecond of the year 9999: beyond it no date can be shown
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

Int64 = Annotated[int, Meta(ge=_INT64_MIN, le=_INT64_MAX)]
Millis = Annotated[int, Meta(ge=0, le=_LATEST)]

_GZIP_MAGIC = b"\x1f\x8b"
# Each further member copies the rest of the body, so many tiny ones would cost quadratic time; clients send one.
_MAX_GZIP_MEMBERS = 32
# The shortest row that says anything: {"ip_address":"","torrent_identifier":""}
_MIN_ROW_BYTES = 41
# Bounds the list of undecoded rows to about 250 MB; real bodies have a comma per 20 to 30 bytes (2.8 M in 64 MiB).
_MAX_VALUES = 4_000_000
# What one row read on its own may cost: bytes, and objects and lists within it.
_MAX_LENIENT_ROW, _MAX_LENIENT_NESTING = 64 * 1024, 256
# What structured data may hold: characters, and objects and lists.
_MAX_STRUCTURED_DATA, _MAX_STRUCTURED_NESTING = 16 * 1024, 128

_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
_NULL = Raw(b"null")
_CONTROLS_TO_BLANKS = bytes(max(code, 32) for code in range(256))
_LONE_SURROGATE = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F][0-9a-fA-F]{2})"
)
# Each begins with a literal, which the regular expression engine finds fast.
_NOT_NUMBERS = tuple(
    re.compile(rb"%b(?<=[:,\[ ]%b)(?= {0,16}[,}\]])" % (name, name)) for name in (b"-Infinity", b"Infinity", b"NaN")
)
_SURROGATE_BYTES = bytes(range(0xD8, 0xE0))
_MAX_MENDS = 100_000
_LONG_INTEGER = 20  # digits: more can't be a 64-bit number, and Python refuses to parse thousands of them
_HASH_OR_UUID = re.compile(r"[0-9a-fA-F]{64}|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_T = TypeVar("_T")
_P = TypeVar("_P", bound="Peer")
_Field = tuple[str, tuple[str, ...], Callable[[object], object]]


class Peer(Struct, kw_only=True, gc=False):
    """What all rows say about one peer and the reporter's view of it.

    Traffic in bytes, speeds in bytes/s, -1 is unknown; `to_peer_*` is what the reporter sent. Progress is a fraction
    that may lie outside 0..1. Texts are as sent, control characters included. The order is that of the legacy JSON,
    because decoding is fastest when fields come as declared.
    """

    peer_ip: str
    peer_port: Int64 = -1
    peer_id: str | None = None
    peer_client_name: str | None = None
    torrent_identifier: str
    torrent_is_private: bool | None = None
    torrent_size: Int64 = 0
    from_peer_traffic: Int64 = -1
    from_peer_traffic_speed: Int64 = -1
    to_peer_traffic: Int64 = -1
    to_peer_traffic_speed: Int64 = -1
    peer_progress: float | None = None
    downloader_progress: float | None = None
    peer_flag: str | None = None


class Snapshot(Peer, kw_only=True, gc=False):
    """A peer at one moment, decoded straight from the legacy names (all PeerBanHelper, qBCB, BTNScriptBC)."""

    peer_ip: str = field(name="ip_address")
    peer_client_name: str | None = field(name="client_name", default=None)
    from_peer_traffic: Int64 = field(name="downloaded", default=-1)
    from_peer_traffic_speed: Int64 = field(name="rt_download_speed", default=-1)
    to_peer_traffic: Int64 = field(name="uploaded", default=-1)
    to_peer_traffic_speed: Int64 = field(name="rt_upload_speed", default=-1)


class Swarm(Peer, kw_only=True, gc=False):
    """Running totals of one peer, decoded straight from the names of PeerBanHelper 9.2+.

    `*_traffic` is the total whatever the client calls it; `*_traffic_offset` is as sent and means something else with
    every client. `origin` tells the two submissions apart: a history names no downloader.
    """

    origin: ClassVar[Literal["swarm", "history"]] = "swarm"

    from_peer_traffic_speed: Int64 = field(name="download_speed", default=-1)
    to_peer_traffic_speed: Int64 = field(name="upload_speed", default=-1)
    peer_flag: str | None = field(name="peer_last_flags", default=None)
    downloader: str | None = None
    from_peer_traffic_offset: Int64 = -1
    to_peer_traffic_offset: Int64 = -1
    first_time_seen: Millis | None = None
    last_time_seen: Millis | None = None
    from_peer_traffic_speed_max: Int64 = field(name="download_speed_max", default=-1)
    to_peer_traffic_speed_max: Int64 = field(name="upload_speed_max", default=-1)


class Ban(Peer, kw_only=True, gc=False):
    """A ban, decoded straight from the names of PeerBanHelper 9.2+.

    `ban_at` (ms) is None where the client sends none (all legacy PeerBanHelper): the batch's `populate_time` is the
    best guess. `structured_data` is valid JSON text or None.
    """

    module: str = ""
    rule: str | None = None
    description: str | None = None
    btn_ban: bool = False
    ban_unique_id: str | None = None
    ban_at: Millis | None = None
    structured_data: str | None = None

    @property
    def dedupe(self) -> Dedupe:
        """What makes a second report of this ban the same one, always within one application.

        "id": `ban_unique_id`, address and port (a UUID or SHA-256). "id_time": `ban_unique_id` and `ban_at`, because
        qBittorrent-ClientBlocker's ids repeat over time. "time": `ban_at`, address, port, torrent and module.
        "content": address, port, torrent, module and rule within 24 hours, as nothing better was sent.
        """
        if self.ban_unique_id and _HASH_OR_UUID.fullmatch(self.ban_unique_id):
            return "id"
        if self.ban_at is None:
            return "content"
        return "id_time" if self.ban_unique_id else "time"


class Batch(Struct):
    """The rows of one body, and how many were left out by reason; `populate_time` in ms as the client says."""

    populate_time: int | None = None
    snapshots: list[Snapshot] = field(default_factory=list)
    swarms: list[Swarm] = field(default_factory=list)
    bans: list[Ban] = field(default_factory=list)
    rejected: dict[str, int] = field(default_factory=dict)

    def reject(self, reason: str, rows: int = 1) -> None:
        """Count rows that are left out; `reason` is one of REASONS."""
        self.rejected[reason] = self.rejected.get(reason, 0) + rows


class _SnapshotRow(Snapshot, kw_only=True, gc=False):
    # A row with a number here is a history: it must not pass for a snapshot, wherever in the list it stands.
    downloaded_offset: None = None


class _HistoryRow(Swarm, kw_only=True, gc=False):
    origin: ClassVar[Literal["swarm", "history"]] = "history"

    peer_ip: str = field(name="ip_address")
    peer_client_name: str | None = field(name="client_name", default=None)
    from_peer_traffic: Int64 = field(name="downloaded", default=-1)
    from_peer_traffic_speed: Int64 = field(name="rt_download_speed", default=-1)
    to_peer_traffic: Int64 = field(name="uploaded", default=-1)
    to_peer_traffic_speed: Int64 = field(name="rt_upload_speed", default=-1)
    peer_flag: str | None = field(name="peer_flag", default=None)
    from_peer_traffic_offset: Int64 = field(name="downloaded_offset")
    to_peer_traffic_offset: Int64 = field(name="uploaded_offset", default=-1)
    port: Int64 = 0  # PeerBanHelper's name; qBittorrent-ClientBlocker sends peer_port


class _DatedSwarm(Swarm, kw_only=True, gc=False):
    # peerbanhelper-rust writes times as RFC 3339 text. The inherited fields are filled from these two afterwards.
    first_time_seen: Millis | None = field(name="first_time_seen_ms", default=None)
    last_time_seen: Millis | None = field(name="last_time_seen_ms", default=None)
    first_date: datetime | None = field(name="first_time_seen", default=None)
    last_date: datetime | None = field(name="last_time_seen", default=None)

    def timed(self) -> Swarm:
        """The same row with its times in ms."""
        self.first_time_seen = _millis(self.first_date)
        self.last_time_seen = _millis(self.last_date)
        return self


class _LegacyBan(Struct, kw_only=True, gc=False):
    peer: Snapshot
    module: str = ""
    rule: str | None = None
    btn_ban: bool = False
    ban_unique_id: str | None = None
    ban_at: Millis | None = None
    structured_data: Raw = Raw()

    def flat(self) -> Ban:
        """The same ban in one piece."""
        return Ban(
            module=self.module,
            rule=self.rule,
            btn_ban=self.btn_ban,
            ban_unique_id=self.ban_unique_id,
            ban_at=self.ban_at,
            structured_data=_raw_text(bytes(self.structured_data)),
            **msgspec.structs.asdict(self.peer),
        )


class _Body(Struct, kw_only=True):
    populate_time: Millis | None = None
    bans: Raw = Raw()
    swarms: Raw = Raw()


class _SnapshotBody(_Body, kw_only=True):
    peers: list[_SnapshotRow] | UnsetType | None = UNSET


class _HistoryBody(_Body, kw_only=True):
    peers: list[_HistoryRow] | UnsetType | None = UNSET


class _Envelope(Struct, kw_only=True):
    populate_time: Raw = Raw()
    peers: Raw = Raw()
    bans: Raw = Raw()
    swarms: Raw = Raw()


class _Rejected(Exception):
    """This row can't be kept; the message is the reason."""


_SNAPSHOT_BODY = Decoder(_SnapshotBody)
_HISTORY_BODY = Decoder(_HistoryBody)
_ENVELOPE = Decoder(_Envelope)
_RAW_ROWS = Decoder(list[Raw])
_SCALAR: Decoder[object] = Decoder(int | float | str)
_STRING = Decoder(str)
# Tried in this order; of a list in another shape the first row fails, which costs about 1 µs.
_LISTS: dict[Kind, tuple[Decoder[Any], ...]] = {
    "peers": (Decoder(list[_SnapshotRow]), Decoder(list[_HistoryRow])),
    "bans": (Decoder(list[_LegacyBan]), Decoder(list[Ban])),
    "swarms": (Decoder(list[Swarm]), Decoder(list[_DatedSwarm])),
}
_ROWS: dict[Kind, tuple[Decoder[Any], ...]] = {
    "peers": (Decoder(_SnapshotRow), Decoder(_HistoryRow)),
    "bans": (Decoder(_LegacyBan), Decoder(Ban)),
    "swarms": (Decoder(Swarm), Decoder(_DatedSwarm)),
}


def inflate(body: bytes, content_encoding: str, limit: int) -> bytes:
    """The plain bytes of a request body, at most `limit` of them.

    Gzip is told by its magic bytes, whatever the header says: a redirected POST keeps `Content-Encoding: gzip` without
    its body, and some senders forget the header. Several members are joined, anything after the last is ignored, as
    gzip itself does. Memory stays near `limit` however large the body would become.
    Raises SparkleError: unsupported (another encoding), bad_request (empty, damaged, cut off), too_large.
    """
    encodings = {part.strip().lower() for part in content_encoding.split(",")}
    if encodings - {"", "identity", "gzip", "x-gzip"}:
        raise SparkleError(
            "unsupported",
            "This Content-Encoding is not supported; send the body as gzip or uncompressed.",
            "不支持此 Content-Encoding；请使用 gzip 压缩或不压缩发送请求体。",
        )
    if not body:
        raise empty_body()
    if body.startswith(_GZIP_MAGIC):
        return _gunzip(body, limit)
    if len(body) > limit:
        raise _too_large(limit)
    return body


def empty_body() -> SparkleError:
    """The refusal of a request without rows."""
    return SparkleError(
        "bad_request",
        "The body is empty; if a redirect stands between client and server, configure the final address.",
        "请求体为空；如果客户端与服务器之间存在重定向，请直接填写最终地址。",
    )


def _gunzip(body: bytes, limit: int) -> bytes:
    pieces: list[bytes] = []
    room = limit + 1
    while body.startswith(_GZIP_MAGIC):
        if len(pieces) == _MAX_GZIP_MEMBERS:
            raise _damaged_gzip()
        inflater = zlib.decompressobj(wbits=31)
        try:
            pieces.append(inflater.decompress(body, room))
        except zlib.error as error:
            raise _damaged_gzip() from error
        room -= len(pieces[-1])
        if room <= 0:
            raise _too_large(limit)
        if not inflater.eof:
            raise _damaged_gzip()
        body = inflater.unused_data
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def decode(data: bytes, max_rows: int, *, offsets_add: bool = False) -> Batch:
    """The rows of an inflated body, from any client since PeerBanHelper 3.2.

    `data` is JSON in UTF-8 or UTF-16, with or without a byte order mark (BTNScriptBC sends UTF-16): an object with one
    or more of the lists `peers`, `bans`, `swarms`. The first `max_rows` rows are taken, the rest counted as rejected.
    `offsets_add` says that a swarm's total is traffic plus offset (peerbanhelper-rust); with everybody else the traffic
    already is the total. Raises SparkleError: bad_request (unreadable as a whole), too_large (too many values).
    """
    data = _as_utf8(data)
    batch = Batch()
    # Decoded rows are large: a body of far more rows than are kept is not decoded at once. Braces bound their number.
    at_once = 4 * max_rows + 1024
    small = len(data) // _MIN_ROW_BYTES <= at_once or data.count(b"{") <= at_once
    lists = (_whole(data, batch) if small else None) or _envelope(data, batch)
    for kind, rows in lists.items():
        room = max_rows - len(batch.snapshots) - len(batch.swarms) - len(batch.bans)
        if isinstance(rows, Raw):
            decoded = _first(_LISTS[kind], rows) if small else None
            if decoded is None:
                _row_by_row(batch, kind, rows, room, offsets_add=offsets_add)
                continue
            rows = decoded
        _add(batch, _cut(batch, rows, room), offsets_add=offsets_add)
    return batch


def _cut(batch: Batch, rows: list[_T], room: int) -> list[_T]:
    if len(rows) <= room:
        return rows
    batch.reject("too_many_rows", len(rows) - room)
    return rows[:room]


def _as_utf8(data: bytes) -> bytes:
    if data.startswith(codecs.BOM_UTF8):
        return data[len(codecs.BOM_UTF8) :]
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif b"\0" in data[:2]:
        encoding = "utf-16-be" if data[0] == 0 else "utf-16-le"
    else:
        return data
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        # Replacing takes 150 ns for each lone surrogate, too long for a body of nothing else.
        if len(data) - len(data.translate(None, _SURROGATE_BYTES)) > _MAX_VALUES:
            raise _unreadable() from error
        text = data.decode(encoding, "replace")
    return text.encode()


def _attempt(decoder: Decoder[_T], data: bytes | Raw) -> _T | None:
    try:
        return decoder.decode(data)
    except _UNREADABLE:
        return None


def _first(decoders: tuple[Decoder[Any], ...], data: bytes | Raw) -> Any:
    """What the first fitting decoder makes of `data`, or None."""
    for decoder in decoders:
        decoded = _attempt(decoder, data)
        if decoded is not None:
            return decoded
    return None


def _whole(data: bytes, batch: Batch) -> dict[Kind, Any] | None:
    """The lists of a body whose peers are all sound: `peers` decoded, the others still raw."""
    body = _first((_SNAPSHOT_BODY, _HISTORY_BODY), data)
    if body is None:
        return None
    batch.populate_time = body.populate_time
    peers: dict[Kind, Any] = {} if body.peers is UNSET else {"peers": body.peers or []}
    return peers | _present({"bans": body.bans, "swarms": body.swarms})


def _envelope(data: bytes, batch: Batch) -> dict[Kind, Any]:
    """The lists of a body, all still raw, after a mend where only that makes it readable."""
    try:
        body = _attempt(_ENVELOPE, data) or _ENVELOPE.decode(_mend(data))
    except msgspec.ValidationError as error:
        raise _no_lists() from error
    except _UNREADABLE as error:
        raise _unreadable() from error
    lists = _present({"peers": body.peers, "bans": body.bans, "swarms": body.swarms})
    if not lists:
        raise _no_lists()
    batch.populate_time = _time(_attempt(_SCALAR, body.populate_time))
    return lists


def _present(lists: dict[Kind, Raw]) -> dict[Kind, Any]:
    # Go writes an empty list that was never filled as null. Anything else that is no list counts as absent:
    # PeerBanHelper 3.0 sends a number named bans.
    return {kind: [] if raw == _NULL else raw for kind, raw in lists.items() if raw == _NULL or _is_list(raw)}


def _is_list(raw: Raw) -> bool:
    return memoryview(raw)[:1].tobytes() == b"["


def _mend(data: bytes) -> bytes:
    """A body without what hand-written encoders put into JSON: raw control characters, lone surrogates, NaN.

    Blind to where strings begin, so a text that quotes such a token may change; else the whole body would be lost.
    """
    data = _LONE_SURROGATE.sub(rb"\\ufffd", data.translate(_CONTROLS_TO_BLANKS), count=_MAX_MENDS)
    for not_a_number in _NOT_NUMBERS:
        data = not_a_number.sub(b"null", data, count=_MAX_MENDS)
    return data


def _row_by_row(batch: Batch, kind: Kind, raw: Raw, room: int, *, offsets_add: bool) -> None:
    """Take the sound rows of a list that doesn't decode as a whole, count the others."""
    if bytes(raw).count(b",") > _MAX_VALUES:
        raise SparkleError(
            "too_large",
            "The body holds too many values; send fewer rows at a time.",
            "请求体包含的数据过多；请减少每次提交的行数。",
        )
    for piece in _cut(batch, _RAW_ROWS.decode(raw), room):
        try:
            row = _first(_ROWS[kind], piece) or _lenient(kind, bytes(piece))
        except _Rejected as rejected:
            batch.reject(str(rejected))
        else:
            _add(batch, [row], offsets_add=offsets_add)


def _add(batch: Batch, rows: list[Any], *, offsets_add: bool) -> None:
    """Put rows of one type where they belong, in their canonical meaning."""
    first = rows[0] if rows else None
    if isinstance(first, Snapshot):
        batch.snapshots.extend(rows)
    elif isinstance(first, _HistoryRow):
        batch.swarms.extend(map(_settle_history, rows))
    elif isinstance(first, Swarm):
        if isinstance(first, _DatedSwarm):
            rows = [row.timed() for row in rows]
        batch.swarms.extend(map(_add_offsets, rows) if offsets_add else rows)
    elif isinstance(first, _LegacyBan):
        batch.bans.extend(row.flat() for row in rows)
    elif isinstance(first, Ban):
        batch.bans.extend(map(_settle_ban, rows))


def _settle_history(row: _HistoryRow) -> Swarm:
    # PeerBanHelper never fills these two (port 0, private false); qBittorrent-ClientBlocker always says false.
    if row.peer_port <= 0:
        row.peer_port = row.port or -1
    row.torrent_is_private = row.torrent_is_private or None
    return row


def _add_offsets(row: Swarm) -> Swarm:
    row.from_peer_traffic = _total(row.from_peer_traffic, row.from_peer_traffic_offset)
    row.to_peer_traffic = _total(row.to_peer_traffic, row.to_peer_traffic_offset)
    return row


def _total(traffic: int, offset: int) -> int:
    return min(max(traffic, 0) + offset, _INT64_MAX) if offset > 0 else traffic


def _settle_ban(row: Ban) -> Ban:
    if row.structured_data is not None:
        row.structured_data = _json_text(row.structured_data)
    return row


def _raw_text(raw: bytes) -> str | None:
    """Legacy structured data, any JSON value, as JSON text."""
    if raw.startswith(b'"'):
        text = _attempt(_STRING, raw)
        return None if text is None else _json_text(text)
    return _json_text(raw.decode("utf-8", "replace")) if raw else None


def _json_text(text: str) -> str | None:
    """Structured data as valid JSON text: other text becomes a JSON string, null and what is too much None."""
    nesting = text.count("[") + text.count("{")
    if not text or len(text) > _MAX_STRUCTURED_DATA or nesting > _MAX_STRUCTURED_NESTING:
        return None
    try:
        value = msgspec.json.decode(text)
    except _UNREADABLE:
        text = msgspec.json.encode(text).decode()
        return text if len(text) <= _MAX_STRUCTURED_DATA else None
    return None if value is None else text


def _lenient(kind: Kind, raw: bytes) -> Peer:
    """One row made field by field from whatever can be understood.

    For odd types (numbers as text, nulls), damaged UTF-8, RFC 3339 times (peerbanhelper-rust) and the field names of
    PeerBanHelper 8.0 betas to 9.1. Raises _Rejected.
    """
    if len(raw) > _MAX_LENIENT_ROW or raw.count(b"[") + raw.count(b"{") > _MAX_LENIENT_NESTING:
        raise _Rejected("row_too_large")
    try:
        row = json.loads(raw.decode("utf-8", "replace"), parse_int=_bounded_integer)
    except (ValueError, RecursionError) as error:
        raise _Rejected("bad_json") from error
    if not isinstance(row, dict):
        raise _Rejected("not_an_object")
    if kind == "swarms":
        return _build(Swarm, row)
    if kind == "bans":
        peer = row.pop("peer", None)
        return _build(Ban, {**peer, **row} if isinstance(peer, dict) else row)
    return _build(_HistoryRow if row.get("downloaded_offset") is not None else Snapshot, row)


def _build(row_type: type[_P], row: dict[str, Any]) -> _P:
    fields: dict[str, Any] = {}
    for name, aliases, convert in _FIELDS[row_type]:
        for alias in aliases:
            sent = row.get(alias)
            if sent is not None:
                value = convert(sent)
                if value is not None:
                    fields[name] = value
                break
    if "peer_ip" not in fields:
        raise _Rejected("bad_address")
    if "torrent_identifier" not in fields:
        raise _Rejected("bad_identifier")
    return row_type(**fields)


def _bounded_integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _LONG_INTEGER else float(digits)


def _parse_number(text: str) -> int | float | None:
    try:
        return _bounded_integer(text) if text.removeprefix("-").isdecimal() else float(text)
    except ValueError:
        return None


def _integer(value: object) -> int | None:
    """A 64-bit integer from a number or its text, None for an empty text; raises _Rejected."""
    if isinstance(value, str):
        value = value.strip()
        if not value:
            return None
        value = _parse_number(value)
    # NaN fails the comparison, so it is refused with the infinities.
    if isinstance(value, bool) or not isinstance(value, int | float) or not _INT64_MIN <= value <= _INT64_MAX:
        raise _Rejected("bad_number")
    return int(value)


def _port(value: object) -> int | None:
    try:
        return _integer(value)
    except _Rejected as error:
        raise _Rejected("bad_port") from error


def _fraction(value: object) -> float | None:
    number = _parse_number(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        return None
    return float(number)


def _flag(value: object) -> bool | None:
    return _FLAGS.get(value.lower() if isinstance(value, str) else value) if isinstance(value, str | int) else None


def _text(value: object) -> str | None:
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _string(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _time(value: object) -> int | None:
    """A time in ms from a number or an RFC 3339 text; None if it is neither, because a time never costs the row."""
    number = _parse_number(value) if isinstance(value, str) else value
    if number is None and isinstance(value, str):
        try:
            # RFC 3339 allows a small t and z, which this parser doesn't know.
            moment = datetime.fromisoformat(value.upper())
        except ValueError:
            return None
        return _millis(moment)
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= _LATEST:
        return None
    return int(number)


def _millis(moment: datetime | None) -> int | None:
    """A date in ms, read as UTC where it names no zone; None outside of the years 1970 to 9999."""
    if moment is None:
        return None
    since = ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // _MILLISECOND
    return since if 0 <= since <= _LATEST else None


def _structured(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


_FLAGS: dict[str | int, bool] = {"true": True, "false": False, "1": True, "0": False, 1: True, 0: False}


def _fields(row_type: type[Peer]) -> tuple[_Field, ...]:
    return tuple(field for field in _ALL_FIELDS if field[0] in row_type.__struct_fields__)


# Canonical name, its names on the wire in order of preference, how to understand what was sent.
_ALL_FIELDS: tuple[_Field, ...] = (
    ("peer_ip", ("peer_ip", "ip_address", "ip"), _string),
    ("peer_port", ("peer_port", "port"), _port),
    ("peer_id", ("peer_id",), _text),
    ("peer_client_name", ("peer_client_name", "client_name"), _text),
    ("torrent_identifier", ("torrent_identifier",), _string),
    ("torrent_is_private", ("torrent_is_private",), _flag),
    ("torrent_size", ("torrent_size",), _integer),
    ("from_peer_traffic", ("from_peer_traffic", "downloaded"), _integer),
    ("from_peer_traffic_offset", ("from_peer_traffic_offset", "downloaded_offset"), _integer),
    ("from_peer_traffic_speed", ("rt_download_speed", "download_speed"), _integer),
    ("from_peer_traffic_speed_max", ("download_speed_max",), _integer),
    ("to_peer_traffic", ("to_peer_traffic", "uploaded"), _integer),
    ("to_peer_traffic_offset", ("to_peer_traffic_offset", "uploaded_offset"), _integer),
    ("to_peer_traffic_speed", ("rt_upload_speed", "upload_speed"), _integer),
    ("to_peer_traffic_speed_max", ("upload_speed_max",), _integer),
    ("peer_progress", ("peer_progress", "progress"), _fraction),
    ("downloader_progress", ("downloader_progress",), _fraction),
    ("peer_flag", ("peer_flag", "peer_last_flags", "last_flags"), _text),
    ("downloader", ("downloader",), _text),
    ("first_time_seen", ("first_time_seen",), _time),
    ("last_time_seen", ("last_time_seen",), _time),
    ("module", ("module",), _text),
    ("rule", ("rule",), _text),
    ("description", ("description",), _text),
    ("btn_ban", ("btn_ban",), _flag),
    ("ban_unique_id", ("ban_unique_id",), _text),
    ("ban_at", ("ban_at",), _time),
    ("structured_data", ("structured_data",), _structured),
)
_FIELDS: dict[type[Peer], tuple[_Field, ...]] = {
    row_type: _fields(row_type) for row_type in (Snapshot, Swarm, _HistoryRow, Ban)
}


def _too_large(limit: int) -> SparkleError:
    return SparkleError(
        "too_large",
        f"The uncompressed body is larger than {limit} bytes; send fewer rows at a time.",
        f"解压后的请求体超过 {limit} 字节；请减少每次提交的行数。",
    )


def _damaged_gzip() -> SparkleError:
    return SparkleError(
        "bad_request",
        "The gzip data of the body is damaged or cut off.",
        "请求体的 gzip 数据已损坏或被截断。",
    )


def _unreadable() -> SparkleError:
    return SparkleError(
        "bad_request",
        "The body is not readable JSON: it is damaged, cut off or nested too deeply.",
        "请求体不是可读取的 JSON：内容已损坏、被截断或嵌套过深。",
    )


def _no_lists() -> SparkleError:
    return SparkleError(
        "bad_request",
        "The body must be a JSON object with a list named peers, bans or swarms.",
        "请求体必须是一个 JSON 对象，并包含名为 peers、bans 或 swarms 的列表。",
    )
