"""A few clients that report what clients report, some of it hostile: something for pages to show."""

import itertools
from random import Random
from typing import Any

from server import App, RunningServer

# What a peer may call itself, hoping that a page shows it as markup.
HOSTILE = (
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "{{ 7*7 }}${7*7}<b>bold</b>",
)
LEGACY = "PeerBanHelper/7.3.2 BTN-Protocol/0.0.1"
IMPL = "com.ghostchu.peerbanhelper.module.impl.rule."
MODULES = ("ProgressCheatBlocker", "PeerIdBlacklist", "ClientNameBlacklist", "MultiDialingBlocker")
NAMES = ("Transmission 4.0.5", "qBittorrent/4.6.7", "HP 0.0.0.1", "Xunlei 0.0.1.9", *HOSTILE)
_TIMES = itertools.count(1_784_000_000_000)


def peer(random: Random) -> dict[str, Any]:
    """A peer as it was seen."""
    cheats = random.random() < 0.4
    name = random.choice(NAMES[2:] if cheats else NAMES[:2])
    network = "203.0.113" if cheats else f"198.51.{random.randrange(9)}"
    return {
        "ip_address": f"{network}.{random.randrange(1, 250)}",
        "peer_port": random.randrange(1024, 65536),
        "peer_id": "-HP0001-" if cheats else "-TR4050-",
        "client_name": name,
        "torrent_identifier": f"{random.randrange(40):064x}",
        "torrent_is_private": False,
        "torrent_size": 5_044_211_712,
        "downloaded": 0,
        "rt_download_speed": 0,
        "uploaded": random.randrange(1 << 32),
        "rt_upload_speed": random.randrange(1 << 20),
        "peer_progress": 0.0 if cheats else 0.5,
        "downloader_progress": 1.0,
        "peer_flag": "U I X P",
    }


def feed(server: RunningServer, app: App, *, seed: int = 0, peers: int = 60, bans: int = 12) -> None:
    """One round of one client: a snapshot of its peers, and its bans."""
    random = Random(seed)
    seen = [peer(random) for _ in range(peers)]
    body = {"populate_time": next(_TIMES), "peers": seen}
    assert server.post(body, app, agent=LEGACY).status == 200
    banned = [
        {
            "module": IMPL + random.choice(MODULES),
            "rule": random.choice(HOSTILE),
            "ban_at": next(_TIMES),
            "btn_ban": False,
            "ban_unique_id": f"{seed}-{number}",
            "peer": each,
        }
        for number, each in enumerate(one for one in seen if one["peer_id"] == "-HP0001-")
    ][:bans]
    body = {"populate_time": next(_TIMES), "bans": banned}
    assert server.post(body, app, "/ping/bans/submit", LEGACY).status == 200
