"""Addresses of peers that can't be what they say: the name is one known client's, the peer id another's.

Only clients whose users can't choose what they say of themselves are in the table. Left out are: libraries (-LT, -lt),
which any client is built on; aria2 (A2) and Deluge (-DE), where peer id and name are settings that many set to pass a
tracker; BitComet, Vuze and BiglyBT (-BC, -AZ, -BI), which have passed for one another; a peer id that is empty, as
downloaders without peer ids send it for everybody; and names and peer ids that are merely unknown. Versions are never
compared.
"""

from sparkle_lite.analyses.analysis import Analysis, Examined, Need, lasts, network, told, words_needed
from sparkle_lite.analyses.numbers import Numbers, counts, modes, spans
from sparkle_lite.db.evidence.false_identity import Impostor, KnownClient, find_impostors
from sparkle_lite.db.evidence.workspace import Evidence
from sparkle_lite.rules.findings import Finding
from sparkle_lite.units import DAY_MS

NAME = "false_identity"

# BEP 20's two letters; uTorrent and BitTorrent are one program for several systems.
CLIENTS = (
    KnownClient(("qBittorrent/", "qBittorrent v", "qBittorrent "), ("-qB*", "-QB*")),
    KnownClient(("Transmission/", "Transmission "), ("-TR*",)),
    KnownClient(
        ("µTorrent ", "\u03bcTorrent ", "uTorrent ", "uTorrent/", "µTorrent/", "BitTorrent ", "BitTorrent/"),
        ("-UT*", "-UM*", "-UE*", "-UW*", "-BT*"),
    ),
)


def _examine(evidence: Evidence, numbers: Numbers, only: bytes | None) -> list[Examined]:
    return [_examined(impostor, numbers) for impostor in find_impostors(evidence, CLIENTS, numbers, only)]


def _examined(impostor: Impostor, numbers: Numbers) -> Examined:
    finding = Finding(
        target=network(impostor.key),
        code="false_identity",
        numbers={
            **told(impostor.voices, impostor.words, 0),
            "torrents": impostor.torrents,
            "days": impostor.days,
            "window_days": numbers["window"] // DAY_MS,
        },
        people=impostor.voices,
        decisive=impostor.decisive,
        vouched=impostor.vouched,
        first_seen=impostor.first,
        last_seen=impostor.last,
        expires=lasts(impostor.knocked, numbers["lifetime"], impostor.days),
    )
    needs = (
        words_needed(NAME, "min_people", impostor.words, numbers["min_people"]),
        Need(NAME, "min_torrents", max(impostor.torrents, impostor.days), numbers["min_torrents"]),
        # A single person to whom it gave is enough: nobody is harmed by a name.
        Need(NAME, "gave_nothing", 0 if impostor.gave else 1, 1),
        # Behind a VPN's exit or a household there are others.
        Need(NAME, "not_shared", 0 if impostor.is_shared else 1, 1),
    )
    return Examined(finding, needs)


ANALYSIS = Analysis(
    name=NAME,
    version=1,
    # In a tracker's circle people pretend to be what their tracker allows.
    mode=modes("shadow", "on", "off", "on"),
    numbers={
        "min_people": counts(1, 2, 2, 3),
        "min_torrents": counts(2),
        "window": spans("7d"),
        "lifetime": spans("7d"),
    },
    codes=("false_identity",),
    examine=_examine,
)
