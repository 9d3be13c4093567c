"""Submission bodies of every client, and of nobody: what is kept, what is refused, and what it may cost."""

import gzip
import json
import random
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from canonical import CANONICAL, expected
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import WIRE, read_sample

from sparkle_lite.errors import SparkleError
from sparkle_lite.wire.bodies import REASONS, Batch, PeerBan, PeerSnapshot, PeerSwarm, decode, inflate

TORRENT = "52fa13494a4571a951b46b1a04be19ab9d8089c3d3761956c99f5435e6f2c8ad"
PEER = {"ip_address": "203.0.113.57", "peer_port": 6881, "torrent_identifier": TORRENT, "uploaded": 5}
MiB = 2**20


def body(*rows: object, name: str = "peers", **more: object) -> bytes:
    return json.dumps({name: rows, **more}).encode()


def rows_of(batch: Batch) -> list[PeerSnapshot | PeerSwarm | PeerBan]:
    return [*batch.snapshots, *batch.swarms, *batch.bans]


def refusal(data: bytes, max_rows: int = 50_000) -> SparkleError:
    with pytest.raises(SparkleError) as refused:
        decode(data, max_rows)
    assert refused.value.message.endswith(".")
    assert refused.value.text("zh").endswith("。")
    return refused.value


def found(row: PeerSnapshot | PeerSwarm | PeerBan, name: str) -> Any:
    value = getattr(row, name)
    return json.loads(value) if name == "structured_data" and value is not None else value


@pytest.mark.parametrize(
    "name",
    sorted(
        path.name for path in WIRE.glob("*.json") if path.name.startswith(("btnscriptbc", "pbh-", "qbcb", "rust"))
        and not any(part in path.name for part in ("hitrate", "clientping", "heartbeat"))
    ),
)  # fmt: skip
def test_every_value_of_every_published_submission_is_kept(name: str) -> None:
    data = read_sample(name)
    document = json.loads(data)
    wires = document.get("peers") or document.get("bans") or document.get("swarms") or []
    origin = "history" if "histories" in name else name.removesuffix(".json")

    batch = decode(data, 50_000, offsets_add=name.startswith("rust"))

    kind = PeerBan if "bans" in name else PeerSwarm if "swarm" in name or origin == "history" else PeerSnapshot
    kept = rows_of(batch)
    assert batch.populate_time == document.get("populate_time")
    assert batch.rejected == {}
    assert len(kept) == len(wires)
    assert all(isinstance(row, kind) for row in kept)
    for row, wire in zip(kept, wires, strict=True):
        wanted = expected(wire, origin)
        assert {field: found(row, field) for field in wanted} == wanted


def test_the_published_samples_are_all_there() -> None:
    assert len(list(WIRE.glob("*-peers*.json"))) >= 5
    assert len(list(WIRE.glob("*bans*.json"))) >= 8
    assert len(list(WIRE.glob("*histories*.json"))) >= 4
    assert len(list(WIRE.glob("*swarm*.json"))) >= 4


def test_a_legacy_peer_becomes_a_snapshot_in_canonical_words() -> None:
    third = decode(read_sample("pbh-legacy-peers.json"), 50_000).snapshots[2]
    assert third.peer_ip == "::ffff:198.51.100.9"
    assert third.peer_client_name == "-XL0019-\0é中"
    assert third.peer_progress == 0.0001
    assert third.peer_flag is None
    first = decode(read_sample("pbh-legacy-peers.json"), 50_000).snapshots[0]
    assert (first.to_peer_traffic, first.to_peer_traffic_speed) == (734003200, 1048576)
    assert (first.from_peer_traffic, first.from_peer_traffic_speed) == (0, 0)


def test_what_a_client_does_not_send_is_unknown() -> None:
    row = decode(body({"ip_address": "203.0.113.57", "torrent_identifier": "t"}), 10).snapshots[0]
    assert (row.peer_port, row.torrent_size, row.to_peer_traffic, row.from_peer_traffic_speed) == (-1, 0, -1, -1)
    assert (row.peer_id, row.torrent_is_private, row.peer_progress, row.peer_flag) == (None, None, None, None)


def test_histories_leave_out_what_peerbanhelper_never_fills() -> None:
    rows = decode(read_sample("pbh-histories.json"), 50_000).swarms
    assert {(row.origin, row.peer_port, row.torrent_is_private, row.downloader) for row in rows} == {
        ("history", -1, None, None)
    }
    assert rows[0].to_peer_traffic == 734068736
    assert decode(read_sample("qbcb-histories.json"), 50_000).swarms[0].peer_port == 60874


def test_a_history_with_a_real_port_or_a_private_torrent_keeps_them() -> None:
    row = {**PEER, "downloaded_offset": 0, "torrent_is_private": True, "port": 51413}
    del row["peer_port"]
    odds: tuple[dict[str, str], ...] = ({}, {"uploaded": "5"})
    for odd in odds:
        kept = decode(body({**row, **odd}), 10).swarms[0]
        assert (kept.peer_port, kept.torrent_is_private) == (51413, True)


def test_the_rust_client_adds_offsets_and_nobody_else_does() -> None:
    data = read_sample("rust-swarm.json")
    assert decode(data, 10, offsets_add=True).swarms[0].to_peer_traffic == 734003200 + 1073741824
    assert decode(data, 10).swarms[0].to_peer_traffic == 734003200
    assert decode(data, 10).swarms[0].first_time_seen == 1784270000000
    assert decode(data, 10).swarms[0].last_time_seen == 1784276999987


def test_totals_that_would_not_fit_64_bits_stop_there() -> None:
    row = {"peer_ip": "203.0.113.57", "torrent_identifier": "t", "to_peer_traffic": 2**63 - 1}
    data = body({**row, "to_peer_traffic_offset": 2**63 - 1}, {**row, "to_peer_traffic": -1}, name="swarms")
    assert [kept.to_peer_traffic for kept in decode(data, 10, offsets_add=True).swarms] == [2**63 - 1, -1]


def test_bans_know_what_makes_a_report_the_same_again() -> None:
    def kinds(name: str) -> set[str]:
        return {ban.dedupe for ban in decode(read_sample(name), 50_000).bans}

    assert kinds("pbh-legacy-bans.json") == {"id"}
    assert kinds("pbh-legacy-bans-v4_0-v7_3_2.json") == {"id"}
    assert kinds("pbh-legacy-bans-v3_2-v3_5_1.json") == {"content"}
    assert kinds("qbcb-bans.json") == {"id_time"}
    assert kinds("pbh-modern-bans.json") == kinds("pbh-v8-bans.json") == kinds("rust-bans.json") == {"time"}


def test_the_script_of_bitcomet_sends_utf16_in_gzip() -> None:
    raw = read_sample("btnscriptbc-peers.body.gz")
    data, cut_off = inflate(raw, "gzip", 64 * MiB)
    assert not cut_off
    assert data.startswith(b"\xff\xfe")
    plain = decode(read_sample("btnscriptbc-peers.json"), 50_000)
    assert decode(data, 50_000) == plain
    assert [row.peer_client_name for row in plain.snapshots] == ["HP 0.0.0.1", ""]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_every_unicode_encoding_of_a_body_is_read(encoding: str) -> None:
    text = json.dumps({"peers": [{**PEER, "client_name": "迅雷 é"}]}, ensure_ascii=False)
    assert decode(text.encode(encoding), 10).snapshots[0].peer_client_name == "迅雷 é"


def test_a_lone_surrogate_in_utf16_costs_only_itself() -> None:
    text = json.dumps({"peers": [{**PEER, "client_name": "a\ud83d"}, PEER]}, ensure_ascii=False)
    names = [row.peer_client_name for row in decode(text.encode("utf-16", "surrogatepass"), 10).snapshots]
    assert names == ["a\ufffd", None]


def test_gzip_is_told_by_its_magic_whatever_the_header_says() -> None:
    for encoding in ("gzip", "", "identity", "GZIP", " x-gzip ", "identity, gzip"):
        assert inflate(gzip.compress(b"{}"), encoding, 10) == (b"{}", False)
        assert inflate(b"{}", encoding, 10) == (b"{}", False)


def test_members_of_a_gzip_are_joined_and_what_follows_is_ignored() -> None:
    joined = gzip.compress(b'{"pe') + gzip.compress(b'ers":[]}')
    assert inflate(joined, "gzip", 100) == (b'{"peers":[]}', False)
    assert inflate(joined + b"\0\0\0", "gzip", 100) == (b'{"peers":[]}', False)


def test_a_body_in_very_many_members_keeps_its_first_rows_in_linear_time() -> None:
    blocks = [random.Random(number).randbytes(3000) for number in range(2000)]
    data = b"".join(gzip.compress(block) for block in blocks)
    assert inflate(data, "gzip", 64 * MiB) == (b"".join(blocks), False)
    tiny = "__import__('gzip').compress(b'x') * 700_000"
    kept, grown, seconds = measured(tiny, "bodies.inflate(data, 'gzip', N)[0]")
    assert kept == "10000"
    assert grown < 40
    assert seconds < 3


@pytest.mark.parametrize(
    ("sent", "encoding", "code"),
    [
        (b"", "", "bad_request"),
        (b"", "gzip", "bad_request"),
        (b"{}", "br", "unsupported"),
        (b"{}", "gzip, zstd", "unsupported"),
        (zlib.compress(b"{}"), "deflate", "unsupported"),
        (gzip.compress(b"{}" * 99, mtime=0)[:-9], "gzip", "bad_request"),
        (b"\x1f\x8b", "gzip", "bad_request"),
        (b"\x1f\x8b" + bytes(40), "gzip", "bad_request"),
        (gzip.compress(b"{}", mtime=0)[:-8] + bytes(8), "gzip", "bad_request"),
        (gzip.compress(b"{}", mtime=0) + gzip.compress(b"{}", mtime=0)[:-3], "gzip", "bad_request"),
        (gzip.compress(bytes(9 * MiB), mtime=0), "gzip", "too_large"),
        (gzip.compress(bytes(3 * MiB), mtime=0) * 3, "gzip", "too_large"),
        (gzip.compress(bytes(9 * MiB), mtime=0)[:-9], "gzip", "too_large"),
    ],
)
def test_what_cannot_be_inflated_is_refused_in_a_sentence(sent: bytes, encoding: str, code: str) -> None:
    with pytest.raises(SparkleError) as refused:
        inflate(sent, encoding, 64 * MiB)
    assert refused.value.code == code
    assert refused.value.message.endswith(".")
    assert refused.value.text("zh").endswith("。")


@pytest.mark.parametrize("more", [0, 1, 500])
def test_of_a_body_over_the_limit_the_beginning_is_taken(more: int) -> None:
    plain = b"ab" * 500 + b"x" * more
    for sent in (plain, gzip.compress(plain), gzip.compress(plain[:600]) + gzip.compress(plain[600:])):
        assert inflate(sent, "", 1000) == (b"ab" * 500, more > 0)


def test_a_bomb_is_over_200_to_1_and_over_8_mib() -> None:
    def at_ratio(ratio: int, size: int) -> bytes:
        noise = random.Random(5).randbytes(size // ratio - size // 1030)
        return gzip.compress(noise + bytes(size - len(noise)))

    for ratio, size, is_bomb in ((190, 9, False), (220, 9, True), (900, 7, False), (900, 30, True), (100, 40, False)):
        sent = at_ratio(ratio, size * MiB)
        assert (len(sent) * 200 < size * MiB) == (ratio > 200)
        for limit in (64 * MiB, 20 * MiB):
            try:
                data, cut_off = inflate(sent, "gzip", limit)
            except SparkleError as refused:
                assert (is_bomb, refused.code) == (True, "too_large")
            else:
                assert not is_bomb
                assert (len(data), cut_off) == (min(limit, size * MiB), limit < size * MiB)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"{",
        b'{"peers":[',
        b'{"peers":[{}',
        b"{'peers':[]}",
        b'{"peers":[]} x',
        b"\x1f\x8b",
        b'"',
        b"\xff\xfe",
        b"\xff\xfe\x00\xd8",
        b"[" * 5000,
        b'{"peers":[}',
        b'{"peers":[{}' + b" " * 300,
        b'{"peers":[{"ip_address":"203.0.113.57","torrent_identifier":"t"}]',
    ],
)
def test_what_is_no_json_is_refused_as_a_whole(data: bytes) -> None:
    assert refusal(data).code == "bad_request"


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b'{"populate_time":1784277000123}',
        b"[]",
        b"null",
        b"5",
        b'"peers"',
        b'{"peers":{}}',
        b'{"peers":5}',
        b'{"bans":"x"}',
        b'{"swarms":{}}',
        read_sample("pbh-hitrate-v3_2-v6_4_6.json"),
    ],
)
def test_a_body_without_a_list_says_which_lists_are_expected(data: bytes) -> None:
    error = refusal(data)
    assert error.code == "bad_request"
    for word in ("peers", "bans", "swarms"):
        assert word in error.message
        assert word in error.text("zh")


@pytest.mark.parametrize("data", [b'{"peers":[]}', b'{"peers":null}', b'{"bans":null}', b' {"swarms" : [ ] }\n'])
def test_empty_and_null_lists_are_empty_batches(data: bytes) -> None:
    assert decode(data, 10) == Batch()


def test_all_lists_of_a_body_are_taken() -> None:
    swarm = {"peer_ip": "203.0.113.57", "torrent_identifier": "t"}
    document: dict[str, Any] = {
        "populate_time": 5,
        "swarms": [swarm],
        "bans": [{"peer": PEER}, {**swarm, "module": "m"}],
        "peers": [PEER, {**PEER, "downloaded_offset": 7}],
    }
    batch = decode(json.dumps(document).encode(), 10)
    assert (len(batch.snapshots), len(batch.swarms), len(batch.bans)) == (1, 2, 2)
    assert (batch.populate_time, batch.rejected) == (5, {})
    assert sorted(row.origin for row in batch.swarms) == ["history", "swarm"]
    limited = decode(json.dumps(document).encode(), 3)
    assert len(rows_of(limited)) == 3
    assert limited.rejected == {"too_many_rows": 2}


@pytest.mark.parametrize("first", [0, 1])
def test_snapshots_and_histories_in_one_list_are_told_apart_row_by_row(first: int) -> None:
    rows = [PEER, {**PEER, "downloaded_offset": 7}]
    batch = decode(body(rows[first], rows[1 - first]), 10)
    assert (len(batch.snapshots), len(batch.swarms)) == (1, 1)
    assert batch.swarms[0].from_peer_traffic_offset == 7


def test_a_bad_row_does_not_turn_histories_into_snapshots() -> None:
    history = {**PEER, "downloaded_offset": 7}
    batch = decode(body(history, {**history, "uploaded": []}, history), 10)
    assert (len(batch.snapshots), len(batch.swarms)) == (0, 2)
    assert batch.rejected == {"bad_number": 1}


@pytest.mark.parametrize("name", ['"downloaded_offset":', "downloaded_offset", "}]}", '\\"', "{[", "\0\n\u2028"])
def test_a_hostile_name_decides_nothing(name: str) -> None:
    batch = decode(body({**PEER, "client_name": name}, PEER), 10)
    assert [row.peer_client_name for row in batch.snapshots] == [name, None]


def test_rows_beyond_the_limit_are_counted_whatever_their_number() -> None:
    for number in (11, 5000):
        for odd in ({}, {"uploaded": "5"}):
            batch = decode(body(*[{**PEER, **odd, "peer_port": port} for port in range(number)]), 10)
            assert [row.peer_port for row in batch.snapshots] == list(range(10))
            assert batch.rejected == {"too_many_rows": number - 10}


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (5, "not_an_object"),
        ([], "not_an_object"),
        (None, "not_an_object"),
        ("x", "not_an_object"),
        ({}, "bad_address"),
        ({**PEER, "ip_address": None}, "bad_address"),
        ({**PEER, "ip_address": 5}, "bad_address"),
        ({**PEER, "torrent_identifier": None}, "bad_identifier"),
        ({**PEER, "torrent_identifier": ["x"]}, "bad_identifier"),
        ({**PEER, "peer_port": "http"}, "bad_port"),
        ({**PEER, "peer_port": 2**70}, "bad_port"),
        ({**PEER, "uploaded": 2**63}, "bad_number"),
        ({**PEER, "uploaded": -(2**63) - 1}, "bad_number"),
        ({**PEER, "uploaded": 10**4000}, "bad_number"),
        ({**PEER, "uploaded": "9" * 5000}, "bad_number"),
        ({**PEER, "uploaded": True}, "bad_number"),
        ({**PEER, "uploaded": "many"}, "bad_number"),
        ({**PEER, "torrent_size": {}}, "bad_number"),
        ({**PEER, "uploaded": "nan"}, "bad_number"),
        ({**PEER, "uploaded": "x" * 70_000}, "row_too_large"),
        ({**PEER, "uploaded": [[]] * 300}, "row_too_large"),
    ],
)
def test_a_bad_row_costs_that_row_and_is_counted_by_its_reason(odd: object, reason: str) -> None:
    batch = decode(body(PEER, odd, PEER), 10)
    assert len(batch.snapshots) == 2
    assert batch.rejected == {reason: 1}
    assert reason in REASONS


@pytest.mark.parametrize(
    ("sent", "field", "kept"),
    [
        ({"peer_port": "6881"}, "peer_port", 6881),
        ({"peer_port": None}, "peer_port", -1),
        ({"peer_port": ""}, "peer_port", -1),
        ({"peer_port": -1}, "peer_port", -1),
        ({"peer_port": 99999}, "peer_port", 99999),
        ({"torrent_size": 5.04e9}, "torrent_size", 5040000000),
        ({"torrent_size": 1.0}, "torrent_size", 1),
        ({"torrent_size": "5.04E9"}, "torrent_size", 5040000000),
        ({"torrent_size": " 9007199254740993 "}, "torrent_size", 9007199254740993),
        ({"torrent_size": None}, "torrent_size", 0),
        ({"uploaded": 2**63 - 1}, "to_peer_traffic", 2**63 - 1),
        ({"peer_progress": "0.5"}, "peer_progress", 0.5),
        ({"peer_progress": 1}, "peer_progress", 1.0),
        ({"peer_progress": -7.5}, "peer_progress", -7.5),
        ({"peer_progress": float("nan")}, "peer_progress", None),
        ({"peer_progress": float("-inf")}, "peer_progress", None),
        ({"peer_progress": "inf"}, "peer_progress", None),
        ({"peer_progress": 10**400}, "peer_progress", None),
        ({"peer_progress": []}, "peer_progress", None),
        ({"torrent_is_private": "true"}, "torrent_is_private", True),
        ({"torrent_is_private": 0}, "torrent_is_private", False),
        ({"torrent_is_private": "maybe"}, "torrent_is_private", None),
        ({"torrent_is_private": []}, "torrent_is_private", None),
        ({"peer_id": 5}, "peer_id", "5"),
        ({"peer_id": {}}, "peer_id", None),
        ({"peer_flag": None}, "peer_flag", None),
        ({"client_name": "x" * 100_000}, "peer_client_name", "x" * 100_000),
        ({"client_name": "\ud800"}, "peer_client_name", "\ufffd"),
        ({"client_name": "a\udc00\ud83d\ude00\ud83d"}, "peer_client_name", "a\ufffd\U0001f600\ufffd"),
        ({"extra": {"deep": [[1]]}}, "to_peer_traffic", 5),
    ],
)
def test_odd_values_are_understood_or_unknown(sent: dict[str, object], field: str, kept: object) -> None:
    batch = decode(body(PEER, {**PEER, **sent}), 10)
    assert batch.rejected == {}
    assert getattr(batch.snapshots[1], field) == kept


def test_damaged_bytes_in_a_text_are_replaced_in_that_text_only() -> None:
    data = body(PEER, {**PEER, "client_name": "XX"}).replace(b"XX", b"a\xff\xe4b")
    assert [row.peer_client_name for row in decode(data, 10).snapshots] == [None, "a\ufffd\ufffdb"]
    raw_control = body(PEER, {**PEER, "client_name": "XX"}).replace(b"XX", b"a\nb")
    assert [row.peer_client_name for row in decode(raw_control, 10).snapshots] == [None, "a b"]


def test_of_a_repeated_key_the_last_counts() -> None:
    data = body(PEER).replace(b'"uploaded": 5', b'"uploaded": 5, "uploaded": 6')
    assert decode(data, 10).snapshots[0].to_peer_traffic == 6


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (1784270000001, 1784270000001),
        (1784270000001.0, 1784270000001),
        ("1784270000001", 1784270000001),
        ("2026-07-17T06:33:20Z", 1784270000000),
        ("2026-07-17T06:33:20.123456789+00:00", 1784270000123),
        ("2026-07-17T08:33:20+02:00", 1784270000000),
        ("2026-07-17T06:33:20", 1784270000000),
        ("1969-07-17T06:33:20Z", None),
        ("0001-01-01T00:00:00+14:00", None),
        ("2026-07-17t06:33:20z", 1784270000000),
        ("2026-07-17t06:33:20.123z", 1784270000123),
        ("9999-12-31T23:59:59.999Z", 253402300799999),
        ("9999-12-31T23:59:59.999-00:01", None),
        ("yesterday", None),
        (-1, None),
        (2**62, None),
        (10**30, None),
        (True, None),
        ([], None),
        (None, None),
    ],
)
def test_a_time_never_costs_the_row(sent: object, kept: int | None) -> None:
    row = {"peer_ip": "203.0.113.57", "torrent_identifier": "t", "last_time_seen": sent}
    odds: tuple[dict[str, object], ...] = ({}, {"first_time_seen": []})
    for odd in odds:
        assert decode(body({**row, **odd}, name="swarms"), 10).swarms[0].last_time_seen == kept
    assert decode(body(PEER, populate_time=sent), 10).populate_time == kept or isinstance(sent, str)
    assert decode(body({"peer": PEER, "ban_at": sent}, name="bans"), 10).bans[0].ban_at == kept


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ({"a": [1, None]}, {"a": [1, None]}),
        ('{"a":[1,null]}', {"a": [1, None]}),
        ("null", None),
        (None, None),
        ("", None),
        ("进度", "进度"),
        ('{"a":', '{"a":'),
        ('{"a":"\\ud800"}', '{"a":"\\ud800"}'),
        ([1, 2], [1, 2]),
        (5, 5),
        ("x" * 20_000, None),
        ({"a": "x" * 20_000}, None),
        ("[" * 100, "[" * 100),
        ("[" * 150 + "]" * 150, None),
        ("[],{" * 70, None),
    ],
)
def test_structured_data_is_kept_as_valid_json_of_bounded_size(sent: object, kept: object) -> None:
    flat = {"peer_ip": "203.0.113.57", "torrent_identifier": "t", "ban_at": 1, "structured_data": sent}
    legacy = {"peer": PEER, "structured_data": sent}
    for row in (flat, legacy, {**flat, "btn_ban": None}, {**legacy, "btn_ban": None}):
        text = decode(body(row, name="bans"), 10).bans[0].structured_data
        assert (None if text is None else json.loads(text)) == kept


def test_the_names_of_peerbanhelper_8_betas_are_understood() -> None:
    document = json.loads(read_sample("pbh-v8-bans.json"))
    row = document["bans"][0]
    row["peer_port"], row["peer_progress"] = row.pop("port"), 0.5
    del row["progress"]
    kept = decode(json.dumps(document).encode(), 10).bans[0]
    assert (kept.peer_port, kept.peer_progress, kept.to_peer_traffic) == (60874, 0.5, 734003200)


def test_a_client_from_before_the_protocol_loses_its_rows_but_is_answered() -> None:
    batch = decode(read_sample("pbh-v3_0-clientping.json"), 10)
    assert rows_of(batch) == []
    assert batch.rejected == {"bad_address": 1}


def test_a_bad_populate_time_costs_nothing_else() -> None:
    batch = decode(body(PEER, populate_time="soon"), 10)
    assert batch.populate_time is None
    assert len(batch.snapshots) == 1


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
NAMES = st.sampled_from(
    sorted({*CANONICAL, *CANONICAL.values(), "peer", "torrent_identifier", "structured_data", "ban_at"})
)
ROWS = st.dictionaries(NAMES, JSON, max_size=12) | JSON


@given(
    st.dictionaries(st.sampled_from(["peers", "bans", "swarms", "populate_time", "x"]), st.lists(ROWS) | JSON) | JSON
)
@settings(deadline=None)
def test_any_json_is_a_batch_or_a_refusal(document: Any) -> None:
    try:
        batch = decode(json.dumps(document).encode(), 3, offsets_add=True)
    except SparkleError as error:
        assert error.code == "bad_request"
        return
    assert set(batch.rejected) <= set(REASONS)
    lists = [rows for name in ("peers", "bans", "swarms") if isinstance(rows := document.get(name), list)]
    assert len(rows_of(batch)) + sum(batch.rejected.values()) == sum(map(len, lists))
    for ban in batch.bans:
        assert ban.structured_data is None or json.loads(ban.structured_data) is not None


@given(st.sampled_from(sorted(WIRE.glob("*.json"))), st.randoms(use_true_random=False), st.binary(max_size=6))
@settings(deadline=None)
def test_a_damaged_body_never_raises_anything_but_a_refusal(path: Path, chance: random.Random, noise: bytes) -> None:
    data = path.read_bytes()
    at, skip = chance.randrange(len(data)), chance.choice([0, 1, 5, len(data)])
    try:
        decode(data[:at] + noise + data[at + skip :], 100, cut_off=chance.random() < 0.2)
    except SparkleError as error:
        assert error.code == "bad_request"


@given(st.binary(max_size=200), st.sampled_from(["gzip", "", "identity"]))
def test_any_bytes_are_inflated_or_refused(noise: bytes, encoding: str) -> None:
    for sent in (noise, b"\x1f\x8b" + noise, gzip.compress(noise)[: 10 + len(noise)]):
        try:
            assert len(inflate(sent, encoding, 100)[0]) <= 100
        except SparkleError as error:
            assert error.code in ("bad_request", "too_large")


@given(st.integers(0, 20), JSON)
@settings(deadline=None)
def test_one_bad_row_costs_just_that_row(place: int, bad: Any) -> None:
    good = [{**PEER, "peer_port": port} for port in range(20)]
    rows = [*good[:place], {**PEER, "peer_port": -7, "uploaded": [bad]}, *good[place:]]
    batch = decode(body(*rows), 50)
    assert [row.peer_port for row in batch.snapshots] == list(range(20))
    assert batch.rejected == {"bad_number": 1}


PARTS = [
    "",
    "{",
    "}",
    "[",
    "]",
    '"',
    ",",
    ":",
    "\\",
    "x",
    "\0",
    "\ud800",
    "5",
    '{"',
    "},{",
    '":',
    "null",
    "é",
    "\\u",
    "\n",
]
SAMPLES = ["pbh-legacy-peers", "pbh-legacy-bans", "pbh-modern-bans", "pbh-modern-swarm", "qbcb-histories", "rust-bans"]


def numbered(row: dict[str, Any], number: int) -> dict[str, Any]:
    """The same row about another peer."""
    place = row.get("peer", row)
    return {**row, "peer": numbered(place, number)} if place is not row else row | {
        name: f"9.9.9.{number}" for name in ("ip_address", "peer_ip") if name in row
    }  # fmt: skip


@given(st.sampled_from(SAMPLES), st.integers(0, 6), st.randoms(use_true_random=False), st.data())
@settings(deadline=None, max_examples=300)
def test_whatever_is_wrong_with_a_row_it_costs_just_that_row(
    name: str, place: int, chance: random.Random, choose: st.DataObject
) -> None:
    document = json.loads(read_sample(f"{name}.json"))
    kind, rows = next((kind, document[kind]) for kind in ("peers", "bans", "swarms") if kind in document)
    good = [json.dumps(numbered(chance.choice(rows), number), ensure_ascii=False) for number in range(6)]
    bad = json.dumps(numbered(chance.choice(rows), 99), ensure_ascii=False)
    for _ in range(choose.draw(st.integers(1, 4))):
        at, skip = chance.randrange(len(bad) + 1), chance.choice([0, 1, 2, 10, 400])
        bad = bad[:at] + chance.choice(PARTS) + bad[at + skip :]
    text = f'{{"populate_time":5,"{kind}":[' + ",".join([*good[:place], bad, *good[place:]]) + "]}"
    encoding = choose.draw(st.sampled_from(["utf-8", "utf-16", "utf-16-be"]))

    batch = decode(text.encode(encoding, "surrogatepass"), 100)

    assert batch.populate_time == 5
    assert {row.peer_ip for row in rows_of(batch)} >= {f"9.9.9.{number}" for number in range(6)}
    assert set(batch.rejected) <= set(REASONS)


@given(st.integers(0, 6), st.randoms(use_true_random=False), st.sampled_from(["utf-16-le", "utf-16-be", "utf-8"]))
@settings(deadline=None, max_examples=200)
def test_lost_and_added_bytes_cost_just_their_row(place: int, chance: random.Random, encoding: str) -> None:
    rows = [
        json.dumps({**PEER, "ip_address": f"9.9.9.{n}", "client_name": "迅雷 😀"}, ensure_ascii=False) for n in range(7)
    ]
    comma = chance.choice([",", ",\r\n    "]).encode(encoding)
    parts = [row.encode(encoding) for row in rows]
    for _ in range(chance.choice([1, 1, 3])):
        at = chance.randrange(1, len(parts[place]) - 1)
        parts[place] = parts[place][:at] + chance.randbytes(chance.choice([0, 1, 2])) + parts[place][at + 1 :]
    batch = decode('{"peers":['.encode(encoding) + comma.join(parts) + "]}".encode(encoding), 100)
    kept = {(row.peer_ip, row.peer_client_name) for row in batch.snapshots}
    assert kept >= {(f"9.9.9.{n}", "迅雷 😀") for n in range(7) if n != place}


@pytest.mark.parametrize(
    "bad", ["01", "+5", ".5", "0x1F", "1e", "--1", "5 5", "nan", "None", "'x'", '"\\x"', "", "[", "{", '"x']
)
def test_a_value_that_is_no_json_costs_its_row(bad: str) -> None:
    data = body(PEER, {**PEER, "uploaded": "BAD"}, PEER).replace(b'"BAD"', bad.encode())
    batch = decode(data, 10)
    assert (len(batch.snapshots), batch.rejected) == (2, {"bad_json": 1})


@pytest.mark.parametrize("deep", ["[" * 5000 + "]" * 5000, '{"a":' * 5000 + "1" + "}" * 5000, "[" * 5000])
def test_a_row_that_is_nested_too_deeply_costs_itself(deep: str) -> None:
    for name, sound in (("peers", PEER), ("bans", {"peer": PEER}), ("swarms", {"peer_ip": "9.9.9.9", **PEER})):
        data = body(sound, {**sound, "x": "DEEP"}, sound, name=name, populate_time=7)
        batch = decode(data.replace(b'"DEEP"', deep.encode()), 10)
        assert (len(rows_of(batch)), batch.populate_time) == (2, 7)
        assert sum(batch.rejected.values()) == 1


@pytest.mark.parametrize("between", [",,", "", ",]", ",}", "},", "] ,", ",x:,", '"},'])
def test_what_stands_between_rows_costs_no_row(between: str) -> None:
    rows = [json.dumps({**PEER, "peer_port": port}) for port in range(6)]
    data = f'{{"peers":[{",".join(rows[:3])}{between}{",".join(rows[3:])}]}}'
    assert [row.peer_port for row in decode(data.encode(), 10).snapshots] == list(range(6))
    assert len(decode(body(PEER, PEER).replace(b"]}", b",]} x"), 10).snapshots) == 2


def test_of_a_list_that_comes_twice_no_row_is_lost() -> None:
    first, second = ({"peers": [{**PEER, "peer_port": port}, PEER]} for port in (1, 2))
    data = f"{json.dumps(first)[:-1]},{json.dumps({'populate_time': 7, **second})[1:]}".encode()
    batch = decode(data, 10)
    assert [row.peer_port for row in batch.snapshots] == [1, 6881, 2, 6881]
    assert (batch.populate_time, batch.rejected) == (7, {})
    named = body({**PEER, "peers": [], "client_name": '"peers":['}, PEER)
    assert len(decode(named, 10).snapshots) == 2


def test_of_damaged_lists_each_keeps_its_rows() -> None:
    swarm = {"peer_ip": "203.0.113.57", "torrent_identifier": "t"}
    document = {"swarms": [swarm, "BAD", swarm], "populate_time": 7, "bans": [{"peer": PEER}, "BAD"], "peers": [PEER]}
    for bad in ("{", '"', "[[1]", '{"a":[{"b":1}'):
        batch = decode(json.dumps(document).replace('"BAD"', bad).encode(), 10)
        assert (len(batch.swarms), len(batch.bans), len(batch.snapshots), batch.populate_time) == (2, 1, 1, 7)
        for behind in ('"populate_time":7', '"x":1, "populate_time" : 7 '):
            batch = decode(f'{{"peers":[{json.dumps(PEER)},{bad}],{behind}}}'.encode(), 10)
            assert (len(batch.snapshots), batch.populate_time) == (1, 7)


@pytest.mark.parametrize(
    "name", ["pbh-legacy-peers", "pbh-legacy-bans", "pbh-modern-bans", "pbh-histories", "rust-swarm"]
)
def test_of_a_body_that_was_too_large_the_rows_before_the_cut_are_kept(name: str) -> None:
    data = read_sample(f"{name}.json")
    whole = rows_of(decode(data, 100))
    seen = set()
    for end in range(data.index(b"[") + 1, len(data)):
        batch = decode(data[:end], 100, cut_off=True)
        kept = rows_of(batch)
        seen.add(len(kept))
        assert batch.cut_off
        assert kept == whole[: len(kept)]
        assert batch.rejected["too_many_rows"] >= 1
    assert seen == set(range(len(whole) + 1))
    assert decode(data[:-2], 1, cut_off=True).rejected["too_many_rows"] >= 1
    with pytest.raises(SparkleError):
        decode(data[:8], 100, cut_off=True)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_a_body_in_utf16_may_be_too_large_as_well(encoding: str) -> None:
    data = body(*[{**PEER, "peer_port": port} for port in range(9)]).decode().encode(encoding)
    for end in (len(data) - 31, len(data) - 32):
        batch = decode(data[:end], 100, cut_off=True)
        assert [row.peer_port for row in batch.snapshots] == list(range(8))


@pytest.mark.parametrize("name", ["pbh-legacy-peers.json", "pbh-modern-bans.json", "rust-swarm.json"])
def test_a_body_that_was_cut_off_is_refused_wherever_the_cut(name: str) -> None:
    data = read_sample(name)
    for end in range(len(data)):
        assert refusal(data[:end]).code == "bad_request"


MEASURE = """
import resource, sys, time
from sparkle_lite.errors import SparkleError
from sparkle_lite.wire import bodies
N = 64 * 2**20
data = {body}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.process_time()
try:
    outcome = str(len({call}))
except SparkleError as error:
    outcome = error.code
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
print(outcome, grown, time.process_time() - start)
"""
ROW = b'{"ip_address":"1.2.3.4","torrent_identifier":"t","uploaded":%b},'
BAN = b'{"peer":{"ip_address":"","torrent_identifier":""},"structured_data":['
UNCLOSED = b'{"ip_address":[{"":0},{"ip_address":"1.2.3.4","x":[,'
NESTED = b'{"ip_address":' + b"[[]" * 200 + b"},"


@pytest.mark.parametrize(
    ("sent", "outcome"),
    [
        ("b'{\"peers\":[' + b'0,' * (N // 2) + b'0]}'", "0"),
        ("b'{\"peers\":[' + b'{},' * (N // 3) + b'{}]}'", "0"),
        ("b'{\"peers\":[' + b'{},' * 3_900_000 + b'{}]}'", "0"),
        ("b'{\"peers\":[' + b'NaN,' * (N // 4) + b'0]}'", "0"),
        ("b'[' * N", "bad_request"),
        ("b'{\"peers\":[x:' + b'} ] ' * (N // 4) + b']}'", "0"),
        (f"b'{{\"peers\":[' + {UNCLOSED!r} * (N // len({UNCLOSED!r})) + b']}}'", "0"),
        (f"b'{{\"peers\":[' + {NESTED!r} * (N // len({NESTED!r})) + b']}}'", "0"),
        ("b'{\"peers\":[x:' * (N // 12)", "0"),
        (f"b'{{\"peers\":[x:,' + {ROW % b'1'!r} * (N // 60) + b'0]}}'", "49999"),
        ("b'{\"a\":' * (N // 5)", "bad_request"),
        (f"b'{{\"peers\":[' + {ROW % b'1'!r} * (N // 60) + b'0]}}'", "50000"),
        (f"b'{{\"peers\":[' + {ROW % b'null'!r} * (N // 64) + b'0]}}'", "50000"),
        (f"b'{{\"peers\":[' + {ROW % (b'[' * 900 + b']' * 900)!r} * (N // 1860) + b'0]}}'", "0"),
        ("b'{\"peers\":[\"' + b'\\\\ud800' * (N // 6) + b'\"]}'", "0"),
        ('b\'{"peers":[{"ip_address":"\\xf0\\x9f\\x98\\x80\' + b\'a\' * N + b\'","torrent_identifier":""}]}\'', "1"),
        (
            'b\'{"peers":[{"ip_address":"","torrent_identifier":"","uploaded":\' + b\'9\' * N + b\'}]}\'',
            "0",
        ),
        ("b'\\xff\\xfe' + b'\\xd8' * N", "bad_request"),
        (f"b'{{\"bans\":[' + ({BAN!r} + b'[],' * 5000 + b'0]}},') * (N // 15_080) + b'0]}}'", "0"),
        (f"b'{{\"bans\":[' + ({BAN!r} + b'[],' * 5000 + b'0]}},') * (N // 15_080) + {BAN!r} + b']}}]}}'", "0"),
    ],
)
def test_hostile_bodies_cost_bounded_memory_and_time(sent: str, outcome: str) -> None:
    got, grown, seconds = measured(sent, "bodies.decode(data, 50_000).snapshots")
    assert got == outcome
    assert grown < 400
    assert seconds < 6


def test_a_gzip_bomb_is_refused_with_flat_memory() -> None:
    bomb = "__import__('gzip').compress(bytes(N)) * 15"
    got, grown, seconds = measured(bomb, "bodies.inflate(data, 'gzip', 8 * 2**20)[0]")
    assert got == "too_large"
    assert grown < 40
    assert seconds < 3


def measured(sent: str, call: str) -> tuple[str, int, float]:
    """The outcome, MiB beyond the peak so far and CPU seconds of one call in a process of its own."""
    script = MEASURE.format(body=sent, call=call)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    outcome, grown, seconds = done.stdout.split()
    return outcome, int(grown), float(seconds)
