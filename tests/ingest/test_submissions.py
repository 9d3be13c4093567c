"""Submissions as each client sends them, byte for byte, and what is stored of them; then everything that can be bad."""

import contextlib
import gzip
import itertools
import json
import random
import socket
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from samples import (
    HISTORIES,
    HP,
    NAMELESS,
    NOT_SAID,
    PEERS,
    SAMPLES,
    T52,
    TR,
    V3,
    V5,
    Row,
    Sample,
    check,
    qbcb,
    read_sample,
)
from server import App, RunningServer, chunked, count, head_of, read_answer, wait_for

from sparkle_lite.ingest.ingest import WORTH_AHEAD

_TIMES = itertools.count(1_700_000_000_000)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.file)
def test_every_row_of_every_client_is_stored_as_it_was_meant(shared: RunningServer, app: App, sample: Sample) -> None:
    answer = shared.send(sample.request(app), app)
    assert (answer.status, answer.body, answer.rejected) == (200, b"", 0)
    sample.check(shared, app)


def test_bitcomets_utf_16_body_waits_for_the_100_and_is_stored(shared: RunningServer, app: App) -> None:
    body = read_sample("btnscriptbc-peers.body.gz")
    assert gzip.decompress(body).startswith(b"\xff\xfe")
    with shared.connect(app) as sock:
        sock.sendall(
            head_of(
                PEERS,
                "User-Agent: WindowsPowerShell/5.1.19041.4780 BTNScriptBC/0.1.7 BTN-Protocol/0.0.1",
                f"Authorization: Bearer {app.app_id}@{app.secret}",
                f"X-BTN-AppID: {app.app_id}",
                f"X-BTN-AppSecret: {app.secret}",
                "Content-Encoding: gzip",
                "Content-Type: application/json",
                "Host: btn.example",
                f"Content-Length: {len(body)}",
                "Expect: 100-continue",
            )
        )
        assert sock.recv(100).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        sock.sendall(body)
        answer = read_answer(sock)
    assert (answer.status, answer.body, answer.rejected) == (200, b"", 0)
    hp = HP | NOT_SAID | {"torrent_size": 5046586573, "to_peer_traffic_speed": 20480, "downloader_progress": 0.3929}
    tr = TR | NOT_SAID | NAMELESS | {"torrent_size": 1288490189, "to_peer_traffic_speed": 0, "peer_flag": "D ?"}
    check(shared, app, "snapshot", 1723720000000, [hp | {"peer_flag": "K U I"}, tr])


@pytest.mark.parametrize("name", ["pbh-legacy-peers-empty-v3_2-v5_0_6.json", "pbh-modern-bans-empty.json"])
def test_an_empty_list_is_fine(shared: RunningServer, app: App, name: str) -> None:
    answer = shared.send(V5(PEERS, app, read_sample(name)), app)
    assert (answer.status, answer.body, answer.rejected) == (200, b"", 0)
    check(shared, app, "snapshot", None, [])


def test_peerbanhelper_3_0_costs_its_unknown_rows_and_no_more(shared: RunningServer, app: App) -> None:
    answer = shared.send(V3(PEERS, app, read_sample("pbh-v3_0-clientping.json")), app)
    assert (answer.status, answer.rejected) == (200, 1)
    check(shared, app, "snapshot", None, [])


@pytest.mark.parametrize(
    "agent", ["PeerBanHelper/4.0.2 BTN-Protocol/0.0.0-dev", "PeerBanHelper/4.0.5 BTN-Protocol/0.0.0-dev"]
)
def test_peerbanhelper_4_0_2_to_4_0_5_says_nothing_of_the_downloaders_progress(
    shared: RunningServer, app: App, agent: str
) -> None:
    # These releases put the peer's progress there.
    assert shared.post(read_sample("pbh-legacy-peers-v3_2-v7_3_2.json"), app, agent=agent).status == 200
    assert [row["downloader_progress"] for row in shared.rows("snapshot", app)] == [None, None]


# --- The ways of a body -----------------------------------------------------------------------------------------------


def peer(**more: Any) -> Row:
    return {
        "ip_address": "203.0.113.1",
        "peer_port": 6881,
        "peer_id": "-qB4650-",
        "client_name": "qBittorrent/4.6.5",
        "torrent_identifier": T52,
        "torrent_is_private": False,
        "torrent_size": 1000,
        "downloaded": 1,
        "rt_download_speed": 2,
        "uploaded": 3,
        "rt_upload_speed": 4,
        "peer_progress": 0.5,
        "downloader_progress": 1.0,
        "peer_flag": "d",
    } | more


def peers(*rows: Any, at: int = 1784277000000) -> Row:
    return {"populate_time": at, "peers": list(rows)}


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("encoding", ["gzip, with the header", "gzip, without", "plain", "UTF-8 with BOM", "UTF-16"])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_may_come_in_any_of_these_ways(
    shared: RunningServer, app: App, method: str, encoding: str, is_chunked: bool
) -> None:
    text = json.dumps(peers(peer(client_name="迅雷")), ensure_ascii=False)
    body = text.encode({"UTF-8 with BOM": "utf-8-sig", "UTF-16": "utf-16"}.get(encoding, "utf-8"))
    lines = [f"{name}: {value}" for name, value in app.headers.items()]
    if encoding.startswith("gzip"):
        body = gzip.compress(body)
    if encoding == "gzip, with the header":
        lines.append("Content-Encoding: gzip")
    lines.append("Transfer-Encoding: chunked" if is_chunked else f"Content-Length: {len(body)}")
    data = head_of(PEERS, "Host: btn.example", *lines, method=method) + (chunked(body, 50) if is_chunked else body)
    answer = shared.send(data, app)
    assert (answer.status, answer.body, answer.rejected) == (200, b"", 0)
    assert [row["peer_client_name"] for row in shared.rows("snapshot", app)] == ["迅雷"]


def test_one_body_may_hold_all_lists(shared: RunningServer, app: App) -> None:
    body = json.loads(read_sample("pbh-legacy-peers.json")) | json.loads(read_sample("qbcb-bans.json"))
    body |= json.loads(read_sample("pbh-modern-swarm.json"))
    answer = shared.post(body, app, "/ping/histories/submit")
    assert (answer.status, answer.rejected) == (200, 0)
    assert [len(shared.rows(kind, app)) for kind in ("snapshot", "swarm", "ban")] == [3, 3, 3]


def test_an_expected_100_is_not_sent_to_a_stranger(shared: RunningServer, anyone: App) -> None:
    head = head_of(
        PEERS, "Host: a", "BTN-AppID: nobody", "BTN-AppSecret: x", "Content-Length: 5", "Expect: 100-continue"
    )
    with shared.connect(anyone) as sock:
        sock.sendall(head)
        assert sock.recv(100).startswith(b"HTTP/1.1 403 ")


# --- Refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (b"", "", 400),
        (b"", "gzip", 400),
        (b"not json", "", 400),
        (b'{"peers":[', "", 400),
        (b"[]", "", 400),
        (b"{}", "", 400),
        (b"null", "", 400),
        (b'{"peers":5}', "", 400),
        (read_sample("pbh-hitrate-v3_2-v6_4_6.json"), "", 400),
        (b"\x1f\x8bdamaged", "gzip", 400),
        (gzip.compress(b'{"peers":[]}', mtime=0)[:-9], "gzip", 400),
        (b"[" * 100_000, "", 400),
        (b'{"peers":[' + b'{"a":' * 50_000, "", 400),
        (b"\xff\xfe\xfa", "", 400),
        (b'{"peers":[]}', "br", 415),
        (b'{"peers":[]}', "gzip, zstd", 415),
        (gzip.compress(bytes(65 << 20), mtime=0), "gzip", 413),
        (gzip.compress(bytes(9 << 20), mtime=0), "gzip", 413),
    ],
    ids=lambda value: repr(value)[:30] if isinstance(value, bytes) else value,
)
def test_an_unreadable_body_is_refused_in_both_languages(
    shared: RunningServer, anyone: App, body: bytes, encoding: str, status: int
) -> None:
    answer = shared.post(body, anyone, **({"Content-Encoding": encoding} if encoding else {}))
    assert answer.refusal(status)
    assert "x-sparkle-rejected" not in answer.headers


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/ping/config", PEERS, "/ping/rules/retrieve"])
def test_another_method_is_405(shared: RunningServer, anyone: App, method: str, path: str) -> None:
    assert shared.request(method, path, headers=anyone.headers, app=anyone).refusal(405)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "path", ["/ping/", "/ping/nothing", "/nothing", "/ping/peers/submit/more", "/%00", "/ping/%ff"]
)
def test_an_unknown_path_is_404(shared: RunningServer, method: str, path: str) -> None:
    assert shared.request(method, path, b"" if method == "POST" else None).refusal(404)


def test_a_bomb_is_refused_and_memory_stays_flat(shared: RunningServer, anyone: App) -> None:
    packer, megabyte = zlib.compressobj(9, wbits=31), b'{"peers":[' + b" " * ((1 << 20) - 10)
    bomb = b"".join(packer.compress(megabyte) for _ in range(300)) + packer.flush()
    assert len(bomb) < 1 << 20
    before = shared.resident()
    for _ in range(8):
        assert shared.post(bomb, anyone).refusal(413)
    # No more is inflated than shows that it is a bomb.
    assert shared.resident("VmHWM") - before < 200 << 20


def test_a_body_that_is_too_large_inside_keeps_its_first_rows(start: Callable[..., RunningServer]) -> None:
    server = start('[limits]\nmax_body_size = "1MiB"\nmax_inflated_size = "1MiB"\nqueue_size = "8MiB"\n')
    many = [peer(ip_address=f"198.51.{n >> 8}.{n & 255}", client_name=f"client {n % 7}") for n in range(5000)]
    sent = peers(*many, at=next(_TIMES))
    size = len(json.dumps(sent))
    assert size > 1.2 * (1 << 20)
    answer = server.post(sent)
    assert (answer.status, answer.rejected >= 1) == (200, True)
    rows = server.rows("snapshot")
    assert abs(len(rows) - 5000 * (1 << 20) / size) < 100
    assert [row["peer_ip"] for row in rows] == [row["ip_address"] for row in many[: len(rows)]]
    assert {row["populate_time"] for row in rows} == {sent["populate_time"]}
    # The same body again is known again, another one isn't.
    assert server.post(sent).status == 200
    assert len(server.rows("snapshot")) == len(rows)
    assert server.metric("sparkle_duplicates_total", what="body") == 1
    assert server.post(sent | {"populate_time": next(_TIMES)}).status == 200
    assert len(server.rows("snapshot")) == 2 * len(rows)


def test_a_declared_length_above_the_limit_is_refused_before_it_is_sent(shared: RunningServer, anyone: App) -> None:
    head = head_of(PEERS, "Host: a", *(f"{k}: {v}" for k, v in anyone.headers.items()), f"Content-Length: {17 << 20}")
    assert shared.send(head, anyone).refusal(413)


def test_a_chunked_body_above_the_limit_is_refused(shared: RunningServer, anyone: App) -> None:
    head = head_of(PEERS, "Host: a", *(f"{k}: {v}" for k, v in anyone.headers.items()), "Transfer-Encoding: chunked")
    with shared.connect(anyone) as sock:
        answers: list[Any] = []
        reader = threading.Thread(target=lambda: answers.append(read_answer(sock)))
        reader.start()
        with contextlib.suppress(OSError):
            sock.sendall(head + chunked(bytes(17 << 20), 1 << 20))
        reader.join(10)
    assert answers[0].refusal(413)


def test_a_slow_sender_is_told_after_the_time_for_a_body(shared: RunningServer, anyone: App) -> None:
    head = head_of(PEERS, "Host: a", *(f"{k}: {v}" for k, v in anyone.headers.items()), "Content-Length: 1000")
    with shared.connect(anyone) as sock:
        started = time.monotonic()
        sock.sendall(head)
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.3):
                with contextlib.suppress(OSError):
                    sock.sendall(b" ")

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            assert read_answer(sock).refusal(408)
        finally:
            stop.set()
            thread.join()
        assert 1.5 < time.monotonic() - started < 5
    assert shared.metric("sparkle_queue_bytes") == 0


@pytest.mark.parametrize("framing", ["Content-Length: 4000", "Transfer-Encoding: chunked"])
def test_a_client_that_goes_away_leaves_nothing_behind(shared: RunningServer, app: App, framing: str) -> None:
    body = json.dumps(peers(peer())).encode()
    head = head_of(PEERS, "Host: a", *(f"{k}: {v}" for k, v in app.headers.items()), framing)
    with shared.connect(app) as sock:
        sock.sendall(head + (chunked(body)[:-5] if "chunked" in framing else body))
        time.sleep(0.1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    wait_for(lambda: shared.metric("sparkle_queue_bytes") == 0, 5)
    assert shared.rows("snapshot", app) == []
    assert shared.post(peers(peer()), app).status == 200


def test_a_length_that_is_too_short_cuts_the_body_and_what_follows_is_no_request(
    shared: RunningServer, app: App
) -> None:
    body = json.dumps(peers(peer())).encode()
    lines = [f"{k}: {v}" for k, v in app.headers.items()]
    with shared.connect(app) as sock:
        sock.sendall(head_of(PEERS, "Host: a", *lines, f"Content-Length: {len(body) - 7}") + body)
        assert read_answer(sock).refusal(400)
    assert shared.rows("snapshot", app) == []
    assert shared.request("GET", "/healthz").status == 200


# --- Rows -------------------------------------------------------------------------------------------------------------


def stored(server: RunningServer, app: App, *rows: Any) -> tuple[int, list[Row]]:
    """Submit rows between two good ones: how many were rejected, and what became of those between."""
    first, last = peer(ip_address="192.0.2.1"), peer(ip_address="192.0.2.2")
    at = next(_TIMES)
    answer = server.post(peers(first, *rows, last, at=at), app)
    assert answer.status == 200
    found = [row for row in server.rows("snapshot", app) if row["populate_time"] == at]
    assert (found[0]["peer_ip"], found[-1]["peer_ip"]) == ("192.0.2.1", "192.0.2.2")
    return answer.rejected, found[1:-1]


@pytest.mark.parametrize(
    "row",
    [
        5,
        None,
        "text",
        [],
        {},
        {"ip_address": "203.0.113.1"},
        {"torrent_identifier": T52},
        peer(ip_address=None),
        peer(ip_address=""),
        peer(ip_address=3405803777),
        peer(ip_address="example.org"),
        peer(ip_address="203.0.113"),
        peer(ip_address="203.0.113.0/24"),
        peer(ip_address="010.1.2.3"),
        peer(ip_address="203.0.113.1:65536"),
        peer(ip_address="1" * 5000),
        peer(torrent_identifier=None),
        peer(torrent_identifier=""),
        peer(torrent_identifier="x" * 129),
        peer(torrent_identifier={"v1": T52}),
        peer(peer_port=65536),
        peer(peer_port=-2),
        peer(peer_port=10**30),
        peer(peer_port="https"),
        peer(uploaded=10**30),
        peer(uploaded=[1]),
        peer(torrent_size="big"),
    ],
    ids=lambda row: json.dumps(row)[:60],
)
def test_a_bad_row_costs_itself_and_is_counted(shared: RunningServer, anyone: App, row: Any) -> None:
    assert stored(shared, anyone, row) == (1, [])


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "127.0.0.1",
        "127.255.255.255",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.1.1",
        "100.64.0.1",
        "100.127.255.255",
        "224.0.0.1",
        "239.255.255.255",
        "255.255.255.255",
        "::",
        "::1",
        "fc00::1",
        "fdff::1",
        "fe80::1",
        "fe80:0:0:0:0:0:0:1%3",
        "febf::1",
        "ff02::1",
        "::ffff:192.168.0.1",
        "::ffff:127.0.0.1",
        "[fe80::1%eth0]",
        "10.0.0.1/32",
    ],
)
def test_an_address_that_is_not_public_is_dropped(shared: RunningServer, anyone: App, address: str) -> None:
    assert stored(shared, anyone, peer(ip_address=address)) == (1, [])


@pytest.mark.parametrize(
    ("address", "kept"),
    [
        ("0.0.0.1", "0.0.0.1"),
        ("11.0.0.1", "11.0.0.1"),
        ("172.32.0.1", "172.32.0.1"),
        ("100.128.0.1", "100.128.0.1"),
        ("192.0.2.44", "192.0.2.44"),
        ("198.18.0.1", "198.18.0.1"),
        ("240.0.0.1", "240.0.0.1"),
        ("255.255.255.254", "255.255.255.254"),
        ("203.0.113.9/32", "203.0.113.9"),
        (" 203.0.113.9 ", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("::FFFF:cb00:7109", "203.0.113.9"),
        ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"),
        ("2001:0db8:0000:0000:0000:0000:0000:0001", "2001:db8::1"),
        ("2001:db8::1%eth0", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("2001:db8::1/128", "2001:db8::1"),
        ("64:ff9b::cb00:7109", "64:ff9b::cb00:7109"),
        ("::2", "::2"),
    ],
)
def test_an_address_is_kept_in_one_form(shared: RunningServer, anyone: App, address: str, kept: str) -> None:
    rejected, rows = stored(shared, anyone, peer(ip_address=address))
    assert (rejected, [row["peer_ip"] for row in rows]) == (0, [kept])


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ({"peer_port": 0}, {"peer_port": 0}),
        ({"peer_port": -1}, {"peer_port": -1}),
        ({"peer_port": 65535}, {"peer_port": 65535}),
        ({"peer_port": "6881"}, {"peer_port": 6881}),
        ({"peer_port": None}, {"peer_port": -1}),
        ({"torrent_size": -1}, {"torrent_size": 0}),
        ({"torrent_size": None}, {"torrent_size": 0}),
        ({"torrent_size": 2**63 - 1}, {"torrent_size": 2**63 - 1}),
        ({"downloaded": None, "uploaded": -1}, {"from_peer_traffic": -1, "to_peer_traffic": -1}),
        ({"peer_progress": -0.5, "downloader_progress": 17}, {"peer_progress": -0.5, "downloader_progress": 17.0}),
        ({"peer_progress": None}, {"peer_progress": None}),
        ({"peer_id": None, "client_name": None}, {"peer_id": "", "peer_client_name": ""}),
        ({"peer_id": "-qB4650-abcdefghijkl"}, {"peer_id": "-qB4650-"}),
        ({"peer_id": "\0-XL\0" + "\x01" * 9}, {"peer_id": "-XL" + "\x01" * 5}),
        ({"client_name": "\0a\0b"}, {"peer_client_name": "ab"}),
        ({"client_name": "12345", "peer_flag": "1e3"}, {"peer_client_name": "12345", "peer_flag": "1e3"}),
        ({"client_name": "x" * 250}, {"peer_client_name": "x" * 250}),
        ({"client_name": "a" * 5000 + "b" * 5000}, {"peer_client_name": "a" * 64 + "[...]" + "b" * 64}),
        ({"peer_flag": None}, {"peer_flag": None}),
        ({"peer_flag": "f" * 10_000}, {"peer_flag": "f" * 250}),
        ({"torrent_identifier": T52.upper()}, {"torrent_identifier": T52}),
        ({"torrent_identifier": "12345"}, {"torrent_identifier": "12345"}),
        ({"torrent_identifier": "é" * 128}, {"torrent_identifier": "é" * 128}),
        ({"torrent_identifier": "ab " * 20 + "abcd"}, {"torrent_identifier": "ab " * 20 + "abcd"}),
        ({"torrent_is_private": None}, {"torrent_is_private": None}),
        ({"torrent_is_private": "true"}, {"torrent_is_private": True}),
        ({"unheard_of": {"of": [1]}}, {"peer_ip": "203.0.113.1"}),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_a_row_is_cleaned_not_refused(shared: RunningServer, anyone: App, sent: Row, kept: Row) -> None:
    rejected, rows = stored(shared, anyone, peer(**sent))
    assert (rejected, len(rows)) == (0, 1)
    assert {name: rows[0][name] for name in kept} == kept


@pytest.mark.parametrize("raw", [rb'"\ud800"', rb'"a\ud83d"', b'"\xff\xfe"', b'"tab\tand\x01"'])
def test_text_that_is_no_text_costs_no_neighbour(shared: RunningServer, app: App, raw: bytes) -> None:
    body = json.dumps(peers(peer(ip_address="192.0.2.1"), peer(client_name="@@"), peer(ip_address="192.0.2.2")))
    answer = shared.post(body.encode().replace(b'"@@"', raw), app)
    assert answer.status == 200
    found = shared.rows("snapshot", app)
    assert len(found) == 3 - answer.rejected
    assert {"192.0.2.1", "192.0.2.2"} <= {row["peer_ip"] for row in found}


@pytest.mark.parametrize("field", ["module", "rule", "description", "ban_unique_id", "peer_id", "peer_client_name"])
def test_lone_surrogates_and_nul_in_a_ban_are_survived(shared: RunningServer, app: App, field: str) -> None:
    row = json.loads(read_sample("pbh-modern-bans.json"))["bans"][0] | {field: "@@"}
    body = json.dumps({"bans": [row]}).replace('"@@"', r'"a\u0000b\udfffc"')
    answer = shared.post(body.encode(), app)
    assert (answer.status, answer.rejected) == (200, 0)
    assert "\0" not in str(shared.rows("ban", app)[0][field])


@pytest.mark.parametrize("at", [None, -1, 10**17, "soon", 1.5, "2026-07-17T06:33:20Z"], ids=str)
def test_a_clients_clock_rejects_nothing(shared: RunningServer, app: App, at: Any) -> None:
    ban = json.loads(read_sample("pbh-modern-bans.json"))["bans"][0] | {"ban_at": at}
    answer = shared.post({"populate_time": at, "peers": [peer()], "bans": [ban]}, app)
    assert (answer.status, answer.rejected) == (200, 0)
    assert (len(shared.rows("snapshot", app)), len(shared.rows("ban", app))) == (1, 1)


def test_rows_beyond_the_limit_are_counted_as_rejected(shared: RunningServer, app: App) -> None:
    row = json.dumps(peer()).encode()
    body = b'{"populate_time":1,"peers":[' + b",".join([row] * 50_003) + b"]}"
    answer = shared.post(gzip.compress(body, 1), app)
    assert (answer.status, answer.rejected) == (200, 3)
    assert len(shared.rows("snapshot", app)) == 50_000


# --- Twice ------------------------------------------------------------------------------------------------------------


def test_a_body_that_comes_twice_is_stored_once_however_it_is_packed(shared: RunningServer, app: App) -> None:
    body = json.dumps(peers(peer(), 5)).encode()
    duplicates = shared.metric("sparkle_duplicates_total", what="body")
    answers = [shared.post(gzip.compress(body, level), app) for level in (1, 1, 9)]
    answers += [shared.post(body, app), shared.post(body, app, "/ping/bans/submit")]
    assert [answer.status for answer in answers] == [200] * 5
    assert len(shared.rows("snapshot", app)) == 1
    assert shared.metric("sparkle_duplicates_total", what="body") - duplicates == 4


def test_duplicates_do_not_count_as_rejected(shared: RunningServer, app: App) -> None:
    body = peers(peer())
    bans = json.loads(read_sample("qbcb-bans.json"))
    assert [shared.post(what, app).rejected for what in (body, body, bans, bans)] == [0, 0, 0, 0]


def test_a_body_that_comes_many_times_at_once_is_stored_once(shared: RunningServer, app: App) -> None:
    body = json.loads(read_sample("pbh-legacy-peers.json")) | json.loads(
        read_sample("pbh-legacy-bans-v4_0-v7_3_2.json")
    )
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: shared.post(body, app), range(48)))
    assert {answer.status for answer in answers} == {200}
    assert (len(shared.rows("snapshot", app)), len(shared.rows("ban", app))) == (3, 2)


def test_large_bodies_that_arrive_together_each_get_their_own_answer(shared: RunningServer, app: App) -> None:
    """Bodies that wait are inflated ahead of their turn: none may take another's place, whatever is wrong with it."""
    rng = random.Random(4)

    def large(number: int) -> bytes:
        rows = [peer(peer_id=f"-L{number:02}{row:04}", uploaded=rng.randrange(1 << 40)) for row in range(1500)]
        return gzip.compress(json.dumps(peers(*rows)).encode(), 1)

    bodies = [large(number) for number in range(24)]
    assert min(map(len, bodies)) > WORTH_AHEAD + 1000
    bodies[3] = bodies[3][:-1000]
    bodies[7] = bodies[7][:-8] + bytes(8)
    bodies[11] = bodies[10]
    bodies[15] = gzip.compress(b" " * (65 << 20), 6)
    with ThreadPoolExecutor(len(bodies)) as pool:
        answers = list(pool.map(lambda body: shared.post(body, app), bodies))
    refused = {3: 400, 7: 400, 15: 413}
    assert [answer.status for answer in answers] == [refused.get(number, 200) for number in range(24)]
    stored = Counter(row["peer_id"][:4] for row in shared.rows("snapshot", app))
    assert stored == {f"-L{number:02}": 1500 for number in range(24) if number not in (*refused, 11)}


def test_the_same_body_of_two_applications_is_stored_twice(shared: RunningServer, app: App) -> None:
    other, body = shared.add_app(), peers(peer())
    for one in (app, other):
        shared.post(body, one)
    assert [len(shared.rows("snapshot", one)) for one in (app, other)] == [1, 1]


def test_a_body_that_comes_again_after_a_restart_is_stored_once(start: Callable[..., RunningServer]) -> None:
    server = start()
    bodies = [
        json.loads(read_sample(name)) for name in ("pbh-legacy-peers.json", "pbh-histories.json", "qbcb-bans.json")
    ]
    for _ in range(2):
        assert {server.post(body).status for body in bodies} == {200}
        server.restart()
    assert [len(server.rows(kind)) for kind in ("snapshot", "swarm", "ban")] == [3, 3, 3]


def resent(body: Row, **changes: Any) -> Row:
    """Another body that holds the same rows."""
    return body | {"populate_time": body.get("populate_time", 0) + 900_000} | changes


@pytest.mark.parametrize(
    "name",
    [
        "pbh-legacy-bans-v4_0-v7_3_2.json",
        "pbh-legacy-bans.json",
        "qbcb-bans.json",
        "pbh-legacy-bans-v3_2-v3_5_1.json",
        "pbh-modern-bans.json",
        "pbh-v8-bans.json",
        "rust-bans.json",
    ],
)
def test_a_ban_that_comes_again_in_another_body_is_stored_once(shared: RunningServer, app: App, name: str) -> None:
    body = json.loads(read_sample(name))
    new = json.loads(json.dumps(body["bans"][0]).replace("203.0.113.57", "203.0.113.58"))
    assert shared.post(body, app).status == 200
    assert shared.post(resent(body), app).rejected == 0
    # With a new one among them, as the next report of a client that sends everything again.
    assert shared.post(resent(body, bans=[*body["bans"], new]), app).rejected == 0
    assert len(shared.rows("ban", app)) == len(body["bans"]) + 1


def test_qbcbs_next_ban_of_the_same_address_is_another_ban_a_day_after_the_last_sight(
    shared: RunningServer, app: App
) -> None:
    body = json.loads(read_sample("qbcb-bans.json"))
    for hours, bans in ((0, 3), (1, 3), (25, 3), (50, 6)):
        moved = [ban | {"ban_at": ban["ban_at"] + hours * 3_600_000} for ban in body["bans"]]
        assert shared.post(resent(body, bans=moved), app).rejected == 0
        assert len(shared.rows("ban", app)) == bans


def test_an_id_of_another_address_or_port_is_another_ban(shared: RunningServer, app: App) -> None:
    body = json.loads(read_sample("pbh-legacy-bans.json"))
    ban = body["bans"][0]
    others = [ban | {"peer": ban["peer"] | change} for change in ({"peer_port": 1}, {"ip_address": "203.0.113.58"})]
    shared.post(body, app)
    shared.post(resent(body, bans=others), app)
    assert len(shared.rows("ban", app)) == 4


def test_the_same_bans_of_two_applications_are_stored_twice(shared: RunningServer, app: App) -> None:
    other = shared.add_app()
    for name in ("pbh-legacy-bans.json", "qbcb-bans.json", "pbh-legacy-bans-v3_2-v3_5_1.json", "pbh-modern-bans.json"):
        for one in (app, other):
            shared.post(read_sample(name), one)
    assert [len(shared.rows("ban", one)) for one in (app, other)] == [10, 10]


def test_growing_totals_are_versions_of_one_row(shared: RunningServer, app: App) -> None:
    for name in ("pbh-histories.json", "pbh-modern-swarm.json"):
        body = json.loads(read_sample(name))
        key = "peers" if "peers" in body else "swarms"
        later = [row | {"last_time_seen": row["last_time_seen"] + 60_000} for row in body[key]]
        shared.post(body, app)
        shared.post(resent(body, **{key: later}), app)
    versions = [row["version_key"] for row in shared.rows("swarm", app)]
    assert len(versions) == 12
    assert len(set(versions)) == 6


def test_qbcbs_histories_are_versions_of_one_row_although_its_first_sight_moves(
    shared: RunningServer, app: App
) -> None:
    body = json.loads(read_sample("qbcb-histories.json"))
    moved = [row | {"first_time_seen": row["first_time_seen"] + 60_000} for row in body["peers"]]
    for what in (body, resent(body, peers=moved)):
        assert shared.send(qbcb(HISTORIES, app, json.dumps(what).encode()), app).status == 200
    assert len({row["version_key"] for row in shared.rows("swarm", app)}) == 1


# --- Too much ---------------------------------------------------------------------------------------------------------


def test_an_application_beyond_its_rate_is_told_when_to_come_again(start: Callable[..., RunningServer]) -> None:
    server = start("[limits]\nrequests_per_minute = 20")
    other = server.add_app()
    answers = [server.post(peers(peer(), at=n)) for n in range(1, 60)]
    refused = [answer for answer in answers if answer.status != 200]
    assert refused
    assert all(answer.refusal(429) and int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert server.post(peers(peer()), other).status == 200
    assert len(server.rows("snapshot")) == 59 - len(refused)


def test_when_there_is_no_room_a_submission_waits_and_is_then_told_when_to_come_again(
    start: Callable[..., RunningServer],
) -> None:
    limits = '[limits]\nmax_body_size = "256KiB"\nqueue_size = "256KiB"\nmax_inflated_size = "1MiB"\nbody_timeout="9s"'
    server = start(
        limits, prelude="import sparkle_lite.ingest.memory as m; m.MemoryBudget.__init__.__defaults__ = (1.0,)"
    )
    head = head_of(PEERS, "Host: a", *(f"{k}: {v}" for k, v in server.app.headers.items()), "Content-Length: 262144")
    with server.connect() as sock:
        sock.sendall(head + b" " * 262_000)
        wait_for(lambda: server.metric("sparkle_queue_bytes") > 261_000, 5)
        started = time.monotonic()
        answer = server.post(json.dumps(peers(*[peer()] * 10)).encode())
        assert answer.refusal(503)
        assert int(answer.headers["retry-after"]) >= 1
        assert 0.8 < time.monotonic() - started < 4
        assert server.request("GET", "/healthz").status == 200
    wait_for(lambda: server.metric("sparkle_queue_bytes") == 0, 5)
    assert server.post(peers(peer())).status == 200
    assert count(server.database, "ban") == 0
