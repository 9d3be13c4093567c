"""What simulated clients write, held against requests that were recorded of the real programs, and against samples."""

import gzip
import json
from typing import Any

import pytest
from samples import WIRE

from sparkle_lite.simulation import rows
from sparkle_lite.simulation.programs import PROGRAMS, Program
from sparkle_lite.simulation.rows import Ban, Transfer

RECORDED = WIRE / "recorded"
PBH9, PBH74 = PROGRAMS["PeerBanHelper 9.5.0"], PROGRAMS["PeerBanHelper 7.4.15"]
PEER = Transfer(
    ip="203.0.113.57",
    port=60874,
    info_hash="01" * 20,
    size=5_044_211_712,
    peer_id="-HP0001-",
    client_name="HP 0.0.0.1",
    up=734_003_200,
    progress=0.0,
    flags="U I X P",
    first=1_784_270_000_001,
    last=1_784_276_999_987,
)
BAN = Ban(1, 1_784_276_100_123, PEER, "difference")


def shape(value: Any) -> Any:
    """The names of all fields in their order, and the kind of each value."""
    if isinstance(value, dict):
        return [(name, shape(inner)) for name, inner in value.items()]
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def first_row(name: str) -> dict[str, Any]:
    """The first row of a file below tests/wire, as it came; without details that are each module's own."""
    document = json.loads((WIRE / f"{name}.json").read_bytes())
    document = document.get("body", document)
    (found,) = [value for value in document.values() if isinstance(value, list)]
    return dict(found[0])


ROWS = [
    ("pbh-legacy-peers-v3_2-v7_3_2", rows.snapshot(PROGRAMS["PeerBanHelper 3.2.0"], PEER)),
    ("pbh-legacy-peers", rows.snapshot(PROGRAMS["PeerBanHelper 9.1.5"], PEER)),
    ("qbcb-peers", rows.snapshot(PROGRAMS["qBittorrent-ClientBlocker 3.8"], PEER)),
    ("btnscriptbc-peers", rows.snapshot(PROGRAMS["BTNScriptBC 0.1.7"], PEER)),
    ("recorded/pbh-7.4.15-ping_peers_submit", rows.snapshot(PBH74, PEER)),
    ("recorded/pbh-9.5.0-legacy-ping_peers_submit", rows.snapshot(PBH9, PEER)),
    ("pbh-histories-v7_0-v7_3_2", rows.history(PROGRAMS["PeerBanHelper 7.1.5"], PEER)),
    ("pbh-histories-v7_3_3-v9_0", rows.history(PROGRAMS["PeerBanHelper 8.0.7"], PEER)),
    ("pbh-histories", rows.history(PROGRAMS["PeerBanHelper 9.1.5"], PEER)),
    ("qbcb-histories", rows.history(PROGRAMS["qBittorrent-ClientBlocker 3.8"], PEER, now_ms=1)),
    ("recorded/pbh-7.4.15-ping_histories_submit", rows.history(PBH74, PEER)),
    ("recorded/pbh-9.5.0-legacy-ping_histories_submit", rows.history(PBH9, PEER)),
    ("pbh-modern-swarm", rows.swarm(PBH9, PEER)),
    ("recorded/pbh-9.5.0-ping_syncSwarm", rows.swarm(PBH9, PEER)),
    ("rust-swarm", rows.swarm(PROGRAMS["PeerBanHelper-Rust 0.1.4"], PEER)),
    ("pbh-legacy-bans-v3_2-v3_5_1", rows.ban(PROGRAMS["PeerBanHelper 3.2.0"], BAN, "app", modern=False)),
    ("pbh-legacy-bans-v4_0-v7_3_2", rows.ban(PROGRAMS["PeerBanHelper 7.1.5"], BAN, "app", modern=False)),
    ("pbh-legacy-bans", rows.ban(PROGRAMS["PeerBanHelper 9.1.5"], BAN, "app", modern=False)),
    ("qbcb-bans", rows.ban(PROGRAMS["qBittorrent-ClientBlocker 3.8"], BAN, "app", modern=False)),
    ("recorded/pbh-7.4.15-ping_bans_submit", rows.ban(PBH74, BAN, "app", modern=False)),
    ("recorded/pbh-9.5.0-legacy-ping_bans_submit", rows.ban(PBH9, BAN, "app", modern=False)),
    ("pbh-modern-bans", rows.ban(PBH9, BAN, "app", modern=True)),
    ("recorded/pbh-9.5.0-ping_syncBanHistory", rows.ban(PBH9, BAN, "app", modern=True)),
    ("rust-bans", rows.ban(PROGRAMS["PeerBanHelper-Rust 0.1.4"], BAN, "app", modern=True)),
]


@pytest.mark.parametrize(("name", "written"), ROWS, ids=[name for name, _ in ROWS])
def test_a_row_has_the_fields_of_the_real_ones_in_their_order(name: str, written: dict[str, Any]) -> None:
    real = first_row(name)
    # What a ban's details are is its module's business; null where a peer says nothing.
    for row in (real, written):
        if isinstance(row.get("structured_data"), dict):
            row["structured_data"] = {}
    written_shape, real_shape = shape(written), shape(real)
    assert [field for field, _ in written_shape] == [field for field, _ in real_shape]
    for (field, mine), (_, theirs) in zip(written_shape, real_shape, strict=True):
        assert mine == theirs or "NoneType" in (mine, theirs) or isinstance(mine, list), field


def test_the_first_versions_of_protocol_20_say_no_speeds() -> None:
    written = rows.swarm(PROGRAMS["PeerBanHelper 9.2.1"], PEER)
    assert list(written) == list(first_row("pbh-modern-swarm-v9_2_0-v9_2_3"))


@pytest.mark.parametrize(
    ("name", "program"),
    [
        ("pbh-7.4.15-ping_peers_submit", PBH74),
        ("pbh-7.4.15-ping_bans_submit", PBH74),
        ("pbh-9.5.0-ping_syncSwarm", PBH9),
        ("pbh-9.5.0-ping_syncBanHistory", PBH9),
    ],
)
def test_a_request_has_the_headers_of_the_recorded_one(name: str, program: Program) -> None:
    document = json.loads((RECORDED / f"{name}.json").read_bytes())
    recorded = {header.lower(): value for header, value in document["headers"]}
    app = (recorded["btn-appid"], recorded["btn-appsecret"])
    request = program.request(document["request"].split()[1], "sparkle.example:7799", app, program.encode({"x": []}))
    head, _, body = request.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    written = {header.lower(): value for header, _, value in (line.partition(": ") for line in lines[1:])}
    assert lines[0] == f"{document['request']} HTTP/1.1"
    # An installation without credentials of its own sends this too; ours always have some.
    recorded.pop("x-btn-installationid", None)
    assert set(written) == set(recorded)
    differ = {name for name in recorded if written[name].replace(" ", "") != recorded[name].replace(" ", "")}
    # The system that it ran on.
    assert differ <= {"user-agent"}
    assert written["user-agent"].split(" ")[0] == recorded["user-agent"].split(" ")[0]
    assert written["user-agent"].split(") ")[-1] == recorded["user-agent"].split(") ")[-1]
    assert body.endswith(b"\r\n0\r\n\r\n")


def test_bodies_are_encoded_as_each_program_does() -> None:
    document = {"peers": [{"client_name": "<é中>"}]}
    powershell = gzip.decompress(PROGRAMS["BTNScriptBC 0.1.7"].encode(document))
    assert powershell[:2] in (b"\xff\xfe", b"\xfe\xff")
    assert json.loads(powershell) == document
    assert b"\\u003c\xc3\xa9\xe4\xb8\xad\\u003e" in gzip.decompress(
        PROGRAMS["qBittorrent-ClientBlocker 3.8"].encode(document)
    )
    assert b"<\xc3\xa9\xe4\xb8\xad>" in gzip.decompress(PBH9.encode(document))


def test_java_writes_ipv6_in_eight_groups() -> None:
    assert rows.java_address("2001:db8::c3") == "2001:db8:0:0:0:0:0:c3"
    assert rows.java_address("203.0.113.57") == "203.0.113.57"
