"""The whole way of a rule: reported by people, derived, served with its reason, explained, pardoned, expired."""

import json
import time
from collections.abc import Callable

import client_parsers as clients
from server import PBH20, App, RunningServer, wait_for

CHEATER = "203.0.113.66"
MODULE = "com.ghostchu.peerbanhelper.module.impl.rule.ProgressCheatBlocker"
BEHIND_PROXY = '[server]\ntrusted_proxies = ["127.0.0.0/8"]\n'


def ban(torrent: int, at_ms: int) -> dict[str, object]:
    """A cheater in one torrent, as PeerBanHelper 9.2+ reports it."""
    return {
        "ban_at": at_ms,
        "peer_ip": CHEATER,
        "peer_port": 6881,
        "peer_id": "-XX0001-",
        "peer_client_name": "Cheat\n0.0.0.0/0",
        "peer_progress": 0.0,
        "torrent_identifier": f"{torrent:064x}",
        "torrent_is_private": False,
        "torrent_size": 5_000_000_000,
        "from_peer_traffic": 0,
        "to_peer_traffic": 4_000_000_000,
        "downloader_progress": 1.0,
        "module": MODULE,
        "rule": "progress",
        "description": "",
        "structured_data": "null",
    }


def addresses(server: RunningServer, app: App, path: str) -> dict[str, str]:
    """A published list as PeerBanHelper reads it: reason by network."""
    headers = {**app.headers, "User-Agent": PBH20}
    answer = server.request("GET", path + "?rev=initial", headers=headers, app=app)
    assert answer.status == 200
    return {str(network).removesuffix("/32"): reason for network, reason in clients.address_list(answer.body)}


def test_four_people_report_a_cheater_who_is_listed_explained_pardoned_and_free(
    start: Callable[..., RunningServer],
) -> None:
    server = start(BEHIND_PROXY)
    people = []
    for number in range(4):
        server.run("user", "add", f"friend{number}")
        made = json.loads(server.run("app", "add", "--user", f"friend{number}", "--json"))
        people.append(App(made["app_id"], made["app_secret"], ""))
    reader = people[0]
    now = int(time.time() * 1000)
    for number, app in enumerate(people):
        body = {"bans": [ban(torrent, now - 60_000 * torrent - number) for torrent in (1, 2)]}
        headers = {"X-Forwarded-For": f"198.{18 + number}.{number}.7"}
        assert server.post(body, app, path="/ping/syncBanHistory", **headers).status == 200
    assert CHEATER not in addresses(server, reader, "/ping/ruleIpDenylist")

    plan = server.run("analyse", "untrusted_vote", "--dry-run")
    assert CHEATER in plan
    assert CHEATER not in addresses(server, reader, "/ping/ruleIpDenylist")
    server.run("analyse", "untrusted_vote")
    wait_for(lambda: CHEATER in addresses(server, reader, "/ping/ruleIpDenylist"), 15)
    reason = addresses(server, reader, "/ping/ruleIpDenylist")[CHEATER]
    assert "4" in reason
    assert "0.0.0.0" not in reason

    told = server.run("rules", "why", CHEATER)
    assert "untrusted_vote" in told
    assert "friend" not in told

    server.run("rules", "pardon", CHEATER, "--reason", "it was a mistake", "--expires", "4s")
    wait_for(lambda: CHEATER not in addresses(server, reader, "/ping/ruleIpDenylist"), 15)
    assert CHEATER in addresses(server, reader, "/ping/ruleIpAllowlist")
    # The exception goes by itself when its time is over.
    wait_for(lambda: CHEATER not in addresses(server, reader, "/ping/ruleIpAllowlist"), 15)


def test_a_listing_ends_by_itself(start: Callable[..., RunningServer]) -> None:
    server = start()
    app = server.add_app()
    server.run("rules", "deny", CHEATER, "--reason", "for a moment", "--expires", "4s")
    wait_for(lambda: CHEATER in addresses(server, app, "/ping/ruleIpDenylist"), 15)
    wait_for(lambda: CHEATER not in addresses(server, app, "/ping/ruleIpDenylist"), 15)
