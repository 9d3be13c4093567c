"""Submission bodies: from the bytes of a request to clean rows of one shape.

Every client generation has its own field names; here they all become `PeerSnapshot` (what a peer was seen doing),
`PeerSwarm` (running totals) or `PeerBan`. Rows are told apart by their shape, never by the client or the URL. One
decode of the whole body is tried first; only when that fails is each row read on its own, so that a bad row costs
itself and nothing else.

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
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field
from msgspec.json import Decoder

from sparkle_lite.errors import SparkleError
from sparkle_lite.units import INT64_MAX, INT64_MIN, KIB, MIB
from sparkle_lite.wire.damaged import MAX_NESTING, DamagedBody, Kind

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

_LATEST = 253_402_300_799_999  # the last millisecond of the year 9999: beyond it no date can be shown
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

Int64 = Annotated[int, Meta(ge=INT64_MIN, le=INT64_MAX)]
Millis = Annotated[int, Meta(ge=0, le=_LATEST)]

_GZIP_MAGIC = b"\x1f\x8b"
# Clients send one member; programs that compress block by block send one for each 64 KiB.
_MAX_GZIP_MEMBERS, _GZIP_WINDOW = 10_000, 1024
# A body that inflates to over so many times its size, and over so many bytes, says nothing worth the work.
_BOMB_RATIO, _BOMB_BYTES = 200, 8 * MIB
# The shortest row that says anything: {"ip_address":"","torrent_identifier":""}
_MIN_ROW_BYTES = 41
# Bounds the list of undecoded rows to about 250 MB; real bodies have a comma per 20 to 30 bytes (2.8 M in 64 MiB).
_MAX_VALUES = 4_000_000
# Bytes of one row read on its own.
_MAX_LENIENT_ROW = 64 * KIB
# Rows of one body that may turn out to say nothing when they are read on their own: reading one takes up to 40 µs.
_MAX_UNREADABLE_ROWS = 2_000
# What may be read row by row in some milliseconds: rows, or bytes and commas of a body that is damaged as a whole; and
# how many objects a body may hold whose rows are decoded at once.
_FEW_ROWS, _LITTLE_DAMAGE, _FEW_COMMAS, _FEW_OBJECTS = 200, 64 * KIB, 4_000, 20_000
# What structured data may hold: characters, and objects and lists.
_MAX_STRUCTURED_DATA, _MAX_STRUCTURED_NESTING = 16 * KIB, 128

_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
_NULL = Raw(b"null")
_CONTROLS_TO_BLANKS = bytes(max(code, 32) for code in range(256))
_LONE_SURROGATE = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F][0-9a-fA-F]{2})"
)
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
# Each begins with a literal, which the regular expression engine finds fast.
_NOT_NUMBERS = tuple(
    re.compile(rb"%b(?<=[:,\[ ]%b)(?= {0,16}[,}\]])" % (name, name)) for name in (b"-Infinity", b"Infinity", b"NaN")
)
_SURROGATE_BYTES = bytes(range(0xD8, 0xE0))
# What may be replaced in UTF-16: bytes that may be half of a character. Rows that may be decoded one by one.
_MAX_SURROGATES, _MAX_UTF16_ROWS, _MAX_END = 1_000_000, 500_000, 256
_BETWEEN_UTF16_ROWS = {
    "utf-16-le": re.compile(rb",\0(?:[ \t\r\n]\0)*+\{\0"),
    "utf-16-be": re.compile(rb"\0,(?:\0[ \t\r\n])*+\0\{"),
}
_UTF16_END = {
    "utf-16-le": re.compile(rb"\]\0(?:[ \t\r\n]\0)*+\}\0(?:[ \t\r\n]\0)*+\Z"),
    "utf-16-be": re.compile(rb"\0\](?:\0[ \t\r\n])*+\0\}(?:\0[ \t\r\n])*+\Z"),
}
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


class PeerSnapshot(Peer, kw_only=True, gc=False):
    """A peer at one moment, decoded straight from the legacy names (all PeerBanHelper, qBCB, BTNScriptBC)."""

    peer_ip: str = field(name="ip_address")
    peer_client_name: str | None = field(name="client_name", default=None)
    from_peer_traffic: Int64 = field(name="downloaded", default=-1)
    from_peer_traffic_speed: Int64 = field(name="rt_download_speed", default=-1)
    to_peer_traffic: Int64 = field(name="uploaded", default=-1)
    to_peer_traffic_speed: Int64 = field(name="rt_upload_speed", default=-1)


class PeerSwarm(Peer, kw_only=True, gc=False):
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


class PeerBan(Peer, kw_only=True, gc=False):
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

        "id": `ban_unique_id`, address and port (a UUID or SHA-256). "id_time": `ban_unique_id`, torrent, module and
        rule, with a `ban_at` within 24 hours of the last one's, because qBittorrent-ClientBlocker's ids repeat over
        time, and its `ban_at` is when it last saw the peer. "time": `ban_at`, address, port, torrent and module.
        "content": address, port, torrent, module and rule within 24 hours, as nothing better was sent.
        """
        if self.ban_unique_id and _HASH_OR_UUID.fullmatch(self.ban_unique_id):
            return "id"
        if self.ban_at is None:
            return "content"
        return "id_time" if self.ban_unique_id else "time"


class Batch(Struct):
    """The rows of one body, and how many were left out by reason; `populate_time` in ms as the client says.

    `cut_off` says that the body was too large, and only its first rows were read.
    """

    populate_time: int | None = None
    snapshots: list[PeerSnapshot] = field(default_factory=list)
    swarms: list[PeerSwarm] = field(default_factory=list)
    bans: list[PeerBan] = field(default_factory=list)
    rejected: dict[str, int] = field(default_factory=dict)
    cut_off: bool = False

    @property
    def rows(self) -> int:
        """How many there are of all kinds."""
        return len(self.snapshots) + len(self.swarms) + len(self.bans)

    def reject(self, reason: str, rows: int = 1) -> None:
        """Count rows that are left out; `reason` is one of REASONS."""
        self.rejected[reason] = self.rejected.get(reason, 0) + rows


class _SnapshotRow(PeerSnapshot, kw_only=True, gc=False):
    # A row with a number here is a history: it must not pass for a snapshot, wherever in the list it stands.
    downloaded_offset: None = None


class _HistoryRow(PeerSwarm, kw_only=True, gc=False):
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


class _DatedSwarm(PeerSwarm, kw_only=True, gc=False):
    # peerbanhelper-rust writes times as RFC 3339 text. The inherited fields are filled from these two afterwards.
    first_time_seen: Millis | None = field(name="first_time_seen_ms", default=None)
    last_time_seen: Millis | None = field(name="last_time_seen_ms", default=None)
    first_date: datetime | None = field(name="first_time_seen", default=None)
    last_date: datetime | None = field(name="last_time_seen", default=None)

    def timed(self) -> PeerSwarm:
        """The same row with its times in ms."""
        self.first_time_seen = _millis(self.first_date)
        self.last_time_seen = _millis(self.last_date)
        return self


class _LegacyBan(Struct, kw_only=True, gc=False):
    peer: PeerSnapshot
    module: str = ""
    rule: str | None = None
    btn_ban: bool = False
    ban_unique_id: str | None = None
    ban_at: Millis | None = None
    structured_data: Raw = Raw()

    def flat(self) -> PeerBan:
        """The same ban in one piece."""
        return PeerBan(
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


class Laborious(Exception):
    """Reading the body takes longer than others should have to wait; nothing is wrong with it otherwise."""


class _Damaged(Exception):
    """The body is no JSON as a whole, or too much of it to hold all of its rows at once."""


class _Rejected(Exception):
    """This row can't be kept; the message is the reason."""


_SNAPSHOT_BODY = Decoder(_SnapshotBody)
_HISTORY_BODY = Decoder(_HistoryBody)
_ENVELOPE = Decoder(_Envelope)
_FIRST_LIST = {name: re.compile(rb'"%b"[ \t\r\n]*+:[ \t\r\n]*+(?=\[)' % name.encode()) for name in get_args(Kind)}
_RAW_ROWS = Decoder(list[Raw])
_SCALAR: Decoder[object] = Decoder(int | float | str)
_STRING = Decoder(str)
# Tried in this order; of a list in another shape the first row fails, which costs about 1 µs.
_LISTS: dict[Kind, tuple[Decoder[Any], ...]] = {
    "peers": (Decoder(list[_SnapshotRow]), Decoder(list[_HistoryRow])),
    "bans": (Decoder(list[_LegacyBan]), Decoder(list[PeerBan])),
    "swarms": (Decoder(list[PeerSwarm]), Decoder(list[_DatedSwarm])),
}
_ROWS: dict[Kind, tuple[Decoder[Any], ...]] = {
    "peers": (Decoder(_SnapshotRow), Decoder(_HistoryRow)),
    "bans": (Decoder(_LegacyBan), Decoder(PeerBan)),
    "swarms": (Decoder(PeerSwarm), Decoder(_DatedSwarm)),
}


def inflate(body: bytes, content_encoding: str, limit: int) -> tuple[bytes, bool]:
    """The plain bytes of a request body, at most the first `limit` of them, and whether there were more.

    Gzip is told by its magic bytes, whatever the header says: a redirected POST keeps `Content-Encoding: gzip` without
    its body, and some senders forget the header. Several members are joined, anything after the last is ignored, as
    gzip itself does. Memory stays near `limit` however large the body would become.
    Raises SparkleError: unsupported (another encoding), bad_request (empty, damaged, cut off on its way), too_large
    (over 200 times its own size and over 8 MiB: a bomb).
    """
    encodings = {part.strip().lower() for part in content_encoding.split(",")}
    if encodings - {"", "identity", "gzip", "x-gzip"}:
        raise SparkleError("unsupported", "body.bad_encoding")
    if not body:
        raise empty_body()
    if body.startswith(_GZIP_MAGIC):
        return _gunzip(body, limit)
    return body[:limit], len(body) > limit


def empty_body() -> SparkleError:
    """The refusal of a request without rows."""
    return SparkleError("bad_request", "body.empty")


def _gunzip(body: bytes, limit: int) -> tuple[bytes, bool]:
    pieces: list[bytes] = []
    size = at = members = 0
    # With more than this it is a bomb, whatever follows.
    most = max(_BOMB_BYTES, _BOMB_RATIO * len(body))
    while body.startswith(_GZIP_MAGIC, at):
        if members == _MAX_GZIP_MEMBERS:
            return b"".join(pieces), True
        # What follows a member is handed back as a copy, so of a further one only little more than it needs is given.
        window = _GZIP_WINDOW if members else len(body)
        members += 1
        inflater = zlib.decompressobj(wbits=31)
        given: bytes | memoryview = b""
        while not inflater.eof:
            if not given:
                given = memoryview(body)[at : at + window]
                at += len(given)
                window *= 2
            if not given:
                raise _damaged_gzip()
            try:
                pieces.append(inflater.decompress(given, min(limit, most) + 1 - size))
            except zlib.error as error:
                raise _damaged_gzip() from error
            size += len(pieces[-1])
            given = inflater.unconsumed_tail
            if size > limit or size > most:
                # Of a body that isn't read to its end, what was read says whether it is a bomb.
                if size > max(_BOMB_BYTES, _BOMB_RATIO * (at - len(given))):
                    raise _bomb()
                pieces[-1] = pieces[-1][: limit - size]
                return b"".join(pieces), True
        at -= len(inflater.unused_data)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces), False


def utf8(data: bytes) -> bytes:
    """JSON in UTF-8 or UTF-16, with or without a byte order mark, as UTF-8 without one.

    What is in UTF-8 is not looked at. Raises SparkleError: bad_request (UTF-16 that isn't whole).
    """
    try:
        return _as_utf8(data)
    except _Damaged:
        raise SparkleError("bad_request", "body.not_utf") from None


def decode(
    data: bytes, max_rows: int, *, offsets_add: bool = False, cut_off: bool = False, patient: bool = True
) -> Batch:
    """The rows of an inflated body, from any client since PeerBanHelper 3.2.

    `data` is JSON in UTF-8 or UTF-16, with or without a byte order mark (BTNScriptBC sends UTF-16): an object with one
    or more of the lists `peers`, `bans`, `swarms`. The first `max_rows` rows are taken, the rest counted as rejected;
    the same when `cut_off` says that there was more than `data` (the rest then counts as one row at least). What is
    wrong with a row, whatever it is, costs that row. `offsets_add` says that a swarm's total is traffic plus offset
    (peerbanhelper-rust); with everybody else the traffic already is the total. A row that can't be understood as it is
    costs much to look at closely, so of many such rows only the first are, and the rest are taken for no better.
    Raises SparkleError: bad_request (unreadable as a whole, or without its end, so that it is sent again); where it
    isn't `patient`, Laborious for what would take longer than some milliseconds.
    """
    if not patient and data.count(b"{") > _FEW_OBJECTS:
        raise Laborious
    rows = _RowReader(Batch(cut_off=cut_off), offsets_add=offsets_add)
    if not cut_off:
        try:
            return _sound(_as_utf8(data), max_rows, rows, patient=patient)
        except _Damaged:
            rows = _RowReader(Batch(), offsets_add=offsets_add)
    if not patient and (len(data) > _LITTLE_DAMAGE or data.count(b",") > _FEW_COMMAS):
        raise Laborious
    return _salvaged(data, max_rows, rows, cut_off=cut_off)


def _sound(data: bytes, max_rows: int, reader: "_RowReader", *, patient: bool) -> Batch:
    """The rows of a body that is JSON as a whole, perhaps after a mend. Raises _Damaged where it isn't; Laborious."""
    if _repeats_list(data):
        raise _Damaged
    batch = reader.batch
    # Decoded rows are large: a body of far more rows than are kept is not decoded at once. Braces bound their number.
    at_once = 4 * max_rows + 1024
    small = len(data) // _MIN_ROW_BYTES <= at_once or data.count(b"{") <= at_once
    lists = (_whole(data, batch) if small else None) or _envelope(data, batch, patient=patient)
    for kind, rows in lists.items():
        room = max_rows - batch.rows
        if isinstance(rows, Raw):
            decoded = _first(_LISTS[kind], rows) if small else None
            if decoded is None:
                commas = bytes(rows).count(b",")
                if commas > _FEW_COMMAS and not patient:
                    raise Laborious
                if commas > _MAX_VALUES:
                    raise _Damaged
                pieces = _cut(batch, _RAW_ROWS.decode(rows), room)
                if len(pieces) > _FEW_ROWS and not patient:
                    raise Laborious
                for piece in pieces:
                    reader.take(kind, piece)
                continue
            rows = decoded
        _add(batch, _cut(batch, rows, room), offsets_add=reader.offsets_add)
    return batch


def _repeats_list(data: bytes) -> bool:
    """Whether a list comes twice: a parser keeps the last, and would lose the rows of the other without a word.

    Then the list that is kept doesn't stand behind the first key of its name. To find that there is no second bracket,
    as in most bodies, takes a fiftieth of the time of decoding.
    """
    if data.find(b"[", data.find(b"[") + 1) < 0:
        return False
    body = _attempt(_ENVELOPE, data)
    if body is None:
        return False
    for name, raw in (("peers", body.peers), ("bans", body.bans), ("swarms", body.swarms)):
        first = _FIRST_LIST[name].search(data) if raw else None
        if first and not data.startswith(bytes(raw), first.end()):
            return True
    return False


def _salvaged(data: bytes, max_rows: int, reader: "_RowReader", *, cut_off: bool) -> Batch:
    """The rows of a body that can only be read row by row."""
    encoding = _utf16(data)
    body = DamagedBody(_mend(_utf16_by_rows(data, encoding) if encoding else _as_utf8(data)), _FIRST_KEYS)
    if not body.has_lists:
        raise _unreadable()
    batch = reader.batch
    left = max_rows
    for kind, piece in body.rows():
        if not left:
            batch.reject("too_many_rows", 1 + body.count_rest())
            break
        left -= 1
        if piece is None:
            batch.reject("bad_json")
        else:
            reader.take(kind, piece)
    else:
        if cut_off:
            batch.reject("too_many_rows")
        elif not body.is_complete or left == max_rows:
            raise _unreadable()
    batch.populate_time = _time(_attempt(_SCALAR, body.populate_time))
    return batch


def _cut(batch: Batch, rows: list[_T], room: int) -> list[_T]:
    if len(rows) <= room:
        return rows
    batch.reject("too_many_rows", len(rows) - room)
    return rows[:room]


def _as_utf8(data: bytes) -> bytes:
    """A body in UTF-8 and without a byte order mark. Raises _Damaged where it is in UTF-16 and not whole."""
    if data.startswith(codecs.BOM_UTF8):
        return data[len(codecs.BOM_UTF8) :]
    encoding = _utf16(data)
    if encoding is None:
        return data
    try:
        return data.decode(encoding).removeprefix("\ufeff").encode()
    except UnicodeDecodeError as error:
        raise _Damaged from error


def _utf16(data: bytes) -> Literal["utf-16-le", "utf-16-be"] | None:
    """The encoding of a body in UTF-16, told by its byte order mark or by half of its first character."""
    if data.startswith(codecs.BOM_UTF16_LE) or data[1:2] == b"\0":
        return "utf-16-le"
    return "utf-16-be" if data.startswith(codecs.BOM_UTF16_BE) or data[:1] == b"\0" else None


def _utf16_by_rows(data: bytes, encoding: Literal["utf-16-le", "utf-16-be"]) -> bytes:
    """A damaged body in UTF-16 as UTF-8: half a character, or a lost byte, costs no more than the row that it is in.

    Between rows are the same characters again, wherever they begin, so each row is decoded from its own beginning.
    """
    spare = _MAX_SURROGATES
    rows: list[bytes] = []
    end = _UTF16_END[encoding].search(data, max(0, len(data) - _MAX_END))
    for row in _BETWEEN_UTF16_ROWS[encoding].split(data[: end and end.start()], maxsplit=_MAX_UTF16_ROWS):
        try:
            text = row.decode(encoding)
        except UnicodeDecodeError:
            # Replacing takes 150 ns for each lone surrogate, too long for a body of nothing else.
            spare -= len(row) - len(row.translate(None, _SURROGATE_BYTES))
            text = row.decode(encoding, "replace") if spare >= 0 else ""
        rows.append(text.encode())
    return b",{".join(rows).removeprefix(codecs.BOM_UTF8) + (b"]}" if end else b"")


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


def _envelope(data: bytes, batch: Batch, *, patient: bool) -> dict[Kind, Any]:
    """The lists of a body, all still raw, after a mend where only that makes it readable."""
    try:
        body = _attempt(_ENVELOPE, data)
        if body is None and not patient and len(data) > _LITTLE_DAMAGE:
            raise Laborious
        body = body or _ENVELOPE.decode(_mend(data))
    except msgspec.ValidationError as error:
        raise _no_lists() from error
    except _UNREADABLE as error:
        raise _Damaged from error
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


class _RowReader:
    """Reads rows on their own into a batch."""

    def __init__(self, batch: Batch, *, offsets_add: bool) -> None:
        self.batch = batch
        self.offsets_add = offsets_add
        self._spare = _MAX_UNREADABLE_ROWS
        self._last_reason = ""

    def take(self, kind: Kind, piece: bytes | Raw) -> None:
        """Take a row if it is sound or can be understood, else count it."""
        try:
            row = self._read(kind, piece)
        except _Rejected as rejected:
            self._spare -= 1
            self._last_reason = str(rejected)
            self.batch.reject(self._last_reason)
        else:
            _add(self.batch, [row], offsets_add=self.offsets_add)

    def _read(self, kind: Kind, piece: bytes | Raw) -> Any:
        if memoryview(piece)[:1].tobytes() != b"{":
            raise _Rejected("not_an_object")
        row = _first(_ROWS[kind], piece)
        if row is None:
            if self._spare <= 0:
                raise _Rejected(self._last_reason)
            row = _lenient(kind, bytes(piece))
        return row


def _add(batch: Batch, rows: list[Any], *, offsets_add: bool) -> None:
    """Put rows of one type where they belong, in their canonical meaning."""
    first = rows[0] if rows else None
    if isinstance(first, PeerSnapshot):
        batch.snapshots.extend(rows)
    elif isinstance(first, _HistoryRow):
        batch.swarms.extend(map(_settle_history, rows))
    elif isinstance(first, PeerSwarm):
        if isinstance(first, _DatedSwarm):
            rows = [row.timed() for row in rows]
        batch.swarms.extend(map(_add_offsets, rows) if offsets_add else rows)
    elif isinstance(first, _LegacyBan):
        batch.bans.extend(row.flat() for row in rows)
    elif isinstance(first, PeerBan):
        batch.bans.extend(map(_settle_ban, rows))


def _settle_history(row: _HistoryRow) -> PeerSwarm:
    # PeerBanHelper never fills these two (port 0, private false); qBittorrent-ClientBlocker always says false.
    if row.peer_port <= 0:
        row.peer_port = row.port or -1
    row.torrent_is_private = row.torrent_is_private or None
    return row


def _add_offsets(row: PeerSwarm) -> PeerSwarm:
    row.from_peer_traffic = _total(row.from_peer_traffic, row.from_peer_traffic_offset)
    row.to_peer_traffic = _total(row.to_peer_traffic, row.to_peer_traffic_offset)
    return row


def _total(traffic: int, offset: int) -> int:
    return min(max(traffic, 0) + offset, INT64_MAX) if offset > 0 else traffic


def _settle_ban(row: PeerBan) -> PeerBan:
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
    if len(raw) > _MAX_LENIENT_ROW or raw.count(b"[") + raw.count(b"{") > MAX_NESTING:
        raise _Rejected("row_too_large")
    try:
        row = json.loads(raw.decode("utf-8", "replace"), parse_int=_bounded_integer)
    except (ValueError, RecursionError) as error:
        raise _Rejected("bad_json") from error
    if not isinstance(row, dict):
        raise _Rejected("not_an_object")
    if kind == "swarms":
        return _build(PeerSwarm, row)
    if kind == "bans":
        peer = row.pop("peer", None)
        return _build(PeerBan, {**peer, **row} if isinstance(peer, dict) else row)
    return _build(_HistoryRow if row.get("downloaded_offset") is not None else PeerSnapshot, row)


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
    if isinstance(value, bool) or not isinstance(value, int | float) or not INT64_MIN <= value <= INT64_MAX:
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
        return _HALF_CHARACTER.sub("\ufffd", value)
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _string(value: object) -> str | None:
    return _HALF_CHARACTER.sub("\ufffd", value) if isinstance(value, str) else None


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
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return _HALF_CHARACTER.sub("\ufffd", text)


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
# What the rows of all clients may begin with.
_FIRST_KEYS = sorted({"peer"}.union(*(names for _, names, _ in _ALL_FIELDS)))
_FIELDS: dict[type[Peer], tuple[_Field, ...]] = {
    row_type: _fields(row_type) for row_type in (PeerSnapshot, PeerSwarm, _HistoryRow, PeerBan)
}


def _bomb() -> SparkleError:
    return SparkleError("too_large", "body.bomb", times=_BOMB_RATIO)


def _damaged_gzip() -> SparkleError:
    return SparkleError("bad_request", "body.damaged")


def _unreadable() -> SparkleError:
    return SparkleError("bad_request", "body.unreadable")


def _no_lists() -> SparkleError:
    return SparkleError("bad_request", "body.no_lists")
