"""A day of every client in fast motion against a real server: with lost answers, a change of the configuration, an
outage and a crash. Afterwards every row is there, and none twice."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from server import RunningServer, opened
from simulated_clients import (
    BASE,
    FAMILIES,
    HOUR,
    START,
    BitComet,
    Client,
    LibreTorrent,
    ModernPeerBanHelper,
    Rust,
)

_ABILITIES = (
    *("submit_peers", "submit_bans", "submit_histories", "submit_swarm", "rules", "exception"),
    *("rule_peer_identity", "ip_denylist", "ip_allowlist", "heartbeat"),
)
_PROVABLE = [
    *("submit_bans", "submit_swarm", "rule_peer_identity", "ip_denylist", "ip_allowlist", "heartbeat", "ip_query"),
]
_LISTED, _NEWLY_LISTED = "60.220.182.0/24", "60.221.0.0/16"


def config(interval: str, *networks: str) -> str:
    """A configuration in which everything is done at this interval."""
    abilities = [f'[btn.abilities.{name}]\ninterval = "{interval}"\nrandom_initial_delay = "9m"' for name in _ABILITIES]
    head = f'[server]\npublic_url = "{BASE}"\n[limits]\nrequests_per_minute = 0\n[auth]\nmax_apps_per_user = 100'
    rules = f'[[rules]]\ntype = "ip"\ncategory = "PCDN"\ncontent = {list(networks)}\n'.replace("'", '"')
    names = '[[rules]]\ntype = "client_name"\ncategory = "leecher"\ncontent = ["Xunlei"]\n'
    return "\n".join([head, *abilities, rules + names])


def run(clients: list[Client], hour: int) -> None:
    """Let all clients live until an hour of the day."""
    for client in clients:
        client.run_until(START + hour * HOUR)


def check_nothing_lost_or_doubled(server: RunningServer, client: Client) -> None:
    """Compare what is stored of a client with its own ledger."""
    snapshots = server.rows("snapshot", client.app)
    found = Counter((r["populate_time"], r["peer_ip"], r["to_peer_traffic"]) for r in snapshots)
    assert found == client.snapshots
    bans = Counter((r["peer_ip"], r["peer_port"], r["to_peer_traffic"]) for r in server.rows("ban", client.app))
    assert set(bans) == client.bans
    assert set(bans.values()) <= {1}
    newest: dict[int, dict[str, Any]] = {r["version_key"]: r for r in server.rows("swarm", client.app)}
    totals = Counter((r["peer_ip"], r["torrent_identifier"]) for r in newest.values())
    assert set(totals.values()) <= {1}
    assert {
        (r["peer_ip"], r["torrent_identifier"]): (r["to_peer_traffic"], r["from_peer_traffic"]) for r in newest.values()
    } == client.totals


@pytest.mark.timeout(240)
def test_a_day_of_every_client_costs_no_row_and_doubles_none(start: Callable[..., RunningServer]) -> None:
    server = start(config("2h", _LISTED))
    clients = [family(server, server.add_app(), number) for number, family in enumerate(FAMILIES, 1)]
    run(clients, 6)
    versions = [client.version for client in clients]

    # Answers that get lost, and connections that break right after the last byte.
    for client in clients:
        # Who sends again need not know whether anything arrived.
        if client.transport_retries:
            client.accidents = ["cut", "lost"]
        elif isinstance(client, ModernPeerBanHelper | Rust):
            client.accidents = ["lost", "cut", "lost"]
        else:
            client.accidents = ["lost"]
    run(clients, 9)
    # An outage, which every client meets with at least one request.
    server.stop()
    run(clients, 12)
    assert all(any(status is None for _, status in client.answers) for client in clients)
    server.start()

    before = [client.configured for client in clients]
    server.reload(config("1h", _LISTED, _NEWLY_LISTED))
    run(clients, 17)
    for client, version, count in zip(clients, versions, before, strict=True):
        if isinstance(client, LibreTorrent):
            # It asks at its start only.
            assert client.configured == count
            continue
        assert client.configured > count
        # One client is asked to report more often than the operator says.
        share = 5 if isinstance(client, Rust) else 1
        reports = client.abilities["submit_bans" if "submit_bans" in client.abilities else "rules"]
        assert reports["interval"] == HOUR // share
        assert client.version != version or isinstance(client, Rust)

    # A crash after an answer that was lost.
    for client in clients:
        client.accidents = ["lost"]
    run(clients, 19)
    server.kill()
    server.start()
    run(clients, 24)
    rest(clients, 28)

    for client in clients:
        assert {status for _, status in client.answers} <= {200, 204, None}
        check_nothing_lost_or_doubled(server, client)
        check_everything_was_told(client)
        check_rules(client)
    check_torrents(server)


def rest(clients: list[Client], until: int) -> None:
    """See nothing new from now on, and tell what is left."""
    for client in clients:
        client.active = False
    run(clients, until)
    for client in clients:
        assert not client.accidents


def check_everything_was_told(client: Client) -> None:
    """A client that can resend has told everything that it saw."""
    assert client.snapshots or client.totals
    if not isinstance(client, BitComet):
        # A few bans at least are from before the outage, and all are told by now.
        assert len(client.bans) == len(client.all_bans()) > 5
    if "submit_swarm" in client.abilities:
        assert len(client.totals) == len(client.sees.peers)


def check_rules(client: Client) -> None:
    """Everybody has the newest rules, and was spared those that it had."""
    assert client.rules is not None
    if client.denied:
        assert client.denied == {_LISTED, _NEWLY_LISTED}
    else:
        assert client.rules.bans_address("60.221.0.1")
    assert any(status == 204 for _, status in client.answers) or isinstance(client, Rust)


def check_torrents(server: RunningServer) -> None:
    """Every torrent is there once in each byte order, and flagged."""
    with opened(server.database) as connection:
        rows = connection.execute("SELECT DISTINCT identifier, big_endian FROM torrent").fetchall()
    assert Counter(row["big_endian"] for row in rows) == {0: 5, 1: 5}


class Resending(ModernPeerBanHelper):
    """The same where its HTTP library sends a request again when the connection breaks."""

    transport_retries = 1


@pytest.mark.timeout(120)
def test_lost_answers_and_crashes_cost_no_row_where_work_is_asked_for(start: Callable[..., RunningServer]) -> None:
    text = f"{config('1h', _LISTED)}[btn.proof_of_work]\nabilities = {_PROVABLE}\ndifficulty_bits = 4\n"
    server = start(text.replace("'", '"'))
    families = (ModernPeerBanHelper, Resending)
    people = [family(server, server.add_app(), number) for number, family in enumerate(families, 1)]
    everybody: list[Client] = [*people]
    run(everybody, 2)
    for client in everybody:
        client.accidents = ["lost", "cut", "lost"]
    run(everybody, 5)
    server.kill()
    server.start()
    run(everybody, 7)
    rest(everybody, 9)
    for person in people:
        # What the library sends again by itself brings the proof of the answer that was lost, which is good for it.
        assert not [name for name, status in person.answers if status == 403]
        assert person.denied == {_LISTED}
        check_nothing_lost_or_doubled(server, person)
        check_everything_was_told(person)
        assert person.query(person.sees.bans[-1].peer.ip)["bans"]["total"] > 0


def test_the_panel_of_an_address_shows_what_a_client_told(start: Callable[..., RunningServer]) -> None:
    server = start(config("1h", _LISTED))
    client = ModernPeerBanHelper(server, server.app, 9)
    client.run_until(START + 2 * HOUR)
    peer = client.sees.bans[-1].peer
    report = client.query(peer.ip)
    bans = sum(ban.peer is peer for ban in client.sees.bans)
    assert (report["color"], report["bans"]["total"], report["swarms"]["total"]) == ("orange", bans, 1)
    assert report["swarms"]["records"][0]["to_peer_traffic"] == client.totals[peer.ip, client.identifier(peer)][0]
